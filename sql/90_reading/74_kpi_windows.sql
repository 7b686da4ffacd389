-- KPIs over a window: what pages, reports and summaries show, as sums over whole periods, and of as many periods before it.

create function ops.kpi_quantiles(
  period text,
  since timestamptz,
  until timestamptz,
  settled_end timestamptz,
  previous_start timestamptz,
  filters jsonb,
  org_id uuid
)
returns table (metric_name text, part text, value numeric, sample_count bigint)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with binned as materialized (
    select
      histogram.event_type,
      histogram.bin,
      sum(histogram.value_count) filter (where histogram.period_start >= kpi_quantiles.since)::bigint as in_whole,
      sum(histogram.value_count) filter (
        where histogram.period_start >= kpi_quantiles.since and histogram.period_start < kpi_quantiles.settled_end
      )::bigint as in_settled,
      sum(histogram.value_count) filter (where histogram.period_start < kpi_quantiles.since)::bigint as in_previous
    from ops.histogram_parts as histogram
    where histogram.org_id = kpi_quantiles.org_id
      and histogram.period = kpi_quantiles.period
      and histogram.labels = kpi_quantiles.filters
      and histogram.period_start >= kpi_quantiles.previous_start
      and histogram.period_start < kpi_quantiles.until
    group by 1, 2
  ),
  gathered as (
    select
      binned.event_type,
      counted.part,
      array_agg(binned.bin) as bins,
      array_agg(counted.value_count) as counts,
      sum(counted.value_count)::bigint as total
    from binned
    cross join lateral (
      values ('whole', binned.in_whole), ('settled', binned.in_settled), ('previous', binned.in_previous)
    ) as counted (part, value_count)
    where counted.value_count > 0
    group by 1, 2
  )
  select
    definition.metric_name,
    gathered.part,
    ops.histogram_quantile(ops.merge_histogram(null, gathered.bins, gathered.counts), definition.percentile, gathered.total),
    gathered.total
  from gathered
  join ops.kpi_definitions as definition
    on definition.event_type = gathered.event_type
    and definition.measure = 'percentile';
end;
$$;
comment on function ops.kpi_quantiles(text, timestamptz, timestamptz, timestamptz, timestamptz, jsonb, uuid) is
  'The percentile KPIs over a whole window (whole), the periods of it that are over (settled) and as many before it (previous), from the histograms added up.';

create function ops.window_sums(
  period text,
  since timestamptz,
  until timestamptz,
  settled_end timestamptz,
  previous_start timestamptz,
  filters jsonb,
  only_event_type text,
  org_id uuid
)
returns table (
  metric_name text,
  part text,
  period_start timestamptz,
  value numeric,
  numerator numeric,
  denominator numeric,
  sample_count bigint
)
language sql
stable
set search_path = ''
begin atomic
  with placed as (
    select parts.*, place.part
    from ops.kpi_parts(
      window_sums.period,
      window_sums.previous_start,
      window_sums.until,
      window_sums.filters,
      window_sums.only_event_type,
      window_sums.org_id
    ) as parts
    cross join lateral (
      values
        ('period', parts.period_start >= window_sums.since),
        ('whole', parts.period_start >= window_sums.since),
        ('settled', parts.period_start >= window_sums.since and parts.period_start < window_sums.settled_end),
        ('previous', parts.period_start < window_sums.since)
    ) as place (part, is_in)
    where place.is_in
  )
  select
    placed.metric_name,
    placed.part,
    case placed.part when 'period' then placed.period_start end,
    max(placed.value),
    sum(placed.numerator),
    sum(placed.denominator),
    sum(placed.sample_count)::bigint
  from placed
  group by 1, 2, 3;
end;
comment on function ops.window_sums(text, timestamptz, timestamptz, timestamptz, timestamptz, jsonb, text, uuid) is
  'The figures of kpi_parts, added up: each period of a window (part period), all of them (whole), those that are over (settled) and as many before the window (previous).';

create function ops.kpi_window(
  period text,
  since timestamptz,
  until timestamptz,
  as_of timestamptz,
  filters jsonb default '{}',
  only_event_type text default null,
  org_id uuid default null
)
returns table (
  metric_name text,
  description text,
  unit text,
  measure text,
  part text,
  period_start timestamptz,
  value numeric,
  sample_count bigint
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(kpi_window.org_id);
  spans record;
begin
  select * into strict spans
  from ops.period_window(kpi_window.period, kpi_window.since, kpi_window.until, kpi_window.as_of);
  return query
  with summed as materialized (
    select window_sum.*
    from ops.window_sums(
      kpi_window.period,
      spans.window_start,
      spans.window_end,
      spans.settled_end,
      spans.previous_start,
      kpi_window.filters,
      kpi_window.only_event_type,
      owner_id
    ) as window_sum
  ),
  valued as (
    select
      summed.metric_name,
      summed.part,
      summed.period_start,
      case definition.measure
        when 'percentile' then summed.value
        else ops.measured_value(definition.measure, summed.numerator, summed.denominator, summed.sample_count)
      end as value,
      summed.sample_count
    from summed
    join ops.kpi_definitions as definition
      on definition.metric_name = summed.metric_name
    -- Percentiles neither add up nor average: over more than one period they come from the histograms.
    where definition.measure <> 'percentile'
      or summed.part = 'period'
    union all
    select quantile.metric_name, quantile.part, null, quantile.value, quantile.sample_count
    from ops.kpi_quantiles(
      kpi_window.period, spans.window_start, spans.window_end, spans.settled_end, spans.previous_start, kpi_window.filters, owner_id
    ) as quantile
    where quantile.metric_name in (select summed.metric_name from summed)
  )
  select
    valued.metric_name,
    definition.description,
    definition.unit,
    definition.measure,
    valued.part,
    valued.period_start,
    round(valued.value, 6),
    valued.sample_count
  from valued
  join ops.kpi_definitions as definition
    on definition.metric_name = valued.metric_name
  where valued.value is not null
  order by valued.metric_name, valued.part, valued.period_start;
end;
$$;
comment on function ops.kpi_window(text, timestamptz, timestamptz, timestamptz, jsonb, text, uuid) is
  'The KPIs of an org over the whole periods that a window touches, of events with the labels of filters and of one type if named, events behind the cursor included: by period (part period), over all (whole), over the periods that are over at as_of (settled) and over as many before the window (previous). Ratios of sums; percentiles from histograms, where those are kept.';

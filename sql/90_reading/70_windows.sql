-- KPIs over a window: what pages, reports and summaries show, as sums over whole periods, and of as many periods before it.

create view ops.rollup_parts
with (security_invoker = true)
as
select
  rollup.org_id,
  series.event_type,
  series.labels,
  rollup.period,
  rollup.period_start,
  rollup.event_count,
  rollup.value_count,
  rollup.value_sum
from ops.rollups as rollup
join ops.series
  on series.org_id = rollup.org_id
  and series.series_id = rollup.series_id
union all
select
  delta.org_id,
  delta.event_type,
  delta.labels,
  delta.period,
  delta.period_start,
  delta.event_count,
  delta.value_count,
  delta.value_sum
from ops.rollup_deltas(array(
  select event from ops.count_events(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as event
)) as delta;
comment on view ops.rollup_parts is
  'Parts that add up to the events of a series and period: what is stored, and the events behind the cursor beside it.';

create view ops.histogram_parts
with (security_invoker = true)
as
select
  stored.org_id,
  stored.period,
  stored.period_start,
  stored.event_type,
  stored.labels,
  (bin.place + array_lower(stored.counts, 1) - 1)::integer as bin,
  bin.value_count
from ops.histograms as stored
cross join lateral unnest(stored.counts) with ordinality as bin (value_count, place)
where bin.value_count is not null
union all
select
  delta.org_id,
  delta.period,
  delta.period_start,
  delta.event_type,
  delta.labels,
  bin.bin,
  bin.value_count
from ops.histogram_deltas(array(
  select event from ops.count_events(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as event
)) as delta
cross join lateral unnest(delta.bins, delta.counts) as bin (bin, value_count);
comment on view ops.histogram_parts is
  'Parts that add up to how many values of a KPI grouping and period fell into a bin, the events behind the cursor included.';

create function ops.period_window(period text, since timestamptz, until timestamptz, as_of timestamptz)
returns table (
  window_start timestamptz,
  window_end timestamptz,
  settled_end timestamptz,
  previous_start timestamptz,
  zone text,
  starts timestamptz[]
)
language plpgsql
stable
set search_path = ''
as $$
begin
  if period is null or period not in ('hour', 'day', 'week', 'month') then
    raise exception 'there is no period %', coalesce(period, '') using errcode = 'OP001', hint = 'Pass hour, day, week or month.';
  end if;
  if (since < until and since >= timestamptz '1970-01-01 00:00+00' and until <= timestamptz '2200-01-01 00:00+00') is not true then
    raise exception 'the window is empty or out of bounds: % to %', since, until
      using errcode = 'OP001', hint = 'Pass since before until, between 1970 and 2200; the window is half-open.';
  end if;
  zone := ops.time_zone();
  window_start := ops.period_start(period, since, zone);
  window_end := ops.period_end(period, ops.period_start(period, until - interval '1 microsecond', zone), zone);
  if window_end - window_start > 1000 * ('1 ' || period)::interval then
    raise exception 'the window has more than 1,000 periods of one %', period
      using errcode = 'OP001', hint = 'Choose a longer period or a shorter window.';
  end if;
  settled_end := greatest(window_start, least(window_end, ops.period_start(period, as_of, zone)));
  -- By the local calendar, so that a month before March is February and a day before a short day is a whole one.
  previous_start := case period
    when 'hour' then window_start - (settled_end - window_start)
    when 'month' then (
      (window_start at time zone zone)
      - make_interval(months => (
        12 * extract(year from age(settled_end at time zone zone, window_start at time zone zone))
        + extract(month from age(settled_end at time zone zone, window_start at time zone zone))
      )::integer)
    ) at time zone zone
    else ((window_start at time zone zone) - ((settled_end at time zone zone) - (window_start at time zone zone))) at time zone zone
  end;
  starts := case period
    when 'hour' then array(select generate_series(window_start, window_end - interval '1 microsecond', interval '1 hour'))
    else array(
      select local_start at time zone zone
      from generate_series(
        date_trunc(period, window_start at time zone zone),
        (window_end at time zone zone) - interval '1 microsecond',
        ('1 ' || period)::interval
      ) as local_start
    )
  end;
  return next;
end;
$$;
comment on function ops.period_window(text, timestamptz, timestamptz, timestamptz) is
  'The whole periods that a half-open window touches, and where each starts; settled_end: up to where they were over at as_of; previous_start: from where as many periods precede the window as are settled in it; the time zone they follow.';

create function ops.kpi_parts(
  period text,
  since timestamptz,
  until timestamptz,
  filters jsonb,
  only_event_type text,
  org_id uuid
)
returns table (
  metric_name text,
  period_start timestamptz,
  value numeric,
  numerator numeric,
  denominator numeric,
  sample_count bigint
)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  -- A breakdown that is kept has rows of its own; anything finer is added up from the series.
  kept text[] := array(
    select definition.metric_name
    from ops.kpi_definitions as definition
    where (kpi_parts.only_event_type is null or definition.event_type = kpi_parts.only_event_type)
      and (
        kpi_parts.filters = '{}'
        or (
          kpi_parts.period = any (definition.breakdown_periods)
          and definition.breakdowns @> array(select jsonb_object_keys(kpi_parts.filters))
          and (select count(*) from jsonb_object_keys(kpi_parts.filters)) = 1
        )
      )
  );
  fresh ops.rollup_delta[];
begin
  return query
  select kpi.metric_name, kpi.period_start, kpi.metric_value, kpi.numerator, kpi.denominator, kpi.sample_count
  from ops.kpis as kpi
  where kpi.org_id = kpi_parts.org_id
    and kpi.aggregation_period = kpi_parts.period
    and kpi.period_start >= kpi_parts.since
    and kpi.period_start < kpi_parts.until
    and kpi.labels = kpi_parts.filters
    and kpi.metric_name = any (kept);
  if kpi_parts.filters = '{}' and kpi_parts.only_event_type is null then
    return;
  end if;
  fresh := array(
    select delta
    from ops.rollup_deltas(array(
      select event from ops.count_events(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as event
    )) as delta
    where delta.org_id = kpi_parts.org_id
  );
  return query
  with members as materialized (
    select kpi_group.metric_name, kpi_group.event_type, kpi_group.series_labels, kpi_group.in_numerator
    -- With the fresh ones, since labels that are new belong to no series yet.
    from ops.kpi_groups(fresh) as kpi_group
    where kpi_group.group_labels = '{}'
      and kpi_group.series_labels @> kpi_parts.filters
      and (kpi_parts.only_event_type is null or kpi_group.event_type = kpi_parts.only_event_type)
      and kpi_group.metric_name <> all (kept)
  ),
  parts as materialized (
    select series.event_type, series.labels, rollup.period_start, rollup.event_count, rollup.value_count, rollup.value_sum
    from ops.rollups as rollup
    join ops.series
      on series.org_id = rollup.org_id
      and series.series_id = rollup.series_id
    where rollup.org_id = kpi_parts.org_id
      and rollup.period = kpi_parts.period
      and rollup.period_start >= kpi_parts.since
      and rollup.period_start < kpi_parts.until
      and series.labels @> kpi_parts.filters
    union all
    select delta.event_type, delta.labels, delta.period_start, delta.event_count, delta.value_count, delta.value_sum
    from unnest(fresh) as delta
    where delta.period = kpi_parts.period
      and delta.period_start >= kpi_parts.since
      and delta.period_start < kpi_parts.until
      and delta.labels @> kpi_parts.filters
  )
  select
    members.metric_name,
    parts.period_start,
    null::numeric,
    case definition.measure
      when 'ratio' then coalesce(sum(parts.event_count) filter (where members.in_numerator), 0)
      when 'average' then sum(parts.value_sum)
    end,
    case definition.measure when 'ratio' then sum(parts.event_count) when 'average' then sum(parts.value_count) end,
    case definition.measure when 'average' then sum(parts.value_count) else sum(parts.event_count) end::bigint
  from members
  join parts
    on parts.event_type = members.event_type
    and parts.labels = members.series_labels
  join ops.kpi_definitions as definition
    on definition.metric_name = members.metric_name
  group by members.metric_name, definition.measure, parts.period_start;
end;
$$;
comment on function ops.kpi_parts(text, timestamptz, timestamptz, jsonb, text, uuid) is
  'One row a KPI and period of an org, of events that have the labels of filters: what its value is made of; value is given for kept rows only. Percentiles have rows for kept breakdowns only.';

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
  with parts as materialized (
    select kpi.*
    from ops.kpi_parts(
      kpi_window.period, spans.previous_start, spans.window_end, kpi_window.filters, kpi_window.only_event_type, owner_id
    ) as kpi
  ),
  placed as (
    select parts.*, place.part
    from parts
    cross join lateral (
      values
        ('period', parts.period_start >= spans.window_start),
        ('whole', parts.period_start >= spans.window_start),
        ('settled', parts.period_start >= spans.window_start and parts.period_start < spans.settled_end),
        ('previous', parts.period_start < spans.window_start)
    ) as place (part, is_in)
    where place.is_in
  ),
  summed as (
    select
      placed.metric_name,
      placed.part,
      case placed.part when 'period' then placed.period_start end as period_start,
      max(placed.value) as value,
      sum(placed.numerator) as numerator,
      sum(placed.denominator) as denominator,
      sum(placed.sample_count)::bigint as sample_count
    from placed
    group by 1, 2, 3
  ),
  valued as (
    select
      summed.metric_name,
      summed.part,
      summed.period_start,
      case definition.measure
        when 'ratio' then 100 * summed.numerator / nullif(summed.denominator, 0)
        when 'average' then summed.numerator / nullif(summed.denominator, 0)
        when 'count' then summed.sample_count
        else summed.value
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
    where quantile.metric_name in (select parts.metric_name from parts)
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

-- KPI values from rollups plus a delta, so that refresh and the views that show "now" share one formula.

create type ops.kpi_span as (span_id bigint, org_id uuid, period text, period_start timestamptz);
comment on type ops.kpi_span is 'A period of an org, with a number to join by: hashing text and instants as they are took most of the time.';

create function ops.changed_spans(deltas ops.rollup_delta[])
returns setof ops.kpi_span
language sql
stable
set search_path = ''
begin atomic
  select row_number() over (), span.org_id, span.period, span.period_start
  from (select distinct delta.org_id, delta.period, delta.period_start from unnest(changed_spans.deltas) as delta) as span
  left join ops.removed_periods as removed
    on removed.period = span.period
  -- The hours of audits stay where the others are gone, and would stand for all.
  where coalesce(span.period_start >= removed.removed_until, true);
end;
comment on function ops.changed_spans(ops.rollup_delta[]) is
  'One row per org and period that a delta changes, numbered, without the periods that retention removed.';

create function ops.span_rollups(spans ops.kpi_span[])
returns table (span_id bigint, series_id bigint, event_count bigint, value_count bigint, value_sum numeric)
language sql
stable
set search_path = ''
begin atomic
  select span.span_id, rollup.*
  from unnest(span_rollups.spans) as span
  -- One range of the primary key a period, whatever the number of KPIs: a look-up for each took three times as long.
  cross join lateral (
    select stored.series_id, stored.event_count, stored.value_count, stored.value_sum
    from ops.rollups as stored
    where stored.org_id = span.org_id
      and stored.period = span.period
      and stored.period_start = span.period_start
    offset 0
  ) as rollup;
end;
comment on function ops.span_rollups(ops.kpi_span[]) is 'The stored rollups of numbered periods; one row per period and series.';

create function ops.changed_sums(deltas ops.rollup_delta[])
returns setof ops.kpi_sum
language sql
stable
set search_path = ''
-- Nothing tells the planner how many rows an array or a CTE has; taking them for one row, it loops over all pairs.
set enable_nestloop = off
-- And sorts 100,000 rows to group them.
set enable_sort = off
begin atomic
  -- Spans and groups go by number: hashing them as they are, text and jsonb, took most of the time.
  with span as materialized (
    select changed.*
    from ops.changed_spans(changed_sums.deltas) as changed
  ),
  found as materialized (
    select stored.* from ops.span_rollups(array(select row(span.*)::ops.kpi_span from span)) as stored
  ),
  -- Only the series of these periods: matching all that ever were with the KPIs took seconds where one org had made many.
  stored_series as materialized (
    select series.series_id, series.event_type, series.labels
    from ops.series
    where series.series_id in (select found.series_id from found)
  ),
  kpi_group as materialized (
    select kpi_group.*, dense_rank() over (order by kpi_group.metric_name, kpi_group.group_labels) as group_id
    from ops.kpi_groups(array(
      select row(kind.event_type, kind.labels)::ops.series_kind
      from (
        select stored_series.event_type, stored_series.labels from stored_series
        union
        select delta.event_type, delta.labels from unnest(changed_sums.deltas) as delta
      ) as kind
    )) as kpi_group
  ),
  added as materialized (
    select
      span.span_id,
      kpi_group.group_id,
      kpi_group.in_numerator,
      delta.event_count,
      delta.value_count,
      delta.value_sum
    from unnest(changed_sums.deltas) as delta
    join span
      on span.org_id = delta.org_id
      and span.period = delta.period
      and span.period_start = delta.period_start
    join kpi_group
      on kpi_group.event_type = delta.event_type
      and kpi_group.series_labels = delta.labels
      and delta.period = any (kpi_group.periods)
  ),
  member as materialized (
    select stored_series.series_id, kpi_group.group_id, kpi_group.in_numerator
    from kpi_group
    join stored_series
      on stored_series.event_type = kpi_group.event_type
      and stored_series.labels = kpi_group.series_labels
  ),
  -- The barrier keeps the order of the joins: periods times all members of their KPIs would be quadratic.
  counted as (
    select found.span_id, member.group_id, member.in_numerator, found.event_count, found.value_count, found.value_sum
    from found
    join member
      on member.series_id = found.series_id
    offset 0
  ),
  summed as (
    select
      part.span_id,
      part.group_id,
      sum(part.event_count) as events,
      coalesce(sum(part.event_count) filter (where part.in_numerator), 0) as numerator_events,
      sum(part.value_count) as value_count,
      sum(part.value_sum) as value_sum
    from (
      select added.span_id, added.group_id, added.in_numerator, added.event_count, added.value_count, added.value_sum
      from added
      union all
      select counted.span_id, counted.group_id, counted.in_numerator, counted.event_count, counted.value_count, counted.value_sum
      from counted
      join (select distinct added.span_id, added.group_id from added) as touched
        on touched.span_id = counted.span_id
        and touched.group_id = counted.group_id
    ) as part
    group by 1, 2
  )
  select
    span.org_id,
    kpi.metric_name,
    kpi.group_labels,
    span.period,
    span.period_start,
    summed.events,
    summed.numerator_events,
    summed.value_count,
    summed.value_sum
  from summed
  join span
    on span.span_id = summed.span_id
  join (select distinct kpi_group.group_id, kpi_group.metric_name, kpi_group.group_labels from kpi_group) as kpi
    on kpi.group_id = summed.group_id;
end;
comment on function ops.changed_sums(ops.rollup_delta[]) is
  'The sums of the series of each KPI that a delta changes, over the rollups and that delta; one row per KPI, period and breakdown.';

create function ops.changed_ratios(deltas ops.rollup_delta[])
returns setof ops.kpi_value
language sql
stable
set search_path = ''
begin atomic
  select
    kpi.org_id,
    kpi.metric_name,
    kpi.labels,
    kpi.period,
    kpi.period_start,
    kpi.unit,
    -- Null without samples, so that write_kpis removes the row of a count of 0, too.
    case when kpi.sample_count <> 0 then ops.measured_value(kpi.measure, kpi.numerator, kpi.denominator, kpi.sample_count) end,
    kpi.numerator,
    kpi.denominator,
    kpi.sample_count
  from ops.kpi_figures(array(select summed from ops.changed_sums(changed_ratios.deltas) as summed)) as kpi;
end;
comment on function ops.changed_ratios(ops.rollup_delta[]) is
  'The ratios, averages and counts that a delta changes, computed from the rollups and that delta; one row a KPI, period and breakdown.';

create function ops.changed_percentiles(merged ops.histograms[])
returns setof ops.kpi_value
language sql
stable
set search_path = ''
begin atomic
  select
    changed.org_id,
    definition.metric_name,
    changed.labels,
    changed.period,
    changed.period_start,
    definition.unit,
    ops.histogram_quantile(changed.counts, definition.percentile, counted.total),
    null::numeric,
    null::numeric,
    counted.total
  from unnest(changed_percentiles.merged) as changed
  cross join lateral (
    select sum(bin.value_count)::bigint as total
    from unnest(changed.counts) as bin (value_count)
    offset 0
  ) as counted
  join ops.kpi_definitions as definition
    on definition.event_type = changed.event_type
    and definition.measure = 'percentile'
  where changed.labels = '{}'
    or (
      definition.breakdowns && array(select jsonb_object_keys(changed.labels))
      and changed.period = any (definition.breakdown_periods)
    );
end;
comment on function ops.changed_percentiles(ops.histograms[]) is
  'The percentiles of histograms as they are after a delta; one row a KPI, period and breakdown.';

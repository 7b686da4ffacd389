-- KPI values from rollups plus a delta, so that refresh and the views that show "now" share one formula.

create function ops.kpi_groups(deltas ops.rollup_delta[])
returns table (
  metric_name text,
  event_type text,
  series_labels jsonb,
  group_labels jsonb,
  periods text[],
  in_numerator boolean
)
language sql
stable
set search_path = ''
begin atomic
  with kinds as (
    select series.event_type, series.labels from ops.series
    union
    select delta.event_type, delta.labels from unnest(kpi_groups.deltas) as delta
  ),
  matched as (
    select
      definition.metric_name,
      definition.measure,
      definition.breakdowns,
      definition.breakdown_periods,
      kinds.event_type,
      kinds.labels,
      not exists (
        select from jsonb_each(definition.numerator) as wanted where not coalesce(wanted.value ? (kinds.labels ->> wanted.key), false)
      ) as fits_numerator,
      not exists (
        select from jsonb_each(definition.denominator) as wanted where not coalesce(wanted.value ? (kinds.labels ->> wanted.key), false)
      ) as fits_denominator
    from kinds
    join ops.kpi_definitions as definition
      on definition.event_type is null
      or definition.event_type = kinds.event_type
    where definition.measure <> 'percentile'
  )
  select
    matched.metric_name,
    matched.event_type,
    matched.labels,
    kept.labels,
    kept.periods,
    matched.fits_numerator
  from matched
  cross join lateral (
    select '{}'::jsonb as labels, array['hour', 'day', 'week', 'month'] as periods
    union all
    select jsonb_build_object(breakdown.key, matched.labels -> breakdown.key), matched.breakdown_periods
    from unnest(matched.breakdowns) as breakdown (key)
    where matched.labels ? breakdown.key
  ) as kept
  where matched.fits_denominator
    and (matched.fits_numerator or matched.measure = 'ratio');
end;
comment on function ops.kpi_groups(ops.rollup_delta[]) is
  'One row a label combination (stored or new) that counts towards a KPI, with the breakdown it counts in and the periods for which that is kept.';

create function ops.changed_ratios(deltas ops.rollup_delta[])
returns setof ops.kpi_value
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
    select distinct_span.*, row_number() over () as span_id
    from (select distinct delta.org_id, delta.period, delta.period_start from unnest(changed_ratios.deltas) as delta) as distinct_span
    left join ops.removed_periods as removed
      on removed.period = distinct_span.period
    -- The hours of audits stay where the others are gone, and would stand for all.
    where coalesce(distinct_span.period_start >= removed.removed_until, true)
  ),
  kpi_group as materialized (
    select kpi_group.*, dense_rank() over (order by kpi_group.metric_name, kpi_group.group_labels) as group_id
    from ops.kpi_groups(changed_ratios.deltas) as kpi_group
  ),
  added as materialized (
    select
      span.span_id,
      span.org_id,
      kpi_group.group_id,
      kpi_group.in_numerator,
      delta.event_count,
      delta.value_count,
      delta.value_sum
    from unnest(changed_ratios.deltas) as delta
    join span
      on span.org_id = delta.org_id
      and span.period = delta.period
      and span.period_start = delta.period_start
    join kpi_group
      on kpi_group.event_type = delta.event_type
      and kpi_group.series_labels = delta.labels
      and delta.period = any (kpi_group.periods)
  ),
  touched as materialized (
    select distinct added.span_id, added.org_id, added.group_id from added
  ),
  member as materialized (
    select series.org_id, series.series_id, kpi_group.group_id, kpi_group.in_numerator
    from kpi_group
    join ops.series
      on series.event_type = kpi_group.event_type
      and series.labels = kpi_group.series_labels
  ),
  -- The barriers here and below keep the order of the joins, and store nothing.
  wanted as (
    select touched.span_id, touched.group_id, member.series_id, member.in_numerator
    from touched
    join member
      on member.org_id = touched.org_id
      and member.group_id = touched.group_id
    offset 0
  ),
  -- One range of the primary key a period, whatever the number of KPIs: a look-up for each took three times as long.
  found as (
    select span.span_id, rollup.*
    from span
    cross join lateral (
      select stored.series_id, stored.event_count, stored.value_count, stored.value_sum
      from ops.rollups as stored
      where stored.org_id = span.org_id
        and stored.period = span.period
        and stored.period_start = span.period_start
      offset 0
    ) as rollup
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
      select wanted.span_id, wanted.group_id, wanted.in_numerator, found.event_count, found.value_count, found.value_sum
      from wanted
      join found
        on found.span_id = wanted.span_id
        and found.series_id = wanted.series_id
    ) as part
    group by 1, 2
  )
  select
    span.org_id,
    kpi.metric_name,
    kpi.group_labels,
    span.period,
    span.period_start,
    definition.unit,
    case definition.measure
      when 'ratio' then 100 * summed.numerator_events / nullif(summed.events, 0)
      when 'average' then summed.value_sum / nullif(summed.value_count, 0)
      else nullif(summed.events, 0)
    end,
    case definition.measure
      when 'ratio' then summed.numerator_events
      when 'average' then summed.value_sum
    end,
    case definition.measure
      when 'ratio' then summed.events
      when 'average' then summed.value_count
    end,
    case definition.measure when 'average' then summed.value_count else summed.events end::bigint
  from summed
  join span
    on span.span_id = summed.span_id
  join (select distinct kpi_group.group_id, kpi_group.metric_name, kpi_group.group_labels from kpi_group) as kpi
    on kpi.group_id = summed.group_id
  join ops.kpi_definitions as definition
    on definition.metric_name = kpi.metric_name;
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

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

create function ops.added_sums(deltas ops.rollup_delta[])
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
    from ops.changed_spans(added_sums.deltas) as changed
  ),
  kpi_group as materialized (
    select kpi_group.*, dense_rank() over (order by kpi_group.metric_name, kpi_group.group_labels) as group_id
    from ops.kpi_groups(array(
      select row(kind.event_type, kind.labels)::ops.series_kind
      from (select distinct delta.event_type, delta.labels from unnest(added_sums.deltas) as delta) as kind
    )) as kpi_group
  ),
  summed as (
    select
      span.span_id,
      kpi_group.group_id,
      sum(delta.event_count) as events,
      coalesce(sum(delta.event_count) filter (where kpi_group.in_numerator), 0) as numerator_events,
      sum(delta.value_count) as value_count,
      sum(delta.value_sum) as value_sum
    from unnest(added_sums.deltas) as delta
    join span
      on span.org_id = delta.org_id
      and span.period = delta.period
      and span.period_start = delta.period_start
    join kpi_group
      on kpi_group.event_type = delta.event_type
      and kpi_group.series_labels = delta.labels
      and delta.period = any (kpi_group.periods)
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
comment on function ops.added_sums(ops.rollup_delta[]) is
  'What a delta adds to the sums of the series of each KPI; one row per KPI, period and breakdown.';

create function ops.stored_sums(asked ops.kpi_sum[])
returns setof ops.kpi_sum
language sql
stable
set search_path = ''
-- As in ops.added_sums.
set enable_nestloop = off
set enable_sort = off
begin atomic
  with span as materialized (
    select row_number() over () as span_id, period.org_id, period.period, period.period_start
    from (select distinct kpi.org_id, kpi.period, kpi.period_start from unnest(stored_sums.asked) as kpi) as period
  ),
  wanted as materialized (
    select span.span_id, kpi.org_id, kpi.metric_name, kpi.labels, kpi.period, kpi.period_start
    from unnest(stored_sums.asked) as kpi
    join span
      on span.org_id = kpi.org_id
      and span.period = kpi.period
      and span.period_start = kpi.period_start
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
  member as materialized (
    select stored_series.series_id, kpi_group.metric_name, kpi_group.group_labels, kpi_group.periods, kpi_group.in_numerator
    from ops.kpi_groups(array(
      select distinct row(stored_series.event_type, stored_series.labels)::ops.series_kind from stored_series
    )) as kpi_group
    join stored_series
      on stored_series.event_type = kpi_group.event_type
      and stored_series.labels = kpi_group.series_labels
  ),
  -- The barrier keeps the order of the joins: periods times all members of their KPIs would be quadratic.
  counted as (
    select
      found.span_id, member.metric_name, member.group_labels, member.in_numerator, found.event_count, found.value_count, found.value_sum
    from found
    join member
      on member.series_id = found.series_id
    offset 0
  )
  select
    wanted.org_id,
    wanted.metric_name,
    wanted.labels,
    wanted.period,
    wanted.period_start,
    sum(counted.event_count),
    coalesce(sum(counted.event_count) filter (where counted.in_numerator), 0),
    sum(counted.value_count),
    sum(counted.value_sum)
  from wanted
  join counted
    on counted.span_id = wanted.span_id
    and counted.metric_name = wanted.metric_name
    and counted.group_labels = wanted.labels
  group by 1, 2, 3, 4, 5;
end;
comment on function ops.stored_sums(ops.kpi_sum[]) is
  'The sums over the stored rollups for the KPIs, periods and breakdowns that are named (of the sums that are passed nothing is read); no row where nothing is stored.';

create function ops.changed_ratios(deltas ops.rollup_delta[], from_rollups boolean default false)
returns setof ops.kpi_value
language sql
stable
set search_path = ''
begin atomic
  with added as materialized (
    select figure.*
    from ops.kpi_figures(array(select sums from ops.added_sums(changed_ratios.deltas) as sums)) as figure
  ),
  -- Looked up one by one, since the cost must follow what is new: adding up the rollups of these periods took a third of a refresh.
  known as materialized (
    select found.*
    from added
    cross join lateral (
      select kpi.org_id, kpi.metric_name, kpi.aggregation_period, kpi.period_start, kpi.labels, kpi.metadata, kpi.created_at
      from public.kpi_aggregations as kpi
      where kpi.org_id = added.org_id
        and kpi.metric_name = added.metric_name
        and kpi.aggregation_period = added.period
        and kpi.period_start = added.period_start
        and kpi.labels = added.labels
      offset 0
    ) as found
    where not row_security_active('public.kpi_aggregations'::regclass)
    union all
    -- Row level security keeps jsonb out of index conditions, so each look-up would read the rows of all labels.
    select found.*
    from (select distinct added.org_id, added.metric_name, added.period, added.period_start from added) as asked
    cross join lateral (
      select kpi.org_id, kpi.metric_name, kpi.aggregation_period, kpi.period_start, kpi.labels, kpi.metadata, kpi.created_at
      from public.kpi_aggregations as kpi
      where kpi.org_id = asked.org_id
        and kpi.metric_name = asked.metric_name
        and kpi.aggregation_period = asked.period
        and kpi.period_start = asked.period_start
      offset 0
    ) as found
    where row_security_active('public.kpi_aggregations'::regclass)
  ),
  changed as materialized (
    select added.*, known.metadata as stored
    from added
    join ops.kpi_definitions as definition
      on definition.metric_name = added.metric_name
    left join known
      on known.org_id = added.org_id
      and known.metric_name = added.metric_name
      and known.aggregation_period = added.period
      and known.period_start = added.period_start
      and known.labels = added.labels
      and not changed_ratios.from_rollups
      -- Written by the definition as it is, and with the figures of which it was made.
      and known.created_at > definition.updated_at
      and jsonb_typeof(known.metadata -> 'sample_count') = 'number'
      and (added.numerator is null or jsonb_typeof(known.metadata -> 'numerator') = 'number')
      and (added.denominator is null or jsonb_typeof(known.metadata -> 'denominator') = 'number')
  ),
  recounted as materialized (
    select figure.*
    from ops.kpi_figures(array(
      select sums
      from ops.stored_sums(array(
        select row(changed.org_id, changed.metric_name, changed.labels, changed.period, changed.period_start, null, null, null, null)::ops.kpi_sum
        from changed
        where changed.stored is null
      )) as sums
    )) as figure
  ),
  total as (
    select
      changed.org_id,
      changed.metric_name,
      changed.labels,
      changed.period,
      changed.period_start,
      changed.measure,
      changed.unit,
      changed.numerator + coalesce((changed.stored ->> 'numerator')::numeric, recounted.numerator, 0) as numerator,
      changed.denominator + coalesce((changed.stored ->> 'denominator')::numeric, recounted.denominator, 0) as denominator,
      changed.sample_count + coalesce((changed.stored ->> 'sample_count')::numeric::bigint, recounted.sample_count, 0) as sample_count
    from changed
    left join recounted
      on recounted.org_id = changed.org_id
      and recounted.metric_name = changed.metric_name
      and recounted.labels = changed.labels
      and recounted.period = changed.period
      and recounted.period_start = changed.period_start
  )
  select
    total.org_id,
    total.metric_name,
    total.labels,
    total.period,
    total.period_start,
    total.unit,
    -- Null without samples, so that write_kpis removes the row of a count of 0, too.
    case when total.sample_count <> 0 then ops.measured_value(total.measure, total.numerator, total.denominator, total.sample_count) end,
    total.numerator,
    total.denominator,
    total.sample_count
  from total;
end;
comment on function ops.changed_ratios(ops.rollup_delta[], boolean) is
  'The ratios, averages and counts that a delta changes, computed from their stored figures (where these are missing, or with from_rollups, from the rollups) and that delta; one row a KPI, period and breakdown.';

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

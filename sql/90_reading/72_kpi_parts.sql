-- The KPIs of an org by period, for events with given labels: rows that are kept, and finer ones from the series.

create function ops.kept_kpis(period text, filters jsonb, only_event_type text)
returns text[]
language sql
stable
set search_path = ''
return array(
  select definition.metric_name
  from ops.kpi_definitions as definition
  where (kept_kpis.only_event_type is null or definition.event_type = kept_kpis.only_event_type)
    and (
      kept_kpis.filters = '{}'
      or (
        kept_kpis.period = any (definition.breakdown_periods)
        and definition.breakdowns @> array(select jsonb_object_keys(kept_kpis.filters))
        and (select count(*) from jsonb_object_keys(kept_kpis.filters)) = 1
      )
    )
);
comment on function ops.kept_kpis(text, jsonb, text) is
  'The KPIs that have rows of their own for events with the labels of filters: of the org as a whole, or of a breakdown that is kept for the period.';

create function ops.filtered_sums(
  period text,
  since timestamptz,
  until timestamptz,
  filters jsonb,
  only_event_type text,
  kept text[],
  org_id uuid
)
returns setof ops.kpi_sum
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- Nothing tells the planner how many series have the labels of filters; taking them for one, it loops over all pairs.
set enable_nestloop = off
set jit = off
as $$
#variable_conflict use_column
declare
  fresh constant ops.rollup_delta[] := array(
    select delta
    from ops.rollup_deltas(array(
      select event from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as event
    )) as delta
    where delta.org_id = filtered_sums.org_id
  );
begin
  return query
  with members as materialized (
    select kpi_group.metric_name, kpi_group.event_type, kpi_group.series_labels, kpi_group.in_numerator
    from ops.kpi_groups(array(
      select row(kind.event_type, kind.labels)::ops.series_kind
      from (
        select series.event_type, series.labels
        from ops.series
        where series.org_id = filtered_sums.org_id
        union
        -- Labels that are new belong to no series yet.
        select delta.event_type, delta.labels from unnest(fresh) as delta
      ) as kind
    )) as kpi_group
    where kpi_group.group_labels = '{}'
      and kpi_group.series_labels @> filtered_sums.filters
      and (filtered_sums.only_event_type is null or kpi_group.event_type = filtered_sums.only_event_type)
      and kpi_group.metric_name <> all (filtered_sums.kept)
  ),
  parts as materialized (
    select series.event_type, series.labels, rollup.period_start, rollup.event_count, rollup.value_count, rollup.value_sum
    from ops.rollups as rollup
    join ops.series
      on series.org_id = rollup.org_id
      and series.series_id = rollup.series_id
    where rollup.org_id = filtered_sums.org_id
      and rollup.period = filtered_sums.period
      and rollup.period_start >= filtered_sums.since
      and rollup.period_start < filtered_sums.until
      and series.labels @> filtered_sums.filters
    union all
    select delta.event_type, delta.labels, delta.period_start, delta.event_count, delta.value_count, delta.value_sum
    from unnest(fresh) as delta
    where delta.period = filtered_sums.period
      and delta.period_start >= filtered_sums.since
      and delta.period_start < filtered_sums.until
      and delta.labels @> filtered_sums.filters
  )
  select
    filtered_sums.org_id,
    members.metric_name,
    filtered_sums.filters,
    filtered_sums.period,
    parts.period_start,
    sum(parts.event_count),
    coalesce(sum(parts.event_count) filter (where members.in_numerator), 0),
    sum(parts.value_count),
    sum(parts.value_sum)
  from members
  join parts
    on parts.event_type = members.event_type
    and parts.labels = members.series_labels
  group by members.metric_name, parts.period_start;
end;
$$;
comment on function ops.filtered_sums(text, timestamptz, timestamptz, jsonb, text, text[], uuid) is
  'The sums of the series of an org that have the labels of filters, for every KPI that kept does not name, events behind the cursor included; one row per KPI and period.';

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
  kept constant text[] := ops.kept_kpis(kpi_parts.period, kpi_parts.filters, kpi_parts.only_event_type);
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
  return query
  select kpi.metric_name, kpi.period_start, null::numeric, kpi.numerator, kpi.denominator, kpi.sample_count
  from ops.kpi_figures(array(
    select summed
    from ops.filtered_sums(
      kpi_parts.period, kpi_parts.since, kpi_parts.until, kpi_parts.filters, kpi_parts.only_event_type, kept, kpi_parts.org_id
    ) as summed
  )) as kpi;
end;
$$;
comment on function ops.kpi_parts(text, timestamptz, timestamptz, jsonb, text, uuid) is
  'One row a KPI and period of an org, of events that have the labels of filters: what its value is made of; value is given for kept rows only. Percentiles have rows for kept breakdowns only.';

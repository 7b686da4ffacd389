-- TODO: say in a sentence what changes, and why.

alter table ops.kpi_definitions add column updated_at timestamptz not null default clock_timestamp();
comment on column ops.kpi_definitions.updated_at is 'When the definition last changed. KPI rows written later are of this definition; the others are counted anew when they change.';
comment on type ops.event_delta is
  'Events of one org, type, labels and hour, counted (bin null), or the values among them in one bin, by the labels of histograms (event_count 0).';

create or replace function ops.add_rollups(deltas ops.rollup_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.series (org_id, event_type, labels)
  select counted.org_id, counted.event_type, counted.labels
  from (select distinct delta.org_id, delta.event_type, delta.labels from unnest(add_rollups.deltas) as delta) as counted
  where not exists (
    select
    from ops.series
    where series.org_id = counted.org_id
      and series.event_type = counted.event_type
      and series.labels = counted.labels
  )
  on conflict on constraint series_org_id_event_type_labels_key do nothing;

  insert into ops.rollups as rollup (
    org_id, period, period_start, series_id, event_count, value_count, value_sum, value_min, value_max
  )
  select
    delta.org_id, delta.period, delta.period_start, series.series_id,
    delta.event_count, delta.value_count, delta.value_sum, delta.value_min, delta.value_max
  from unnest(add_rollups.deltas) as delta
  join ops.series
    on series.org_id = delta.org_id
    and series.event_type = delta.event_type
    and series.labels = delta.labels
  -- What is read together stands together.
  order by delta.org_id, delta.period, delta.period_start
  on conflict on constraint rollups_pkey do update set
    event_count = rollup.event_count + excluded.event_count,
    value_count = rollup.value_count + excluded.value_count,
    value_sum = rollup.value_sum + excluded.value_sum,
    value_min = least(rollup.value_min, excluded.value_min),
    value_max = greatest(rollup.value_max, excluded.value_max);

  -- The last audit of an hour may have moved to another.
  delete from ops.rollups as rollup
  where rollup.ctid = any (array(
    select found.ctid
    from unnest(add_rollups.deltas) as delta
    cross join lateral (
      select stored.ctid
      from ops.series
      join ops.rollups as stored
        on stored.org_id = series.org_id
        and stored.period = delta.period
        and stored.period_start = delta.period_start
        and stored.series_id = series.series_id
      where series.org_id = delta.org_id
        and series.event_type = delta.event_type
        and series.labels = delta.labels
        and stored.event_count = 0
      offset 0
    ) as found
    where delta.event_count < 0
  ));
end;

create function ops.note_kpi_change()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- A refresh that runs would write rows of the old definition after this.
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  new.updated_at := greatest(
    clock_timestamp(),
    -- The clock may have been set back.
    (select max(kpi.created_at) from public.kpi_aggregations as kpi where kpi.metric_name = new.metric_name)
  );
  return new;
end;
$$;
comment on function ops.note_kpi_change() is
  'Trigger: notes when a KPI definition changed, after every row that was written by an earlier one; it waits for a refresh that runs.';

create trigger kpi_definitions_note_insert
before insert on ops.kpi_definitions
for each row execute function ops.note_kpi_change();

create trigger kpi_definitions_note_update
before update on ops.kpi_definitions
for each row when (old.* is distinct from new.*) execute function ops.note_kpi_change();

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

create or replace function ops.changed_ratios(deltas ops.rollup_delta[])
returns setof ops.kpi_value
language sql
stable
set search_path = ''
begin atomic
  with changed as materialized (
    select added.*, stored.metadata as stored
    from ops.kpi_figures(array(select sums from ops.added_sums(changed_ratios.deltas) as sums)) as added
    join ops.kpi_definitions as definition
      on definition.metric_name = added.metric_name
    -- Looked up one by one, since the cost must follow what is new: adding up the rollups of these periods took a third of a refresh.
    left join lateral (
      select known.metadata
      from public.kpi_aggregations as known
      where known.org_id = added.org_id
        and known.metric_name = added.metric_name
        and known.aggregation_period = added.period
        and known.period_start = added.period_start
        and known.labels = added.labels
        -- Written by the definition as it is, and with the figures of which it was made.
        and known.created_at > definition.updated_at
        and jsonb_typeof(known.metadata -> 'sample_count') = 'number'
        and (added.numerator is null or jsonb_typeof(known.metadata -> 'numerator') = 'number')
        and (added.denominator is null or jsonb_typeof(known.metadata -> 'denominator') = 'number')
      offset 0
    ) as stored on true
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
      changed.numerator + coalesce((changed.stored -> 'numerator')::numeric, recounted.numerator, 0) as numerator,
      changed.denominator + coalesce((changed.stored -> 'denominator')::numeric, recounted.denominator, 0) as denominator,
      changed.sample_count + coalesce((changed.stored -> 'sample_count')::bigint, recounted.sample_count, 0) as sample_count
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
comment on function ops.changed_ratios(ops.rollup_delta[]) is
  'The ratios, averages and counts that a delta changes, computed from their stored figures (where these are missing, from the rollups) and that delta; one row a KPI, period and breakdown.';
comment on function ops.is_bundle_name(text) is 'Whether files may go by this name: 1 to 100 characters on one line, none of the outer ones blank; null of null.';
comment on function ops.added_counts(jsonb, jsonb) is 'Two objects of numbers, added key by key.';

drop function ops.changed_sums;

revoke execute on function
  ops.added_sums,
  ops.stored_sums,
  ops.note_kpi_change
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.added_sums,
    ops.stored_sums,
    ops.note_kpi_change
  from anon, authenticated, service_role;
  grant execute on function
    ops.added_sums,
    ops.stored_sums
  to authenticated, service_role;
end;
$$;

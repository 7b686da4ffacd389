-- A refresh adds to the stored figures of a KPI instead of adding up its series again, and counts bins apart from events: what late events touch costs less.

drop function ops.rebuild_kpis;
drop function ops.changed_ratios;

alter table ops.kpi_definitions add column updated_at timestamptz not null default now();
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
  -- Rows that are read together stand together.
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

create or replace view ops.labelled_events
with (security_invoker = true)
as
select
  event.id,
  event.org_id,
  event.event_type,
  event.event_timestamp,
  event.metadata,
  case when kind.key_1 = 'team' then agent.team else left(event.metadata ->> kind.key_1, 100) end as label_1,
  case when kind.key_2 = 'team' then agent.team else left(event.metadata ->> kind.key_2, 100) end as label_2,
  case when kind.key_3 = 'team' then agent.team else left(event.metadata ->> kind.key_3, 100) end as label_3,
  case when kind.key_4 = 'team' then agent.team else left(event.metadata ->> kind.key_4, 100) end as label_4,
  case
    when zone.is_utc then date_bin('1 hour', event.event_timestamp, timestamptz '1969-12-29 00:00+00')
    else date_trunc('hour', event.event_timestamp, zone.name)
  end as hour_start,
  measured.value,
  case
    when measured.value is null or not kind.has_histogram then null
    when measured.value <= 0.001 then 0
    -- 1.0198 keeps the middle of a bin within 0.98 % of all that is in it.
    else ceil(ln(measured.value::double precision * 1000) / ln(1.0198::double precision))::integer
  end as bin,
  agent.team,
  kind.bins_by_1,
  kind.bins_by_2,
  kind.bins_by_3,
  kind.bins_by_4
from ops.countable_events as event
cross join (
  select setting.name, setting.name = 'UTC' as is_utc
  from (select ops.time_zone() as name offset 0) as setting
) as zone
left join (
  select
    event_type.event_type,
    event_type.value_key,
    event_type.label_keys[1] as key_1,
    event_type.label_keys[2] as key_2,
    event_type.label_keys[3] as key_3,
    event_type.label_keys[4] as key_4,
    event_type.event_type in (select histogram_group.event_type from ops.histogram_groups as histogram_group) as has_histogram,
    (event_type.event_type, event_type.label_keys[1]) in (select kept.event_type, kept.breakdown from ops.histogram_groups as kept) as bins_by_1,
    (event_type.event_type, event_type.label_keys[2]) in (select kept.event_type, kept.breakdown from ops.histogram_groups as kept) as bins_by_2,
    (event_type.event_type, event_type.label_keys[3]) in (select kept.event_type, kept.breakdown from ops.histogram_groups as kept) as bins_by_3,
    (event_type.event_type, event_type.label_keys[4]) in (select kept.event_type, kept.breakdown from ops.histogram_groups as kept) as bins_by_4
  from ops.event_types as event_type
  -- A barrier, so that the keys are taken out of the array once a type and not once an event.
  offset 0
) as kind
  on kind.event_type = event.event_type
left join ops.agents as agent
  on agent.org_id = event.org_id
  and agent.agent_id = event.agent_id
cross join lateral (
  select case
    when kind.value_key = 'duration_ms' then event.duration_ms
    when jsonb_typeof(event.metadata -> kind.value_key) <> 'number' then null
    when (event.metadata -> kind.value_key)::numeric between 0 and 1000000000000000
      then (event.metadata -> kind.value_key)::numeric
  end as value
  -- A barrier: without it the expression is evaluated once for each of the figures made of it.
  offset 0
) as measured;
comment on view ops.labelled_events is 'One row an event, with its labels, its value, the bin of the value, and by which of the labels its kind has histograms (bins_by_1 to bins_by_4). Nothing that a plain insert may hold makes it fail.';

create or replace function ops.count_events(ids ops.event_ids, since timestamptz, until timestamptz)
returns setof ops.event_delta
language plpgsql
stable
set search_path = ''
-- A generic plan cannot know which of the two ranges is the narrow one.
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  -- Counts go by all labels, bins by those alone that histograms are kept by: together they would be a row for almost every event.
  with labelled as materialized (
    select
      event.org_id,
      event.event_type,
      event.hour_start,
      event.label_1,
      event.label_2,
      event.label_3,
      event.label_4,
      event.bin,
      case when event.bins_by_1 then event.label_1 end as bin_label_1,
      case when event.bins_by_2 then event.label_2 end as bin_label_2,
      case when event.bins_by_3 then event.label_3 end as bin_label_3,
      case when event.bins_by_4 then event.label_4 end as bin_label_4,
      event.value
    from ops.labelled_events as event
    where (
      (event.id > ids.after_id and event.id <= ids.until_id and (isempty(ids.missing) or not event.id <@ ids.missing))
      or (ids.late is not null and event.id = any (ids.late))
    )
      and event.event_timestamp >= since
      and event.event_timestamp < until
  ),
  counted as (
    select
      labelled.org_id,
      labelled.event_type,
      labelled.hour_start,
      array[labelled.label_1, labelled.label_2, labelled.label_3, labelled.label_4] as labels,
      null::integer as bin,
      count(*) as event_count,
      count(labelled.value) as value_count,
      coalesce(sum(labelled.value), 0) as value_sum,
      min(labelled.value) as value_min,
      max(labelled.value) as value_max
    from labelled
    group by labelled.org_id, labelled.event_type, labelled.hour_start, labelled.label_1, labelled.label_2, labelled.label_3, labelled.label_4
    union all
    select
      labelled.org_id,
      labelled.event_type,
      labelled.hour_start,
      array[labelled.bin_label_1, labelled.bin_label_2, labelled.bin_label_3, labelled.bin_label_4],
      labelled.bin,
      0,
      count(*),
      0,
      null,
      null
    from labelled
    where labelled.bin is not null
    group by
      labelled.org_id, labelled.event_type, labelled.hour_start, labelled.bin,
      labelled.bin_label_1, labelled.bin_label_2, labelled.bin_label_3, labelled.bin_label_4
  )
  select
    counted.org_id,
    counted.event_type,
    coalesce(
      jsonb_strip_nulls(jsonb_object(kind.label_keys, counted.labels[1:cardinality(kind.label_keys)])),
      '{}'
    ),
    counted.hour_start,
    counted.bin,
    counted.event_count,
    counted.value_count,
    counted.value_sum,
    counted.value_min,
    counted.value_max
  from counted
  left join ops.event_types as kind
    on kind.event_type = counted.event_type;
end;
$$;
comment on function ops.count_events(ops.event_ids, timestamptz, timestamptz) is
  'The events of a set with since <= event_timestamp < until, counted by series and hour, and their values by the labels of histograms, hour and bin.';

create or replace function ops.rollup_deltas(events ops.event_delta[])
returns setof ops.rollup_delta
language sql
stable
set search_path = ''
-- The planner takes the array for a few rows; Postgres 15 then loops over all pairs (133 s where hashing takes 1 s).
set enable_nestloop = off
begin atomic
  with hours as (
    select
      event.org_id,
      event.event_type,
      event.labels,
      event.hour_start,
      sum(event.event_count)::bigint as event_count,
      sum(event.value_count)::bigint as value_count,
      sum(event.value_sum) as value_sum,
      min(event.value_min) as value_min,
      max(event.value_max) as value_max
    from unnest(rollup_deltas.events) as event
    where event.bin is null
    group by 1, 2, 3, 4
  ),
  spans as materialized (
    select span.*
    from ops.kept_spans(array(select distinct hours.hour_start from hours)) as span
    where span.period <> 'hour'
  )
  select
    hours.org_id,
    hours.event_type,
    hours.labels,
    'hour',
    hours.hour_start,
    hours.event_count,
    hours.value_count,
    hours.value_sum,
    hours.value_min,
    hours.value_max
  from hours
  -- What a changed audit changes is found against its hour, so those stay.
  where hours.event_type = 'slsa_audit_metrics'
    or hours.hour_start >= coalesce(
      (select removed.removed_until from ops.removed_periods as removed where removed.period = 'hour'),
      '-infinity'
    )
  union all
  select
    hours.org_id,
    hours.event_type,
    hours.labels,
    spans.period,
    spans.period_start,
    sum(hours.event_count)::bigint,
    sum(hours.value_count)::bigint,
    sum(hours.value_sum),
    min(hours.value_min),
    max(hours.value_max)
  from hours
  join spans
    on spans.hour_start = hours.hour_start
  group by 1, 2, 3, 4, 5;
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

create function ops.rebuild_kpis(since timestamptz, until timestamptz, as_of timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  -- A delta of nothing to each row that stands there gives the KPIs of what stands there.
  select ops.write_kpis(
    array(
      select kpi
      from ops.changed_ratios(
        array(
          select row(
            rollup.org_id, series.event_type, series.labels, rollup.period, rollup.period_start, 0, 0, 0, null, null
          )::ops.rollup_delta
          from ops.rollups as rollup
          join ops.rebuild_spans(since, until) as span
            on span.period = rollup.period
            and rollup.period_start >= span.span_start
            and rollup.period_start < span.span_end
          join ops.series
            on series.org_id = rollup.org_id
            and series.series_id = rollup.series_id
        ),
        from_rollups => true
      ) as kpi
      union all
      select kpi
      from ops.changed_percentiles(array(
        select histogram
        from ops.histograms as histogram
        join ops.rebuild_spans(since, until) as span
          on span.period = histogram.period
          and histogram.period_start >= span.span_start
          and histogram.period_start < span.span_end
      )) as kpi
    ),
    as_of
  );
end;
comment on function ops.rebuild_kpis(timestamptz, timestamptz, timestamptz) is 'Rewrites the KPIs of the periods that a range touches from the states; only rebuild calls it.';

create or replace view ops.hook_days
with (security_invoker = true)
as
select
  series.org_id,
  series.event_type,
  series.labels,
  rollup.period_start as day_start,
  rollup.event_count,
  rollup.value_count,
  rollup.value_sum
from ops.rollups as rollup
join ops.series
  on series.org_id = rollup.org_id
  and series.series_id = rollup.series_id
where rollup.period = 'day'
  and series.event_type in ('hook_execution', 'hook_baseline', 'hook_override')
union all
select
  fresh.org_id,
  fresh.event_type,
  fresh.labels,
  ops.period_start('day', fresh.hour_start, ops.time_zone()),
  fresh.event_count,
  fresh.value_count,
  fresh.value_sum
from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as fresh
where fresh.event_type in ('hook_execution', 'hook_baseline', 'hook_override')
  and fresh.bin is null
  and ops.period_start('day', fresh.hour_start, ops.time_zone()) >= coalesce(
    (select removed.removed_until from ops.removed_periods as removed where removed.period = 'day'),
    '-infinity'
  );

create or replace function ops.rename_states(owner_id uuid, mention text, erased text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  rollups constant ops.rollup_delta[] := ops.rename_rollups(owner_id, mention, erased);
  histograms constant ops.histograms[] := ops.rename_histograms(owner_id, mention, erased);
  patterns constant ops.pattern_delta[] := array(
    select row(
      stored.org_id, regexp_replace(stored.hook_type, mention, erased, 'gi'), regexp_replace(stored.pattern, mention, erased, 'gi'),
      stored.period, stored.period_start, sum(stored.blocked_count), regexp_replace(stored.team, mention, erased, 'gi')
    )::ops.pattern_delta
    from ops.blocked_patterns as stored
    where stored.org_id = owner_id
      and concat_ws(' ', stored.hook_type, stored.pattern, stored.team) ~* mention
    group by stored.org_id, regexp_replace(stored.hook_type, mention, erased, 'gi'), regexp_replace(stored.pattern, mention, erased, 'gi'),
      stored.period, stored.period_start, regexp_replace(stored.team, mention, erased, 'gi')
  );
begin
  delete from ops.blocked_patterns as stored
  where stored.org_id = owner_id
    and concat_ws(' ', stored.hook_type, stored.pattern, stored.team) ~* mention;
  perform ops.add_patterns(patterns);
  perform ops.rename_units(array(
    select distinct row(unit.org_id, sli.event_type, unit.unit, regexp_replace(unit.unit, mention, erased, 'gi'))::ops.unit_rename
    from ops.work_units as unit
    join ops.counted_slis as sli
      on sli.counted_as = unit.sli_id
    where unit.org_id = owner_id
      and unit.unit ~* mention
  ));
  perform ops.rename_groups(owner_id, mention, erased);
  delete from public.kpi_aggregations as stored where stored.org_id = owner_id and stored.labels::text ~* mention;
  perform ops.write_kpis(
    array(
      select kpi
      from ops.changed_ratios(
        array(
          -- A delta of nothing to each gives the KPIs of what stands there.
          select row(moved.org_id, moved.event_type, moved.labels, moved.period, moved.period_start, 0, 0, 0, null, null)::ops.rollup_delta
          from unnest(rollups) as moved
        ),
        from_rollups => true
      ) as kpi
      union all
      select kpi from ops.changed_percentiles(histograms) as kpi
    ),
    now()
  );
end;
$$;

drop function ops.changed_sums;

revoke execute on function
  ops.added_sums,
  ops.stored_sums,
  ops.changed_ratios,
  ops.note_kpi_change,
  ops.rebuild_kpis
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
    ops.changed_ratios,
    ops.note_kpi_change,
    ops.rebuild_kpis
  from anon, authenticated, service_role;
  grant execute on function
    ops.added_sums,
    ops.stored_sums,
    ops.changed_ratios
  to authenticated, service_role;
end;
$$;

-- What the events add up to: series, and their counts per hour, day, week and month.
-- Each function here turns new events into a delta; the delta is added to what is stored, and added again to nothing else.

create table ops.series (
  org_id uuid not null,
  series_id bigint generated always as identity,
  event_type text not null,
  labels jsonb not null,
  constraint series_pkey primary key (org_id, series_id),
  constraint series_org_id_event_type_labels_key unique (org_id, event_type, labels)
);
comment on table ops.series is 'One row a combination of org, event type and labels that has occurred.';
comment on column ops.series.org_id is 'The tenant.';
comment on column ops.series.series_id is 'Number of the series.';
comment on column ops.series.event_type is 'The kind of event; slsa_audit_metrics stands for the rows of that table.';
comment on column ops.series.labels is 'Label values by key; a label that the event does not have is left out.';
alter table ops.series enable row level security;

create table ops.rollups (
  org_id uuid not null,
  period text not null,
  period_start timestamptz not null,
  series_id bigint not null,
  event_count bigint not null,
  value_count bigint not null,
  value_sum numeric not null,
  value_min numeric,
  value_max numeric,
  constraint rollups_pkey primary key (org_id, period, period_start, series_id),
  constraint rollups_period_check check (period in ('hour', 'day', 'week', 'month'))
)
-- Rows of running periods are rewritten by each refresh; free space on the page keeps those updates out of the index.
with (fillfactor = 80);
comment on table ops.rollups is 'One row a series and period in which it had events: a state that adds up.';
comment on column ops.rollups.org_id is 'The tenant.';
comment on column ops.rollups.period is 'hour, day, week (ISO, from Monday) or month.';
comment on column ops.rollups.period_start is 'First instant of the period.';
comment on column ops.rollups.series_id is 'The series.';
comment on column ops.rollups.event_count is 'Events (count).';
comment on column ops.rollups.value_count is 'Events that had a value (count).';
comment on column ops.rollups.value_sum is 'Sum of the values, exact, in the unit of the event type.';
comment on column ops.rollups.value_min is 'Smallest value, in the unit of the event type.';
comment on column ops.rollups.value_max is 'Largest value, in the unit of the event type.';
alter table ops.rollups enable row level security;

create table ops.removed_periods (
  period text not null,
  removed_until timestamptz not null,
  constraint removed_periods_pkey primary key (period),
  constraint removed_periods_period_check check (period in ('hour', 'day', 'week', 'month'))
);
comment on table ops.removed_periods is
  'One row a length of period of which retention has removed some. A late event of a removed one is left out of it, since it would stand there for all; the hours of audits alone are never removed.';
comment on column ops.removed_periods.period is 'hour, day, week or month.';
comment on column ops.removed_periods.removed_until is 'Periods that began before it are removed and are not made again.';
alter table ops.removed_periods enable row level security;

create table ops.cursors (
  name text not null,
  last_id bigint not null default 0,
  safe_id bigint not null default 0,
  fence_id bigint,
  fence_holders text[] not null default '{}',
  moved_at timestamptz not null default now(),
  constraint cursors_pkey primary key (name)
);
comment on table ops.cursors is 'One row: how far the events have been aggregated.';
comment on column ops.cursors.name is 'telemetry_events.';
comment on column ops.cursors.last_id is 'Every committed event up to this id has been counted, and none beyond it.';
comment on column ops.cursors.safe_id is 'Every id up to this one has committed or never will.';
comment on column ops.cursors.fence_id is 'A later id that becomes safe when the transactions of fence_holders have ended; null when there is none.';
comment on column ops.cursors.fence_holders is 'The transactions (as pg_locks names them) that may still commit ids up to fence_id.';
comment on column ops.cursors.moved_at is 'When the cursor last moved.';
alter table ops.cursors enable row level security;

create function ops.cursor_id()
returns bigint
language sql
stable
set search_path = ''
return coalesce((select cursors.last_id from ops.cursors where cursors.name = 'telemetry_events'), 0);
comment on function ops.cursor_id() is 'The id up to which events have been counted.';

create type ops.event_delta as (
  org_id uuid,
  event_type text,
  labels jsonb,
  hour_start timestamptz,
  bin integer,
  event_count bigint,
  value_count bigint,
  value_sum numeric,
  value_min numeric,
  value_max numeric
);
comment on type ops.event_delta is 'Events of one org, type, labels, hour and bin, counted.';

create type ops.rollup_delta as (
  org_id uuid,
  event_type text,
  labels jsonb,
  period text,
  period_start timestamptz,
  event_count bigint,
  value_count bigint,
  value_sum numeric,
  value_min numeric,
  value_max numeric
);
comment on type ops.rollup_delta is 'What is to be added to one row of ops.rollups; negative where a changed audit leaves its place.';

create view ops.histogram_groups
with (security_invoker = true)
as
select distinct
  definition.event_type,
  kept.breakdown,
  kept.period
from ops.kpi_definitions as definition
cross join lateral (
  select null::text as breakdown, unnest(array['hour', 'day', 'week', 'month']) as period
  union all
  select breakdown.key, period.name
  from unnest(definition.breakdowns) as breakdown (key)
  cross join unnest(definition.breakdown_periods) as period (name)
) as kept
where definition.measure = 'percentile';
comment on view ops.histogram_groups is 'One row an event type, breakdown (null: all together) and period for which a percentile KPI wants a histogram.';

create view ops.labelled_events
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
  agent.team
from public.telemetry_events as event
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
    event_type.event_type in (select histogram_group.event_type from ops.histogram_groups as histogram_group) as has_histogram
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
comment on view ops.labelled_events is 'One row an event, with its labels, its value and the bin of the value. Nothing that a plain insert may hold makes it fail.';

create function ops.count_events(after_id bigint, until_id bigint, since timestamptz, until timestamptz)
returns setof ops.event_delta
language plpgsql
stable
set search_path = ''
-- A generic plan cannot know which of the two ranges is the narrow one.
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  with counted as (
    select
      event.org_id,
      event.event_type,
      event.hour_start,
      event.label_1,
      event.label_2,
      event.label_3,
      event.label_4,
      event.bin,
      count(*) as event_count,
      count(event.value) as value_count,
      coalesce(sum(event.value), 0) as value_sum,
      min(event.value) as value_min,
      max(event.value) as value_max
    from ops.labelled_events as event
    where event.id > after_id
      and event.id <= until_id
      and event.event_timestamp >= since
      and event.event_timestamp < until
    group by 1, 2, 3, 4, 5, 6, 7, 8
  )
  select
    counted.org_id,
    counted.event_type,
    coalesce(
      jsonb_strip_nulls(jsonb_object(
        kind.label_keys,
        (array[counted.label_1, counted.label_2, counted.label_3, counted.label_4])[1:cardinality(kind.label_keys)]
      )),
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
comment on function ops.count_events(bigint, bigint, timestamptz, timestamptz) is
  'The events with after_id < id <= until_id and since <= event_timestamp < until, counted by series, hour and bin.';

create function ops.rollup_deltas(events ops.event_delta[])
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
    group by 1, 2, 3, 4
  ),
  -- Materialized, so that the calendar is asked once an hour and not once a row.
  spans as materialized (
    select span.hour_start, span.period, span.period_start
    from (
      select
        distinct_hour.hour_start,
        period.name as period,
        ops.period_start(period.name, distinct_hour.hour_start, ops.time_zone()) as period_start
      from (select distinct hours.hour_start from hours) as distinct_hour
      cross join unnest(array['day', 'week', 'month']) as period (name)
      offset 0
    ) as span
    left join ops.removed_periods as removed
      on removed.period = span.period
    where coalesce(span.period_start >= removed.removed_until, true)
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
comment on function ops.rollup_deltas(ops.event_delta[]) is 'What counted events add to the hours, days, weeks and months of their series, but for those that retention removed.';

create function ops.add_rollups(deltas ops.rollup_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.series (org_id, event_type, labels)
  select distinct delta.org_id, delta.event_type, delta.labels
  from unnest(add_rollups.deltas) as delta
  where not exists (
    select
    from ops.series
    where series.org_id = delta.org_id
      and series.event_type = delta.event_type
      and series.labels = delta.labels
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
  on conflict on constraint rollups_pkey do update set
    event_count = rollup.event_count + excluded.event_count,
    value_count = rollup.value_count + excluded.value_count,
    value_sum = rollup.value_sum + excluded.value_sum,
    value_min = least(rollup.value_min, excluded.value_min),
    value_max = greatest(rollup.value_max, excluded.value_max);

  -- The last audit of an hour may have moved to another.
  delete from ops.rollups as rollup
  using unnest(add_rollups.deltas) as delta
  join ops.series
    on series.org_id = delta.org_id
    and series.event_type = delta.event_type
    and series.labels = delta.labels
  where delta.event_count < 0
    and rollup.event_count = 0
    and rollup.org_id = delta.org_id
    and rollup.period = delta.period
    and rollup.period_start = delta.period_start
    and rollup.series_id = series.series_id;
end;
comment on function ops.add_rollups(ops.rollup_delta[]) is 'Adds a delta to the rollups; only refresh and rebuild call it, once a delta.';

revoke execute on function
  ops.count_events(bigint, bigint, timestamptz, timestamptz),
  ops.rollup_deltas(ops.event_delta[]),
  ops.add_rollups(ops.rollup_delta[]),
  ops.cursor_id()
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on
    ops.series,
    ops.rollups,
    ops.removed_periods,
    ops.cursors,
    ops.histogram_groups,
    ops.labelled_events
  from anon, authenticated, service_role;
  grant select on
    ops.series,
    ops.rollups,
    ops.removed_periods,
    ops.cursors,
    ops.histogram_groups,
    ops.labelled_events
  to authenticated, service_role;
  create policy removed_periods_select_authenticated on ops.removed_periods for select to authenticated using (true);
  create policy cursors_select_authenticated on ops.cursors for select to authenticated using (true);
  create policy series_select_own_org on ops.series for select to authenticated
    using (org_id = (select ops.current_org_id()));
  create policy rollups_select_own_org on ops.rollups for select to authenticated
    using (org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.count_events(bigint, bigint, timestamptz, timestamptz),
    ops.rollup_deltas(ops.event_delta[]),
    ops.add_rollups(ops.rollup_delta[]),
    ops.cursor_id()
  from anon, authenticated, service_role;
  grant execute on function
    ops.count_events(bigint, bigint, timestamptz, timestamptz),
    ops.rollup_deltas(ops.event_delta[]),
    ops.cursor_id()
  to authenticated, service_role;
end;
$$;

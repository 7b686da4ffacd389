-- Series, and their counts per hour, day, week and month.
-- A delta is computed from new events by the functions of the next file, and added here once.

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
create policy series_select_own_org on ops.series for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

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
create policy rollups_select_own_org on ops.rollups for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

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
create policy removed_periods_select_authenticated on ops.removed_periods for select to authenticated using ((select ops.caller_may('{read}')) is not null);

create table ops.cursors (
  name text not null,
  last_id bigint not null default 0,
  moved_at timestamptz not null default now(),
  attempts bigint not null default 0,
  most_events bigint,
  quiet_id bigint,
  quiet_writers text[] not null default '{}',
  advanced_at timestamptz,
  constraint cursors_pkey primary key (name)
);
comment on table ops.cursors is 'One row: how far the events have been aggregated.';
comment on column ops.cursors.name is 'telemetry_events.';
comment on column ops.cursors.last_id is 'Every committed event up to this id has been counted or set aside, those in ops.event_gaps excepted, and none beyond it.';
comment on column ops.cursors.moved_at is 'When events were last counted, late ones behind last_id included.';
comment on column ops.cursors.attempts is 'The number of the last attempt to count events that ended well, see ops.refresh_attempts.';
comment on column ops.cursors.most_events is 'How many events the next attempt takes at most, since one failed; null: as many as the call allows.';
comment on column ops.cursors.quiet_id is 'The newest id that was drawn after quiet_writers were listed; null: there were no gaps.';
comment on column ops.cursors.quiet_writers is 'What ops.quiet_writers said then: a transaction that is still listed in the same words has drawn no id beyond quiet_id.';
comment on column ops.cursors.advanced_at is 'When last_id last grew; null: as moved_at says.';
alter table ops.cursors enable row level security;
create policy cursors_select_authenticated on ops.cursors for select to authenticated using ((select ops.caller_may('{read}')) is not null);

create function ops.restore_cursor()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  -- A cursor that has counted stays: set back, it would count events twice.
  delete from ops.cursors where cursors.name = new.name and cursors.last_id = 0;
  return new;
end;
$$;
comment on function ops.restore_cursor() is
  'Trigger: a cursor that a restore inserts replaces the one that the migrations have made, as long as that has counted nothing.';

create trigger cursors_restore
before insert on ops.cursors
for each row execute function ops.restore_cursor();

create function ops.cursor_id()
returns bigint
language plpgsql
stable
set search_path = ''
as $$
begin
  return coalesce((select cursors.last_id from ops.cursors where cursors.name = 'telemetry_events'), 0);
end;
$$;
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
comment on type ops.event_delta is
  'Events of one org, type, labels and hour, counted (bin null), or the values among them in one bin, by the labels of histograms (event_count 0).';

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

create function ops.add_rollups(deltas ops.rollup_delta[])
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
comment on function ops.add_rollups(ops.rollup_delta[]) is 'Adds a delta to the rollups; only refresh and rebuild call it, once a delta.';

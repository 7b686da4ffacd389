-- What the objectives count: units of work, and good and total per five minutes, kept by the exactly-once pass.

create table ops.work_units (
  org_id uuid not null,
  event_type text not null,
  unit text not null,
  first_attempt_at timestamptz not null,
  succeeded boolean not null,
  constraint work_units_pkey primary key (org_id, event_type, unit)
);
comment on table ops.work_units is 'One row a unit of work that was attempted: a tag, else a run, else a single event.';
comment on column ops.work_units.org_id is 'The tenant.';
comment on column ops.work_units.event_type is 'The kind of its attempts.';
comment on column ops.work_units.unit is 'tag:…, run:… or event:…; a tag of over 200 bytes by its SHA-256.';
comment on column ops.work_units.first_attempt_at is 'Its earliest attempt; the unit is counted there, whenever it succeeds.';
comment on column ops.work_units.succeeded is 'Any attempt succeeded.';
alter table ops.work_units enable row level security;
-- Few units are lost, and those are what people ask for: the newest, in a window.
create index work_units_org_id_event_type_first_attempt_at_idx
  on ops.work_units (org_id, event_type, first_attempt_at desc)
  where not succeeded;

create table ops.sli_counts (
  org_id uuid not null,
  sli_id bigint not null,
  bucket_start timestamptz not null,
  good bigint not null,
  total bigint not null,
  constraint sli_counts_pkey primary key (org_id, sli_id, bucket_start),
  constraint sli_counts_good_is_part_of_total check (good between 0 and total)
)
with (fillfactor = 80);
comment on table ops.sli_counts is 'One row an SLI and five minutes: what was counted and what of it was good.';
comment on column ops.sli_counts.org_id is 'The tenant.';
comment on column ops.sli_counts.sli_id is 'The SLI.';
comment on column ops.sli_counts.bucket_start is 'First instant of the five minutes, UTC.';
comment on column ops.sli_counts.good is 'Good ones (count).';
comment on column ops.sli_counts.total is 'All that were counted (count).';
alter table ops.sli_counts enable row level security;

create table ops.sli_days (
  org_id uuid not null,
  sli_id bigint not null,
  day_start timestamptz not null,
  good bigint not null,
  total bigint not null,
  constraint sli_days_pkey primary key (org_id, sli_id, day_start)
)
with (fillfactor = 80);
comment on table ops.sli_days is
  'One row an SLI and day: the sum of its five minutes, kept by triggers. A window of 30 days is then 30 rows and its edges, not 8,640.';
comment on column ops.sli_days.org_id is 'The tenant.';
comment on column ops.sli_days.sli_id is 'The SLI.';
comment on column ops.sli_days.day_start is 'First instant of the day, UTC.';
comment on column ops.sli_days.good is 'Good ones (count).';
comment on column ops.sli_days.total is 'All that were counted (count).';
alter table ops.sli_days enable row level security;

create function ops.add_sli_days()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from ops.sli_days where true;
    return null;
  end if;
  if tg_op in ('UPDATE', 'DELETE') then
    update ops.sli_days as stored
    set good = stored.good - gone.good,
        total = stored.total - gone.total
    from (
      select
        bucket.org_id,
        bucket.sli_id,
        date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00') as day_start,
        sum(bucket.good) as good,
        sum(bucket.total) as total
      from old_counts as bucket
      group by 1, 2, 3
    ) as gone
    where stored.org_id = gone.org_id
      and stored.sli_id = gone.sli_id
      and stored.day_start = gone.day_start;
  end if;
  if tg_op in ('INSERT', 'UPDATE') then
    insert into ops.sli_days as stored (org_id, sli_id, day_start, good, total)
    select
      bucket.org_id,
      bucket.sli_id,
      date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
      sum(bucket.good),
      sum(bucket.total)
    from new_counts as bucket
    group by 1, 2, 3
    on conflict on constraint sli_days_pkey do update set
      good = stored.good + excluded.good,
      total = stored.total + excluded.total;
  end if;
  return null;
end;
$$;
comment on function ops.add_sli_days() is 'Trigger: adds what a statement changed in the SLI counts to their days, whoever wrote it.';

create trigger sli_counts_add_days_of_new
after insert on ops.sli_counts
referencing new table as new_counts
for each statement execute function ops.add_sli_days();

create trigger sli_counts_add_days_of_changed
after update on ops.sli_counts
referencing old table as old_counts new table as new_counts
for each statement execute function ops.add_sli_days();

create trigger sli_counts_add_days_of_removed
after delete on ops.sli_counts
referencing old table as old_counts
for each statement execute function ops.add_sli_days();

create trigger sli_counts_forget_days
after truncate on ops.sli_counts
for each statement execute function ops.add_sli_days();

create view ops.slo_counts
with (security_invoker = true)
as
select
  bucket.org_id,
  version.slo_name,
  version.version,
  bucket.bucket_start,
  bucket.good,
  bucket.total
from ops.slo_versions as version
join ops.sli_counts as bucket
  on bucket.sli_id = version.sli_id
where version.valid_until = 'infinity';
comment on view ops.slo_counts is 'One row an org, objective as it stands now and five minutes in which something was counted.';

create type ops.unit_delta as (
  org_id uuid,
  event_type text,
  unit text,
  first_attempt_at timestamptz,
  succeeded boolean
);
comment on type ops.unit_delta is 'What a set of attempts says about a unit of work.';

create type ops.unit_change as (
  org_id uuid,
  event_type text,
  unit text,
  old_first_attempt_at timestamptz,
  old_succeeded boolean,
  first_attempt_at timestamptz,
  succeeded boolean
);
comment on type ops.unit_change is 'A unit of work as it is stored (null: it is not) and as it is with new attempts.';

create type ops.sli_delta as (
  org_id uuid,
  sli_id bigint,
  bucket_start timestamptz,
  good bigint,
  total bigint
);
comment on type ops.sli_delta is 'What is to be added to one row of ops.sli_counts; negative where a unit of work moves.';

create view ops.attempts
with (security_invoker = true)
as
select
  event.id,
  event.org_id,
  event.event_type,
  event.event_timestamp,
  event.outcome = 'success' as succeeded,
  event.duration_ms,
  case
    when octet_length(event.tag) > 200 then 'sha256:' || encode(sha256(convert_to(event.tag, 'UTF8')), 'hex')
    else coalesce('tag:' || nullif(btrim(event.tag), ''), 'run:' || event.run_id, 'event:' || event.event_id)
  end as unit,
  event.event_id,
  event.run_id,
  event.tag
from public.telemetry_events as event
where event.outcome in ('success', 'failure')
  and event.event_type in (select sli.event_type from ops.slis as sli);
comment on view ops.attempts is 'One row an event that an SLI counts.';

create function ops.count_attempts(
  after_id bigint,
  until_id bigint,
  since timestamptz,
  until timestamptz,
  sli_ids bigint[] default null
)
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  select
    attempt.org_id,
    sli.sli_id,
    date_bin('5 minutes', attempt.event_timestamp, timestamptz '1969-12-29 00:00+00') as bucket_start,
    count(*) filter (where attempt.succeeded and (sli.objective = 'error_rate' or attempt.duration_ms < sli.threshold_ms)),
    count(*)
  from ops.attempts as attempt
  join ops.slis as sli
    on sli.event_type = attempt.event_type
  where attempt.id > after_id
    and attempt.id <= until_id
    and attempt.event_timestamp >= since
    and attempt.event_timestamp < until
    and (sli.objective = 'error_rate' or (sli.objective = 'latency' and attempt.succeeded and attempt.duration_ms is not null))
    and case when sli_ids is null then attempt.event_timestamp < sli.filled_until else sli.sli_id = any (sli_ids) end
  group by 1, 2, 3;
end;
$$;
comment on function ops.count_attempts(bigint, bigint, timestamptz, timestamptz, bigint[]) is
  'Good and total of the error_rate and latency SLIs over the given events, per five minutes: of each SLI what lies before filled_until, or of sli_ids all.';

create function ops.count_units(
  after_id bigint,
  until_id bigint,
  since timestamptz default '-infinity',
  until timestamptz default 'infinity',
  sli_ids bigint[] default null
)
returns setof ops.unit_delta
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return query
  select
    attempt.org_id,
    attempt.event_type,
    attempt.unit,
    min(attempt.event_timestamp),
    bool_or(attempt.succeeded)
  from ops.attempts as attempt
  join ops.slis as sli
    on sli.event_type = attempt.event_type
    and sli.objective = 'availability'
  where attempt.id > after_id
    and attempt.id <= until_id
    and attempt.event_timestamp >= since
    and attempt.event_timestamp < until
    and case when sli_ids is null then attempt.event_timestamp < sli.filled_until else sli.sli_id = any (sli_ids) end
  group by 1, 2, 3;
end;
$$;
comment on function ops.count_units(bigint, bigint, timestamptz, timestamptz, bigint[]) is
  'The units of work that the given events attempt: of each SLI what lies before filled_until, or of sli_ids all.';

create function ops.changed_units(units ops.unit_delta[])
returns setof ops.unit_change
language sql
stable
set search_path = ''
begin atomic
  select
    unit.org_id,
    unit.event_type,
    unit.unit,
    stored.first_attempt_at,
    stored.succeeded,
    least(stored.first_attempt_at, unit.first_attempt_at),
    coalesce(stored.succeeded, false) or unit.succeeded
  from unnest(changed_units.units) as unit
  -- One look-up a unit: a join may read all units that ever were, and the cost must follow the new ones.
  left join lateral (
    select work_unit.first_attempt_at, work_unit.succeeded
    from ops.work_units as work_unit
    where work_unit.org_id = unit.org_id
      and work_unit.event_type = unit.event_type
      and work_unit.unit = unit.unit
    limit 1
  ) as stored on true
  -- Most attempts at a unit that is known change nothing: a later check of a good release, a retry that failed again.
  where stored.first_attempt_at is null
    or unit.first_attempt_at < stored.first_attempt_at
    or (unit.succeeded and not stored.succeeded);
end;
comment on function ops.changed_units(ops.unit_delta[]) is 'The units of work that new attempts add or change, before and after; nothing is written.';

create function ops.unit_slis(changes ops.unit_change[])
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  with moved as (
    select change.org_id, change.event_type, change.first_attempt_at, change.succeeded::integer as good, 1 as total
    from unnest(unit_slis.changes) as change
    union all
    select change.org_id, change.event_type, change.old_first_attempt_at, -change.old_succeeded::integer, -1
    from unnest(unit_slis.changes) as change
    where change.old_first_attempt_at is not null
  )
  select
    moved.org_id,
    sli.sli_id,
    date_bin('5 minutes', moved.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    sum(moved.good)::bigint,
    sum(moved.total)::bigint
  from moved
  join ops.slis as sli
    on sli.event_type = moved.event_type
    and sli.objective = 'availability'
  group by 1, 2, 3
  having sum(moved.good) <> 0
    or sum(moved.total) <> 0;
end;
comment on function ops.unit_slis(ops.unit_change[]) is
  'What changed units of work change in the counts of the availability SLIs, five minutes by five minutes.';

create function ops.add_slis(deltas ops.sli_delta[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.sli_counts as stored (org_id, sli_id, bucket_start, good, total)
  select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
  from unnest(add_slis.deltas) as delta
  where delta.good between 0 and delta.total
  on conflict on constraint sli_counts_pkey do update set
    good = stored.good + excluded.good,
    total = stored.total + excluded.total;

  -- A late success or a unit that moves changes a row that is there; as an insert it would fail the check first.
  update ops.sli_counts as stored
  set good = stored.good + delta.good,
      total = stored.total + delta.total
  from unnest(add_slis.deltas) as delta
  where delta.good not between 0 and delta.total
    and stored.org_id = delta.org_id
    and stored.sli_id = delta.sli_id
    and stored.bucket_start = delta.bucket_start;

  delete from ops.sli_counts as stored
  using unnest(add_slis.deltas) as delta
  where delta.total < 0
    and stored.total = 0
    and stored.org_id = delta.org_id
    and stored.sli_id = delta.sli_id
    and stored.bucket_start = delta.bucket_start;
end;
comment on function ops.add_slis(ops.sli_delta[]) is 'Adds a delta to the SLI counts; only refresh and rebuild call it, once a delta.';

create function ops.write_units(changes ops.unit_change[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.work_units (org_id, event_type, unit, first_attempt_at, succeeded)
  select change.org_id, change.event_type, change.unit, change.first_attempt_at, change.succeeded
  from unnest(write_units.changes) as change
  where change.old_first_attempt_at is null;

  update ops.work_units as stored
  set first_attempt_at = change.first_attempt_at,
      succeeded = change.succeeded
  from unnest(write_units.changes) as change
  where change.old_first_attempt_at is not null
    and stored.org_id = change.org_id
    and stored.event_type = change.event_type
    and stored.unit = change.unit;
end;
comment on function ops.write_units(ops.unit_change[]) is
  'Writes changed units of work; only refresh, rebuild and fill_slis call it, under the lock under which the changes were found.';

create function ops.recount_units()
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.sli_counts as stored
  using ops.slis as sli
  where sli.sli_id = stored.sli_id
    and sli.objective = 'availability';

  insert into ops.sli_counts (org_id, sli_id, bucket_start, good, total)
  select
    unit.org_id,
    sli.sli_id,
    date_bin('5 minutes', unit.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    count(*) filter (where unit.succeeded),
    count(*)
  from ops.work_units as unit
  join ops.slis as sli
    on sli.event_type = unit.event_type
    and sli.objective = 'availability'
  group by 1, 2, 3;
end;
comment on function ops.recount_units() is 'Counts the availability SLIs anew from the units of work; only rebuild calls it.';

create function ops.fill_slis(until timestamptz default 'infinity')
returns timestamptz
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  last_id bigint;
  stretch record;
  changes ops.unit_change[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fill_slis needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  last_id := ops.cursor_id();
  for stretch in
    select sli.filled_until as since, array_agg(sli.sli_id) as sli_ids
    from ops.slis as sli
    where sli.filled_until < fill_slis.until
    group by 1
  loop
    perform ops.add_slis(array(
      select delta from ops.count_attempts(0, last_id, stretch.since, fill_slis.until, stretch.sli_ids) as delta
    ));
    changes := array(
      select changed
      from ops.changed_units(array(
        select attempted from ops.count_units(0, last_id, stretch.since, fill_slis.until, stretch.sli_ids) as attempted
      )) as changed
    );
    perform ops.add_slis(array(select delta from ops.unit_slis(changes) as delta));
    perform ops.write_units(changes);
    update ops.slis
    set filled_until = fill_slis.until
    where slis.sli_id = any (stretch.sli_ids);
  end loop;
  return (select min(sli.filled_until) from ops.slis as sli);
end;
$$;
comment on function ops.fill_slis(timestamptz) is
  'Gives new SLIs their history up to an instant from the events before the cursor; called stretch by stretch it gives what one call gives. Returns up to where all are filled.';

revoke execute on function
  ops.add_sli_days(),
  ops.count_attempts(bigint, bigint, timestamptz, timestamptz, bigint[]),
  ops.count_units(bigint, bigint, timestamptz, timestamptz, bigint[]),
  ops.changed_units(ops.unit_delta[]),
  ops.unit_slis(ops.unit_change[]),
  ops.add_slis(ops.sli_delta[]),
  ops.write_units(ops.unit_change[]),
  ops.recount_units(),
  ops.fill_slis(timestamptz)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.work_units, ops.sli_counts, ops.sli_days, ops.slo_counts, ops.attempts from anon, authenticated, service_role;
  grant select on ops.work_units, ops.sli_counts, ops.sli_days, ops.slo_counts, ops.attempts to authenticated, service_role;
  create policy work_units_select_own_org on ops.work_units for select to authenticated
    using (org_id = (select ops.current_org_id()));
  create policy sli_counts_select_own_org on ops.sli_counts for select to authenticated
    using (org_id = (select ops.current_org_id()));
  create policy sli_days_select_own_org on ops.sli_days for select to authenticated
    using (org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.add_sli_days(),
    ops.count_attempts(bigint, bigint, timestamptz, timestamptz, bigint[]),
    ops.count_units(bigint, bigint, timestamptz, timestamptz, bigint[]),
    ops.changed_units(ops.unit_delta[]),
    ops.unit_slis(ops.unit_change[]),
    ops.add_slis(ops.sli_delta[]),
    ops.write_units(ops.unit_change[]),
    ops.recount_units(),
    ops.fill_slis(timestamptz)
  from anon, authenticated, service_role;
  grant execute on function
    ops.count_attempts(bigint, bigint, timestamptz, timestamptz, bigint[]),
    ops.count_units(bigint, bigint, timestamptz, timestamptz, bigint[]),
    ops.changed_units(ops.unit_delta[]),
    ops.unit_slis(ops.unit_change[])
  to authenticated, service_role;
end;
$$;

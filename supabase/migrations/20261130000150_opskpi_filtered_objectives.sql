-- Counts are keyed by a digest of what they count, so that a restore in any order ties none to another objective.

create function ops.sli_key(event_type text, objective text, threshold_ms numeric)
returns bigint
language sql
immutable
set search_path = ''
-- Parts that are not set are left out of the text, so that a part that is added later changes no key.
return (
  'x' || encode(
    substring(
      sha256(convert_to(
        jsonb_strip_nulls(jsonb_build_object(
          'event_type', event_type,
          'objective', objective,
          'threshold_ms', trim_scale(threshold_ms)
        ))::text,
        'UTF8'
      ))
      from 1 for 8
    ),
    'hex'
  )
)::bit(64)::bigint;
comment on function ops.sli_key(text, text, numeric) is
  'The key of the SLI that counts so: the first 8 bytes of the SHA-256 of its definition, the same in every database.';

-- Every count keeps its digits and gets the new key; the triggers that sum days would only take them out and in again.
alter table ops.slis alter column sli_id drop identity;
alter table ops.slis drop constraint slis_event_type_objective_threshold_ms_key;
alter table ops.slo_versions drop constraint slo_versions_sli_id_fkey;
alter table ops.sli_counts disable trigger user;
update ops.slo_versions as version
set sli_id = ops.sli_key(sli.event_type, sli.objective, sli.threshold_ms)
from ops.slis as sli
where sli.sli_id = version.sli_id;
update ops.sli_counts as stored
set sli_id = ops.sli_key(sli.event_type, sli.objective, sli.threshold_ms)
from ops.slis as sli
where sli.sli_id = stored.sli_id;
update ops.sli_days as stored
set sli_id = ops.sli_key(sli.event_type, sli.objective, sli.threshold_ms)
from ops.slis as sli
where sli.sli_id = stored.sli_id;
update ops.slis set sli_id = ops.sli_key(slis.event_type, slis.objective, slis.threshold_ms) where true;
alter table ops.sli_counts enable trigger user;
alter table ops.slis
  add constraint slis_sli_id_is_the_digest_of_the_definition check (sli_id = ops.sli_key(event_type, objective, threshold_ms));
alter table ops.slo_versions
  add constraint slo_versions_sli_id_fkey foreign key (sli_id) references ops.slis (sli_id);

alter table ops.audit_changes alter column audit_change_id drop identity;
alter table ops.audit_changes alter column audit_change_id type uuid using gen_random_uuid();
alter table ops.audit_changes alter column audit_change_id set default gen_random_uuid();

create function ops.is_restoring()
returns boolean
language sql
stable
set search_path = ''
return current_setting('check_function_bodies')::boolean is false;
comment on function ops.is_restoring() is
  'Whether the session restores a dump, which begins with set check_function_bodies = false: its rows belong together and arrive in any order.';

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
comment on column ops.audit_changes.audit_change_id is 'Drawn at random.';
comment on column ops.slis.sli_id is 'Key of the SLI: ops.sli_key of how it counts.';

create function ops.restore_sli()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  update ops.slis
  set filled_until = new.filled_until
  where slis.sli_id = new.sli_id;
  return case when not found then new end;
end;
$$;
comment on function ops.restore_sli() is
  'Trigger: an SLI that a restore inserts replaces the one that the trigger on the restored objectives has made.';

create trigger slis_restore
before insert on ops.slis
for each row
when (pg_trigger_depth() = 0)
execute function ops.restore_sli();

create function ops.restore_slo_version()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  delete from ops.slo_versions as made where made.slo_name = new.slo_name and made.version = new.version;
  return new;
end;
$$;
comment on function ops.restore_slo_version() is
  'Trigger: a version that a restore inserts replaces the one that the trigger on the restored objectives has made.';

create trigger slo_versions_restore
before insert on ops.slo_versions
for each row
when (pg_trigger_depth() = 0)
execute function ops.restore_slo_version();

create function ops.is_same_promise(slo ops.slos, other ops.slos)
returns boolean
language sql
immutable
set search_path = ''
return (
  (slo).service, (slo).objective, (slo).event_type, (slo).target, (slo).threshold_ms, (slo).rolling_window, (slo).calendar_period,
  (slo).time_zone, (slo).budgeting_method, (slo).time_slice, (slo).slice_target, (slo).expected_interval
) is not distinct from (
  (other).service, (other).objective, (other).event_type, (other).target, (other).threshold_ms, (other).rolling_window, (other).calendar_period,
  (other).time_zone, (other).budgeting_method, (other).time_slice, (other).slice_target, (other).expected_interval
);
comment on function ops.is_same_promise(ops.slos, ops.slos) is 'Whether two rows promise the same, whatever they are called and whenever they hold: a change of anything else makes no version.';

create or replace function ops.date_slo_change()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if ops.is_same_promise(new, old) then
    new.valid_from := old.valid_from;
  elsif new.valid_from = old.valid_from then
    new.valid_from := greatest(now(), old.valid_from);
  end if;
  if new.valid_from < old.valid_from then
    raise exception 'the definition of % from % cannot hold from % already', old.slo_name, old.valid_from, new.valid_from
      using errcode = 'OP001', hint = 'Leave valid_from out, or pass an instant after the last change.';
  end if;
  return new;
end;
$$;

create function ops.require_sli(slo ops.slos)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  counted_by bigint;
begin
  -- Where nothing has been counted yet there is nothing to fill; a refresh that is about to count must not pass by.
  if ops.cursor_id() = 0 then
    perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  end if;
  insert into ops.slis (sli_id, event_type, objective, threshold_ms, filled_until)
  values (
    ops.sli_key(slo.event_type, slo.objective, slo.threshold_ms), slo.event_type, slo.objective, slo.threshold_ms,
    case
      when ops.cursor_id() = 0 and current_setting('transaction_isolation') = 'read committed' then timestamptz 'infinity'
      else timestamptz '-infinity'
    end
  )
  on conflict on constraint slis_pkey do nothing;
  -- By the definition and not by its key: two that had the same one would share their counts.
  select sli.sli_id into strict counted_by
  from ops.slis as sli
  where sli.sli_id = ops.sli_key(slo.event_type, slo.objective, slo.threshold_ms)
    and sli.event_type = slo.event_type
    and sli.objective = slo.objective
    and sli.threshold_ms is not distinct from slo.threshold_ms;
  return counted_by;
end;
$$;
comment on function ops.require_sli(ops.slos) is
  'The key of the SLI by which an objective counts; one that is new is to be filled. Only the trigger on ops.slos calls it.';

create or replace function ops.record_slo_version()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
declare
  latest ops.slo_versions;
  begins_at timestamptz;
  counted_by bigint;
begin
  select * into latest
  from ops.slo_versions as version
  where version.slo_name = case tg_op when 'INSERT' then new.slo_name else old.slo_name end
  order by version.version desc
  limit 1;
  if tg_op = 'DELETE' then
    -- A change that was planned never comes.
    delete from ops.slo_versions as version where version.slo_name = old.slo_name and version.valid_from > now();
    update ops.slo_versions as version
    set valid_until = now()
    where version.slo_name = old.slo_name
      and version.valid_until > now();
    return null;
  end if;
  if tg_op = 'UPDATE' and new.slo_name <> old.slo_name then
    raise exception 'the objective % cannot be renamed', old.slo_name
      using errcode = 'OP001', hint = 'Its history goes by its name: add one of the new name and delete this one.';
  end if;
  -- An objective that is inserted has an open version where a restore brought its versions first.
  if tg_op = 'INSERT' and latest.valid_until = 'infinity'
    or tg_op = 'UPDATE' and new.valid_from = old.valid_from and latest.valid_until = 'infinity' and ops.is_same_promise(new, old)
  then
    return null;
  end if;
  counted_by := ops.require_sli(new);

  begins_at := case when latest.valid_until < 'infinity' then greatest(new.valid_from, latest.valid_until) else new.valid_from end;
  if tg_op = 'UPDATE' and begins_at < latest.valid_from then
    raise exception 'the definition of % from % cannot hold from % already', new.slo_name, latest.valid_from, begins_at
      using errcode = 'OP001', hint = 'Leave valid_from out, or pass an instant after the last change.';
  end if;
  if latest.valid_from = begins_at then
    -- Changed twice in one transaction: nobody has seen the first.
    delete from ops.slo_versions as version where version.slo_name = new.slo_name and version.version = latest.version;
    latest.version := latest.version - 1;
  else
    update ops.slo_versions as version
    set valid_until = least(version.valid_until, begins_at)
    where version.slo_name = new.slo_name
      and version.version = latest.version;
  end if;
  insert into ops.slo_versions (
    slo_name, version, valid_from, sli_id, service, objective, target, rolling_window, calendar_period, time_zone,
    budgeting_method, time_slice, slice_target, expected_interval
  )
  values (
    new.slo_name, coalesce(latest.version, 0) + 1, begins_at, counted_by, new.service, new.objective, new.target, new.rolling_window,
    new.calendar_period, new.time_zone, new.budgeting_method, new.time_slice, new.slice_target, new.expected_interval
  );
  return null;
end;
$$;

create function ops.restore_sli_day()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  delete from ops.sli_days as summed
  where summed.org_id = new.org_id
    and summed.sli_id = new.sli_id
    and summed.day_start = new.day_start;
  return new;
end;
$$;
comment on function ops.restore_sli_day() is
  'Trigger: a day that a restore inserts replaces the one that the trigger on the restored counts has made.';

create trigger sli_days_restore
before insert on ops.sli_days
for each row
when (pg_trigger_depth() = 0)
execute function ops.restore_sli_day();

create function ops.sum_sli_days(since timestamptz, until timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.sli_days as stored (org_id, sli_id, day_start, good, total)
  select
    bucket.org_id,
    bucket.sli_id,
    date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
    sum(bucket.good),
    sum(bucket.total)
  from ops.sli_counts as bucket
  where bucket.bucket_start >= sum_sli_days.since
    and bucket.bucket_start < sum_sli_days.until
  group by 1, 2, 3
  on conflict on constraint sli_days_pkey do update set
    good = excluded.good,
    total = excluded.total;
end;
comment on function ops.sum_sli_days(timestamptz, timestamptz) is
  'Sums whole days anew from their five minutes; since and until are first instants of days (UTC).';

create or replace function ops.add_sli_days()
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
  if tg_op = 'INSERT' and ops.is_restoring() then
    -- A restore may have brought the days already, so nothing is added to them.
    perform ops.sum_sli_days(
      min(date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00')),
      max(bucket.bucket_start) + interval '1 second'
    )
    from new_counts as bucket
    having count(*) > 0;
    return null;
  end if;
  if tg_op in ('UPDATE', 'DELETE') then
    -- An upsert, as below: a join with the days would be planned for as few as there were when the session began.
    insert into ops.sli_days as stored (org_id, sli_id, day_start, good, total)
    select
      bucket.org_id,
      bucket.sli_id,
      date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
      -sum(bucket.good),
      -sum(bucket.total)
    from old_counts as bucket
    group by 1, 2, 3
    on conflict on constraint sli_days_pkey do update set
      good = stored.good + excluded.good,
      total = stored.total + excluded.total;
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

create or replace function ops.take_audit_changes()
returns setof ops.event_delta
language plpgsql
volatile
set search_path = ''
as $$
declare
  taken constant uuid[] := array(select change.audit_change_id from ops.audit_changes as change);
begin
  if cardinality(taken) > 0 then
    -- Counted after the changes were listed: a change that commits in between is counted now and adds nothing next time.
    return query select change.* from ops.count_audit_changes() as change;
    delete from ops.audit_changes as change where change.audit_change_id = any (taken);
  end if;
end;
$$;

create or replace function ops.refresh(max_wait interval default '5 seconds', max_ids bigint default 200000, as_of timestamptz default now())
returns ops.refresh_report
language plpgsql
volatile
set search_path = ''
-- Hashing 200,000 events takes less than this; with the default of 4 MB they are sorted on disk, which takes three times as long.
set work_mem = '64MB'
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  report ops.refresh_report;
  started_at timestamptz := clock_timestamp();
  after_id bigint;
  safe_id bigint;
  counted ops.counted_range;
begin
  perform ops.require_refreshable(max_ids);
  if not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    report.state := 'busy';
    report.message := 'another refresh is running';
    return report;
  end if;

  insert into ops.cursors (name)
  select 'telemetry_events'
  where not exists (select from ops.cursors where cursors.name = 'telemetry_events');
  safe_id := ops.take_fence(max_wait);
  select cursors.last_id into strict after_id from ops.cursors where cursors.name = 'telemetry_events';
  -- Deltas are exact only against counts that hold everything before them.
  perform ops.fill_slis();
  -- Before the attempt, so that what is lost there was lost in counting.
  perform ops.close_periods(as_of);
  if safe_id > after_id then
    counted := ops.count_or_set_aside(after_id, safe_id, max_ids, as_of);
  else
    counted := ops.count_range(after_id, after_id, as_of);
    counted.until_id := after_id;
  end if;

  report := ops.report_refresh(counted, safe_id);
  insert into ops.job_runs (job, started_at, finished_at, outcome, events, kpi_rows, message)
  values (
    'refresh',
    started_at,
    clock_timestamp(),
    case when report.state = 'waiting' then 'waiting' else 'success' end,
    report.events,
    report.hour_rows + report.day_rows + report.week_rows + report.month_rows,
    report.message
  );
  return report;
end;
$$;

revoke execute on function
  ops.sli_key,
  ops.is_restoring,
  ops.is_same_promise,
  ops.require_sli,
  ops.restore_cursor,
  ops.restore_sli,
  ops.restore_sli_day,
  ops.restore_slo_version,
  ops.sum_sli_days
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.is_restoring,
    ops.is_same_promise,
    ops.require_sli,
    ops.restore_cursor,
    ops.restore_sli,
    ops.restore_sli_day,
    ops.restore_slo_version,
    ops.sum_sli_days
  from anon, authenticated, service_role;
end;
$$;

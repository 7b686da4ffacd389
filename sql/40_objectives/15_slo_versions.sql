-- Versions of objectives with a valid-from.

create table ops.slo_versions (
  slo_name text not null,
  version integer not null,
  valid_from timestamptz not null,
  valid_until timestamptz not null default 'infinity',
  sli_id bigint not null,
  service text not null,
  objective text not null,
  target numeric(7, 6) not null,
  rolling_window interval,
  calendar_period text,
  time_zone text,
  budgeting_method text not null,
  time_slice interval,
  slice_target numeric(7, 6),
  expected_interval interval,
  constraint slo_versions_pkey primary key (slo_name, version),
  constraint slo_versions_sli_id_fkey foreign key (sli_id) references ops.slis (sli_id),
  constraint slo_versions_ends_after_it_begins check (valid_from <= valid_until)
);
comment on table ops.slo_versions is 'One row a version of an objective, written by a trigger on ops.slos; an evaluation uses the version that held at its instant.';
comment on column ops.slo_versions.slo_name is 'The objective; it may be gone by now.';
comment on column ops.slo_versions.version is 'Counts from 1.';
comment on column ops.slo_versions.valid_from is 'First instant of the version; -infinity: as long as there are events.';
comment on column ops.slo_versions.valid_until is 'First instant after it; infinity: it holds.';
comment on column ops.slo_versions.sli_id is 'How it counts.';
comment on column ops.slo_versions.service is 'The service that promises.';
comment on column ops.slo_versions.objective is 'availability, latency, error_rate, events or measured.';
comment on column ops.slo_versions.target is 'The share that must be good (ratio).';
comment on column ops.slo_versions.rolling_window is 'How far back it looks; null when it goes by the calendar.';
comment on column ops.slo_versions.calendar_period is 'day, week, month, quarter or year; null when the window rolls.';
comment on column ops.slo_versions.time_zone is 'The time zone of the calendar; null: that of the settings.';
comment on column ops.slo_versions.budgeting_method is 'occurrences or timeslices.';
comment on column ops.slo_versions.time_slice is 'Length of a slice; null with occurrences.';
comment on column ops.slo_versions.slice_target is 'The share of a good slice (ratio); null with occurrences.';
comment on column ops.slo_versions.expected_interval is 'How often input is expected; null: as the setting says.';
alter table ops.slo_versions enable row level security;
create policy slo_versions_select_authenticated on ops.slo_versions for select to authenticated using ((select ops.caller_may('{read}')) is not null);

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
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
immutable
set search_path = ''
as $$
begin
  return (
    slo.service, slo.objective, slo.event_type, slo.target, slo.threshold_ms, slo.rolling_window, slo.calendar_period, slo.time_zone,
    slo.budgeting_method, slo.time_slice, slo.slice_target, slo.expected_interval, slo.at_most, slo.total_labels, slo.good_labels, slo.bad_labels,
    slo.is_enabled, slo.group_by
  ) is not distinct from (
    other.service, other.objective, other.event_type, other.target, other.threshold_ms, other.rolling_window, other.calendar_period,
    other.time_zone, other.budgeting_method, other.time_slice, other.slice_target, other.expected_interval, other.at_most,
    other.total_labels, other.good_labels, other.bad_labels, other.is_enabled, other.group_by
  );
end;
$$;
comment on function ops.is_same_promise(ops.slos, ops.slos) is 'Whether two rows promise the same, whatever they are called and whenever they hold: a change of anything else makes no version.';

create function ops.date_slo_change()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if old.is_enabled and not new.is_enabled then
    -- A change that was planned never comes.
    new.valid_from := now();
    return new;
  end if;
  if ops.is_same_promise(new, old) then
    new.valid_from := old.valid_from;
  elsif not exists (select from ops.slo_versions as version where version.slo_name = old.slo_name) then
    -- The objective was never enabled, so nobody has seen a version of it.
    return new;
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
comment on function ops.date_slo_change() is 'Trigger: a changed definition holds from now on unless it says otherwise, and never from before the last change.';

create trigger slos_date_change
before update on ops.slos
for each row execute function ops.date_slo_change();

create function ops.sli_of(slo ops.slos)
returns ops.slis
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
immutable
set search_path = ''
as $$
declare
  counted ops.slis;
begin
  counted.event_type := slo.event_type;
  counted.objective := slo.objective;
  counted.threshold_ms := slo.threshold_ms;
  counted.at_most := slo.at_most;
  counted.total_labels := slo.total_labels;
  counted.good_labels := slo.good_labels;
  counted.bad_labels := slo.bad_labels;
  counted.group_by := slo.group_by;
  counted.sli_id := ops.sli_key(
    slo.event_type, slo.objective, slo.threshold_ms, slo.at_most, slo.total_labels, slo.good_labels, slo.bad_labels, slo.group_by
  );
  return counted;
end;
$$;
comment on function ops.sli_of(ops.slos) is
  'The SLI by which an objective in canonical form counts, whether or not it is stored; up to when it is filled is null.';

create function ops.require_sli(slo ops.slos)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  counted ops.slis := ops.sli_of(slo);
begin
  -- An SLI has nothing to fill while nothing has been counted; a refresh that is about to count must not pass by.
  if ops.cursor_id() = 0 then
    perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  end if;
  counted.counted_since := '-infinity';
  counted.filled_until := case
    when ops.cursor_id() = 0 and current_setting('transaction_isolation') = 'read committed' then timestamptz 'infinity'
    else timestamptz '-infinity'
  end;
  insert into ops.slis select counted.* on conflict on constraint slis_pkey do nothing;
  -- By the definition and not by its key: two that had the same one would share their counts.
  perform
  from ops.slis as sli
  where sli.sli_id = counted.sli_id
    and to_jsonb(sli) - array['filled_until', 'counted_since'] = to_jsonb(counted) - array['filled_until', 'counted_since'];
  if not found then
    raise exception 'the objective % has the key % of another way of counting', slo.slo_name, counted.sli_id
      using errcode = 'OP001', hint = 'Change its threshold or a label a little: the chance of this is 1 in 10^19.';
  end if;
  return counted.sli_id;
end;
$$;
comment on function ops.require_sli(ops.slos) is
  'The key of the SLI by which an objective counts; one that is new is to be filled. Only the trigger on ops.slos calls it.';

create function ops.end_slo_versions(slo_name text)
returns void
language sql
volatile
set search_path = ''
begin atomic
  -- A change that was planned never comes.
  delete from ops.slo_versions as version
  where version.slo_name = end_slo_versions.slo_name
    and version.valid_from > now();
  update ops.slo_versions as version
  set valid_until = now()
  where version.slo_name = end_slo_versions.slo_name
    and version.valid_until > now();
end;
comment on function ops.end_slo_versions(text) is 'Ends the definition of an objective now; what was before stays.';

create function ops.record_slo_version()
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
  if tg_op = 'DELETE' then
    perform ops.end_slo_versions(old.slo_name);
    return null;
  end if;
  if not new.is_enabled then
    if tg_op = 'UPDATE' and old.is_enabled then
      perform ops.end_slo_versions(new.slo_name);
    end if;
    -- Its events are counted all the same, so that it may be enabled after retention has removed them.
    perform ops.require_sli(new);
    return null;
  end if;
  select * into latest
  from ops.slo_versions as version
  where version.slo_name = new.slo_name
  order by version.version desc
  limit 1;
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
comment on function ops.record_slo_version() is 'Trigger: a new or changed definition is a new version, and how it counts an SLI to be filled; one that is deleted or disabled ends its last version.';

create trigger slos_record_version
after insert or update or delete on ops.slos
for each row execute function ops.record_slo_version();

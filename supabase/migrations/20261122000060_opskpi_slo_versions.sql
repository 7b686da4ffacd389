-- Objectives have versions, calendar windows, time slices and exclusions. What is counted goes by how it is counted (an SLI) and no
-- longer by the objective's name, so that each version keeps its account. What is counted already is kept.

alter table ops.settings drop constraint settings_intervals_are_sensible;
alter table ops.settings add constraint settings_intervals_are_sensible check (
  case
    when name in ('refresh_interval', 'job_runs_kept', 'expected_interval') then value::interval > interval '0' and value::interval <= interval '10 years'
    else true
  end
);
comment on column ops.job_runs.job is 'refresh, alerts, maintain or rebuild.';

alter table ops.agents add column last_event_at timestamptz;
comment on table ops.agents is 'One row an agent that sent events or whose team is known; the team becomes a label of its events from the next refresh on.';
comment on column ops.agents.updated_at is 'When the team was last written.';
comment on column ops.agents.last_event_at is 'Time of its newest event that has been counted; null: none yet.';

create function ops.note_agents(after_id bigint, until_id bigint)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.agents as agent (org_id, agent_id, last_event_at)
  select event.org_id, event.agent_id, max(event.event_timestamp)
  from public.telemetry_events as event
  where event.id > note_agents.after_id
    and event.id <= note_agents.until_id
    and event.agent_id is not null
  group by 1, 2
  on conflict on constraint agents_pkey do update set
    last_event_at = greatest(agent.last_event_at, excluded.last_event_at)
  where agent.last_event_at is distinct from greatest(agent.last_event_at, excluded.last_event_at);
end;
comment on function ops.note_agents(bigint, bigint) is 'Notes when the agents of new events were last heard of; only refresh calls it.';

-- What goes by the name of the objective makes room; the view stays, for what users built on it, and is empty until the end.
create or replace view public.v_ops_slo_status
with (security_invoker = true)
as
select
  null::text as slo_name,
  null::text as service,
  null::text as objective,
  null::text as status,
  null::numeric as target,
  null::numeric as sli,
  null::bigint as good,
  null::bigint as total,
  null::numeric as budget_left,
  null::numeric as burn_rate_1h,
  null::numeric as burn_rate_6h,
  null::numeric as burn_rate_1d,
  null::numeric as burn_rate_3d,
  null::interval as time_to_exhaustion,
  null::bigint as events_needed,
  null::timestamptz as window_start,
  null::timestamptz as evaluated_at,
  null::uuid as org_id
where false;
drop function ops.evaluate_slos(timestamptz);
drop function ops.fill_slos(bigint);
drop function ops.count_stored_units(text[]);
drop function ops.add_slis(ops.sli_delta[]);
drop function ops.unit_slis(ops.unit_delta[]);
drop function ops.count_attempts(bigint, bigint, timestamptz, timestamptz);
drop function ops.count_units(bigint, bigint);
drop type ops.sli_delta;
create table ops.sli_counts_by_name as
select counted.org_id, counted.slo_name, counted.bucket_start, counted.good, counted.total
from ops.sli_counts as counted;
drop table ops.sli_counts;

create table ops.slis (
  sli_id bigint generated always as identity,
  event_type text not null,
  objective text not null,
  threshold_ms numeric,
  filled_until timestamptz not null default '-infinity',
  constraint slis_pkey primary key (sli_id),
  constraint slis_event_type_objective_threshold_ms_key unique nulls not distinct (event_type, objective, threshold_ms),
  constraint slis_objective_check check (objective in ('availability', 'latency', 'error_rate'))
);
comment on table ops.slis is 'One row a way of counting that some version of an objective uses; objectives that count alike share it.';
comment on column ops.slis.sli_id is 'Number of the SLI.';
comment on column ops.slis.event_type is 'The events that are the attempts.';
comment on column ops.slis.objective is 'availability, latency or error_rate.';
comment on column ops.slis.threshold_ms is 'For latency: an attempt is good when it took less (ms); else null.';
comment on column ops.slis.filled_until is
  'Events before this instant are counted, those behind the cursor aside; -infinity: none yet, infinity: all.';
alter table ops.slis enable row level security;

create table ops.services (
  service_name text not null,
  display_name text,
  description text not null default '',
  labels jsonb not null default '{}',
  annotations jsonb not null default '{}',
  constraint services_pkey primary key (service_name),
  constraint services_labels_and_annotations_are_objects check (
    jsonb_typeof(labels) = 'object' and jsonb_typeof(annotations) = 'object'
  )
);
comment on table ops.services is 'One row a service that is described; an objective may name one that is not.';
comment on column ops.services.service_name is 'Its name.';
comment on column ops.services.display_name is 'Its name for people; null: the same.';
comment on column ops.services.description is 'What it is.';
comment on column ops.services.labels is 'Labels of its OpenSLO document, kept for the export.';
comment on column ops.services.annotations is 'Annotations of its OpenSLO document, kept for the export.';
alter table ops.services enable row level security;

alter table ops.slos alter column rolling_window drop not null;
alter table ops.slos add column calendar_period text;
alter table ops.slos add column time_zone text;
alter table ops.slos add column budgeting_method text not null default 'occurrences';
alter table ops.slos add column time_slice interval;
alter table ops.slos add column slice_target numeric(7, 6);
alter table ops.slos add column expected_interval interval;
alter table ops.slos add column indicator_name text;
alter table ops.slos add column display_name text;
alter table ops.slos add column labels jsonb not null default '{}';
alter table ops.slos add column annotations jsonb not null default '{}';
alter table ops.slos add column valid_from timestamptz not null default '-infinity';
alter table ops.slos add constraint slos_window_is_rolling_or_calendar check ((rolling_window is null) = (calendar_period is not null));
alter table ops.slos add constraint slos_calendar_period_check check (calendar_period in ('day', 'week', 'month', 'quarter'));
alter table ops.slos add constraint slos_time_zone_is_known check (
  time_zone is null
  or (calendar_period is not null and (timestamptz '2000-01-01 00:00+00' at time zone time_zone) is not null)
);
alter table ops.slos add constraint slos_budgeting_method_check check (budgeting_method in ('occurrences', 'timeslices'));
alter table ops.slos add constraint slos_timeslices_have_a_slice_and_its_target check (
  (budgeting_method = 'timeslices') = (time_slice is not null)
  and (budgeting_method = 'timeslices') = (slice_target is not null)
);
alter table ops.slos add constraint slos_time_slice_is_a_multiple_of_5_minutes check (
  time_slice between interval '5 minutes' and interval '1 day'
  and extract(epoch from time_slice) % 300 = 0
);
alter table ops.slos add constraint slos_slice_target_is_a_share check (slice_target > 0 and slice_target <= 1);
alter table ops.slos add constraint slos_labels_and_annotations_are_objects check (
  jsonb_typeof(labels) = 'object' and jsonb_typeof(annotations) = 'object'
);
alter table ops.slos add constraint slos_expected_interval_is_sensible check (expected_interval >= interval '5 minutes' and expected_interval <= interval '10 years');
comment on table ops.slos is 'One row a promise as it stands now; the error budget is 1 - target. A change is kept as a version in ops.slo_versions.';
comment on column ops.slos.slo_name is 'Its name.';
comment on column ops.slos.service is 'The service that promises.';
comment on column ops.slos.objective is
  'availability: units of work (the tag, else the run) that succeeded in the end; latency: successful attempts faster than the threshold; error_rate: attempts that succeeded.';
comment on column ops.slos.description is 'The promise in a sentence.';
comment on column ops.slos.event_type is 'The events that are the attempts; only success and failure count.';
comment on column ops.slos.target is 'The share that must be good (ratio).';
comment on column ops.slos.threshold_ms is 'For latency: an attempt is good when it took less (ms).';
comment on column ops.slos.rolling_window is 'How far back the promise looks; null when it goes by the calendar.';
comment on column ops.slos.calendar_period is 'day, week (ISO, from Monday), month or quarter; null when the window rolls.';
comment on column ops.slos.time_zone is 'The time zone of the calendar; null: that of the settings.';
comment on column ops.slos.budgeting_method is
  'occurrences: the budget is spent by bad events; timeslices: by slices of time that are bad. A slice without events is neither.';
comment on column ops.slos.time_slice is 'Length of a slice, aligned to 1969-12-29 00:00 UTC; null with occurrences.';
comment on column ops.slos.slice_target is 'A slice is good when at least this share of it is (ratio); null with occurrences.';
comment on column ops.slos.expected_interval is
  'An input silent for twice this long is no_data; null: as the setting expected_interval says.';
comment on column ops.slos.indicator_name is 'Name of its SLI in OpenSLO; null: its own name.';
comment on column ops.slos.display_name is 'Its name for people; null: the same.';
comment on column ops.slos.labels is 'Labels of its OpenSLO document, kept for the export.';
comment on column ops.slos.annotations is 'Annotations of its OpenSLO document that are not ours, kept for the export.';
comment on column ops.slos.valid_from is 'From when this definition holds; a change that does not say so holds from now on.';

insert into ops.slis (event_type, objective, threshold_ms, filled_until)
select
  slo.event_type,
  slo.objective,
  slo.threshold_ms,
  case
    when ops.cursor_id() = 0 or bool_and(
      slo.counted_as is not distinct from
        jsonb_build_object('event_type', slo.event_type, 'objective', slo.objective, 'threshold_ms', slo.threshold_ms)
    ) then timestamptz 'infinity'
    else timestamptz '-infinity'
  end
from ops.slos as slo
group by 1, 2, 3;
alter table ops.slos drop column counted_as;

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
comment on column ops.slo_versions.objective is 'availability, latency or error_rate.';
comment on column ops.slo_versions.target is 'The share that must be good (ratio).';
comment on column ops.slo_versions.rolling_window is 'How far back it looks; null when it goes by the calendar.';
comment on column ops.slo_versions.calendar_period is 'day, week, month or quarter; null when the window rolls.';
comment on column ops.slo_versions.time_zone is 'The time zone of the calendar; null: that of the settings.';
comment on column ops.slo_versions.budgeting_method is 'occurrences or timeslices.';
comment on column ops.slo_versions.time_slice is 'Length of a slice; null with occurrences.';
comment on column ops.slo_versions.slice_target is 'The share of a good slice (ratio); null with occurrences.';
comment on column ops.slo_versions.expected_interval is 'How often input is expected; null: as the setting says.';
alter table ops.slo_versions enable row level security;

create function ops.date_slo_change()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if (
    new.service, new.objective, new.event_type, new.target, new.threshold_ms, new.rolling_window, new.calendar_period, new.time_zone,
    new.budgeting_method, new.time_slice, new.slice_target, new.expected_interval
  ) is not distinct from (
    old.service, old.objective, old.event_type, old.target, old.threshold_ms, old.rolling_window, old.calendar_period, old.time_zone,
    old.budgeting_method, old.time_slice, old.slice_target, old.expected_interval
  ) then
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
comment on function ops.date_slo_change() is 'Trigger: a changed definition holds from now on unless it says otherwise, and never from before the last change.';

create trigger slos_date_change
before update on ops.slos
for each row execute function ops.date_slo_change();

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
  if tg_op = 'UPDATE' and (new.valid_from = old.valid_from and latest.valid_until = 'infinity') and (
    new.service, new.objective, new.event_type, new.target, new.threshold_ms, new.rolling_window, new.calendar_period, new.time_zone,
    new.budgeting_method, new.time_slice, new.slice_target, new.expected_interval
  ) is not distinct from (
    old.service, old.objective, old.event_type, old.target, old.threshold_ms, old.rolling_window, old.calendar_period, old.time_zone,
    old.budgeting_method, old.time_slice, old.slice_target, old.expected_interval
  ) then
    return null;
  end if;

  -- Where nothing has been counted yet there is nothing to fill; a refresh that is about to count must not pass by.
  if ops.cursor_id() = 0 then
    perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  end if;
  insert into ops.slis (event_type, objective, threshold_ms, filled_until)
  values (
    new.event_type, new.objective, new.threshold_ms,
    case
      when ops.cursor_id() = 0 and current_setting('transaction_isolation') = 'read committed' then timestamptz 'infinity'
      else timestamptz '-infinity'
    end
  )
  on conflict on constraint slis_event_type_objective_threshold_ms_key do nothing;
  select sli.sli_id into strict counted_by
  from ops.slis as sli
  where sli.event_type = new.event_type
    and sli.objective = new.objective
    and sli.threshold_ms is not distinct from new.threshold_ms;

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
comment on function ops.record_slo_version() is 'Trigger: a new or changed definition is a new version, and how it counts an SLI to be filled; a deleted one ends its last version.';

create trigger slos_record_version
after insert or update or delete on ops.slos
for each row execute function ops.record_slo_version();

create table ops.slo_exclusions (
  slo_exclusion_id bigint generated always as identity,
  org_id uuid not null default '00000000-0000-0000-0000-000000000000'::uuid,
  slo_name text not null,
  since timestamptz not null,
  until timestamptz not null,
  reason text not null,
  author text not null,
  created_at timestamptz not null default now(),
  constraint slo_exclusions_pkey primary key (org_id, slo_exclusion_id),
  constraint slo_exclusions_ends_after_it_begins check (since < until and isfinite(since) and isfinite(until)),
  constraint slo_exclusions_lasts_a_year_at_most check (since >= until - interval '8784 hours'),
  constraint slo_exclusions_has_a_reason check (char_length(btrim(reason)) between 1 and 1000),
  constraint slo_exclusions_has_an_author check (char_length(btrim(author)) between 1 and 200)
);
comment on table ops.slo_exclusions is
  'One row a time that an objective''s account leaves out, such as maintenance; applied when reading, so it may be added afterwards.';
comment on column ops.slo_exclusions.slo_exclusion_id is 'Number of the exclusion.';
comment on column ops.slo_exclusions.org_id is 'The tenant.';
comment on column ops.slo_exclusions.slo_name is 'The objective.';
comment on column ops.slo_exclusions.since is 'First instant; the five minutes that hold it are left out whole.';
comment on column ops.slo_exclusions.until is 'First instant after it; the five minutes that it lies in are left out whole.';
comment on column ops.slo_exclusions.reason is 'Why.';
comment on column ops.slo_exclusions.author is 'Who said so.';
comment on column ops.slo_exclusions.created_at is 'When it was added.';
alter table ops.slo_exclusions enable row level security;

create function ops.exclude_from_slo(
  slo_name text,
  since timestamptz,
  until timestamptz,
  reason text,
  author text,
  org_id uuid default '00000000-0000-0000-0000-000000000000'::uuid
)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  exclusion_id bigint;
begin
  if not exists (select from ops.slos where slos.slo_name = exclude_from_slo.slo_name) then
    raise exception 'there is no objective %', coalesce(exclude_from_slo.slo_name, '')
      using errcode = 'OP001', hint = 'opskpi slo lists them.';
  end if;
  if (
    isfinite(exclude_from_slo.since) and isfinite(exclude_from_slo.until)
    and exclude_from_slo.since < exclude_from_slo.until
    and exclude_from_slo.since + interval '366 days' >= exclude_from_slo.until
  ) is not true then
    raise exception 'the time to leave out is empty or longer than a year: % to %', exclude_from_slo.since, exclude_from_slo.until
      using errcode = 'OP001', hint = 'Pass since before until; the range is half-open.';
  end if;
  if coalesce(btrim(exclude_from_slo.reason), '') = '' or coalesce(btrim(exclude_from_slo.author), '') = '' then
    raise exception 'an exclusion needs a reason and an author'
      using errcode = 'OP001', hint = 'Say why, and who says so: budgets are read by others.';
  end if;
  insert into ops.slo_exclusions (org_id, slo_name, since, until, reason, author)
  values (
    exclude_from_slo.org_id, exclude_from_slo.slo_name, exclude_from_slo.since, exclude_from_slo.until,
    exclude_from_slo.reason, exclude_from_slo.author
  )
  returning slo_exclusions.slo_exclusion_id into exclusion_id;
  return exclusion_id;
end;
$$;
comment on function ops.exclude_from_slo(text, timestamptz, timestamptz, text, text, uuid) is
  'Leaves a time out of an objective''s account for one org; returns the number of the exclusion.';

insert into ops.slo_versions (slo_name, version, valid_from, sli_id, service, objective, target, rolling_window, budgeting_method)
select slo.slo_name, 1, slo.valid_from, sli.sli_id, slo.service, slo.objective, slo.target, slo.rolling_window, slo.budgeting_method
from ops.slos as slo
join ops.slis as sli
  on sli.event_type = slo.event_type
  and sli.objective = slo.objective
  and sli.threshold_ms is not distinct from slo.threshold_ms;

revoke execute on function
  ops.date_slo_change(),
  ops.record_slo_version(),
  ops.exclude_from_slo(text, timestamptz, timestamptz, text, text, uuid)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.slis, ops.services, ops.slo_versions, ops.slo_exclusions from anon, authenticated, service_role;
  grant select on ops.slis, ops.services, ops.slo_versions, ops.slo_exclusions to authenticated, service_role;
  create policy slis_select_authenticated on ops.slis for select to authenticated using (true);
  create policy services_select_authenticated on ops.services for select to authenticated using (true);
  create policy slo_versions_select_authenticated on ops.slo_versions for select to authenticated using (true);
  create policy slo_exclusions_select_own_org on ops.slo_exclusions for select to authenticated
    using (org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.date_slo_change(),
    ops.record_slo_version(),
    ops.exclude_from_slo(text, timestamptz, timestamptz, text, text, uuid)
  from anon, authenticated, service_role;
end;
$$;

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

insert into ops.sli_counts (org_id, sli_id, bucket_start, good, total)
select distinct on (counted.org_id, version.sli_id, counted.bucket_start)
  counted.org_id,
  version.sli_id,
  counted.bucket_start,
  counted.good,
  counted.total
from ops.sli_counts_by_name as counted
join ops.slo_versions as version
  on version.slo_name = counted.slo_name
join ops.slis as sli
  on sli.sli_id = version.sli_id
where sli.filled_until = 'infinity'
order by counted.org_id, version.sli_id, counted.bucket_start;
drop table ops.sli_counts_by_name;

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

create type ops.sli_delta as (
  org_id uuid,
  sli_id bigint,
  bucket_start timestamptz,
  good bigint,
  total bigint
);
comment on type ops.sli_delta is 'What is to be added to one row of ops.sli_counts; negative where a unit of work moves.';

create or replace view ops.attempts
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

create function ops.unit_slis(units ops.unit_delta[])
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  with compared as (
    select
      unit.org_id,
      unit.event_type,
      stored.unit is not null as is_known,
      stored.first_attempt_at as old_first_attempt_at,
      stored.succeeded as old_succeeded,
      least(stored.first_attempt_at, unit.first_attempt_at) as first_attempt_at,
      coalesce(stored.succeeded, false) or unit.succeeded as succeeded
    from unnest(unit_slis.units) as unit
    -- One look-up a unit: a join may read all units that ever were, and the cost must follow the new ones.
    left join lateral (
      select work_unit.unit, work_unit.first_attempt_at, work_unit.succeeded
      from ops.work_units as work_unit
      where work_unit.org_id = unit.org_id
        and work_unit.event_type = unit.event_type
        and work_unit.unit = unit.unit
      limit 1
    ) as stored on true
  ),
  moved as (
    select compared.org_id, compared.event_type, compared.first_attempt_at, compared.succeeded::integer as good, 1 as total
    from compared
    union all
    select compared.org_id, compared.event_type, compared.old_first_attempt_at, -compared.old_succeeded::integer, -1
    from compared
    where compared.is_known
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
comment on function ops.unit_slis(ops.unit_delta[]) is
  'What new attempts at units of work change in the counts of the availability SLIs, five minutes by five minutes.';

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
  units ops.unit_delta[];
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
    units := array(select attempted from ops.count_units(0, last_id, stretch.since, fill_slis.until, stretch.sli_ids) as attempted);
    perform ops.add_slis(array(select delta from ops.unit_slis(units) as delta));
    perform ops.add_units(units);
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
  ops.count_attempts(bigint, bigint, timestamptz, timestamptz, bigint[]),
  ops.count_units(bigint, bigint, timestamptz, timestamptz, bigint[]),
  ops.unit_slis(ops.unit_delta[]),
  ops.add_slis(ops.sli_delta[]),
  ops.recount_units(),
  ops.fill_slis(timestamptz)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.sli_counts, ops.slo_counts from anon, authenticated, service_role;
  grant select on ops.sli_counts, ops.slo_counts to authenticated, service_role;
  create policy sli_counts_select_own_org on ops.sli_counts for select to authenticated
    using (org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.count_attempts(bigint, bigint, timestamptz, timestamptz, bigint[]),
    ops.count_units(bigint, bigint, timestamptz, timestamptz, bigint[]),
    ops.unit_slis(ops.unit_delta[]),
    ops.add_slis(ops.sli_delta[]),
      ops.recount_units(),
    ops.fill_slis(timestamptz)
  from anon, authenticated, service_role;
  grant execute on function
    ops.count_attempts(bigint, bigint, timestamptz, timestamptz, bigint[]),
    ops.count_units(bigint, bigint, timestamptz, timestamptz, bigint[]),
    ops.unit_slis(ops.unit_delta[])
  to authenticated, service_role;
end;
$$;

create function ops.is_overspent(good numeric, total numeric, target numeric)
returns boolean
language sql
immutable
set search_path = ''
return (total - good) > (1 - target) * greatest(total, ceil(1 / (1 - target)));
comment on function ops.is_overspent(numeric, numeric, numeric) is
  'Whether more is bad than the budget allows, even if all that is still needed to judge turns out good: 2 of 10 at 99.9 %, not 1 of 10.';

create function ops.in_hours(length interval)
returns interval
language sql
immutable
set search_path = ''
return make_interval(secs => extract(epoch from length)::double precision);
comment on function ops.in_hours(interval) is
  'The same length without days, since a day of the session''s time zone may have 23 or 25 hours.';

create function ops.slo_window_start(rolling_window interval, calendar_period text, time_zone text, as_of timestamptz)
returns timestamptz
language sql
stable
set search_path = ''
return case
  when calendar_period is null then as_of - ops.in_hours(rolling_window)
  else date_trunc(calendar_period, as_of, coalesce(time_zone, ops.time_zone()))
end;
comment on function ops.slo_window_start(interval, text, text, timestamptz) is
  'First instant of the window that an objective looks at as of an instant: so far back, or the start of its calendar period.';

create function ops.slo_window_length(rolling_window interval, calendar_period text, time_zone text, as_of timestamptz)
returns interval
language sql
stable
set search_path = ''
return case
  when calendar_period is null then ops.in_hours(rolling_window)
  else make_interval(secs => (
    select extract(
      epoch from
      (local_period.starts_at + case calendar_period when 'quarter' then interval '3 months' else ('1 ' || calendar_period)::interval end)
        at time zone local_period.zone
      - local_period.starts_at at time zone local_period.zone
    )
    from (
      select
        date_trunc(calendar_period, as_of at time zone named.zone) as starts_at,
        named.zone
      from (select coalesce(time_zone, ops.time_zone()) as zone) as named
    ) as local_period
  )::double precision)
end;
comment on function ops.slo_window_length(interval, text, text, timestamptz) is
  'How long the whole window is, in hours: a calendar month has 672 to 745.';

create function ops.fresh_slis()
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select delta.*
  from ops.count_attempts(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as delta
  union all
  select delta.*
  from ops.unit_slis(array(
    select attempted from ops.count_units(ops.cursor_id(), 9223372036854775807) as attempted
  )) as delta;
end;
comment on function ops.fresh_slis() is 'What the events behind the cursor add to the SLI counts, as the next refresh would.';

create function ops.is_burning(long_burn numeric, short_burn numeric, factor numeric)
returns boolean
language sql
immutable
set search_path = ''
return long_burn > factor and coalesce(short_burn > factor, true);
comment on function ops.is_burning(numeric, numeric, numeric) is
  'Whether both windows burn faster than factor: the long one says that it matters, the short one that it goes on. A short window without events says nothing against it; a long one without gives null.';

create type ops.slo_span as (
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz
);
comment on type ops.slo_span is 'A time over which to sum what a version of an objective counts: the five minutes that begin in it.';

create function ops.sum_slos(spans ops.slo_span[], fresh ops.sli_delta[] default '{}')
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with fresh as materialized (
    select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
    from unnest(sum_slos.fresh) as delta
  ),
  asked as (
    select span.org_id, span.slo_name, span.version, min(span.since) as since, max(span.until) as until
    from unnest(sum_slos.spans) as span
    group by 1, 2, 3
  ),
  -- Exclusions may overlap; what is left out is left out once.
  excluded as materialized (
    select distinct
      asked.org_id,
      asked.slo_name,
      asked.version,
      bucket.is_fresh,
      bucket.bucket_start,
      bucket.good,
      bucket.total
    from asked
    join ops.slo_exclusions as exclusion
      on exclusion.org_id = asked.org_id
      and exclusion.slo_name = asked.slo_name
      and exclusion.until > asked.since
      and exclusion.since < asked.until
    join ops.slo_versions as version
      on version.slo_name = asked.slo_name
      and version.version = asked.version
    cross join lateral (
      select false as is_fresh, stored.bucket_start, stored.good, stored.total
      from ops.sli_counts as stored
      where stored.org_id = exclusion.org_id
        and stored.sli_id = version.sli_id
        and stored.bucket_start > greatest(exclusion.since, asked.since) - interval '5 minutes'
        and stored.bucket_start < least(exclusion.until, asked.until)
      union all
      select true, fresh.bucket_start, fresh.good, fresh.total
      from fresh
      where fresh.org_id = exclusion.org_id
        and fresh.sli_id = version.sli_id
        and fresh.bucket_start > greatest(exclusion.since, asked.since) - interval '5 minutes'
        and fresh.bucket_start < least(exclusion.until, asked.until)
    ) as bucket
  ),
  extra as materialized (
    select fresh.org_id, version.slo_name, version.version, fresh.bucket_start, fresh.good, fresh.total, false as is_exclusion
    from fresh
    join ops.slo_versions as version
      on version.sli_id = fresh.sli_id
    union all
    select excluded.org_id, excluded.slo_name, excluded.version, excluded.bucket_start, -excluded.good, -excluded.total, true
    from excluded
  )
  select
    span.org_id,
    span.slo_name,
    span.version,
    span.since,
    span.until,
    coalesce(sliced.good, coalesce(stored.good, 0) + coalesce(added.good, 0)),
    coalesce(sliced.total, coalesce(stored.total, 0) + coalesce(added.total, 0)),
    coalesce(sliced.good_unadjusted, coalesce(stored.good, 0) + coalesce(added.good_unadjusted, 0)),
    coalesce(sliced.total_unadjusted, coalesce(stored.total, 0) + coalesce(added.total_unadjusted, 0))
  from unnest(sum_slos.spans) as span
  join ops.slo_versions as version
    on version.slo_name = span.slo_name
    and version.version = span.version
  -- A sum and nothing else: this is where the time goes.
  cross join lateral (
    select sum(bucket.good)::bigint as good, sum(bucket.total)::bigint as total
    from ops.sli_counts as bucket
    where bucket.org_id = span.org_id
      and bucket.sli_id = version.sli_id
      and bucket.bucket_start >= span.since
      and bucket.bucket_start < span.until
      and version.time_slice is null
    offset 0
  ) as stored
  cross join lateral (
    select
      sum(extra.good)::bigint as good,
      sum(extra.total)::bigint as total,
      sum(extra.good) filter (where not extra.is_exclusion)::bigint as good_unadjusted,
      sum(extra.total) filter (where not extra.is_exclusion)::bigint as total_unadjusted
    from extra
    where extra.org_id = span.org_id
      and extra.slo_name = span.slo_name
      and extra.version = span.version
      and extra.bucket_start >= span.since
      and extra.bucket_start < span.until
    offset 0
  ) as added
  left join lateral (
    with slices as (
      select
        sum(counted.good) as good,
        sum(counted.total) as total,
        sum(counted.good) filter (where not counted.is_exclusion) as good_unadjusted,
        sum(counted.total) filter (where not counted.is_exclusion) as total_unadjusted
      from (
        select bucket.bucket_start, bucket.good, bucket.total, false as is_exclusion
        from ops.sli_counts as bucket
        where bucket.org_id = span.org_id
          and bucket.sli_id = version.sli_id
          and bucket.bucket_start >= span.since
          and bucket.bucket_start < span.until
          -- Here and not only below, or the slices are counted for those who have none.
          and version.time_slice is not null
        union all
        select extra.bucket_start, extra.good, extra.total, extra.is_exclusion
        from extra
        where extra.org_id = span.org_id
          and extra.slo_name = span.slo_name
          and extra.version = span.version
          and extra.bucket_start >= span.since
          and extra.bucket_start < span.until
      ) as counted
      group by date_bin(version.time_slice, counted.bucket_start, timestamptz '1969-12-29 00:00+00')
    )
    select
      count(*) filter (where slices.total > 0 and slices.good >= version.slice_target * slices.total) as good,
      count(*) filter (where slices.total > 0) as total,
      count(*) filter (where slices.total_unadjusted > 0 and slices.good_unadjusted >= version.slice_target * slices.total_unadjusted)
        as good_unadjusted,
      count(*) filter (where slices.total_unadjusted > 0) as total_unadjusted
    from slices
  ) as sliced
    on version.time_slice is not null;
end;
comment on function ops.sum_slos(ops.slo_span[], ops.sli_delta[]) is
  'Good and total of each span, in events or in time slices as the version says, exclusions applied and (unadjusted) not; fresh is added to what is stored. One row a span.';

create function ops.evaluate_slos(as_of timestamptz, with_fresh boolean default true, slo_names text[] default null)
returns table (
  org_id uuid,
  slo_name text,
  service text,
  objective text,
  status text,
  target numeric,
  sli numeric,
  good bigint,
  total bigint,
  budget_left numeric,
  burn_rate_1h numeric,
  burn_rate_6h numeric,
  burn_rate_1d numeric,
  burn_rate_3d numeric,
  time_to_exhaustion interval,
  events_needed bigint,
  window_start timestamptz,
  evaluated_at timestamptz,
  version integer,
  budgeting_method text,
  window_length interval,
  last_counted_at timestamptz,
  good_unadjusted bigint,
  total_unadjusted bigint,
  budget_left_unadjusted numeric
)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with fresh as materialized (
    select delta.* from ops.fresh_slis() as delta where evaluate_slos.with_fresh
  ),
  orgs as (
    select series.org_id from ops.series
    union
    select fresh.org_id from fresh
    union
    -- Before the first event there is the caller's org to show without data.
    select caller.org_id
    from (select ops.current_org_id() as org_id) as caller
    where caller.org_id is not null
      and not exists (select from ops.series)
  ),
  judged as materialized (
    select
      orgs.org_id,
      version.*,
      ops.slo_window_length(version.rolling_window, version.calendar_period, version.time_zone, evaluate_slos.as_of) as window_length,
      -- A window begins with the five minutes that hold its first instant.
      date_bin(
        '5 minutes',
        ops.slo_window_start(version.rolling_window, version.calendar_period, version.time_zone, evaluate_slos.as_of),
        timestamptz '1969-12-29 00:00+00'
      ) as window_start
    from orgs
    cross join ops.slo_versions as version
    where version.valid_from <= evaluate_slos.as_of
      and version.valid_until > evaluate_slos.as_of
      and (evaluate_slos.slo_names is null or version.slo_name = any (evaluate_slos.slo_names))
  ),
  spans as materialized (
    select
      judged.org_id,
      judged.slo_name,
      judged.version,
      judged.target,
      windows.name,
      case windows.name
        when 'all' then judged.window_start
        else date_bin('5 minutes', evaluate_slos.as_of - windows.length, timestamptz '1969-12-29 00:00+00')
      end as since
    from judged
    cross join (
      values
        ('all', interval '0'),
        ('5m', interval '5 minutes'),
        ('30m', interval '30 minutes'),
        ('1h', interval '1 hour'),
        ('6h', interval '6 hours'),
        ('1d', interval '24 hours'),
        ('3d', interval '72 hours')
    ) as windows (name, length)
  ),
  sums as materialized (
    select summed.*
    from ops.sum_slos(
      array(
        select distinct
          row(
            spans.org_id, spans.slo_name, spans.version, spans.since,
            date_bin('5 minutes', evaluate_slos.as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
          )::ops.slo_span
        from spans
      ),
      array(select row(fresh.*)::ops.sli_delta from fresh)
    ) as summed
  ),
  measured as (
    select
      spans.org_id,
      spans.slo_name,
      max(sums.good) filter (where spans.name = 'all') as good,
      max(sums.total) filter (where spans.name = 'all') as total,
      max(sums.good_unadjusted) filter (where spans.name = 'all') as good_unadjusted,
      max(sums.total_unadjusted) filter (where spans.name = 'all') as total_unadjusted,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '5m') as burn_5m,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '30m') as burn_30m,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '1h') as burn_1h,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '6h') as burn_6h,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '1d') as burn_1d,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '3d') as burn_3d
    from spans
    join sums
      on sums.org_id = spans.org_id
      and sums.slo_name = spans.slo_name
      and sums.since = spans.since
    group by 1, 2
  ),
  summed as (
    select
      judged.*,
      measured.good,
      measured.total,
      measured.good_unadjusted,
      measured.total_unadjusted,
      measured.burn_1h,
      measured.burn_6h,
      measured.burn_1d,
      measured.burn_3d,
      ops.is_burning(measured.burn_1h, measured.burn_5m, ops.alert_factor(0.02, judged.window_length, interval '1 hour'))
        or ops.is_burning(measured.burn_6h, measured.burn_30m, ops.alert_factor(0.05, judged.window_length, interval '6 hours'))
        as is_burning,
      newest.last_counted_at,
      -- From the start of its five minutes, so that two intervals are never exceeded.
      newest.last_counted_at
        < evaluate_slos.as_of - 2 * ops.in_hours(coalesce(judged.expected_interval, ops.setting('expected_interval')::interval)) as is_silent
    from judged
    join measured
      on measured.org_id = judged.org_id
      and measured.slo_name = judged.slo_name
    cross join lateral (
      select max(counted.bucket_start) as last_counted_at
      from (
        (
          select bucket.bucket_start
          from ops.sli_counts as bucket
          where bucket.org_id = judged.org_id
            and bucket.sli_id = judged.sli_id
            and bucket.bucket_start <= evaluate_slos.as_of
            and not exists (
              select
              from fresh
              where fresh.org_id = bucket.org_id
                and fresh.sli_id = bucket.sli_id
                and fresh.bucket_start = bucket.bucket_start
                and fresh.total = -bucket.total
            )
          order by bucket.bucket_start desc
          limit 1
        )
        union all
        select fresh.bucket_start
        from fresh
        where fresh.org_id = judged.org_id
          and fresh.sli_id = judged.sli_id
          and fresh.bucket_start <= evaluate_slos.as_of
          and fresh.total > 0
      ) as counted
    ) as newest
  ),
  jobs as (
    select max(run.finished_at) as last_run_at
    from ops.job_runs as run
    where run.job = 'refresh'
      and run.outcome in ('success', 'waiting')
  )
  select
    summed.org_id,
    summed.slo_name,
    summed.service,
    summed.objective,
    case
      when jobs.last_run_at is null and summed.total = 0 then 'no_data'
      when jobs.last_run_at is null
        or jobs.last_run_at < evaluate_slos.as_of - 2 * ops.refresh_interval()
        then 'stale'
      when summed.total = 0 or summed.is_silent then 'no_data'
      when ops.is_overspent(summed.good, summed.total, summed.target) then 'breached'
      when summed.total < ops.events_to_judge(summed.target) then 'insufficient'
      when ops.budget_left(summed.good, summed.total, summed.target) < 0.25 or summed.is_burning then 'at_risk'
      else 'ok'
    end,
    summed.target,
    summed.good::numeric / nullif(summed.total, 0),
    summed.good,
    summed.total,
    ops.budget_left(summed.good, summed.total, summed.target),
    summed.burn_1h,
    summed.burn_6h,
    summed.burn_1d,
    summed.burn_3d,
    ops.time_to_exhaustion(
      summed.window_length, summed.burn_1d, ops.budget_left(summed.good, summed.total, summed.target)
    ),
    greatest(ops.events_to_judge(summed.target) - summed.total, 0),
    summed.window_start,
    evaluate_slos.as_of,
    summed.version,
    summed.budgeting_method,
    summed.window_length,
    summed.last_counted_at,
    summed.good_unadjusted,
    summed.total_unadjusted,
    ops.budget_left(summed.good_unadjusted, summed.total_unadjusted, summed.target)
  from summed
  cross join jobs;
end;
comment on function ops.evaluate_slos(timestamptz, boolean, text[]) is
  'One row an org and objective, by the version that held at as_of: status (ok, at_risk, breached, insufficient, no_data, stale), counts of its window, budget and burn rates; with_fresh adds the events behind the cursor; slo_names null: all.';

revoke execute on function
  ops.is_overspent(numeric, numeric, numeric),
  ops.in_hours(interval),
  ops.slo_window_start(interval, text, text, timestamptz),
  ops.slo_window_length(interval, text, text, timestamptz),
  ops.fresh_slis(),
  ops.is_burning(numeric, numeric, numeric),
  ops.sum_slos(ops.slo_span[], ops.sli_delta[]),
  ops.evaluate_slos(timestamptz, boolean, text[])
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.is_overspent(numeric, numeric, numeric),
    ops.in_hours(interval),
    ops.slo_window_start(interval, text, text, timestamptz),
    ops.slo_window_length(interval, text, text, timestamptz),
    ops.fresh_slis(),
    ops.is_burning(numeric, numeric, numeric),
    ops.sum_slos(ops.slo_span[], ops.sli_delta[]),
    ops.evaluate_slos(timestamptz, boolean, text[])
  from anon, authenticated, service_role;
  grant execute on function
    ops.is_overspent(numeric, numeric, numeric),
    ops.in_hours(interval),
    ops.slo_window_start(interval, text, text, timestamptz),
    ops.slo_window_length(interval, text, text, timestamptz),
    ops.fresh_slis(),
    ops.is_burning(numeric, numeric, numeric),
    ops.sum_slos(ops.slo_span[], ops.sli_delta[]),
    ops.evaluate_slos(timestamptz, boolean, text[])
  to authenticated, service_role;
end;
$$;

create function ops.is_excluded(org_id uuid, slo_name text, bucket_start timestamptz)
returns boolean
language sql
stable
set search_path = ''
return exists (
  select
  from ops.slo_exclusions as exclusion
  where exclusion.org_id = is_excluded.org_id
    and exclusion.slo_name = is_excluded.slo_name
    and exclusion.since < is_excluded.bucket_start + interval '5 minutes'
    and exclusion.until > is_excluded.bucket_start
);
comment on function ops.is_excluded(uuid, text, timestamptz) is 'Whether the objective''s account leaves these five minutes out.';

create function ops.daily_slos(spans ops.slo_span[])
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
)
language sql
stable
set search_path = ''
begin atomic
  with excluded as materialized (
    select distinct
      exclusion.org_id,
      exclusion.slo_name,
      bucket.starts_at
    from ops.slo_exclusions as exclusion
    cross join lateral generate_series(
      date_bin('5 minutes', exclusion.since, timestamptz '1969-12-29 00:00+00'),
      exclusion.until - interval '1 microsecond',
      interval '5 minutes'
    ) as bucket (starts_at)
  ),
  counted as (
    select
      span.org_id,
      span.slo_name,
      span.version,
      version.slice_target,
      coalesce(
        date_bin(version.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
        bucket.bucket_start
      ) as slice_start,
      bucket.good,
      bucket.total,
      excluded.starts_at is not null as is_excluded
    from unnest(daily_slos.spans) as span
    join ops.slo_versions as version
      on version.slo_name = span.slo_name
      and version.version = span.version
    join ops.sli_counts as bucket
      on bucket.org_id = span.org_id
      and bucket.sli_id = version.sli_id
      and bucket.bucket_start >= span.since
      and bucket.bucket_start < span.until
    left join excluded
      on excluded.org_id = span.org_id
      and excluded.slo_name = span.slo_name
      and excluded.starts_at = bucket.bucket_start
  ),
  sliced as (
    select
      counted.org_id,
      counted.slo_name,
      counted.version,
      counted.slice_target,
      counted.slice_start,
      coalesce(sum(counted.good) filter (where not counted.is_excluded), 0) as good,
      coalesce(sum(counted.total) filter (where not counted.is_excluded), 0) as total,
      sum(counted.good) as good_unadjusted,
      sum(counted.total) as total_unadjusted
    from counted
    group by 1, 2, 3, 4, 5
  )
  select
    sliced.org_id,
    sliced.slo_name,
    sliced.version,
    ops.period_start('day', sliced.slice_start, ops.time_zone()),
    sum(case
      when sliced.slice_target is null then sliced.good
      else (sliced.total > 0 and sliced.good >= sliced.slice_target * sliced.total)::integer
    end)::bigint,
    sum(case when sliced.slice_target is null then sliced.total else (sliced.total > 0)::integer end)::bigint,
    sum(case
      when sliced.slice_target is null then sliced.good_unadjusted
      else (sliced.total_unadjusted > 0 and sliced.good_unadjusted >= sliced.slice_target * sliced.total_unadjusted)::integer
    end)::bigint,
    sum(case when sliced.slice_target is null then sliced.total_unadjusted else (sliced.total_unadjusted > 0)::integer end)::bigint
  from sliced
  group by 1, 2, 3, 4;
end;
comment on function ops.daily_slos(ops.slo_span[]) is
  'Good and total of each span by day, in events or time slices as the version says, exclusions applied and (unadjusted) not; days without events have no row.';

create function ops.slo_history()
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  target numeric,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
)
language sql
stable
set search_path = ''
begin atomic
  select
    daily.org_id,
    daily.slo_name,
    daily.version,
    daily.day_start,
    version.target,
    daily.good,
    daily.total,
    daily.good_unadjusted,
    daily.total_unadjusted
  from ops.daily_slos(array(
    select row(counting.org_id, version.slo_name, version.version, version.valid_from, version.valid_until)::ops.slo_span
    from (select distinct series.org_id from ops.series) as counting
    cross join ops.slo_versions as version
  )) as daily
  join ops.slo_versions as version
    on version.slo_name = daily.slo_name
    and version.version = daily.version;
end;
comment on function ops.slo_history() is 'Good and total of each objective by day, each day by the version that held then.';

create function ops.slo_burndown(as_of timestamptz)
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  good bigint,
  total bigint,
  consumed numeric,
  budget_left numeric
)
language sql
stable
set search_path = ''
begin atomic
  with spans as (
    select
      counting.org_id,
      version.slo_name,
      version.version,
      date_bin(
        '5 minutes',
        ops.slo_window_start(version.rolling_window, version.calendar_period, version.time_zone, slo_burndown.as_of),
        timestamptz '1969-12-29 00:00+00'
      ) as since,
      date_bin('5 minutes', slo_burndown.as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes' as until
    from (select distinct series.org_id from ops.series) as counting
    cross join ops.slo_versions as version
    where version.valid_from <= slo_burndown.as_of
      and version.valid_until > slo_burndown.as_of
  )
  select
    daily.org_id,
    daily.slo_name,
    daily.version,
    daily.day_start,
    daily.good,
    daily.total,
    (daily.total - daily.good) / nullif((1 - version.target) * sum(daily.total) over whole, 0),
    1 - sum(daily.total - daily.good) over so_far / nullif((1 - version.target) * sum(daily.total) over whole, 0)
  from ops.daily_slos(array(
    select row(spans.org_id, spans.slo_name, spans.version, spans.since, spans.until)::ops.slo_span from spans
  )) as daily
  join ops.slo_versions as version
    on version.slo_name = daily.slo_name
    and version.version = daily.version
  window
    whole as (partition by daily.org_id, daily.slo_name),
    so_far as (partition by daily.org_id, daily.slo_name order by daily.day_start);
end;
comment on function ops.slo_burndown(timestamptz) is
  'What each day of the running window consumed of the budget of the whole window, and what was left after it; the last row is the budget left now.';

create function ops.explain_slo(
  slo_name text,
  since timestamptz,
  until timestamptz,
  only_org_id uuid default null
)
returns table (
  org_id uuid,
  version integer,
  event_timestamp timestamptz,
  event_id uuid,
  event_type text,
  run_id bigint,
  tag text,
  reason text,
  cost numeric
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  asked ops.slo_versions;
  sli ops.slis;
  from_bucket timestamptz;
  to_bucket timestamptz;
begin
  if explain_slo.since is null or explain_slo.until is null or explain_slo.since >= explain_slo.until then
    raise exception 'the range to explain is empty: % to %', explain_slo.since, explain_slo.until
      using errcode = 'OP001', hint = 'Pass since before until; the range is half-open.';
  end if;
  select known.* into asked
  from ops.slo_versions as known
  where known.slo_name = explain_slo.slo_name
    and known.valid_from < explain_slo.until
  order by known.version desc
  limit 1;
  if asked.slo_name is null then
    raise exception 'there was no objective % before %', coalesce(explain_slo.slo_name, ''), explain_slo.until
      using errcode = 'OP001', hint = 'opskpi slo lists them.';
  end if;
  select known.* into strict sli from ops.slis as known where known.sli_id = asked.sli_id;
  from_bucket := case
    when isfinite(explain_slo.since) then date_bin('5 minutes', explain_slo.since, timestamptz '1969-12-29 00:00+00')
    else explain_slo.since
  end;
  to_bucket := case
    when isfinite(explain_slo.until)
      then date_bin('5 minutes', explain_slo.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
    else explain_slo.until
  end;

  return query
  with counted as materialized (
    select
      bucket.org_id,
      coalesce(date_bin(asked.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'), from_bucket) as slice_start,
      sum(bucket.good) as good,
      sum(bucket.total) as total
    from ops.sli_counts as bucket
    where bucket.sli_id = asked.sli_id
      and (explain_slo.only_org_id is null or bucket.org_id = explain_slo.only_org_id)
      and bucket.bucket_start >= from_bucket
      and bucket.bucket_start < to_bucket
      and not ops.is_excluded(bucket.org_id, asked.slo_name, bucket.bucket_start)
    group by 1, 2
  ),
  accounts as (
    -- In time slices a slice is what counts, else an event is.
    select
      counted.org_id,
      case when asked.time_slice is null then sum(counted.total) else count(*) filter (where counted.total > 0) end as total
    from counted
    group by 1
  ),
  lost_units as materialized (
    select unit.org_id, unit.unit, unit.first_attempt_at
    from ops.work_units as unit
    where sli.objective = 'availability'
      and unit.event_type = sli.event_type
      and not unit.succeeded
      and unit.first_attempt_at >= from_bucket
      and unit.first_attempt_at < to_bucket
      and (explain_slo.only_org_id is null or unit.org_id = explain_slo.only_org_id)
  ),
  bad as (
    select
      attempt.org_id,
      attempt.event_timestamp as counted_at,
      attempt.event_timestamp,
      attempt.event_id,
      attempt.run_id,
      attempt.tag,
      case sli.objective when 'latency' then format('took %s ms, the limit is %s ms', attempt.duration_ms, sli.threshold_ms) else 'failed' end
        as reason
    from ops.attempts as attempt
    where sli.objective <> 'availability'
      and attempt.event_type = sli.event_type
      and attempt.id <= ops.cursor_id()
      and attempt.event_timestamp < sli.filled_until
      and attempt.event_timestamp >= from_bucket
      and attempt.event_timestamp < to_bucket
      and (explain_slo.only_org_id is null or attempt.org_id = explain_slo.only_org_id)
      and case sli.objective
        when 'latency' then attempt.succeeded and attempt.duration_ms >= sli.threshold_ms
        else not attempt.succeeded
      end
    union all
    -- A unit of work costs once, however often it was tried; its last attempt stands for it.
    select last_tried.*
    from (
      select distinct on (lost_units.org_id, lost_units.unit)
        lost_units.org_id,
        lost_units.first_attempt_at,
        attempt.event_timestamp,
        attempt.event_id,
        attempt.run_id,
        attempt.tag,
        'never succeeded'
      from lost_units
      join ops.attempts as attempt
        on attempt.org_id = lost_units.org_id
        and attempt.unit = lost_units.unit
        and attempt.event_type = sli.event_type
        and attempt.event_timestamp >= from_bucket
        and attempt.id <= ops.cursor_id()
        and attempt.event_timestamp < sli.filled_until
      order by lost_units.org_id, lost_units.unit, attempt.event_timestamp desc, attempt.event_id
    ) as last_tried
  ),
  placed as (
    select
      bad.*,
      coalesce(
        date_bin(asked.time_slice, bad.counted_at, timestamptz '1969-12-29 00:00+00'),
        from_bucket
      ) as slice_start
    from bad
    where not ops.is_excluded(bad.org_id, asked.slo_name, date_bin('5 minutes', bad.counted_at, timestamptz '1969-12-29 00:00+00'))
  ),
  numbered as (
    select
      placed.*,
      row_number() over (partition by placed.org_id order by placed.counted_at, placed.event_id) as place,
      row_number() over (partition by placed.org_id, placed.slice_start order by placed.counted_at, placed.event_id) as place_in_slice,
      count(*) over (partition by placed.org_id, placed.slice_start) as bad_in_slice,
      dense_rank() over (partition by placed.org_id order by placed.slice_start) as slice_number
    from placed
    join counted
      on counted.org_id = placed.org_id
      and counted.slice_start = placed.slice_start
    where asked.time_slice is null
      or counted.good < asked.slice_target * counted.total
  ),
  weighed as (
    -- What had been lost after each event; the cost is the difference to the one before, so that costs add up exactly.
    select
      numbered.*,
      case
        when asked.time_slice is null then numbered.place
        when numbered.place_in_slice = numbered.bad_in_slice then numbered.slice_number
        else numbered.slice_number - 1 + numbered.place_in_slice::numeric / numbered.bad_in_slice
      end as lost_so_far
    from numbered
  ),
  burnt as (
    select weighed.*, weighed.lost_so_far / (accounts.total * (1 - asked.target)) as consumed_so_far
    from weighed
    join accounts
      on accounts.org_id = weighed.org_id
  )
  select
    burnt.org_id,
    asked.version,
    burnt.event_timestamp,
    burnt.event_id,
    sli.event_type,
    burnt.run_id,
    burnt.tag,
    burnt.reason,
    burnt.consumed_so_far - coalesce(lag(burnt.consumed_so_far) over (partition by burnt.org_id order by burnt.place), 0)
  from burnt
  order by burnt.org_id, burnt.place;
end;
$$;
comment on function ops.explain_slo(text, timestamptz, timestamptz, uuid) is
  'The counted events that burned the budget in the five-minute steps of a range, by the version that held at its end; cost is a share of the budget of that range, and the costs of an org add up to exactly its burn rate there.';

revoke execute on function
  ops.is_excluded(uuid, text, timestamptz),
  ops.daily_slos(ops.slo_span[]),
  ops.slo_history(),
  ops.slo_burndown(timestamptz),
  ops.explain_slo(text, timestamptz, timestamptz, uuid)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.is_excluded(uuid, text, timestamptz),
    ops.daily_slos(ops.slo_span[]),
    ops.slo_history(),
    ops.slo_burndown(timestamptz),
    ops.explain_slo(text, timestamptz, timestamptz, uuid)
  from anon, authenticated, service_role;
  grant execute on function
    ops.is_excluded(uuid, text, timestamptz),
    ops.daily_slos(ops.slo_span[]),
    ops.slo_history(),
    ops.slo_burndown(timestamptz),
    ops.explain_slo(text, timestamptz, timestamptz, uuid)
  to authenticated, service_role;
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
  until_id bigint;
  audit_changes bigint[];
  events ops.event_delta[] := '{}'::ops.event_delta[];
  kpi_rows jsonb := '{}'::jsonb;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'refresh needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  if max_ids is null or max_ids < 1 then
    raise exception 'a refresh of % ids would never end', max_ids
      using errcode = 'OP001', hint = 'Pass max_ids of 1 or more.';
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    report.state := 'busy';
    report.message := 'another refresh is running';
    return report;
  end if;

  insert into ops.cursors (name) values ('telemetry_events') on conflict on constraint cursors_pkey do nothing;
  safe_id := ops.take_fence(max_wait);
  select cursors.last_id into strict after_id from ops.cursors where cursors.name = 'telemetry_events';
  -- Deltas are exact only against counts that hold everything before them.
  perform ops.fill_slis();
  until_id := safe_id;
  if safe_id - after_id > max_ids then
    -- By events and not by ids, since a restored sequence may have a gap of millions.
    until_id := coalesce(
      (
        select event.id
        from public.telemetry_events as event
        where event.id > after_id
          and event.id <= safe_id
        order by event.id
        offset max_ids - 1
        limit 1
      ),
      safe_id
    );
  end if;

  if until_id > after_id then
    events := array(select event from ops.count_events(after_id, until_id, '-infinity', 'infinity') as event);
  end if;
  audit_changes := array(select change.audit_change_id from ops.audit_changes as change);
  if cardinality(audit_changes) > 0 then
    events := events || array(select event from ops.count_audit_changes() as event);
    delete from ops.audit_changes as change where change.audit_change_id = any (audit_changes);
  end if;
  if cardinality(events) > 0 then
    kpi_rows := ops.apply_events(events, as_of);
  end if;
  if until_id > after_id then
    perform ops.add_patterns(array(select delta from ops.count_patterns(after_id, until_id, '-infinity', 'infinity') as delta));
    perform ops.apply_attempts(after_id, until_id);
    perform ops.note_agents(after_id, until_id);
    update ops.cursors set last_id = until_id, moved_at = clock_timestamp() where cursors.name = 'telemetry_events';
  end if;
  perform ops.close_periods(as_of);

  report.events := coalesce((select sum(event.event_count) from unnest(events) as event where event.event_type <> 'slsa_audit_metrics'), 0);
  report.cursor_id := greatest(after_id, until_id);
  report.behind := (select case when sequence.is_called then sequence.last_value else 0 end from public.telemetry_events_id_seq as sequence)
    - report.cursor_id;
  report.hour_rows := coalesce((kpi_rows ->> 'hour')::bigint, 0);
  report.day_rows := coalesce((kpi_rows ->> 'day')::bigint, 0);
  report.week_rows := coalesce((kpi_rows ->> 'week')::bigint, 0);
  report.month_rows := coalesce((kpi_rows ->> 'month')::bigint, 0);
  report.state := case
    when until_id < safe_id then 'more'
    when exists (select from ops.cursors where cursors.name = 'telemetry_events' and cursors.fence_id is not null) then 'waiting'
    else 'done'
  end;
  if report.state = 'waiting' then
    report.message := 'a transaction that writes events stayed open; what it and later ones wrote is counted by a later run';
  end if;
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

create or replace function ops.rebuild_slis(since timestamptz, until timestamptz, last_id bigint, recount_units boolean)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  bucket_since timestamptz := date_bin('5 minutes', since, timestamptz '1969-12-29 00:00+00');
  bucket_until timestamptz := date_bin('5 minutes', until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes';
begin
  delete from ops.sli_counts as stored
  using ops.slis as sli
  where sli.sli_id = stored.sli_id
    and sli.objective <> 'availability'
    and stored.bucket_start >= bucket_since
    and stored.bucket_start < bucket_until;
  perform ops.add_slis(array(select delta from ops.count_attempts(0, last_id, bucket_since, bucket_until) as delta));

  if recount_units then
    -- A unit of work may begin before the range and succeed in it, so units are counted whole.
    delete from ops.work_units where true;
    perform ops.add_units(array(select attempted from ops.count_units(0, last_id) as attempted));
    perform ops.recount_units();
  end if;
end;
$$;

create or replace function ops.time_to_exhaustion(slo_window interval, burn_rate numeric, budget_left numeric default 1)
returns interval
language sql
immutable
set search_path = ''
return case
  when burn_rate is null or burn_rate <= 0 then null
  when budget_left <= 0 then interval '0'
  else make_interval(secs => least(extract(epoch from slo_window) * budget_left / burn_rate, 3155760000000)::double precision)
end;

create or replace view public.v_ops_slo_status
with (security_invoker = true)
as
select
  evaluated.slo_name,
  evaluated.service,
  evaluated.objective,
  evaluated.status,
  evaluated.target,
  evaluated.sli,
  evaluated.good,
  evaluated.total,
  evaluated.budget_left,
  evaluated.burn_rate_1h,
  evaluated.burn_rate_6h,
  evaluated.burn_rate_1d,
  evaluated.burn_rate_3d,
  evaluated.time_to_exhaustion,
  evaluated.events_needed,
  evaluated.window_start,
  evaluated.evaluated_at,
  evaluated.org_id,
  evaluated.version,
  evaluated.budgeting_method,
  evaluated.last_counted_at,
  evaluated.good_unadjusted,
  evaluated.total_unadjusted,
  evaluated.budget_left_unadjusted
from ops.evaluate_slos(now(), true, null) as evaluated
order by evaluated.org_id, evaluated.slo_name;
comment on view public.v_ops_slo_status is
  'One row an org and objective, as of now, events behind the cursor included.';
comment on column public.v_ops_slo_status.slo_name is 'The objective.';
comment on column public.v_ops_slo_status.service is 'The service that promises.';
comment on column public.v_ops_slo_status.objective is 'availability, latency or error_rate.';
comment on column public.v_ops_slo_status.status is 'ok, at_risk (a quarter of the budget or less is left, or it burns fast), breached, insufficient (too few events to judge), no_data or stale (the jobs stopped).';
comment on column public.v_ops_slo_status.target is 'The share promised (ratio).';
comment on column public.v_ops_slo_status.sli is 'The share measured (ratio); null without events.';
comment on column public.v_ops_slo_status.good is 'Good ones in the window (count).';
comment on column public.v_ops_slo_status.total is 'All that count in the window (count).';
comment on column public.v_ops_slo_status.budget_left is 'Share of the error budget left (ratio, negative when overspent); null without events.';
comment on column public.v_ops_slo_status.burn_rate_1h is 'Burn rate over the last hour (ratio to the sustainable rate); null without events.';
comment on column public.v_ops_slo_status.burn_rate_6h is 'Burn rate over the last 6 hours (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_1d is 'Burn rate over the last day (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_3d is 'Burn rate over the last 3 days (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.time_to_exhaustion is 'How long the budget lasts at the burn rate of the last day; null: it is not burning.';
comment on column public.v_ops_slo_status.events_needed is 'Events still needed to judge (count); 0 when there are enough.';
comment on column public.v_ops_slo_status.window_start is 'First instant of the window.';
comment on column public.v_ops_slo_status.evaluated_at is 'The instant of the evaluation.';
comment on column public.v_ops_slo_status.org_id is 'The tenant.';
comment on column public.v_ops_slo_status.version is 'The version of the definition.';
comment on column public.v_ops_slo_status.budgeting_method is 'occurrences: good and total are events; timeslices: they are slices of time.';
comment on column public.v_ops_slo_status.last_counted_at is 'First instant of the newest five minutes that hold anything; null: nothing was ever counted.';
comment on column public.v_ops_slo_status.good_unadjusted is 'Good ones, exclusions not applied (count).';
comment on column public.v_ops_slo_status.total_unadjusted is 'All that count, exclusions not applied (count).';
comment on column public.v_ops_slo_status.budget_left_unadjusted is 'Share of the error budget left, exclusions not applied (ratio).';

create view public.v_ops_slo_history
with (security_invoker = true)
as
select
  history.org_id,
  history.slo_name,
  history.version,
  history.day_start,
  history.target,
  history.good,
  history.total,
  history.good::numeric / nullif(history.total, 0) as sli,
  history.good_unadjusted,
  history.total_unadjusted
from ops.slo_history() as history;
comment on view public.v_ops_slo_history is
  'One row an org, objective and day on which something was counted, by the version that held then; a day of a change has a row for each version.';
comment on column public.v_ops_slo_history.org_id is 'The tenant.';
comment on column public.v_ops_slo_history.slo_name is 'The objective.';
comment on column public.v_ops_slo_history.version is 'The version that held.';
comment on column public.v_ops_slo_history.day_start is 'First instant of the day.';
comment on column public.v_ops_slo_history.target is 'The share promised (ratio).';
comment on column public.v_ops_slo_history.good is 'Good ones (count of events, or of time slices).';
comment on column public.v_ops_slo_history.total is 'All that count (count of events, or of time slices).';
comment on column public.v_ops_slo_history.sli is 'The share measured (ratio); null when all is excluded.';
comment on column public.v_ops_slo_history.good_unadjusted is 'Good ones, exclusions not applied (count).';
comment on column public.v_ops_slo_history.total_unadjusted is 'All that count, exclusions not applied (count).';

create view public.v_ops_error_budget_burndown
with (security_invoker = true)
as
select
  burndown.org_id,
  burndown.slo_name,
  burndown.version,
  burndown.day_start,
  burndown.good,
  burndown.total,
  burndown.consumed,
  burndown.budget_left
from ops.slo_burndown(now()) as burndown;
comment on view public.v_ops_error_budget_burndown is
  'One row an org, objective and day of its running window on which something was counted; exclusions applied.';
comment on column public.v_ops_error_budget_burndown.org_id is 'The tenant.';
comment on column public.v_ops_error_budget_burndown.slo_name is 'The objective.';
comment on column public.v_ops_error_budget_burndown.version is 'The version of the definition.';
comment on column public.v_ops_error_budget_burndown.day_start is 'First instant of the day.';
comment on column public.v_ops_error_budget_burndown.good is 'Good ones of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.total is 'All that count of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.consumed is 'What the day consumed of the budget of the whole window (ratio).';
comment on column public.v_ops_error_budget_burndown.budget_left is 'What was left of it after the day (ratio, negative when overspent).';

comment on column public.v_ops_job_runs.job is 'refresh, alerts, maintain or rebuild.';

revoke execute on function ops.note_agents(bigint, bigint) from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on public.v_ops_slo_history, public.v_ops_error_budget_burndown from anon, authenticated, service_role;
  grant select on public.v_ops_slo_history, public.v_ops_error_budget_burndown to authenticated, service_role;
  revoke execute on function ops.note_agents(bigint, bigint) from anon, authenticated, service_role;
end;
$$;

insert into ops.settings (name, value, description)
values ('expected_interval', '7 days', 'How often each objective expects input unless it says otherwise; silent for twice as long is no_data (interval).')
on conflict do nothing;

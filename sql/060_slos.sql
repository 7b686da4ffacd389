-- What is promised: objectives, every version of them, and what is left out of their accounts.

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

create table ops.slos (
  slo_name text not null,
  service text not null,
  objective text not null,
  description text not null,
  event_type text not null,
  target numeric(7, 6) not null,
  threshold_ms numeric,
  rolling_window interval default '30 days',
  calendar_period text,
  time_zone text,
  budgeting_method text not null default 'occurrences',
  time_slice interval,
  slice_target numeric(7, 6),
  expected_interval interval,
  indicator_name text,
  display_name text,
  labels jsonb not null default '{}',
  annotations jsonb not null default '{}',
  valid_from timestamptz not null default '-infinity',
  constraint slos_pkey primary key (slo_name),
  constraint slos_objective_check check (objective in ('availability', 'latency', 'error_rate')),
  constraint slos_target_leaves_a_budget check (target > 0 and target < 1),
  constraint slos_latency_has_a_threshold check ((objective = 'latency') = (threshold_ms is not null)),
  constraint slos_threshold_ms_is_positive check (threshold_ms > 0),
  constraint slos_rolling_window_is_sensible check (rolling_window > interval '0' and rolling_window <= interval '10 years'),
  constraint slos_window_is_rolling_or_calendar check ((rolling_window is null) = (calendar_period is not null)),
  constraint slos_calendar_period_check check (calendar_period in ('day', 'week', 'month', 'quarter')),
  constraint slos_time_zone_is_known check (
    time_zone is null
    or (calendar_period is not null and (timestamptz '2000-01-01 00:00+00' at time zone time_zone) is not null)
  ),
  constraint slos_budgeting_method_check check (budgeting_method in ('occurrences', 'timeslices')),
  constraint slos_timeslices_have_a_slice_and_its_target check (
    (budgeting_method = 'timeslices') = (time_slice is not null)
    and (budgeting_method = 'timeslices') = (slice_target is not null)
  ),
  -- Counts are kept per five minutes.
  constraint slos_time_slice_is_a_multiple_of_5_minutes check (
    time_slice between interval '5 minutes' and interval '1 day'
    and extract(epoch from time_slice) % 300 = 0
  ),
  constraint slos_slice_target_is_a_share check (slice_target > 0 and slice_target <= 1),
  constraint slos_labels_and_annotations_are_objects check (
    jsonb_typeof(labels) = 'object' and jsonb_typeof(annotations) = 'object'
  ),
  constraint slos_expected_interval_is_sensible check (expected_interval >= interval '5 minutes' and expected_interval <= interval '10 years')
);
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
alter table ops.slos enable row level security;

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
  revoke all on ops.slis, ops.services, ops.slos, ops.slo_versions, ops.slo_exclusions from anon, authenticated, service_role;
  grant select on ops.slis, ops.services, ops.slos, ops.slo_versions, ops.slo_exclusions to authenticated, service_role;
  create policy slis_select_authenticated on ops.slis for select to authenticated using (true);
  create policy services_select_authenticated on ops.services for select to authenticated using (true);
  create policy slos_select_authenticated on ops.slos for select to authenticated using (true);
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

-- Objectives and the SLIs and services they belong to.

create function ops.sli_key(
  event_type text,
  objective text,
  threshold_ms numeric,
  at_most numeric,
  total_labels jsonb,
  good_labels jsonb,
  bad_labels jsonb,
  group_by text[] default '{}'
)
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
          'threshold_ms', trim_scale(threshold_ms),
          'at_most', trim_scale(at_most),
          'total_labels', nullif(total_labels, '{}'),
          'good_labels', nullif(good_labels, '{}'),
          'bad_labels', bad_labels,
          'group_by', nullif(to_jsonb(group_by), '[]')
        ))::text,
        'UTF8'
      ))
      from 1 for 8
    ),
    'hex'
  )
)::bit(64)::bigint;
comment on function ops.sli_key(text, text, numeric, numeric, jsonb, jsonb, jsonb, text[]) is
  'The key of the SLI that counts so: the first 8 bytes of the SHA-256 of its definition, the same in every database.';

create table ops.slis (
  sli_id bigint not null,
  event_type text not null,
  objective text not null,
  threshold_ms numeric,
  filled_until timestamptz not null default '-infinity',
  at_most numeric,
  total_labels jsonb not null default '{}',
  good_labels jsonb not null default '{}',
  bad_labels jsonb,
  counted_since timestamptz not null default '-infinity',
  group_by text[] not null default '{}',
  constraint slis_pkey primary key (sli_id),
  constraint slis_objective_check check (objective in ('availability', 'latency', 'error_rate', 'events', 'measured')),
  -- Counts name the SLI by this key, so a number from a sequence would tie them to the order in which rows arrived.
  constraint slis_sli_id_is_the_digest_of_the_definition check (
    sli_id = ops.sli_key(event_type, objective, threshold_ms, at_most, total_labels, good_labels, bad_labels, group_by)
  )
);
comment on table ops.slis is 'One row a way of counting that some version of an objective uses; objectives that count alike share it.';
comment on column ops.slis.sli_id is 'Key of the SLI: ops.sli_key of how it counts.';
comment on column ops.slis.event_type is 'The kind of the events that are counted.';
comment on column ops.slis.objective is 'availability, latency, error_rate, events or measured.';
comment on column ops.slis.threshold_ms is 'For latency: an attempt is good when it took less (ms); else null.';
comment on column ops.slis.filled_until is
  'Events before this instant are counted, those behind the cursor aside; -infinity: none yet, infinity: all.';
comment on column ops.slis.at_most is 'For measured: a value is good up to this, in the unit of the event type; else null.';
comment on column ops.slis.total_labels is 'Labels of the events that are counted, as lists of values by key; {} is every event.';
comment on column ops.slis.good_labels is 'Labels that a good event has besides; {} is every event.';
comment on column ops.slis.bad_labels is 'Labels without which an event is good; null: good_labels and the objective say what is good.';
comment on column ops.slis.counted_since is
  'First instant from which on nothing is missing: retention had removed older events before they were counted. -infinity: nothing is missing.';
comment on column ops.slis.group_by is
  'Keys of the labels by whose values its events are counted apart, in ops.sli_groups; {}: they are counted together, under the key of the SLI.';
alter table ops.slis enable row level security;
create policy slis_select_authenticated on ops.slis for select to authenticated using ((select ops.caller_may('{read}')) is not null);

create function ops.restore_sli()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  update ops.slis
  set filled_until = new.filled_until,
      counted_since = new.counted_since
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

create function ops.is_bundle_name(name text)
returns boolean
language sql
immutable
set search_path = ''
return char_length(is_bundle_name.name) <= 100 and is_bundle_name.name !~ '[[:cntrl:]]' and btrim(is_bundle_name.name) = is_bundle_name.name
  and is_bundle_name.name <> '';
comment on function ops.is_bundle_name(text) is 'Whether files may go by this name: 1 to 100 characters on one line, none of the outer ones blank; null of null.';

create table ops.services (
  service_name text not null,
  display_name text,
  description text not null default '',
  labels jsonb not null default '{}',
  annotations jsonb not null default '{}',
  bundle text,
  constraint services_pkey primary key (service_name),
  constraint services_bundle_is_a_name check (ops.is_bundle_name(bundle)),
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
comment on column ops.services.bundle is 'The files that made it, as slo apply --bundle names them; null: none did.';
alter table ops.services enable row level security;
create policy services_select_authenticated on ops.services for select to authenticated using ((select ops.caller_may('{read}')) is not null);

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
  at_most numeric,
  total_labels jsonb not null default '{}',
  good_labels jsonb not null default '{}',
  bad_labels jsonb,
  is_enabled boolean not null default true,
  previous_name text,
  bundle text,
  group_by text[] not null default '{}',
  min_failures integer,
  constraint slos_pkey primary key (slo_name),
  constraint slos_previous_name_is_another check (previous_name <> slo_name),
  constraint slos_bundle_is_a_name check (ops.is_bundle_name(bundle)),
  constraint slos_objective_check check (objective in ('availability', 'latency', 'error_rate', 'events', 'measured')),
  constraint slos_target_leaves_a_budget check (target > 0 and target < 1),
  constraint slos_latency_has_a_threshold check ((objective = 'latency') = (threshold_ms is not null)),
  constraint slos_threshold_ms_is_positive check (threshold_ms > 0),
  constraint slos_measured_has_a_limit check ((objective = 'measured') = (at_most is not null)),
  constraint slos_at_most_is_a_value check (at_most between 0 and 1000000000000000),
  constraint slos_labels_are_lists_of_values check (
    ops.are_labels_understood(total_labels)
    and ops.are_labels_understood(good_labels)
    and ops.are_labels_understood(coalesce(bad_labels, '{}'))
  ),
  constraint slos_labels_say_what_is_good_or_bad check (bad_labels is null or good_labels = '{}'),
  -- A unit is judged among the attempts that are counted; what is good of it cannot be asked of others.
  constraint slos_units_have_the_labels_of_total check (objective <> 'availability' or (good_labels = '{}' and bad_labels is null)),
  constraint slos_events_are_told_apart_by_labels check (
    objective <> 'events' or good_labels <> '{}' or coalesce(bad_labels, '{}') <> '{}'
  ),
  constraint slos_group_by_is_one_or_two_keys check (cardinality(group_by) <= 2 and array_position(group_by, null) is null),
  constraint slos_rolling_window_is_sensible check (rolling_window > interval '0' and rolling_window <= interval '10 years'),
  constraint slos_window_is_rolling_or_calendar check ((rolling_window is null) = (calendar_period is not null)),
  constraint slos_calendar_period_check check (calendar_period in ('day', 'week', 'month', 'quarter', 'year')),
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
  constraint slos_min_failures_is_sensible check (min_failures between 1 and 1000000),
  constraint slos_expected_interval_is_sensible check (expected_interval >= interval '5 minutes' and expected_interval <= interval '10 years')
);
comment on table ops.slos is 'One row a promise as it stands now; the error budget is 1 - target. A change is kept as a version in ops.slo_versions.';
comment on column ops.slos.slo_name is 'Its name.';
comment on column ops.slos.service is 'The service that promises.';
comment on column ops.slos.objective is
  'availability: units of work (the tag, else the run) that succeeded in the end; latency: successful attempts faster than the threshold; error_rate: attempts that succeeded; events: events that have labels; measured: values up to a limit.';
comment on column ops.slos.description is 'The promise in a sentence.';
comment on column ops.slos.event_type is 'The kind of the events that are counted; of attempts and units only success and failure.';
comment on column ops.slos.target is 'The share that must be good (ratio).';
comment on column ops.slos.threshold_ms is 'For latency: an attempt is good when it took less (ms).';
comment on column ops.slos.rolling_window is 'How far back the promise looks; null when it goes by the calendar.';
comment on column ops.slos.calendar_period is 'day, week (ISO, from Monday), month, quarter or year; null when the window rolls.';
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
comment on column ops.slos.at_most is 'For measured: a value is good when it is at most this, in the unit of the event type.';
comment on column ops.slos.total_labels is
  'Labels of the events that are counted: {"workflow": ["release"]}, kept as sorted lists; {} is every event. The team is that of the agent when the event is counted.';
comment on column ops.slos.good_labels is 'Labels that a good event has besides those of total_labels; {} is every event.';
comment on column ops.slos.bad_labels is 'Labels that a bad event has besides, so that every event without them is good; null: good_labels say what is good.';
comment on column ops.slos.is_enabled is
  'False: it promises nothing, so that it has no status and no alerts; its events are counted all the same.';
comment on column ops.slos.previous_name is 'What its file says that it was called before, which was heeded; null: nothing.';
comment on column ops.slos.bundle is 'The files that made it, as slo apply --bundle names them; null: none did.';
comment on column ops.slos.group_by is
  'One or two keys of labels: each of their values is an objective by itself (a group), with its own status, budget and alerts; {}: all events together.';
comment on column ops.slos.min_failures is
  'How many bad ones it takes in the long window of a burn-rate rule while one alone exceeds the budget (count); null: as the setting min_failures says.';
alter table ops.slos enable row level security;
create policy slos_select_authenticated on ops.slos for select to authenticated using ((select ops.caller_may('{read,admin}')) is not null);

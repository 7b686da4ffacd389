-- Objectives and the SLIs and services they belong to.

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
create policy slis_select_authenticated on ops.slis for select to authenticated using ((select ops.caller_may('{read}')) is not null);

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
  constraint slos_pkey primary key (slo_name),
  constraint slos_objective_check check (objective in ('availability', 'latency', 'error_rate')),
  constraint slos_target_leaves_a_budget check (target > 0 and target < 1),
  constraint slos_latency_has_a_threshold check ((objective = 'latency') = (threshold_ms is not null)),
  constraint slos_threshold_ms_is_positive check (threshold_ms > 0),
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
alter table ops.slos enable row level security;
create policy slos_select_authenticated on ops.slos for select to authenticated using ((select ops.caller_may('{read,admin}')) is not null);

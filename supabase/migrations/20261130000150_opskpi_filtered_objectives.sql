-- Objectives count events of any kind by their labels, and counts are keyed by a digest of what they count, so that a restore in any order ties none to another objective.
-- The tables of objectives are small; the keys of counts and units change as a whole, or two objectives could show one's counts.
-- squawk-ignore-file adding-foreign-key-constraint, adding-not-nullable-field, adding-serial-primary-key-field, ban-alter-identity, ban-drop-column, ban-drop-constraint, ban-drop-view, changing-column-type, constraint-missing-not-valid, require-concurrent-index-creation, require-concurrent-index-deletion

create function ops.are_labels_understood(labels jsonb)
returns boolean
language sql
immutable
set search_path = ''
return jsonb_typeof(are_labels_understood.labels) = 'object' and not exists (
  select
  from jsonb_each(case when jsonb_typeof(are_labels_understood.labels) = 'object' then are_labels_understood.labels end) as label
  where jsonb_typeof(label.value) <> 'array'
    or label.value = '[]'
    or jsonb_path_exists(label.value, 'strict $[*] ? (@.type() != "string")')
);
comment on function ops.are_labels_understood(jsonb) is
  'Whether labels are lists of texts by key, none of them empty: {"workflow": ["release", "hotfix"]}.';

create function ops.sli_key(
  event_type text,
  objective text,
  threshold_ms numeric,
  at_most numeric,
  total_labels jsonb,
  good_labels jsonb,
  bad_labels jsonb
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
          'bad_labels', bad_labels
        ))::text,
        'UTF8'
      ))
      from 1 for 8
    ),
    'hex'
  )
)::bit(64)::bigint;
comment on function ops.sli_key(text, text, numeric, numeric, jsonb, jsonb, jsonb) is
  'The key of the SLI that counts so: the first 8 bytes of the SHA-256 of its definition, the same in every database.';

-- Every count keeps its digits and gets the new key; the triggers that sum days would only take them out and in again.
alter table ops.slis alter column sli_id drop identity;
alter table ops.slis drop constraint slis_event_type_objective_threshold_ms_key;
alter table ops.slis drop constraint slis_objective_check;
alter table ops.slis
  add column at_most numeric,
  add column total_labels jsonb not null default '{}',
  add column good_labels jsonb not null default '{}',
  add column bad_labels jsonb,
  add constraint slis_objective_check check (objective in ('availability', 'latency', 'error_rate', 'events', 'measured'));
alter table ops.slo_versions drop constraint slo_versions_sli_id_fkey;
alter table ops.sli_counts disable trigger user;
update ops.slo_versions as version
set sli_id = ops.sli_key(sli.event_type, sli.objective, sli.threshold_ms, sli.at_most, sli.total_labels, sli.good_labels, sli.bad_labels)
from ops.slis as sli
where sli.sli_id = version.sli_id;
update ops.sli_counts as stored
set sli_id = ops.sli_key(sli.event_type, sli.objective, sli.threshold_ms, sli.at_most, sli.total_labels, sli.good_labels, sli.bad_labels)
from ops.slis as sli
where sli.sli_id = stored.sli_id;
update ops.sli_days as stored
set sli_id = ops.sli_key(sli.event_type, sli.objective, sli.threshold_ms, sli.at_most, sli.total_labels, sli.good_labels, sli.bad_labels)
from ops.slis as sli
where sli.sli_id = stored.sli_id;
update ops.slis as sli
set sli_id = ops.sli_key(sli.event_type, sli.objective, sli.threshold_ms, sli.at_most, sli.total_labels, sli.good_labels, sli.bad_labels)
where true;
alter table ops.sli_counts enable trigger user;
alter table ops.slis
  add constraint slis_sli_id_is_the_digest_of_the_definition check (
    sli_id = ops.sli_key(event_type, objective, threshold_ms, at_most, total_labels, good_labels, bad_labels)
  );
alter table ops.slo_versions
  add constraint slo_versions_sli_id_fkey foreign key (sli_id) references ops.slis (sli_id);

-- Up to Postgres 17 no column is added to a table whose row a function names in its body; both get theirs back below.
create or replace function ops.slo_definitions(definitions jsonb)
returns setof ops.definition
language sql
stable
set search_path = ''
begin atomic
  select definition.* from unnest('{}'::ops.definition[]) as definition;
end;
create or replace function ops.rule_definitions(definitions jsonb)
returns setof ops.definition
language sql
stable
set search_path = ''
begin atomic
  select definition.* from unnest('{}'::ops.definition[]) as definition;
end;
alter table ops.slos drop constraint slos_objective_check;
alter table ops.slos
  add column at_most numeric,
  add column total_labels jsonb not null default '{}',
  add column good_labels jsonb not null default '{}',
  add column bad_labels jsonb,
  add constraint slos_objective_check check (objective in ('availability', 'latency', 'error_rate', 'events', 'measured')),
  add constraint slos_measured_has_a_limit check ((objective = 'measured') = (at_most is not null)),
  add constraint slos_at_most_is_a_value check (at_most between 0 and 1000000000000000),
  add constraint slos_labels_are_lists_of_values check (
    ops.are_labels_understood(total_labels)
    and ops.are_labels_understood(good_labels)
    and ops.are_labels_understood(coalesce(bad_labels, '{}'))
  ),
  add constraint slos_labels_say_what_is_good_or_bad check (bad_labels is null or good_labels = '{}'),
  add constraint slos_units_have_the_labels_of_total check (objective <> 'availability' or (good_labels = '{}' and bad_labels is null)),
  add constraint slos_events_are_told_apart_by_labels check (
    objective <> 'events' or good_labels <> '{}' or coalesce(bad_labels, '{}') <> '{}'
  );

alter table ops.audit_changes alter column audit_change_id drop identity;
alter table ops.audit_changes alter column audit_change_id type uuid using gen_random_uuid();
alter table ops.audit_changes alter column audit_change_id set default gen_random_uuid();

-- Nothing reads objectives while this runs; the functions above keep their places in views of users.
create or replace function ops.fresh_slis()
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select delta.* from unnest('{}'::ops.sli_delta[]) as delta;
end;
drop function ops.recount_units;
drop function ops.write_units;
drop function ops.unit_slis;
drop function ops.changed_units;
drop function ops.count_units;
drop function ops.loss_reason;
drop view ops.attempts;
-- Not dropped and made again: a session that has called a function with such a variable would miss the type.
alter type ops.unit_delta drop attribute event_type, add attribute sli_id bigint;
alter type ops.unit_change drop attribute event_type, add attribute sli_id bigint;
alter type ops.slo_account
  add attribute at_most numeric,
  add attribute total_labels jsonb,
  add attribute good_labels jsonb,
  add attribute bad_labels jsonb;

-- A unit of work belongs to the SLI that counts it: until now the one of its kind of event.
alter table ops.work_units add column sli_id bigint;
update ops.work_units as unit
set sli_id = sli.sli_id
from ops.slis as sli
where sli.event_type = unit.event_type
  and sli.objective = 'availability';
delete from ops.work_units where work_units.sli_id is null;
alter table ops.work_units drop constraint work_units_pkey;
drop index ops.work_units_org_id_event_type_first_attempt_at_idx;
alter table ops.work_units drop column event_type;
alter table ops.work_units alter column sli_id set not null;
alter table ops.work_units add constraint work_units_pkey primary key (org_id, sli_id, unit);
create index work_units_org_id_sli_id_first_attempt_at_idx
  on ops.work_units (org_id, sli_id, first_attempt_at desc)
  where not succeeded;

create function ops.is_restoring()
returns boolean
language sql
stable
set search_path = ''
return current_setting('check_function_bodies')::boolean is false;
comment on function ops.is_restoring() is
  'Whether the session restores a dump, which begins with set check_function_bodies = false: its rows belong together and arrive in any order.';

create function ops.canonical_labels(labels jsonb, within jsonb default '{}')
returns jsonb
language sql
immutable
set search_path = ''
return case
  when jsonb_typeof(canonical_labels.labels) <> 'object' then canonical_labels.labels
  else (
    select coalesce(jsonb_object_agg(label.key, listed.texts), '{}')
    from jsonb_each(canonical_labels.labels) as label
    cross join lateral (
      select case
        when jsonb_typeof(label.value) = 'string' then jsonb_build_array(label.value)
        when ops.are_labels_understood(jsonb_build_object(label.key, label.value)) then (
          select jsonb_agg(distinct_text.value order by distinct_text.value collate "C")
          from (select distinct text.value from jsonb_array_elements_text(label.value) as text) as distinct_text
        )
        else label.value
      end as texts
    ) as listed
    where not coalesce(listed.texts @> (canonical_labels.within -> label.key), false)
  )
end;
comment on function ops.canonical_labels(jsonb, jsonb) is
  'Labels in the form in which they are kept and compared: sorted lists, each value once, without the keys that the labels within which they are asked settle already.';

create function ops.labels_fit(labels jsonb, wanted jsonb)
returns boolean
language sql
immutable
set search_path = ''
return not exists (
  select from jsonb_each(labels_fit.wanted) as asked where not coalesce(asked.value ? (labels_fit.labels ->> asked.key), false)
);
comment on function ops.labels_fit(jsonb, jsonb) is
  'Whether an event with these labels (a value by key) has one of the wanted values of each key; {} wants nothing.';

create function ops.label_keys(event_type text)
returns text[]
language sql
stable
set search_path = ''
return (
  select case
    when label_keys.event_type = 'slsa_audit_metrics' then array[
      'predicate_type_verified', 'provenance_status', 'sha256_verified', 'supabase_provenance_synced', 'supabase_validation_synced', 'validation_status'
    ]
    else (select kind.label_keys from ops.event_types as kind where kind.event_type = label_keys.event_type)
  end
);
comment on function ops.label_keys(text) is 'The keys of the labels that events of a described kind, or audits, have; null for any other kind.';

create function ops.require_label_keys(asker text, described text, asked text[], known text[])
returns void
language plpgsql
immutable
set search_path = ''
as $$
declare
  unknown constant text := (
    select min(key.name) from unnest(asked) as key (name) where key.name <> all (coalesce(known, '{}'))
  );
begin
  if unknown is not null then
    raise exception '%: events of % have no label %', asker, described, unknown
      using errcode = 'OP001',
        hint = coalesce(
          'Their labels are ' || (select nullif(string_agg(distinct key.name, ', '), '') from unnest(known) as key (name)) || '.',
          'They have none; give them some in ops.event_types.'
        );
  end if;
end;
$$;
comment on function ops.require_label_keys(text, text, text[], text[]) is 'Refuses a key that is none of the known ones; asker is who asks (the KPI error_rate), described of which events (type workflow_run).';

create function ops.require_label_values(asker text, event_type text, labels jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  impossible record;
begin
  select label.key, text.value, field.allowed
  into impossible
  from jsonb_each(labels) as label
  cross join lateral jsonb_array_elements_text(label.value) as text
  cross join lateral (
    select case kind.fields -> label.key ->> 'type'
      when 'boolean' then '["true", "false"]'::jsonb
      else kind.fields -> label.key -> 'one_of'
    end as allowed
    from ops.event_types as kind
    where kind.event_type = require_label_values.event_type
  ) as field
  where char_length(text.value) > 100
    or not field.allowed ? text.value and jsonb_path_exists(field.allowed, 'strict $[*] ? (@.type() == "string")')
  order by label.key, text.value
  limit 1;
  if impossible.key is not null then
    raise exception '%: no event of type % has the label % = %', asker, event_type, impossible.key, left(impossible.value, 100)
      using errcode = 'OP001',
        hint = coalesce(
          'It is one of ' || (select string_agg(allowed.value, ', ') from jsonb_array_elements_text(impossible.allowed) as allowed) || '.',
          'A label has at most 100 characters.'
        );
  end if;
end;
$$;
comment on function ops.require_label_values(text, text, jsonb) is
  'Refuses values that no event of a kind may have: others than its field allows, and longer ones than a label is.';

create function ops.check_kpi_definition()
returns trigger
language plpgsql
stable
set search_path = ''
as $$
declare
  asker constant text := 'the KPI ' || new.metric_name;
  keys text[];
begin
  if ops.is_restoring() or (
    tg_op = 'UPDATE' and (new.event_type, new.measure, new.numerator, new.denominator, new.breakdowns)
      is not distinct from (old.event_type, old.measure, old.numerator, old.denominator, old.breakdowns)
  ) then
    return new;
  end if;
  -- A constraint refuses what is not even an object.
  if jsonb_typeof(new.numerator) <> 'object' or jsonb_typeof(new.denominator) <> 'object' then
    return new;
  end if;
  if not (ops.are_labels_understood(new.numerator) and ops.are_labels_understood(new.denominator)) then
    raise exception 'the filter of the KPI % has a value that is not a list of texts', new.metric_name
      using errcode = 'OP001', hint = 'Write a list for each label: {"outcome": ["success"]}.';
  end if;
  keys := array(select key from jsonb_object_keys(new.numerator || new.denominator) as key union select unnest(new.breakdowns));
  if new.event_type is null then
    perform ops.require_label_keys(
      asker,
      'any type',
      keys,
      array(select unnest(kind.label_keys) from ops.event_types as kind) || ops.label_keys('slsa_audit_metrics')
    );
    return new;
  end if;
  if ops.label_keys(new.event_type) is null and new.event_type not in (select series.event_type from ops.series) then
    raise exception 'the KPI % is about events of type %, which is neither described nor has ever arrived', new.metric_name, new.event_type
      using errcode = 'OP001',
        hint = format('Known are %s.', (select string_agg(kind.event_type, ', ' order by kind.event_type) from ops.event_types as kind));
  end if;
  perform ops.require_label_keys(asker, 'type ' || new.event_type, keys, ops.label_keys(new.event_type));
  perform ops.require_label_values(asker, new.event_type, new.numerator);
  perform ops.require_label_values(asker, new.event_type, new.denominator);
  if new.measure in ('average', 'percentile')
    and not exists (select from ops.event_types as kind where kind.event_type = new.event_type and kind.value_key is not null) then
    raise exception 'events of type % have no value, so the KPI % has none', new.event_type, new.metric_name
      using errcode = 'OP001', hint = 'Count them, or give the kind a value_key in ops.event_types.';
  end if;
  return new;
end;
$$;
comment on function ops.check_kpi_definition() is
  'Trigger: refuses a KPI over a kind of event, a label or a value that nobody has heard of, which would never have a row.';

create trigger kpi_definitions_check
before insert or update on ops.kpi_definitions
for each row execute function ops.check_kpi_definition();

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
comment on column ops.slis.event_type is 'The kind of the events that are counted.';
comment on column ops.slis.objective is 'availability, latency, error_rate, events or measured.';
comment on column ops.slis.at_most is 'For measured: a value is good up to this, in the unit of the event type; else null.';
comment on column ops.slis.total_labels is 'Labels of the events that are counted, as lists of values by key; {} is every event.';
comment on column ops.slis.good_labels is 'Labels that a good event has besides; {} is every event.';
comment on column ops.slis.bad_labels is 'Labels without which an event is good; null: good_labels and the objective say what is good.';

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
comment on column ops.slos.objective is
  'availability: units of work (the tag, else the run) that succeeded in the end; latency: successful attempts faster than the threshold; error_rate: attempts that succeeded; events: events that have labels; measured: values up to a limit.';
comment on column ops.slos.event_type is 'The kind of the events that are counted; of attempts and units only success and failure.';
comment on column ops.slos.at_most is 'For measured: a value is good when it is at most this, in the unit of the event type.';
comment on column ops.slos.total_labels is
  'Labels of the events that are counted: {"workflow": ["release"]}, kept as sorted lists; {} is every event. The team is that of the agent when the event is counted.';
comment on column ops.slos.good_labels is 'Labels that a good event has besides those of total_labels; {} is every event.';
comment on column ops.slos.bad_labels is 'Labels that a bad event has besides, so that every event without them is good; null: good_labels say what is good.';

create function ops.canonical_slo(slo ops.slos)
returns ops.slos
language plpgsql
immutable
set search_path = ''
as $$
begin
  slo.total_labels := ops.canonical_labels(slo.total_labels);
  slo.good_labels := ops.canonical_labels(slo.good_labels, slo.total_labels);
  if slo.bad_labels is not null then
    slo.bad_labels := ops.canonical_labels(slo.bad_labels, slo.total_labels);
    -- Without labels the bad events are the rest beside the good ones.
    if slo.bad_labels = '{}' and slo.objective <> 'events' then
      slo.bad_labels := null;
    end if;
  end if;
  return slo;
end;
$$;
comment on function ops.canonical_slo(ops.slos) is 'The objective with its labels in the form in which they are stored and compared.';

create function ops.require_attempts(slo ops.slos, kind ops.event_types)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  outcomes constant jsonb := slo.total_labels -> 'outcome';
begin
  if not (kind.fields ? 'outcome' or 'outcome' = any (kind.label_keys)) then
    raise exception 'the objective %: events of type % have no outcome, so none of them is an attempt', slo.slo_name, slo.event_type
      using errcode = 'OP001',
        hint = format(
          'Count events by their labels (%s): count: events, with labels that the good ones have.',
          coalesce(nullif(array_to_string(kind.label_keys, ', '), ''), 'there are none')
        );
  end if;
  if slo.objective = 'latency' and not (kind.fields ? 'duration_ms' or kind.value_key is not distinct from 'duration_ms') then
    raise exception 'the objective %: events of type % have no duration_ms', slo.slo_name, slo.event_type
      using errcode = 'OP001',
        hint = case
          when kind.value_key is not null then format('Their value is %s: write count: measured with atMost.', kind.value_key)
          else 'Count attempts, units or events instead.'
        end;
  end if;
  if not outcomes ?| (case slo.objective when 'latency' then array['success'] else array['success', 'failure'] end) then
    raise exception 'the objective %: no attempt has the outcome %', slo.slo_name,
      (select string_agg(text.value, ' or ') from jsonb_array_elements_text(outcomes) as text)
      using errcode = 'OP001',
        hint = 'Attempts end in success or failure, and a latency is that of a success; count: events counts any outcome.';
  end if;
end;
$$;
comment on function ops.require_attempts(ops.slos, ops.event_types) is
  'Refuses an objective over attempts of a kind of event that has no outcomes or, for a latency, no durations.';

create function ops.require_countable(slo ops.slos)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  kind ops.event_types;
  asker constant text := 'the objective ' || slo.slo_name;
  asked constant jsonb := slo.total_labels || slo.good_labels || coalesce(slo.bad_labels, '{}');
begin
  -- A constraint refuses these.
  if not (ops.are_labels_understood(slo.total_labels) and ops.are_labels_understood(asked)) then
    return;
  end if;
  select described.* into kind from ops.event_types as described where described.event_type = slo.event_type;
  perform ops.require_label_keys(
    asker,
    'type ' || slo.event_type,
    array(select key from jsonb_object_keys(asked) as key),
    coalesce(kind.label_keys, '{}') || 'team'::text
  );
  perform ops.require_label_values(asker, slo.event_type, slo.total_labels);
  perform ops.require_label_values(asker, slo.event_type, slo.good_labels);
  perform ops.require_label_values(asker, slo.event_type, coalesce(slo.bad_labels, '{}'));
  if exists (
    select
    from jsonb_each(slo.good_labels) as good
    where not ((slo.total_labels -> good.key) ?| array(select text.value from jsonb_array_elements_text(good.value) as text))
  ) then
    raise exception '%: no event is good, since the labels of good and of total exclude each other', asker
      using errcode = 'OP001', hint = 'Good is a part of total: write values that total has, too.';
  end if;
  -- Of a kind that nobody described nothing else is known.
  if kind.event_type is null and slo.objective <> 'measured' then
    return;
  end if;
  if slo.objective = 'measured' and kind.value_key is null then
    raise exception '%: events of type % have no value to measure', asker, slo.event_type
      using errcode = 'OP001',
        hint = format(
          'These have one: %s.',
          (
            select string_agg(format('%s (%s)', valued.event_type, valued.value_key), ', ' order by valued.event_type)
            from ops.event_types as valued
            where valued.value_key is not null
          )
        );
  end if;
  if slo.objective in ('availability', 'latency', 'error_rate') then
    perform ops.require_attempts(slo, kind);
  end if;
end;
$$;
comment on function ops.require_countable(ops.slos) is 'Refuses an objective that can never have data, with what is possible instead.';

create function ops.check_slo()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  new := ops.canonical_slo(new);
  -- A restore brings the kinds of events in its own order, and an objective that stands may be renamed or described.
  if not ops.is_restoring() and (tg_op = 'INSERT' or not ops.is_same_promise(new, old)) then
    perform ops.require_countable(new);
  end if;
  return new;
end;
$$;
comment on function ops.check_slo() is
  'Trigger: labels take the form in which they are compared; a new promise that can never have data is refused.';

-- Before the date of the change is set, which compares the promises.
create trigger slos_check
before insert or update on ops.slos
for each row execute function ops.check_slo();

create function ops.keep_counted_labels()
returns trigger
language plpgsql
stable
set search_path = ''
as $$
declare
  asking record;
begin
  select slo.slo_name, key.name
  into asking
  from ops.slos as slo
  cross join lateral jsonb_object_keys(slo.total_labels || slo.good_labels || coalesce(slo.bad_labels, '{}')) as key (name)
  where slo.event_type = new.event_type
    and key.name <> 'team'
    and key.name = any (old.label_keys)
    and key.name <> all (new.label_keys)
  order by 1, 2
  limit 1;
  if asking.slo_name is not null then
    raise exception 'the objective % counts events of type % by the label %', asking.slo_name, new.event_type, asking.name
      using errcode = 'OP001', hint = 'Change or delete the objective first: it would have no data any more.';
  end if;
  return new;
end;
$$;
comment on function ops.keep_counted_labels() is 'Trigger: a kind of event keeps the labels by which objectives count it.';

create trigger event_types_keep_counted_labels
before update of label_keys on ops.event_types
for each row execute function ops.keep_counted_labels();
comment on column ops.slo_versions.objective is 'availability, latency, error_rate, events or measured.';

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
    slo.budgeting_method, slo.time_slice, slo.slice_target, slo.expected_interval, slo.at_most, slo.total_labels, slo.good_labels, slo.bad_labels
  ) is not distinct from (
    other.service, other.objective, other.event_type, other.target, other.threshold_ms, other.rolling_window, other.calendar_period,
    other.time_zone, other.budgeting_method, other.time_slice, other.slice_target, other.expected_interval, other.at_most,
    other.total_labels, other.good_labels, other.bad_labels
  );
end;
$$;
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
  counted ops.slis;
begin
  counted.event_type := slo.event_type;
  counted.objective := slo.objective;
  counted.threshold_ms := slo.threshold_ms;
  counted.at_most := slo.at_most;
  counted.total_labels := slo.total_labels;
  counted.good_labels := slo.good_labels;
  counted.bad_labels := slo.bad_labels;
  counted.sli_id := ops.sli_key(
    slo.event_type, slo.objective, slo.threshold_ms, slo.at_most, slo.total_labels, slo.good_labels, slo.bad_labels
  );
  -- An SLI has nothing to fill while nothing has been counted; a refresh that is about to count must not pass by.
  if ops.cursor_id() = 0 then
    perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  end if;
  counted.filled_until := case
    when ops.cursor_id() = 0 and current_setting('transaction_isolation') = 'read committed' then timestamptz 'infinity'
    else timestamptz '-infinity'
  end;
  insert into ops.slis select counted.* on conflict on constraint slis_pkey do nothing;
  -- By the definition and not by its key: two that had the same one would share their counts.
  perform
  from ops.slis as sli
  where sli.sli_id = counted.sli_id
    and to_jsonb(sli) - 'filled_until' = to_jsonb(counted) - 'filled_until';
  if not found then
    raise exception 'the objective % has the key % of another way of counting', slo.slo_name, counted.sli_id
      using errcode = 'OP001', hint = 'Change its threshold or a label a little: the chance of this is 1 in 10^19.';
  end if;
  return counted.sli_id;
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

create function ops.sli_verdict(
  objective text,
  outcome text,
  duration_ms numeric,
  value numeric,
  threshold_ms numeric,
  at_most numeric,
  fits_good boolean default true,
  fits_bad boolean default null
)
returns boolean
-- plpgsql, because it is called for each group of events and SLI: 1 µs each, as language sql 7 µs.
language plpgsql
immutable
set search_path = ''
as $$
declare
  is_reached constant boolean := case objective
    when 'latency' then case when outcome = 'success' then duration_ms < threshold_ms end
    when 'measured' then value <= at_most
    when 'events' then true
    else outcome = 'success'
  end;
begin
  return case
    when is_reached is null then null
    when fits_bad is null then is_reached and fits_good
    else not fits_bad or (is_reached and objective <> 'events')
  end;
end;
$$;
comment on function ops.sli_verdict(text, text, numeric, numeric, numeric, numeric, boolean, boolean) is
  'Whether an event with the labels of total is good: by its outcome, duration or value and the labels of good, or (fits_bad not null) unless it is bad by both; null: it is not counted, having no such outcome, duration or value.';

create view ops.sli_kinds
with (security_invoker = true)
as
select
  asked.event_type,
  kind.value_key,
  case when kind.label_keys[1] <> 'team' and kind.label_keys[1] = any (asked.keys) then kind.label_keys[1] end as key_1,
  case when kind.label_keys[2] <> 'team' and kind.label_keys[2] = any (asked.keys) then kind.label_keys[2] end as key_2,
  case when kind.label_keys[3] <> 'team' and kind.label_keys[3] = any (asked.keys) then kind.label_keys[3] end as key_3,
  case when kind.label_keys[4] <> 'team' and kind.label_keys[4] = any (asked.keys) then kind.label_keys[4] end as key_4,
  'team' = any (asked.keys) as asks_team
from (
  select
    sli.event_type,
    array(
      select distinct key.name
      from ops.slis as same_kind
      cross join lateral jsonb_object_keys(
        same_kind.total_labels || same_kind.good_labels || coalesce(same_kind.bad_labels, '{}')
      ) as key (name)
      where same_kind.event_type = sli.event_type
    ) as keys
  from ops.slis as sli
  group by 1
) as asked
left join ops.event_types as kind
  on kind.event_type = asked.event_type;
comment on view ops.sli_kinds is
  'One row per kind of event that an SLI counts: the keys of labels that filters ask for (null: none does), and the key of the value.';

create view ops.sli_events
with (security_invoker = true)
as
select
  event.id,
  event.org_id,
  event.event_type,
  event.event_timestamp,
  case when event.outcome in ('success', 'failure') then event.outcome end as outcome,
  event.duration_ms,
  case
    when kind.value_key = 'duration_ms' then event.duration_ms
    when jsonb_typeof(event.metadata -> kind.value_key) <> 'number' then null
    when (event.metadata -> kind.value_key)::numeric between 0 and 1000000000000000
      then (event.metadata -> kind.value_key)::numeric
  end as value,
  case
    when octet_length(event.tag) > 200 then 'sha256:' || encode(sha256(convert_to(event.tag, 'UTF8')), 'hex')
    else coalesce('tag:' || nullif(btrim(event.tag), ''), 'run:' || event.run_id, 'event:' || event.event_id)
  end as unit,
  event.event_id,
  event.run_id,
  event.tag,
  left(event.metadata ->> kind.key_1, 100) as label_1,
  left(event.metadata ->> kind.key_2, 100) as label_2,
  left(event.metadata ->> kind.key_3, 100) as label_3,
  left(event.metadata ->> kind.key_4, 100) as label_4,
  agent.team,
  kind.key_1,
  kind.key_2,
  kind.key_3,
  kind.key_4
from ops.countable_events as event
join (
  select sli_kind.event_type, sli_kind.value_key, sli_kind.key_1, sli_kind.key_2, sli_kind.key_3, sli_kind.key_4, sli_kind.asks_team
  from ops.sli_kinds as sli_kind
  -- A barrier, so that the keys are found once a kind and not once an event.
  offset 0
) as kind
  on kind.event_type = event.event_type
left join ops.agents as agent
  on kind.asks_team
  and agent.org_id = event.org_id
  and agent.agent_id = event.agent_id;
comment on view ops.sli_events is
  'One row an event of a kind that an SLI counts, with its value and the labels that filters ask for: those of its series, and the team that its agent has now. Nothing that a plain insert may hold makes it fail.';

create type ops.sli_labels as (
  event_type text,
  label_1 text,
  label_2 text,
  label_3 text,
  label_4 text,
  team text
);
comment on type ops.sli_labels is
  'A kind of event and labels in the order of its keys in ops.sli_kinds; null where an event has none or no filter asks.';

create function ops.fitting_slis(seen ops.sli_labels[], sli_ids bigint[])
returns table (sli ops.slis, labels ops.sli_labels, fits_good boolean, fits_bad boolean)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    counting,
    combination.labels,
    ops.labels_fit(combination.named, counting.good_labels),
    case when counting.bad_labels is not null then ops.labels_fit(combination.named, counting.bad_labels) end
  from (
    select
      one as labels,
      one.event_type,
      jsonb_strip_nulls(jsonb_object(
        array[coalesce(kind.key_1, '1'), coalesce(kind.key_2, '2'), coalesce(kind.key_3, '3'), coalesce(kind.key_4, '4'), 'team'],
        array[one.label_1, one.label_2, one.label_3, one.label_4, one.team]
      )) as named
    from unnest(seen) as one
    join ops.sli_kinds as kind
      on kind.event_type = one.event_type
    offset 0
  ) as combination
  join ops.slis as counting
    on counting.event_type = combination.event_type
    and counting.sli_id = any (sli_ids)
  where counting.total_labels = '{}'
    or ops.labels_fit(combination.named, counting.total_labels);
end;
$$;
comment on function ops.fitting_slis(ops.sli_labels[], bigint[]) is
  'Which of the SLIs count events of each combination of labels, and whether these are labels of good and (null: the SLI does not say) of bad events.';

create function ops.named_labels(event ops.sli_events)
returns jsonb
language sql
immutable
set search_path = ''
return jsonb_strip_nulls(jsonb_object(
  array[coalesce((event).key_1, '1'), coalesce((event).key_2, '2'), coalesce((event).key_3, '3'), coalesce((event).key_4, '4'), 'team'],
  array[(event).label_1, (event).label_2, (event).label_3, (event).label_4, (event).team]
));
comment on function ops.named_labels(ops.sli_events) is 'The labels of an event that filters ask for, as values by key.';

create function ops.filled_slis()
returns table (filled_until timestamptz, sli_ids bigint[])
language sql
stable
set search_path = ''
begin atomic
  select sli.filled_until, array_agg(sli.sli_id)
  from ops.slis as sli
  where sli.filled_until > '-infinity'
  group by 1;
end;
comment on function ops.filled_slis() is 'The SLIs that are filled up to the same instant: one row, with infinity, but while a history is being filled.';

create function ops.sli_limits(sli_ids bigint[])
returns table (event_type text, thresholds_ms numeric[], negative_limits numeric[])
language sql
stable
set search_path = ''
begin atomic
  select
    sli.event_type,
    array_agg(distinct sli.threshold_ms order by sli.threshold_ms) filter (where sli.threshold_ms is not null),
    array_agg(distinct -sli.at_most order by -sli.at_most) filter (where sli.at_most is not null)
  from ops.slis as sli
  where sli.sli_id = any (sli_limits.sli_ids)
    and sli.objective <> 'availability'
  group by 1;
end;
comment on function ops.sli_limits(bigint[]) is
  'The limits between which events of a kind are good for the same SLIs of a list: thresholds (ms), and the values of at_most, negative because those are inclusive; both ascending.';

create or replace function ops.count_attempts(
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
-- The planner takes the groups for a few; it would then loop over all pairs of them and the SLIs.
set enable_nestloop = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  stretch record;
begin
  if sli_ids is null then
    -- Views ask for fresh counts whether there are any or not, and planning the rest takes longer than finding that out.
    if not exists (select from public.telemetry_events as event where event.id > after_id and event.id <= count_attempts.until_id) then
      return;
    end if;
    for stretch in select filled.* from ops.filled_slis() as filled loop
      return query
      select delta.*
      from ops.count_attempts(after_id, until_id, since, least(count_attempts.until, stretch.filled_until), stretch.sli_ids) as delta;
    end loop;
    return;
  end if;
  return query
  with limits as materialized (
    select found.* from ops.sli_limits(sli_ids) as found
  ),
  -- Events between the same limits are good for the same SLIs: the smallest of them stands for all.
  grouped as materialized (
    select
      event.org_id,
      row(event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team)::ops.sli_labels as labels,
      date_bin('5 minutes', event.event_timestamp, timestamptz '1969-12-29 00:00+00') as bucket_start,
      event.outcome,
      min(event.duration_ms) as duration_ms,
      min(event.value) as value,
      count(*) as events
    from ops.sli_events as event
    join limits
      on limits.event_type = event.event_type
    where event.id > after_id
      and event.id <= until_id
      and event.event_timestamp >= since
      and event.event_timestamp < count_attempts.until
    group by
      event.org_id, event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team, 3, event.outcome,
      width_bucket(event.duration_ms, limits.thresholds_ms), width_bucket(-event.value, limits.negative_limits)
  ),
  -- Columns and not the whole row, which would be taken apart for each group again.
  fitting as materialized (
    select
      found.labels,
      found.fits_good,
      found.fits_bad,
      (found.sli).sli_id as sli_id,
      (found.sli).objective as objective,
      (found.sli).threshold_ms as threshold_ms,
      (found.sli).at_most as at_most
    from ops.fitting_slis(array(select distinct grouped.labels from grouped), sli_ids) as found
    where (found.sli).objective <> 'availability'
  )
  select
    judged.org_id,
    judged.sli_id,
    judged.bucket_start,
    coalesce(sum(judged.events) filter (where judged.is_good), 0)::bigint,
    sum(judged.events)::bigint
  from (
    select
      grouped.org_id,
      fitting.sli_id,
      grouped.bucket_start,
      grouped.events,
      ops.sli_verdict(
        fitting.objective, grouped.outcome, grouped.duration_ms, grouped.value, fitting.threshold_ms, fitting.at_most, fitting.fits_good, fitting.fits_bad
      ) as is_good
    from grouped
    join fitting
      on fitting.labels = grouped.labels
    -- A barrier: each is judged once.
    offset 0
  ) as judged
  where judged.is_good is not null
  group by 1, 2, 3;
end;
$$;
comment on function ops.count_attempts(bigint, bigint, timestamptz, timestamptz, bigint[]) is
  'Good and total of the SLIs that count events, availability aside, over the given events, per five minutes: of each SLI what lies before filled_until, or of sli_ids all.';

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

create function ops.day_counts(since timestamptz, until timestamptz default 'infinity')
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select
    bucket.org_id,
    bucket.sli_id,
    date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00'),
    sum(bucket.good)::bigint,
    sum(bucket.total)::bigint
  from ops.sli_counts as bucket
  where bucket.bucket_start >= day_counts.since
    and bucket.bucket_start < day_counts.until
  group by 1, 2, 3;
end;
comment on function ops.day_counts(timestamptz, timestamptz) is
  'Good and total of each SLI and day (UTC), summed from the five minutes that begin in a range; bucket_start is the start of the day.';

create function ops.sum_sli_days(since timestamptz, until timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.sli_days as stored (org_id, sli_id, day_start, good, total)
  select summed.org_id, summed.sli_id, summed.bucket_start, summed.good, summed.total
  from ops.day_counts(sum_sli_days.since, sum_sli_days.until) as summed
  on conflict on constraint sli_days_pkey do update set
    good = excluded.good,
    total = excluded.total;
end;
comment on function ops.sum_sli_days(timestamptz, timestamptz) is
  'Sums whole days anew from their five minutes; since and until are first instants of days (UTC).';

create function ops.recount_sli_days(since timestamptz, until timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.sli_days as summed
  where summed.day_start >= date_bin('1 day', recount_sli_days.since, timestamptz '1969-12-29 00:00+00')
    and summed.day_start < recount_sli_days.until;
  select ops.sum_sli_days(
    date_bin('1 day', recount_sli_days.since, timestamptz '1969-12-29 00:00+00'),
    date_bin('1 day', recount_sli_days.until + interval '23:59:59.999999', timestamptz '1969-12-29 00:00+00')
  );
end;
comment on function ops.recount_sli_days(timestamptz, timestamptz) is
  'Makes the days that a range touches the sums of their five minutes, whatever stood there; only rebuild calls it.';

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
      max(date_bin('1 day', bucket.bucket_start, timestamptz '1969-12-29 00:00+00')) + interval '1 day'
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
comment on table ops.work_units is
  'One row an availability SLI and unit of work that was attempted: a tag, else a run, else a single event. Only attempts whose labels the SLI counts belong to its unit.';
comment on column ops.work_units.sli_id is 'The SLI that counts it.';
comment on type ops.unit_delta is 'What a set of attempts says about a unit of work of an SLI.';

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
set enable_nestloop = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  stretch record;
begin
  if sli_ids is null then
    -- Views ask for fresh counts whether there are any or not, and planning the rest takes longer than finding that out.
    if not exists (select from public.telemetry_events as event where event.id > after_id and event.id <= count_units.until_id) then
      return;
    end if;
    for stretch in select filled.* from ops.filled_slis() as filled loop
      return query
      select unit.*
      from ops.count_units(after_id, until_id, since, least(count_units.until, stretch.filled_until), stretch.sli_ids) as unit;
    end loop;
    return;
  end if;
  return query
  with grouped as materialized (
    select
      event.org_id,
      row(event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team)::ops.sli_labels as labels,
      event.unit,
      min(event.event_timestamp) as first_attempt_at,
      bool_or(event.outcome = 'success') as succeeded
    from ops.sli_events as event
    where event.id > after_id
      and event.id <= until_id
      and event.event_timestamp >= since
      and event.event_timestamp < count_units.until
      and event.outcome is not null
      and event.event_type in (
        select sli.event_type from ops.slis as sli where sli.sli_id = any (sli_ids) and sli.objective = 'availability'
      )
    group by event.org_id, event.event_type, event.label_1, event.label_2, event.label_3, event.label_4, event.team, event.unit
  ),
  fitting as materialized (
    select (found.sli).sli_id, found.labels
    from ops.fitting_slis(array(select distinct grouped.labels from grouped), sli_ids) as found
    where (found.sli).objective = 'availability'
  )
  select grouped.org_id, grouped.unit, min(grouped.first_attempt_at), bool_or(grouped.succeeded), fitting.sli_id
  from grouped
  join fitting
    on fitting.labels = grouped.labels
  group by grouped.org_id, grouped.unit, fitting.sli_id;
end;
$$;
comment on function ops.count_units(bigint, bigint, timestamptz, timestamptz, bigint[]) is
  'The units of work that the given events attempt, by availability SLI: of each SLI what lies before filled_until, or of sli_ids all.';

create function ops.changed_units(units ops.unit_delta[])
returns setof ops.unit_change
language sql
stable
set search_path = ''
begin atomic
  select
    unit.org_id,
    unit.unit,
    stored.first_attempt_at,
    stored.succeeded,
    least(stored.first_attempt_at, unit.first_attempt_at),
    coalesce(stored.succeeded, false) or unit.succeeded,
    unit.sli_id
  from unnest(changed_units.units) as unit
  -- Units are looked up one by one: a join may read all units that ever were, and the cost must follow the new ones.
  left join lateral (
    select work_unit.first_attempt_at, work_unit.succeeded
    from ops.work_units as work_unit
    where work_unit.org_id = unit.org_id
      and work_unit.sli_id = unit.sli_id
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
    select change.org_id, change.sli_id, change.first_attempt_at, change.succeeded::integer as good, 1 as total
    from unnest(unit_slis.changes) as change
    union all
    select change.org_id, change.sli_id, change.old_first_attempt_at, -change.old_succeeded::integer, -1
    from unnest(unit_slis.changes) as change
    where change.old_first_attempt_at is not null
  )
  select
    moved.org_id,
    moved.sli_id,
    date_bin('5 minutes', moved.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    sum(moved.good)::bigint,
    sum(moved.total)::bigint
  from moved
  group by 1, 2, 3
  having sum(moved.good) <> 0
    or sum(moved.total) <> 0;
end;
comment on function ops.unit_slis(ops.unit_change[]) is
  'What changed units of work change in the counts of the availability SLIs, five minutes by five minutes.';

create function ops.write_units(changes ops.unit_change[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  -- In the order of their index, and without looking for conflicts that cannot be: a quarter less time for many new units.
  insert into ops.work_units (org_id, unit, first_attempt_at, succeeded, sli_id)
  select change.org_id, change.unit, change.first_attempt_at, change.succeeded, change.sli_id
  from unnest(write_units.changes) as change
  where change.old_first_attempt_at is null
  order by change.org_id, change.sli_id, change.unit;

  insert into ops.work_units (org_id, unit, first_attempt_at, succeeded, sli_id)
  select change.org_id, change.unit, change.first_attempt_at, change.succeeded, change.sli_id
  from unnest(write_units.changes) as change
  where change.old_first_attempt_at is not null
  on conflict on constraint work_units_pkey do update set
    first_attempt_at = excluded.first_attempt_at,
    succeeded = excluded.succeeded;
end;
comment on function ops.write_units(ops.unit_change[]) is
  'Writes changed units of work; only refresh, rebuild and fill_slis call it, under the lock under which the changes were found.';

create function ops.unit_counts(since timestamptz default '-infinity')
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select
    unit.org_id,
    unit.sli_id,
    date_bin('5 minutes', unit.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    count(*) filter (where unit.succeeded),
    count(*)
  from ops.work_units as unit
  where unit.first_attempt_at >= unit_counts.since
  group by 1, 2, 3;
end;
comment on function ops.unit_counts(timestamptz) is
  'Good and total of the availability SLIs by their units of work, per five minutes from since on.';

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
  select counted.org_id, counted.sli_id, counted.bucket_start, counted.good, counted.total
  from ops.unit_counts() as counted;
end;
comment on function ops.recount_units() is 'Counts the availability SLIs anew from the units of work; only rebuild and an erasure call it.';

create function ops.loss_reason(objective text, measured numeric, allowed numeric)
returns text
language sql
immutable
set search_path = ''
return case objective
  when 'latency' then format('took %s ms, the limit is %s ms', measured, allowed)
  when 'measured' then format('was %s, the limit is %s', measured, allowed)
  when 'events' then 'its labels are not those of a good one'
  when 'availability' then 'never succeeded'
  else 'failed'
end;
comment on function ops.loss_reason(text, numeric, numeric) is 'Why an event or unit of work burned the budget of an objective, in words.';

create or replace function ops.fresh_slis()
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
    select changed
    from ops.changed_units(array(
      select attempted from ops.count_units(ops.cursor_id(), 9223372036854775807) as attempted
    )) as changed
  )) as delta;
end;

create or replace function ops.slo_account(slo_name text, since timestamptz, until timestamptz)
returns ops.slo_account
language plpgsql
stable
set search_path = ''
as $$
declare
  account ops.slo_account;
begin
  select
    known.slo_name, known.version, known.target, known.time_slice, known.slice_target,
    sli.sli_id, sli.event_type, sli.objective, sli.threshold_ms, sli.filled_until,
    date_bin('5 minutes', slo_account.since, timestamptz '1969-12-29 00:00+00'),
    date_bin('5 minutes', slo_account.until - interval '1 microsecond', timestamptz '1969-12-29 00:00+00') + interval '5 minutes',
    sli.at_most, sli.total_labels, sli.good_labels, sli.bad_labels
  into account
  from ops.slo_versions as known
  join ops.slis as sli
    on sli.sli_id = known.sli_id
  where known.slo_name = slo_account.slo_name
    and known.valid_from < slo_account.until
  order by known.version desc
  limit 1;
  if account.slo_name is null then
    raise exception 'there was no objective % before %', coalesce(slo_account.slo_name, ''), slo_account.until
      using errcode = 'OP001', hint = 'opskpi slo lists them.';
  end if;
  return account;
end;
$$;

create function ops.is_admitted(account ops.slo_account, event ops.sli_events)
returns boolean
language plpgsql
immutable
set search_path = ''
as $$
begin
  return case
    when ops.sli_verdict(account.objective, event.outcome, event.duration_ms, event.value, account.threshold_ms, account.at_most) is null
      then false
    when account.total_labels = '{}' then true
    else ops.labels_fit(ops.named_labels(event), account.total_labels)
  end;
end;
$$;
comment on function ops.is_admitted(ops.slo_account, ops.sli_events) is 'Whether an account counts an event of its kind.';

create function ops.lost_because(account ops.slo_account, event ops.sli_events)
returns text
language plpgsql
immutable
set search_path = ''
as $$
declare
  fits_good constant boolean := account.good_labels = '{}' or ops.labels_fit(ops.named_labels(event), account.good_labels);
  fits_bad constant boolean := case when account.bad_labels is not null then ops.labels_fit(ops.named_labels(event), account.bad_labels) end;
begin
  return case
    when ops.sli_verdict(
      account.objective, event.outcome, event.duration_ms, event.value, account.threshold_ms, account.at_most, fits_good, fits_bad
    ) then null
    when ops.sli_verdict(account.objective, event.outcome, event.duration_ms, event.value, account.threshold_ms, account.at_most)
      then ops.loss_reason('events', null, null)
    when account.objective = 'measured' then ops.loss_reason('measured', event.value, account.at_most)
    else ops.loss_reason(account.objective, event.duration_ms, account.threshold_ms)
  end;
end;
$$;
comment on function ops.lost_because(ops.slo_account, ops.sli_events) is
  'Why an event that an account counts is bad, in words; null: it is good. Of an attempt at a unit of work it says whether that failed.';

create or replace function ops.stored_losses(account ops.slo_account, only_org_id uuid default null)
returns table (
  org_id uuid,
  counted_at timestamptz,
  event_timestamp timestamptz,
  event_id uuid,
  run_id bigint,
  tag text,
  reason text
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  -- Once, and not for each event that is looked at.
  counted_until constant bigint := ops.cursor_id();
begin
  if account.objective <> 'availability' then
    return query
    select judged.org_id, judged.event_timestamp, judged.event_timestamp, judged.event_id, judged.run_id, judged.tag, judged.reason
    from (
      select event.*, ops.lost_because(account, event) as reason
      from ops.sli_events as event
      where event.event_type = account.event_type
        and event.id <= counted_until
        and event.event_timestamp < account.filled_until
        and event.event_timestamp >= account.since
        and event.event_timestamp < account.until
        and (stored_losses.only_org_id is null or event.org_id = stored_losses.only_org_id)
        -- Most events are good by themselves: only where labels can make them bad is each of these judged.
        and (
          account.good_labels <> '{}'
          or account.bad_labels is not null
          or case account.objective
            when 'latency' then event.duration_ms >= account.threshold_ms
            when 'measured' then event.value > account.at_most
            else event.outcome = 'failure'
          end
        )
        and ops.is_admitted(account, event)
      -- A barrier: each is judged once.
      offset 0
    ) as judged
    where judged.reason is not null;
    return;
  end if;
  -- A unit of work costs once, however often it was tried; its last attempt stands for it.
  return query
  with lost_units as materialized (
    select unit.org_id, unit.unit, unit.first_attempt_at
    from ops.work_units as unit
    where unit.sli_id = account.sli_id
      and not unit.succeeded
      and unit.first_attempt_at >= account.since
      and unit.first_attempt_at < account.until
      and (stored_losses.only_org_id is null or unit.org_id = stored_losses.only_org_id)
  )
  select distinct on (lost_units.org_id, lost_units.unit)
    lost_units.org_id,
    lost_units.first_attempt_at,
    attempt.event_timestamp,
    attempt.event_id,
    attempt.run_id,
    attempt.tag,
    ops.loss_reason(account.objective, null, null)
  from lost_units
  join ops.sli_events as attempt
    on attempt.org_id = lost_units.org_id
    and attempt.unit = lost_units.unit
    and attempt.event_type = account.event_type
    and attempt.event_timestamp >= account.since
    and attempt.id <= counted_until
    and attempt.event_timestamp < account.filled_until
    and attempt.outcome is not null
    and (account.total_labels = '{}' or ops.is_admitted(account, attempt))
  order by lost_units.org_id, lost_units.unit, attempt.event_timestamp desc, attempt.event_id;
end;
$$;

create or replace function ops.account_losses(account ops.slo_account, only_org_id uuid default null)
returns table (
  org_id uuid,
  counted_at timestamptz,
  event_timestamp timestamptz,
  event_id uuid,
  run_id bigint,
  tag text,
  reason text,
  slice_start timestamptz
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with found as (
    select lost.*, date_bin('5 minutes', lost.counted_at, timestamptz '1969-12-29 00:00+00') as bucket_start
    from ops.stored_losses(account, account_losses.only_org_id) as lost
  ),
  -- An agent that has changed its team may show more losses than were counted; a rebuild makes them the same.
  stored as materialized (
    select placed.*
    from (
      select found.*, row_number() over (partition by found.org_id, found.bucket_start order by found.counted_at, found.event_id) as place
      from found
    ) as placed
    where placed.place <= (
      select bucket.total - bucket.good
      from ops.sli_counts as bucket
      where bucket.org_id = placed.org_id
        and bucket.sli_id = account.sli_id
        and bucket.bucket_start = placed.bucket_start
    )
  ),
  -- Events that retention removed were counted all the same, and the counts say how many that were.
  removed as (
    select bucket.org_id, bucket.bucket_start, bucket.total - bucket.good - count(stored.org_id) as missing
    from ops.account_counts(account, account_losses.only_org_id) as bucket
    left join stored
      on stored.org_id = bucket.org_id
      and stored.bucket_start = bucket.bucket_start
    group by bucket.org_id, bucket.bucket_start, bucket.total, bucket.good
  )
  select
    bad.*,
    coalesce(date_bin(account.time_slice, bad.counted_at, timestamptz '1969-12-29 00:00+00'), account.since) as slice_start
  from (
    select stored.org_id, stored.counted_at, stored.event_timestamp, stored.event_id, stored.run_id, stored.tag, stored.reason
    from stored
    where not exists (
      select
      from ops.excluded_times as excluded
      where excluded.org_id = stored.org_id
        and excluded.slo_name = account.slo_name
        and excluded.since <= stored.bucket_start
        and excluded.until > stored.bucket_start
    )
    union all
    select removed.org_id, removed.bucket_start, removed.bucket_start, null, null, null, 'no longer stored'
    from removed
    cross join generate_series(1, removed.missing)
  ) as bad;
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
  -- Counts of no SLI go as well.
  delete from ops.sli_counts as stored
  where stored.bucket_start >= bucket_since
    and stored.bucket_start < bucket_until
    and stored.sli_id not in (select sli.sli_id from ops.slis as sli where sli.objective = 'availability');
  perform ops.add_slis(array(select delta from ops.count_attempts(0, last_id, bucket_since, bucket_until) as delta));

  if recount_units then
    -- A unit of work may begin before the range and succeed in it, so units are counted whole; of one that began before
    -- events were removed, the attempts that are left change nothing.
    delete from ops.work_units as unit
    where unit.first_attempt_at >= coalesce(
      (
        select removed.removed_until
        from ops.removed_events as removed
        join ops.slis as sli
          on sli.event_type = removed.event_type
        where sli.sli_id = unit.sli_id
      ),
      '-infinity'
    );
    perform ops.write_units(array(
      select changed
      from ops.changed_units(array(select attempted from ops.count_units(0, last_id) as attempted)) as changed
    ));
    perform ops.recount_units();
    -- Their counts have changed at any time.
    bucket_since := '-infinity';
    bucket_until := 'infinity';
  end if;
  perform ops.recount_sli_days(bucket_since, bucket_until);
end;
$$;

create or replace function ops.slo_definitions(definitions jsonb)
returns setof ops.definition
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    'slo',
    wanted.slo_name,
    to_jsonb(ops.canonical_slo(wanted)) - 'valid_from',
    -- The defaults stand in the files that an export writes.
    to_jsonb(known) || jsonb_build_object(
      'indicator_name', coalesce(known.indicator_name, known.slo_name),
      'time_zone', case when known.calendar_period is not null then coalesce(known.time_zone, ops.time_zone()) end
    )
  from jsonb_populate_recordset(null::ops.slos, slo_definitions.definitions -> 'slos') as wanted
  left join ops.slos as known
    on known.slo_name = wanted.slo_name
  order by wanted.slo_name;
end;
$$;

create or replace function ops.rule_definitions(definitions jsonb)
returns setof ops.definition
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with wanted as materialized (
    select rule.rule_name, to_jsonb(rule) - 'is_enabled' as definition
    from jsonb_populate_recordset(null::ops.alert_rules, rule_definitions.definitions -> 'rules') as rule
  )
  select 'rule', found.rule_name, found.definition, found.stored
  from (
    select wanted.rule_name, wanted.definition, to_jsonb(known) as stored
    from wanted
    left join ops.alert_rules as known
      on known.rule_name = wanted.rule_name
    union all
    -- A rule of an objective that the files define and no longer give it.
    select known.rule_name, null, to_jsonb(known)
    from ops.alert_rules as known
    where known.slo_name in (
        select slo.slo_name from jsonb_populate_recordset(null::ops.slos, rule_definitions.definitions -> 'slos') as slo
      )
      and known.rule_name not in (select wanted.rule_name from wanted)
  ) as found
  order by found.definition is null, found.rule_name;
end;
$$;

create or replace function ops.check_definitions(definitions jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  unknown text;
begin
  select format('the rule %s is about the KPI %s, which there is not', rule.rule_name, rule.metric_name)
  into unknown
  from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as rule
  where rule.metric_name is not null
    and rule.metric_name not in (select definition.metric_name from ops.kpi_definitions as definition)
  limit 1;
  if unknown is null then
    select format('%s is about events of type %s, which is neither described nor has ever arrived', asked.name, asked.event_type)
    into unknown
    from (
      select 'the objective ' || slo.slo_name as name, slo.event_type
      from jsonb_populate_recordset(null::ops.slos, definitions -> 'slos') as slo
      union all
      select 'the rule ' || rule.rule_name, rule.event_type
      from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as rule
      where rule.event_type is not null
    ) as asked
    where asked.event_type not in (select kind.event_type from ops.event_types as kind)
      and asked.event_type not in (select series.event_type from ops.series)
    limit 1;
  end if;
  if unknown is not null then
    raise exception '%', unknown
      using errcode = 'OP001',
        hint = format(
          'Correct the name, or add it to ops.kpi_definitions or ops.event_types first. Known types of events are %s.',
          (select string_agg(kind.event_type, ', ' order by kind.event_type) from ops.event_types as kind)
        );
  end if;
end;
$$;

create or replace function ops.rename_units(units ops.unit_rename[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  stored constant ops.unit_delta[] := array(
    select row(unit.org_id, renamed.new_unit, unit.first_attempt_at, unit.succeeded, unit.sli_id)::ops.unit_delta
    from ops.work_units as unit
    join ops.slis as sli
      on sli.sli_id = unit.sli_id
    join unnest(units) as renamed
      on renamed.org_id = unit.org_id
      and renamed.event_type = sli.event_type
      and renamed.old_unit = unit.unit
  );
  moved constant ops.unit_delta[] := array(
    select row(unit.org_id, unit.unit, min(unit.first_attempt_at), bool_or(unit.succeeded), unit.sli_id)::ops.unit_delta
    from unnest(stored) as unit
    group by unit.org_id, unit.sli_id, unit.unit
  );
  changes ops.unit_change[];
begin
  delete from ops.work_units as unit
  using unnest(units) as renamed
  join ops.slis as sli
    on sli.event_type = renamed.event_type
  where renamed.org_id = unit.org_id
    and sli.sli_id = unit.sli_id
    and renamed.old_unit = unit.unit;
  changes := array(select changed from ops.changed_units(moved) as changed);
  perform ops.write_units(changes);
  -- Two units that have become one are counted as one.
  if (select count(*) from unnest(changes) as change where change.old_first_attempt_at is null) < cardinality(stored) then
    perform ops.recount_units();
  end if;
end;
$$;

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
    join ops.slis as sli
      on sli.sli_id = unit.sli_id
    where unit.org_id = owner_id
      and unit.unit ~* mention
  ));
  delete from public.kpi_aggregations as stored where stored.org_id = owner_id and stored.labels::text ~* mention;
  perform ops.write_kpis(
    array(
      select kpi
      from ops.changed_ratios(array(
        -- A delta of nothing to each gives the KPIs of what stands there.
        select row(moved.org_id, moved.event_type, moved.labels, moved.period, moved.period_start, 0, 0, 0, null, null)::ops.rollup_delta
        from unnest(rollups) as moved
      )) as kpi
      union all
      select kpi from ops.changed_percentiles(histograms) as kpi
    ),
    now()
  );
end;
$$;

create or replace function ops.rename_in_events(events ops.anonymisable[], mention text, erased text)
returns void
language plpgsql
volatile
set search_path = ''
-- A plan for the partitions between the two instants, and no others.
set plan_cache_mode = force_custom_plan
set jit = off
as $$
declare
  since timestamptz := (select min(event.event_timestamp) from unnest(events) as event);
  until timestamptz := (select max(event.event_timestamp) from unnest(events) as event);
  tagged constant uuid[] := array(select event.event_id from unnest(events) as event where event.tag ~* mention);
  units ops.unit_rename[];
begin
  -- Before the tags change: the unit of a long one is a hash of it.
  units := array(
    select row(attempt.org_id, attempt.event_type, attempt.unit, attempt.event_id::text)::ops.unit_rename
    from ops.sli_events as attempt
    where attempt.event_id = any (tagged)
      and attempt.event_timestamp between since and until
  );
  update public.telemetry_events as stored
  set tag = regexp_replace(stored.tag, mention, erased, 'gi'),
      metadata = ops.without_mention(stored.metadata, mention, erased)
  from unnest(events) as event
  where stored.org_id = event.org_id
    and stored.event_timestamp = event.event_timestamp
    and stored.event_id = event.event_id
    and stored.event_timestamp between since and until
    and (stored.tag ~* mention or stored.metadata::text ~* mention);
  perform ops.rename_units(array(
    select distinct row(old.org_id, old.event_type, old.old_unit, renamed.unit)::ops.unit_rename
    from unnest(units) as old
    join ops.sli_events as renamed
      on renamed.org_id = old.org_id
      and renamed.event_id::text = old.new_unit
    where renamed.event_id = any (tagged)
      and renamed.event_timestamp between since and until
      and renamed.unit <> old.old_unit
  ));
end;
$$;
comment on column public.v_ops_slo_status.objective is 'availability, latency, error_rate, events or measured.';

create or replace function ops.newest_burners(
  slo_name text,
  since timestamptz,
  until timestamptz,
  max_events integer,
  org_id uuid default null
)
returns table (event_timestamp timestamptz, run_id bigint, tag text, reason text, cost numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(newest_burners.org_id);
  -- Once, and not for each event that is looked at.
  counted_until constant bigint := ops.cursor_id();
  account constant ops.slo_account := ops.slo_account(newest_burners.slo_name, newest_burners.since, newest_burners.until);
  -- Without labels or a value the events say enough, and nobody has to find out where those stand for each five minutes.
  is_plain constant boolean := account.objective in ('error_rate', 'latency')
    and account.total_labels = '{}' and account.good_labels = '{}' and account.bad_labels is null;
begin
  return query
  with budget as materialized (
    select ops.allowed_losses(summed.total, account.target) as allowed
    from ops.sum_slos(
      array[row(owner_id, account.slo_name, account.version, account.since, account.until)::ops.slo_span]
    ) as summed
  ),
  -- The counts say where to look: only five minutes in which something burned are read, however rare those are.
  burned as materialized (
    select lost.* from ops.newest_losses(account, owner_id, newest_burners.max_events) as lost
  ),
  newest as (
    select found.*, burned.share
    from burned
    cross join lateral (
      select
        event.event_timestamp as counted_at,
        event.run_id,
        event.tag,
        ops.lost_because(account, row(event.*)::ops.sli_events) as reason
      from (
        select stored.*
        from ops.sli_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        -- A barrier: the planner would also read the index on the kind, which is all events of that kind, each time.
        offset 0
      ) as event
      where account.objective <> 'availability'
        and not is_plain
        and event.event_type = account.event_type
        and event.id <= counted_until
        and event.event_timestamp < account.filled_until
        and ops.is_admitted(account, row(event.*)::ops.sli_events)
      union all
      select
        event.event_timestamp,
        event.run_id,
        event.tag,
        ops.loss_reason(account.objective, event.duration_ms, account.threshold_ms)
      from (
        select stored.*
        from ops.countable_events as stored
        where stored.org_id = owner_id
          and stored.event_timestamp >= burned.bucket_start
          and stored.event_timestamp < burned.bucket_start + interval '5 minutes'
        offset 0
      ) as event
      where is_plain
        and event.event_type = account.event_type
        and event.id <= counted_until
        and event.event_timestamp < account.filled_until
        and event.outcome in ('success', 'failure')
        and not ops.sli_verdict(account.objective, event.outcome, event.duration_ms, null, account.threshold_ms, null)
      union all
      select
        unit.first_attempt_at,
        case when unit.unit ~ '^run:[0-9]{1,18}$' then substr(unit.unit, 5)::bigint end,
        case when unit.unit like 'tag:%' then substr(unit.unit, 5) end,
        ops.loss_reason(account.objective, null, null)
      from ops.work_units as unit
      where account.objective = 'availability'
        and unit.org_id = owner_id
        and unit.sli_id = account.sli_id
        and not unit.succeeded
        and unit.first_attempt_at >= burned.bucket_start
        and unit.first_attempt_at < burned.bucket_start + interval '5 minutes'
      offset 0
    ) as found
    where burned.newer < newest_burners.max_events
      and found.reason is not null
    order by found.counted_at desc
    limit newest_burners.max_events
  )
  select newest.counted_at, newest.run_id, newest.tag, newest.reason, newest.share / budget.allowed
  from newest
  cross join budget
  order by newest.counted_at desc;
end;
$$;

create function ops.expected_slis(since timestamptz)
returns setof ops.sli_delta
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select delta.* from ops.count_attempts(0, ops.cursor_id(), expected_slis.since, 'infinity') as delta
  union all
  select
    unit.org_id,
    unit.sli_id,
    date_bin('5 minutes', unit.first_attempt_at, timestamptz '1969-12-29 00:00+00'),
    count(*) filter (where unit.succeeded),
    count(*)
  from ops.count_units(0, ops.cursor_id(), expected_slis.since) as unit
  -- A unit that began before is counted there.
  where not exists (
    select
    from ops.work_units as earlier
    where earlier.org_id = unit.org_id
      and earlier.sli_id = unit.sli_id
      and earlier.unit = unit.unit
      and earlier.first_attempt_at < expected_slis.since
  )
  group by 1, 2, 3;
end;
$$;
comment on function ops.expected_slis(timestamptz) is 'What the SLI counts from since on must be by the events up to the cursor.';

create function ops.sli_differences(since timestamptz)
returns table (day_start timestamptz, good bigint, total bigint, counted_good bigint, counted_total bigint)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  first_day constant timestamptz := date_bin('1 day', since, timestamptz '1969-12-29 00:00+00');
begin
  return query
  with compared as materialized (
    select sli.sli_id, removed.removed_until
    from ops.slis as sli
    left join ops.removed_events as removed
      on removed.event_type = sli.event_type
    -- A team that an agent got later counts from then on, and in the past after a rebuild.
    where not (
      (sli.total_labels || sli.good_labels || coalesce(sli.bad_labels, '{}')) ? 'team'
      and exists (select from ops.agents as agent where agent.updated_at >= first_day)
    )
  ),
  expected as (
    select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
    from ops.expected_slis(first_day) as delta
  ),
  differing as (
    select
      coalesce(expected.sli_id, stored.sli_id) as sli_id,
      date_bin('1 day', coalesce(expected.bucket_start, stored.bucket_start), timestamptz '1969-12-29 00:00+00') as day_start,
      coalesce(expected.good, 0) as good,
      coalesce(expected.total, 0) as total,
      coalesce(stored.good, 0) as counted_good,
      coalesce(stored.total, 0) as counted_total
    from expected
    full join (select bucket.* from ops.sli_counts as bucket where bucket.bucket_start >= first_day) as stored
      on stored.org_id = expected.org_id
      and stored.sli_id = expected.sli_id
      and stored.bucket_start = expected.bucket_start
    where (expected.good, expected.total) is distinct from (stored.good, stored.total)
    union all
    select
      coalesce(unit.sli_id, stored.sli_id),
      date_bin('1 day', coalesce(unit.bucket_start, stored.bucket_start), timestamptz '1969-12-29 00:00+00'),
      coalesce(unit.good, 0),
      coalesce(unit.total, 0),
      coalesce(stored.good, 0),
      coalesce(stored.total, 0)
    from ops.unit_counts(first_day) as unit
    full join (
      select bucket.*
      from ops.sli_counts as bucket
      join ops.slis as sli
        on sli.sli_id = bucket.sli_id
        and sli.objective = 'availability'
      where bucket.bucket_start >= first_day
    ) as stored
      on stored.org_id = unit.org_id
      and stored.sli_id = unit.sli_id
      and stored.bucket_start = unit.bucket_start
    where (unit.good, unit.total) is distinct from (stored.good, stored.total)
    union all
    select
      coalesce(summed.sli_id, day.sli_id),
      coalesce(summed.bucket_start, day.day_start),
      coalesce(summed.good, 0),
      coalesce(summed.total, 0),
      coalesce(day.good, 0),
      coalesce(day.total, 0)
    from ops.day_counts(first_day) as summed
    full join (select stored_day.* from ops.sli_days as stored_day where stored_day.day_start >= first_day) as day
      on day.org_id = summed.org_id
      and day.sli_id = summed.sli_id
      and day.day_start = summed.bucket_start
    where (coalesce(summed.good, 0), coalesce(summed.total, 0)) <> (coalesce(day.good, 0), coalesce(day.total, 0))
  )
  select
    differing.day_start,
    sum(differing.good)::bigint,
    sum(differing.total)::bigint,
    sum(differing.counted_good)::bigint,
    sum(differing.counted_total)::bigint
  from differing
  left join compared
    on compared.sli_id = differing.sli_id
  where differing.day_start >= coalesce(compared.removed_until, '-infinity')
    and (compared.sli_id is not null or differing.sli_id not in (select sli.sli_id from ops.slis as sli))
  group by 1;
end;
$$;
comment on function ops.sli_differences(timestamptz) is
  'The days (UTC) from since on in which five minutes of an SLI, its units of work or the sum of a day are not what the events up to the cursor come to: good and total of what differs, by the events and as counted. No row when all is well. Kinds of events that retention has removed from a day are left out there, and SLIs by team after a change of teams.';

create or replace function ops.doctor(as_of timestamptz default now())
returns table (check_name text, passed boolean, detail text)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  select 'events and KPI tables', to_regclass('public.telemetry_events') is not null and to_regclass('public.kpi_aggregations') is not null,
    'telemetry_events and kpi_aggregations exist'
  union all
  select 'audits', exists (select from public.slsa_audit_metrics),
    case when exists (select from public.slsa_audit_metrics) then 'slsa_audit_metrics has rows'
      else 'slsa_audit_metrics is empty: no audit has been recorded yet' end
  union all
  select 'views', count(broken.view_name) = 0,
    coalesce(string_agg(broken.view_name || ': ' || broken.reason, '; '), 'every v_ops_* view answers')
  from ops.broken_views() as broken
  union all
  select 'jobs', coalesce(max(run.finished_at) >= doctor.as_of - 2 * ops.refresh_interval(), false),
    coalesce('last refresh ' || to_char(max(run.finished_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'no refresh has run yet')
      || case when coalesce(max(run.finished_at) >= doctor.as_of - 2 * ops.refresh_interval(), false) then ''
        else '; run opskpi run from cron every ' || ops.refresh_interval() end
  from ops.job_runs as run
  where run.job = 'refresh'
    and run.outcome <> 'failure'
  union all
  select 'alerts', not watched.has_channel or coalesce(watched.evaluated_at >= doctor.as_of - 2 * ops.refresh_interval(), false),
    case when not watched.has_channel then 'no channel: nobody is told'
      else coalesce('evaluated ' || to_char(watched.evaluated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'never evaluated; run opskpi run')
    end
  from (
    select
      exists (select from ops.alert_channels as channel where channel.is_enabled) as has_channel,
      (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation) as evaluated_at
  ) as watched
  union all
  select 'messages', count(*) = 0,
    case when count(*) = 0 then 'none is dead'
      else format('%s dead for %s: %s; mend it and run opskpi alert retry', count(*), min(delivery.channel_name), max(delivery.last_error)) end
  from ops.alert_deliveries as delivery
  where delivery.state = 'dead'
  union all
  select 'partitions', next_month.partition is not null,
    case when next_month.partition is not null then next_month.name || ' is there' else 'ops.' || next_month.name || ' is missing; run opskpi run' end
  from (
    select named.name, to_regclass('ops.' || named.name) as partition
    from (
      select 'telemetry_events_' || to_char((doctor.as_of at time zone 'UTC') + interval '1 month', 'YYYY_MM') as name
    ) as named
  ) as next_month
  union all
  select 'retention', count(*) = 0,
    case
      when count(*) > 0 then format(
        'what is due since more than two days is still there: %s; run opskpi retention run', string_agg(overdue.name, ', ' order by overdue.month_start)
      )
      when not exists (select from ops.retention_rules as rule where rule.age is not null) then 'everything is kept for ever'
      else 'nothing is overdue'
    end
  from ops.expired_months(doctor.as_of - interval '2 days') as overdue
  union all
  select 'row level security', count(*) = 0,
    coalesce('off on ' || string_agg(class.oid::regclass::text, ', '), 'on for every table')
  from pg_catalog.pg_class as class
  where class.relkind in ('r', 'p')
    and not class.relrowsecurity
    and (
      class.relnamespace = 'ops'::regnamespace
      or class.oid in ('public.telemetry_events'::regclass, 'public.kpi_aggregations'::regclass, 'public.slsa_audit_metrics'::regclass)
    )
  union all
  select 'bound logins', count(*) = 0,
    coalesce(string_agg(watched.fault, '; '), 'each reads its own org only')
  from (
    select bound.login || ': ' || ops.login_fault(bound.login) as fault
    from ops.bound_logins as bound
    where ops.login_fault(bound.login) is not null
    union all
    select format('%s.%s has no policy for them; run opskpi migrate', unguarded.relation, unguarded.column_name)
    from ops.unguarded_columns() as unguarded
    where exists (select from ops.bound_logins)
    union all
    select distinct role.rolname || ': only policies of an earlier README hold it back; run select ops.bind_login(…)'
    from pg_catalog.pg_policy as policy
    join pg_catalog.pg_roles as role
      on policy.polname = (role.rolname || '_only')::name
    where not policy.polpermissive
  ) as watched
  union all
  select 'cursor', count(*) = 0,
    case when count(*) = 0 then 'no event waits'
      else count(*) || ' events wait since ' || to_char(min(event.created_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC; run opskpi run' end
  from public.telemetry_events as event
  where event.id > ops.cursor_id()
    and event.id <= (select sequence.last_value from public.telemetry_events_id_seq as sequence)
    and event.created_at < doctor.as_of - 2 * ops.refresh_interval()
  union all
  select 'uncountable events', count(*) = 0,
    case when count(*) = 0 then 'every event could be counted'
      else format(
        '%s could not be counted, the first is %s (%s): %s; mend the cause and run select ops.count_again(), or delete it with select ops.drop_uncountable(%2$s); ops.uncountable_events lists them',
        count(*),
        min(aside.id),
        (array_agg(aside.event_type order by aside.id))[1],
        (array_agg(aside.reason order by aside.id))[1]
      ) end
  from ops.uncountable_events as aside
  union all
  select 'counts', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has %s events and %s counted; run opskpi rebuild --since %s --until %s',
        count(difference.day_start),
        (array_agg(difference.events order by difference.day_start))[1],
        (array_agg(difference.counted order by difference.day_start))[1],
        to_char(min(difference.day_start) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        to_char((max(difference.day_start) + interval '24 hours') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
      ) end
  from ops.count_differences(doctor.as_of - interval '7 days') as difference
  union all
  select 'counts of objectives', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'good and total of the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has good %s of %s and %s of %s counted where they differ; run opskpi rebuild --since %s --until %s',
        count(difference.day_start),
        (array_agg(difference.good order by difference.day_start))[1],
        (array_agg(difference.total order by difference.day_start))[1],
        (array_agg(difference.counted_good order by difference.day_start))[1],
        (array_agg(difference.counted_total order by difference.day_start))[1],
        to_char(min(difference.day_start) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        to_char((max(difference.day_start) + interval '24 hours') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
      ) end
  from ops.sli_differences(doctor.as_of - interval '7 days') as difference;
end;

revoke execute on function
  ops.are_labels_understood,
  ops.canonical_labels,
  ops.canonical_slo,
  ops.changed_units,
  ops.check_kpi_definition,
  ops.check_slo,
  ops.count_units,
  ops.sli_differences,
  ops.unit_slis,
  ops.expected_slis,
  ops.sli_key,
  ops.filled_slis,
  ops.fitting_slis,
  ops.is_admitted,
  ops.is_restoring,
  ops.is_same_promise,
  ops.keep_counted_labels,
  ops.label_keys,
  ops.labels_fit,
  ops.loss_reason,
  ops.lost_because,
  ops.named_labels,
  ops.recount_units,
  ops.unit_counts,
  ops.day_counts,
  ops.sli_limits,
  ops.require_attempts,
  ops.require_countable,
  ops.require_label_keys,
  ops.require_label_values,
  ops.require_sli,
  ops.restore_cursor,
  ops.restore_sli,
  ops.restore_sli_day,
  ops.restore_slo_version,
  ops.sli_verdict,
  ops.sum_sli_days,
  ops.recount_sli_days,
  ops.write_units
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.canonical_labels,
    ops.canonical_slo,
    ops.changed_units,
    ops.check_kpi_definition,
    ops.check_slo,
    ops.count_units,
    ops.sli_differences,
    ops.unit_slis,
    ops.expected_slis,
    ops.filled_slis,
    ops.fitting_slis,
    ops.is_admitted,
    ops.is_restoring,
    ops.is_same_promise,
    ops.keep_counted_labels,
    ops.label_keys,
    ops.labels_fit,
    ops.loss_reason,
    ops.lost_because,
    ops.named_labels,
    ops.recount_units,
    ops.unit_counts,
    ops.day_counts,
    ops.sli_limits,
    ops.require_attempts,
    ops.require_countable,
    ops.require_label_keys,
    ops.require_label_values,
    ops.require_sli,
    ops.restore_cursor,
    ops.restore_sli,
    ops.restore_sli_day,
    ops.restore_slo_version,
    ops.sli_verdict,
    ops.sum_sli_days,
    ops.recount_sli_days,
    ops.write_units
  from anon, authenticated, service_role;
  revoke all on
    ops.sli_kinds,
    ops.sli_events
  from anon, authenticated, service_role;
  grant execute on function
    ops.changed_units,
    ops.count_units,
    ops.unit_slis,
    ops.sli_limits,
    ops.filled_slis,
    ops.fitting_slis,
    ops.is_admitted,
    ops.labels_fit,
    ops.loss_reason,
    ops.lost_because,
    ops.named_labels,
    ops.sli_verdict
  to authenticated, service_role;
  grant select on
    ops.sli_kinds,
    ops.sli_events
  to authenticated, service_role;
end;
$$;

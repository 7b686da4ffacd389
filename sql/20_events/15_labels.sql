-- Labels as filters ask for them, and which of them events of a kind have.

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

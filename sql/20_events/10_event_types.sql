-- The kinds of events, and what each asks of an event's metadata.

create function ops.metadata_shape(fields jsonb)
returns jsonpath
language sql
immutable
set search_path = ''
return (
  with rules as (
    select
      '$.' || to_jsonb(rule.key)::text as place,
      case rule.value ->> 'type' when 'text' then 'string' when 'uuid' then 'string' else rule.value ->> 'type' end as json_type,
      coalesce((rule.value -> 'required')::boolean, false) as is_required,
      rule.key,
      rule.value
    from jsonb_each(metadata_shape.fields) as rule
  ),
  tests as (
    select
      format('%s.type() == "%s"', rules.place, rules.json_type)
        || case when rules.json_type = 'number' then format(' && %1$s >= 0 && %1$s <= 1000000000000000', rules.place) else '' end
        -- These two are cast to uuid on the way in.
        || case
          when rules.value ->> 'type' = 'uuid' and rules.key not in ('agent_id', 'org_id')
            then format(' && %s like_regex "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$" flag "i"', rules.place)
          else ''
        end
        || coalesce(
          (
            select ' && (' || string_agg(format('%s == %s', rules.place, allowed.value), ' || ') || ')'
            from jsonb_array_elements(rules.value -> 'one_of') as allowed
          ),
          ''
        )
        || coalesce(
          (
            select string_agg(format(' && exists(%s.%s)', rules.place, to_jsonb(wanted.value)), '')
            from jsonb_array_elements_text(rules.value -> 'keys') as wanted
          ),
          ''
        ) as test,
      rules.place,
      rules.is_required
    from rules
  )
  select coalesce(
    string_agg(
      case
        when tests.is_required then format('(%s)', tests.test)
        else format('(!exists(%1$s) || %1$s.type() == "null" || (%2$s))', tests.place, tests.test)
      end,
      ' && '
    ),
    '1 == 1'
  )::jsonpath
  from tests
);
comment on function ops.metadata_shape(jsonb) is
  'The rules of ops.event_types.fields as one JSON path predicate: true for metadata without a fault, false or null else.';

create table ops.event_types (
  event_type text not null,
  description text not null,
  label_keys text[] not null default '{}',
  value_key text,
  value_unit text,
  fields jsonb not null default '{}',
  shape jsonpath generated always as (ops.metadata_shape(fields)) stored,
  constraint event_types_pkey primary key (event_type),
  constraint event_types_event_type_is_no_audit check (event_type <> 'slsa_audit_metrics'),
  constraint event_types_have_at_most_four_labels check (
    cardinality(label_keys) <= 4
    and coalesce(array_ndims(label_keys), 1) = 1
    and array_position(label_keys, null) is null
    and char_length(array_to_string(label_keys, '')) <= 200
  ),
  constraint event_types_fields_are_an_object check (jsonb_typeof(fields) = 'object'),
  constraint event_types_value_has_a_unit check ((value_key is null) = (value_unit is null))
);
comment on table ops.event_types is 'One row a kind of event; a new kind is a row here, not a migration.';
comment on column ops.event_types.event_type is 'The kind, as events name it.';
comment on column ops.event_types.description is 'What such an event says.';
comment on column ops.event_types.label_keys is 'Metadata keys that become labels, four at most; team is looked up in ops.agents.';
comment on column ops.event_types.value_key is 'The metadata key of the number that is summed and averaged; null when there is none.';
comment on column ops.event_types.value_unit is 'The unit of that number: ms, bytes or count.';
comment on column ops.event_types.fields is
  'What ingest_events asks of the metadata, by key: {"type": text|uuid|number|boolean|object|array, "required": true, "one_of": […], "keys": […]}. A number is 0 or more.';
comment on column ops.event_types.shape is 'The same rules as one predicate, ten times faster to test than to say which field broke one.';
alter table ops.event_types enable row level security;
create policy event_types_select_authenticated on ops.event_types for select to authenticated using (true);

-- The kinds of events, and what each asks of an event's metadata.

create type ops.event_limits as (
  largest_bytes integer,
  deepest_nesting integer,
  longest_event_type integer,
  longest_instant integer,
  longest_tag integer,
  most_run_digits integer,
  largest_number numeric,
  earliest_at timestamptz,
  furthest_ahead interval,
  keys text[],
  column_keys text[]
);
comment on type ops.event_limits is
  'The limits of an event: bytes (as jsonb), objects and arrays inside each other, characters of the event type, of the timestamp and of the tag, digits of the run id, largest number, earliest time, how far ahead of now, the keys beside payload, and the keys that are columns and leave the metadata.';

create function ops.event_limits()
returns ops.event_limits
language sql
immutable
set search_path = ''
return row(
  65536,
  32,
  100,
  64,
  1000,
  18,
  1000000000000000,
  timestamptz '2000-01-01 00:00+00',
  interval '1 day',
  array['event_type', 'payload', 'metadata', 'event_timestamp', 'timestamp', 'event_id', 'org_id', 'agent_id', 'run_id', 'tag'],
  array['timestamp', 'event_id', 'run_id', 'tag']
)::ops.event_limits;
comment on function ops.event_limits() is
  'The limits that every check of an event uses; the planner puts them into a query as constants.';

create function ops.field_rules(fields jsonb)
returns jsonb
language sql
immutable
set search_path = ''
return (
  with asked as (
    select
      rule.key as field,
      rule.ordinality,
      '$.' || to_jsonb(rule.key)::text as place,
      coalesce((rule.value -> 'required')::boolean, false) as is_required,
      rule.value ->> 'type' as wanted_type,
      rule.value
    from jsonb_each(field_rules.fields) with ordinality as rule
  ),
  tests as (
    select asked.field, asked.ordinality, asked.place, asked.is_required, rule.step, rule.test, rule.reason, rule.is_implied
    from asked
    cross join lateral (
      values
        (1, case when asked.is_required then asked.place || '.type() != "null"' end, 'is required', asked.wanted_type is not null),
        (
          2,
          asked.place || '.type() == ' || to_jsonb(case when asked.wanted_type in ('text', 'uuid') then 'string' else asked.wanted_type end)::text,
          case asked.wanted_type when 'uuid' then 'must be a UUID' else 'must be of type ' || asked.wanted_type end,
          false
        ),
        (
          3,
          case
            when asked.wanted_type = 'uuid'
              then asked.place || ' like_regex "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"'
          end,
          'must be a UUID',
          -- These two are columns as well, whose check takes less time.
          asked.field in ('agent_id', 'org_id')
        ),
        (4, case when asked.wanted_type = 'number' then asked.place || ' >= 0' end, 'must be 0 or more', false),
        (
          5,
          case when asked.wanted_type = 'number' then asked.place || ' <= ' || ((ops.event_limits()).largest_number)::text end,
          'must be at most 10^' || trim_scale(log((ops.event_limits()).largest_number))::text,
          false
        ),
        (
          6,
          (
            select '(' || string_agg(asked.place || ' == ' || allowed.value::text, ' || ' order by allowed.ordinality) || ')'
            from jsonb_array_elements(asked.value -> 'one_of') with ordinality as allowed
          ),
          'must be one of ' || (asked.value ->> 'one_of'),
          false
        ),
        (
          7,
          (
            select string_agg('exists(' || asked.place || '.' || to_jsonb(wanted.value)::text || ')', ' && ' order by wanted.ordinality)
            from jsonb_array_elements_text(asked.value -> 'keys') with ordinality as wanted
          ),
          'must have the keys ' || (asked.value ->> 'keys'),
          false
        )
    ) as rule (step, test, reason, is_implied)
    where rule.test is not null
  )
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'field', tests.field,
        'place', tests.place,
        'required', tests.is_required,
        'test', tests.test,
        'reason', tests.reason,
        'implied', tests.is_implied
      )
      order by tests.ordinality, tests.step
    ),
    '[]'
  )
  from tests
);
comment on function ops.field_rules(jsonb) is
  'ops.event_types.fields as a list of {"field", "place", "required", "test", "reason", "implied"}: a JSON path predicate that holds for metadata, or else the reason of the refusal, in the order in which they are tested. A field that is not required may also be missing or null. implied: another test, or that of a column, says as much.';

create function ops.metadata_shape(fields jsonb)
returns jsonpath
language sql
immutable
set search_path = ''
return (
  with tests as (
    select
      rule.value ->> 'place' as place,
      (rule.value -> 'required')::boolean as is_required,
      string_agg(rule.value ->> 'test', ' && ' order by rule.ordinality) as test,
      min(rule.ordinality) as ordinality
    from jsonb_array_elements(ops.field_rules(metadata_shape.fields)) with ordinality as rule
    where not (rule.value -> 'implied')::boolean
    group by 1, 2
  )
  select coalesce(
    string_agg(
      case
        when tests.is_required then format('(%s)', tests.test)
        else format('((%s) || !exists(%2$s) || %2$s.type() == "null")', tests.test, tests.place)
      end,
      ' && '
      order by tests.ordinality
    ),
    '1 == 1'
  )::jsonpath
  from tests
);
comment on function ops.metadata_shape(jsonb) is
  'The rules of ops.event_types.fields as one JSON path predicate: true for metadata without a fault, false or null else.';

create function ops.are_fields_understood(fields jsonb)
returns boolean
language sql
immutable
set search_path = ''
return jsonb_typeof(are_fields_understood.fields) = 'object' and not exists (
  select
  from jsonb_each(case when jsonb_typeof(are_fields_understood.fields) = 'object' then are_fields_understood.fields end) as field
  where jsonb_typeof(field.value) <> 'object'
    or field.value - '{type,required,one_of,keys}'::text[] <> '{}'
    or coalesce(field.value ->> 'type', '') <> all (case when field.value ? 'type' then '{text,uuid,number,boolean,object,array}'::text[] else '{""}' end)
    or jsonb_typeof(coalesce(field.value -> 'required', 'false')) <> 'boolean'
    -- A list has one of its values where JSON paths are lax, so only what is no list is compared.
    or not coalesce(
      not field.value ? 'one_of'
        or (jsonb_typeof(field.value -> 'one_of') = 'array' and field.value -> 'one_of' <> '[]' and field.value ->> 'type' in ('text', 'uuid', 'number', 'boolean')),
      false
    )
    or not coalesce(
      not field.value ? 'keys'
        or (
          field.value ->> 'type' = 'object'
          and jsonb_path_match(field.value, 'strict $.keys.type() == "array" && !exists($.keys[*] ? (@.type() != "string"))', silent => true)
        ),
      false
    )
);
comment on function ops.are_fields_understood(jsonb) is
  'Whether ops.event_types.fields holds nothing but rules that are checked: a rule with a misspelt name would refuse every event, or none.';

create table ops.event_types (
  event_type text not null,
  description text not null,
  label_keys text[] not null default '{}',
  value_key text,
  value_unit text,
  fields jsonb not null default '{}',
  shape jsonpath generated always as (ops.metadata_shape(fields)) stored,
  rules jsonb generated always as (ops.field_rules(fields)) stored,
  constraint event_types_pkey primary key (event_type),
  constraint event_types_event_type_is_no_audit check (event_type <> 'slsa_audit_metrics'),
  constraint event_types_have_at_most_four_labels check (
    cardinality(label_keys) <= 4
    and coalesce(array_ndims(label_keys), 1) = 1
    and array_position(label_keys, null) is null
    and char_length(array_to_string(label_keys, '')) <= 200
  ),
  constraint event_types_fields_are_an_object check (jsonb_typeof(fields) = 'object'),
  constraint event_types_fields_are_understood check (ops.are_fields_understood(fields)),
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
comment on column ops.event_types.rules is 'The same rules one by one, each with the reason of a refusal.';
alter table ops.event_types enable row level security;
create policy event_types_select_authenticated on ops.event_types for select to authenticated using (true);

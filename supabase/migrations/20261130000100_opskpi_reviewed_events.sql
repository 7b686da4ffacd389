-- An event is read in UTC whatever zone the session calls Z, and a kind of event has only rules that are checked.

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

-- Rows of users that are not understood stay until they are changed.
alter table ops.event_types add constraint event_types_fields_are_understood check (ops.are_fields_understood(fields)) not valid;
do $$
begin
  if not exists (select from ops.event_types as kind where not ops.are_fields_understood(kind.fields)) then
    alter table ops.event_types validate constraint event_types_fields_are_understood;
  end if;
end;
$$;

create or replace function ops.check_events(documents jsonb, may_raise boolean default false)
returns table (
  place bigint,
  event_type text,
  event_timestamp timestamptz,
  run_id bigint,
  tag text,
  metadata jsonb,
  event_id uuid,
  org_id uuid,
  agent_id uuid,
  refusal text[]
)
-- plpgsql, because before Postgres 18 an SQL function is planned anew with each call, which takes as long as 30 events. One
-- function, because a step in a function of its own would copy each event once more (2 µs of 20).
language plpgsql
stable
set search_path = ''
-- A zone that the session calls Z would move 12:00:00Z, and a day has 23 hours where its clock is changed.
set timezone = 'UTC'
as $$
declare
  caller record;
  latest constant timestamptz := now() + (ops.event_limits()).furthest_ahead;
  too_deep constant jsonpath :=
    ('strict $.**{' || (ops.event_limits()).deepest_nesting || '} ? (@.type() == "object" || @.type() == "array")')::jsonpath;
begin
  select * into strict caller from ops.ingesting_caller();
  return query
  with elements as (
    select
      element.ordinality - 1 as place,
      element.value as element,
      -- The batch format has everything in payload, the row format has columns beside metadata.
      coalesce(element.value -> 'payload', element.value -> 'metadata', '{}') as payload
    from jsonb_array_elements(documents) with ordinality as element
    -- A barrier, as the two below: without it an expression is evaluated again wherever its value is used.
    offset 0
  ),
  texts as (
    select
      elements.*,
      case when jsonb_typeof(elements.payload) = 'object' then elements.payload end as body,
      elements.element ->> 'event_type' as event_type,
      coalesce(elements.element ->> 'event_id', elements.payload ->> 'event_id') as event_id,
      coalesce(elements.element ->> 'event_timestamp', elements.element ->> 'timestamp', elements.payload ->> 'timestamp') collate "C" as instant,
      coalesce(elements.element ->> 'run_id', elements.payload ->> 'run_id') as run_id,
      coalesce(elements.element ->> 'tag', elements.payload ->> 'tag') as tag,
      coalesce(elements.element ->> 'org_id', elements.payload ->> 'org_id') as org_id,
      coalesce(elements.element ->> 'agent_id', elements.payload ->> 'agent_id') as agent_id
    from elements
    offset 0
  ),
  -- A cast that fails would take the whole batch along, so the text is looked at before. A long regular expression takes longer
  -- than all the rest: that of a time is split in two, and a UUID is known by its four hyphens and its digits.
  parsed as (
    select
      texts.*,
      case
        -- Usual forms are cast at once: with digits in these places a cast takes what the rule below takes, and 24:00 and a second 60.
        when may_raise
          and texts.instant like any (array[
            '____-__-__T__:__:__Z', '____-__-__T__:__:__.___Z', '____-__-__T__:__:__.______Z', '____-__-__T__:__:__.______+00:00'
          ])
          and concat(
            left(texts.instant, 4), substr(texts.instant, 6, 2), substr(texts.instant, 9, 2), substr(texts.instant, 12, 2),
            substr(texts.instant, 15, 2), substr(texts.instant, 18, 2), substr(texts.instant, 21, 3),
            case when octet_length(texts.instant) > 24 then substr(texts.instant, 24, 3) end
          ) !~ '[^0-9]'
          and texts.instant not like '___________24%'
          and texts.instant not like '_________________60%'
          then texts.instant::timestamptz
        when octet_length(texts.instant) <= (ops.event_limits()).longest_instant
          and texts.instant ~ '^[1-9][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])[Tt ]'
          and substr(texts.instant, 12)
            ~ '^(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?(?:[Zz]|[+-](?:0[0-9]|1[0-4])(?::?[0-5][0-9])?)$'
          and substr(texts.instant, 6, 5) <> all (array['02-30', '02-31', '04-31', '06-31', '09-31', '11-31'])
          and (
            substr(texts.instant, 6, 5) <> '02-29'
            or (left(texts.instant, 4)::integer % 4 = 0 and left(texts.instant, 4)::integer % 100 <> 0)
            or left(texts.instant, 4)::integer % 400 = 0
          )
          then texts.instant::timestamptz
      end as event_timestamp,
      case
        when texts.event_id like '________-____-____-____-____________'
          and texts.event_id not like '%-%-%-%-%-%'
          and (may_raise or texts.event_id !~ '[^0-9a-fA-F-]')
          then texts.event_id::uuid
      end as event_uuid,
      case
        when texts.org_id like '________-____-____-____-____________'
          and texts.org_id not like '%-%-%-%-%-%'
          and (may_raise or texts.org_id !~ '[^0-9a-fA-F-]')
          then texts.org_id::uuid
      end as org_uuid,
      case
        when texts.agent_id like '________-____-____-____-____________'
          and texts.agent_id not like '%-%-%-%-%-%'
          and (may_raise or texts.agent_id !~ '[^0-9a-fA-F-]')
          then texts.agent_id::uuid
      end as agent_uuid,
      case
        when octet_length(texts.run_id) between 1 and (ops.event_limits()).most_run_digits and texts.run_id !~ '[^0-9]'
          then texts.run_id::bigint
      end as run_number
    from texts
    offset 0
  )
  select
    parsed.place,
    parsed.event_type,
    coalesce(parsed.event_timestamp, now()),
    parsed.run_number,
    parsed.tag,
    parsed.body - (ops.event_limits()).column_keys,
    coalesce(parsed.event_uuid, gen_random_uuid()),
    -- A caller whom RLS binds to an org writes that org's events only.
    coalesce(parsed.org_uuid, caller.org_id, '00000000-0000-0000-0000-000000000000'::uuid),
    parsed.agent_uuid,
    case
      when parsed.event_type is null and jsonb_typeof(parsed.element) <> 'object'
        then array['', 'an event is a JSON object, not ' || jsonb_typeof(parsed.element)]
      when parsed.event_type is null then array['event_type', 'is required']
      when kind.event_type is null and char_length(parsed.event_type) not between 1 and (ops.event_limits()).longest_event_type
        then array['event_type', format('must have 1 to %s characters', (ops.event_limits()).longest_event_type)]
      when kind.event_type is null
        then array['event_type', format('%s is no known event type; describe it in ops.event_types', left(to_jsonb(parsed.event_type)::text, 100))]
      when pg_column_size(parsed.element) > (ops.event_limits()).largest_bytes
        then array['metadata', format('is larger than %s KiB', (ops.event_limits()).largest_bytes / 1024)]
      when jsonb_path_exists(parsed.element, too_deep)
        then array['metadata', format('is nested deeper than %s', (ops.event_limits()).deepest_nesting)]
      when parsed.element - (ops.event_limits()).keys <> '{}'
        then array['', 'has a key that is none of ' || array_to_string((ops.event_limits()).keys, ', ')]
      when parsed.element ->> 'metadata' is not null and parsed.element -> 'payload' is not null
        then array['metadata', 'stands beside payload: an event has one of them']
      when parsed.body is null then array['payload', 'must be an object, not ' || jsonb_typeof(parsed.payload)]
      when parsed.event_timestamp is null and parsed.instant is not null
        then array['timestamp', 'must be an RFC 3339 time with its offset, such as 2026-01-31T23:59:59Z']
      when parsed.event_timestamp is null and parsed.event_id is not null
        then array['timestamp', 'is required beside event_id: a repeated event is recognised by both']
      when parsed.event_timestamp < (ops.event_limits()).earliest_at
        then array['timestamp', 'is before ' || to_char((ops.event_limits()).earliest_at at time zone 'UTC', 'YYYY')]
      when parsed.event_timestamp > latest then array['timestamp', 'is more than a day ahead']
      -- Nearly every event is newer than all that was ever removed; the others are looked up one by one.
      when parsed.event_timestamp < (select coalesce(max(removed.removed_until), '-infinity') from ops.removed_events as removed)
        and parsed.event_timestamp
          < (select removed.removed_until from ops.removed_events as removed where removed.event_type = parsed.event_type)
        then array[
          'timestamp',
          format(
            'is before %s, and events of that time have been removed: a repeated one could not be recognised',
            (
              select to_char(removed.removed_until at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
              from ops.removed_events as removed
              where removed.event_type = parsed.event_type
            )
          )
        ]
      when parsed.event_id is not null and parsed.event_uuid is null then array['event_id', 'must be a UUID']
      when parsed.org_id is not null and parsed.org_uuid is null then array['org_id', 'must be a UUID']
      when caller.is_bound and caller.org_id is null then array['org_id', 'your token names no valid organisation']
      when parsed.org_uuid <> caller.org_id then array['org_id', 'is another organisation than your token''s']
      when parsed.agent_id is not null and parsed.agent_uuid is null then array['agent_id', 'must be a UUID']
      when parsed.run_id is not null and parsed.run_number is null
        then array['run_id', format('must be a whole number of at most %s digits', (ops.event_limits()).most_run_digits)]
      when char_length(parsed.tag) > (ops.event_limits()).longest_tag
        then array['tag', format('is longer than %s characters', to_char((ops.event_limits()).longest_tag, 'FM999,999'))]
      when jsonb_path_match(parsed.body, kind.shape, '{}', true) is not true
        -- The shape leaves the form of these two to the columns. The row format says them beside metadata, which may say others.
        or (
          parsed.element ?| array['agent_id', 'org_id']
          and (parsed.agent_id <> parsed.body ->> 'agent_id' or parsed.org_id <> parsed.body ->> 'org_id')
        )
        then ops.metadata_fault(kind.rules, parsed.body)
    end
  from parsed
  left join ops.event_types as kind
    on kind.event_type = parsed.event_type
    -- The table of the events takes no other name.
    and char_length(kind.event_type) between 1 and (ops.event_limits()).longest_event_type;
end;
$$;

revoke execute on function ops.are_fields_understood from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function ops.are_fields_understood from anon, authenticated, service_role;
end;
$$;

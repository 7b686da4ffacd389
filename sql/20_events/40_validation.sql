-- Validation: a batch is read, cast as a whole, and checked event by event where the cast fails.

create function ops.read_events(documents jsonb)
returns table (
  place bigint,
  element jsonb,
  envelope jsonb,
  payload jsonb,
  body jsonb,
  event_type text,
  event_id text,
  instant text,
  run_id text,
  tag text,
  org_id text,
  agent_id text
)
language sql
stable
set search_path = ''
begin atomic
  with elements as (
    select
      element.ordinality - 1 as place,
      element.value as element,
      case when jsonb_typeof(element.value) = 'object' then element.value else '{}'::jsonb end as envelope
    from jsonb_array_elements(read_events.documents) with ordinality as element
  ),
  bodies as (
    select
      elements.*,
      coalesce(elements.envelope -> 'payload', elements.envelope -> 'metadata') as payload,
      case
        when jsonb_typeof(elements.envelope -> 'payload') = 'object' then elements.envelope -> 'payload'
        when elements.envelope -> 'payload' is null and jsonb_typeof(elements.envelope -> 'metadata') = 'object'
          then elements.envelope -> 'metadata'
        else '{}'::jsonb
      end as body
    from elements
  )
  -- The batch format has everything in payload, the row format has columns beside metadata.
  select
    bodies.place,
    bodies.element,
    bodies.envelope,
    bodies.payload,
    bodies.body,
    bodies.envelope ->> 'event_type',
    coalesce(bodies.envelope ->> 'event_id', bodies.body ->> 'event_id'),
    coalesce(bodies.envelope ->> 'event_timestamp', bodies.envelope ->> 'timestamp', bodies.body ->> 'timestamp'),
    coalesce(bodies.envelope ->> 'run_id', bodies.body ->> 'run_id'),
    coalesce(bodies.envelope ->> 'tag', bodies.body ->> 'tag'),
    coalesce(bodies.envelope ->> 'org_id', bodies.body ->> 'org_id'),
    coalesce(bodies.envelope ->> 'agent_id', bodies.body ->> 'agent_id')
  from bodies;
end;
comment on function ops.read_events(jsonb) is 'One row an element of the array, in order, with its parts as text, unchecked.';

create function ops.leave_to_check()
returns text
language plpgsql
volatile
set search_path = ''
as $$
begin
  raise exception 'an event is not plainly valid' using errcode = 'data_exception';
end;
$$;
comment on function ops.leave_to_check() is 'Ends the quick way of ingest_events, which catches it, where an event is not plainly valid.';

create function ops.cast_events(documents jsonb)
returns table (
  event_type text,
  event_timestamp timestamptz,
  run_id bigint,
  tag text,
  metadata jsonb,
  event_id uuid,
  org_id uuid,
  agent_id uuid
)
language sql
stable
set search_path = ''
begin atomic
  select
    case
      when kind.shape is not null
        and jsonb_path_match(event.body, kind.shape, '{}', true)
        and coalesce(jsonb_typeof(event.payload) = 'object', true)
        and pg_column_size(event.element) <= 65536
        and not jsonb_path_exists(event.element, 'strict $.**{33}')
        and event.envelope - array[
          'event_type', 'payload', 'metadata', 'event_timestamp', 'timestamp', 'event_id', 'org_id', 'agent_id', 'run_id', 'tag'
        ] = '{}'
        and (event.event_id is null or (event.event_id like '________-____-____-____-____________' and event.instant is not null))
        and (event.org_id is null or event.org_id like '________-____-____-____-____________')
        and (event.agent_id is null or event.agent_id like '________-____-____-____-____________')
        and (
          event.instant is null
          or (
            event.instant like '____-__-__T__:__%'
            and (event.instant like '%Z' or event.instant like '%+__:__' or event.instant like '%:__-__:__')
            and casted.event_timestamp between timestamptz '2000-01-01 00:00+00' and now() + interval '1 day'
            -- Nearly every event is newer than all that was ever removed; the others are looked up one by one.
            and (
              coalesce(casted.event_timestamp >= (select max(removed.removed_until) from ops.removed_events as removed), true)
              or not exists (
                select
                from ops.removed_events as removed
                where removed.event_type = event.event_type
                  and removed.removed_until > casted.event_timestamp
              )
            )
          )
        )
        and (caller.is_bound is false or coalesce(casted.org_id, caller.org_id) = caller.org_id)
        and coalesce(casted.run_id between 0 and 999999999999999999, true)
        and coalesce(char_length(event.tag) <= 1000, true)
        then event.event_type
      else ops.leave_to_check()
    end,
    coalesce(casted.event_timestamp, now()),
    casted.run_id,
    event.tag,
    event.body - array['timestamp', 'event_id', 'run_id', 'tag'],
    coalesce(event.event_id::uuid, gen_random_uuid()),
    coalesce(casted.org_id, caller.org_id, '00000000-0000-0000-0000-000000000000'::uuid),
    event.agent_id::uuid
  from ops.read_events(cast_events.documents) as event
  cross join lateral (
    select event.instant::timestamptz as event_timestamp, event.org_id::uuid as org_id, event.run_id::bigint as run_id
    -- A barrier: a cast takes longer than the checks on its result.
    offset 0
  ) as casted
  cross join ops.ingesting_caller() as caller
  left join ops.event_types as kind
    on kind.event_type = event.event_type;
end;
comment on function ops.cast_events(jsonb) is
  'The elements as they would be stored if each is plainly valid; else, and for a malformed number, time or UUID, an error of class 22. Whatever it does not know is left to check_events, which knows all the forms and says what is wrong.';

create function ops.check_events(documents jsonb)
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
language sql
stable
set search_path = ''
begin atomic
  with understood as (
    select
      merged.*,
      kind.event_type as known_type,
      kind.fields,
      removed.removed_until,
      case
        -- A cast that fails would take the whole batch along, so the 31st of April is found first.
        when merged.instant !~ '^(19|2[01])\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,12})?)?([Zz]|[+-](0\d|1[0-4])(:?[0-5]\d)?)$'
          then null
        when substr(merged.instant, 9, 2) > '28'
          and substr(merged.instant, 9, 2)
            > to_char(make_date(left(merged.instant, 4)::integer, substr(merged.instant, 6, 2)::integer, 1) + interval '1 month -1 day', 'DD')
          then null
        else merged.instant::timestamptz
      end as event_timestamp,
      case when merged.event_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then merged.event_id::uuid end as event_uuid,
      case when merged.org_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then merged.org_id::uuid end as org_uuid,
      case when merged.agent_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then merged.agent_id::uuid end as agent_uuid,
      case when merged.run_id ~ '^\d{1,18}$' then merged.run_id::bigint end as run_number,
      -- A caller whom RLS binds to an org writes that org's events only.
      caller.org_id as caller_org_id,
      caller.is_bound
    from ops.read_events(check_events.documents) as merged
    cross join ops.ingesting_caller() as caller
    left join ops.event_types as kind
      on kind.event_type = merged.event_type
    left join ops.removed_events as removed
      on removed.event_type = merged.event_type
  ),
  judged as (
    select
      understood.*,
      case
        when jsonb_typeof(understood.element) <> 'object'
          then array['', 'an event is a JSON object, not ' || jsonb_typeof(understood.element)]
        when pg_column_size(understood.element) > 65536 then array['metadata', 'is larger than 64 KiB']
        when jsonb_path_exists(understood.element, 'strict $.**{33}') then array['metadata', 'is nested deeper than 32']
        when understood.event_type is null then array['event_type', 'is required']
        when understood.known_type is null
          then array['event_type', format('%s is no known event type; describe it in ops.event_types', left(to_jsonb(understood.event_type)::text, 100))]
        when understood.envelope - array[
          'event_type', 'payload', 'metadata', 'event_timestamp', 'timestamp', 'event_id', 'org_id', 'agent_id', 'run_id', 'tag'
        ] <> '{}'
          then array[
            '',
            'has a key that is none of event_type, payload, metadata, event_timestamp, event_id, org_id, agent_id, run_id, tag'
          ]
        when jsonb_typeof(understood.payload) <> 'object' then array['payload', 'must be an object, not ' || jsonb_typeof(understood.payload)]
        when understood.instant is null and understood.event_id is not null
          then array['timestamp', 'is required beside event_id: a repeated event is recognised by both']
        when understood.instant is not null and understood.event_timestamp is null
          then array['timestamp', 'must be an ISO 8601 time with a time zone, such as 2026-01-31T23:59:59Z']
        when understood.event_timestamp < timestamptz '2000-01-01 00:00+00' then array['timestamp', 'is before 2000']
        when understood.event_timestamp > now() + interval '1 day' then array['timestamp', 'is more than a day ahead']
        when understood.event_timestamp < understood.removed_until
          then array[
            'timestamp',
            format(
              'is before %s, and events of that time have been removed: a repeated one could not be recognised',
              to_char(understood.removed_until at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
            )
          ]
        when understood.event_id is not null and understood.event_uuid is null then array['event_id', 'must be a UUID']
        when understood.org_id is not null and understood.org_uuid is null then array['org_id', 'must be a UUID']
        when understood.is_bound and understood.caller_org_id is null then array['org_id', 'your token names no valid organisation']
        when understood.org_uuid <> understood.caller_org_id then array['org_id', 'is another organisation than your token''s']
        when understood.agent_id is not null and understood.agent_uuid is null then array['agent_id', 'must be a UUID']
        when understood.run_id is not null and understood.run_number is null then array['run_id', 'must be a whole number of at most 18 digits']
        when char_length(understood.tag) > 1000 then array['tag', 'is longer than 1,000 characters']
      end as refusal
    from understood
  )
  select
    judged.place,
    judged.event_type,
    coalesce(judged.event_timestamp, now()),
    judged.run_number,
    judged.tag,
    judged.body - array['timestamp', 'event_id', 'run_id', 'tag'],
    coalesce(judged.event_uuid, gen_random_uuid()),
    coalesce(judged.org_uuid, judged.caller_org_id, '00000000-0000-0000-0000-000000000000'::uuid),
    judged.agent_uuid,
    coalesce(judged.refusal, refused_field.refusal)
  from judged
  left join lateral (
    select array[rule.key, verdict.reason] as refusal
    from jsonb_each(judged.fields) as rule
    cross join lateral (
      select
        judged.body -> rule.key as found,
        coalesce(jsonb_typeof(judged.body -> rule.key), 'null') as found_type,
        rule.value ->> 'type' as wanted_type
    ) as answer
    cross join lateral (
      select case
        when answer.found_type = 'null' then case when (rule.value -> 'required')::boolean then 'is required' end
        when answer.wanted_type = 'uuid' then
          case when answer.found #>> '{}' !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then 'must be a UUID' end
        when answer.found_type <> case answer.wanted_type when 'text' then 'string' else answer.wanted_type end
          then format('must be of type %s, not %s', answer.wanted_type, answer.found_type)
        when answer.found_type = 'number' and answer.found < '0' then 'must be 0 or more'
        when answer.found_type = 'number' and answer.found > '1000000000000000' then 'must be at most 10^15'
        when rule.value ? 'one_of' and not rule.value -> 'one_of' @> answer.found
          then 'must be one of ' || (rule.value ->> 'one_of')
        when rule.value ? 'keys' and not answer.found ?& array(select jsonb_array_elements_text(rule.value -> 'keys'))
          then 'must have the keys ' || (rule.value ->> 'keys')
      end as reason
    ) as verdict
    where verdict.reason is not null
    limit 1
  ) as refused_field on judged.refusal is null;
end;
comment on function ops.check_events(jsonb) is
  'One row an element of the array, in order: the event as it would be stored, and refusal: null, or the field and the reason.';

create function ops.readable_events(events json)
returns table (document jsonb, reasons jsonb)
language plpgsql
stable
set search_path = ''
as $$
declare
  element record;
  -- Arrays, since a jsonb array is copied whole for each element that is added to it.
  documents jsonb[] := '{}'::jsonb[];
  faults jsonb[] := '{}'::jsonb[];
begin
  for element in
    select json_element.ordinality - 1 as place, json_element.value
    from json_array_elements(events) with ordinality as json_element
  loop
    begin
      documents := array_append(documents, element.value::jsonb);
    exception
      -- NUL bytes, half surrogates, numbers beyond numeric, nesting beyond the stack.
      when data_exception or program_limit_exceeded then
        documents := array_append(documents, 'null'::jsonb);
        faults := array_append(
          faults,
          jsonb_build_object('index', element.place, 'field', '', 'reason', 'cannot be stored as JSON: ' || sqlerrm)
        );
    end;
  end loop;
  document := to_jsonb(documents);
  reasons := to_jsonb(faults);
  return next;
end;
$$;
comment on function ops.readable_events(json) is
  'The array with null for each element that Postgres cannot hold as jsonb, and why; the slow way, taken when the whole cannot be cast.';

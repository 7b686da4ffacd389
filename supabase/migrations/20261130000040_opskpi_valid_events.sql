-- What makes an event valid is said once, so that an event gets the same answer alone and in any batch, on every Postgres.

drop function ops.cast_anonymised(jsonb);
drop function ops.check_anonymised(jsonb);
drop function ops.check_events(jsonb);
drop function ops.cast_events(jsonb);
drop function ops.read_events(jsonb);

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

create or replace function ops.metadata_shape(fields jsonb)
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

alter table ops.event_types
  -- A handful of rows.
  -- squawk-ignore adding-field-with-default
  add column rules jsonb generated always as (ops.field_rules(fields)) stored;
comment on column ops.event_types.rules is 'The same rules one by one, each with the reason of a refusal.';

-- The shapes that are stored were made by the function as it was.
update ops.event_types
set fields = fields
where true;

create function ops.metadata_fault(rules jsonb, metadata jsonb)
returns text[]
-- plpgsql, because before Postgres 18 an SQL function is planned anew with each call.
language plpgsql
immutable
set search_path = ''
as $$
begin
  return (
    select array[
      rule.value ->> 'field',
      (rule.value ->> 'reason') || case when rule.value ->> 'reason' like 'must be of type %' then ', not ' || found.type else '' end
    ]
    from jsonb_array_elements(rules) with ordinality as rule
    cross join lateral (select coalesce(jsonb_typeof(metadata -> (rule.value ->> 'field')), 'null') as type) as found
    where ((rule.value -> 'required')::boolean or found.type <> 'null')
      and jsonb_path_match(metadata, (rule.value ->> 'test')::jsonpath, '{}', true) is not true
    order by rule.ordinality
    limit 1
  );
end;
$$;
comment on function ops.metadata_fault(jsonb, jsonb) is
  'The first of ops.event_types.rules that metadata breaks: the field and the reason; null: none.';

create function ops.check_events(documents jsonb, may_raise boolean default false)
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
comment on function ops.check_events(jsonb, boolean) is
  'One row an element of the array, in order: the event as it would be stored, and refusal: null, or the field and the reason. All that is asked of an event is asked here, whatever way it comes in. With may_raise a malformed UUID or time may be an error of class 22 instead, which costs less than looking first.';

create or replace function ops.leave_to_check()
returns text
language plpgsql
volatile
set search_path = ''
as $$
begin
  raise exception 'an event is refused' using errcode = 'data_exception';
end;
$$;
comment on function ops.leave_to_check() is
  'Ends the attempt of ingest_events to store a batch as a whole, which catches it, where an event is refused.';

create or replace function public.ingest_events(events json)
returns jsonb
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  caller record;
  skips_known boolean;
  anonymises boolean := exists (select from ops.anonymisation_rules as rule where rule.on_ingest and rule.is_enabled);
  document jsonb;
  accepted bigint;
  unreadable jsonb := '[]'::jsonb;
  unreadable_places bigint[];
  answer jsonb;
  announced jsonb := '{}'::jsonb;
begin
  if events is null or json_typeof(events) <> 'array' then
    raise exception 'events must be a JSON array'
      using errcode = 'OP001', hint = 'Send [{"event_type": …, "payload": {…}}, …].';
  end if;
  if current_setting('transaction_isolation') <> 'read committed'
    and exists (select from ops.retention_rules as rule where rule.kept = 'events' and rule.age is not null) then
    raise exception 'ingest_events needs read committed where events have an age, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'An older snapshot does not know which events are gone, and would count a repeated one again.';
  end if;
  select * into strict caller from ops.ingesting_caller();
  if caller.is_bound then
    -- Whoever comes through an API is counted before anything is done for the call, and cannot ask for too much at once.
    if json_array_length(events) > 5000 then
      raise exception 'a batch of % events is too large', json_array_length(events)
        using errcode = 'PT413', hint = 'Send at most 5,000 at once; 50 are a good number.';
    end if;
    if not ops.caller_has_scope('ingest') then
      raise exception 'storing events needs the scope ingest'
        using errcode = 'PT403', hint = 'Use a key or token whose app_metadata.scopes lists ingest.';
    end if;
    if caller.org_id is not null then
      perform ops.count_request(
        caller.org_id,
        case when anonymises then ops.anonymous_senders(caller.org_id, ops.senders(events)) else ops.senders(events) end
      );
      announced := jsonb_build_object('policy_version', ops.policy_version(caller.org_id));
    end if;
  end if;
  begin
    document := events::jsonb;
  exception
    when data_exception or program_limit_exceeded then
      select readable.document, readable.reasons into document, unreadable from ops.readable_events(events) as readable;
  end;
  -- Nearly every batch is new and valid as a whole; looking for repeated events costs a tenth more, telling the refused ones apart as much again.
  foreach skips_known in array array[false, true] loop
    exit when unreadable <> '[]';
    begin
      if anonymises then
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select
          event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
        from ops.cast_anonymised(document) as event
        on conflict on constraint telemetry_events_pkey do nothing;
      elsif skips_known then
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select
          case when event.refusal is null then event.event_type else ops.leave_to_check() end,
          event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
        from ops.check_events(document, may_raise => true) as event
        on conflict on constraint telemetry_events_pkey do nothing;
      else
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select
          case when event.refusal is null then event.event_type else ops.leave_to_check() end,
          event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
        from ops.check_events(document, may_raise => true) as event;
      end if;
      get diagnostics accepted = row_count;
      return jsonb_build_object('accepted', accepted, 'duplicate', jsonb_array_length(document) - accepted, 'refused', '[]'::jsonb)
        || announced;
    exception
      when unique_violation then
        continue;
      when data_exception or program_limit_exceeded then
        exit;
    end;
  end loop;
  unreadable_places := array(select (fault.value -> 'index')::bigint from jsonb_array_elements(unreadable) as fault);
  with checked as materialized (
    select
      event.place, event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id,
      event.refusal
    from ops.check_events(document) as event
    where not anonymises
    union all
    select
      event.place, event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id,
      event.refusal
    from ops.check_anonymised(document) as event
    where anonymises
  ),
  stored as (
    insert into public.telemetry_events (
      event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id
    )
    select
      checked.event_type, checked.event_timestamp, checked.run_id, checked.tag, checked.metadata, checked.event_id, checked.org_id, checked.agent_id
    from checked
    where checked.refusal is null
    on conflict on constraint telemetry_events_pkey do nothing
    returning 1
  ),
  counted as (
    select
      (select count(*) from stored) as accepted,
      count(*) filter (where checked.refusal is null) as valid,
      jsonb_agg(
        jsonb_build_object('index', checked.place, 'field', checked.refusal[1], 'reason', checked.refusal[2])
        order by checked.place
      ) filter (where checked.refusal is not null and checked.place <> all (unreadable_places)) as refused
    from checked
  )
  select jsonb_build_object(
    'accepted', counted.accepted,
    'duplicate', counted.valid - counted.accepted,
    'refused', unreadable || coalesce(counted.refused, '[]')
  )
  into answer
  from counted;
  return answer || announced;
end;
$$;
comment on function public.ingest_events(json) is
  'Stores a JSON array of events. Returns {"accepted": n, "duplicate": n, "refused": [{"index", "field", "reason"}]}; index counts from 0. Valid events are stored whatever the others are; a repeated event (org, event_id, time) counts as duplicate. A caller whom RLS binds is also told the "policy_version" of its hooks, and is held to the requests a minute of the settings.';

create function ops.cast_anonymised(documents jsonb)
returns setof ops.anonymisable
language sql
volatile
set search_path = ''
begin atomic
  select anonymised.*
  from ops.anonymise_incoming(array(
    select row(
      event.place, case when event.refusal is null then event.event_type else ops.leave_to_check() end, event.event_timestamp, event.run_id, event.tag,
      event.metadata, event.event_id, event.org_id, event.agent_id
    )::ops.anonymisable
    from ops.check_events(cast_anonymised.documents, true) as event
  )) as anonymised;
end;
comment on function ops.cast_anonymised(jsonb) is
  'What check_events gives, after the rules that apply on the way in; an error of class 22 where an event is refused.';

create function ops.check_anonymised(documents jsonb)
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
volatile
set search_path = ''
begin atomic
  with checked as materialized (
    select event.* from ops.check_events(check_anonymised.documents, false) as event
  )
  select
    anonymised.place, anonymised.event_type, anonymised.event_timestamp, anonymised.run_id, anonymised.tag, anonymised.metadata,
    anonymised.event_id, anonymised.org_id, anonymised.agent_id, null
  from ops.anonymise_incoming(array(
    select row(
      checked.place, checked.event_type, checked.event_timestamp, checked.run_id, checked.tag, checked.metadata, checked.event_id, checked.org_id,
      checked.agent_id
    )::ops.anonymisable
    from checked
    where checked.refusal is null
  )) as anonymised
  union all
  select
    checked.place, checked.event_type, checked.event_timestamp, checked.run_id, checked.tag, checked.metadata, checked.event_id, checked.org_id,
    checked.agent_id, checked.refusal
  from checked
  where checked.refusal is not null;
end;
comment on function ops.check_anonymised(jsonb) is 'What check_events gives, what is not refused after the rules that apply on the way in.';

revoke execute on function
  ops.event_limits(),
  ops.field_rules(jsonb),
  ops.metadata_fault(jsonb, jsonb),
  ops.check_events(jsonb, boolean),
  ops.cast_anonymised(jsonb),
  ops.check_anonymised(jsonb)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.event_limits(),
    ops.field_rules(jsonb),
    ops.metadata_fault(jsonb, jsonb),
    ops.check_events(jsonb, boolean),
    ops.cast_anonymised(jsonb),
    ops.check_anonymised(jsonb)
  from anon, authenticated, service_role;
  grant execute on function
    ops.event_limits(),
    ops.field_rules(jsonb),
    ops.metadata_fault(jsonb, jsonb),
    ops.check_events(jsonb, boolean),
    ops.cast_anonymised(jsonb),
    ops.check_anonymised(jsonb)
  to authenticated, service_role;
end;
$$;

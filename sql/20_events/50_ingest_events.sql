-- The entry of events: each valid event is stored once, each malformed one is refused by itself.

create function ops.batch_spread(events json)
returns integer
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    with told as materialized (
      select
        element.document ->> 'event_type' as event_type,
        element.payload,
        coalesce(element.payload ->> 'timestamp', element.document ->> 'timestamp', element.document ->> 'event_timestamp') as moment
      from (
        select read.document, coalesce(read.document -> 'payload', read.document -> 'metadata') as payload
        from (select listed.value::jsonb as document from json_array_elements(events) as listed offset 0) as read
        offset 0
      ) as element
    )
    select count(*)
    from (
      select distinct
        kind.event_type,
        left(told.moment, 13),
        substring(told.moment from '[+-]\d\d:?\d\d$'),
        told.payload -> kind.label_keys[1],
        told.payload -> kind.label_keys[2],
        told.payload -> kind.label_keys[3],
        told.payload -> kind.label_keys[4]
      from told
      join ops.event_types as kind
        on kind.event_type = told.event_type
    ) as touched
  );
exception
  -- What cannot be read here is told apart, and refused, event by event.
  when data_exception then
    return json_array_length(events);
end;
$$;
comment on function ops.batch_spread(json) is
  'In how many hours with labels of their own the events of a batch are counted, which is what counting it costs; at most as many as there are events.';

create function ops.admit_batch(events json, anonymises boolean)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  caller record;
  size integer;
  spread integer;
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
  if not caller.is_bound then
    return '{}'::jsonb;
  end if;
  -- Whoever comes through an API is counted before anything is done for the call, and cannot ask for too much at once.
  size := json_array_length(events);
  if size > 5000 then
    raise exception 'a batch of % events is too large', size
      using errcode = 'PT413', hint = 'Send at most 5,000 at once; 50 are a good number.';
  end if;
  -- Each hour with labels of its own is dozens of rows for the counting, which all tenants wait for: 150 of them cost less than
  -- five batches of the same bytes that are counted in a few.
  spread := case when size > 50 then ops.batch_spread(events) else 1 end;
  if spread > 150 then
    raise exception 'a batch of % events in % hours with labels of their own is too much at once', size, spread
      using errcode = 'PT413', hint = 'Send at most 150 events at once.';
  end if;
  if not ops.caller_has_scope('ingest') then
    raise exception 'storing events needs the scope ingest'
      using errcode = 'PT403', hint = 'Use a key or token whose app_metadata.scopes lists ingest.';
  end if;
  if caller.org_id is null then
    return '{}'::jsonb;
  end if;
  perform ops.count_key_request(caller.org_id, weight => 1 + spread / 50);
  perform ops.count_request(
    caller.org_id,
    case when anonymises then ops.anonymous_senders(caller.org_id, ops.senders(events)) else ops.senders(events) end
  );
  return jsonb_build_object('policy_version', ops.policy_version(caller.org_id));
end;
$$;
comment on function ops.admit_batch(json, boolean) is
  'Counts the request of a caller whom RLS binds, or refuses it as a whole. Returns what the answer tells that caller besides.';

create function ops.store_valid_events(document jsonb, unreadable jsonb, anonymises boolean)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  unreadable_places bigint[] := array(select (fault.value -> 'index')::bigint from jsonb_array_elements(unreadable) as fault);
  answer jsonb;
begin
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
    on conflict do nothing
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
  return answer;
end;
$$;
comment on function ops.store_valid_events(jsonb, jsonb, boolean) is
  'Stores the valid events of a batch and tells the refused ones apart; unreadable says why some are null in the document. Returns what ingest_events does.';

create function public.ingest_events(events json)
returns jsonb
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  skips_known boolean;
  anonymises boolean := exists (select from ops.anonymisation_rules as rule where rule.on_ingest and rule.is_enabled);
  document jsonb;
  accepted bigint;
  unreadable jsonb := '[]'::jsonb;
  announced jsonb;
begin
  announced := ops.admit_batch(events, anonymises);
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
        on conflict do nothing;
      elsif skips_known then
        insert into public.telemetry_events (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
        select
          case when event.refusal is null then event.event_type else ops.leave_to_check() end,
          event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
        from ops.check_events(document, may_raise => true) as event
        on conflict do nothing;
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
  return ops.store_valid_events(document, unreadable, anonymises) || announced;
end;
$$;
comment on function public.ingest_events(json) is
  'Stores a JSON array of events. Returns {"accepted": n, "duplicate": n, "refused": [{"index", "field", "reason"}]}; index counts from 0. Valid events are stored whatever the others are; a repeated event (org, event_id, time) counts as duplicate. A caller whom RLS binds is also told the "policy_version" of its hooks, and is held to the requests a minute of the settings.';

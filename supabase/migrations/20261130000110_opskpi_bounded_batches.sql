-- What one batch of an API caller may cost the counting is bounded: by the hours and labels that its events are counted in.

drop function ops.count_key_request;

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

create or replace function ops.admit_batch(events json, anonymises boolean)
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

create function ops.count_key_request(org_id uuid, as_of timestamptz default clock_timestamp(), weight integer default 1)
returns void
language plpgsql
volatile
set search_path = ''
-- Planning takes longer than the look into the index.
set plan_cache_mode = force_generic_plan
as $$
declare
  per_minute constant integer := coalesce(ops.setting('requests_per_minute_per_key')::integer, 300);
  own_id constant uuid := ops.token_id();
  -- As many requests ago as are allowed in a minute beside this one.
  earlier_at constant timestamptz := (
    select counted.requested_at
    from ops.key_requests as counted
    where counted.org_id = count_key_request.org_id
      and counted.token_id = own_id
      and counted.requested_at > as_of - interval '1 minute'
      and counted.requested_at <= as_of
    order by counted.requested_at desc
    offset greatest(per_minute - weight, 0)
    limit 1
  );
begin
  if earlier_at is not null then
    perform ops.refuse_request(per_minute, 'key', ceil(extract(epoch from earlier_at + interval '1 minute' - as_of))::integer);
  end if;
  insert into ops.key_requests (org_id, token_id, requested_at)
  select count_key_request.org_id, own_id, as_of
  from generate_series(1, weight);
end;
$$;
comment on function ops.count_key_request(uuid, timestamptz, integer) is
  'Counts a request against the key or token of the caller, whatever agents its events name, as often as its weight says; over the limit of the last minute it raises PGRST with status 429 and Retry-After. Requests that are under way at the same moment do not see each other, so a few more may pass.';

revoke execute on function
  ops.batch_spread,
  ops.count_key_request
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.batch_spread,
    ops.count_key_request
  from anon, authenticated, service_role;
  grant execute on function ops.batch_spread to authenticated, service_role;
  grant execute on function ops.count_key_request to authenticated;
end;
$$;

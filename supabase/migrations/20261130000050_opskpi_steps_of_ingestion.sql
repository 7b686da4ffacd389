-- What admits a batch, what stores its valid events, and which rules apply where become functions of their own, so that each is read alone.

drop function ops.is_excluded(uuid, text, timestamptz);

create function ops.admit_batch(events json, anonymises boolean)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  caller record;
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
  if json_array_length(events) > 5000 then
    raise exception 'a batch of % events is too large', json_array_length(events)
      using errcode = 'PT413', hint = 'Send at most 5,000 at once; 50 are a good number.';
  end if;
  if not ops.caller_has_scope('ingest') then
    raise exception 'storing events needs the scope ingest'
      using errcode = 'PT403', hint = 'Use a key or token whose app_metadata.scopes lists ingest.';
  end if;
  if caller.org_id is null then
    return '{}'::jsonb;
  end if;
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
  return answer;
end;
$$;
comment on function ops.store_valid_events(jsonb, jsonb, boolean) is
  'Stores the valid events of a batch and tells the refused ones apart; unreadable says why some are null in the document. Returns what ingest_events does.';

create or replace function public.ingest_events(events json)
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
  return ops.store_valid_events(document, unreadable, anonymises) || announced;
end;
$$;

create type ops.json_place as (
  event_type text,
  shape text,
  is_container boolean,
  is_deepest boolean
);
comment on type ops.json_place is 'Where values stand in events of a kind, as the patterns of rules see it, and whether rules look into such a value.';

create function ops.rules_of_places(places ops.json_place[], rules ops.anonymisation_rules[], is_erasure boolean)
returns table (
  event_type text,
  shape text,
  is_container boolean,
  field jsonb,
  applicable ops.anonymisation_rules[]
)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with kinds as materialized (
    select
      named.event_type,
      -- The agent has a pseudonym or nothing; what is left of one that is erased goes with the rest.
      ops.counted_places(named.event_type) || case when is_erasure then '{}'::text[] else array['."agent_id"'] end as kept,
      kind.fields
    from (select distinct place.event_type from unnest(places) as place offset 0) as named
    left join ops.event_types as kind
      on kind.event_type = named.event_type
  )
  select
    place.event_type,
    place.shape,
    place.is_container,
    case when place.shape = '' then '{"type": "object", "required": true}'::jsonb else asked.field end,
    array_agg(rule order by rule.rule_name collate "C")
  from unnest(places) as place
  join kinds
    on kinds.event_type = place.event_type
  join unnest(rules) as rule
    on rule.event_type in ('', place.event_type)
    and rule.path <> '$.agent_id'
    and place.shape ~ rule.pattern
    and (not place.is_container or place.is_deepest or (rule.action = 'remove' and rule.matching is null))
  left join lateral (
    select field.value as field
    from jsonb_each(kinds.fields) as field
    where '.' || to_jsonb(field.key)::text = place.shape
    union all
    select '{"type": "text", "required": true}'
    from jsonb_each(kinds.fields) as field
    cross join jsonb_array_elements_text(field.value -> 'keys') as wanted (key)
    where '.' || to_jsonb(field.key)::text || '.' || to_jsonb(wanted.key)::text = place.shape
    limit 1
  ) as asked on true
  where not exists (
    select
    from unnest(kinds.kept) as kept (shape)
    where place.shape = kept.shape
      or starts_with(place.shape, kept.shape || '.')
      or starts_with(place.shape, kept.shape || '[')
      or (place.is_container and (starts_with(kept.shape, place.shape || '.') or starts_with(kept.shape, place.shape || '[')))
  )
  group by 1, 2, 3, 4;
end;
$$;
comment on function ops.rules_of_places(ops.json_place[], ops.anonymisation_rules[], boolean) is
  'The rules that change a value at each of the places, and the field that its kind of event expects there. What is counted has none; nor has a container, unless rules do not look into it or remove it whole.';

create or replace function ops.anonymised_events(
  events ops.anonymisable[],
  rules ops.anonymisation_rules[],
  pseudonyms ops.pseudonym[],
  is_erasure boolean default false
)
returns table (
  place bigint,
  org_id uuid,
  event_timestamp timestamptz,
  event_id uuid,
  agent_id uuid,
  metadata jsonb,
  changed_by text[]
)
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  pads bytea[] := ops.anonymisation_pads();
begin
  return query
  with recursive nodes as (
    select event.place, event.event_type, event.org_id, '{}'::text[] as path, '' as shape, '{}'::bigint[] as ordinals, event.metadata as value
    from unnest(events) as event
    where event.metadata is not null
      -- Agents need no look into the rest.
      and exists (select from unnest(rules) as rule where rule.path <> '$.agent_id')
    union all
    select node.place, node.event_type, node.org_id, node.path || below.key, node.shape || below.step, node.ordinals || below.ordinality, below.value
    from nodes as node
    cross join lateral (
      select member.key, '.' || to_jsonb(member.key)::text as step, member.ordinality, member.value
      from jsonb_each(case when jsonb_typeof(node.value) = 'object' then node.value end) with ordinality as member
      union all
      select (element.ordinality - 1)::text, '[*]', element.ordinality, element.value
      from jsonb_array_elements(case when jsonb_typeof(node.value) = 'array' then node.value end) with ordinality as element
    ) as below
    where cardinality(node.path) < 64
  ),
  -- Rules are looked up once a place and kind of event, of which there are few, and not once a value.
  hits as materialized (
    select place.event_type, place.shape, place.is_container, place.field, place.applicable
    from ops.rules_of_places(
      array(
        select row(place.event_type, place.shape, place.is_container, place.is_deepest)::ops.json_place
        from (
          select distinct
            node.event_type,
            node.shape,
            jsonb_typeof(node.value) in ('object', 'array') as is_container,
            cardinality(node.path) = 64 as is_deepest
          from nodes as node
        ) as place
      ),
      rules,
      is_erasure
    ) as place
  ),
  edits as (
    select node.place, node.path, node.ordinals, changed.result, changed.changed_by
    from nodes as node
    join hits
      on hits.event_type = node.event_type
      and hits.shape = node.shape
      and hits.is_container = (jsonb_typeof(node.value) in ('object', 'array'))
    cross join lateral ops.anonymised_value(node.value, hits.field, hits.applicable, node.org_id, pads, is_erasure) as changed
    where cardinality(changed.changed_by) > 0
  ),
  edited as (
    select
      edit.place,
      -- From the end and the inside, so that a place means the same when its turn comes.
      array_agg(jsonb_build_object('path', edit.path, 'value', edit.result) order by edit.ordinals desc) as edits,
      string_agg(array_to_string(edit.changed_by, ','), ',') as changed_by
    from edits as edit
    group by 1
  )
  select
    event.place,
    event.org_id,
    event.event_timestamp,
    event.event_id,
    coalesce(own.pseudonym, event.agent_id),
    case
      when told.pseudonym is not null
        then jsonb_set(ops.with_edits(event.metadata, edited.edits), '{agent_id}', to_jsonb(told.pseudonym))
      else ops.with_edits(event.metadata, edited.edits)
    end,
    string_to_array(concat_ws(',', edited.changed_by, coalesce(own.rule_name, told.rule_name)), ',')
  from unnest(events) as event
  left join edited
    on edited.place = event.place
  left join unnest(pseudonyms) as own
    on own.org_id = event.org_id
    and own.agent_id = event.agent_id
    and own.event_type in ('', event.event_type)
  left join unnest(pseudonyms) as told
    on told.org_id = event.org_id
    and told.agent = lower(case when jsonb_typeof(event.metadata) = 'object' then event.metadata ->> 'agent_id' end)
    and told.event_type in ('', event.event_type)
  where edited.place is not null
    or own.pseudonym is not null
    or told.pseudonym is not null;
end;
$$;

revoke execute on function
  ops.admit_batch,
  ops.rules_of_places,
  ops.store_valid_events
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.admit_batch,
    ops.rules_of_places,
    ops.store_valid_events
  from anon, authenticated, service_role;
  grant execute on function
    ops.admit_batch,
    ops.rules_of_places,
    ops.store_valid_events
  to authenticated, service_role;
end;
$$;

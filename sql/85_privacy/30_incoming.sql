-- Events on the way in, after the rules that apply there.

create function ops.anonymise_incoming(events ops.anonymisable[])
returns setof ops.anonymisable
language plpgsql
volatile
set search_path = ''
as $$
declare
  rules ops.anonymisation_rules[] := array(
    select rule from ops.anonymisation_rules as rule where rule.on_ingest and rule.is_enabled
  );
  pseudonyms ops.pseudonym[] := array(select pair from ops.pseudonyms(events, rules) as pair);
begin
  perform ops.add_pseudonyms(pseudonyms);
  return query
  select
    event.place,
    event.event_type,
    event.event_timestamp,
    event.run_id,
    event.tag,
    case when anonymised.place is null then event.metadata else anonymised.metadata end,
    event.event_id,
    event.org_id,
    case when anonymised.place is null then event.agent_id else anonymised.agent_id end
  from unnest(events) as event
  left join ops.anonymised_events(events, rules, pseudonyms) as anonymised
    on anonymised.place = event.place;
end;
$$;
comment on function ops.anonymise_incoming(ops.anonymisable[]) is
  'The events after the rules that apply on the way in; only ingest_events comes here. The same event has the same key again, so that it is a duplicate.';

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

create function ops.anonymous_senders(org_id uuid, agent_ids uuid[])
returns uuid[]
language sql
stable
set search_path = ''
return (
  select array_agg(distinct coalesce(
    case
      when exists (
        select from ops.anonymisation_rules as rule where rule.path = '$.agent_id' and rule.on_ingest and rule.is_enabled
      ) then ops.agent_pseudonym(ops.anonymisation_pads(), anonymous_senders.org_id, agent.agent_id::text)
    end,
    agent.agent_id
  ))
  from unnest(anonymous_senders.agent_ids) as agent (agent_id)
);
comment on function ops.anonymous_senders(uuid, uuid[]) is
  'The senders of a batch as their requests are counted: by pseudonym, where agents get one on the way in.';

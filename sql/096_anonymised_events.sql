-- The rules applied to events: to those that come in, and batch by batch to those that are stored.

create table ops.anonymisations (
  anonymisation_id bigint generated always as identity,
  kind text not null,
  before timestamptz,
  only_org_id uuid,
  only_event_type text,
  started_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  looked_at bigint not null default 0,
  changed bigint not null default 0,
  counts jsonb not null default '{}',
  constraint anonymisations_pkey primary key (anonymisation_id),
  constraint anonymisations_kind_check check (kind in ('rules', 'erasure'))
);
comment on table ops.anonymisations is 'One row a run that anonymised stored events: what was done, never to whom or to what.';
comment on column ops.anonymisations.anonymisation_id is 'Number of the run.';
comment on column ops.anonymisations.kind is 'rules: applied to events before an instant; erasure: of one agent.';
comment on column ops.anonymisations.before is 'rules: only events before this instant.';
comment on column ops.anonymisations.only_org_id is 'The tenant; null: all.';
comment on column ops.anonymisations.only_event_type is 'Only this kind of event; null: every kind.';
comment on column ops.anonymisations.started_at is 'When it began.';
comment on column ops.anonymisations.finished_at is 'When it was done; null: it runs, or was killed and the next run finishes its work.';
comment on column ops.anonymisations.looked_at is 'Events looked at (count).';
comment on column ops.anonymisations.changed is 'Events changed (count).';
comment on column ops.anonymisations.counts is 'Values changed by rule (count); for an erasure also rows of other tables.';
alter table ops.anonymisations enable row level security;

create type ops.anonymisable as (
  place bigint,
  event_type text,
  event_timestamp timestamptz,
  run_id bigint,
  tag text,
  metadata jsonb,
  event_id uuid,
  org_id uuid,
  agent_id uuid
);
comment on type ops.anonymisable is 'An event that rules are applied to; place tells it from the others.';

create type ops.pseudonym as (
  org_id uuid,
  event_type text,
  agent text,
  agent_id uuid,
  pseudonym uuid,
  rule_name text
);
comment on type ops.pseudonym is 'What an agent (its id as text, and as a UUID if it is one) is called instead, in events of a kind (empty: of every kind), and the rule that says so.';

create type ops.anonymisation_report as (
  state text,
  last_id bigint,
  looked_at bigint,
  changed bigint,
  counts jsonb
);
comment on type ops.anonymisation_report is
  'more: call again after last_id; done; busy: a refresh, a rebuild or another job has the lock, nothing was done. Events looked at and changed (count); counts as in ops.anonymisations.';

create function ops.pseudonyms(events ops.anonymisable[], rules ops.anonymisation_rules[])
returns setof ops.pseudonym
language plpgsql
stable
set search_path = ''
as $$
declare
  pads bytea[] := ops.anonymisation_pads();
  found ops.pseudonym;
begin
  for found in
    -- Each once, since there are many events for each agent and kind of event.
    with ruled as materialized (
      select kind.event_type, rule.rule_name
      from (select distinct event.event_type from unnest(events) as event offset 0) as kind
      cross join lateral (
        select applicable.rule_name
        from unnest(rules) as applicable
        where applicable.path = '$.agent_id'
          and applicable.event_type in ('', kind.event_type)
        order by applicable.rule_name collate "C"
        limit 1
      ) as rule
      where not '."agent_id"' = any (ops.counted_places(kind.event_type))
    ),
    named as materialized (
      select distinct event.org_id, event.event_type, lower(told.agent) as agent
      from unnest(events) as event
      cross join lateral (
        values
          (event.agent_id::text),
          (case when jsonb_typeof(event.metadata) = 'object' then event.metadata ->> 'agent_id' end)
      ) as told (agent)
      where told.agent <> ''
    )
    select
      named.org_id,
      named.event_type,
      named.agent,
      case when named.agent ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then named.agent::uuid end,
      ops.agent_pseudonym(pads, named.org_id, named.agent),
      ruled.rule_name
    from named
    join ruled
      on ruled.event_type = named.event_type
    where not ops.is_pseudonym(named.agent)
  loop
    if found.pseudonym is null then
      perform ops.required_pads(pads);
    end if;
    return next found;
  end loop;
end;
$$;
comment on function ops.pseudonyms(ops.anonymisable[], ops.anonymisation_rules[]) is
  'The agents of events that the rules give a pseudonym, and have none yet; refused without a key when there are any.';

create function ops.add_pseudonyms(pseudonyms ops.pseudonym[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.agents (org_id, agent_id, team)
  select pair.org_id, pair.pseudonym, max(agent.team)
  from unnest(add_pseudonyms.pseudonyms) as pair
  left join ops.agents as agent
    on agent.org_id = pair.org_id
    and agent.agent_id = pair.agent_id
  where not exists (
    select
    from ops.agents as known
    where known.org_id = pair.org_id
      and known.agent_id = pair.pseudonym
  )
  group by 1, 2
  -- In one order, so that two batches of the same agents wait for each other and never both.
  order by 1, 2
  on conflict on constraint agents_pkey do nothing;
end;
comment on function ops.add_pseudonyms(ops.pseudonym[]) is 'Puts new pseudonyms into the teams of their agents, so that the labels of events stay what they were.';

create function ops.anonymised_events(
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
  shapes as (
    select distinct
      node.event_type,
      node.shape,
      jsonb_typeof(node.value) in ('object', 'array') as is_container,
      cardinality(node.path) = 64 as is_deepest
    from nodes as node
  ),
  kinds as materialized (
    select
      named.event_type,
      -- The agent has a pseudonym or nothing; what is left of one that is erased goes with the rest.
      ops.counted_places(named.event_type) || case when is_erasure then '{}'::text[] else array['."agent_id"'] end as kept,
      kind.fields
    from (select distinct event.event_type from unnest(events) as event offset 0) as named
    left join ops.event_types as kind
      on kind.event_type = named.event_type
  ),
  hits as materialized (
    select
      shape.event_type,
      shape.shape,
      shape.is_container,
      case when shape.shape = '' then '{"type": "object", "required": true}'::jsonb else asked.field end as field,
      array_agg(rule order by rule.rule_name collate "C") as rules
    from shapes as shape
    join kinds
      on kinds.event_type = shape.event_type
    join unnest(rules) as rule
      on rule.event_type in ('', shape.event_type)
      and rule.path <> '$.agent_id'
      and shape.shape ~ rule.pattern
      and (not shape.is_container or shape.is_deepest or (rule.action = 'remove' and rule.matching is null))
    left join lateral (
      select field.value as field
      from jsonb_each(kinds.fields) as field
      where '.' || to_jsonb(field.key)::text = shape.shape
      union all
      select '{"type": "text", "required": true}'
      from jsonb_each(kinds.fields) as field
      cross join jsonb_array_elements_text(field.value -> 'keys') as wanted (key)
      where '.' || to_jsonb(field.key)::text || '.' || to_jsonb(wanted.key)::text = shape.shape
      limit 1
    ) as asked on true
    where not exists (
      select
      from unnest(kinds.kept) as kept (shape)
      where shape.shape = kept.shape
        or starts_with(shape.shape, kept.shape || '.')
        or starts_with(shape.shape, kept.shape || '[')
        or (shape.is_container and (starts_with(kept.shape, shape.shape || '.') or starts_with(kept.shape, shape.shape || '[')))
    )
    group by 1, 2, 3, 4
  ),
  edits as (
    select node.place, node.path, node.ordinals, changed.result, changed.changed_by
    from nodes as node
    join hits
      on hits.event_type = node.event_type
      and hits.shape = node.shape
      and hits.is_container = (jsonb_typeof(node.value) in ('object', 'array'))
    cross join lateral ops.anonymised_value(node.value, hits.field, hits.rules, node.org_id, pads, is_erasure) as changed
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
comment on function ops.anonymised_events(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean) is
  'Those of the events that the rules or the pseudonyms change, as they are then, with the rule of each value that changed. A second time it has no row. In an erasure what would be hashed is removed.';

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
      row_number() over (), event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
    )::ops.anonymisable
    from ops.cast_events(cast_anonymised.documents) as event
  )) as anonymised;
end;
comment on function ops.cast_anonymised(jsonb) is 'What cast_events gives, after the rules that apply on the way in.';

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
    select event.* from ops.check_events(check_anonymised.documents) as event
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

create function ops.begin_anonymisation(
  kind text,
  before timestamptz default null,
  only_org_id uuid default null,
  only_event_type text default null
)
returns bigint
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.anonymisations as run (kind, before, only_org_id, only_event_type)
  values (kind, before, only_org_id, only_event_type)
  returning run.anonymisation_id;
end;
comment on function ops.begin_anonymisation(text, timestamptz, uuid, text) is 'Notes that a run begins; returns its number, which its batches are called with.';

create function ops.added_counts(counts jsonb, more jsonb)
returns jsonb
language sql
immutable
set search_path = ''
return (
  select coalesce(jsonb_object_agg(summed.name, summed.changed), '{}')
  from (
    select part.key as name, sum(part.value::numeric) as changed
    from (
      select listed.key, listed.value from jsonb_each(added_counts.counts) as listed
      union all
      select listed.key, listed.value from jsonb_each(added_counts.more) as listed
    ) as part
    group by 1
  ) as summed
);
comment on function ops.added_counts(jsonb, jsonb) is 'Two objects of numbers, added key by key.';

create function ops.note_anonymisation(anonymisation_id bigint, report ops.anonymisation_report)
returns void
language sql
volatile
set search_path = ''
begin atomic
  update ops.anonymisations as run
  set looked_at = run.looked_at + note_anonymisation.report.looked_at,
      changed = run.changed + note_anonymisation.report.changed,
      counts = ops.added_counts(run.counts, note_anonymisation.report.counts),
      finished_at = case when note_anonymisation.report.state = 'done' then clock_timestamp() end
  where run.anonymisation_id = note_anonymisation.anonymisation_id;
end;
comment on function ops.note_anonymisation(bigint, ops.anonymisation_report) is 'Adds a batch to the log of its run, in the transaction of the batch.';

create function ops.write_anonymised(
  events ops.anonymisable[],
  rules ops.anonymisation_rules[],
  pseudonyms ops.pseudonym[],
  is_erasure boolean,
  dry_run boolean,
  out changed bigint,
  out counts jsonb
)
language plpgsql
volatile
set search_path = ''
-- A plan for the partitions between the two instants, and no others.
set plan_cache_mode = force_custom_plan
set jit = off
as $$
declare
  since timestamptz := (select min(event.event_timestamp) from unnest(events) as event);
  until timestamptz := (select max(event.event_timestamp) from unnest(events) as event);
begin
  with anonymised as materialized (
    select event.* from ops.anonymised_events(events, rules, pseudonyms, is_erasure) as event
  ),
  written as (
    update public.telemetry_events as stored
    set agent_id = anonymised.agent_id,
        metadata = anonymised.metadata
    from anonymised
    where not dry_run
      and stored.org_id = anonymised.org_id
      and stored.event_timestamp = anonymised.event_timestamp
      and stored.event_id = anonymised.event_id
      and stored.event_timestamp >= since
      and stored.event_timestamp <= until
  ),
  counted as (
    select rule.rule_name, count(*) as changed
    from anonymised
    cross join unnest(anonymised.changed_by) as rule (rule_name)
    group by 1
  )
  select
    (select count(*) from anonymised),
    coalesce((select jsonb_object_agg(counted.rule_name, counted.changed) from counted), '{}')
  into changed, counts;
end;
$$;
comment on function ops.write_anonymised(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean, boolean) is
  'Writes over stored events what the rules and pseudonyms make of them: id, event_id and time stay, so that none is counted again. Returns events changed and values by rule.';

create function ops.anonymise_events(
  before timestamptz,
  only_org_id uuid default null,
  only_event_type text default null,
  after_id bigint default 0,
  max_events integer default 2000,
  dry_run boolean default false,
  anonymisation_id bigint default null
)
returns ops.anonymisation_report
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
declare
  report ops.anonymisation_report;
  rules ops.anonymisation_rules[] := array(select rule from ops.anonymisation_rules as rule where rule.is_enabled);
  pseudonyms ops.pseudonym[];
  events ops.anonymisable[];
begin
  if (before between timestamptz '1970-01-01 00:00+00' and timestamptz '2200-01-01 00:00+00' and max_events >= 1) is not true then
    raise exception 'what to anonymise is not said: before %, max_events %', before, max_events
      using errcode = 'OP001', hint = 'Pass an instant between 1970 and 2200, and a batch of 1 or more.';
  end if;
  if only_event_type is not null and after_id = 0 then
    perform ops.require_rule_for('events', only_event_type);
  end if;
  -- Nothing is counted, rebuilt or deleted meanwhile, so that what is counted now is what was read.
  if not dry_run and not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    report.state := 'busy';
    return report;
  end if;
  report.last_id := ops.last_to_anonymise(after_id, ops.cursor_id(), before, max_events);
  report.state := case when report.last_id is null then 'done' else 'more' end;
  events := array(
    select row(
      row_number() over (), event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id, event.agent_id
    )::ops.anonymisable
    from public.telemetry_events as event
    where event.id > after_id
      and event.id <= coalesce(report.last_id, ops.cursor_id())
      and event.event_timestamp < before
      and (only_org_id is null or event.org_id = only_org_id)
      and (only_event_type is null or event.event_type = only_event_type)
  );
  pseudonyms := array(select pair from ops.pseudonyms(events, rules) as pair);
  if not dry_run then
    perform ops.add_pseudonyms(pseudonyms);
    perform ops.follow_teams(pseudonyms);
  end if;
  report.looked_at := cardinality(events);
  select written.changed, written.counts
  into report.changed, report.counts
  from ops.write_anonymised(events, rules, pseudonyms, false, dry_run) as written;
  perform ops.note_anonymisation(anonymisation_id, report);
  return report;
end;
$$;
comment on function ops.anonymise_events(timestamptz, uuid, text, bigint, integer, boolean, bigint) is
  'Applies the rules to one batch of counted events before an instant, in the order of their ids; call it again after last_id until it is done. With dry_run it only counts. Applied twice it changes nothing, so a run that was killed is finished by the next.';

create function ops.last_to_anonymise(after_id bigint, until_id bigint, before timestamptz, max_events integer)
returns bigint
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
as $$
begin
  return (
    select event.id
    from public.telemetry_events as event
    where event.id > after_id
      and event.id <= until_id
      and event.event_timestamp < before
    order by event.id
    offset max_events - 1
    limit 1
  );
end;
$$;
comment on function ops.last_to_anonymise(bigint, bigint, timestamptz, integer) is 'The id that ends a batch of so many events; null when fewer are left.';

create function ops.follow_teams(pseudonyms ops.pseudonym[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  update ops.agents as pseudonym
  set team = agent.team,
      updated_at = now()
  from unnest(follow_teams.pseudonyms) as pair
  join ops.agents as agent
    on agent.org_id = pair.org_id
    and agent.agent_id = pair.agent_id
  where pseudonym.org_id = pair.org_id
    and pseudonym.agent_id = pair.pseudonym
    and pseudonym.team is distinct from agent.team;
end;
comment on function ops.follow_teams(ops.pseudonym[]) is 'Puts pseudonyms into the teams that their agents are in now: one may have moved while no key was set.';

revoke execute on function
  ops.pseudonyms(ops.anonymisable[], ops.anonymisation_rules[]),
  ops.add_pseudonyms(ops.pseudonym[]),
  ops.anonymised_events(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean),
  ops.anonymise_incoming(ops.anonymisable[]),
  ops.cast_anonymised(jsonb),
  ops.check_anonymised(jsonb),
  ops.anonymous_senders(uuid, uuid[]),
  ops.begin_anonymisation(text, timestamptz, uuid, text),
  ops.added_counts(jsonb, jsonb),
  ops.note_anonymisation(bigint, ops.anonymisation_report),
  ops.write_anonymised(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean, boolean),
  ops.anonymise_events(timestamptz, uuid, text, bigint, integer, boolean, bigint),
  ops.last_to_anonymise(bigint, bigint, timestamptz, integer),
  ops.follow_teams(ops.pseudonym[])
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.anonymisations from anon, authenticated, service_role;
  grant select on ops.anonymisations to service_role;
  revoke execute on function
    ops.pseudonyms(ops.anonymisable[], ops.anonymisation_rules[]),
    ops.add_pseudonyms(ops.pseudonym[]),
    ops.anonymised_events(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean),
    ops.anonymise_incoming(ops.anonymisable[]),
    ops.cast_anonymised(jsonb),
    ops.check_anonymised(jsonb),
    ops.anonymous_senders(uuid, uuid[]),
    ops.begin_anonymisation(text, timestamptz, uuid, text),
    ops.added_counts(jsonb, jsonb),
    ops.note_anonymisation(bigint, ops.anonymisation_report),
    ops.write_anonymised(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean, boolean),
    ops.anonymise_events(timestamptz, uuid, text, bigint, integer, boolean, bigint),
    ops.last_to_anonymise(bigint, bigint, timestamptz, integer),
    ops.follow_teams(ops.pseudonym[])
  from anon, authenticated, service_role;
  grant execute on function
    ops.pseudonyms(ops.anonymisable[], ops.anonymisation_rules[]),
    ops.add_pseudonyms(ops.pseudonym[]),
    ops.anonymised_events(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean),
    ops.anonymise_incoming(ops.anonymisable[]),
    ops.cast_anonymised(jsonb),
    ops.check_anonymised(jsonb),
    ops.anonymous_senders(uuid, uuid[])
  to authenticated, service_role;
end;
$$;

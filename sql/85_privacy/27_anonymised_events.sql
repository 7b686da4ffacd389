-- Anonymisation rules applied to a set of events: the pseudonyms of agents, the rules of each place, the events afterwards.

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
comment on function ops.anonymised_events(ops.anonymisable[], ops.anonymisation_rules[], ops.pseudonym[], boolean) is
  'Those of the events that the rules or the pseudonyms change, as they are then, with the rule of each value that changed. A second time it has no row. In an erasure what would be hashed is removed.';

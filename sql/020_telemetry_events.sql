-- What happened: the kinds of events, the agents that send them, and the events.

create function ops.metadata_shape(fields jsonb)
returns jsonpath
language sql
immutable
set search_path = ''
return (
  with rules as (
    select
      '$.' || to_jsonb(rule.key)::text as place,
      case rule.value ->> 'type' when 'text' then 'string' when 'uuid' then 'string' else rule.value ->> 'type' end as json_type,
      coalesce((rule.value -> 'required')::boolean, false) as is_required,
      rule.key,
      rule.value
    from jsonb_each(metadata_shape.fields) as rule
  ),
  tests as (
    select
      format('%s.type() == "%s"', rules.place, rules.json_type)
        || case when rules.json_type = 'number' then format(' && %1$s >= 0 && %1$s <= 1000000000000000', rules.place) else '' end
        -- These two are cast to uuid on the way in.
        || case
          when rules.value ->> 'type' = 'uuid' and rules.key not in ('agent_id', 'org_id')
            then format(' && %s like_regex "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$" flag "i"', rules.place)
          else ''
        end
        || coalesce(
          (
            select ' && (' || string_agg(format('%s == %s', rules.place, allowed.value), ' || ') || ')'
            from jsonb_array_elements(rules.value -> 'one_of') as allowed
          ),
          ''
        )
        || coalesce(
          (
            select string_agg(format(' && exists(%s.%s)', rules.place, to_jsonb(wanted.value)), '')
            from jsonb_array_elements_text(rules.value -> 'keys') as wanted
          ),
          ''
        ) as test,
      rules.place,
      rules.is_required
    from rules
  )
  select coalesce(
    string_agg(
      case
        when tests.is_required then format('(%s)', tests.test)
        else format('(!exists(%1$s) || %1$s.type() == "null" || (%2$s))', tests.place, tests.test)
      end,
      ' && '
    ),
    '1 == 1'
  )::jsonpath
  from tests
);
comment on function ops.metadata_shape(jsonb) is
  'The rules of ops.event_types.fields as one JSON path predicate: true for metadata without a fault, false or null else.';

create table ops.event_types (
  event_type text not null,
  description text not null,
  label_keys text[] not null default '{}',
  value_key text,
  value_unit text,
  fields jsonb not null default '{}',
  shape jsonpath generated always as (ops.metadata_shape(fields)) stored,
  constraint event_types_pkey primary key (event_type),
  constraint event_types_event_type_is_no_audit check (event_type <> 'slsa_audit_metrics'),
  constraint event_types_have_at_most_four_labels check (
    cardinality(label_keys) <= 4
    and coalesce(array_ndims(label_keys), 1) = 1
    and array_position(label_keys, null) is null
    and char_length(array_to_string(label_keys, '')) <= 200
  ),
  constraint event_types_fields_are_an_object check (jsonb_typeof(fields) = 'object'),
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
alter table ops.event_types enable row level security;

create table ops.agents (
  org_id uuid not null,
  agent_id uuid not null,
  team text,
  updated_at timestamptz not null default now(),
  last_event_at timestamptz,
  is_pseudonym boolean not null generated always as (ops.is_pseudonym(agent_id::text)) stored,
  constraint agents_pkey primary key (org_id, agent_id),
  constraint agents_team_is_short check (char_length(team) between 1 and 100)
);
comment on table ops.agents is 'One row an agent that sent events or whose team is known; the team becomes a label of its events from the next refresh on.';
comment on column ops.agents.org_id is 'The tenant.';
comment on column ops.agents.agent_id is 'The agent: a developer''s machine or a runner.';
comment on column ops.agents.team is 'The team; null when the agent has none.';
comment on column ops.agents.updated_at is 'When the team was last written.';
comment on column ops.agents.last_event_at is 'Time of its newest event that has been counted; null: none yet.';
comment on column ops.agents.is_pseudonym is 'It stands for an agent whose events were anonymised, or for all erased agents of its team.';
alter table ops.agents enable row level security;

create function ops.assign_team(org_id uuid, agent_id uuid, team text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  if exists (
    select
    from ops.agents as erased
    where erased.org_id = assign_team.org_id
      and erased.agent_id = assign_team.agent_id
      and erased.agent_id = ops.erased_agent_id(erased.org_id, erased.team)
      and erased.team is distinct from assign_team.team
  ) then
    raise exception 'agent % stands for all erased agents of its team', assign_team.agent_id
      using errcode = 'OP001', hint = 'It stays where it is: their events are counted there.';
  end if;
  insert into ops.agents as agent (org_id, agent_id, team)
  values (assign_team.org_id, assign_team.agent_id, assign_team.team)
  on conflict on constraint agents_pkey do update set
    team = excluded.team,
    updated_at = now()
  where agent.team is distinct from excluded.team;

  update ops.agents as pseudonym
  set team = assign_team.team,
      updated_at = now()
  where pseudonym.org_id = assign_team.org_id
    and pseudonym.agent_id = ops.agent_pseudonym(ops.anonymisation_pads(), assign_team.org_id, assign_team.agent_id::text)
    and pseudonym.team is distinct from assign_team.team;
end;
$$;
comment on function ops.assign_team(uuid, uuid, text) is
  'Puts an agent into a team (null: into none), from the next refresh on, and its pseudonym with it where the anonymisation key is set; opskpi rebuild applies it to the past.';

create table public.telemetry_events (
  id bigserial not null,
  event_type text not null,
  event_timestamp timestamptz not null default now(),
  run_id bigint,
  tag text,
  metadata jsonb default '{}',
  created_at timestamptz not null default now(),
  event_id uuid not null default gen_random_uuid(),
  -- Inline, because a function of ours costs 2 µs a row; the caller's own org, so that a plain insert through an API passes RLS.
  org_id uuid not null default coalesce(
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb #>> '{app_metadata,org_id}')::uuid,
    '00000000-0000-0000-0000-000000000000'::uuid
  ),
  agent_id uuid,
  outcome text generated always as (left(metadata ->> 'outcome', 100)) stored,
  -- A plain insert may hold anything here, and nothing it holds may ever stop the aggregation.
  duration_ms numeric generated always as (
    case
      when jsonb_typeof(metadata -> 'duration_ms') = 'number'
        and (metadata -> 'duration_ms')::numeric between 0 and 1000000000000000
      then (metadata -> 'duration_ms')::numeric
    end
  ) stored,
  constraint telemetry_events_pkey primary key (org_id, event_timestamp, event_id),
  constraint telemetry_events_event_type_is_short check (char_length(event_type) between 1 and 100),
  constraint telemetry_events_id_is_positive check (id > 0),
  -- The rollups keep the audits under this name.
  constraint telemetry_events_event_type_is_no_audit check (event_type <> 'slsa_audit_metrics'),
  constraint telemetry_events_event_timestamp_is_plausible check (
    event_timestamp >= timestamptz '1970-01-01 00:00+00' and event_timestamp < timestamptz '2200-01-01 00:00+00'
  )
) partition by range (event_timestamp);
comment on table public.telemetry_events is
  'One row an event, append-only, partitioned by month; a correction is a new event. An event is recognised by org, event_id and time.';
comment on column public.telemetry_events.id is 'Drawn on insert; the cursor of the aggregation.';
comment on column public.telemetry_events.event_type is 'The kind: a row of ops.event_types, or any other word, which is counted without labels.';
comment on column public.telemetry_events.event_timestamp is 'When it happened.';
comment on column public.telemetry_events.run_id is 'The CI run it belongs to; null when there is none.';
comment on column public.telemetry_events.tag is 'The release tag it belongs to; null when there is none.';
comment on column public.telemetry_events.metadata is 'What the kind of event says, by key.';
comment on column public.telemetry_events.created_at is 'When it was stored.';
comment on column public.telemetry_events.event_id is 'Made by the sender, so that a repeated event is recognised; else drawn here.';
comment on column public.telemetry_events.org_id is 'The tenant; the nil UUID for single-tenant use.';
comment on column public.telemetry_events.agent_id is 'The agent that sent it; null when unknown.';
comment on column public.telemetry_events.outcome is 'metadata.outcome: success, failure, cancelled or skipped; null when there is none.';
comment on column public.telemetry_events.duration_ms is 'metadata.duration_ms in ms; null when it is no number from 0 to 10^15.';
alter table public.telemetry_events enable row level security;

create index idx_telemetry_events_event_type on public.telemetry_events (event_type);
create index idx_telemetry_events_event_timestamp on public.telemetry_events (event_timestamp desc);
-- The cursor reads id > last; ids grow, so each insert touches only the rightmost page.
create index telemetry_events_id_idx on public.telemetry_events (id);

create function ops.note_agents(after_id bigint, until_id bigint)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.agents as agent (org_id, agent_id, last_event_at)
  select event.org_id, event.agent_id, max(event.event_timestamp)
  from public.telemetry_events as event
  where event.id > note_agents.after_id
    and event.id <= note_agents.until_id
    and event.agent_id is not null
  group by 1, 2
  on conflict on constraint agents_pkey do update set
    last_event_at = greatest(agent.last_event_at, excluded.last_event_at)
  where agent.last_event_at is distinct from greatest(agent.last_event_at, excluded.last_event_at)
    -- Nobody waits to hear of the erased.
    and agent.agent_id <> ops.erased_agent_id(agent.org_id, agent.team);
end;
comment on function ops.note_agents(bigint, bigint) is 'Notes when the agents of new events were last heard of; only refresh calls it.';

create table ops.telemetry_events_default partition of public.telemetry_events default;
comment on table ops.telemetry_events_default is 'Events of months that have no partition yet; maintain moves them where they belong.';
alter table ops.telemetry_events_default enable row level security;

create table ops.removed_events (
  event_type text not null,
  removed_until timestamptz not null,
  constraint removed_events_pkey primary key (event_type)
);
comment on table ops.removed_events is
  'One row a kind of event of which retention has removed some. Of those from before removed_until not all are there, so a repeated one would not be recognised and a recount would miss some.';
comment on column ops.removed_events.event_type is 'The kind.';
comment on column ops.removed_events.removed_until is 'First instant from which on all its events are kept.';
alter table ops.removed_events enable row level security;

revoke execute on function
  ops.assign_team(uuid, uuid, text),
  ops.note_agents(bigint, bigint),
  ops.metadata_shape(jsonb)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.event_types, ops.agents, ops.removed_events, public.telemetry_events, ops.telemetry_events_default
    from anon, authenticated, service_role;
  revoke all on sequence public.telemetry_events_id_seq from anon, authenticated, service_role;
  grant select on ops.event_types, ops.agents, ops.removed_events to authenticated, service_role;
  -- ops is no exposed schema: only the rules that ingest_events applies come here, as its caller.
  grant insert (org_id, agent_id, team) on ops.agents to authenticated, service_role;
  grant select on public.telemetry_events to authenticated, service_role;
  grant insert on public.telemetry_events to service_role;
  -- Not id, which the cursor trusts, nor created_at.
  grant insert (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
    on public.telemetry_events to authenticated;
  grant usage on sequence public.telemetry_events_id_seq to authenticated, service_role;
  create policy event_types_select_authenticated on ops.event_types for select to authenticated using (true);
  -- The name of a kind that nobody described may be a tenant's own.
  create policy removed_events_select_described on ops.removed_events for select to authenticated
    using (event_type in (select kind.event_type from ops.event_types as kind));
  create policy agents_select_own_org on ops.agents for select to authenticated
    using (org_id = (select ops.current_org_id()));
  create policy agents_insert_own_org_pseudonyms on ops.agents for insert to authenticated
    with check (org_id = (select ops.current_org_id()) and is_pseudonym);
  create policy telemetry_events_select_own_org on public.telemetry_events for select to authenticated
    using (org_id = (select ops.current_org_id()));
  create policy telemetry_events_insert_own_org on public.telemetry_events for insert to authenticated
    with check (org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.assign_team(uuid, uuid, text),
    ops.note_agents(bigint, bigint),
    ops.metadata_shape(jsonb)
  from anon, authenticated, service_role;
  grant execute on function
    ops.metadata_shape(jsonb)
  to authenticated, service_role;
end;
$$;

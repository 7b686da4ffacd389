-- The agents that send events, and their teams.

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
create policy agents_select_own_org on ops.agents for select to authenticated
  using (org_id = (select ops.org_for('{ingest,read}')));
create policy agents_insert_own_org_pseudonyms on ops.agents for insert to authenticated
  with check (org_id = (select ops.org_for('{ingest}')) and is_pseudonym);

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

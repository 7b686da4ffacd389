-- Workflows of one name in one repository are counted apart: their labels are decided once, and kept.

create table ops.workflows (
  org_id uuid not null,
  repository text not null,
  workflow_name text not null,
  workflow_path text not null,
  has_plain_label boolean not null,
  noted_at timestamptz not null default now(),
  constraint workflows_pkey primary key (org_id, repository, workflow_name, workflow_path),
  constraint workflows_workflow_name_is_short check (char_length(workflow_name) <= 100),
  -- Longer ones would not fit into the index.
  constraint workflows_places_are_short check (octet_length(repository) + octet_length(workflow_path) <= 2000)
);
comment on table ops.workflows is
  'One row a workflow of a repository and a name that it had. Its label is decided when the row is made, and stays: the name alone, or name and path where another workflow of the repository has the name.';
comment on column ops.workflows.org_id is 'The tenant.';
comment on column ops.workflows.repository is 'Owner and name in small letters; empty where no collector was told.';
comment on column ops.workflows.workflow_name is 'The name, as far as labels are kept (100 characters).';
comment on column ops.workflows.workflow_path is 'The file in the repository, which tells workflows of one name apart; workflow and the id of GitHub where no file is known.';
comment on column ops.workflows.has_plain_label is 'Whether it is counted under the name alone.';
comment on column ops.workflows.noted_at is 'When a collector met it first.';

-- Two collectors that meet two workflows of one name at once: the second waits for the first, and finds the name taken.
create unique index workflows_org_id_repository_workflow_name_idx on ops.workflows (org_id, repository, workflow_name) where has_plain_label;
alter table ops.workflows enable row level security;

create function ops.workflow_keys(workflows jsonb)
returns table (place bigint, repository text, workflow_name text, workflow_path text)
language sql
immutable
set search_path = ''
begin atomic
  select keyed.place, keyed.repository, keyed.workflow_name, keyed.workflow_path
  from (
    select
      element.ordinality - 1 as place,
      lower(coalesce(element.value ->> 'repository', '')) as repository,
      left(element.value ->> 'workflow', 100) as workflow_name,
      coalesce(element.value ->> 'workflow_path', 'workflow ' || (element.value ->> 'workflow_id')) as workflow_path
    from jsonb_array_elements(
      case when jsonb_typeof(workflow_keys.workflows) = 'array' then workflow_keys.workflows else '[]' end
    ) with ordinality as element
  ) as keyed
  where keyed.workflow_name <> ''
    and octet_length(keyed.repository) + octet_length(keyed.workflow_path) <= 2000;
end;
comment on function ops.workflow_keys(jsonb) is
  'What tells the workflows of [{"repository", "workflow" (the name), "workflow_path", "workflow_id"}] apart, with their places in the array, from 0; without those that lack a name, or both path and id.';

create function ops.workflow_label(workflow_name text, workflow_path text)
returns text
language sql
stable
set search_path = ''
return case
  when char_length(workflow_name) + char_length(workflow_path) <= 97 then workflow_name || ' (' || workflow_path || ')'
  -- Labels are kept up to 100 characters; the digest keeps paths apart that differ in what is left out.
  else left(workflow_name, 40) || ' (…' || right(workflow_path, 45) || ' ' || left(encode(sha256(convert_to(workflow_path, 'UTF8')), 'hex'), 8) || ')'
end;
comment on function ops.workflow_label(text, text) is
  'The label of a workflow whose name is that of another: name and path, in at most 100 characters.';

create function ops.note_workflows(org_id uuid, workflows jsonb)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  owner_id constant uuid := ops.caller_org(note_workflows.org_id);
begin
  insert into ops.workflows as workflow (org_id, repository, workflow_name, workflow_path, has_plain_label)
  select owner_id, met.repository, met.workflow_name, met.workflow_path, met.is_alone and not exists (
    select
    from ops.workflows as other
    where other.org_id = owner_id
      and other.repository = met.repository
      and other.workflow_name = met.workflow_name
  )
  from (
    select
      key.repository, key.workflow_name, key.workflow_path,
      count(*) over (partition by key.repository, key.workflow_name) = 1 as is_alone
    from (select distinct found.repository, found.workflow_name, found.workflow_path from ops.workflow_keys(workflows) as found) as key
  ) as met
  where not exists (
    select
    from ops.workflows as known
    where known.org_id = owner_id
      and known.repository = met.repository
      and known.workflow_name = met.workflow_name
      and known.workflow_path = met.workflow_path
  )
  -- In one order, so that two collectors wait for each other instead of deadlocking.
  order by met.repository, met.workflow_name, met.workflow_path
  on conflict do nothing;
  -- Workflows whose name another collector took meanwhile.
  insert into ops.workflows as workflow (org_id, repository, workflow_name, workflow_path, has_plain_label)
  select distinct owner_id, key.repository, key.workflow_name, key.workflow_path, false
  from ops.workflow_keys(workflows) as key
  where not exists (
    select
    from ops.workflows as known
    where known.org_id = owner_id
      and known.repository = key.repository
      and known.workflow_name = key.workflow_name
      and known.workflow_path = key.workflow_path
  )
  order by key.repository, key.workflow_name, key.workflow_path
  on conflict do nothing;
end;
$$;
comment on function ops.note_workflows(uuid, jsonb) is
  'Notes workflows as workflow_keys reads them, and decides the label of those that are new: the name and the path where another in the call or noted before has the name, else the name. Labels that were decided stay.';

create function ops.knows_workflows(org_id uuid, workflows jsonb)
returns boolean
language sql
stable
set search_path = ''
begin atomic
  select not exists (
    select
    from ops.workflow_keys(knows_workflows.workflows) as key
    left join ops.workflows as known
      on known.org_id = knows_workflows.org_id
      and known.repository = key.repository
      and known.workflow_name = key.workflow_name
      and known.workflow_path = key.workflow_path
    where known.org_id is null
  );
end;
comment on function ops.knows_workflows(uuid, jsonb) is 'Whether all workflows of the array were noted before.';

create function ops.label_workflows(events jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  owners jsonb;
  owner record;
begin
  if not exists (
    select from jsonb_array_elements(events) as element where element.value -> 'payload' ?| '{workflow_id,workflow_path}'
  ) then
    return events;
  end if;
  owners := (
    select jsonb_object_agg(checked.place, checked.org_id)
    from ops.check_events(events) as checked
    where checked.refusal is null
      and events -> checked.place::integer -> 'payload' ?| '{workflow_id,workflow_path}'
  );
  for owner in
    select told.value::uuid as org_id, jsonb_agg(events -> told.key::integer -> 'payload') as workflows
    from jsonb_each_text(owners) as told
    group by told.value
    order by told.value
  loop
    perform ops.note_workflows(owner.org_id, owner.workflows);
  end loop;
  return (
    select jsonb_agg(
      case
        when workflow.has_plain_label is distinct from false then element.value
        else jsonb_set(element.value, '{payload,workflow}', to_jsonb(ops.workflow_label(workflow.workflow_name, workflow.workflow_path)))
      end
      order by element.ordinality
    )
    from jsonb_array_elements(events) with ordinality as element
    left join ops.workflow_keys((select jsonb_agg(listed.value -> 'payload' order by listed.ordinality) from jsonb_array_elements(events) with ordinality as listed)) as key
      on key.place = element.ordinality - 1
      and owners ? key.place::text
    left join ops.workflows as workflow
      on workflow.org_id = (owners ->> key.place::text)::uuid
      and workflow.repository = key.repository
      and workflow.workflow_name = key.workflow_name
      and workflow.workflow_path = key.workflow_path
  );
end;
$$;
comment on function ops.label_workflows(jsonb) is
  'The events, each with the label of its workflow where a payload tells workflow_path or workflow_id; workflows that are new are noted. Others, and events that would be refused, stay as they are.';

create or replace function ops.collect_events(events jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  settled jsonb;
  places jsonb;
  removed_again bigint;
  answer jsonb;
begin
  if events is null or jsonb_typeof(events) <> 'array' then
    raise exception 'events must be a JSON array'
      using errcode = 'OP001', hint = 'Send [{"event_type": …, "event_id": …, "event_timestamp": …, "payload": {…}}, …].';
  end if;
  events := ops.label_workflows(events);
  -- In one order, so that two collectors that read the same wait for each other instead of deadlocking.
  insert into ops.collected_events (org_id, event_id, event_timestamp)
  select checked.org_id, checked.event_id, min(checked.event_timestamp)
  from ops.check_events(events) as checked
  where checked.refusal is null
    and events -> checked.place::integer ->> 'event_id' is not null
  group by checked.org_id, checked.event_id
  order by checked.org_id, checked.event_id
  on conflict on constraint collected_events_pkey do nothing;
  -- A statement of its own: it sees what another collector committed while the one above waited.
  select
    jsonb_agg(
      case
        when known.event_id is null or checked.refusal is not null then element.value
        else element.value || jsonb_build_object('event_timestamp', known.event_timestamp)
      end
      order by element.ordinality
    ) filter (where removed.event_type is null),
    jsonb_agg(element.ordinality - 1 order by element.ordinality) filter (where removed.event_type is null),
    count(removed.event_type)
  into settled, places, removed_again
  from jsonb_array_elements(events) with ordinality as element
  left join ops.check_events(events) as checked
    on checked.place = element.ordinality - 1
    and element.value ->> 'event_id' is not null
  left join ops.collected_events as known
    on known.org_id = checked.org_id
    and known.event_id = checked.event_id
  -- Retention removed the event; that it was collected is still known.
  left join ops.removed_events as removed
    on removed.event_type = checked.event_type
    and removed.removed_until > known.event_timestamp;
  answer := public.ingest_events(coalesce(settled, '[]')::json);
  if removed_again = 0 then
    return answer;
  end if;
  return answer || jsonb_build_object(
    'duplicate', (answer -> 'duplicate')::bigint + removed_again,
    'refused', (
      select coalesce(jsonb_agg(fault.value || jsonb_build_object('index', places -> (fault.value -> 'index')::integer) order by fault.ordinality), '[]')
      from jsonb_array_elements(answer -> 'refused') with ordinality as fault
    )
  );
end;
$$;
comment on function ops.collect_events(jsonb) is
  'Stores events as ingest_events does and returns its answer, but recognises one that has an event_id by org and event_id alone: it keeps the time that it was first collected with. Workflows that tell their path or id get their label from label_workflows.';

revoke execute on function
  ops.workflow_keys,
  ops.knows_workflows,
  ops.label_workflows,
  ops.note_workflows,
  ops.workflow_label
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  create policy workflows_select_own_org on ops.workflows for select to authenticated
    using (org_id = (select ops.org_for('{ingest,read}')));
  create policy workflows_insert_own_org on ops.workflows for insert to authenticated
    with check (org_id = (select ops.org_for('{ingest}')));
  revoke execute on function
    ops.workflow_keys,
    ops.knows_workflows,
    ops.label_workflows,
    ops.note_workflows,
    ops.workflow_label
  from anon, authenticated, service_role;
  revoke all on ops.workflows from anon, authenticated, service_role;
  grant execute on function
    ops.workflow_keys,
    ops.knows_workflows,
    ops.label_workflows,
    ops.note_workflows,
    ops.workflow_label
  to authenticated, service_role;
  grant select, insert on ops.workflows to authenticated, service_role;
end;
$$;

-- What collectors read elsewhere: each event once whoever reads it, and how far each source has been read.

create table ops.collected_events (
  org_id uuid not null,
  event_id uuid not null,
  event_timestamp timestamptz not null,
  constraint collected_events_pkey primary key (org_id, event_id),
  constraint collected_events_event_timestamp_is_plausible check (
    event_timestamp >= timestamptz '2000-01-01 00:00+00' and event_timestamp < timestamptz '2200-01-01 00:00+00'
  )
);
comment on table ops.collected_events is
  'One row an event that a collector read elsewhere. GitHub moves the time of a finished run now and then, and an event is recognised by its time, too: the first one seen stays.';
comment on column ops.collected_events.org_id is 'The tenant.';
comment on column ops.collected_events.event_id is 'Made from what the event is called where it happened.';
comment on column ops.collected_events.event_timestamp is 'The time under which it is stored.';
alter table ops.collected_events enable row level security;

create table ops.collections (
  org_id uuid not null,
  source text not null,
  resume_at timestamptz not null,
  swept_at timestamptz not null,
  entity_tag text,
  collected_at timestamptz not null default now(),
  constraint collections_pkey primary key (org_id, source)
);
comment on table ops.collections is 'One row a repository whose runs are polled, and how far that is.';
comment on column ops.collections.org_id is 'The tenant.';
comment on column ops.collections.source is 'Host, owner and name: github.com/octo-org/octo-repo.';
comment on column ops.collections.resume_at is 'The next poll reads the runs that were created from then on: the oldest that was still going, else the newest.';
comment on column ops.collections.swept_at is 'When older runs were last read again, since any of them may be run again.';
comment on column ops.collections.entity_tag is 'ETag of the list of runs since resume_at; null when that took several pages.';
comment on column ops.collections.collected_at is 'When it was last read to its end.';
alter table ops.collections enable row level security;

create function ops.collect_events(events jsonb)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  settled jsonb;
begin
  if events is null or jsonb_typeof(events) <> 'array' then
    raise exception 'events must be a JSON array'
      using errcode = 'OP001', hint = 'Send [{"event_type": …, "event_id": …, "event_timestamp": …, "payload": {…}}, …].';
  end if;
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
  select jsonb_agg(
    case
      when known.event_id is null then element.value
      else element.value || jsonb_build_object('event_timestamp', known.event_timestamp)
    end
    order by element.ordinality
  )
  into settled
  from jsonb_array_elements(events) with ordinality as element
  left join ops.check_events(events) as checked
    on checked.place = element.ordinality - 1
    and checked.refusal is null
    and element.value ->> 'event_id' is not null
  left join ops.collected_events as known
    on known.org_id = checked.org_id
    and known.event_id = checked.event_id;
  return public.ingest_events(coalesce(settled, '[]')::json);
end;
$$;
comment on function ops.collect_events(jsonb) is
  'Stores events as ingest_events does and returns its answer, but recognises one that has an event_id by org and event_id alone: it keeps the time that it was first collected with.';

create function ops.known_events(org_id uuid, event_ids uuid[])
returns setof uuid
language sql
stable
set search_path = ''
begin atomic
  select known.event_id
  from ops.collected_events as known
  where known.org_id = known_events.org_id
    and known.event_id = any (known_events.event_ids);
end;
comment on function ops.known_events(uuid, uuid[]) is 'Those of the events that were collected already.';

create function ops.record_collection(org_id uuid, source text, resume_at timestamptz, swept_at timestamptz, entity_tag text)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.collections as collection (org_id, source, resume_at, swept_at, entity_tag)
  values (org_id, source, resume_at, swept_at, entity_tag)
  on conflict on constraint collections_pkey do update set
    resume_at = excluded.resume_at,
    swept_at = excluded.swept_at,
    entity_tag = excluded.entity_tag,
    collected_at = now();
  -- GitHub forgets a run after 400 days, so it never comes again with another time.
  delete from ops.collected_events as known
  where known.org_id = record_collection.org_id
    and known.event_timestamp < now() - interval '500 days';
end;
comment on function ops.record_collection(uuid, text, timestamptz, timestamptz, text) is
  'Notes how far a source has been read, in the transaction that stores its last events, and forgets events too old to come again.';

revoke execute on function
  ops.collect_events(jsonb),
  ops.known_events(uuid, uuid[]),
  ops.record_collection(uuid, text, timestamptz, timestamptz, text)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.collected_events, ops.collections from anon, authenticated, service_role;
  -- collect_events works as its caller, as ingest_events does.
  grant select, insert on ops.collected_events to authenticated, service_role;
  grant select on ops.collections to authenticated, service_role;
  create policy collected_events_select_own_org on ops.collected_events for select to authenticated
    using (org_id = (select ops.current_org_id()));
  create policy collected_events_insert_own_org on ops.collected_events for insert to authenticated
    with check (org_id = (select ops.current_org_id()));
  create policy collections_select_own_org on ops.collections for select to authenticated
    using (org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.collect_events(jsonb),
    ops.known_events(uuid, uuid[]),
    ops.record_collection(uuid, text, timestamptz, timestamptz, text)
  from anon, authenticated, service_role;
  grant execute on function ops.collect_events(jsonb), ops.known_events(uuid, uuid[]) to authenticated, service_role;
end;
$$;

insert into ops.event_types (event_type, description, label_keys, value_key, value_unit, fields)
values (
  -- Labelled by conclusion, not outcome: error_rate counts every kind of event with an outcome, and the run is one already.
  'workflow_job', 'A job of a CI workflow ran; its run is a workflow_run of its own.', '{conclusion,workflow}', 'duration_ms', 'ms',
  '{"conclusion": {"type": "text", "required": true},
    "workflow": {"type": "text", "required": true},
    "job": {"type": "text", "required": true},
    "duration_ms": {"type": "number"}}'
)
on conflict do nothing;

insert into ops.settings (name, value, description)
values
  (
    'workflows_slsa_provenance', 'slsa-provenance',
    'Workflows whose runs are collected as slsa_provenance events: names or file names, * and ? allowed, separated by commas.'
  ),
  (
    'workflows_provenance_validate', 'provenance-validate',
    'Workflows whose runs are collected as provenance_validate events: names or file names, * and ? allowed, separated by commas.'
  ),
  (
    'workflows_audit_observer', 'phase3-audit-observer',
    'Workflows whose runs are collected as audit_observer events: names or file names, * and ? allowed, separated by commas.'
  ),
  (
    'tag_patterns', 'v[0-9]*.[0-9]*.[0-9]*, [0-9]*.[0-9]*.[0-9]*',
    'What tags are called, where GitHub does not say whether a push was of a branch or a tag; * and ? allowed, separated by commas.'
  )
on conflict do nothing;

-- Events that collectors read elsewhere: each is stored once whoever reads it; the progress of each source.

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
create policy collected_events_select_own_org on ops.collected_events for select to authenticated
  using (org_id = (select ops.org_for('{ingest,read}')));
create policy collected_events_insert_own_org on ops.collected_events for insert to authenticated
  with check (org_id = (select ops.org_for('{ingest}')));

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
create policy collections_select_own_org on ops.collections for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create function ops.collect_events(events jsonb)
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

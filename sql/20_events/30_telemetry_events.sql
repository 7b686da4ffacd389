-- What happened: the events, partitioned by month.

create table public.telemetry_events (
  -- Users were promised a bigserial.
  -- squawk-ignore prefer-identity
  id bigserial not null,
  event_type text not null,
  event_timestamp timestamptz not null default now(),
  run_id bigint,
  tag text,
  metadata jsonb default '{}',
  created_at timestamptz not null default now(),
  -- A UUID of version 8: 111 bits of random(), mixed with the time in case of setseed(). A gen_random_uuid() for each row would be
  -- a seventh of a COPY, and nobody has to guess what is drawn here.
  event_id uuid not null default encode(
    int8send(
      (((random() * 140737488355328)::bigint # (date_part('epoch', now()) * 100000)::bigint) << 16) | 32768 | (random() * 4095)::bigint
    ) || float8send(-1 - random()),
    'hex'
  )::uuid,
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

create policy telemetry_events_select_own_org on public.telemetry_events for select to authenticated
  using (org_id = (select ops.org_for('{read}')));
create policy telemetry_events_insert_own_org on public.telemetry_events for insert to authenticated
  with check (org_id = (select ops.org_for('{ingest}')));

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
-- The name of a kind that nobody described may be a tenant's own.
create policy removed_events_select_described on ops.removed_events for select to authenticated
  using (event_type in (select kind.event_type from ops.event_types as kind));

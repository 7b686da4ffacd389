-- Events whose counting failed: set aside, so that the counting of all others goes on.

create table ops.uncountable_events (
  org_id uuid not null,
  id bigint not null,
  event_id uuid not null,
  event_type text not null,
  event_timestamp timestamptz not null,
  reason text not null,
  set_aside_at timestamptz not null default clock_timestamp(),
  constraint uncountable_events_pkey primary key (org_id, id)
);
comment on table ops.uncountable_events is
  'One row per event that a refresh could not count. No count, KPI, SLI or unit of work includes it, until ops.count_again counts it or ops.drop_uncountable deletes it.';
comment on column ops.uncountable_events.org_id is 'The tenant.';
comment on column ops.uncountable_events.id is 'telemetry_events.id.';
comment on column ops.uncountable_events.event_id is 'telemetry_events.event_id.';
comment on column ops.uncountable_events.event_type is 'The kind of the event.';
comment on column ops.uncountable_events.event_timestamp is 'When the event happened.';
comment on column ops.uncountable_events.reason is 'The error and its SQLSTATE, or that the attempts to count the event were cut off.';
comment on column ops.uncountable_events.set_aside_at is 'When it was set aside, or last failed to be counted again.';
alter table ops.uncountable_events enable row level security;
create policy uncountable_events_select_own_org on ops.uncountable_events for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create view ops.countable_events
with (security_invoker = true)
as
select
  event.id,
  event.event_type,
  event.event_timestamp,
  event.run_id,
  event.tag,
  event.metadata,
  event.event_id,
  event.org_id,
  event.agent_id,
  event.outcome,
  event.duration_ms
from public.telemetry_events as event
where not exists (
  select
  from ops.uncountable_events as aside
  where aside.org_id = event.org_id
    and aside.id = event.id
);
comment on view ops.countable_events is 'The events without those set aside: all that counts, and the checks of the counts, read the events here.';

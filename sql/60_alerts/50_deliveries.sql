-- The outbox: messages wait here until they are sent, at least once and in order.

create table ops.alert_deliveries (
  org_id uuid not null,
  delivery_id bigint generated always as identity,
  channel_name text not null,
  group_key text not null,
  status text not null,
  alert_ids bigint[] not null,
  message jsonb not null,
  state text not null,
  attempts integer not null default 0,
  created_at timestamptz not null,
  next_attempt_at timestamptz not null,
  leased_until timestamptz,
  settled_at timestamptz,
  last_error text,
  constraint alert_deliveries_pkey primary key (org_id, delivery_id),
  constraint alert_deliveries_status_check check (status in ('firing', 'resolved', 'ended', 'test', 'summary')),
  constraint alert_deliveries_state_check check (state in ('queued', 'sending', 'delivered', 'dead', 'silenced', 'superseded')),
  constraint alert_deliveries_sending_has_a_lease check ((state = 'sending') = (leased_until is not null))
);
comment on table ops.alert_deliveries is 'The outbox: one row a message for a channel; it is sent at least once.';
comment on column ops.alert_deliveries.org_id is 'The tenant.';
comment on column ops.alert_deliveries.delivery_id is 'Number of the delivery; receivers may recognise a repeated one by it.';
comment on column ops.alert_deliveries.channel_name is 'The channel; it may be gone by now.';
comment on column ops.alert_deliveries.group_key is 'The group; messages of one group and channel are sent in order.';
comment on column ops.alert_deliveries.status is 'firing, resolved (nothing of the group fires any more), ended (nor is asked about), test, or summary of a week.';
comment on column ops.alert_deliveries.alert_ids is 'The alerts it speaks of.';
comment on column ops.alert_deliveries.message is 'What it says, as facts; the sender words them for the channel.';
comment on column ops.alert_deliveries.state is
  'queued; sending (leased); delivered; dead (refused, or tried too often); silenced (logged only); superseded (dead, and a later one was sent, or the channel was removed).';
comment on column ops.alert_deliveries.attempts is 'Attempts begun (count); one that the receiver only put off is taken back.';
comment on column ops.alert_deliveries.created_at is 'The instant of the evaluation or call that wrote it.';
comment on column ops.alert_deliveries.next_attempt_at is 'Not before this instant, nor before the channel takes messages again (ops.channel_pauses).';
comment on column ops.alert_deliveries.leased_until is 'While sending: when another worker may take it over.';
comment on column ops.alert_deliveries.settled_at is 'When the last attempt ended.';
comment on column ops.alert_deliveries.last_error is 'Why the last attempt failed; null when it did not.';
alter table ops.alert_deliveries enable row level security;

create index alert_deliveries_channel_name_org_id_group_key_delivery_id_idx
  on ops.alert_deliveries (channel_name, org_id, group_key, delivery_id)
  where state in ('queued', 'sending');

create policy alert_deliveries_select_own_org on ops.alert_deliveries for select to authenticated
  using (org_id = (select ops.org_for('{read}')));

create function ops.queue_delivery(
  org_id uuid,
  channel_name text,
  group_key text,
  state text,
  firing bigint[],
  resolved bigint[],
  as_of timestamptz
)
returns bigint
language sql
volatile
set search_path = ''
begin atomic
  with over as (
    select
      coalesce(array_agg(alert.alert_id) filter (where alert.state = 'ended'), '{}') as ended,
      coalesce(array_agg(alert.alert_id) filter (where alert.state <> 'ended'), '{}') as resolved
    from ops.alerts as alert
    where alert.alert_id = any (queue_delivery.resolved)
  ),
  judged as (
    select
      over.*,
      case
        when cardinality(queue_delivery.firing) > 0 then 'firing'
        when cardinality(over.ended) > 0 and cardinality(over.resolved) = 0 then 'ended'
        else 'resolved'
      end as status
    from over
  )
  insert into ops.alert_deliveries as delivery (
    org_id, channel_name, group_key, status, alert_ids, message, state, created_at, next_attempt_at
  )
  select
    queue_delivery.org_id,
    queue_delivery.channel_name,
    queue_delivery.group_key,
    judged.status,
    queue_delivery.firing || queue_delivery.resolved,
    jsonb_build_object(
      'kind', 'alerts',
      'title', concat(
        queue_delivery.group_key, ': ', case when judged.status = 'firing' then cardinality(queue_delivery.firing) || ' ' end, judged.status
      ),
      'status', judged.status,
      'org_id', queue_delivery.org_id,
      'group', queue_delivery.group_key,
      'link', ops.setting('dashboard_url'),
      'firing', ops.alert_facts(queue_delivery.firing, queue_delivery.as_of),
      'resolved', ops.alert_facts(judged.resolved, queue_delivery.as_of),
      'ended', ops.alert_facts(judged.ended, queue_delivery.as_of)
    ),
    queue_delivery.state,
    queue_delivery.as_of,
    queue_delivery.as_of
  from judged
  returning delivery.delivery_id;
end;
comment on function ops.queue_delivery(uuid, text, text, text, bigint[], bigint[], timestamptz) is
  'Writes one message about alerts that fire and alerts that are over, resolved or ended; returns its number.';

create function ops.forget_channel()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if tg_level = 'STATEMENT' then
    -- An evaluation that knows the channel would write messages that nobody sends. Before any row is locked, since the
    -- evaluation asks for the row, too.
    perform pg_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0));
    return null;
  end if;
  update ops.alert_deliveries as delivery
  set state = 'superseded',
      leased_until = null,
      settled_at = now(),
      last_error = 'the channel was removed'
  where delivery.channel_name = old.channel_name
    and delivery.state in ('queued', 'sending', 'dead');
  delete from ops.channel_pauses as pause
  where pause.channel_name = old.channel_name;
  return null;
end;
$$;
comment on function ops.forget_channel() is 'Trigger: a channel is removed beside no evaluation; what waits for it waits no longer, and what was sent stays on record.';

create trigger alert_channels_wait
before delete on ops.alert_channels
for each statement execute function ops.forget_channel();

create trigger alert_channels_forget
after delete on ops.alert_channels
for each row execute function ops.forget_channel();

create function ops.queue_test(channel_name text, message jsonb, as_of timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  delivery_id bigint;
begin
  if not exists (select from ops.alert_channels as channel where channel.channel_name = queue_test.channel_name) then
    raise exception 'there is no channel %', coalesce(queue_test.channel_name, '')
      using errcode = 'OP001', hint = 'opskpi alert list --channels shows them; opskpi slo apply adds one.';
  end if;
  if not (select channel.is_enabled from ops.alert_channels as channel where channel.channel_name = queue_test.channel_name) then
    raise exception 'the channel % is switched off', queue_test.channel_name
      using errcode = 'OP001', hint = 'Set is_enabled in ops.alert_channels.';
  end if;
  insert into ops.alert_deliveries as delivery (
    org_id, channel_name, group_key, status, alert_ids, message, state, created_at, next_attempt_at
  )
  values (
    -- A group of its own, so that it waits for no other test.
    '00000000-0000-0000-0000-000000000000', queue_test.channel_name, 'test ' || gen_random_uuid(), 'test', '{}', queue_test.message, 'queued',
    queue_test.as_of, queue_test.as_of
  )
  returning delivery.delivery_id into delivery_id;
  return delivery_id;
end;
$$;
comment on function ops.queue_test(text, jsonb, timestamptz) is 'Writes a test message for a channel; returns its number.';

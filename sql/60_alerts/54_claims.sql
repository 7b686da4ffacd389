-- Claims of messages that wait, and how each attempt ended.

create view ops.waiting_deliveries
with (security_invoker = true)
as
select
  waiting.org_id,
  waiting.delivery_id,
  waiting.channel_name,
  waiting.attempts,
  greatest(waiting.settled_at, waiting.leased_until) as tried_at,
  greatest(
    case waiting.state when 'queued' then waiting.next_attempt_at else waiting.leased_until end,
    (select pause.until from ops.channel_pauses as pause where pause.channel_name = waiting.channel_name)
  ) as due_at,
  exists (select from ops.channel_pauses as pause where pause.channel_name = waiting.channel_name) as is_paced,
  case waiting.state when 'queued' then waiting.next_attempt_at else waiting.leased_until end as ready_at
from ops.alert_deliveries as waiting
where waiting.state in ('queued', 'sending')
  and exists (
    select from ops.alert_channels as channel where channel.channel_name = waiting.channel_name and channel.is_enabled
  )
  -- A message waits for those before it, so that resolved never overtakes firing.
  and not exists (
    select
    from ops.alert_deliveries as earlier
    where earlier.channel_name = waiting.channel_name
      and earlier.org_id = waiting.org_id
      and earlier.group_key = waiting.group_key
      and earlier.state in ('queued', 'sending')
      and earlier.delivery_id < waiting.delivery_id
  );
comment on view ops.waiting_deliveries is
  'One row a message that is next in its channel and group: when it was last tried (null: never), is ready by itself, and is due by its channel as well.';

create function ops.claim_deliveries(
  max_deliveries integer default 20,
  lease interval default '30 seconds',
  as_of timestamptz default now(),
  except_channels text[] default '{}'
)
returns table (
  delivery_id bigint,
  attempt integer,
  org_id uuid,
  channel_name text,
  channel_kind text,
  secret_env text,
  settings jsonb,
  group_key text,
  created_at timestamptz,
  message jsonb
)
language sql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with buried as (
    -- Each attempt may have ended with the worker that made it.
    update ops.alert_deliveries as delivery
    set state = 'dead',
        leased_until = null,
        settled_at = claim_deliveries.as_of
    from ops.alert_channels as channel
    where channel.channel_name = delivery.channel_name
      and channel.is_enabled
      and delivery.state in ('queued', 'sending')
      and case delivery.state when 'queued' then delivery.next_attempt_at else delivery.leased_until end <= claim_deliveries.as_of
      and delivery.attempts >= channel.max_attempts
  ),
  claimable as (
    select waiting.org_id, waiting.delivery_id, waiting.channel_name, waiting.is_paced
    from ops.waiting_deliveries as waiting
    join ops.alert_channels as channel
      on channel.channel_name = waiting.channel_name
      and waiting.attempts < channel.max_attempts
    where waiting.due_at <= claim_deliveries.as_of
      and waiting.channel_name <> all (claim_deliveries.except_channels)
    -- A message that was tried goes to the end, so that it keeps no other waiting.
    order by waiting.tried_at nulls first, waiting.delivery_id
    limit claim_deliveries.max_deliveries
    for update of waiting skip locked
  ),
  opened as (
    -- Two senders keep the distance together: the later one finds the channel paused again.
    update ops.channel_pauses as pause
    set until = claim_deliveries.as_of + greatest(kept.gap, case when pause.refused > 0 then interval '1 second' else '0' end),
        gap = kept.gap
    from (
      select
        known.channel_name,
        -- After an hour of quiet the receiver may take messages faster again.
        case when known.until > claim_deliveries.as_of - interval '1 hour' then known.gap else '0' end as gap
      from ops.channel_pauses as known
      where known.channel_name in (select claimable.channel_name from claimable)
    ) as kept
    where pause.channel_name = kept.channel_name
      and pause.until <= claim_deliveries.as_of
    returning pause.channel_name
  ),
  claimed as (
    update ops.alert_deliveries as delivery
    set state = 'sending',
        attempts = delivery.attempts + 1,
        leased_until = claim_deliveries.as_of + claim_deliveries.lease
    from claimable
    where delivery.org_id = claimable.org_id
      and delivery.delivery_id = claimable.delivery_id
      and (not claimable.is_paced or claimable.channel_name in (select opened.channel_name from opened))
    returning delivery.*
  )
  select
    claimed.delivery_id,
    claimed.attempts,
    claimed.org_id,
    claimed.channel_name,
    channel.kind,
    channel.secret_env,
    channel.settings,
    claimed.group_key,
    claimed.created_at,
    claimed.message
  from claimed
  join ops.alert_channels as channel
    on channel.channel_name = claimed.channel_name
  order by claimed.delivery_id;
end;
comment on function ops.claim_deliveries(integer, interval, timestamptz, text[]) is
  'Takes messages that are due for the length of the lease and counts the attempt; commit before sending. At most one message a channel and group, the oldest; what was never tried first, then what was tried longest ago. Claim one at a time: pauses lie between calls.';

create function ops.wait_for_channels(as_of timestamptz default now(), except_channels text[] default '{}')
returns interval
language sql
stable
set search_path = ''
begin atomic
  select min(greatest(waiting.due_at - wait_for_channels.as_of, '0'))
  from ops.waiting_deliveries as waiting
  where waiting.is_paced
    and waiting.ready_at <= wait_for_channels.as_of
    and waiting.channel_name <> all (wait_for_channels.except_channels);
end;
comment on function ops.wait_for_channels(timestamptz, text[]) is
  'How long until the first paused channel takes a message that is ready; null when none is ready.';

create function ops.untried_deliveries(as_of timestamptz default now())
returns bigint
language sql
stable
set search_path = ''
begin atomic
  select count(*)
  from ops.waiting_deliveries as waiting
  where waiting.tried_at is null
    and waiting.ready_at <= untried_deliveries.as_of;
end;
comment on function ops.untried_deliveries(timestamptz) is
  'Messages (count) that could have been sent and were never tried, of each channel and group the next one only.';

create function ops.settle_delivery(
  delivery_id bigint,
  attempt integer,
  outcome text,
  error text default null,
  retry_after interval default null,
  as_of timestamptz default now()
)
returns text
language plpgsql
volatile
set search_path = ''
as $$
declare
  sending record;
  pause ops.channel_pauses;
  is_put_off boolean := false;
  settled text;
begin
  if outcome is null or outcome not in ('delivered', 'retry', 'throttled', 'dead') then
    raise exception 'a delivery ends as delivered, retry, throttled or dead, not as %', outcome
      using errcode = 'OP001', hint = 'Pass one of the four.';
  end if;
  select delivery.channel_name, delivery.attempts < channel.max_attempts as is_left, delivery.status = 'test' as is_test
  into sending
  from ops.alert_deliveries as delivery
  join ops.alert_channels as channel
    on channel.channel_name = delivery.channel_name
  where delivery.delivery_id = settle_delivery.delivery_id
    and delivery.state = 'sending'
    and delivery.attempts = settle_delivery.attempt
  for no key update of delivery;
  if not found then
    return 'lost';
  end if;
  if outcome = 'throttled' then
    pause := ops.pause_channel(sending.channel_name, retry_after, as_of);
    -- A channel that has taken nothing six times in a row does not slow down, it fails.
    is_put_off := pause.refused <= 6;
  elsif outcome = 'delivered' then
    perform ops.resume_channel(sending.channel_name, as_of);
  end if;
  update ops.alert_deliveries as delivery
  set state = case
        when outcome in ('delivered', 'dead') then outcome
        -- Who tests a channel looks on, and tries again by hand.
        when sending.is_test then 'dead'
        when is_put_off or sending.is_left then 'queued'
        else 'dead'
      end,
      attempts = delivery.attempts - is_put_off::integer,
      leased_until = null,
      settled_at = as_of,
      last_error = left(settle_delivery.error, 1000),
      -- Twice as long each time, an hour at most, half of it by chance so that many do not come back at once.
      next_attempt_at = case
        -- The pause of the channel is what it waits for.
        when is_put_off then as_of
        else as_of + greatest(
          settle_delivery.retry_after,
          least(interval '10 seconds' * 2 ^ least(delivery.attempts - 1, 20), interval '1 hour') * (0.5 + random() / 2)
        )
      end
  where delivery.delivery_id = settle_delivery.delivery_id
  returning delivery.state into settled;
  return settled;
end;
$$;
comment on function ops.settle_delivery(bigint, integer, text, text, interval, timestamptz) is
  'Notes how an attempt ended: delivered; retry, which queues it for another, not before retry_after; throttled, which pauses the channel and takes the attempt back; or dead. Lost when another worker took it over since.';

create function ops.retry_deliveries(channel_name text default null, as_of timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  queued bigint;
begin
  with retried as (
    update ops.alert_deliveries as delivery
    set state = case
          when exists (
            select
            from ops.alert_deliveries as later
            where later.channel_name = delivery.channel_name
              and later.org_id = delivery.org_id
              and later.group_key = delivery.group_key
              and later.delivery_id > delivery.delivery_id
              and later.state <> 'silenced'
              -- A service may be called as a summary is; neither stands for the other.
              and (later.status = 'summary') = (delivery.status = 'summary')
          ) and delivery.status <> 'test' then 'superseded'
          else 'queued'
        end,
        attempts = 0,
        next_attempt_at = retry_deliveries.as_of
    where delivery.state = 'dead'
      and (retry_deliveries.channel_name is null or delivery.channel_name = retry_deliveries.channel_name)
    returning delivery.state
  )
  select count(*) into queued from retried where retried.state = 'queued';
  -- A retry by hand may follow a change at the receiver, so it ends the pause.
  delete from ops.channel_pauses as pause
  where retry_deliveries.channel_name is null
    or pause.channel_name = retry_deliveries.channel_name;
  return queued;
end;
$$;
comment on function ops.retry_deliveries(text, timestamptz) is
  'Queues dead messages again, all or a channel''s, and ends the pauses that receivers asked for; returns how many are queued. One that a later message has overtaken is superseded instead.';

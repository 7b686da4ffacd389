-- A receiver that throttles is given its time by every sender, one message holds up no other, and doctor says whether anything sends.

drop function ops.claim_deliveries;
comment on column ops.job_runs.job is 'refresh, alerts, deliver, maintain, retention or rebuild.';

create or replace function ops.schedule(every text default '* * * * *')
returns text
language plpgsql
volatile
set search_path = ''
as $$
declare
  sending constant text := (
    select 'pg_cron sends no message, opskpi alert deliver does: ' || outbox.detail
    from ops.delivery_checks(now()) as outbox
    where outbox.check_name = 'senders'
  );
begin
  if to_regnamespace('cron') is null then
    return 'pg_cron is not installed here. On Supabase enable the extension pg_cron and call ops.schedule() again ('
      || sending || '); elsewhere add to crontab, which sends, too: * * * * * opskpi run';
  end if;
  -- Not a constant text, which a linter would look up in a database that has no pg_cron.
  execute format('select %s.schedule($1, $2, $3)', to_regnamespace('cron')) using 'opskpi', every, 'select ops.run()';
  -- pg_cron keeps every run for ever.
  execute format('select %s.schedule($1, $2, $3)', to_regnamespace('cron'))
    using 'opskpi-prune', '17 3 * * *', 'delete from cron.job_run_details where end_time < now() - interval ''7 days''';
  return format('opskpi runs at %s through pg_cron; %s', every, sending);
end;
$$;
comment on function ops.schedule(text) is
  'Installs the jobs in pg_cron (once, however often it is called) and says so; without pg_cron it says what to do instead. It says whether anything sends messages, too.';

create or replace function ops.notify_group(news ops.alert_news, as_of timestamptz)
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
declare
  untold bigint[];
begin
  if cardinality(news.now_silenced) > 0 then
    untold := ops.silence_deliveries(news, as_of);
    news.last_firing := array(
      select last.alert_id
      from unnest(news.last_firing) with ordinality as last (alert_id, place)
      where not last.alert_id = any (untold)
      order by last.place
    );
  end if;
  if not news.now_silenced <@ news.logged_silenced then
    perform ops.queue_delivery(news.org_id, news.channel_name, news.group_key, 'silenced', news.now_silenced, '{}', as_of);
  end if;
  insert into ops.alert_groups as known (org_id, channel_name, group_key, last_firing, logged_silenced)
  values (news.org_id, news.channel_name, news.group_key, coalesce(news.last_firing, '{}'), news.now_silenced)
  on conflict on constraint alert_groups_pkey do update set
    last_firing = excluded.last_firing,
    logged_silenced = excluded.logged_silenced;
  if cardinality(news.now_firing || news.now_resolved) > 0 and ops.needs_notification(
    case when news.last_notified_at is not null then news.last_firing end,
    news.last_resolved, as_of - news.last_notified_at, news.repeat_interval,
    news.now_firing, news.now_resolved
  ) then
    perform ops.queue_delivery(news.org_id, news.channel_name, news.group_key, 'queued', news.now_firing, news.now_resolved, as_of);
    update ops.alert_groups as known
    set last_firing = news.now_firing,
        last_resolved = news.now_resolved,
        last_notified_at = as_of
    where known.org_id = news.org_id
      and known.channel_name = news.channel_name
      and known.group_key = news.group_key;
    return true;
  end if;
  return false;
end;
$$;
comment on function ops.notify_group(ops.alert_news, timestamptz) is
  'Writes to the outbox what a channel should hear now about a group, takes back what is silenced and still waits, logs what is newly silenced, and notes it; returns whether a message was written.';

create table ops.channel_pauses (
  channel_name text not null,
  until timestamptz not null,
  gap interval not null,
  refused integer not null,
  taken integer not null,
  -- Without a foreign key: it would lock the channel after its messages, and whoever removes a channel locks it before them.
  constraint channel_pauses_pkey primary key (channel_name)
);
comment on table ops.channel_pauses is 'One row a channel whose receiver has put a message off: when the channel takes the next one.';
comment on column ops.channel_pauses.channel_name is 'The channel.';
comment on column ops.channel_pauses.until is 'Nothing is sent before this instant.';
comment on column ops.channel_pauses.gap is 'Distance between the begins of two messages; 0: as fast as they are taken.';
comment on column ops.channel_pauses.refused is 'Messages put off in a row, the last one included (count); 0: the last one was taken.';
comment on column ops.channel_pauses.taken is 'Messages taken since one was last put off (count).';
alter table ops.channel_pauses enable row level security;

create function ops.pause_channel(channel_name text, retry_after interval, as_of timestamptz)
returns ops.channel_pauses
language plpgsql
volatile
set search_path = ''
as $$
#variable_conflict use_column
declare
  before ops.channel_pauses;
  wait interval;
begin
  insert into ops.channel_pauses as pause (channel_name, until, gap, refused, taken)
  values (pause_channel.channel_name, as_of, '0', 0, 0)
  on conflict on constraint channel_pauses_pkey do nothing;
  select pause.* into before
  from ops.channel_pauses as pause
  where pause.channel_name = pause_channel.channel_name
  for update;
  -- At least twice as long each time, since a receiver may name no time, or one too short for several clients.
  wait := greatest(retry_after, least(interval '1 second' * 2 ^ least(before.refused, 20), interval '1 minute'));
  update ops.channel_pauses as pause
  set until = greatest(pause.until, as_of + wait),
      -- One message between two refusals says that the receiver takes one in that time. Without the gap every second
      -- request would be refused, and Slack disables clients that go on so. A tenth more, since not all requests take
      -- equally long to arrive. A longer wait is a quota, not a pace.
      gap = case when before.taken = 1 and wait <= interval '5 seconds' then 1.1 * wait else before.gap end,
      refused = before.refused + 1,
      taken = 0
  where pause.channel_name = pause_channel.channel_name
  returning pause.* into before;
  return before;
end;
$$;
comment on function ops.pause_channel(text, interval, timestamptz) is
  'Notes that the receiver of a channel has put a message off, for retry_after at least; returns the pause. Only settle_delivery calls it.';

create function ops.resume_channel(channel_name text, as_of timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  update ops.channel_pauses as pause
  set until = least(pause.until, resume_channel.as_of + pause.gap),
      refused = 0,
      taken = pause.taken + 1
  where pause.channel_name = resume_channel.channel_name;
end;
comment on function ops.resume_channel(text, timestamptz) is
  'Notes that the receiver of a channel has taken a message; nothing where it has put off none. Only settle_delivery calls it.';
comment on column ops.alert_deliveries.attempts is 'Attempts begun (count); one that the receiver only put off is taken back.';
comment on column ops.alert_deliveries.next_attempt_at is 'Not before this instant, nor before the channel takes messages again (ops.channel_pauses).';

create or replace function ops.forget_channel()
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

create function ops.silence_deliveries(news ops.alert_news, as_of timestamptz)
returns bigint[]
language sql
volatile
set search_path = ''
begin atomic
  with hushed as (
    update ops.alert_deliveries as delivery
    set state = 'silenced',
        settled_at = silence_deliveries.as_of,
        last_error = 'silenced before it was sent'
    where delivery.org_id = (silence_deliveries.news).org_id
      and delivery.channel_name = (silence_deliveries.news).channel_name
      and delivery.group_key = (silence_deliveries.news).group_key
      and delivery.state = 'queued'
      and delivery.status = 'firing'
      and cardinality(delivery.alert_ids) > 0
      -- A message that says something else as well is sent as a whole.
      and delivery.alert_ids <@ (silence_deliveries.news).now_silenced
    returning delivery.delivery_id, delivery.alert_ids
  )
  select coalesce(array_agg(distinct untold.alert_id), '{}')
  from hushed
  cross join lateral unnest(hushed.alert_ids) as untold (alert_id)
  where not exists (
    select
    from ops.alert_deliveries as said
    where said.org_id = (silence_deliveries.news).org_id
      and said.channel_name = (silence_deliveries.news).channel_name
      and said.group_key = (silence_deliveries.news).group_key
      and said.status = 'firing'
      and said.state in ('queued', 'sending', 'delivered')
      and said.alert_ids @> array[untold.alert_id]
      and said.delivery_id not in (select other.delivery_id from hushed as other)
  );
end;
comment on function ops.silence_deliveries(ops.alert_news, timestamptz) is
  'Silences the waiting messages of a group and channel that speak of nothing but silenced alerts; returns those alerts that nobody was told of, so that they are said to fire when the silence ends. Only notify_group calls it.';

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

create or replace function ops.settle_delivery(
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

create or replace function ops.retry_deliveries(channel_name text default null, as_of timestamptz default now())
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

create function ops.record_sending(took interval, message text default null)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.job_runs (job, started_at, outcome, message)
  values ('deliver', clock_timestamp() - record_sending.took, 'success', left(record_sending.message, 1000));
end;
comment on function ops.record_sending(interval, text) is 'Notes in the journal of the jobs that a sender has emptied the outbox as far as it could, and how long that took.';

create function ops.last_sending_at()
returns timestamptz
language sql
stable
set search_path = ''
begin atomic
  select max(run.finished_at)
  from ops.job_runs as run
  where run.job = 'deliver'
    and run.outcome = 'success';
end;
comment on function ops.last_sending_at() is 'When a sender last emptied the outbox; null: never, as far as the journal goes back.';

create function ops.delivery_checks(as_of timestamptz)
returns table (check_name text, passed boolean, detail text)
language sql
stable
set search_path = ''
begin atomic
  select 'messages', dead.number + late.number = 0,
    case
      when dead.number + late.number = 0 then 'none is dead, and none waits for longer than an hour'
      else concat_ws(
        '; ',
        case when dead.number > 0 then format(
          '%s dead for %s: %s; mend it and run opskpi alert retry', dead.number, dead.channel_name, coalesce(dead.reason, 'its senders ended without a word')
        ) end,
        case when late.number > 0 then format(
          '%s waiting for longer than an hour, the oldest for %s since %s UTC: %s',
          late.number, late.channel_name, to_char(late.created_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'), coalesce(late.reason, 'not tried yet')
        ) end
      )
    end
  from (
    select count(*) as number, min(delivery.channel_name) as channel_name, max(delivery.last_error) as reason
    from ops.alert_deliveries as delivery
    where delivery.state = 'dead'
  ) as dead
  cross join (
    select
      count(*) as number,
      (array_agg(delivery.channel_name order by delivery.created_at, delivery.delivery_id))[1] as channel_name,
      min(delivery.created_at) as created_at,
      (array_agg(delivery.last_error order by delivery.created_at, delivery.delivery_id))[1] as reason
    from ops.alert_deliveries as delivery
    join ops.alert_channels as channel
      on channel.channel_name = delivery.channel_name
      -- Messages for a channel that is switched off wait on purpose.
      and channel.is_enabled
    where delivery.state in ('queued', 'sending')
      and delivery.created_at < delivery_checks.as_of - interval '1 hour'
  ) as late
  union all
  select 'senders',
    wanted.channels is null or coalesce(wanted.sent_at >= delivery_checks.as_of - greatest(interval '1 hour', 2 * ops.refresh_interval()), false),
    case
      when wanted.channels is null then 'no channel: nothing is to be sent'
      when wanted.sent_at >= delivery_checks.as_of - greatest(interval '1 hour', 2 * ops.refresh_interval())
        then format('the outbox was last emptied at %s UTC', to_char(wanted.sent_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'))
      else format(
        'nothing sends to %s: %s; run opskpi run or opskpi alert deliver from cron, where the secrets of the channels are',
        wanted.channels,
        coalesce('the last sender ran at ' || to_char(wanted.sent_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'no sender has run yet')
      )
    end
  from (
    select string_agg(channel.channel_name, ', ' order by channel.channel_name) as channels, ops.last_sending_at() as sent_at
    from ops.alert_channels as channel
    where channel.is_enabled
  ) as wanted;
end;
comment on function ops.delivery_checks(timestamptz) is
  'The checks of doctor on the outbox: messages that are dead or wait for longer than an hour, and channels without anything that sends.';
comment on column public.v_ops_alert_deliveries.attempts is 'Attempts begun (count); one that the receiver only put off is taken back.';
comment on column public.v_ops_job_runs.job is 'refresh, alerts, deliver, maintain, retention or rebuild.';

create or replace function ops.doctor(as_of timestamptz default now())
returns table (check_name text, passed boolean, detail text)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  select 'events and KPI tables', to_regclass('public.telemetry_events') is not null and to_regclass('public.kpi_aggregations') is not null,
    'telemetry_events and kpi_aggregations exist'
  union all
  select 'audits', exists (select from public.slsa_audit_metrics),
    case when exists (select from public.slsa_audit_metrics) then 'slsa_audit_metrics has rows'
      else 'slsa_audit_metrics is empty: no audit has been recorded yet' end
  union all
  select 'views', count(broken.view_name) = 0,
    coalesce(string_agg(broken.view_name || ': ' || broken.reason, '; '), 'every v_ops_* view answers')
  from ops.broken_views() as broken
  union all
  select 'jobs', coalesce(max(run.finished_at) >= doctor.as_of - 2 * ops.refresh_interval(), false),
    coalesce('last refresh ' || to_char(max(run.finished_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'no refresh has run yet')
      || case when coalesce(max(run.finished_at) >= doctor.as_of - 2 * ops.refresh_interval(), false) then ''
        else '; run opskpi run from cron every ' || ops.refresh_interval() end
  from ops.job_runs as run
  where run.job = 'refresh'
    and run.outcome <> 'failure'
  union all
  select 'alerts', not watched.has_channel or coalesce(watched.evaluated_at >= doctor.as_of - 2 * ops.refresh_interval(), false),
    case when not watched.has_channel then 'no channel: nobody is told'
      else coalesce('evaluated ' || to_char(watched.evaluated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'never evaluated; run opskpi run')
    end
  from (
    select
      exists (select from ops.alert_channels as channel where channel.is_enabled) as has_channel,
      (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation) as evaluated_at
  ) as watched
  union all
  select outbox.check_name, outbox.passed, outbox.detail
  from ops.delivery_checks(doctor.as_of) as outbox
  union all
  select 'partitions', next_month.partition is not null,
    case when next_month.partition is not null then next_month.name || ' is there' else 'ops.' || next_month.name || ' is missing; run opskpi run' end
  from (
    select named.name, to_regclass('ops.' || named.name) as partition
    from (
      select 'telemetry_events_' || to_char((doctor.as_of at time zone 'UTC') + interval '1 month', 'YYYY_MM') as name
    ) as named
  ) as next_month
  union all
  select 'retention', count(*) = 0,
    case
      when count(*) > 0 then format(
        'what is due since more than two days is still there: %s; run opskpi retention run', string_agg(overdue.name, ', ' order by overdue.month_start)
      )
      when not exists (select from ops.retention_rules as rule where rule.age is not null) then 'everything is kept for ever'
      else 'nothing is overdue'
    end
  from ops.expired_months(doctor.as_of - interval '2 days') as overdue
  union all
  select 'row level security', count(*) = 0,
    coalesce('off on ' || string_agg(class.oid::regclass::text, ', '), 'on for every table')
  from pg_catalog.pg_class as class
  where class.relkind in ('r', 'p')
    and not class.relrowsecurity
    and (
      class.relnamespace = 'ops'::regnamespace
      or class.oid in ('public.telemetry_events'::regclass, 'public.kpi_aggregations'::regclass, 'public.slsa_audit_metrics'::regclass)
    )
  union all
  select 'bound logins', count(*) = 0,
    coalesce(string_agg(watched.fault, '; '), 'each reads its own org only')
  from (
    select bound.login || ': ' || ops.login_fault(bound.login) as fault
    from ops.bound_logins as bound
    where ops.login_fault(bound.login) is not null
    union all
    select format('%s.%s has no policy for them; run opskpi migrate', unguarded.relation, unguarded.column_name)
    from ops.unguarded_columns() as unguarded
    where exists (select from ops.bound_logins)
    union all
    select distinct role.rolname || ': only policies of an earlier README hold it back; run select ops.bind_login(…)'
    from pg_catalog.pg_policy as policy
    join pg_catalog.pg_roles as role
      on policy.polname = (role.rolname || '_only')::name
    where not policy.polpermissive
  ) as watched
  union all
  select 'cursor', count(*) = 0,
    case when count(*) = 0 then 'no event waits'
      else count(*) || ' events wait since ' || to_char(min(event.created_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC; run opskpi run' end
  from public.telemetry_events as event
  where event.id > ops.cursor_id()
    and event.id <= (select sequence.last_value from public.telemetry_events_id_seq as sequence)
    and event.created_at < doctor.as_of - 2 * ops.refresh_interval()
  union all
  select 'uncountable events', count(*) = 0,
    case when count(*) = 0 then 'every event could be counted'
      else format(
        '%s could not be counted, the first is %s (%s): %s; mend the cause and run select ops.count_again(), or delete it with select ops.drop_uncountable(%2$s); ops.uncountable_events lists them',
        count(*),
        min(aside.id),
        (array_agg(aside.event_type order by aside.id))[1],
        (array_agg(aside.reason order by aside.id))[1]
      ) end
  from ops.uncountable_events as aside
  union all
  select 'counts', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has %s events and %s counted; run opskpi rebuild --since %s --until %s',
        count(difference.day_start),
        (array_agg(difference.events order by difference.day_start))[1],
        (array_agg(difference.counted order by difference.day_start))[1],
        to_char(min(difference.day_start) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        to_char((max(difference.day_start) + interval '24 hours') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
      ) end
  from ops.count_differences(doctor.as_of - interval '7 days') as difference
  union all
  select 'counts of objectives', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'good and total of the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has good %s of %s and %s of %s counted where they differ; run opskpi rebuild --since %s --until %s',
        count(difference.day_start),
        (array_agg(difference.good order by difference.day_start))[1],
        (array_agg(difference.total order by difference.day_start))[1],
        (array_agg(difference.counted_good order by difference.day_start))[1],
        (array_agg(difference.counted_total order by difference.day_start))[1],
        to_char(min(difference.day_start) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        to_char((max(difference.day_start) + interval '24 hours') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
      ) end
  from ops.sli_differences(doctor.as_of - interval '7 days') as difference;
end;

revoke execute on function
  ops.claim_deliveries,
  ops.last_sending_at,
  ops.delivery_checks,
  ops.pause_channel,
  ops.record_sending,
  ops.resume_channel,
  ops.silence_deliveries,
  ops.untried_deliveries,
  ops.wait_for_channels
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on
    ops.channel_pauses,
    ops.waiting_deliveries
  from anon, authenticated, service_role;
  revoke execute on function
    ops.claim_deliveries,
    ops.last_sending_at,
    ops.delivery_checks,
    ops.pause_channel,
    ops.record_sending,
    ops.resume_channel,
    ops.silence_deliveries,
    ops.untried_deliveries,
    ops.wait_for_channels
  from anon, authenticated, service_role;
end;
$$;

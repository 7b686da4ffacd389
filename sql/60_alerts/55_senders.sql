-- Senders: whether anything empties the outbox, and what waits in it for too long.

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

-- Silences that are made while messages wait: what is silenced now is not sent any more.

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

-- Messages: when a group of alerts is worth one, and its content.

create table ops.alert_groups (
  org_id uuid not null,
  channel_name text not null,
  group_key text not null,
  last_firing bigint[] not null default '{}',
  last_resolved bigint[] not null default '{}',
  last_notified_at timestamptz,
  logged_silenced bigint[] not null default '{}',
  constraint alert_groups_pkey primary key (org_id, channel_name, group_key),
  constraint alert_groups_channel_name_fkey foreign key (channel_name) references ops.alert_channels (channel_name) on delete cascade
);
comment on table ops.alert_groups is 'One row a channel and group of alerts that are sent together: what was last said.';
comment on column ops.alert_groups.org_id is 'The tenant.';
comment on column ops.alert_groups.channel_name is 'The channel.';
comment on column ops.alert_groups.group_key is 'The service of the objectives, the KPI, or the kind of silence.';
comment on column ops.alert_groups.last_firing is 'The alerts last said to fire.';
comment on column ops.alert_groups.last_resolved is 'The alerts last said to be over.';
comment on column ops.alert_groups.last_notified_at is 'When; null: never.';
comment on column ops.alert_groups.logged_silenced is 'Firing alerts already logged as silenced.';
alter table ops.alert_groups enable row level security;

create function ops.needs_notification(
  last_firing bigint[],
  last_resolved bigint[],
  age interval,
  repeat_interval interval,
  now_firing bigint[],
  now_resolved bigint[]
)
returns boolean
language sql
immutable
set search_path = ''
return case
  when last_firing is null then cardinality(now_firing) > 0
  when not now_firing <@ last_firing then true
  when cardinality(now_firing) = 0 then cardinality(last_firing) > 0
  when not now_resolved <@ coalesce(last_resolved, '{}') then true
  else age > repeat_interval
end;
comment on function ops.needs_notification(bigint[], bigint[], interval, interval, bigint[], bigint[]) is
  'Whether a group of alerts is to be sent again, as Alertmanager decides it: something new fires, all is over, something is over, or the repeat interval has passed. last_firing is null when nothing was sent yet.';

create function ops.alert_facts(alert_ids bigint[], as_of timestamptz)
returns jsonb
language sql
stable
set search_path = ''
return (
  select coalesce(jsonb_agg(
    jsonb_build_object(
      'alert_id', alert.alert_id,
      'rule', alert.rule_name,
      'kind', alert.kind,
      'severity', alert.severity,
      'subject', alert.subject,
      'slo_group', nullif(alert.slo_group, '{}'),
      'group', ops.group_name(alert.slo_group),
      'service', alert.service,
      'description', nullif(alert.description, ''),
      'since', alert.firing_since,
      'resolved_at', alert.resolved_at,
      'slo_version', alert.slo_version,
      'detail', alert.detail - 'explain_since',
      'explain', case
        when alert.kind in ('burn_rate', 'budget_exhausted') then format(
          'opskpi slo explain %s%s --since %s --until %s%s',
          alert.subject,
          (
            -- Quoted for a shell, since values come from whoever sends events.
            select string_agg(
              ' --group ' || case
                when label.word ~ '^[A-Za-z0-9_.=/:@+-]+$' then label.word
                else '''' || replace(label.word, '''', '''\''''') || ''''
              end,
              ''
              order by label.word collate "C"
            )
            from (
              select case
                when alert.slo_group = ops.overflow_group() then 'overflow'
                else ops.group_name(jsonb_build_object(value.key, value.value))
              end
              from jsonb_each(alert.slo_group) as value
            ) as label (word)
          ),
          to_char((alert.detail ->> 'explain_since')::timestamptz at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
          to_char(alert_facts.as_of at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
          case when alert.org_id <> '00000000-0000-0000-0000-000000000000' then format(' --org %s', alert.org_id) else '' end
        )
      end
    )
    order by array_position(array['page', 'ticket', 'notice'], alert.severity), alert.subject, alert.slo_group, alert.rule_name
  ), '[]')
  from ops.alerts as alert
  where alert.alert_id = any (alert_facts.alert_ids)
);
comment on function ops.alert_facts(bigint[], timestamptz) is 'What there is to say about some alerts, the most urgent first.';

create function ops.addressed_alerts(as_of timestamptz)
returns table (
  org_id uuid,
  channel_name text,
  repeat_interval interval,
  group_key text,
  alert_id bigint,
  state text,
  notify_resolved boolean,
  is_silenced boolean,
  is_inhibited boolean
)
language sql
stable
set search_path = ''
begin atomic
  select
    alert.org_id,
    channel.channel_name,
    channel.repeat_interval,
    case when alert.kind in ('silent_agents', 'silent_jobs') then alert.kind else coalesce(alert.service, alert.subject) end,
    alert.alert_id,
    alert.state,
    alert.notify_resolved,
    alert.state = 'firing' and ops.is_silenced(alert.org_id, alert.rule_name, alert.subject, alert.service, addressed_alerts.as_of, alert.slo_group),
    alert.state = 'firing' and alert.severity = 'ticket' and exists (
      select
      from ops.alerts as page
      where page.org_id = alert.org_id
        and page.subject = alert.subject
        and page.slo_group = alert.slo_group
        and page.state = 'firing'
        and page.severity = 'page'
    )
  from ops.alerts as alert
  join ops.alert_channels as channel
    on channel.is_enabled
    and (channel.only_org_id is null or channel.only_org_id = alert.org_id)
    and (
      alert.state <> 'firing'
      or (
        alert.severity = any (channel.severities)
        and (cardinality(alert.channels) = 0 or channel.channel_name = any (alert.channels))
      )
    )
  where alert.state = 'firing'
    -- Hashed: of 100,000 alerts that are over only those last said to fire are looked at.
    or (alert.org_id, channel.channel_name, alert.alert_id) in (
      select known.org_id, known.channel_name, last.alert_id
      from ops.alert_groups as known
      cross join lateral unnest(known.last_firing) as last (alert_id)
    );
end;
comment on function ops.addressed_alerts(timestamptz) is
  'One row per channel and alert that fires, or that was last said to fire and is over: silenced by a person, or inhibited by a page of the same subject.';

create type ops.alert_news as (
  org_id uuid,
  channel_name text,
  group_key text,
  repeat_interval interval,
  last_firing bigint[],
  last_resolved bigint[],
  last_notified_at timestamptz,
  logged_silenced bigint[],
  now_firing bigint[],
  now_resolved bigint[],
  now_silenced bigint[]
);
comment on type ops.alert_news is
  'A group of alerts for a channel: what was last said (last_firing is null when nothing was) and how it stands now.';

create function ops.group_news(as_of timestamptz)
returns setof ops.alert_news
language sql
stable
set search_path = ''
begin atomic
  select
    addressed.org_id,
    addressed.channel_name,
    addressed.group_key,
    addressed.repeat_interval,
    -- Alerts that are over, and need not be said to be so, are forgotten.
    case when known.org_id is not null then array(
      select last.alert_id
      from unnest(known.last_firing) as last (alert_id)
      where not last.alert_id = any (coalesce(array_agg(addressed.alert_id) filter (where addressed.state <> 'firing' and not addressed.notify_resolved), '{}'))
    ) end,
    known.last_resolved,
    known.last_notified_at,
    coalesce(known.logged_silenced, '{}'),
    coalesce(
      array_agg(addressed.alert_id order by addressed.alert_id)
        filter (where addressed.state = 'firing' and not addressed.is_silenced and not addressed.is_inhibited),
      '{}'
    ),
    coalesce(
      array_agg(addressed.alert_id order by addressed.alert_id) filter (where addressed.state <> 'firing' and addressed.notify_resolved),
      '{}'
    ),
    coalesce(array_agg(addressed.alert_id order by addressed.alert_id) filter (where addressed.is_silenced), '{}')
  from ops.addressed_alerts(group_news.as_of) as addressed
  left join ops.alert_groups as known
    on known.org_id = addressed.org_id
    and known.channel_name = addressed.channel_name
    and known.group_key = addressed.group_key
  group by addressed.org_id, addressed.channel_name, addressed.group_key, addressed.repeat_interval, known.org_id, known.channel_name, known.group_key;
end;
comment on function ops.group_news(timestamptz) is 'How each group of alerts stands for each channel, beside what was last said of it.';

create function ops.notify_group(news ops.alert_news, as_of timestamptz)
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

create function ops.queue_notifications(as_of timestamptz)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  news ops.alert_news;
  queued bigint := 0;
begin
  for news in select * from ops.group_news(as_of) loop
    if ops.notify_group(news, as_of) then
      queued := queued + 1;
    end if;
  end loop;
  return queued;
end;
$$;
comment on function ops.queue_notifications(timestamptz) is
  'Writes to the outbox what the channels should hear now, group by group, and logs what is silenced; returns how many messages. Only evaluate_alerts calls it.';

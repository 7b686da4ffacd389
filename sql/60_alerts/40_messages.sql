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
  constraint alert_groups_channel_name_fkey foreign key (channel_name) references ops.alert_channels (channel_name)
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
      'service', alert.service,
      'description', nullif(alert.description, ''),
      'since', alert.firing_since,
      'resolved_at', alert.resolved_at,
      'slo_version', alert.slo_version,
      'detail', alert.detail - 'explain_since',
      'explain', case
        when alert.kind in ('burn_rate', 'budget_exhausted') then format(
          'opskpi slo explain %s --since %s --until %s%s',
          alert.subject,
          to_char((alert.detail ->> 'explain_since')::timestamptz at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
          to_char(alert_facts.as_of at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
          case when alert.org_id <> '00000000-0000-0000-0000-000000000000' then format(' --org %s', alert.org_id) else '' end
        )
      end
    )
    order by array_position(array['page', 'ticket', 'notice'], alert.severity), alert.subject, alert.rule_name
  ), '[]')
  from ops.alerts as alert
  where alert.alert_id = any (alert_facts.alert_ids)
);
comment on function ops.alert_facts(bigint[], timestamptz) is 'What there is to say about some alerts, the most urgent first.';

create function ops.queue_notifications(as_of timestamptz)
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  alert_group record;
  queued bigint := 0;
begin
  for alert_group in
    with addressed as (
      select
        alert.*,
        channel.channel_name,
        channel.repeat_interval,
        case when alert.kind in ('silent_agents', 'silent_jobs') then alert.kind else coalesce(alert.service, alert.subject) end as group_key,
        alert.state = 'firing' and ops.is_silenced(alert.org_id, alert.rule_name, alert.subject, alert.service, as_of) as is_silenced,
        alert.state = 'firing' and alert.severity = 'ticket' and exists (
          select
          from ops.alerts as page
          where page.org_id = alert.org_id
            and page.subject = alert.subject
            and page.state = 'firing'
            and page.severity = 'page'
        ) as is_inhibited
      from ops.alerts as alert
      join ops.alert_channels as channel
        on channel.is_enabled
        and (channel.only_org_id is null or channel.only_org_id = alert.org_id)
        and (
          alert.state = 'resolved'
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
        )
    )
    select
      addressed.org_id,
      addressed.channel_name,
      addressed.group_key,
      addressed.repeat_interval,
      known.last_resolved,
      known.last_notified_at,
      coalesce(known.logged_silenced, '{}') as logged_silenced,
      -- What is over and need not be said so is forgotten.
      case when known.org_id is not null then array(
        select last.alert_id
        from unnest(known.last_firing) as last (alert_id)
        where not last.alert_id = any (coalesce(array_agg(addressed.alert_id) filter (where addressed.state = 'resolved' and not addressed.notify_resolved), '{}'))
      ) end as last_firing,
      coalesce(
        array_agg(addressed.alert_id order by addressed.alert_id)
          filter (where addressed.state = 'firing' and not addressed.is_silenced and not addressed.is_inhibited),
        '{}'
      ) as now_firing,
      coalesce(
        array_agg(addressed.alert_id order by addressed.alert_id) filter (where addressed.state = 'resolved' and addressed.notify_resolved),
        '{}'
      ) as now_resolved,
      coalesce(array_agg(addressed.alert_id order by addressed.alert_id) filter (where addressed.is_silenced), '{}') as now_silenced
    from addressed
    left join ops.alert_groups as known
      on known.org_id = addressed.org_id
      and known.channel_name = addressed.channel_name
      and known.group_key = addressed.group_key
    group by addressed.org_id, addressed.channel_name, addressed.group_key, addressed.repeat_interval, known.org_id, known.channel_name, known.group_key
  loop
    if not alert_group.now_silenced <@ alert_group.logged_silenced then
      perform ops.queue_delivery(
        alert_group.org_id, alert_group.channel_name, alert_group.group_key, 'silenced', alert_group.now_silenced, '{}', as_of
      );
    end if;
    insert into ops.alert_groups as known (org_id, channel_name, group_key, last_firing, logged_silenced)
    values (
      alert_group.org_id, alert_group.channel_name, alert_group.group_key, coalesce(alert_group.last_firing, '{}'), alert_group.now_silenced
    )
    on conflict on constraint alert_groups_pkey do update set
      last_firing = excluded.last_firing,
      logged_silenced = excluded.logged_silenced;
    if cardinality(alert_group.now_firing || alert_group.now_resolved) > 0 and ops.needs_notification(
      case when alert_group.last_notified_at is not null then alert_group.last_firing end,
      alert_group.last_resolved, as_of - alert_group.last_notified_at, alert_group.repeat_interval,
      alert_group.now_firing, alert_group.now_resolved
    ) then
      perform ops.queue_delivery(
        alert_group.org_id, alert_group.channel_name, alert_group.group_key, 'queued', alert_group.now_firing, alert_group.now_resolved, as_of
      );
      update ops.alert_groups as known
      set last_firing = alert_group.now_firing,
          last_resolved = alert_group.now_resolved,
          last_notified_at = as_of
      where known.org_id = alert_group.org_id
        and known.channel_name = alert_group.channel_name
        and known.group_key = alert_group.group_key;
      queued := queued + 1;
    end if;
  end loop;
  return queued;
end;
$$;
comment on function ops.queue_notifications(timestamptz) is
  'Writes to the outbox what the channels should hear now, group by group, and logs what is silenced; returns how many messages. Only evaluate_alerts calls it.';

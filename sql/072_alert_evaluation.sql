-- From conditions to messages: the state of each alert and the messages that follow from it are written together.

create table ops.alert_silences (
  alert_silence_id bigint generated always as identity,
  only_org_id uuid,
  matcher text not null,
  starts_at timestamptz not null default now(),
  until timestamptz not null,
  reason text not null,
  author text not null,
  created_at timestamptz not null default now(),
  constraint alert_silences_pkey primary key (alert_silence_id),
  constraint alert_silences_ends_after_it_begins check (starts_at < until and isfinite(until)),
  constraint alert_silences_has_a_reason check (char_length(btrim(reason)) between 1 and 1000),
  constraint alert_silences_has_an_author check (char_length(btrim(author)) between 1 and 200)
);
comment on table ops.alert_silences is 'One row a time in which matching alerts are logged and not sent.';
comment on column ops.alert_silences.alert_silence_id is 'Number of the silence.';
comment on column ops.alert_silences.only_org_id is 'Only alerts of this tenant; null: of all.';
comment on column ops.alert_silences.matcher is 'The name of a rule, an objective or other subject, or a service; * for everything.';
comment on column ops.alert_silences.starts_at is 'First instant.';
comment on column ops.alert_silences.until is 'First instant after it; what still fires then is sent.';
comment on column ops.alert_silences.reason is 'Why.';
comment on column ops.alert_silences.author is 'Who said so.';
comment on column ops.alert_silences.created_at is 'When it was added.';
alter table ops.alert_silences enable row level security;

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

create type ops.alert_report as (
  state text,
  found bigint,
  fired bigint,
  resolved bigint,
  frozen bigint,
  queued bigint
);
comment on type ops.alert_report is
  'done; busy: another evaluation runs; past: a later instant has been evaluated. found: conditions that hold; queued: messages written to the outbox.';

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

create function ops.is_silenced(org_id uuid, rule_name text, subject text, service text, as_of timestamptz)
returns boolean
language sql
stable
set search_path = ''
return exists (
  select
  from ops.alert_silences as silence
  where (silence.only_org_id is null or silence.only_org_id = is_silenced.org_id)
    and silence.starts_at <= is_silenced.as_of
    and silence.until > is_silenced.as_of
    and silence.matcher in ('*', is_silenced.rule_name, is_silenced.subject, is_silenced.service)
);
comment on function ops.is_silenced(uuid, text, text, text, timestamptz) is 'Whether a silence covers an alert at an instant.';

create function ops.silence_alerts(matcher text, until timestamptz, reason text, author text, only_org_id uuid default null, starts_at timestamptz default now())
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  silence_id bigint;
begin
  if (silence_alerts.starts_at < silence_alerts.until and isfinite(silence_alerts.until)) is not true then
    raise exception 'the silence is over before it begins: % to %', silence_alerts.starts_at, silence_alerts.until
      using errcode = 'OP001', hint = 'Pass an instant in the future.';
  end if;
  if coalesce(btrim(silence_alerts.reason), '') = '' or coalesce(btrim(silence_alerts.author), '') = '' then
    raise exception 'a silence needs a reason and an author'
      using errcode = 'OP001', hint = 'Say why, and who says so: others wonder why nobody told them.';
  end if;
  if silence_alerts.matcher <> '*' and not exists (
    select from ops.alert_rules as rule where silence_alerts.matcher in (rule.rule_name, rule.metric_name, rule.event_type)
    union all
    select from ops.slos as slo where silence_alerts.matcher in (slo.slo_name, slo.service)
    union all
    select from ops.alerts as alert where silence_alerts.matcher in (alert.rule_name, alert.subject, alert.service)
  ) then
    raise exception 'no rule, objective, service or alert is called %', silence_alerts.matcher
      using errcode = 'OP001', hint = 'opskpi alert list shows the alerts; * silences everything.';
  end if;
  insert into ops.alert_silences (matcher, starts_at, until, reason, author, only_org_id)
  values (
    silence_alerts.matcher, silence_alerts.starts_at, silence_alerts.until, silence_alerts.reason, silence_alerts.author, silence_alerts.only_org_id
  )
  returning alert_silences.alert_silence_id into silence_id;
  return silence_id;
end;
$$;
comment on function ops.silence_alerts(text, timestamptz, text, text, uuid, timestamptz) is
  'Keeps alerts of a rule, objective or other subject, or service from being sent for a time; returns the number of the silence.';

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

create function ops.evaluate_alerts(as_of timestamptz default now(), kinds text[] default null)
returns ops.alert_report
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  report ops.alert_report;
  started_at timestamptz := clock_timestamp();
  all_kinds constant text[] := array['burn_rate', 'budget_exhausted', 'kpi_threshold', 'silent_input', 'silent_agents', 'silent_jobs'];
  conditions ops.alert_condition[];
begin
  if as_of is null or not isfinite(as_of) then
    raise exception 'alerts are evaluated as of an instant, not of %', as_of
      using errcode = 'OP001', hint = 'Leave it out for now.';
  end if;
  if kinds <> array['silent_jobs'] or array_position(kinds, null) is not null then
    raise exception 'alerts are evaluated all, or silent_jobs alone, not %', kinds
      using errcode = 'OP001', hint = 'Leave kinds out, or pass {silent_jobs}.';
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0)) then
    report.state := 'busy';
    return report;
  end if;
  if exists (select from ops.alert_evaluations as evaluation where evaluation.evaluated_at > as_of and evaluation.evaluated_at <= clock_timestamp()) then
    report.state := 'past';
    return report;
  end if;

  if kinds is null then
    -- First, since an evaluation that runs has not stood still.
    insert into ops.alert_evaluations (evaluated_at) values (as_of)
    on conflict on constraint alert_evaluations_pkey do update set evaluated_at = excluded.evaluated_at;
  end if;
  conditions := array(
    select condition from ops.objective_conditions(as_of) as condition where kinds is null
    union all
    select condition from ops.other_conditions(as_of) as condition where kinds is null
    union all
    select condition from ops.job_conditions(as_of) as condition where kinds is null or 'silent_jobs' = any (kinds)
  );
  report := ops.move_alerts(conditions, as_of, coalesce(kinds, all_kinds));
  report.queued := ops.queue_notifications(as_of);
  report.state := 'done';
  if kinds is null then
    insert into ops.job_runs (job, started_at, outcome, message)
    values (
      'alerts', started_at, 'success',
      case when report.fired + report.resolved > 0 then format('%s fired, %s resolved', report.fired, report.resolved) end
    );
  end if;
  return report;
end;
$$;
comment on function ops.evaluate_alerts(timestamptz, text[]) is
  'Evaluates the rules as of an instant, moves the alerts and writes the messages that follow to the outbox, all in one transaction; kinds {silent_jobs} is the watchdog alone.';

create function ops.move_alerts(conditions ops.alert_condition[], as_of timestamptz, kinds text[])
returns ops.alert_report
language plpgsql
volatile
set search_path = ''
as $$
declare
  report ops.alert_report;
begin
  -- What no rule asks about any more is over, and so is what no longer holds.
  with moved as (
    update ops.alerts as alert
    set state = 'resolved',
        resolved_at = as_of,
        evaluated_at = as_of,
        is_frozen = false,
        detail = alert.detail || coalesce(
          finding.detail,
          case
            when not exists (select from ops.alert_rules as rule where rule.rule_name = open_alert.rule_name and rule.is_enabled)
              then jsonb '{"rule_is_gone": true}'
          end,
          '{}'
        )
    from ops.alerts as open_alert
    left join unnest(conditions) as finding
      on finding.org_id = open_alert.org_id
      and finding.rule_name = open_alert.rule_name
      and finding.subject = open_alert.subject
    where alert.org_id = open_alert.org_id
      and alert.alert_id = open_alert.alert_id
      and open_alert.state in ('pending', 'firing')
      and open_alert.kind = any (kinds)
      and (
        finding.holds is false
        or (
          finding.rule_name is null
          -- A KPI without a value has no finding either: that is silence, and alerts freeze.
          and not exists (
            select from ops.alert_rules as rule
            where rule.rule_name = open_alert.rule_name
              and rule.is_enabled
              and rule.kind = 'kpi_threshold'
              and rule.kind = open_alert.kind
              and rule.metric_name = open_alert.subject
          )
        )
      )
    returning alert.firing_since
  )
  select count(*) filter (where moved.firing_since is not null) into report.resolved from moved;
  -- What never fired is no alert.
  delete from ops.alerts as alert where alert.state = 'resolved' and alert.firing_since is null and alert.resolved_at = as_of;

  with frozen as (
    update ops.alerts as alert
    set is_frozen = true,
        evaluated_at = as_of
    from ops.alerts as open_alert
    left join unnest(conditions) as finding
      on finding.org_id = open_alert.org_id
      and finding.rule_name = open_alert.rule_name
      and finding.subject = open_alert.subject
    where alert.org_id = open_alert.org_id
      and alert.alert_id = open_alert.alert_id
      and open_alert.state in ('pending', 'firing')
      and open_alert.kind = any (kinds)
      and finding.holds is null
    returning 1
  )
  select count(*) into report.frozen from frozen;

  with held as (
    insert into ops.alerts as alert (
      org_id, rule_name, kind, severity, subject, service, slo_version, state, pending_since, firing_since, evaluated_at, channels,
      notify_resolved, description, detail
    )
    select
      finding.org_id, finding.rule_name, rule.kind, rule.severity, finding.subject, finding.service, finding.slo_version,
      case when rule.alert_after = interval '0' then 'firing' else 'pending' end,
      as_of, case when rule.alert_after = interval '0' then as_of end, as_of, rule.channels,
      rule.notify_resolved, rule.description, finding.detail
    from unnest(conditions) as finding
    join ops.alert_rules as rule
      on rule.rule_name = finding.rule_name
    where finding.holds
    on conflict (org_id, rule_name, subject) where state <> 'resolved' do update set
      kind = excluded.kind,
      detail = excluded.detail,
      slo_version = excluded.slo_version,
      severity = excluded.severity,
      channels = excluded.channels,
      notify_resolved = excluded.notify_resolved,
      description = excluded.description,
      evaluated_at = excluded.evaluated_at,
      is_frozen = false,
      state = case
        when alert.state = 'firing' or excluded.evaluated_at - alert.pending_since >= (
          select rule.alert_after from ops.alert_rules as rule where rule.rule_name = alert.rule_name
        ) then 'firing'
        else 'pending'
      end,
      firing_since = coalesce(
        alert.firing_since,
        case
          when excluded.evaluated_at - alert.pending_since >= (
            select rule.alert_after from ops.alert_rules as rule where rule.rule_name = alert.rule_name
          ) then excluded.evaluated_at
        end
      )
    returning alert.firing_since
  )
  select count(*), count(*) filter (where held.firing_since = as_of) into report.found, report.fired from held;
  return report;
end;
$$;
comment on function ops.move_alerts(ops.alert_condition[], timestamptz, text[]) is
  'Takes each alert of the given kinds from state to state: inactive (no row), pending, firing, resolved; only evaluate_alerts calls it.';

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

revoke execute on function
  ops.needs_notification(bigint[], bigint[], interval, interval, bigint[], bigint[]),
  ops.is_silenced(uuid, text, text, text, timestamptz),
  ops.silence_alerts(text, timestamptz, text, text, uuid, timestamptz),
  ops.alert_facts(bigint[], timestamptz),
  ops.evaluate_alerts(timestamptz, text[]),
  ops.move_alerts(ops.alert_condition[], timestamptz, text[]),
  ops.queue_notifications(timestamptz)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.alert_silences, ops.alert_groups from anon, authenticated, service_role;
  grant select on ops.alert_silences to authenticated, service_role;
  grant select on ops.alert_groups to service_role;
  create policy alert_silences_select_own_org on ops.alert_silences for select to authenticated
    using (only_org_id = (select ops.current_org_id()));
  revoke execute on function
    ops.needs_notification(bigint[], bigint[], interval, interval, bigint[], bigint[]),
    ops.is_silenced(uuid, text, text, text, timestamptz),
    ops.silence_alerts(text, timestamptz, text, text, uuid, timestamptz),
    ops.alert_facts(bigint[], timestamptz),
    ops.evaluate_alerts(timestamptz, text[]),
    ops.move_alerts(ops.alert_condition[], timestamptz, text[]),
    ops.queue_notifications(timestamptz)
  from anon, authenticated, service_role;
  grant execute on function
    ops.needs_notification(bigint[], bigint[], interval, interval, bigint[], bigint[])
  to authenticated, service_role;
end;
$$;

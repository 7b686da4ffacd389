-- Alert states: a state and the messages that follow from it are written in one transaction.

create table ops.alerts (
  org_id uuid not null,
  alert_id bigint generated always as identity,
  rule_name text not null,
  kind text not null,
  severity text not null,
  subject text not null,
  service text,
  slo_version integer,
  state text not null,
  pending_since timestamptz not null,
  firing_since timestamptz,
  resolved_at timestamptz,
  evaluated_at timestamptz not null,
  is_frozen boolean not null default false,
  channels text[] not null,
  notify_resolved boolean not null,
  description text not null,
  detail jsonb not null,
  constraint alerts_pkey primary key (org_id, alert_id),
  constraint alerts_state_check check (state in ('pending', 'firing', 'resolved')),
  constraint alerts_fires_after_it_was_pending check (firing_since >= pending_since),
  constraint alerts_resolved_has_its_instant check ((state = 'resolved') = (resolved_at is not null))
);
comment on table ops.alerts is 'One row an alert from when its condition first held; a rule that finds nothing has none.';
comment on column ops.alerts.org_id is 'The tenant; the nil org for what concerns the jobs.';
comment on column ops.alerts.alert_id is 'Number of the alert.';
comment on column ops.alerts.rule_name is 'The rule that found it.';
comment on column ops.alerts.kind is 'The kind of the rule.';
comment on column ops.alerts.severity is 'page, ticket or notice.';
comment on column ops.alerts.subject is 'The objective, KPI, event type, agent or job.';
comment on column ops.alerts.service is 'The service of the objective; else null.';
comment on column ops.alerts.slo_version is 'The version of the objective by which it was found; else null.';
comment on column ops.alerts.state is 'pending, firing or resolved.';
comment on column ops.alerts.pending_since is 'When the condition was first found to hold.';
comment on column ops.alerts.firing_since is 'When it fired; null: not yet.';
comment on column ops.alerts.resolved_at is 'When it was found to be over.';
comment on column ops.alerts.evaluated_at is 'The instant of the last evaluation.';
comment on column ops.alerts.is_frozen is 'The last evaluation could not tell: too few events, none, or the jobs stood still.';
comment on column ops.alerts.channels is 'Where to, as the rule said; empty: every channel that takes the severity.';
comment on column ops.alerts.notify_resolved is 'Whether to say that it is over.';
comment on column ops.alerts.description is 'What it means and what to do.';
comment on column ops.alerts.detail is 'The figures of the last evaluation that could tell.';
alter table ops.alerts enable row level security;

create unique index alerts_org_id_rule_name_subject_idx on ops.alerts (org_id, rule_name, subject) where state <> 'resolved';

create policy alerts_select_own_org on ops.alerts for select to authenticated
  using (org_id = (select ops.current_org_id()));

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

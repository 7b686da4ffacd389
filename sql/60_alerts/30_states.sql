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
  slo_group jsonb not null default '{}',
  constraint alerts_pkey primary key (org_id, alert_id),
  constraint alerts_state_check check (state in ('pending', 'firing', 'resolved', 'ended')),
  constraint alerts_fires_after_it_was_pending check (firing_since >= pending_since),
  constraint alerts_is_over_from_an_instant_on check ((state in ('resolved', 'ended')) = (resolved_at is not null))
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
comment on column ops.alerts.state is 'pending, firing, resolved (its condition was found not to hold) or ended (nothing asks any more).';
comment on column ops.alerts.pending_since is 'When the condition was first found to hold.';
comment on column ops.alerts.firing_since is 'When it fired; null: not yet.';
comment on column ops.alerts.resolved_at is 'When it was found to be over, resolved or ended.';
comment on column ops.alerts.evaluated_at is 'The instant of the last evaluation.';
comment on column ops.alerts.is_frozen is 'The last evaluation could not tell: too few events, none, or the jobs stood still.';
comment on column ops.alerts.channels is 'Where to, as the rule said; empty: every channel that takes the severity.';
comment on column ops.alerts.notify_resolved is 'Whether to say that it is over.';
comment on column ops.alerts.description is 'What it means and what to do.';
comment on column ops.alerts.detail is 'The figures of the last evaluation that could tell; of one that has ended, why, and who did that when.';
comment on column ops.alerts.slo_group is 'The group of the objective that it is about; else {}.';
alter table ops.alerts enable row level security;

create unique index alerts_org_id_rule_name_subject_slo_group_idx on ops.alerts (org_id, rule_name, subject, slo_group) where state in ('pending', 'firing');

create policy alerts_select_own_org on ops.alerts for select to authenticated
  using (org_id = (select ops.org_for('{read,admin}')));

create type ops.alert_report as (
  state text,
  found bigint,
  fired bigint,
  resolved bigint,
  frozen bigint,
  queued bigint
);
comment on type ops.alert_report is
  'done; busy: another evaluation runs; past: a later instant has been evaluated. found: conditions that hold; resolved: alerts that are over, the ended ones included; queued: messages written to the outbox.';

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
  report := ops.move_alerts(conditions, as_of, kinds);
  report.queued := ops.queue_notifications(as_of);
  report.state := 'done';
  if kinds is null then
    insert into ops.job_runs (job, started_at, outcome, message)
    values (
      'alerts', started_at, 'success',
      case when report.fired + report.resolved > 0 then format('%s fired, %s over', report.fired, report.resolved) end
    );
  end if;
  return report;
end;
$$;
comment on function ops.evaluate_alerts(timestamptz, text[]) is
  'Evaluates the rules as of an instant, moves the alerts and writes the messages that follow to the outbox, all in one transaction; kinds {silent_jobs} is the watchdog alone.';

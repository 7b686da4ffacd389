-- Moves of alerts from state to state: inactive (no row), pending, firing, resolved or ended.

create function ops.open_alerts(conditions ops.alert_condition[], kinds text[])
returns table (
  org_id uuid,
  alert_id bigint,
  rule_name text,
  kind text,
  subject text,
  is_found boolean,
  holds boolean,
  detail jsonb
)
language sql
stable
set search_path = ''
-- Statistics know nothing of alerts that have just begun, so that thousands of them were looped over every condition.
set enable_nestloop = off
begin atomic
  select
    alert.org_id,
    alert.alert_id,
    alert.rule_name,
    alert.kind,
    alert.subject,
    finding.rule_name is not null,
    finding.holds,
    finding.detail
  from ops.alerts as alert
  left join unnest(open_alerts.conditions) as finding
    on finding.org_id = alert.org_id
    and finding.rule_name = alert.rule_name
    and finding.subject = alert.subject
    and finding.slo_group = alert.slo_group
  where alert.state in ('pending', 'firing')
    and (open_alerts.kinds is null or alert.kind = any (open_alerts.kinds));
end;
comment on function ops.open_alerts(ops.alert_condition[], text[]) is
  'The alerts of some kinds (null: all) that are pending or firing, each with what its rule finds now; holds is null without a finding, too.';

create function ops.resolve_alerts(conditions ops.alert_condition[], as_of timestamptz, kinds text[])
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  resolved bigint;
begin
  -- A condition that no longer holds is resolved. An alert about which no rule asks any more ends: nobody knows whether it is over.
  with moved as (
    update ops.alerts as alert
    set state = case when open_alert.is_found then 'resolved' else 'ended' end,
        resolved_at = as_of,
        evaluated_at = as_of,
        is_frozen = false,
        detail = alert.detail || coalesce(
          open_alert.detail,
          case
            when not open_alert.is_found then ops.alert_ending(alert.rule_name, alert.subject, alert.slo_version is not null, alert.slo_group)
          end,
          '{}'
        )
    from ops.open_alerts(conditions, kinds) as open_alert
    where alert.org_id = open_alert.org_id
      and alert.alert_id = open_alert.alert_id
      and (
        open_alert.holds is false
        or (
          not open_alert.is_found
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
  select count(*) filter (where moved.firing_since is not null) into resolved from moved;
  -- A state that never fired is no alert.
  delete from ops.alerts as alert where alert.state in ('resolved', 'ended') and alert.firing_since is null and alert.resolved_at = as_of;
  return resolved;
end;
$$;
comment on function ops.resolve_alerts(ops.alert_condition[], timestamptz, text[]) is
  'Ends the open alerts whose condition no longer holds or whose rule asks no more; returns how many had fired.';

create function ops.freeze_alerts(conditions ops.alert_condition[], as_of timestamptz, kinds text[])
returns bigint
language sql
volatile
set search_path = ''
begin atomic
  with frozen as (
    update ops.alerts as alert
    set is_frozen = true,
        evaluated_at = freeze_alerts.as_of
    from ops.open_alerts(freeze_alerts.conditions, freeze_alerts.kinds) as open_alert
    where alert.org_id = open_alert.org_id
      and alert.alert_id = open_alert.alert_id
      and open_alert.holds is null
    returning 1
  )
  select count(*) from frozen;
end;
comment on function ops.freeze_alerts(ops.alert_condition[], timestamptz, text[]) is
  'Leaves the open alerts as they are whose rule cannot tell, and returns how many.';

create function ops.raise_alerts(conditions ops.alert_condition[], as_of timestamptz)
returns table (holding bigint, fired bigint)
language plpgsql
volatile
set search_path = ''
as $$
begin
  return query
  with held as (
    insert into ops.alerts as alert (
      org_id, rule_name, kind, severity, subject, service, slo_version, state, pending_since, firing_since, evaluated_at, channels,
      notify_resolved, description, detail, slo_group
    )
    select
      finding.org_id, finding.rule_name, rule.kind, rule.severity, finding.subject, finding.service, finding.slo_version,
      case when rule.alert_after = interval '0' then 'firing' else 'pending' end,
      as_of, case when rule.alert_after = interval '0' then as_of end, as_of, rule.channels,
      rule.notify_resolved, rule.description, finding.detail, finding.slo_group
    from unnest(conditions) as finding
    join ops.alert_rules as rule
      on rule.rule_name = finding.rule_name
    where finding.holds
    on conflict (org_id, rule_name, subject, slo_group) where state in ('pending', 'firing') do update set
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
  select count(*), count(*) filter (where held.firing_since = as_of) from held;
end;
$$;
comment on function ops.raise_alerts(ops.alert_condition[], timestamptz) is
  'Writes an alert for each condition that holds, pending until it has held for alert_after of its rule; holding: how many hold, fired: how many fire from this instant on.';

create function ops.move_alerts(conditions ops.alert_condition[], as_of timestamptz, kinds text[])
returns ops.alert_report
language plpgsql
volatile
set search_path = ''
as $$
declare
  report ops.alert_report;
begin
  report.resolved := ops.resolve_alerts(conditions, as_of, kinds);
  report.frozen := ops.freeze_alerts(conditions, as_of, kinds);
  select raised.holding, raised.fired into report.found, report.fired from ops.raise_alerts(conditions, as_of) as raised;
  return report;
end;
$$;
comment on function ops.move_alerts(ops.alert_condition[], timestamptz, text[]) is
  'Takes each alert of the given kinds (null: all) from state to state: inactive (no row), pending, firing, resolved or ended; only evaluate_alerts calls it.';

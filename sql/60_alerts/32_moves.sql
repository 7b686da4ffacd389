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
          -- Nor is a group over whose history is still to be filled.
          and not exists (
            select
            from ops.slo_versions as version
            join ops.slis as sli
              on sli.sli_id = version.sli_id
              and sli.filled_until < 'infinity'
            where alert.slo_group <> '{}'
              and version.slo_name = alert.subject
              and version.valid_from <= as_of
              and version.valid_until > as_of
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

create function ops.repeated_conditions(conditions ops.alert_condition[], as_of timestamptz)
returns table (org_id uuid, rule_name text, subject text, slo_group jsonb)
language plpgsql
stable
set search_path = ''
set enable_nestloop = off
as $$
begin
  if cardinality(conditions) = 0 then
    return;
  end if;
  return query
  with begun as materialized (
    select
      finding.org_id, finding.rule_name, finding.subject, finding.slo_group, finding.slo_version, (finding.detail ->> 'explain_since')::timestamptz as since
    from unnest(conditions) as finding
    where finding.starts
  ),
  mended as materialized (
    select distinct on (alert.org_id, alert.rule_name, alert.subject, alert.slo_group)
      alert.org_id,
      alert.rule_name,
      alert.subject,
      alert.slo_group,
      alert.slo_version,
      (alert.detail ->> 'explain_since')::timestamptz as since,
      (alert.detail ->> 'bad_long')::bigint as lost
    from ops.alerts as alert
    where alert.state = 'resolved'
      and alert.resolved_at > (select min(begun.since) from begun)
    order by alert.org_id, alert.rule_name, alert.subject, alert.slo_group, alert.resolved_at desc, alert.alert_id desc
  ),
  asked as materialized (
    select begun.org_id, begun.rule_name, begun.subject, begun.slo_group, begun.slo_version, mended.since, mended.lost
    from begun
    join mended
      on mended.org_id = begun.org_id
      and mended.rule_name = begun.rule_name
      and mended.subject = begun.subject
      and mended.slo_group = begun.slo_group
      and mended.slo_version = begun.slo_version
  ),
  sums as materialized (
    select summed.org_id, summed.slo_name, summed.slo_group, summed.since, summed.total - summed.good as lost
    from ops.sum_windows(array(
      select distinct
        row(
          asked.org_id, asked.subject, asked.slo_version, asked.since,
          date_bin('5 minutes', as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes',
          asked.slo_group
        )::ops.slo_span
      from asked
    )) as summed
  )
  select asked.org_id, asked.rule_name, asked.subject, asked.slo_group
  from asked
  join sums
    on sums.org_id = asked.org_id
    and sums.slo_name = asked.subject
    and sums.slo_group = asked.slo_group
    and sums.since = asked.since
  where sums.lost <= asked.lost;
end;
$$;
comment on function ops.repeated_conditions(ops.alert_condition[], timestamptz) is
  'Those of some conditions of burn rates that would begin an alert which was resolved, although nothing has failed since: what was good has left a window, and the failures that were answered are still in it.';

create function ops.raise_alerts(conditions ops.alert_condition[], as_of timestamptz)
returns table (holding bigint, fired bigint)
language plpgsql
volatile
set search_path = ''
set enable_nestloop = off
as $$
begin
  return query
  with found as materialized (
    select
      finding.org_id, finding.rule_name, finding.subject, finding.service, finding.slo_version, finding.detail, finding.slo_group,
      rule.kind, rule.severity, rule.channels, rule.notify_resolved, rule.description,
      finding as condition,
      open_alert.state is not null as is_open,
      coalesce(finding.starts, true) as starts,
      -- What is to fire must be enough to begin an alert to the end of its wait: it may not fire on an empty window.
      coalesce(open_alert.state = 'firing', false)
        or (coalesce(finding.starts, true) and as_of - coalesce(open_alert.pending_since, as_of) >= rule.alert_after) as fires
    from unnest(conditions) as finding
    join ops.alert_rules as rule
      on rule.rule_name = finding.rule_name
    left join ops.alerts as open_alert
      on open_alert.org_id = finding.org_id
      and open_alert.rule_name = finding.rule_name
      and open_alert.subject = finding.subject
      and open_alert.slo_group = finding.slo_group
      and open_alert.state in ('pending', 'firing')
    where finding.holds
  ),
  repeated as materialized (
    select again.*
    from ops.repeated_conditions(
      array(
        select found.condition from found where not found.is_open and (found.condition).starts
      ),
      as_of
    ) as again
  ),
  held as (
    insert into ops.alerts as alert (
      org_id, rule_name, kind, severity, subject, service, slo_version, state, pending_since, firing_since, evaluated_at, channels,
      notify_resolved, description, detail, slo_group
    )
    select
      found.org_id, found.rule_name, found.kind, found.severity, found.subject, found.service, found.slo_version,
      case when found.fires then 'firing' else 'pending' end,
      as_of, case when found.fires then as_of end, as_of, found.channels,
      found.notify_resolved, found.description, found.detail, found.slo_group
    from found
    where found.is_open
      or (found.starts and (found.org_id, found.rule_name, found.subject, found.slo_group) not in (
        select again.org_id, again.rule_name, again.subject, again.slo_group from repeated as again
      ))
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
      state = excluded.state,
      firing_since = coalesce(alert.firing_since, excluded.firing_since)
    returning alert.firing_since
  )
  select count(*), count(*) filter (where held.firing_since = as_of) from held;
end;
$$;
comment on function ops.raise_alerts(ops.alert_condition[], timestamptz) is
  'Begins an alert for each condition that starts one, and keeps those open whose condition holds; each is pending until it has held for alert_after of its rule, and fires where its condition would start it then. holding: how many are open, fired: how many fire from this instant on.';

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

-- Conditions, moves, messages and definitions of alerts, each step with a name of its own.

-- The kinds of channels are the job's to know: a new one needs no migration.
alter table ops.alert_channels
  -- squawk-ignore ban-drop-constraint
  drop constraint alert_channels_kind_check,
  -- A handful of rows.
  -- squawk-ignore constraint-missing-not-valid
  add constraint alert_channels_kind_is_a_plain_word check (kind ~ '^[a-z][a-z0-9_]{0,29}$');
comment on column ops.alert_channels.kind is 'How it is reached: a word that slo apply and the job that sends know; a delivery over another kind ends dead.';
comment on column ops.alert_channels.settings is 'What the kind needs besides: texts and lists of texts; of a further secret only the name of its environment variable.';

create type ops.judged_slo as (
  org_id uuid,
  slo_name text,
  service text,
  version integer,
  target numeric,
  good bigint,
  total bigint,
  events_needed bigint,
  window_start timestamptz,
  window_length interval,
  last_counted_at timestamptz,
  silent_after interval,
  is_seen boolean,
  is_judged boolean,
  detail jsonb
);
comment on type ops.judged_slo is
  'An objective of an org as of an instant, as the rules on it see it. is_seen: its history is filled and its counts are fresh; is_judged: and there are events enough for a verdict; silent_after: the length of silence that matters unless a rule names another; detail: its figures for a message.';

create function ops.judge_slos(as_of timestamptz, slo_names text[] default null)
returns setof ops.judged_slo
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    status.org_id,
    status.slo_name,
    status.service,
    status.version,
    status.target,
    status.good,
    status.total,
    status.events_needed,
    status.window_start,
    status.window_length,
    status.last_counted_at,
    2 * ops.in_hours(coalesce(version.expected_interval, ops.setting('expected_interval')::interval)),
    -- Half a history shows too much failure, or too long a silence.
    sli.filled_until = 'infinity' and status.status <> 'stale',
    sli.filled_until = 'infinity' and status.status not in ('no_data', 'stale', 'insufficient'),
    jsonb_strip_nulls(jsonb_build_object(
      'status', status.status,
      'sli', ops.readable(status.sli),
      'target', ops.readable(status.target),
      'good', status.good,
      'total', status.total,
      'budget_left', ops.readable(status.budget_left),
      'last_seen_at', status.last_counted_at
    ))
  from ops.evaluate_slos(as_of, false, slo_names) as status
  join ops.slo_versions as version
    on version.slo_name = status.slo_name
    and version.version = status.version
  join ops.slis as sli
    on sli.sli_id = version.sli_id;
end;
$$;
comment on function ops.judge_slos(timestamptz, text[]) is
  'Each objective of each org as of an instant, from the counts alone; slo_names null: all objectives.';

create function ops.rules_of_slos(kind text, judged ops.judged_slo[], as_of timestamptz)
returns table (
  slo_name text,
  rule_name text,
  factor numeric,
  budget_share numeric,
  long_window interval,
  short_window interval,
  long_since timestamptz,
  short_since timestamptz,
  silent_for interval
)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    slo.slo_name,
    rule.rule_name,
    rule.factor,
    rule.budget_share,
    rule.long_window,
    rule.short_window,
    date_bin('5 minutes', as_of - ops.in_hours(rule.long_window), timestamptz '1969-12-29 00:00+00'),
    date_bin('5 minutes', as_of - ops.in_hours(rule.short_window), timestamptz '1969-12-29 00:00+00'),
    rule.silent_for
  from ops.alert_rules as rule
  join (select distinct found.slo_name from unnest(judged) as found) as slo
    on slo.slo_name = rule.slo_name
    or (
      rule.slo_name is null
      and rule.event_type is null
      and not exists (
        select
        from ops.alert_rules as own
        where own.slo_name = slo.slo_name
          and own.kind = rule.kind
          and own.is_enabled
      )
    )
  where rule.is_enabled
    and rule.kind = rules_of_slos.kind;
end;
$$;
comment on function ops.rules_of_slos(text, ops.judged_slo[], timestamptz) is
  'The rules of a kind that apply to each objective: its own, or else the general ones; with the first instant of each window that ends at as_of.';

create function ops.burn_rate_conditions(judged ops.judged_slo[], as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with ruled as materialized (
    select
      slo.*,
      rule.rule_name,
      rule.long_window,
      rule.short_window,
      rule.long_since,
      rule.short_since,
      coalesce(rule.factor, ops.alert_factor(rule.budget_share, slo.window_length, rule.long_window)) as factor
    from unnest(judged) as slo
    join ops.rules_of_slos('burn_rate', judged, as_of) as rule
      on rule.slo_name = slo.slo_name
  ),
  -- By itself, so that the planner takes it for many rows and hashes it; joined to the versions it was taken for five, and looped over.
  sums as materialized (
    select summed.org_id, summed.slo_name, summed.version, summed.since, summed.good, summed.total
    from ops.sum_slos(array(
      select distinct
        row(
          ruled.org_id, ruled.slo_name, ruled.version, windows.since,
          date_bin('5 minutes', as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
        )::ops.slo_span
      from ruled
      cross join lateral (values (ruled.long_since), (ruled.short_since)) as windows (since)
      where windows.since is not null
    )) as summed
  )
  select
    ruled.org_id,
    ruled.rule_name,
    ruled.slo_name,
    ruled.service,
    ruled.version,
    -- An overspent budget is certain although events are too few to say how fast it burns.
    case when ruled.is_judged and ruled.events_needed = 0 then ops.is_burning(burning.long_rate, burning.short_rate, ruled.factor) end,
    ruled.detail || jsonb_strip_nulls(jsonb_build_object(
      'long_window', ruled.long_window::text,
      'short_window', ruled.short_window::text,
      'burn_rate_long', ops.readable(burning.long_rate),
      'burn_rate_short', ops.readable(burning.short_rate),
      'factor', ops.readable(ruled.factor),
      'explain_since', ruled.long_since
    ))
  from ruled
  left join sums as long_sum
    on long_sum.org_id = ruled.org_id
    and long_sum.slo_name = ruled.slo_name
    and long_sum.version = ruled.version
    and long_sum.since = ruled.long_since
  left join sums as short_sum
    on short_sum.org_id = ruled.org_id
    and short_sum.slo_name = ruled.slo_name
    and short_sum.version = ruled.version
    and short_sum.since = ruled.short_since
  cross join lateral (
    select
      ops.burn_rate(long_sum.good, long_sum.total, ruled.target) as long_rate,
      ops.burn_rate(short_sum.good, short_sum.total, ruled.target) as short_rate
    -- A barrier: each rate is compared and shown.
    offset 0
  ) as burning
  -- A rule for every objective leaves out those whose budget is too large for it.
  where ruled.factor < ops.highest_burn_rate(ruled.target);
end;
$$;
comment on function ops.burn_rate_conditions(ops.judged_slo[], timestamptz) is
  'What the rules of the kind burn_rate find: whether the budget burns faster than the factor in the long window and in the short one.';

create function ops.budget_exhausted_conditions(judged ops.judged_slo[], as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    slo.org_id,
    rule.rule_name,
    slo.slo_name,
    slo.service,
    slo.version,
    case when slo.is_judged then ops.is_overspent(slo.good, slo.total, slo.target) end,
    slo.detail || jsonb_build_object('explain_since', slo.window_start)
  from unnest(judged) as slo
  join ops.rules_of_slos('budget_exhausted', judged, as_of) as rule
    on rule.slo_name = slo.slo_name;
end;
$$;
comment on function ops.budget_exhausted_conditions(ops.judged_slo[], timestamptz) is
  'What the rules of the kind budget_exhausted find: whether more is bad than the budget allows.';

create function ops.silent_slo_conditions(judged ops.judged_slo[], as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    slo.org_id,
    rule.rule_name,
    slo.slo_name,
    slo.service,
    slo.version,
    -- An empty window is not silence yet: a new day has no events at first.
    case
      when slo.is_seen then coalesce(
        slo.last_counted_at < as_of - coalesce(ops.in_hours(rule.silent_for), slo.silent_after),
        false
      )
    end,
    slo.detail || jsonb_build_object('explain_since', slo.window_start)
  from unnest(judged) as slo
  join ops.rules_of_slos('silent_input', judged, as_of) as rule
    on rule.slo_name = slo.slo_name;
end;
$$;
comment on function ops.silent_slo_conditions(ops.judged_slo[], timestamptz) is
  'What the rules of the kind silent_input find about objectives: whether nothing has arrived for too long that one could be judged by.';

create or replace function ops.objective_conditions(as_of timestamptz, slo_names text[] default null)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  judged constant ops.judged_slo[] := array(select slo from ops.judge_slos(as_of, slo_names) as slo);
begin
  return query
  select * from ops.burn_rate_conditions(judged, as_of)
  union all
  select * from ops.budget_exhausted_conditions(judged, as_of)
  union all
  select * from ops.silent_slo_conditions(judged, as_of);
end;
$$;
comment on function ops.objective_conditions(timestamptz, text[]) is
  'What the rules on objectives find as of an instant, from the counts alone; one row an org, rule and objective.';

create function ops.counts_are_stale(as_of timestamptz)
returns boolean
language sql
stable
set search_path = ''
return coalesce(
  (
    select max(run.finished_at) < counts_are_stale.as_of - 2 * ops.refresh_interval()
    from ops.job_runs as run
    where run.job = 'refresh'
      and run.outcome in ('success', 'waiting')
  ),
  true
);
comment on function ops.counts_are_stale(timestamptz) is
  'Whether no refresh has finished for twice its interval before an instant, so that events may have happened that are not counted.';

create function ops.kpi_threshold_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
begin atomic
  with hours as (
    select
      rule.rule_name,
      rule.metric_name,
      rule.comparison,
      rule.threshold,
      rule.lasting,
      definition.unit,
      ops.period_start('hour', kpi_threshold_conditions.as_of, ops.time_zone()) - ops.in_hours(rule.lasting) as since,
      ops.period_start('hour', kpi_threshold_conditions.as_of, ops.time_zone()) as until
    from ops.alert_rules as rule
    join ops.kpi_definitions as definition
      on definition.metric_name = rule.metric_name
    where rule.is_enabled
      and rule.kind = 'kpi_threshold'
  )
  select
    kpi.org_id,
    hours.rule_name,
    hours.metric_name,
    null::text,
    null::integer,
    -- One hour within the limit ends it; an hour without a value says neither.
    case
      when (select ops.counts_are_stale(kpi_threshold_conditions.as_of)) then null
      when not bool_and(case hours.comparison
        when 'gt' then kpi.metric_value > hours.threshold
        when 'gte' then kpi.metric_value >= hours.threshold
        when 'lt' then kpi.metric_value < hours.threshold
        else kpi.metric_value <= hours.threshold
      end) then false
      when count(*) * interval '1 hour' = ops.in_hours(hours.lasting) then true
    end,
    jsonb_build_object(
      'value', ops.readable((array_agg(kpi.metric_value order by kpi.period_start desc))[1]),
      'threshold', ops.readable(hours.threshold),
      'comparison', hours.comparison,
      'unit', hours.unit,
      'lasting', hours.lasting::text
    )
  from hours
  join public.kpi_aggregations as kpi
    on kpi.metric_name = hours.metric_name
    and kpi.aggregation_period = 'hour'
    and kpi.labels = '{}'
    and kpi.period_start >= hours.since
    and kpi.period_start < hours.until
  group by kpi.org_id, hours.rule_name, hours.metric_name, hours.comparison, hours.threshold, hours.lasting, hours.unit;
end;
comment on function ops.kpi_threshold_conditions(timestamptz) is
  'What the rules of the kind kpi_threshold find: whether each of the last whole hours was beyond the limit; a KPI without a value in that time has no row.';

create function ops.event_types_seen(as_of timestamptz)
returns table (org_id uuid, event_type text, last_seen_at timestamptz)
language sql
stable
set search_path = ''
begin atomic
  select
    series.org_id,
    series.event_type,
    -- Where retention has removed the hours, the latest instant possible is the end of the month, or else the horizon of the hours.
    coalesce(
      max(newest.period_start) + interval '1 hour',
      least(
        ops.period_end('month', max(older.period_start), ops.time_zone()),
        (select removed.removed_until from ops.removed_periods as removed where removed.period = 'hour')
      )
    )
  from ops.series
  cross join lateral (
    select max(rollup.period_start) as period_start
    from ops.rollups as rollup
    where rollup.org_id = series.org_id
      and rollup.period = 'hour'
      and rollup.series_id = series.series_id
      and rollup.period_start <= event_types_seen.as_of
  ) as newest
  cross join lateral (
    select max(rollup.period_start) as period_start
    from ops.rollups as rollup
    where newest.period_start is null
      and rollup.org_id = series.org_id
      and rollup.period = 'month'
      and rollup.series_id = series.series_id
      and rollup.period_start <= event_types_seen.as_of
  ) as older
  where series.event_type in (select rule.event_type from ops.alert_rules as rule where rule.is_enabled)
  group by 1, 2;
end;
comment on function ops.event_types_seen(timestamptz) is
  'When each org last had events of the types that rules ask about: the end of the hour; null where nothing is known.';

create function ops.silent_type_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
begin atomic
  select
    seen.org_id,
    rule.rule_name,
    rule.event_type,
    null::text,
    null::integer,
    case
      when not (select ops.counts_are_stale(silent_type_conditions.as_of))
        then seen.last_seen_at < silent_type_conditions.as_of - ops.in_hours(rule.silent_for)
    end,
    jsonb_build_object('last_seen_at', seen.last_seen_at, 'silent_for', rule.silent_for::text)
  from ops.alert_rules as rule
  join ops.event_types_seen(silent_type_conditions.as_of) as seen
    on seen.event_type = rule.event_type
  where rule.is_enabled
    and rule.kind = 'silent_input';
end;
comment on function ops.silent_type_conditions(timestamptz) is
  'What the rules of the kind silent_input find about event types: whether none has arrived for too long.';

create function ops.silent_agent_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
begin atomic
  select
    agent.org_id,
    rule.rule_name,
    agent.agent_id::text,
    agent.team,
    null::integer,
    case
      when not (select ops.counts_are_stale(silent_agent_conditions.as_of))
        then agent.last_event_at < silent_agent_conditions.as_of - ops.in_hours(rule.silent_for)
    end,
    jsonb_build_object('last_seen_at', agent.last_event_at, 'silent_for', rule.silent_for::text)
  from ops.alert_rules as rule
  join ops.agents as agent
    -- An agent that has been silent for ten times as long has been retired.
    on agent.last_event_at >= silent_agent_conditions.as_of - 10 * ops.in_hours(rule.silent_for)
  where rule.is_enabled
    and rule.kind = 'silent_agents';
end;
comment on function ops.silent_agent_conditions(timestamptz) is
  'What the rules of the kind silent_agents find: which agents have sent nothing for too long.';

create or replace function ops.other_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
set jit = off
begin atomic
  select condition.* from ops.kpi_threshold_conditions(other_conditions.as_of) as condition
  union all
  select condition.* from ops.silent_type_conditions(other_conditions.as_of) as condition
  union all
  select condition.* from ops.silent_agent_conditions(other_conditions.as_of) as condition;
end;
comment on function ops.other_conditions(timestamptz) is
  'What the rules on KPIs, event types and agents find as of an instant; a KPI without a value in the time asked for has no row.';

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
  -- What no rule asks about any more is over, and so is what no longer holds.
  with moved as (
    update ops.alerts as alert
    set state = 'resolved',
        resolved_at = as_of,
        evaluated_at = as_of,
        is_frozen = false,
        detail = alert.detail || coalesce(
          open_alert.detail,
          case
            when not exists (select from ops.alert_rules as rule where rule.rule_name = open_alert.rule_name and rule.is_enabled)
              then jsonb '{"rule_is_gone": true}'
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
  -- What never fired is no alert.
  delete from ops.alerts as alert where alert.state = 'resolved' and alert.firing_since is null and alert.resolved_at = as_of;
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
  select count(*), count(*) filter (where held.firing_since = as_of) from held;
end;
$$;
comment on function ops.raise_alerts(ops.alert_condition[], timestamptz) is
  'Writes an alert for each condition that holds, pending until it has held for alert_after of its rule; holding: how many hold, fired: how many fire from this instant on.';

create or replace function ops.move_alerts(conditions ops.alert_condition[], as_of timestamptz, kinds text[])
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
  'Takes each alert of the given kinds (null: all) from state to state: inactive (no row), pending, firing, resolved; only evaluate_alerts calls it.';

create or replace function ops.evaluate_alerts(as_of timestamptz default now(), kinds text[] default null)
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
      case when report.fired + report.resolved > 0 then format('%s fired, %s resolved', report.fired, report.resolved) end
    );
  end if;
  return report;
end;
$$;
comment on function ops.evaluate_alerts(timestamptz, text[]) is
  'Evaluates the rules as of an instant, moves the alerts and writes the messages that follow to the outbox, all in one transaction; kinds {silent_jobs} is the watchdog alone.';

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
    alert.state = 'firing' and ops.is_silenced(alert.org_id, alert.rule_name, alert.subject, alert.service, addressed_alerts.as_of),
    alert.state = 'firing' and alert.severity = 'ticket' and exists (
      select
      from ops.alerts as page
      where page.org_id = alert.org_id
        and page.subject = alert.subject
        and page.state = 'firing'
        and page.severity = 'page'
    )
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
    -- What is over and need not be said so is forgotten.
    case when known.org_id is not null then array(
      select last.alert_id
      from unnest(known.last_firing) as last (alert_id)
      where not last.alert_id = any (coalesce(array_agg(addressed.alert_id) filter (where addressed.state = 'resolved' and not addressed.notify_resolved), '{}'))
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
      array_agg(addressed.alert_id order by addressed.alert_id) filter (where addressed.state = 'resolved' and addressed.notify_resolved),
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
begin
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
  'Writes to the outbox what a channel should hear now about a group, logs what is newly silenced, and notes both; returns whether a message was written.';

create or replace function ops.queue_notifications(as_of timestamptz)
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

create type ops.definition as (
  kind text,
  name text,
  wanted jsonb,
  stored jsonb
);
comment on type ops.definition is
  'What files define of a thing (wanted: only the columns that they decide; null: it is to be removed) beside the row that is stored (null: none).';

create function ops.service_definitions(definitions jsonb)
returns setof ops.definition
language sql
stable
set search_path = ''
begin atomic
  select 'service', wanted.service_name, to_jsonb(wanted), to_jsonb(known)
  from jsonb_populate_recordset(null::ops.services, service_definitions.definitions -> 'services') as wanted
  left join ops.services as known
    on known.service_name = wanted.service_name
  order by wanted.service_name;
end;
comment on function ops.service_definitions(jsonb) is 'The services that files define, beside those that are stored.';

create function ops.slo_definitions(definitions jsonb)
returns setof ops.definition
language sql
stable
set search_path = ''
begin atomic
  select
    'slo',
    wanted.slo_name,
    to_jsonb(wanted) - 'valid_from',
    -- The defaults stand in the files that an export writes.
    to_jsonb(known) || jsonb_build_object(
      'indicator_name', coalesce(known.indicator_name, known.slo_name),
      'time_zone', case when known.calendar_period is not null then coalesce(known.time_zone, ops.time_zone()) end
    )
  from jsonb_populate_recordset(null::ops.slos, slo_definitions.definitions -> 'slos') as wanted
  left join ops.slos as known
    on known.slo_name = wanted.slo_name
  order by wanted.slo_name;
end;
comment on function ops.slo_definitions(jsonb) is 'The objectives that files define, beside those that are stored.';

create function ops.channel_definitions(definitions jsonb)
returns setof ops.definition
language sql
stable
set search_path = ''
begin atomic
  select
    'channel',
    wanted.channel_name,
    to_jsonb(wanted) - array['max_attempts', 'only_org_id', 'is_enabled'],
    to_jsonb(known)
  from jsonb_populate_recordset(null::ops.alert_channels, channel_definitions.definitions -> 'channels') as wanted
  left join ops.alert_channels as known
    on known.channel_name = wanted.channel_name
  order by wanted.channel_name;
end;
comment on function ops.channel_definitions(jsonb) is 'The channels that files define, beside those that are stored.';

create function ops.rule_definitions(definitions jsonb)
returns setof ops.definition
language sql
stable
set search_path = ''
begin atomic
  with wanted as materialized (
    select rule.rule_name, to_jsonb(rule) - 'is_enabled' as definition
    from jsonb_populate_recordset(null::ops.alert_rules, rule_definitions.definitions -> 'rules') as rule
  )
  select 'rule', found.rule_name, found.definition, found.stored
  from (
    select wanted.rule_name, wanted.definition, to_jsonb(known) as stored
    from wanted
    left join ops.alert_rules as known
      on known.rule_name = wanted.rule_name
    union all
    -- A rule of an objective that the files define and no longer give it.
    select known.rule_name, null, to_jsonb(known)
    from ops.alert_rules as known
    where known.slo_name in (
        select slo.slo_name from jsonb_populate_recordset(null::ops.slos, rule_definitions.definitions -> 'slos') as slo
      )
      and known.rule_name not in (select wanted.rule_name from wanted)
  ) as found
  order by found.definition is null, found.rule_name;
end;
comment on function ops.rule_definitions(jsonb) is
  'The rules that files define, beside those that are stored; then the stored rules of these objectives that the files no longer have.';

create function ops.check_definitions(definitions jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  unknown text;
begin
  select format('the rule %s is about the KPI %s, which there is not', rule.rule_name, rule.metric_name)
  into unknown
  from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as rule
  where rule.metric_name is not null
    and rule.metric_name not in (select definition.metric_name from ops.kpi_definitions as definition)
  limit 1;
  if unknown is null then
    select format('%s is about events of type %s, which is neither described nor has ever arrived', asked.name, asked.event_type)
    into unknown
    from (
      select 'the objective ' || slo.slo_name as name, slo.event_type
      from jsonb_populate_recordset(null::ops.slos, definitions -> 'slos') as slo
      union all
      select 'the rule ' || rule.rule_name, rule.event_type
      from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as rule
      where rule.event_type is not null
    ) as asked
    where asked.event_type not in (select kind.event_type from ops.event_types as kind)
      and asked.event_type not in (select series.event_type from ops.series)
    limit 1;
  end if;
  if unknown is not null then
    raise exception '%', unknown
      using errcode = 'OP001', hint = 'Correct the name, or add it to ops.kpi_definitions or ops.event_types first.';
  end if;
end;
$$;
comment on function ops.check_definitions(jsonb) is 'Refuses rules about KPIs, and objectives and rules about types of events, that nobody has heard of.';

create function ops.definition_changes(defined ops.definition[])
returns setof ops.definition_change
language sql
immutable
set search_path = ''
begin atomic
  select
    definition.kind,
    definition.name,
    case
      when definition.wanted is null then 'removed'
      when definition.stored is null then 'created'
      when compared.differences is null then 'unchanged'
      else 'changed'
    end,
    compared.differences
  from unnest(definition_changes.defined) with ordinality as definition (kind, name, wanted, stored, place)
  cross join lateral (
    select case when definition.stored is not null then ops.compare_definition(definition.stored, definition.wanted) end as differences
    offset 0
  ) as compared
  order by definition.place;
end;
comment on function ops.definition_changes(ops.definition[]) is 'What becomes of each definition, in the order given.';

create function ops.write_definitions(relation regclass, name_column text, defined ops.definition[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  removed constant text[] := array(select definition.name from unnest(defined) as definition where definition.wanted is null);
  written constant jsonb := (
    select jsonb_agg(definition.wanted)
    from unnest(defined) as definition
    where definition.wanted is not null
      and (definition.stored is null or ops.compare_definition(definition.stored, definition.wanted) is not null)
  );
  decided constant text[] := array(select name from jsonb_object_keys(written -> 0) as name);
begin
  execute format('delete from %s where %I = any ($1)', relation, name_column) using removed;
  if written is not null then
    execute format(
      'insert into %1$s (%2$s) select %2$s from jsonb_populate_recordset(null::%1$s, $1) on conflict (%3$I) do update set %4$s',
      relation,
      (select string_agg(quote_ident(name), ', ') from unnest(decided) as name),
      name_column,
      (select string_agg(format('%1$I = excluded.%1$I', name), ', ') from unnest(decided) as name where name <> name_column)
    ) using written;
  end if;
end;
$$;
comment on function ops.write_definitions(regclass, text, ops.definition[]) is
  'Makes the rows of a table what definitions of one kind want: those to be removed go, those that differ are written in the columns that files decide.';

create or replace function ops.apply_definitions(definitions jsonb)
returns setof ops.definition_change
language plpgsql
volatile
set search_path = ''
as $$
declare
  services ops.definition[];
  slos ops.definition[];
  channels ops.definition[];
  rules ops.definition[];
begin
  perform ops.check_definitions(definitions);
  -- Compared as rows, not as the text that came, and all before the first is written.
  services := array(select service from ops.service_definitions(definitions) as service);
  slos := array(select slo from ops.slo_definitions(definitions) as slo);
  channels := array(select channel from ops.channel_definitions(definitions) as channel);
  rules := array(select rule from ops.rule_definitions(definitions) as rule);
  perform ops.write_definitions('ops.services', 'service_name', services);
  perform ops.write_definitions('ops.slos', 'slo_name', slos);
  perform ops.write_definitions('ops.alert_channels', 'channel_name', channels);
  perform ops.write_definitions('ops.alert_rules', 'rule_name', rules);
  -- Now, so that a rule that can never fire is refused here and not when the transaction ends.
  set constraints ops.slos_check_factor, ops.alert_rules_check_factor immediate;
  return query select * from ops.definition_changes(services || slos || channels || rules);
end;
$$;
comment on function ops.apply_definitions(jsonb) is
  'Makes services, objectives, channels and rules what the rows in {"services", "slos", "channels", "rules"} say, and removes rules of these objectives that are not among them. One row a definition: created, changed (with each field as [before, after]), unchanged or removed.';

revoke execute on function
  ops.judge_slos(timestamptz, text[]),
  ops.rules_of_slos(text, ops.judged_slo[], timestamptz),
  ops.burn_rate_conditions(ops.judged_slo[], timestamptz),
  ops.budget_exhausted_conditions(ops.judged_slo[], timestamptz),
  ops.silent_slo_conditions(ops.judged_slo[], timestamptz),
  ops.counts_are_stale(timestamptz),
  ops.kpi_threshold_conditions(timestamptz),
  ops.event_types_seen(timestamptz),
  ops.silent_type_conditions(timestamptz),
  ops.silent_agent_conditions(timestamptz),
  ops.open_alerts(ops.alert_condition[], text[]),
  ops.resolve_alerts(ops.alert_condition[], timestamptz, text[]),
  ops.freeze_alerts(ops.alert_condition[], timestamptz, text[]),
  ops.raise_alerts(ops.alert_condition[], timestamptz),
  ops.addressed_alerts(timestamptz),
  ops.group_news(timestamptz),
  ops.notify_group(ops.alert_news, timestamptz),
  ops.service_definitions(jsonb),
  ops.slo_definitions(jsonb),
  ops.channel_definitions(jsonb),
  ops.rule_definitions(jsonb),
  ops.check_definitions(jsonb),
  ops.definition_changes(ops.definition[]),
  ops.write_definitions(regclass, text, ops.definition[])
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.judge_slos(timestamptz, text[]),
    ops.rules_of_slos(text, ops.judged_slo[], timestamptz),
    ops.burn_rate_conditions(ops.judged_slo[], timestamptz),
    ops.budget_exhausted_conditions(ops.judged_slo[], timestamptz),
    ops.silent_slo_conditions(ops.judged_slo[], timestamptz),
    ops.counts_are_stale(timestamptz),
    ops.kpi_threshold_conditions(timestamptz),
    ops.event_types_seen(timestamptz),
    ops.silent_type_conditions(timestamptz),
    ops.silent_agent_conditions(timestamptz),
    ops.open_alerts(ops.alert_condition[], text[]),
    ops.resolve_alerts(ops.alert_condition[], timestamptz, text[]),
    ops.freeze_alerts(ops.alert_condition[], timestamptz, text[]),
    ops.raise_alerts(ops.alert_condition[], timestamptz),
    ops.addressed_alerts(timestamptz),
    ops.group_news(timestamptz),
    ops.notify_group(ops.alert_news, timestamptz),
    ops.service_definitions(jsonb),
    ops.slo_definitions(jsonb),
    ops.channel_definitions(jsonb),
    ops.rule_definitions(jsonb),
    ops.check_definitions(jsonb),
    ops.definition_changes(ops.definition[]),
    ops.write_definitions(regclass, text, ops.definition[])
  from anon, authenticated, service_role;
end;
$$;

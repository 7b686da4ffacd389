-- Git hooks for analysts.

create view public.v_ops_hook_effectiveness
with (security_invoker = true)
as
select
  kpi.aggregation_period,
  kpi.period_start,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_executions_total')::bigint as executions,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_block_rate') as block_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as override_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_avg_duration_ms') as avg_duration_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_p95_duration_ms') as p95_duration_ms,
  kpi.org_id
from ops.kpis as kpi
where kpi.aggregation_period in ('day', 'week', 'month')
  and kpi.labels = '{}'
  and kpi.metric_name in ('hook_executions_total', 'hook_block_rate', 'hook_override_rate', 'hook_avg_duration_ms', 'hook_p95_duration_ms')
group by kpi.org_id, kpi.aggregation_period, kpi.period_start
order by kpi.period_start desc, kpi.aggregation_period;
comment on view public.v_ops_hook_effectiveness is
  'One row an org and day, week or month: what the git hooks did, newest first, events behind the cursor included.';
comment on column public.v_ops_hook_effectiveness.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column public.v_ops_hook_effectiveness.period_start is 'First instant of the period.';
comment on column public.v_ops_hook_effectiveness.executions is 'Hook executions, interrupted and failed ones included (count).';
comment on column public.v_ops_hook_effectiveness.block_rate is 'Executions that blocked, of those that decided (percent).';
comment on column public.v_ops_hook_effectiveness.override_rate is 'Executions that were overridden, of those that decided (percent).';
comment on column public.v_ops_hook_effectiveness.avg_duration_ms is 'Average duration (ms).';
comment on column public.v_ops_hook_effectiveness.p95_duration_ms is '95th percentile of the duration (ms, within 1 %).';
comment on column public.v_ops_hook_effectiveness.org_id is 'The tenant.';

create view public.v_ops_hook_teams
with (security_invoker = true)
as
select
  kpi.labels ->> 'team' as team,
  kpi.aggregation_period,
  kpi.period_start,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_executions_total')::bigint as executions,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_block_rate') as block_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as override_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_avg_duration_ms') as avg_duration_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_p95_duration_ms') as p95_duration_ms,
  100 - max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as compliance_rate,
  kpi.org_id,
  -- Overridden less than in the period before is a gain in compliance, so the signs turn.
  lag(max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate')) over (
    partition by kpi.org_id, kpi.labels ->> 'team', kpi.aggregation_period
    order by kpi.period_start
  ) - max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as compliance_change
from ops.kpis as kpi
where kpi.aggregation_period in ('day', 'week', 'month')
  -- Not by "?", which the planner takes for one row in a hundred.
  and kpi.labels ->> 'team' is not null
  and kpi.metric_name in ('hook_executions_total', 'hook_block_rate', 'hook_override_rate', 'hook_avg_duration_ms', 'hook_p95_duration_ms')
group by kpi.org_id, kpi.labels ->> 'team', kpi.aggregation_period, kpi.period_start
order by kpi.period_start desc, kpi.aggregation_period, team;
comment on view public.v_ops_hook_teams is
  'One row an org, team and day, week or month: how the team lives with the git hooks, newest first, events behind the cursor included.';
comment on column public.v_ops_hook_teams.team is 'The team of the agents, from ops.agents.';
comment on column public.v_ops_hook_teams.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column public.v_ops_hook_teams.period_start is 'First instant of the period.';
comment on column public.v_ops_hook_teams.executions is 'Hook executions, interrupted and failed ones included (count).';
comment on column public.v_ops_hook_teams.block_rate is 'Executions that blocked, of those that decided (percent).';
comment on column public.v_ops_hook_teams.override_rate is 'Executions that were overridden, of those that decided (percent).';
comment on column public.v_ops_hook_teams.avg_duration_ms is 'Average duration (ms).';
comment on column public.v_ops_hook_teams.p95_duration_ms is '95th percentile of the duration (ms, within 1 %).';
comment on column public.v_ops_hook_teams.compliance_rate is 'Executions that were not overridden, of those that decided (percent).';
comment on column public.v_ops_hook_teams.org_id is 'The tenant.';
comment on column public.v_ops_hook_teams.compliance_change is
  'compliance_rate less that of the team''s period before, of the same length (percentage points); null in its first.';

create view public.v_ops_hook_policies
with (security_invoker = true)
as
with versioned as (
  select
    part.org_id,
    case when part.labels ->> 'policy_version' ~ '^[0-9]{1,18}$' then (part.labels ->> 'policy_version')::bigint end as policy_version,
    part.event_type,
    part.labels ->> 'result' as result,
    part.day_start,
    part.event_count
  from ops.hook_days as part
),
counted as (
  select
    versioned.org_id,
    versioned.policy_version,
    min(versioned.day_start) as first_day_start,
    max(versioned.day_start) as last_day_start,
    coalesce(sum(versioned.event_count) filter (where versioned.event_type = 'hook_execution'), 0)::bigint as executions,
    coalesce(sum(versioned.event_count) filter (where versioned.result = 'blocked'), 0)::bigint as blocked_count,
    coalesce(sum(versioned.event_count) filter (where versioned.result = 'overridden'), 0)::bigint as overridden_count,
    coalesce(sum(versioned.event_count) filter (where versioned.event_type = 'hook_baseline'), 0)::bigint as baseline_count,
    sum(versioned.event_count) filter (where versioned.result in ('allowed', 'blocked', 'overridden')) as decisions
  from versioned
  group by 1, 2
)
select
  counted.policy_version,
  policy.created_at as set_at,
  counted.first_day_start,
  counted.last_day_start,
  counted.executions,
  counted.blocked_count,
  counted.overridden_count,
  counted.baseline_count,
  round(100.0 * counted.blocked_count / nullif(counted.decisions, 0), 6) as block_rate,
  round(100.0 * counted.overridden_count / nullif(counted.decisions, 0), 6) as override_rate,
  round(100.0 * counted.baseline_count / nullif(counted.executions, 0), 6) as baseline_rate,
  counted.org_id
from counted
left join ops.policies as policy
  on policy.org_id = counted.org_id
  and policy.version = counted.policy_version
order by counted.org_id, counted.policy_version desc nulls last;
comment on view public.v_ops_hook_policies is
  'One row an org and version of its hook policy: what the hooks did under it, newest version first, events behind the cursor included.';
comment on column public.v_ops_hook_policies.policy_version is 'The version that the events name; 0: the default; null: they name none.';
comment on column public.v_ops_hook_policies.set_at is 'When that version was set; null for the default and for events that name none.';
comment on column public.v_ops_hook_policies.first_day_start is 'First instant of the first day with events under it.';
comment on column public.v_ops_hook_policies.last_day_start is 'First instant of the newest day with events under it.';
comment on column public.v_ops_hook_policies.executions is 'Hook executions, interrupted and failed ones included (count).';
comment on column public.v_ops_hook_policies.blocked_count is 'Executions that blocked (count).';
comment on column public.v_ops_hook_policies.overridden_count is 'Executions that were overridden (count).';
comment on column public.v_ops_hook_policies.baseline_count is 'Findings accepted into the baseline (count).';
comment on column public.v_ops_hook_policies.block_rate is 'Executions that blocked, of those that decided (percent).';
comment on column public.v_ops_hook_policies.override_rate is 'Executions that were overridden, of those that decided (percent).';
comment on column public.v_ops_hook_policies.baseline_rate is 'Findings accepted into the baseline per 100 executions.';
comment on column public.v_ops_hook_policies.org_id is 'The tenant.';

create view public.v_ops_blocked_patterns
with (security_invoker = true)
as
select
  part.period as aggregation_period,
  part.period_start,
  part.hook_type,
  part.pattern,
  sum(part.blocked_count)::bigint as blocked_count,
  part.org_id
from ops.blocked_pattern_parts as part
group by part.org_id, part.period, part.period_start, part.hook_type, part.pattern
order by part.period_start desc, blocked_count desc, part.pattern;
comment on view public.v_ops_blocked_patterns is
  'One row an org, period, hook type and pattern: what blocked most, newest period and most frequent first, events behind the cursor included.';
comment on column public.v_ops_blocked_patterns.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column public.v_ops_blocked_patterns.period_start is 'First instant of the period.';
comment on column public.v_ops_blocked_patterns.hook_type is 'The hook; empty when the event names none.';
comment on column public.v_ops_blocked_patterns.pattern is 'What was found.';
comment on column public.v_ops_blocked_patterns.blocked_count is 'Executions that it blocked (count).';
comment on column public.v_ops_blocked_patterns.org_id is 'The tenant.';

-- Hooks that were interrupted or could not start have decided nothing: two more results, and rates over the decisions alone.

create or replace function public.hook_metrics(
  org_id uuid,
  start_date date,
  end_date date default null,
  team text default null,
  hook_type text default null
)
returns jsonb
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  wanted_org_id uuid := ops.caller_org(org_id);
  zone text := ops.time_zone();
  last_date date := coalesce(end_date, greatest((now() at time zone zone)::date, start_date));
  since timestamptz;
  until timestamptz;
begin
  if row_security_active('ops.policies') and not ops.caller_has_scope('read') then
    raise exception 'reading metrics needs the scope read'
      using errcode = 'PT403', hint = 'Use a key or token whose app_metadata.scopes lists read.';
  end if;
  if start_date is null or start_date > last_date then
    raise exception 'the range of days is empty: % to %', start_date, last_date
      using errcode = 'OP001', hint = 'Pass start_date on or before end_date; both days are included.';
  end if;
  if start_date < date '1970-01-01' or last_date > date '2200-01-01' then
    raise exception 'the range of days is out of bounds: % to %', start_date, last_date
      using errcode = 'OP001', hint = 'Pass days between 1970 and 2200.';
  end if;
  since := start_date::timestamp at time zone zone;
  until := (last_date + 1)::timestamp at time zone zone;
  return (
    with executed as (
      select
        coalesce(sum(part.event_count), 0) as total,
        coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'blocked'), 0) as blocked,
        coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'allowed'), 0) as allowed,
        coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'overridden'), 0) as overridden,
        sum(part.event_count) filter (where part.labels ->> 'result' in ('allowed', 'blocked', 'overridden')) as decisions,
        sum(part.value_sum) / nullif(sum(part.value_count), 0) as avg_duration_ms
      from ops.hook_days as part
      where part.org_id = wanted_org_id
        and part.event_type = 'hook_execution'
        and part.day_start >= since
        and part.day_start < until
        and (hook_metrics.team is null or part.labels ->> 'team' = hook_metrics.team)
        and (hook_metrics.hook_type is null or part.labels ->> 'hook_type' = hook_metrics.hook_type)
    ),
    patterns as (
      select part.pattern, sum(part.blocked_count) as blocked
      from ops.blocked_pattern_parts as part
      where part.org_id = wanted_org_id
        and part.period = 'day'
        and part.period_start >= since
        and part.period_start < until
        and (hook_metrics.team is null or part.team = hook_metrics.team)
        and (hook_metrics.hook_type is null or part.hook_type = hook_metrics.hook_type)
      group by 1
      order by 2 desc, 1
      limit 10
    )
    select jsonb_build_object(
      'total_executions', executed.total,
      'blocked_count', executed.blocked,
      'allowed_count', executed.allowed,
      'overridden_count', executed.overridden,
      'override_rate', trim_scale(round(100 * executed.overridden / nullif(executed.decisions, 0), 6)),
      'avg_duration_ms', trim_scale(round(executed.avg_duration_ms, 6)),
      'most_blocked_patterns', coalesce(
        (select jsonb_agg(jsonb_build_object('pattern', patterns.pattern, 'count', patterns.blocked) order by patterns.blocked desc, patterns.pattern) from patterns),
        '[]'
      )
    )
    from executed
  );
end;
$$;
comment on function public.hook_metrics(uuid, date, date, text, text) is
  'What the git hooks of an org did from start_date to end_date (null: today), both days included, of one team or hook type if named, events behind the cursor included. total_executions includes those that were interrupted or failed; override_rate (percent, of those that decided) and avg_duration_ms are null without any; the ten most blocked patterns.';
comment on column public.v_ops_kpi_daily.hook_block_rate is 'Hook executions that blocked, of those that decided (percent).';
comment on column public.v_ops_kpi_daily.hook_override_rate is 'Hook executions that were overridden, of those that decided (percent).';
comment on column public.v_ops_hook_effectiveness.executions is 'Hook executions, interrupted and failed ones included (count).';
comment on column public.v_ops_hook_effectiveness.block_rate is 'Executions that blocked, of those that decided (percent).';
comment on column public.v_ops_hook_effectiveness.override_rate is 'Executions that were overridden, of those that decided (percent).';
comment on column public.v_ops_hook_teams.executions is 'Hook executions, interrupted and failed ones included (count).';
comment on column public.v_ops_hook_teams.block_rate is 'Executions that blocked, of those that decided (percent).';
comment on column public.v_ops_hook_teams.override_rate is 'Executions that were overridden, of those that decided (percent).';
comment on column public.v_ops_hook_teams.compliance_rate is 'Executions that were not overridden, of those that decided (percent).';

create or replace view public.v_ops_hook_policies
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
comment on column public.v_ops_hook_policies.executions is 'Hook executions, interrupted and failed ones included (count).';
comment on column public.v_ops_hook_policies.block_rate is 'Executions that blocked, of those that decided (percent).';
comment on column public.v_ops_hook_policies.override_rate is 'Executions that were overridden, of those that decided (percent).';

create or replace function ops.team_compliance(
  period text,
  since timestamptz,
  until timestamptz,
  as_of timestamptz,
  filters jsonb default '{}',
  org_id uuid default null
)
returns table (team text, part text, period_start timestamptz, executions bigint, overridden bigint, blocked bigint, compliance_rate numeric)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(team_compliance.org_id);
  spans record;
begin
  select * into strict spans
  from ops.period_window(team_compliance.period, team_compliance.since, team_compliance.until, team_compliance.as_of);
  return query
  select
    part.labels ->> 'team',
    place.part,
    case place.part when 'period' then part.period_start end,
    sum(part.event_count)::bigint,
    coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'overridden'), 0)::bigint,
    coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'blocked'), 0)::bigint,
    round(
      100 - 100 * coalesce(sum(part.event_count) filter (where part.labels ->> 'result' = 'overridden'), 0)
      / nullif(sum(part.event_count) filter (where part.labels ->> 'result' in ('allowed', 'blocked', 'overridden')), 0),
      6
    )
  from ops.rollup_parts as part
  cross join lateral (
    values
      ('period', part.period_start >= spans.window_start),
      ('whole', part.period_start >= spans.window_start),
      ('settled', part.period_start >= spans.window_start and part.period_start < spans.settled_end),
      ('previous', part.period_start < spans.window_start)
  ) as place (part, is_in)
  where part.org_id = owner_id
    and part.period = team_compliance.period
    and part.period_start >= spans.previous_start
    and part.period_start < spans.window_end
    and part.event_type = 'hook_execution'
    and part.labels ? 'team'
    and part.labels @> team_compliance.filters
    and place.is_in
  group by 1, 2, 3
  order by 1, 2, 3;
end;
$$;
comment on function ops.team_compliance(text, timestamptz, timestamptz, timestamptz, jsonb, uuid) is
  'Hook executions of each team and the share of those that decided which was not overridden (percent), by period, over the window (whole), its periods that are over (settled) and as many before it (previous).';

update ops.event_types
set
  fields = '{"org_id": {"type": "uuid", "required": true}, "result": {"type": "text", "one_of": ["blocked", "allowed", "overridden", "interrupted", "failed"], "required": true}, "agent_id": {"type": "uuid", "required": true}, "hook_type": {"type": "text", "required": true}, "duration_ms": {"type": "number", "required": true}, "user_actions": {"type": "array"}, "policy_version": {"type": "number"}, "override_reason": {"type": "text"}, "findings_summary": {"type": "object", "required": true}}'
where event_type = 'hook_execution'
  and fields is not distinct from '{"org_id": {"type": "uuid", "required": true}, "result": {"type": "text", "one_of": ["blocked", "allowed", "overridden"], "required": true}, "agent_id": {"type": "uuid", "required": true}, "hook_type": {"type": "text", "required": true}, "duration_ms": {"type": "number", "required": true}, "user_actions": {"type": "array"}, "policy_version": {"type": "number"}, "override_reason": {"type": "text"}, "findings_summary": {"type": "object", "required": true}}';

update ops.kpi_definitions
set
  description = 'Hook executions that blocked, of those that decided (allowed, blocked, overridden).',
  denominator = '{"result": ["allowed", "blocked", "overridden"]}'
where metric_name = 'hook_block_rate'
  and description is not distinct from 'Hook executions that blocked, of all.'
  and denominator is not distinct from '{}';

update ops.kpi_definitions
set
  description = 'Hook executions that were overridden, of those that decided (allowed, blocked, overridden).',
  denominator = '{"result": ["allowed", "blocked", "overridden"]}'
where metric_name = 'hook_override_rate'
  and description is not distinct from 'Hook executions that were overridden, of all.'
  and denominator is not distinct from '{}';

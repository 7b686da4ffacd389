-- Conditions: one row per rule and subject as of an instant, whether it holds or not.

create table ops.alert_evaluations (
  is_only boolean not null default true,
  evaluated_at timestamptz not null,
  constraint alert_evaluations_pkey primary key (is_only),
  constraint alert_evaluations_is_one_row check (is_only)
);
comment on table ops.alert_evaluations is 'One row: up to when the rules have been evaluated.';
comment on column ops.alert_evaluations.is_only is 'Always true.';
comment on column ops.alert_evaluations.evaluated_at is 'The instant of the last evaluation; an earlier one is refused, so that alerts go forwards only.';
alter table ops.alert_evaluations enable row level security;
create policy alert_evaluations_select_authenticated on ops.alert_evaluations for select to authenticated using (true);

create type ops.alert_condition as (
  org_id uuid,
  rule_name text,
  subject text,
  service text,
  slo_version integer,
  holds boolean,
  detail jsonb
);
comment on type ops.alert_condition is 'What a rule finds about a subject; holds is null where it cannot tell, and an alert then stays as it is.';

create function ops.readable(value numeric)
returns text
language sql
immutable
set search_path = ''
return trim_scale(round(value, 6))::text;
comment on function ops.readable(numeric) is 'A figure for a message: six decimals at most.';

create function ops.objective_conditions(as_of timestamptz, slo_names text[] default null)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
begin
  return query
  with evaluated as materialized (
    select status.* from ops.evaluate_slos(as_of, false, slo_names) as status
  ),
  ruled as materialized (
    select
      rule.rule_name,
      rule.kind,
      rule.long_window,
      rule.short_window,
      rule.silent_for,
      evaluated.*,
      coalesce(rule.factor, ops.alert_factor(rule.budget_share, evaluated.window_length, rule.long_window)) as burn_factor,
      date_bin('5 minutes', as_of - ops.in_hours(rule.long_window), timestamptz '1969-12-29 00:00+00') as long_since,
      date_bin('5 minutes', as_of - ops.in_hours(rule.short_window), timestamptz '1969-12-29 00:00+00') as short_since
    from ops.alert_rules as rule
    join evaluated
      on rule.slo_name = evaluated.slo_name
      or (
        rule.slo_name is null
        and rule.event_type is null
        and not exists (
          select
          from ops.alert_rules as own
          where own.slo_name = evaluated.slo_name
            and own.kind = rule.kind
            and own.is_enabled
        )
      )
    where rule.is_enabled
      and rule.kind in ('burn_rate', 'budget_exhausted', 'silent_input')
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
    case
      -- Half a history is too much failure or too long a silence.
      when sli.filled_until < 'infinity' then null
      when ruled.kind = 'silent_input' then
        case
          when ruled.status = 'stale' then null
          -- An empty window is not silence yet: a new day has no events at first.
          else coalesce(
            ruled.last_counted_at < as_of - coalesce(
              ops.in_hours(ruled.silent_for),
              2 * ops.in_hours(coalesce(expecting.expected_interval, ops.setting('expected_interval')::interval))
            ),
            false
          )
        end
      when ruled.status in ('no_data', 'stale', 'insufficient') then null
      -- Overspent for certain, but by too few events to say how fast.
      when ruled.kind = 'burn_rate' and ruled.events_needed > 0 then null
      when ruled.kind = 'burn_rate' then ops.is_burning(burning.long_rate, burning.short_rate, ruled.burn_factor)
      else ops.is_overspent(ruled.good, ruled.total, ruled.target)
    end,
    jsonb_strip_nulls(jsonb_build_object(
      'status', ruled.status,
      'sli', ops.readable(ruled.sli),
      'target', ops.readable(ruled.target),
      'good', ruled.good,
      'total', ruled.total,
      'budget_left', ops.readable(ruled.budget_left),
      'long_window', ruled.long_window::text,
      'short_window', ruled.short_window::text,
      'burn_rate_long', ops.readable(burning.long_rate),
      'burn_rate_short', ops.readable(burning.short_rate),
      'factor', case ruled.kind when 'burn_rate' then ops.readable(ruled.burn_factor) end,
      'last_seen_at', ruled.last_counted_at,
      'explain_since', case ruled.kind when 'burn_rate' then ruled.long_since else ruled.window_start end
    ))
  from ruled
  join ops.slo_versions as expecting
    on expecting.slo_name = ruled.slo_name
    and expecting.version = ruled.version
  join ops.slis as sli
    on sli.sli_id = expecting.sli_id
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
  where ruled.kind <> 'burn_rate'
    -- A rule for every objective leaves out those whose budget is too large for it.
    or ruled.burn_factor < ops.highest_burn_rate(ruled.target);
end;
$$;
comment on function ops.objective_conditions(timestamptz, text[]) is
  'What the rules on objectives find as of an instant, from the counts alone; one row an org, rule and objective.';

create function ops.other_conditions(as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
set jit = off
as $$
declare
  -- What has not been counted may have happened all the same.
  is_stale constant boolean := coalesce(
    (
      select max(run.finished_at) < as_of - 2 * ops.refresh_interval()
      from ops.job_runs as run
      where run.job = 'refresh'
        and run.outcome in ('success', 'waiting')
    ),
    true
  );
begin
  return query
  with hours as (
    select
      rule.rule_name,
      rule.metric_name,
      rule.comparison,
      rule.threshold,
      rule.lasting,
      definition.unit,
      ops.period_start('hour', as_of, ops.time_zone()) - ops.in_hours(rule.lasting) as since,
      ops.period_start('hour', as_of, ops.time_zone()) as until
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
      when is_stale then null
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

  return query
  with seen as (
    -- Where retention has removed the hours, the month they lay in or else their horizon is the latest it can have been.
    select
      series.org_id,
      series.event_type,
      coalesce(
        max(newest.period_start) + interval '1 hour',
        least(
          ops.period_end('month', max(older.period_start), ops.time_zone()),
          (select removed.removed_until from ops.removed_periods as removed where removed.period = 'hour')
        )
      ) as last_seen_at
    from ops.series
    cross join lateral (
      select max(rollup.period_start) as period_start
      from ops.rollups as rollup
      where rollup.org_id = series.org_id
        and rollup.period = 'hour'
        and rollup.series_id = series.series_id
        and rollup.period_start <= as_of
    ) as newest
    cross join lateral (
      select max(rollup.period_start) as period_start
      from ops.rollups as rollup
      where newest.period_start is null
        and rollup.org_id = series.org_id
        and rollup.period = 'month'
        and rollup.series_id = series.series_id
        and rollup.period_start <= as_of
    ) as older
    where series.event_type in (select rule.event_type from ops.alert_rules as rule where rule.is_enabled)
    group by 1, 2
  )
  select
    seen.org_id,
    rule.rule_name,
    rule.event_type,
    null::text,
    null::integer,
    case when not is_stale then seen.last_seen_at < as_of - ops.in_hours(rule.silent_for) end,
    jsonb_build_object('last_seen_at', seen.last_seen_at, 'silent_for', rule.silent_for::text)
  from ops.alert_rules as rule
  join seen
    on seen.event_type = rule.event_type
  where rule.is_enabled
    and rule.kind = 'silent_input';

  return query
  select
    agent.org_id,
    rule.rule_name,
    agent.agent_id::text,
    agent.team,
    null::integer,
    case when not is_stale then agent.last_event_at < as_of - ops.in_hours(rule.silent_for) end,
    jsonb_build_object('last_seen_at', agent.last_event_at, 'silent_for', rule.silent_for::text)
  from ops.alert_rules as rule
  join ops.agents as agent
    -- An agent that has been silent for ten times as long has been retired.
    on agent.last_event_at >= as_of - 10 * ops.in_hours(rule.silent_for)
  where rule.is_enabled
    and rule.kind = 'silent_agents';
end;
$$;
comment on function ops.other_conditions(timestamptz) is
  'What the rules on KPIs, event types and agents find as of an instant; a KPI without a value in the time asked for has no row.';

create function ops.job_conditions(as_of timestamptz)
returns setof ops.alert_condition
language sql
stable
set search_path = ''
begin atomic
  select
    '00000000-0000-0000-0000-000000000000'::uuid,
    rule.rule_name,
    job.name,
    null::text,
    null::integer,
    coalesce(job.last_run_at < job_conditions.as_of - ops.in_hours(coalesce(rule.silent_for, 2 * ops.refresh_interval())), false),
    jsonb_build_object(
      'last_seen_at', job.last_run_at,
      'silent_for', coalesce(rule.silent_for, 2 * ops.refresh_interval())::text
    )
  from ops.alert_rules as rule
  cross join (
    select 'refresh' as name, max(run.finished_at) as last_run_at
    from ops.job_runs as run
    where run.job = 'refresh'
      and run.outcome in ('success', 'waiting')
    union all
    select 'alerts', max(evaluation.evaluated_at)
    from ops.alert_evaluations as evaluation
  ) as job
  where rule.is_enabled
    and rule.kind = 'silent_jobs';
end;
comment on function ops.job_conditions(timestamptz) is 'Which jobs have stood still; a job that never ran is not missed.';

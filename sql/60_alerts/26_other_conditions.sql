-- Conditions of KPIs, event types, agents and jobs: one function per kind of rule.

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
    ),
    jsonb '{}',
    null::boolean
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
    jsonb_build_object('last_seen_at', seen.last_seen_at, 'silent_for', rule.silent_for::text),
    jsonb '{}',
    null::boolean
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
    jsonb_build_object('last_seen_at', agent.last_event_at, 'silent_for', rule.silent_for::text),
    jsonb '{}',
    null::boolean
  from ops.alert_rules as rule
  join ops.agents as agent
    -- An agent that has been silent for ten times as long has been retired.
    on agent.last_event_at >= silent_agent_conditions.as_of - 10 * ops.in_hours(rule.silent_for)
  where rule.is_enabled
    and rule.kind = 'silent_agents';
end;
comment on function ops.silent_agent_conditions(timestamptz) is
  'What the rules of the kind silent_agents find: which agents have sent nothing for too long.';

create function ops.other_conditions(as_of timestamptz)
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
    coalesce(
      job.last_run_at < job_conditions.as_of - ops.in_hours(coalesce(rule.silent_for, 2 * ops.refresh_interval()))
        or least(job.counted_at, job.waiting_since) < job_conditions.as_of - ops.in_hours(coalesce(rule.silent_for, 3 * ops.refresh_interval())),
      false
    ),
    jsonb_build_object(
      'last_seen_at', job.last_run_at,
      'silent_for', coalesce(rule.silent_for, 2 * ops.refresh_interval())::text
    ) || case
      when job.counted_at < job.last_run_at or job.waiting_since is not null
        then jsonb_build_object('waiting_since', least(job.counted_at, job.waiting_since), 'waits_for', ops.awaited_in_words())
      else '{}'
    end,
    jsonb '{}',
    null::boolean
  from ops.alert_rules as rule
  cross join (
    select
      'refresh' as name,
      counted.last_run_at,
      counted.counted_at,
      (select min(writer.waiting_since) from ops.awaited_writers as writer) as waiting_since
    from ops.counting_freshness(job_conditions.as_of) as counted
    union all
    select 'alerts', max(evaluation.evaluated_at), null, null
    from ops.alert_evaluations as evaluation
  ) as job
  where rule.is_enabled
    and rule.kind = 'silent_jobs';
end;
comment on function ops.job_conditions(timestamptz) is 'Which jobs have stood still, or have waited for too long; a job that never ran is not missed.';

create function ops.jobs_fail()
returns boolean
language sql
stable
set search_path = ''
begin atomic
  select
    exists (
      select
      from (values ('refresh'), ('alerts')) as job (name)
      cross join lateral (
        select run.outcome
        from ops.job_runs as run
        where run.job = job.name
        order by run.started_at desc
        limit 1
      ) as newest
      where newest.outcome = 'failure'
    )
    -- An attempt that lost its server or its caller leaves no row.
    or exists (
      select
      from ops.refresh_attempts as begun
      join ops.cursors as ended
        on ended.name = 'telemetry_events'
        and ended.attempts < begun.last_value
      where begun.is_called
    );
end;
comment on function ops.jobs_fail() is
  'Whether the newest run of counting or of the alerts failed or was cut off; false as well when nobody has started one for long.';

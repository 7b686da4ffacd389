-- Metrics for Prometheus: the caller's org as gauges of now, in one document of one snapshot.

create function ops.kpi_gauges(as_of timestamptz)
returns table (
  metric_name text,
  unit text,
  period text,
  complete boolean,
  breakdown text,
  breakdown_value text,
  metric_value numeric,
  sample_count bigint
)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with running as (
    select period.name as period, ops.period_start(period.name, kpi_gauges.as_of, ops.time_zone()) as period_start
    from unnest(array['hour', 'day']) as period (name)
  ),
  spans as (
    select running.period, running.period_start, false as complete
    from running
    union all
    -- What comes before the running one, however long the clocks made it.
    select
      running.period,
      ops.period_start(running.period, running.period_start - interval '1 microsecond', ops.time_zone()),
      true
    from running
  )
  select
    kpi.metric_name,
    kpi.unit,
    kpi.aggregation_period,
    spans.complete,
    coalesce(label.key, ''),
    coalesce(label.value, ''),
    kpi.metric_value,
    kpi.sample_count
  from ops.kpis as kpi
  join spans
    on spans.period = kpi.aggregation_period
    and spans.period_start = kpi.period_start
  left join lateral (
    select labelled.key, labelled.value
    from jsonb_each_text(kpi.labels) as labelled
    limit 1
  ) as label on true
  where kpi.org_id = (select ops.current_org_id())
    and kpi.aggregation_period in ('hour', 'day')
    -- A range that the index finds; a day has 25 hours at most.
    and kpi.period_start > kpi_gauges.as_of - interval '50 hours'
    and kpi.period_start <= kpi_gauges.as_of;
end;
comment on function ops.kpi_gauges(timestamptz) is
  'One row a KPI and breakdown (empty: the caller''s org as a whole) of the hour and day that run at as_of and (complete) those before; a period without a value has no row.';

create function ops.job_health()
returns table (
  job text,
  last_success_at timestamptz,
  last_duration_s numeric,
  last_failed boolean
)
language sql
stable
set search_path = ''
begin atomic
  -- One look into the index a job, however many runs are kept.
  with recursive jobs as (
    select min(run.job) as job
    from ops.job_runs as run
    union all
    select (select min(run.job) from ops.job_runs as run where run.job > jobs.job)
    from jobs
    where jobs.job is not null
  )
  select
    jobs.job,
    done.finished_at,
    extract(epoch from done.finished_at - done.started_at),
    newest.outcome = 'failure'
  from jobs
  cross join lateral (
    select run.outcome
    from ops.job_runs as run
    where run.job = jobs.job
    order by run.started_at desc
    limit 1
  ) as newest
  left join lateral (
    select run.started_at, run.finished_at
    from ops.job_runs as run
    where run.job = jobs.job
      and run.outcome in ('success', 'waiting')
    order by run.started_at desc
    limit 1
  ) as done on true;
end;
comment on function ops.job_health() is
  'One row a job that ever ran: when it last did its work, in how many seconds (both null: never), and whether its newest run failed.';

create function ops.events_waiting()
returns bigint
language sql
stable
set search_path = ''
begin atomic
  select count(*)
  from ops.uncounted_events as event
  where event.org_id = (select ops.current_org_id());
end;
comment on function ops.events_waiting() is 'Events of the caller''s org that no refresh has counted yet (count).';

create function ops.slo_gauges(as_of timestamptz)
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'slo', slo.slo_name,
        'group', ops.group_name(slo.slo_group),
        'service', slo.service,
        'objective', slo.objective,
        'status', slo.status,
        'target', slo.target,
        'sli', slo.sli,
        'budget_left', slo.budget_left,
        'events', jsonb_build_object('good', slo.good, 'total', slo.total),
        'burn_rates', jsonb_build_object(
          '1h', slo.burn_rate_1h,
          '6h', slo.burn_rate_6h,
          '1d', slo.burn_rate_1d,
          '3d', slo.burn_rate_3d
        ),
        'freshness', slo.freshness,
        'stale_since', extract(epoch from slo.stale_since)
      )
      order by slo.slo_name, slo.slo_group
    ),
    '[]'
  )
  from ops.evaluate_slos(slo_gauges.as_of, true, null) as slo
  where slo.org_id = (select ops.current_org_id());
end;
comment on function ops.slo_gauges(timestamptz) is
  'The objectives of the caller''s org as they stand at as_of, events behind the cursor included: a JSON array by name; null where there is nothing to measure.';

create function ops.alert_gauges()
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  with counted as (
    select alert.state, alert.severity, count(*) as alerts
    from ops.alerts as alert
    where alert.org_id = (select ops.current_org_id())
      and alert.state in ('pending', 'firing')
    group by 1, 2
  )
  select jsonb_agg(
    jsonb_build_object('state', state.name, 'severity', severity.name, 'alerts', coalesce(counted.alerts, 0))
    order by state.name, severity.name
  )
  from unnest(array['firing', 'pending']) as state (name)
  cross join unnest(array['notice', 'page', 'ticket']) as severity (name)
  left join counted
    on counted.state = state.name
    and counted.severity = severity.name;
end;
comment on function ops.alert_gauges() is 'How many alerts of the caller''s org are pending or firing: a JSON array, each state and severity once, 0 included.';

create function ops.scrape(as_of timestamptz default now())
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  select jsonb_build_object(
    'kpis', coalesce(
      (
        select jsonb_agg(
          to_jsonb(gauge)
          order by gauge.metric_name, gauge.period, gauge.complete, gauge.breakdown, gauge.breakdown_value
        )
        from ops.kpi_gauges(scrape.as_of) as gauge
      ),
      '[]'
    ),
    'slos', ops.slo_gauges(scrape.as_of),
    'alerts', ops.alert_gauges(),
    'jobs', coalesce(
      (
        select jsonb_agg(
          jsonb_build_object(
            'job', health.job,
            'last_success_at', extract(epoch from health.last_success_at),
            'last_duration_s', health.last_duration_s,
            'last_failed', health.last_failed
          )
          order by health.job
        )
        from ops.job_health() as health
      ),
      '[]'
    ),
    'events_waiting', ops.events_waiting()
  );
end;
comment on function ops.scrape(timestamptz) is
  'All that GET /metrics tells of the caller''s org: kpis, slos, alerts, jobs (instants in seconds since 1970) and events_waiting.';

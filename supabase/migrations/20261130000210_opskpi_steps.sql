-- Each step of a run by itself, freshness beside status, and advice of doctor that helps.
-- The view has two columns more, and what reads it is made anew in the same transaction.
-- squawk-ignore-file ban-drop-view

create sequence ops.full_disks as bigint no cycle;
comment on sequence ops.full_disks is 'When the disk was last found full, in seconds since 1970.';
revoke all on sequence ops.full_disks from public;
do $$
begin
  if to_regrole('anon') is not null then
    revoke all on sequence ops.full_disks from anon, authenticated, service_role;
  end if;
end;
$$;

drop function ops.freshness;
drop function ops.scrape;
drop function ops.slo_gauges;
drop function ops.summary_objectives;
drop view public.v_ops_slo_status;
drop function ops.evaluate_slos;
drop function ops.slo_status;

create function ops.slo_status(
  good numeric,
  total numeric,
  target numeric,
  is_burning boolean,
  is_silent boolean
)
returns text
language sql
immutable
set search_path = ''
return case
  when total = 0 or is_silent then 'no_data'
  when ops.is_overspent(good, total, target) then 'breached'
  when total < ops.events_to_judge(target) then 'insufficient'
  when ops.budget_left(good, total, target) < 0.25 or is_burning then 'at_risk'
  else 'ok'
end;
comment on function ops.slo_status(numeric, numeric, numeric, boolean, boolean) is
  'The status of an objective in a word: ok, at_risk, breached, insufficient or no_data, whether or not its counts are fresh.';

create or replace function ops.status_rank(status text)
returns integer
language sql
immutable
set search_path = ''
return array_position(array['breached', 'at_risk', 'insufficient', 'no_data', 'ok'], status_rank.status);
comment on function ops.status_rank(text) is 'The place of a status where the worst come first: 1 is breached, 5 is ok; null for another word.';

create function ops.counting_freshness(as_of timestamptz)
returns table (last_run_at timestamptz, counted_at timestamptz, freshness text, stale_since timestamptz)
language sql
stable
set search_path = ''
begin atomic
  select
    refreshed.last_run_at,
    refreshed.counted_at,
    case when judged.is_fresh then 'fresh' else 'stale' end,
    case when not judged.is_fresh then refreshed.counted_at end
  from (
    select
      done.last_run_at,
      -- While refreshes wait for a writer, what counts is when the cursor last moved.
      case
        when done.last_run_at > coalesce(done.last_whole_at, '-infinity')
          then greatest(done.last_whole_at, cursor.moved_at)
        else done.last_whole_at
      end as counted_at
    from (
      select
        max(run.finished_at) as last_run_at,
        max(run.finished_at) filter (where run.outcome = 'success') as last_whole_at
      from ops.job_runs as run
      where run.job = 'refresh'
        and run.outcome in ('success', 'waiting')
    ) as done
    left join ops.cursors as cursor
      on cursor.name = 'telemetry_events'
  ) as refreshed
  cross join lateral (
    select coalesce(
      refreshed.last_run_at >= counting_freshness.as_of - 2 * ops.refresh_interval()
        and refreshed.counted_at >= counting_freshness.as_of - 3 * ops.refresh_interval(),
      false
    ) as is_fresh
  ) as judged;
end;
comment on function ops.counting_freshness(timestamptz) is
  'One row: when a refresh last ran, when one last counted something new or found nothing new, and whether that is fresh. It is stale when no refresh has run for twice its interval, or when refreshes have waited for more than three; stale_since is then counted_at (null: nothing was ever counted).';

create function ops.evaluate_slos(as_of timestamptz, with_fresh boolean default true, slo_names text[] default null)
returns table (
  org_id uuid,
  slo_name text,
  service text,
  objective text,
  status text,
  target numeric,
  sli numeric,
  good bigint,
  total bigint,
  budget_left numeric,
  burn_rate_1h numeric,
  burn_rate_6h numeric,
  burn_rate_1d numeric,
  burn_rate_3d numeric,
  time_to_exhaustion interval,
  events_needed bigint,
  window_start timestamptz,
  evaluated_at timestamptz,
  version integer,
  budgeting_method text,
  window_length interval,
  last_counted_at timestamptz,
  good_unadjusted bigint,
  total_unadjusted bigint,
  budget_left_unadjusted numeric,
  slo_group jsonb,
  freshness text,
  stale_since timestamptz
)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with fresh as materialized (
    select array(select row(delta.*)::ops.sli_delta from ops.fresh_slis() as delta where evaluate_slos.with_fresh) as deltas
  ),
  orgs as materialized (
    select array(select ops.orgs_with_objectives(fresh.deltas)) as ids from fresh
  ),
  promised as materialized (
    select
      held.*,
      2 * ops.in_hours(coalesce(held.expected_interval, (select ops.setting('expected_interval')::interval))) as silent_after
    from ops.slo_windows(evaluate_slos.as_of, evaluate_slos.slo_names) as held
  ),
  grouped as materialized (
    select found.*
    from fresh
    cross join orgs
    cross join lateral ops.groups_of_slis(orgs.ids, array(select distinct promised.sli_id from promised), fresh.deltas) as found
  ),
  measured as materialized (
    select found.*
    from fresh
    cross join lateral ops.measured_slos(
      array(
        select
          row(grouped.org_id, promised.slo_name, promised.version, promised.window_start, promised.window_end, grouped.slo_group)::ops.slo_span
        from grouped
        join promised
          on promised.sli_id = grouped.of_sli_id
      ),
      evaluate_slos.as_of,
      fresh.deltas
    ) as found
  ),
  newest as materialized (
    select found.*
    from fresh
    cross join (select array_agg(grouped.org_id) as org_ids, array_agg(grouped.sli_id) as sli_ids from grouped) as counted
    cross join lateral ops.last_counts(evaluate_slos.as_of, counted.org_ids, counted.sli_ids, fresh.deltas) as found
  ),
  jobs as materialized (
    select found.freshness, found.stale_since from ops.counting_freshness(evaluate_slos.as_of) as found
  )
  select
    measured.org_id,
    measured.slo_name,
    promised.service,
    promised.objective,
    ops.slo_status(
      measured.good,
      measured.total,
      promised.target,
      ops.is_burning(measured.burn_1h, measured.burn_5m, ops.alert_factor(0.02, promised.window_length, interval '1 hour'))
        or ops.is_burning(measured.burn_6h, measured.burn_30m, ops.alert_factor(0.05, promised.window_length, interval '6 hours')),
      -- From the start of its five minutes, so that two intervals are never exceeded. Of stale counts as of them: nobody
      -- can tell the silence of the input from that of the jobs.
      newest.last_counted_at < coalesce(jobs.stale_since, evaluate_slos.as_of) - promised.silent_after
    ),
    promised.target,
    measured.good::numeric / nullif(measured.total, 0),
    measured.good,
    measured.total,
    budget.remaining,
    measured.burn_1h,
    measured.burn_6h,
    measured.burn_1d,
    measured.burn_3d,
    ops.time_to_exhaustion(promised.window_length, measured.burn_1d, budget.remaining),
    greatest(ops.events_to_judge(promised.target) - measured.total, 0),
    promised.window_start,
    evaluate_slos.as_of,
    promised.version,
    promised.budgeting_method,
    promised.window_length,
    newest.last_counted_at,
    measured.good_unadjusted,
    measured.total_unadjusted,
    ops.budget_left(measured.good_unadjusted, measured.total_unadjusted, promised.target),
    measured.slo_group,
    jobs.freshness,
    jobs.stale_since
  from measured
  cross join jobs
  join promised
    on promised.slo_name = measured.slo_name
  join newest
    on newest.org_id = measured.org_id
    and newest.sli_id = ops.group_key(promised.sli_id, measured.slo_group)
  cross join lateral (
    select ops.budget_left(measured.good, measured.total, promised.target) as remaining offset 0
  ) as budget;
end;
comment on function ops.evaluate_slos(timestamptz, boolean, text[]) is
  'One row an org and objective, or group of it, by the version that held at as_of: status (ok, at_risk, breached, insufficient, no_data), counts of its window, budget and burn rates, and whether its counts are fresh or stale and since when; with_fresh adds the events behind the cursor; slo_names null: all.';
comment on type ops.refresh_report is
  'done: all that could be counted is; more: call again; waiting: a writer stayed open; busy: another refresh runs; failed (of run alone): the message says why. behind is in ids, rows are KPI rows.';

create function ops.count_or_say()
returns ops.refresh_report
language plpgsql
volatile
set search_path = ''
as $$
declare
  report ops.refresh_report;
  most_events bigint;
begin
  -- A pass that the disk has no room for is followed by smaller ones; what they count may then be dropped.
  foreach most_events in array case when ops.is_disk_full() then array[2000, 200] else array[200000, 2000, 200] end loop
    begin
      return ops.refresh(max_ids => most_events);
    exception
      -- Alerts, upkeep and retention must go on whatever keeps the counting from its work.
      when others then
        report.state := 'failed';
        report.message := sqlerrm;
        exit when sqlstate <> '53100';
        perform ops.note_full_disk();
    end;
  end loop;
  perform ops.record_job_failure('refresh', report.message);
  raise warning 'counting failed: %', report.message;
  return report;
end;
$$;
comment on function ops.count_or_say() is
  'A refresh whose failure ends no other step: it is noted in the journal, and the report says failed; only run calls it.';

create or replace function ops.run()
returns ops.refresh_report
language plpgsql
volatile
set search_path = ''
as $$
declare
  report ops.refresh_report;
  started_at constant timestamptz := clock_timestamp();
  step record;
  blocked text[] := '{}'::text[];
begin
  report := ops.count_or_say();
  begin
    perform ops.evaluate_alerts();
  exception
    -- Counting must go on whatever keeps the alerts from theirs.
    when others then
      perform ops.record_job_failure('alerts', sqlerrm);
  end;
  -- Last, since a partition takes locks that are held to the end.
  begin
    perform ops.maintain();
  exception
    -- Counting must go on whatever keeps the upkeep from its work.
    when others then
      perform ops.record_job_failure('maintain', sqlerrm);
  end;
  begin
    for attempt in 1 .. 10 loop
      select * into step from ops.retain(started_at => started_at, skipped => blocked);
      -- Its locks are held to the end.
      exit when step.state not in ('freed', 'blocked') or (step.state = 'freed' and step.action = 'drop');
      if step.state = 'blocked' then
        blocked := blocked || step.name;
      end if;
    end loop;
  exception
    -- Counting must go on whatever keeps the old from being removed.
    when others then
      perform ops.record_job_failure('retention', sqlerrm);
  end;
  return report;
end;
$$;
comment on function ops.run() is 'Everything that is due, for schedulers that can only call SQL: one refresh, the alerts, upkeep, then at most ten steps of retention; each by itself, a failure is noted in the journal and ends no other. Messages wait in the outbox for opskpi alert deliver.';

create or replace function ops.counts_are_stale(as_of timestamptz)
returns boolean
language sql
stable
set search_path = ''
return (select counted.freshness <> 'fresh' from ops.counting_freshness(counts_are_stale.as_of) as counted);
comment on function ops.counts_are_stale(timestamptz) is
  'Whether events may have happened before an instant that are not counted, because no refresh has run or all have waited for too long.';

create or replace function ops.judge_slos(as_of timestamptz, slo_names text[] default null)
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
    sli.filled_until = 'infinity' and status.freshness = 'fresh',
    sli.filled_until = 'infinity' and status.freshness = 'fresh' and status.status not in ('no_data', 'insufficient'),
    jsonb_strip_nulls(jsonb_build_object(
      'status', status.status,
      'sli', ops.readable(status.sli),
      'target', ops.readable(status.target),
      'good', status.good,
      'total', status.total,
      'budget_left', ops.readable(status.budget_left),
      'last_seen_at', status.last_counted_at
    )),
    status.slo_group
  from ops.evaluate_slos(as_of, false, slo_names) as status
  join ops.slo_versions as version
    on version.slo_name = status.slo_name
    and version.version = status.version
  join ops.slis as sli
    on sli.sli_id = version.sli_id
  -- A group without anything in the window is over: nobody waits for a branch that was merged.
  where status.slo_group = '{}'
    or status.total_unadjusted > 0;
end;
$$;

create or replace function ops.job_conditions(as_of timestamptz)
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
        or job.counted_at < job_conditions.as_of - ops.in_hours(coalesce(rule.silent_for, 3 * ops.refresh_interval())),
      false
    ),
    jsonb_build_object(
      'last_seen_at', job.last_run_at,
      'silent_for', coalesce(rule.silent_for, 2 * ops.refresh_interval())::text
    ) || case when job.counted_at < job.last_run_at then jsonb_build_object('waiting_since', job.counted_at) else '{}' end,
    jsonb '{}'
  from ops.alert_rules as rule
  cross join (
    select 'refresh' as name, counted.last_run_at, counted.counted_at
    from ops.counting_freshness(job_conditions.as_of) as counted
    union all
    select 'alerts', max(evaluation.evaluated_at), null
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

create or replace function ops.maintain(as_of timestamptz default now())
returns integer
language plpgsql
volatile
set search_path = ''
as $$
declare
  started_at timestamptz := clock_timestamp();
  made integer;
begin
  select count(*) filter (where ops.create_partition(wanted.month))
  into made
  from (
    select (date_trunc('month', as_of at time zone 'UTC') + make_interval(months => ahead))::date as month
    from generate_series(0, 3) as ahead
    union
    -- A year at a time and within sight: a partition for every month of two centuries would exhaust the server's locks.
    (
      select distinct found.month
      from (
        select distinct date_trunc('month', event.event_timestamp at time zone 'UTC')::date as month, event.event_type
        from ops.telemetry_events_default as event
        where event.event_timestamp >= as_of - interval '20 years'
          and event.event_timestamp < as_of + interval '3 months'
      ) as found
      -- Retention takes what is too old from where it lies; else each late event would make a partition only to have it dropped.
      where (found.month + interval '1 month') at time zone 'UTC' > ops.kept_since('events', found.event_type, as_of)
      order by found.month desc
      limit 12
    )
    order by month
  ) as wanted;
  delete from ops.job_runs as run
  where run.started_at < as_of - coalesce(ops.setting('job_runs_kept'), '30 days')::interval
    -- The last success of each job tells for how long it has failed.
    and run.job_run_id not in (
      select max(last.job_run_id) from ops.job_runs as last where last.outcome = 'success' group by last.job
    );
  perform ops.forget_requests(as_of);
  perform ops.forget_uncountable();
  if made > 0 then
    insert into ops.job_runs (job, started_at, outcome, message)
    values ('maintain', started_at, 'success', format('%s partitions made', made));
  end if;
  return made;
end;
$$;

create function ops.note_full_disk()
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform setval('ops.full_disks'::regclass, extract(epoch from clock_timestamp())::bigint);
end;
$$;
comment on function ops.note_full_disk() is 'Notes that the disk is full, so that less is written at a time for an hour.';

create function ops.is_disk_full()
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select noted.is_called and to_timestamp(noted.last_value) > clock_timestamp() - interval '1 hour'
    from ops.full_disks as noted
  );
end;
$$;
comment on function ops.is_disk_full() is 'Whether the disk was found full within the last hour.';

create function ops.drop_months_ahead(as_of timestamptz default now())
returns integer
language plpgsql
volatile
set search_path = ''
set lock_timeout = '1s'
as $$
declare
  name text;
  is_used boolean;
  dropped integer := 0;
begin
  if not ops.owns_events() then
    return 0;
  end if;
  lock table only public.telemetry_events in access exclusive mode;
  for name in
    select month.name from ops.event_months() as month where not month.is_default and month.month_start > as_of
  loop
    execute format('select exists (select from ops.%I)', name) into is_used;
    if not is_used then
      execute format('drop table ops.%I', name);
      dropped := dropped + 1;
    end if;
  end loop;
  return dropped;
exception
  when lock_not_available or deadlock_detected then
    return 0;
end;
$$;
comment on function ops.drop_months_ahead(timestamptz) is
  'Drops the empty partitions of months to come, for the room that their indexes take on a full disk; returns how many. maintain makes them again.';

create function ops.vacuumed_tables(with_events boolean, larger_than bigint default 131072)
returns table (schema_name text, table_name text)
language sql
stable
set search_path = ''
begin atomic
  select class.relnamespace::regnamespace::text, class.relname::text
  from pg_catalog.pg_class as class
  where class.relkind = 'r'
    and (
      class.relnamespace = 'ops'::regnamespace
      or class.oid in ('public.kpi_aggregations'::regclass, 'public.slsa_audit_metrics'::regclass)
    )
    and (vacuumed_tables.with_events or not class.relispartition)
    -- A first vacuum needs up to four pages itself, which a small table does not give back.
    and pg_relation_size(class.oid) > vacuumed_tables.larger_than
  order by pg_relation_size(class.oid) desc;
end;
comment on function ops.vacuumed_tables(boolean, bigint) is
  'The tables that a vacuum may give room back from on a full disk, the largest first; with_events: those of the events as well; larger_than: in bytes.';

create function ops.as_owner_of_events()
returns text
language sql
stable
set search_path = ''
return case
  when ops.owns_events() then ''
  else ' as ' || (select class.relowner::regrole::text from pg_catalog.pg_class as class where class.oid = 'public.telemetry_events'::regclass) || ', which owns the events'
end;
comment on function ops.as_owner_of_events() is 'As whom a remedy has to be run where the caller does not own the events; empty when the caller does.';

create function ops.month_obstacle(relation regclass, month_start timestamptz, month_end timestamptz, is_whole boolean, expired text[])
returns text
language sql
stable
set search_path = ''
return case
  when is_whole and not ops.owns_events() then 'run opskpi retention run' || ops.as_owner_of_events()
  when is_whole and ops.has_uncounted_events(relation, month_start, month_end) then 'it has events that are not counted yet'
  when is_whole then (
    select format('drop what depends on it: %s', string_agg(distinct rule.ev_class::regclass::text, ', '))
    from pg_catalog.pg_depend as dependence
    join pg_catalog.pg_rewrite as rule
      on rule.oid = dependence.objid
    where dependence.classid = 'pg_catalog.pg_rewrite'::regclass
      and dependence.refclassid = 'pg_catalog.pg_class'::regclass
      and dependence.refobjid = month_obstacle.relation
      and rule.ev_class <> month_obstacle.relation
    having count(*) > 0
  )
  when not exists (
    select
    from unnest(expired) as kind (event_type)
    where not ops.has_uncounted_events(relation, month_start, month_end, kind.event_type)
  ) then 'it has events that are not counted yet'
end;
comment on function ops.month_obstacle(regclass, timestamptz, timestamptz, boolean, text[]) is
  'Why a month that is too old stays when retention runs, or what has to be done first; null when nothing is in the way.';

create function ops.can_drop_month(as_of timestamptz default now())
returns boolean
language sql
stable
set search_path = ''
return ops.owns_events() and exists (
  select
  from ops.expired_months(can_drop_month.as_of) as month
  where month.is_whole
    and not ops.has_uncounted_events(month.relation, month.month_start, month.month_end)
);
comment on function ops.can_drop_month(timestamptz) is
  'Whether there is a month that is older than its rules allow and counted whole, so that its partition can be dropped.';

create view public.v_ops_slo_status
with (security_invoker = true)
as
select
  evaluated.slo_name,
  evaluated.service,
  evaluated.objective,
  evaluated.status,
  evaluated.target,
  evaluated.sli,
  evaluated.good,
  evaluated.total,
  evaluated.budget_left,
  evaluated.burn_rate_1h,
  evaluated.burn_rate_6h,
  evaluated.burn_rate_1d,
  evaluated.burn_rate_3d,
  evaluated.time_to_exhaustion,
  evaluated.events_needed,
  evaluated.window_start,
  evaluated.evaluated_at,
  evaluated.org_id,
  evaluated.version,
  evaluated.budgeting_method,
  evaluated.last_counted_at,
  evaluated.good_unadjusted,
  evaluated.total_unadjusted,
  evaluated.budget_left_unadjusted,
  nullif(sli.counted_since, '-infinity') as counted_since,
  evaluated.slo_group,
  evaluated.freshness,
  evaluated.stale_since
from ops.evaluate_slos(now(), true, null) as evaluated
join ops.slo_versions as version
  on version.slo_name = evaluated.slo_name
  and version.version = evaluated.version
join ops.slis as sli
  on sli.sli_id = version.sli_id
order by ops.status_rank(evaluated.status), evaluated.budget_left, evaluated.slo_name, evaluated.slo_group, evaluated.org_id;
comment on view public.v_ops_slo_status is
  'One row an org and objective (of one with groups: each group), as of now, events behind the cursor included; the worst first.';
comment on column public.v_ops_slo_status.slo_name is 'The objective.';
comment on column public.v_ops_slo_status.service is 'The service that promises.';
comment on column public.v_ops_slo_status.objective is 'availability, latency, error_rate, events or measured.';
comment on column public.v_ops_slo_status.status is 'ok, at_risk (a quarter of the budget or less is left, or it burns fast), breached, insufficient (too few events to judge) or no_data, whether or not its counts are fresh.';
comment on column public.v_ops_slo_status.target is 'The share promised (ratio).';
comment on column public.v_ops_slo_status.sli is 'The share measured (ratio); null without events.';
comment on column public.v_ops_slo_status.good is 'Good ones in the window (count).';
comment on column public.v_ops_slo_status.total is 'All that count in the window (count).';
comment on column public.v_ops_slo_status.budget_left is 'Share of the error budget left (ratio, negative when overspent); null without events.';
comment on column public.v_ops_slo_status.burn_rate_1h is 'Burn rate over the last hour (ratio to the sustainable rate); null without events.';
comment on column public.v_ops_slo_status.burn_rate_6h is 'Burn rate over the last 6 hours (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_1d is 'Burn rate over the last day (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_3d is 'Burn rate over the last 3 days (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.time_to_exhaustion is 'How long the budget lasts at the burn rate of the last day; null: it is not burning.';
comment on column public.v_ops_slo_status.events_needed is 'Events still needed to judge (count); 0 when there are enough.';
comment on column public.v_ops_slo_status.window_start is 'First instant of the window.';
comment on column public.v_ops_slo_status.evaluated_at is 'The instant of the evaluation.';
comment on column public.v_ops_slo_status.org_id is 'The tenant.';
comment on column public.v_ops_slo_status.version is 'The version of the definition.';
comment on column public.v_ops_slo_status.budgeting_method is 'occurrences: good and total are events; timeslices: they are slices of time.';
comment on column public.v_ops_slo_status.last_counted_at is 'First instant of the newest five minutes that hold anything; null: nothing was ever counted.';
comment on column public.v_ops_slo_status.good_unadjusted is 'Good ones, exclusions not applied (count).';
comment on column public.v_ops_slo_status.total_unadjusted is 'All that count, exclusions not applied (count).';
comment on column public.v_ops_slo_status.budget_left_unadjusted is 'Share of the error budget left, exclusions not applied (ratio).';
comment on column public.v_ops_slo_status.counted_since is
  'First instant with all its events: retention had removed older ones before the objective was made; null: none is missing.';
comment on column public.v_ops_slo_status.slo_group is
  'The group: {"workflow": "release"}, null where its events have no such label; {"overflow": true}: all beyond the first 1,000 groups; {} of an objective without groups.';
comment on column public.v_ops_slo_status.freshness is 'fresh, or stale: the jobs stopped, or they wait for a transaction.';
comment on column public.v_ops_slo_status.stale_since is 'When the jobs last counted; null: the counts are fresh, or there are none.';

create function ops.summary_objectives(org_id uuid, as_of timestamptz)
returns jsonb
language sql
stable
set search_path = ''
begin atomic
  with evaluated as materialized (
    select status.*
    from ops.evaluate_slos(summary_objectives.as_of, true, null) as status
    where status.org_id = summary_objectives.org_id
  )
  select jsonb_build_object(
    'by_status', (
      select coalesce(jsonb_object_agg(counted.status, counted.objectives), '{}')
      from (select evaluated.status, count(*) as objectives from evaluated group by evaluated.status) as counted
    ),
    'stale', (select count(*) from evaluated where evaluated.freshness = 'stale'),
    'list', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'objective', evaluated.slo_name,
            'group', ops.group_name(evaluated.slo_group),
            'service', evaluated.service,
            'status', evaluated.status,
            'target', ops.readable(evaluated.target),
            'sli', ops.readable(evaluated.sli),
            'good', evaluated.good,
            'total', evaluated.total,
            'budget_left', ops.readable(evaluated.budget_left)
          )
          order by
            ops.status_rank(evaluated.status),
            evaluated.budget_left,
            evaluated.slo_name,
            evaluated.slo_group
        ),
        '[]'
      )
      from evaluated
    )
  );
end;
comment on function ops.summary_objectives(uuid, timestamptz) is
  'How the objectives of an org stand as of an instant, each over its own window: how many by status, and each, the worst first.';

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

create function ops.freshness(org_id uuid default null)
returns table (
  last_refresh_at timestamptz,
  is_stale boolean,
  events_waiting bigint,
  newest_event_at timestamptz,
  alerts_evaluated_at timestamptz,
  events_set_aside bigint,
  stale_since timestamptz
)
language sql
stable
set search_path = ''
begin atomic
  select
    jobs.last_run_at,
    jobs.freshness <> 'fresh',
    (
      select count(*)
      from public.telemetry_events as event
      where event.id > (select ops.cursor_id())
        and event.org_id = caller.org_id
    ),
    (select max(event.event_timestamp) from public.telemetry_events as event where event.org_id = caller.org_id),
    (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation),
    (select count(*) from ops.uncountable_events as aside where aside.org_id = caller.org_id),
    jobs.stale_since
  from (select ops.caller_org(freshness.org_id) as org_id offset 0) as caller
  cross join ops.counting_freshness(now()) as jobs;
end;
comment on function ops.freshness(uuid) is
  'One row: when the jobs last counted, whether that is too long ago, how many events of the org wait behind the cursor (they are shown all the same), its newest event, when the alerts were last evaluated, and how many of its events could not be counted, and since when nothing new was counted, where that is too long ago.';

create function ops.failure_in_words(job text)
returns text
language sql
stable
set search_path = ''
begin atomic
  select format(
    'the last run failed at %s UTC: %s; mend that, then run opskpi run',
    to_char(newest.finished_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
    newest.message
  )
  from (
    select run.outcome, run.finished_at, run.message
    from ops.job_runs as run
    where run.job = failure_in_words.job
    order by run.started_at desc
    limit 1
  ) as newest
  where newest.outcome = 'failure';
end;
comment on function ops.failure_in_words(text) is 'Why the newest run of a job failed, which running it again does not help; null when it did not fail.';

create function ops.counting_advice()
returns text
language sql
stable
set search_path = ''
begin atomic
  select coalesce(
    ops.failure_in_words('refresh'),
    (
      select 'a refresh or a rebuild is running; wait for its end'
      from pg_catalog.pg_locks as lock
      where lock.locktype = 'advisory'
        and lock.granted
        and lock.database = (select database.oid from pg_catalog.pg_database as database where database.datname = current_database())
        and lock.objsubid = 1
        and (lock.classid::bigint << 32) | lock.objid::bigint = hashtextextended('ops.refresh', 0)
      limit 1
    ),
    (
      select format(
        'it has waited since %s UTC for a transaction that writes events and stays open; end that',
        to_char(counted.counted_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')
      )
      from ops.counting_freshness(now()) as counted
      where exists (
        select
        from ops.job_runs as run
        where run.job = 'refresh'
          and run.finished_at = counted.last_run_at
          and run.outcome = 'waiting'
      )
    ),
    'run opskpi run from cron every ' || ops.refresh_interval()
  );
end;
comment on function ops.counting_advice() is
  'What helps where events are not counted: mending the last failure, waiting for a refresh or rebuild that runs, ending the transaction that one waits for, or else running one.';

create function ops.rebuild_advice(since timestamptz, until timestamptz)
returns text
language sql
stable
set search_path = ''
return (
  select case
    when rebuildable.since < rebuild_advice.until then format(
      'run opskpi rebuild --since %s --until %s',
      to_char(rebuildable.since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
      to_char(rebuild_advice.until at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
    ) || case when rebuildable.since > rebuild_advice.since then '; what is earlier cannot be counted again, because retention has removed events of its week or month' else '' end
    else 'it cannot be counted again, because retention has removed events of its week or month'
  end
  from (select greatest(rebuild_advice.since, ops.rebuildable_from()) as since offset 0) as rebuildable
);
comment on function ops.rebuild_advice(timestamptz, timestamptz) is
  'The rebuild that repairs counts of a range, as far as retention has left events for one.';

create or replace function ops.doctor(as_of timestamptz default now())
returns table (check_name text, passed boolean, detail text)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  select 'events and KPI tables', to_regclass('public.telemetry_events') is not null and to_regclass('public.kpi_aggregations') is not null,
    'telemetry_events and kpi_aggregations exist'
  union all
  select 'audits', true,
    case when exists (select from public.slsa_audit_metrics) then 'slsa_audit_metrics has rows'
      else 'slsa_audit_metrics is empty: nobody has recorded an audit' end
  union all
  select 'views', count(broken.view_name) = 0,
    coalesce(string_agg(broken.view_name || ': ' || broken.reason, '; '), 'every v_ops_* view answers')
  from ops.broken_views() as broken
  union all
  select 'jobs', counted.freshness = 'fresh',
    coalesce('last refresh ' || to_char(counted.last_run_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'no refresh has run yet')
      || case when counted.freshness = 'fresh' then '' else '; ' || ops.counting_advice() end
  from ops.counting_freshness(doctor.as_of) as counted
  union all
  select 'alerts', coalesce(watched.evaluated_at >= doctor.as_of - 2 * ops.refresh_interval(), not watched.has_channel),
    coalesce('evaluated ' || to_char(watched.evaluated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'never evaluated')
      || case when watched.has_channel then '' else '; no channel: nobody is told' end
      || case when coalesce(watched.evaluated_at >= doctor.as_of - 2 * ops.refresh_interval(), not watched.has_channel) then ''
        else '; ' || coalesce(ops.failure_in_words('alerts'), 'run opskpi run from cron every ' || ops.refresh_interval()) end
  from (
    select
      exists (select from ops.alert_channels as channel where channel.is_enabled) as has_channel,
      (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation) as evaluated_at
  ) as watched
  union all
  select outbox.check_name, outbox.passed, outbox.detail
  from ops.delivery_checks(doctor.as_of) as outbox
  union all
  select 'partitions', next_month.partition is not null,
    case
      when next_month.partition is not null then next_month.name || ' is there'
      else 'ops.' || next_month.name || ' is missing; ' || coalesce(ops.failure_in_words('maintain'), 'run opskpi run' || ops.as_owner_of_events())
    end
  from (
    select named.name, to_regclass('ops.' || named.name) as partition
    from (
      select 'telemetry_events_' || to_char((doctor.as_of at time zone 'UTC') + interval '1 month', 'YYYY_MM') as name
    ) as named
  ) as next_month
  union all
  select 'retention', count(*) = 0,
    case
      when count(*) > 0 then format(
        'what is due since more than two days is still there: %s; %s',
        string_agg(overdue.name || coalesce(' (' || overdue.obstacle || ')', ''), ', ' order by overdue.month_start),
        -- Of the obstacles this is the one whose remedy is not said with it.
        case
          when bool_and(overdue.obstacle = 'it has events that are not counted yet') then ops.counting_advice()
          when bool_and(overdue.obstacle is not null) then 'mend that'
          else coalesce(ops.failure_in_words('retention'), 'run opskpi retention run')
        end
      )
      when not exists (select from ops.retention_rules as rule where rule.age is not null) then 'everything is kept for ever'
      else 'nothing is overdue'
    end
  from (
    select month.name, month.month_start, ops.month_obstacle(month.relation, month.month_start, month.month_end, month.is_whole, month.expired) as obstacle
    from ops.expired_months(doctor.as_of - interval '2 days') as month
  ) as overdue
  union all
  select 'row level security', count(*) = 0,
    coalesce('off on ' || string_agg(class.oid::regclass::text, ', '), 'on for every table')
  from pg_catalog.pg_class as class
  where class.relkind in ('r', 'p')
    and not class.relrowsecurity
    and (
      class.relnamespace = 'ops'::regnamespace
      or class.oid in ('public.telemetry_events'::regclass, 'public.kpi_aggregations'::regclass, 'public.slsa_audit_metrics'::regclass)
    )
  union all
  select 'bound logins', count(*) = 0,
    coalesce(string_agg(watched.fault, '; '), 'each reads its own org only')
  from (
    select bound.login || ': ' || ops.login_fault(bound.login) as fault
    from ops.bound_logins as bound
    where ops.login_fault(bound.login) is not null
    union all
    select format('%s.%s has no policy for them; run opskpi migrate', unguarded.relation, unguarded.column_name)
    from ops.unguarded_columns() as unguarded
    where exists (select from ops.bound_logins)
    union all
    select distinct role.rolname || ': only policies of an earlier README hold it back; run select ops.bind_login(…)'
    from pg_catalog.pg_policy as policy
    join pg_catalog.pg_roles as role
      on policy.polname = (role.rolname || '_only')::name
    where not policy.polpermissive
  ) as watched
  union all
  select 'cursor', count(*) = 0,
    case when count(*) = 0 then 'no event waits'
      else count(*) || ' events wait since ' || to_char(min(event.created_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC; ' || ops.counting_advice() end
  from public.telemetry_events as event
  where event.id > ops.cursor_id()
    and event.id <= (select sequence.last_value from public.telemetry_events_id_seq as sequence)
    and event.created_at < doctor.as_of - 2 * ops.refresh_interval()
  union all
  select 'uncountable events', count(*) = 0,
    case when count(*) = 0 then 'every event could be counted'
      else format(
        '%s could not be counted, the first is %s (%s): %s; mend the cause and run select ops.count_again(), or delete it with select ops.drop_uncountable(%2$s); ops.uncountable_events lists them',
        count(*),
        min(aside.id),
        (array_agg(aside.event_type order by aside.id))[1],
        (array_agg(aside.reason order by aside.id))[1]
      ) end
  from ops.uncountable_events as aside
  union all
  select 'counts', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has %s events and %s counted; %s',
        count(difference.day_start),
        (array_agg(difference.events order by difference.day_start))[1],
        (array_agg(difference.counted order by difference.day_start))[1],
        ops.rebuild_advice(min(difference.day_start), max(difference.day_start) + interval '24 hours')
      ) end
  from ops.count_differences(doctor.as_of - interval '7 days') as difference
  union all
  select 'counts of objectives', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'good and total of the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has good %s of %s and %s of %s counted where they differ; %s',
        count(difference.day_start),
        (array_agg(difference.good order by difference.day_start))[1],
        (array_agg(difference.total order by difference.day_start))[1],
        (array_agg(difference.counted_good order by difference.day_start))[1],
        (array_agg(difference.counted_total order by difference.day_start))[1],
        ops.rebuild_advice(min(difference.day_start), max(difference.day_start) + interval '24 hours')
      ) end
  from ops.sli_differences(doctor.as_of - interval '7 days') as difference;
end;

drop function ops.last_refresh_at;

revoke execute on function
  ops.as_owner_of_events,
  ops.can_drop_month,
  ops.count_or_say,
  ops.counting_freshness,
  ops.failure_in_words,
  ops.counting_advice,
  ops.month_obstacle,
  ops.rebuild_advice,
  ops.drop_months_ahead,
  ops.slo_status,
  ops.evaluate_slos,
  ops.freshness,
  ops.is_disk_full,
  ops.jobs_fail,
  ops.note_full_disk,
  ops.slo_gauges,
  ops.scrape,
  ops.summary_objectives,
  ops.vacuumed_tables
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.as_owner_of_events,
    ops.can_drop_month,
    ops.count_or_say,
    ops.counting_freshness,
    ops.failure_in_words,
    ops.counting_advice,
    ops.month_obstacle,
    ops.rebuild_advice,
    ops.drop_months_ahead,
    ops.slo_status,
    ops.evaluate_slos,
    ops.freshness,
    ops.is_disk_full,
    ops.jobs_fail,
    ops.note_full_disk,
    ops.slo_gauges,
    ops.scrape,
    ops.summary_objectives,
    ops.vacuumed_tables
  from anon, authenticated, service_role;
  revoke all on public.v_ops_slo_status from anon, authenticated, service_role;
  grant execute on function
    ops.counting_freshness,
    ops.slo_status,
    ops.evaluate_slos,
    ops.freshness,
    ops.slo_gauges,
    ops.scrape
  to authenticated, service_role;
  grant select on public.v_ops_slo_status to authenticated, service_role;
end;
$$;

update ops.settings
set
  description = 'How often the jobs are meant to run; the counts are stale after two of these without a run, or three that waited.'
where name = 'refresh_interval'
  and description is not distinct from 'How often the jobs are meant to run; an SLO is stale after two of these without a run.';

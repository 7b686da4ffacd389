-- How the objectives stand: the arithmetic of error budgets, and one row an org and objective.
-- Sources: SRE Workbook chapter 5 (factors, burn rates, detection), OpenSLO (time slices). Everything in numeric.

create function ops.alert_factor(budget_share numeric, slo_window interval, alert_window interval)
returns numeric
language sql
immutable
set search_path = ''
return budget_share * extract(epoch from slo_window) / extract(epoch from alert_window);
comment on function ops.alert_factor(numeric, interval, interval) is
  'The burn rate at which alert_window burns budget_share of the budget of slo_window: 0.02 of 30 days in 1 hour is 14.4.';

create function ops.highest_burn_rate(target numeric)
returns numeric
language sql
immutable
set search_path = ''
return 1 / (1 - target);
comment on function ops.highest_burn_rate(numeric) is 'The burn rate when everything fails; an alert factor above it can never fire.';

create function ops.burn_rate(good numeric, total numeric, target numeric)
returns numeric
language sql
immutable
set search_path = ''
return (total - good) / nullif(total * (1 - target), 0);
comment on function ops.burn_rate(numeric, numeric, numeric) is
  'Share of bad ÷ share allowed; over a whole SLO window it is the share of the budget consumed. Null when nothing was counted.';

create function ops.budget_left(good numeric, total numeric, target numeric)
returns numeric
language sql
immutable
set search_path = ''
return 1 - (total - good) / nullif(total * (1 - target), 0);
comment on function ops.budget_left(numeric, numeric, numeric) is
  'Share of the error budget that is left, negative when overspent; null when nothing was counted.';

create function ops.time_to_exhaustion(slo_window interval, burn_rate numeric, budget_left numeric default 1)
returns interval
language sql
immutable
set search_path = ''
return case
  when burn_rate is null or burn_rate <= 0 then null
  when budget_left <= 0 then interval '0'
  else make_interval(secs => (extract(epoch from slo_window) * budget_left / burn_rate)::double precision)
end;
comment on function ops.time_to_exhaustion(interval, numeric, numeric) is
  'How long the budget that is left lasts at a burn rate; null when it is not burning, which is never.';

create function ops.budget_slices(target numeric, slo_window interval, slice interval)
returns numeric
language sql
immutable
set search_path = ''
return (1 - target) * extract(epoch from slo_window) / extract(epoch from slice);
comment on function ops.budget_slices(numeric, interval, interval) is 'How many time slices of the window may be bad.';

create function ops.detection_time(target numeric, factor numeric, alert_window interval, error_ratio numeric)
returns interval
language sql
immutable
set search_path = ''
return make_interval(
  secs => ((1 - target) * factor * extract(epoch from alert_window) / nullif(error_ratio, 0))::double precision
);
comment on function ops.detection_time(numeric, numeric, interval, numeric) is
  'How long a constant share of errors takes to fire an alert; longer than the window means never. Null without errors.';

create function ops.events_to_judge(target numeric)
returns bigint
language sql
immutable
set search_path = ''
return ceil(1 / (1 - target))::bigint;
comment on function ops.events_to_judge(numeric) is 'How many events it takes until a single failure fits into the budget: 1,000 at 99.9 %.';

create function ops.evaluate_slos(as_of timestamptz)
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
  evaluated_at timestamptz
)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with fresh as materialized (
    select delta.*
    from ops.count_attempts(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as delta
    union all
    select delta.*
    from ops.unit_slis(array(select attempted from ops.count_units(ops.cursor_id(), 9223372036854775807) as attempted)) as delta
  ),
  orgs as (
    select series.org_id from ops.series
    union
    select fresh.org_id from fresh
    union
    -- Before the first event there is the caller's org to show without data.
    select caller.org_id
    from (select ops.current_org_id() as org_id) as caller
    where caller.org_id is not null
      and not exists (select from ops.series)
  ),
  counted as (
    select bucket.org_id, bucket.slo_name, bucket.bucket_start, bucket.good, bucket.total from ops.sli_counts as bucket
    union all
    select fresh.org_id, fresh.slo_name, fresh.bucket_start, fresh.good, fresh.total from fresh
  ),
  -- Windows are in hours, since a day of the session's time zone may have 23 or 25. One begins with the five minutes that hold its first instant.
  starts as (
    select
      date_bin('5 minutes', evaluate_slos.as_of - interval '5 minutes', timestamptz '1969-12-29 00:00+00') as in_5m,
      date_bin('5 minutes', evaluate_slos.as_of - interval '30 minutes', timestamptz '1969-12-29 00:00+00') as in_30m,
      date_bin('5 minutes', evaluate_slos.as_of - interval '1 hour', timestamptz '1969-12-29 00:00+00') as in_1h,
      date_bin('5 minutes', evaluate_slos.as_of - interval '6 hours', timestamptz '1969-12-29 00:00+00') as in_6h,
      date_bin('5 minutes', evaluate_slos.as_of - interval '24 hours', timestamptz '1969-12-29 00:00+00') as in_1d,
      date_bin('5 minutes', evaluate_slos.as_of - interval '72 hours', timestamptz '1969-12-29 00:00+00') as in_3d
  ),
  summed as (
    select
      orgs.org_id,
      slo.*,
      date_bin('5 minutes', evaluate_slos.as_of - make_interval(secs => extract(epoch from slo.rolling_window)::double precision), timestamptz '1969-12-29 00:00+00') as window_start,
      coalesce(window_sum.good, 0) as good,
      coalesce(window_sum.total, 0) as total,
      ops.burn_rate(window_sum.good_5m, window_sum.total_5m, slo.target) as burn_5m,
      ops.burn_rate(window_sum.good_30m, window_sum.total_30m, slo.target) as burn_30m,
      ops.burn_rate(window_sum.good_1h, window_sum.total_1h, slo.target) as burn_1h,
      ops.burn_rate(window_sum.good_6h, window_sum.total_6h, slo.target) as burn_6h,
      ops.burn_rate(window_sum.good_1d, window_sum.total_1d, slo.target) as burn_1d,
      ops.burn_rate(window_sum.good_3d, window_sum.total_3d, slo.target) as burn_3d
    from orgs
    cross join ops.slos as slo
    cross join lateral (
      select
        sum(counted.good)::bigint as good,
        sum(counted.total)::bigint as total,
        sum(counted.good) filter (where counted.bucket_start >= starts.in_5m) as good_5m,
        sum(counted.total) filter (where counted.bucket_start >= starts.in_5m) as total_5m,
        sum(counted.good) filter (where counted.bucket_start >= starts.in_30m) as good_30m,
        sum(counted.total) filter (where counted.bucket_start >= starts.in_30m) as total_30m,
        sum(counted.good) filter (where counted.bucket_start >= starts.in_1h) as good_1h,
        sum(counted.total) filter (where counted.bucket_start >= starts.in_1h) as total_1h,
        sum(counted.good) filter (where counted.bucket_start >= starts.in_6h) as good_6h,
        sum(counted.total) filter (where counted.bucket_start >= starts.in_6h) as total_6h,
        sum(counted.good) filter (where counted.bucket_start >= starts.in_1d) as good_1d,
        sum(counted.total) filter (where counted.bucket_start >= starts.in_1d) as total_1d,
        sum(counted.good) filter (where counted.bucket_start >= starts.in_3d) as good_3d,
        sum(counted.total) filter (where counted.bucket_start >= starts.in_3d) as total_3d
      from counted
      cross join starts
      where counted.org_id = orgs.org_id
        and counted.slo_name = slo.slo_name
        and counted.bucket_start >= date_bin('5 minutes', evaluate_slos.as_of - make_interval(secs => extract(epoch from slo.rolling_window)::double precision), timestamptz '1969-12-29 00:00+00')
        and counted.bucket_start <= evaluate_slos.as_of
    ) as window_sum
  ),
  jobs as (
    select max(run.finished_at) as last_run_at
    from ops.job_runs as run
    where run.job = 'refresh'
      and run.outcome in ('success', 'waiting')
  )
  select
    summed.org_id,
    summed.slo_name,
    summed.service,
    summed.objective,
    case
      when jobs.last_run_at is null and summed.total = 0 then 'no_data'
      when jobs.last_run_at is null
        or jobs.last_run_at < evaluate_slos.as_of - 2 * ops.refresh_interval()
        then 'stale'
      when summed.total = 0 then 'no_data'
      when summed.total < ops.events_to_judge(summed.target) then 'insufficient'
      when ops.budget_left(summed.good, summed.total, summed.target) < 0 then 'breached'
      when ops.budget_left(summed.good, summed.total, summed.target) < 0.25
        -- Both windows: the long one says that it matters, the short one that it goes on.
        or (
          summed.burn_1h > ops.alert_factor(0.02, summed.rolling_window, interval '1 hour')
          and summed.burn_5m > ops.alert_factor(0.02, summed.rolling_window, interval '1 hour')
        )
        or (
          summed.burn_6h > ops.alert_factor(0.05, summed.rolling_window, interval '6 hours')
          and summed.burn_30m > ops.alert_factor(0.05, summed.rolling_window, interval '6 hours')
        )
        then 'at_risk'
      else 'ok'
    end,
    summed.target,
    summed.good::numeric / nullif(summed.total, 0),
    summed.good,
    summed.total,
    ops.budget_left(summed.good, summed.total, summed.target),
    summed.burn_1h,
    summed.burn_6h,
    summed.burn_1d,
    summed.burn_3d,
    ops.time_to_exhaustion(
      summed.rolling_window, summed.burn_1d, ops.budget_left(summed.good, summed.total, summed.target)
    ),
    greatest(ops.events_to_judge(summed.target) - summed.total, 0),
    summed.window_start,
    evaluate_slos.as_of
  from summed
  cross join jobs;
end;
comment on function ops.evaluate_slos(timestamptz) is
  'One row an org and objective: status (ok, at_risk, breached, insufficient, no_data, stale), counts of the rolling window, budget and burn rates, events behind the cursor included.';

revoke execute on function
  ops.alert_factor(numeric, interval, interval),
  ops.highest_burn_rate(numeric),
  ops.burn_rate(numeric, numeric, numeric),
  ops.budget_left(numeric, numeric, numeric),
  ops.time_to_exhaustion(interval, numeric, numeric),
  ops.budget_slices(numeric, interval, interval),
  ops.detection_time(numeric, numeric, interval, numeric),
  ops.events_to_judge(numeric),
  ops.evaluate_slos(timestamptz)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.alert_factor(numeric, interval, interval),
    ops.highest_burn_rate(numeric),
    ops.burn_rate(numeric, numeric, numeric),
    ops.budget_left(numeric, numeric, numeric),
    ops.time_to_exhaustion(interval, numeric, numeric),
    ops.budget_slices(numeric, interval, interval),
    ops.detection_time(numeric, numeric, interval, numeric),
    ops.events_to_judge(numeric),
    ops.evaluate_slos(timestamptz)
  from anon, authenticated, service_role;
  grant execute on function
    ops.alert_factor(numeric, interval, interval),
    ops.highest_burn_rate(numeric),
    ops.burn_rate(numeric, numeric, numeric),
    ops.budget_left(numeric, numeric, numeric),
    ops.time_to_exhaustion(interval, numeric, numeric),
    ops.budget_slices(numeric, interval, interval),
    ops.detection_time(numeric, numeric, interval, numeric),
    ops.events_to_judge(numeric),
    ops.evaluate_slos(timestamptz)
  to authenticated, service_role;
end;
$$;

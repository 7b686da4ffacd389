-- The status of objectives: sums over spans of time, one row per org and objective.

create function ops.fresh_slis()
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select delta.*
  from ops.count_attempts(ops.cursor_id(), 9223372036854775807, '-infinity', 'infinity') as delta
  union all
  select delta.*
  from ops.unit_slis(array(
    select changed
    from ops.changed_units(array(
      select attempted from ops.count_units(ops.cursor_id(), 9223372036854775807) as attempted
    )) as changed
  )) as delta;
end;
comment on function ops.fresh_slis() is 'What the events behind the cursor add to the SLI counts, as the next refresh would.';

create type ops.slo_span as (
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz
);
comment on type ops.slo_span is 'A time over which to sum what a version of an objective counts: the five minutes that begin in it.';

create function ops.sum_slos(spans ops.slo_span[], fresh ops.sli_delta[] default '{}')
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with fresh as materialized (
    select delta.org_id, delta.sli_id, delta.bucket_start, delta.good, delta.total
    from unnest(sum_slos.fresh) as delta
  ),
  asked as (
    select span.org_id, span.slo_name, span.version, min(span.since) as since, max(span.until) as until
    from unnest(sum_slos.spans) as span
    group by 1, 2, 3
  ),
  -- Exclusions may overlap; what is left out is left out once.
  excluded as materialized (
    select distinct
      asked.org_id,
      asked.slo_name,
      asked.version,
      bucket.is_fresh,
      bucket.bucket_start,
      bucket.good,
      bucket.total
    from asked
    join ops.slo_exclusions as exclusion
      on exclusion.org_id = asked.org_id
      and exclusion.slo_name = asked.slo_name
      and exclusion.until > asked.since
      and exclusion.since < asked.until
    join ops.slo_versions as version
      on version.slo_name = asked.slo_name
      and version.version = asked.version
    cross join lateral (
      select false as is_fresh, stored.bucket_start, stored.good, stored.total
      from ops.sli_counts as stored
      where stored.org_id = exclusion.org_id
        and stored.sli_id = version.sli_id
        and stored.bucket_start > greatest(exclusion.since, asked.since) - interval '5 minutes'
        and stored.bucket_start < least(exclusion.until, asked.until)
      union all
      select true, fresh.bucket_start, fresh.good, fresh.total
      from fresh
      where fresh.org_id = exclusion.org_id
        and fresh.sli_id = version.sli_id
        and fresh.bucket_start > greatest(exclusion.since, asked.since) - interval '5 minutes'
        and fresh.bucket_start < least(exclusion.until, asked.until)
    ) as bucket
  ),
  extra as materialized (
    select fresh.org_id, version.slo_name, version.version, fresh.bucket_start, fresh.good, fresh.total, false as is_exclusion
    from fresh
    join ops.slo_versions as version
      on version.sli_id = fresh.sli_id
    union all
    select excluded.org_id, excluded.slo_name, excluded.version, excluded.bucket_start, -excluded.good, -excluded.total, true
    from excluded
  )
  select
    span.org_id,
    span.slo_name,
    span.version,
    span.since,
    span.until,
    coalesce(sliced.good, coalesce(stored.good, 0) + coalesce(added.good, 0)),
    coalesce(sliced.total, coalesce(stored.total, 0) + coalesce(added.total, 0)),
    coalesce(sliced.good_unadjusted, coalesce(stored.good, 0) + coalesce(added.good_unadjusted, 0)),
    coalesce(sliced.total_unadjusted, coalesce(stored.total, 0) + coalesce(added.total_unadjusted, 0))
  from unnest(sum_slos.spans) as span
  join ops.slo_versions as version
    on version.slo_name = span.slo_name
    and version.version = span.version
  cross join lateral (
    -- Whole days from their sums; -infinity and infinity are days of their own.
    select
      case when isfinite(span.since) then date_bin('1 day', span.since + interval '23:59:59.999999', timestamptz '1969-12-29 00:00+00')
        else span.since end as since,
      case when isfinite(span.until) then date_bin('1 day', span.until, timestamptz '1969-12-29 00:00+00') else span.until end as until
    offset 0
  ) as days
  -- A sum and nothing else: this is where the time goes.
  cross join lateral (
    select sum(part.good)::bigint as good, sum(part.total)::bigint as total
    from (
      select day.good, day.total
      from ops.sli_days as day
      where day.org_id = span.org_id
        and day.sli_id = version.sli_id
        and day.day_start >= days.since
        and day.day_start < days.until
        and version.time_slice is null
      union all
      select bucket.good, bucket.total
      from ops.sli_counts as bucket
      where bucket.org_id = span.org_id
        and bucket.sli_id = version.sli_id
        and bucket.bucket_start >= span.since
        and bucket.bucket_start < least(span.until, days.since)
        and version.time_slice is null
      union all
      select bucket.good, bucket.total
      from ops.sli_counts as bucket
      where bucket.org_id = span.org_id
        and bucket.sli_id = version.sli_id
        and bucket.bucket_start >= greatest(days.since, days.until)
        and bucket.bucket_start < span.until
        and version.time_slice is null
    ) as part
    offset 0
  ) as stored
  cross join lateral (
    select
      sum(extra.good)::bigint as good,
      sum(extra.total)::bigint as total,
      sum(extra.good) filter (where not extra.is_exclusion)::bigint as good_unadjusted,
      sum(extra.total) filter (where not extra.is_exclusion)::bigint as total_unadjusted
    from extra
    where extra.org_id = span.org_id
      and extra.slo_name = span.slo_name
      and extra.version = span.version
      and extra.bucket_start >= span.since
      and extra.bucket_start < span.until
    offset 0
  ) as added
  left join lateral (
    with slices as (
      select
        sum(counted.good) as good,
        sum(counted.total) as total,
        sum(counted.good) filter (where not counted.is_exclusion) as good_unadjusted,
        sum(counted.total) filter (where not counted.is_exclusion) as total_unadjusted
      from (
        select bucket.bucket_start, bucket.good, bucket.total, false as is_exclusion
        from ops.sli_counts as bucket
        where bucket.org_id = span.org_id
          and bucket.sli_id = version.sli_id
          and bucket.bucket_start >= span.since
          and bucket.bucket_start < span.until
          -- Here and not only below, or the slices are counted for those who have none.
          and version.time_slice is not null
        union all
        select extra.bucket_start, extra.good, extra.total, extra.is_exclusion
        from extra
        where extra.org_id = span.org_id
          and extra.slo_name = span.slo_name
          and extra.version = span.version
          and extra.bucket_start >= span.since
          and extra.bucket_start < span.until
      ) as counted
      group by date_bin(version.time_slice, counted.bucket_start, timestamptz '1969-12-29 00:00+00')
    )
    select
      count(*) filter (where slices.total > 0 and slices.good >= version.slice_target * slices.total) as good,
      count(*) filter (where slices.total > 0) as total,
      count(*) filter (where slices.total_unadjusted > 0 and slices.good_unadjusted >= version.slice_target * slices.total_unadjusted)
        as good_unadjusted,
      count(*) filter (where slices.total_unadjusted > 0) as total_unadjusted
    from slices
  ) as sliced
    on version.time_slice is not null;
end;
comment on function ops.sum_slos(ops.slo_span[], ops.sli_delta[]) is
  'Good and total of each span, in events or in time slices as the version says, exclusions applied and (unadjusted) not; fresh is added to what is stored. One row a span.';

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
  budget_left_unadjusted numeric
)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  with fresh as materialized (
    select delta.* from ops.fresh_slis() as delta where evaluate_slos.with_fresh
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
  judged as materialized (
    select
      orgs.org_id,
      version.*,
      ops.slo_window_length(version.rolling_window, version.calendar_period, version.time_zone, evaluate_slos.as_of) as window_length,
      -- A window begins with the five minutes that hold its first instant.
      date_bin(
        '5 minutes',
        ops.slo_window_start(version.rolling_window, version.calendar_period, version.time_zone, evaluate_slos.as_of),
        timestamptz '1969-12-29 00:00+00'
      ) as window_start
    from orgs
    cross join ops.slo_versions as version
    where version.valid_from <= evaluate_slos.as_of
      and version.valid_until > evaluate_slos.as_of
      and (evaluate_slos.slo_names is null or version.slo_name = any (evaluate_slos.slo_names))
  ),
  spans as materialized (
    select
      judged.org_id,
      judged.slo_name,
      judged.version,
      judged.target,
      windows.name,
      case windows.name
        when 'all' then judged.window_start
        else date_bin('5 minutes', evaluate_slos.as_of - windows.length, timestamptz '1969-12-29 00:00+00')
      end as since
    from judged
    cross join (
      values
        ('all', interval '0'),
        ('5m', interval '5 minutes'),
        ('30m', interval '30 minutes'),
        ('1h', interval '1 hour'),
        ('6h', interval '6 hours'),
        ('1d', interval '24 hours'),
        ('3d', interval '72 hours')
    ) as windows (name, length)
  ),
  sums as materialized (
    select summed.*
    from ops.sum_slos(
      array(
        select distinct
          row(
            spans.org_id, spans.slo_name, spans.version, spans.since,
            date_bin('5 minutes', evaluate_slos.as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes'
          )::ops.slo_span
        from spans
      ),
      array(select row(fresh.*)::ops.sli_delta from fresh)
    ) as summed
  ),
  measured as (
    select
      spans.org_id,
      spans.slo_name,
      max(sums.good) filter (where spans.name = 'all') as good,
      max(sums.total) filter (where spans.name = 'all') as total,
      max(sums.good_unadjusted) filter (where spans.name = 'all') as good_unadjusted,
      max(sums.total_unadjusted) filter (where spans.name = 'all') as total_unadjusted,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '5m') as burn_5m,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '30m') as burn_30m,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '1h') as burn_1h,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '6h') as burn_6h,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '1d') as burn_1d,
      max(ops.burn_rate(sums.good, sums.total, spans.target)) filter (where spans.name = '3d') as burn_3d
    from spans
    join sums
      on sums.org_id = spans.org_id
      and sums.slo_name = spans.slo_name
      and sums.since = spans.since
    group by 1, 2
  ),
  summed as (
    select
      judged.*,
      measured.good,
      measured.total,
      measured.good_unadjusted,
      measured.total_unadjusted,
      measured.burn_1h,
      measured.burn_6h,
      measured.burn_1d,
      measured.burn_3d,
      ops.is_burning(measured.burn_1h, measured.burn_5m, ops.alert_factor(0.02, judged.window_length, interval '1 hour'))
        or ops.is_burning(measured.burn_6h, measured.burn_30m, ops.alert_factor(0.05, judged.window_length, interval '6 hours'))
        as is_burning,
      newest.last_counted_at,
      -- From the start of its five minutes, so that two intervals are never exceeded.
      newest.last_counted_at
        < evaluate_slos.as_of - 2 * ops.in_hours(coalesce(judged.expected_interval, ops.setting('expected_interval')::interval)) as is_silent
    from judged
    join measured
      on measured.org_id = judged.org_id
      and measured.slo_name = judged.slo_name
    cross join lateral (
      select max(counted.bucket_start) as last_counted_at
      from (
        (
          select bucket.bucket_start
          from ops.sli_counts as bucket
          where bucket.org_id = judged.org_id
            and bucket.sli_id = judged.sli_id
            and bucket.bucket_start <= evaluate_slos.as_of
            and not exists (
              select
              from fresh
              where fresh.org_id = bucket.org_id
                and fresh.sli_id = bucket.sli_id
                and fresh.bucket_start = bucket.bucket_start
                and fresh.total = -bucket.total
            )
          order by bucket.bucket_start desc
          limit 1
        )
        union all
        select fresh.bucket_start
        from fresh
        where fresh.org_id = judged.org_id
          and fresh.sli_id = judged.sli_id
          and fresh.bucket_start <= evaluate_slos.as_of
          and fresh.total > 0
      ) as counted
    ) as newest
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
      when summed.total = 0 or summed.is_silent then 'no_data'
      when ops.is_overspent(summed.good, summed.total, summed.target) then 'breached'
      when summed.total < ops.events_to_judge(summed.target) then 'insufficient'
      when ops.budget_left(summed.good, summed.total, summed.target) < 0.25 or summed.is_burning then 'at_risk'
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
      summed.window_length, summed.burn_1d, ops.budget_left(summed.good, summed.total, summed.target)
    ),
    greatest(ops.events_to_judge(summed.target) - summed.total, 0),
    summed.window_start,
    evaluate_slos.as_of,
    summed.version,
    summed.budgeting_method,
    summed.window_length,
    summed.last_counted_at,
    summed.good_unadjusted,
    summed.total_unadjusted,
    ops.budget_left(summed.good_unadjusted, summed.total_unadjusted, summed.target)
  from summed
  cross join jobs;
end;
comment on function ops.evaluate_slos(timestamptz, boolean, text[]) is
  'One row an org and objective, by the version that held at as_of: status (ok, at_risk, breached, insufficient, no_data, stale), counts of its window, budget and burn rates; with_fresh adds the events behind the cursor; slo_names null: all.';

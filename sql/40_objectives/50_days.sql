-- Objectives day by day, and over the running window.

create function ops.daily_slos(spans ops.slo_span[])
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
)
language sql
stable
set search_path = ''
begin atomic
  -- Asked once; asked for each of 15,000 slices it took 0.2 s.
  with zone as materialized (
    select ops.time_zone() as name
  ),
  -- In UTC whole days are read from their sums; -infinity and infinity are days of their own.
  asked as materialized (
    select
      span.org_id,
      span.slo_name,
      span.version,
      span.since,
      span.until,
      version.sli_id,
      version.time_slice,
      version.slice_target,
      days.first_day,
      days.end_day
    from unnest(daily_slos.spans) as span
    join ops.slo_versions as version
      on version.slo_name = span.slo_name
      and version.version = span.version
    cross join zone
    left join lateral (
      select
        case when isfinite(span.since) then date_bin('1 day', span.since + interval '23:59:59.999999', timestamptz '1969-12-29 00:00+00')
          else span.since end as first_day,
        case when isfinite(span.until) then date_bin('1 day', span.until, timestamptz '1969-12-29 00:00+00') else span.until end as end_day
    ) as days
      on zone.name = 'UTC'
      and version.time_slice is null
  ),
  excluded as materialized (
    select distinct
      exclusion.org_id,
      exclusion.slo_name,
      bucket.starts_at
    from ops.slo_exclusions as exclusion
    cross join lateral generate_series(
      date_bin('5 minutes', exclusion.since, timestamptz '1969-12-29 00:00+00'),
      exclusion.until - interval '1 microsecond',
      interval '5 minutes'
    ) as bucket (starts_at)
  ),
  counted as (
    select
      asked.org_id,
      asked.slo_name,
      asked.version,
      asked.slice_target,
      day.day_start as slice_start,
      day.good,
      day.total,
      day.good as good_unadjusted,
      day.total as total_unadjusted
    from asked
    join ops.sli_days as day
      on day.org_id = asked.org_id
      and day.sli_id = asked.sli_id
      and day.day_start >= asked.first_day
      and day.day_start < asked.end_day
      and day.total > 0
    union all
    select asked.org_id, asked.slo_name, asked.version, asked.slice_target, bucket.bucket_start, -bucket.good, -bucket.total, 0, 0
    from asked
    join excluded
      on excluded.org_id = asked.org_id
      and excluded.slo_name = asked.slo_name
      and excluded.starts_at >= asked.first_day
      and excluded.starts_at < asked.end_day
    join ops.sli_counts as bucket
      on bucket.org_id = asked.org_id
      and bucket.sli_id = asked.sli_id
      and bucket.bucket_start = excluded.starts_at
      and bucket.total > 0
    union all
    select
      asked.org_id,
      asked.slo_name,
      asked.version,
      asked.slice_target,
      coalesce(date_bin(asked.time_slice, bucket.bucket_start, timestamptz '1969-12-29 00:00+00'), bucket.bucket_start),
      case when excluded.starts_at is null then bucket.good else 0 end,
      case when excluded.starts_at is null then bucket.total else 0 end,
      bucket.good,
      bucket.total
    from asked
    -- What is not within whole days: the edges, or all of it.
    cross join lateral (
      values
        (asked.since, least(asked.until, asked.first_day)),
        (greatest(asked.first_day, asked.end_day), asked.until)
    ) as edge (since, until)
    join ops.sli_counts as bucket
      on bucket.org_id = asked.org_id
      and bucket.sli_id = asked.sli_id
      and bucket.bucket_start >= edge.since
      and bucket.bucket_start < edge.until
      and bucket.total > 0
    left join excluded
      on excluded.org_id = asked.org_id
      and excluded.slo_name = asked.slo_name
      and excluded.starts_at = bucket.bucket_start
  ),
  sliced as (
    select
      counted.org_id,
      counted.slo_name,
      counted.version,
      counted.slice_target,
      counted.slice_start,
      sum(counted.good) as good,
      sum(counted.total) as total,
      sum(counted.good_unadjusted) as good_unadjusted,
      sum(counted.total_unadjusted) as total_unadjusted
    from counted
    group by 1, 2, 3, 4, 5
  )
  select
    sliced.org_id,
    sliced.slo_name,
    sliced.version,
    date_trunc('day', sliced.slice_start, zone.name),
    sum(case
      when sliced.slice_target is null then sliced.good
      else (sliced.total > 0 and sliced.good >= sliced.slice_target * sliced.total)::integer
    end)::bigint,
    sum(case when sliced.slice_target is null then sliced.total else (sliced.total > 0)::integer end)::bigint,
    sum(case
      when sliced.slice_target is null then sliced.good_unadjusted
      else (sliced.total_unadjusted > 0 and sliced.good_unadjusted >= sliced.slice_target * sliced.total_unadjusted)::integer
    end)::bigint,
    sum(case when sliced.slice_target is null then sliced.total_unadjusted else (sliced.total_unadjusted > 0)::integer end)::bigint
  from sliced
  cross join zone
  group by 1, 2, 3, 4;
end;
comment on function ops.daily_slos(ops.slo_span[]) is
  'Good and total of each span by day, in events or time slices as the version says, exclusions applied and (unadjusted) not; days without events have no row.';

create function ops.slo_history()
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  target numeric,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint
)
language sql
stable
set search_path = ''
begin atomic
  select
    daily.org_id,
    daily.slo_name,
    daily.version,
    daily.day_start,
    version.target,
    daily.good,
    daily.total,
    daily.good_unadjusted,
    daily.total_unadjusted
  from ops.daily_slos(array(
    select row(counting.org_id, version.slo_name, version.version, version.valid_from, version.valid_until)::ops.slo_span
    from (select distinct series.org_id from ops.series) as counting
    cross join ops.slo_versions as version
  )) as daily
  join ops.slo_versions as version
    on version.slo_name = daily.slo_name
    and version.version = daily.version;
end;
comment on function ops.slo_history() is 'Good and total of each objective by day, each day by the version that held then.';

create function ops.slo_burndown(as_of timestamptz, slo_names text[] default null, only_org_id uuid default null)
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  good bigint,
  total bigint,
  consumed numeric,
  budget_left numeric
)
language sql
stable
set search_path = ''
begin atomic
  with spans as (
    select
      counting.org_id,
      version.slo_name,
      version.version,
      date_bin(
        '5 minutes',
        ops.slo_window_start(version.rolling_window, version.calendar_period, version.time_zone, slo_burndown.as_of),
        timestamptz '1969-12-29 00:00+00'
      ) as since,
      date_bin('5 minutes', slo_burndown.as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes' as until
    from (
      select distinct series.org_id
      from ops.series
      where slo_burndown.only_org_id is null
        or series.org_id = slo_burndown.only_org_id
    ) as counting
    cross join ops.slo_versions as version
    where version.valid_from <= slo_burndown.as_of
      and version.valid_until > slo_burndown.as_of
      and (slo_burndown.slo_names is null or version.slo_name = any (slo_burndown.slo_names))
  )
  select
    daily.org_id,
    daily.slo_name,
    daily.version,
    daily.day_start,
    daily.good,
    daily.total,
    (daily.total - daily.good) / nullif((1 - version.target) * sum(daily.total) over whole, 0),
    1 - sum(daily.total - daily.good) over so_far / nullif((1 - version.target) * sum(daily.total) over whole, 0)
  from ops.daily_slos(array(
    select row(spans.org_id, spans.slo_name, spans.version, spans.since, spans.until)::ops.slo_span from spans
  )) as daily
  join ops.slo_versions as version
    on version.slo_name = daily.slo_name
    and version.version = daily.version
  window
    whole as (partition by daily.org_id, daily.slo_name),
    so_far as (partition by daily.org_id, daily.slo_name order by daily.day_start);
end;
comment on function ops.slo_burndown(timestamptz, text[], uuid) is
  'What each day of the running window consumed of the budget of the whole window, and what was left after it; the last row is the budget left now. slo_names null: all objectives; only_org_id null: all orgs.';

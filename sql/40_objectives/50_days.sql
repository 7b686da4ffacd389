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
  total_unadjusted bigint,
  slo_group jsonb
)
language sql
stable
set search_path = ''
begin atomic
  -- Asked once; asked for each of 15,000 slices it took 0.2 s.
  with zone as materialized (
    select ops.time_zone() as name
  ),
  asked as materialized (
    select
      span.*,
      span::ops.counted_span as span,
      zone.name as zone,
      -- Named here, since the planner takes a flag for half of the rows, and what it says for one.
      span.time_slice is null as counts_events,
      span.time_slice is null and zone.name = 'UTC' as has_days
    from ops.counted_spans(daily_slos.spans) as span
    cross join zone
  ),
  counted as (
    select asked.place, day.day_start as starts_at, day.good, day.total, day.good as good_unadjusted, day.total as total_unadjusted
    from asked
    cross join lateral (
      select summed.day_start, summed.good, summed.total
      from ops.sli_days as summed
      where summed.org_id = asked.org_id
        and summed.sli_id = asked.sli_id
        and summed.day_start >= asked.first_day
        and summed.day_start < asked.end_day
      offset 0
    ) as day
    where asked.has_days
    union all
    select asked.place, bucket.bucket_start, bucket.good, bucket.total, bucket.good, bucket.total
    from asked
    -- The rest beside whole days: the edges, or all of it.
    cross join lateral (
      select asked.since, least(asked.until, asked.first_day) where asked.zone = 'UTC'
      union all
      select greatest(asked.first_day, asked.end_day), asked.until where asked.zone = 'UTC'
      union all
      select asked.since, asked.until where asked.zone <> 'UTC'
    ) as edge (since, until)
    -- A barrier: without it all five minutes of the SLI are read, 105,000 a year, and most are then left out.
    cross join lateral (
      select counts.bucket_start, counts.good, counts.total
      from ops.sli_counts as counts
      where counts.org_id = asked.org_id
        and counts.sli_id = asked.sli_id
        and counts.bucket_start >= edge.since
        and counts.bucket_start < edge.until
      offset 0
    ) as bucket
    where asked.counts_events
    union all
    select change.*
    from ops.changed_counts(array(select asked.span from asked where asked.time_slice is null)) as change
    union all
    select slices.*
    from ops.slice_counts(array(select asked.span from asked where asked.time_slice is not null), '{}', (select zone.name from zone)) as slices
  ),
  -- By number: sorting by names and groups took a third of the time.
  days as (
    select
      counted.place,
      date_trunc('day', counted.starts_at, (select zone.name from zone)) as day_start,
      sum(counted.good)::bigint as good,
      sum(counted.total)::bigint as total,
      sum(counted.good_unadjusted)::bigint as good_unadjusted,
      sum(counted.total_unadjusted)::bigint as total_unadjusted
    from counted
    group by 1, 2
    having sum(counted.total_unadjusted) > 0
  )
  select
    asked.org_id,
    asked.slo_name,
    asked.version,
    days.day_start,
    days.good,
    days.total,
    days.good_unadjusted,
    days.total_unadjusted,
    asked.slo_group
  from days
  join asked
    on asked.place = days.place;
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
  total_unadjusted bigint,
  slo_group jsonb
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
    daily.total_unadjusted,
    daily.slo_group
  from ops.daily_slos(array(
    select row(grouped.org_id, version.slo_name, version.version, version.valid_from, version.valid_until, grouped.slo_group)::ops.slo_span
    from ops.groups_of_slis(
      array(select distinct series.org_id from ops.series),
      array(select distinct counting.sli_id from ops.slo_versions as counting)
    ) as grouped
    join ops.slo_versions as version
      on version.sli_id = grouped.of_sli_id
  )) as daily
  join ops.slo_versions as version
    on version.slo_name = daily.slo_name
    and version.version = daily.version;
end;
comment on function ops.slo_history() is 'Good and total of each objective, or group of it, by day, each day by the version that held then.';

create function ops.slo_burndown(as_of timestamptz, slo_names text[] default null, only_org_id uuid default null)
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  day_start timestamptz,
  good bigint,
  total bigint,
  consumed numeric,
  budget_left numeric,
  slo_group jsonb
)
language sql
stable
set search_path = ''
begin atomic
  with spans as materialized (
    select grouped.org_id, grouped.slo_group, held.*
    from ops.slo_windows(slo_burndown.as_of, slo_burndown.slo_names) as held
    join ops.groups_of_slis(
      array(
        select distinct series.org_id
        from ops.series
        where slo_burndown.only_org_id is null
          or series.org_id = slo_burndown.only_org_id
      ),
      array(select distinct counting.sli_id from ops.slo_windows(slo_burndown.as_of, slo_burndown.slo_names) as counting)
    ) as grouped
      on grouped.of_sli_id = held.sli_id
  ),
  parts as materialized (
    select part.*
    from ops.slo_parts(array(
      select row(spans.org_id, spans.slo_name, spans.version, spans.window_start, spans.window_end, spans.slo_group)::ops.slo_span from spans
    )) as part
  ),
  days as materialized (
    select daily.*, ops.allowed_losses(daily.total, version.target) as allowed
    from ops.daily_slos(array(
      select row(parts.org_id, parts.slo_name, parts.version, parts.since, parts.until, parts.slo_group)::ops.slo_span from parts
    )) as daily
    join ops.slo_versions as version
      on version.slo_name = daily.slo_name
      and version.version = daily.version
  ),
  -- Windows over the days: joined to their sums by org, objective and group, of which nothing is known here, they became a loop
  -- over all pairs.
  added as (
    select
      days.*,
      held.target,
      held.window_length,
      held.elapsed,
      held.whole_slices,
      sum(days.total - days.good) over so_far as lost_so_far,
      sum(days.allowed) over whole as window_allowed,
      sum(days.total) over whole as window_total
    from days
    join ops.slo_windows(slo_burndown.as_of, slo_burndown.slo_names) as held
      on held.slo_name = days.slo_name
    window
      whole as (partition by days.org_id, days.slo_name, days.slo_group),
      so_far as (whole order by days.day_start, days.version)
  )
  select
    added.org_id,
    added.slo_name,
    added.version,
    added.day_start,
    added.good,
    added.total,
    ops.share_of_budget(added.total - added.good, budget.allowed),
    1 - ops.share_of_budget(added.lost_so_far, budget.allowed),
    added.slo_group
  from added
  cross join lateral (
    select ops.window_budget(
      added.window_allowed, added.window_total, added.target, added.window_length, added.elapsed, added.whole_slices
    ) as allowed
    offset 0
  ) as budget;
end;
comment on function ops.slo_burndown(timestamptz, text[], uuid) is
  'What each day of the running window consumed of the budget of the whole window, and what was left after it; the last row is the budget left now. A day of a change has a row for each version. slo_names null: all objectives; only_org_id null: all orgs.';

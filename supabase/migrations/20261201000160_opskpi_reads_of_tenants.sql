-- Reads of tenants: plans that need no statistics of labels, which row level security withholds, and fewer reads of the same rows.

create or replace function ops.last_counts(as_of timestamptz, org_ids uuid[], sli_ids bigint[], fresh ops.sli_delta[] default '{}')
returns table (org_id uuid, sli_id bigint, last_counted_at timestamptz)
language sql
stable
set search_path = ''
-- The planner takes both lists for a few rows, and would go through all fresh counts for each key.
set enable_nestloop = off
set jit = off
begin atomic
  with fresh as (
    select
      delta.org_id,
      delta.sli_id,
      max(delta.bucket_start) filter (where delta.total > 0) as last_counted_at,
      array_agg(delta.bucket_start) filter (where delta.total <= 0) as left_at,
      array_agg(-delta.total) filter (where delta.total <= 0) as left_totals
    from unnest(last_counts.fresh) as delta
    where delta.bucket_start <= last_counts.as_of
    group by 1, 2
  )
  select asked.org_id, asked.sli_id, greatest(newest.bucket_start, fresh.last_counted_at)
  from unnest(last_counts.org_ids, last_counts.sli_ids) as asked (org_id, sli_id)
  left join fresh
    on fresh.org_id = asked.org_id
    and fresh.sli_id = asked.sli_id
  left join lateral (
    select bucket.bucket_start
    from ops.sli_counts as bucket
    where bucket.org_id = asked.org_id
      and bucket.sli_id = asked.sli_id
      and bucket.bucket_start <= last_counts.as_of
      -- Units of work that all move to an earlier attempt leave nothing behind.
      and (bucket.bucket_start, bucket.total) not in (
        select gone.bucket_start, gone.total from unnest(fresh.left_at, fresh.left_totals) as gone (bucket_start, total)
      )
    order by bucket.bucket_start desc
    limit 1
  ) as newest on true;
end;

create or replace function ops.daily_slos(spans ops.slo_span[])
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

create or replace function ops.slo_burndown(as_of timestamptz, slo_names text[] default null, only_org_id uuid default null)
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

create or replace view ops.kpis
with (security_invoker = true)
as
with fresh as materialized (
  select fresh_kpi.*
  from ops.fresh_kpis() as fresh_kpi
)
select
  stored.org_id,
  stored.metric_name,
  stored.labels,
  stored.aggregation_period,
  stored.period_start,
  stored.period_end,
  stored.metadata ->> 'unit' as unit,
  stored.metric_value,
  (stored.metadata ->> 'numerator')::numeric as numerator,
  (stored.metadata ->> 'denominator')::numeric as denominator,
  (stored.metadata ->> 'sample_count')::bigint as sample_count
from public.kpi_aggregations as stored
-- "not in" is hashed whatever the planner expects. "not exists" became a loop over all fresh rows for each stored one where a
-- reader asks for labels, of which row level security hides the statistics: 43 s for 1,200 teams.
where (stored.org_id, stored.metric_name, stored.aggregation_period, stored.period_start, stored.labels) not in (
  select fresh.org_id, fresh.metric_name, fresh.period, fresh.period_start, fresh.labels
  from fresh
)
union all
select
  fresh.org_id,
  fresh.metric_name,
  fresh.labels,
  fresh.period,
  fresh.period_start,
  ops.period_end(fresh.period, fresh.period_start, ops.time_zone()),
  fresh.unit,
  round(fresh.metric_value, 6),
  fresh.numerator,
  fresh.denominator,
  fresh.sample_count
from fresh
where fresh.metric_value is not null;

create or replace view public.v_ops_kpi_latest
with (security_invoker = true)
as
with placed as (
  select
    kpi.*,
    max(kpi.period_start) over (partition by kpi.org_id, kpi.metric_name, kpi.aggregation_period) as newest_start
  from ops.kpis as kpi
  -- An event of a clock that is ahead must not hide the present.
  where kpi.period_start <= now()
)
select
  kpi.org_id,
  kpi.metric_name,
  kpi.metric_value,
  kpi.unit,
  kpi.aggregation_period,
  kpi.period_start,
  kpi.period_end,
  kpi.period_end <= now() as complete,
  kpi.labels,
  kpi.numerator,
  kpi.denominator,
  kpi.sample_count,
  definition.description
from placed as kpi
left join ops.kpi_definitions as definition
  on definition.metric_name = kpi.metric_name
where kpi.period_start = kpi.newest_start
order by kpi.org_id, kpi.metric_name, kpi.aggregation_period, kpi.labels;

create or replace view public.v_ops_slo_status
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
  version.counted_since,
  evaluated.slo_group,
  evaluated.freshness,
  evaluated.stale_since,
  evaluated.allowed,
  evaluated.versions,
  evaluated.budget_basis
from ops.evaluate_slos(now(), true, null) as evaluated
join (
  select known.slo_name, known.version, nullif(sli.counted_since, '-infinity') as counted_since
  from ops.slo_versions as known
  join ops.slis as sli
    on sli.sli_id = known.sli_id
  -- A barrier: joined one after the other, the second is looked for row by row.
  offset 0
) as version
  on version.slo_name = evaluated.slo_name
  and version.version = evaluated.version
order by ops.status_rank(evaluated.status), evaluated.budget_left, evaluated.slo_name, evaluated.slo_group, evaluated.org_id;

create or replace view public.v_ops_hook_teams
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

create or replace function ops.filtered_sums(
  period text,
  since timestamptz,
  until timestamptz,
  filters jsonb,
  only_event_type text,
  kept text[],
  org_id uuid
)
returns setof ops.kpi_sum
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- Nothing tells the planner how many series have the labels of filters; taking them for one, it loops over all pairs.
set enable_nestloop = off
set jit = off
as $$
#variable_conflict use_column
declare
  fresh constant ops.rollup_delta[] := array(
    select delta
    from ops.rollup_deltas(array(
      select event from ops.count_events(ops.fresh_ids(), '-infinity', 'infinity') as event
    )) as delta
    where delta.org_id = filtered_sums.org_id
  );
begin
  return query
  with members as materialized (
    select kpi_group.metric_name, kpi_group.event_type, kpi_group.series_labels, kpi_group.in_numerator
    from ops.kpi_groups(array(
      select row(kind.event_type, kind.labels)::ops.series_kind
      from (
        select series.event_type, series.labels
        from ops.series
        where series.org_id = filtered_sums.org_id
        union
        -- Labels that are new belong to no series yet.
        select delta.event_type, delta.labels from unnest(fresh) as delta
      ) as kind
    )) as kpi_group
    where kpi_group.group_labels = '{}'
      and kpi_group.series_labels @> filtered_sums.filters
      and (filtered_sums.only_event_type is null or kpi_group.event_type = filtered_sums.only_event_type)
      and kpi_group.metric_name <> all (filtered_sums.kept)
  ),
  parts as materialized (
    select series.event_type, series.labels, rollup.period_start, rollup.event_count, rollup.value_count, rollup.value_sum
    from ops.rollups as rollup
    join ops.series
      on series.org_id = rollup.org_id
      and series.series_id = rollup.series_id
    where rollup.org_id = filtered_sums.org_id
      and rollup.period = filtered_sums.period
      and rollup.period_start >= filtered_sums.since
      and rollup.period_start < filtered_sums.until
      and series.labels @> filtered_sums.filters
    union all
    select delta.event_type, delta.labels, delta.period_start, delta.event_count, delta.value_count, delta.value_sum
    from unnest(fresh) as delta
    where delta.period = filtered_sums.period
      and delta.period_start >= filtered_sums.since
      and delta.period_start < filtered_sums.until
      and delta.labels @> filtered_sums.filters
  )
  select
    filtered_sums.org_id,
    members.metric_name,
    filtered_sums.filters,
    filtered_sums.period,
    parts.period_start,
    sum(parts.event_count),
    coalesce(sum(parts.event_count) filter (where members.in_numerator), 0),
    sum(parts.value_count),
    sum(parts.value_sum)
  from members
  join parts
    on parts.event_type = members.event_type
    and parts.labels = members.series_labels
  group by members.metric_name, parts.period_start;
end;
$$;

create or replace function ops.activity(
  period text,
  since timestamptz,
  until timestamptz,
  filters jsonb default '{}',
  only_event_type text default null,
  org_id uuid default null
)
returns table (event_type text, period_start timestamptz, events bigint, failures bigint)
language plpgsql
stable
set search_path = ''
set plan_cache_mode = force_custom_plan
-- Under row level security the planner has no statistics of labels; taking the series that have them for one, it looked for
-- the rollups of each (106 s for the teams page of 1,000 teams, where hashing takes 0.4 s).
set enable_nestloop = off
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(activity.org_id);
  spans record;
begin
  select * into strict spans from ops.period_window(activity.period, activity.since, activity.until, activity.until);
  return query
  select
    part.event_type,
    part.period_start,
    sum(part.event_count)::bigint,
    coalesce(sum(part.event_count) filter (where part.labels ->> 'outcome' = 'failure'), 0)::bigint
  from ops.rollup_parts as part
  where part.org_id = owner_id
    and part.period = activity.period
    and part.period_start >= spans.window_start
    and part.period_start < spans.window_end
    and part.event_type <> 'slsa_audit_metrics'
    and (activity.only_event_type is null or part.event_type = activity.only_event_type)
    and (activity.filters = '{}' or part.labels @> activity.filters)
  group by 1, 2
  order by 1, 2;
end;
$$;

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
-- As for ops.activity.
set enable_nestloop = off
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
  -- By team and period first, so that what is placed below is few.
  with teams as materialized (
    select
      part.labels ->> 'team' as team,
      part.period_start,
      sum(part.event_count) as executions,
      sum(part.event_count) filter (where part.labels ->> 'result' = 'overridden') as overridden,
      sum(part.event_count) filter (where part.labels ->> 'result' = 'blocked') as blocked,
      sum(part.event_count) filter (where part.labels ->> 'result' in ('allowed', 'blocked', 'overridden')) as decided
    from ops.rollup_parts as part
    where part.org_id = owner_id
      and part.period = team_compliance.period
      and part.period_start >= spans.previous_start
      and part.period_start < spans.window_end
      and part.event_type = 'hook_execution'
      -- Not by "?", which the planner takes for one row in a hundred.
      and part.labels ->> 'team' is not null
      and (team_compliance.filters = '{}' or part.labels @> team_compliance.filters)
    group by 1, 2
  )
  select
    teams.team,
    place.part,
    case place.part when 'period' then teams.period_start end,
    sum(teams.executions)::bigint,
    coalesce(sum(teams.overridden), 0)::bigint,
    coalesce(sum(teams.blocked), 0)::bigint,
    round(100 - 100 * coalesce(sum(teams.overridden), 0) / nullif(sum(teams.decided), 0), 6)
  from teams
  cross join lateral (
    values
      ('period', teams.period_start >= spans.window_start),
      ('whole', teams.period_start >= spans.window_start),
      ('settled', teams.period_start >= spans.window_start and teams.period_start < spans.settled_end),
      ('previous', teams.period_start < spans.window_start)
  ) as place (part, is_in)
  where place.is_in
  group by 1, 2, 3
  order by 1, 2, 3;
end;
$$;

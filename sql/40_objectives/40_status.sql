-- The status of objectives: one row per org and objective.

create function ops.fresh_slis()
returns setof ops.sli_delta
language sql
stable
set search_path = ''
begin atomic
  select delta.*
  from ops.count_attempts(ops.fresh_ids(), '-infinity', 'infinity') as delta
  union all
  select delta.*
  from ops.unit_slis(array(
    select changed
    from ops.changed_units(array(
      select attempted from ops.count_units(ops.fresh_ids()) as attempted
    )) as changed
  )) as delta;
end;
comment on function ops.fresh_slis() is 'What the events behind the cursor add to the SLI counts, as the next refresh would.';

create function ops.counted_groups(slo_name text, org_id uuid)
returns jsonb[]
language sql
stable
set search_path = ''
begin atomic
  select array(
    select grouped.slo_group
    from (
      select known.sli_id
      from ops.slo_versions as known
      where known.slo_name = counted_groups.slo_name
      order by known.version desc
      limit 1
    ) as version
    cross join lateral ops.groups_of_slis(
      array[counted_groups.org_id],
      array[version.sli_id],
      array(select row(delta.*)::ops.sli_delta from ops.fresh_slis() as delta where delta.org_id = counted_groups.org_id)
    ) as grouped
    where grouped.slo_group <> '{}'
    order by 1
  );
end;
comment on function ops.counted_groups(text, uuid) is
  'The groups of an objective in which an org has counted something, events behind the cursor included.';

create function ops.last_counts(as_of timestamptz, org_ids uuid[], sli_ids bigint[], fresh ops.sli_delta[] default '{}')
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
comment on function ops.last_counts(timestamptz, uuid[], bigint[], ops.sli_delta[]) is
  'The start of the last five minutes up to as_of in which each org counted something under the key at the same place of the lists, fresh counts included; null: never.';

create function ops.slo_status(
  lost numeric,
  total numeric,
  allowed numeric,
  target numeric,
  events_needed bigint,
  is_burning boolean,
  is_silent boolean
)
returns text
language sql
immutable
set search_path = ''
return case
  when total = 0 or is_silent then 'no_data'
  when ops.is_overspent(lost, allowed, target) then 'breached'
  when events_needed > 0 then 'insufficient'
  when 1 - ops.share_of_budget(lost, allowed) < 0.25 or is_burning then 'at_risk'
  else 'ok'
end;
comment on function ops.slo_status(numeric, numeric, numeric, numeric, bigint, boolean, boolean) is
  'The status of an objective in a word: ok, at_risk, breached, insufficient or no_data, whether or not its counts are fresh.';

create function ops.status_rank(status text)
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
          then greatest(done.last_whole_at, coalesce(cursor.advanced_at, cursor.moved_at))
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

create function ops.orgs_with_objectives(fresh ops.sli_delta[] default '{}')
returns setof uuid
language sql
stable
set search_path = ''
begin atomic
  select series.org_id from ops.series
  union
  select delta.org_id from unnest(orgs_with_objectives.fresh) as delta
  union
  -- Before the first event there is the caller's org to show without data.
  select caller.org_id
  from (select ops.current_org_id() as org_id) as caller
  where caller.org_id is not null
    and not exists (select from ops.series);
end;
comment on function ops.orgs_with_objectives(ops.sli_delta[]) is
  'The orgs for which objectives are judged: those with counted or fresh events, or the caller''s alone while nothing is counted.';

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
  stale_since timestamptz,
  allowed numeric,
  versions integer[],
  budget_basis text
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
      measured.total - measured.good,
      measured.total,
      budget.allowed,
      promised.target,
      needed.events,
      exists (
        select
        from (
          values
            (interval '1 hour', 0.02, measured.burn_1h, measured.burn_5m, measured.lost_1h),
            (interval '6 hours', 0.05, measured.burn_6h, measured.burn_30m, measured.lost_6h)
        ) as burning (length, budget_share, long_burn, short_burn, lost)
        cross join lateral (select ops.alert_factor(burning.budget_share, promised.window_length, burning.length) as factor) as rule
        where ops.burns_share(burning.long_burn, burning.short_burn, rule.factor, burning.lost, budget.allowed, burning.budget_share)
          and ops.useless_because(rule.factor, promised.window_length, burning.length, promised.target) is null
      ),
      -- From the start of its five minutes, so that two intervals are never exceeded. Of stale counts as of them: nobody
      -- can tell the silence of the input from that of the jobs.
      newest.last_counted_at < coalesce(jobs.stale_since, evaluate_slos.as_of) - promised.silent_after
    ),
    promised.target,
    measured.good::numeric / nullif(measured.total, 0),
    measured.good,
    measured.total,
    left_over.remaining,
    measured.burn_1h,
    measured.burn_6h,
    measured.burn_1d,
    measured.burn_3d,
    ops.time_to_exhaustion(promised.window_length, measured.burn_1d, left_over.remaining),
    needed.events,
    promised.window_start,
    evaluate_slos.as_of,
    promised.version,
    promised.budgeting_method,
    promised.window_length,
    newest.last_counted_at,
    measured.good_unadjusted,
    measured.total_unadjusted,
    1 - ops.share_of_budget(
      measured.total_unadjusted - measured.good_unadjusted,
      ops.window_budget(
        measured.allowed_unadjusted, measured.total_unadjusted, promised.target, promised.window_length, promised.elapsed, promised.whole_slices
      )
    ),
    measured.slo_group,
    jobs.freshness,
    jobs.stale_since,
    budget.allowed,
    measured.versions,
    promised.budget_basis
  from measured
  cross join jobs
  join promised
    on promised.slo_name = measured.slo_name
  join newest
    on newest.org_id = measured.org_id
    and newest.sli_id = ops.group_key(promised.sli_id, measured.slo_group)
  cross join lateral (
    select ops.window_budget(
      measured.allowed, measured.total, promised.target, promised.window_length, promised.elapsed, promised.whole_slices
    ) as allowed
    offset 0
  ) as budget
  cross join lateral (
    select 1 - ops.share_of_budget(measured.total - measured.good, budget.allowed) as remaining offset 0
  ) as left_over
  cross join lateral (
    select ops.events_needed(promised.target, measured.total, promised.whole_slices) as events offset 0
  ) as needed;
end;
comment on function ops.evaluate_slos(timestamptz, boolean, text[]) is
  'One row an org and objective, or group of it, by the version that held at as_of: status (ok, at_risk, breached, insufficient, no_data), counts of its window, budget and burn rates, and whether its counts are fresh or stale and since when; with_fresh adds the events behind the cursor; slo_names null: all. allowed: how many of the whole window may be bad, as budget_basis says: of what is counted (counted), of what the calendar period is expected to come to (expected), or of its slices (slices). versions: those that judge the window, each its own time.';

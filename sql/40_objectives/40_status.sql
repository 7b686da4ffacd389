-- The status of objectives: one row per org and objective.

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

create function ops.last_counts(as_of timestamptz, org_ids uuid[], sli_ids bigint[], fresh ops.sli_delta[] default '{}')
returns table (org_id uuid, sli_id bigint, last_counted_at timestamptz)
language sql
stable
set search_path = ''
begin atomic
  with fresh as materialized (
    select delta.org_id, delta.sli_id, delta.bucket_start, delta.total
    from unnest(last_counts.fresh) as delta
    where delta.bucket_start <= last_counts.as_of
  )
  select org.id, sli.id, newest.last_counted_at
  from unnest(last_counts.org_ids) as org (id)
  cross join unnest(last_counts.sli_ids) as sli (id)
  cross join lateral (
    select max(counted.bucket_start) as last_counted_at
    from (
      (
        select bucket.bucket_start
        from ops.sli_counts as bucket
        where bucket.org_id = org.id
          and bucket.sli_id = sli.id
          and bucket.bucket_start <= last_counts.as_of
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
      where fresh.org_id = org.id
        and fresh.sli_id = sli.id
        and fresh.total > 0
    ) as counted
  ) as newest;
end;
comment on function ops.last_counts(timestamptz, uuid[], bigint[], ops.sli_delta[]) is
  'The start of the last five minutes up to as_of in which each SLI counted something for each org, fresh counts included; null: never.';

create function ops.slo_status(
  lost numeric,
  total numeric,
  allowed numeric,
  target numeric,
  events_needed bigint,
  is_burning boolean,
  is_silent boolean,
  last_refresh_at timestamptz,
  stale_before timestamptz
)
returns text
language sql
immutable
set search_path = ''
return case
  when last_refresh_at is null and total = 0 then 'no_data'
  when last_refresh_at is null or last_refresh_at < stale_before then 'stale'
  when total = 0 or is_silent then 'no_data'
  when ops.is_overspent(lost, allowed, target) then 'breached'
  when events_needed > 0 then 'insufficient'
  when 1 - ops.share_of_budget(lost, allowed) < 0.25 or is_burning then 'at_risk'
  else 'ok'
end;
comment on function ops.slo_status(numeric, numeric, numeric, numeric, bigint, boolean, boolean, timestamptz, timestamptz) is
  'The status of an objective in a word: ok, at_risk, breached, insufficient, no_data or stale. Stale is what was counted last before stale_before.';

create function ops.status_rank(status text)
returns integer
language sql
immutable
set search_path = ''
return array_position(array['breached', 'at_risk', 'stale', 'insufficient', 'no_data', 'ok'], status_rank.status);
comment on function ops.status_rank(text) is 'The place of a status where the worst come first: 1 is breached, 6 is ok; null for another word.';

create function ops.last_refresh_at()
returns timestamptz
language sql
stable
set search_path = ''
return (
  select max(run.finished_at)
  from ops.job_runs as run
  where run.job = 'refresh'
    and run.outcome in ('success', 'waiting')
);
comment on function ops.last_refresh_at() is 'When a refresh last counted all that it could; null: never.';

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
  measured as materialized (
    select found.*
    from fresh
    cross join lateral ops.measured_slos(
      array(
        select row(org.id, promised.slo_name, promised.version, promised.window_start, promised.window_end)::ops.slo_span
        from orgs
        cross join unnest(orgs.ids) as org (id)
        cross join promised
      ),
      evaluate_slos.as_of,
      fresh.deltas
    ) as found
  ),
  newest as materialized (
    select found.*
    from fresh
    cross join orgs
    cross join lateral ops.last_counts(
      evaluate_slos.as_of, orgs.ids, array(select distinct promised.sli_id from promised), fresh.deltas
    ) as found
  ),
  jobs as materialized (
    select ops.last_refresh_at() as last_refresh_at, evaluate_slos.as_of - 2 * ops.refresh_interval() as stale_before
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
      -- From the start of its five minutes, so that two intervals are never exceeded.
      newest.last_counted_at < evaluate_slos.as_of - promised.silent_after,
      jobs.last_refresh_at,
      jobs.stale_before
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
    budget.allowed,
    measured.versions,
    promised.budget_basis
  from measured
  cross join jobs
  join promised
    on promised.slo_name = measured.slo_name
  join newest
    on newest.org_id = measured.org_id
    and newest.sli_id = promised.sli_id
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
  'One row an org and objective, by the version that held at as_of: status (ok, at_risk, breached, insufficient, no_data, stale), counts of its window, budget and burn rates; with_fresh adds the events behind the cursor; slo_names null: all. allowed: how many of the whole window may be bad, as budget_basis says: of what is counted (counted), of what the calendar period is expected to come to (expected), or of its slices (slices). versions: those that judge the window, each its own time.';

-- A burn-rate rule begins an alert only where its window really took its share of the budget; calendar windows have the budget of
-- their whole period, and a changed target judges from the change on.
-- The tables of objectives and settings are small; the views have columns more.
-- squawk-ignore-file ban-drop-view, constraint-missing-not-valid

alter type ops.alert_condition add attribute starts boolean;
alter type ops.judged_slo add attribute allowed numeric, add attribute min_failures integer;

drop function ops.scrape;
drop function ops.slo_gauges;
drop function ops.summary_objectives;
drop view public.v_ops_error_budget_burndown;
drop view public.v_ops_slo_status;
drop function ops.simulate_conditions;
drop function ops.slo_burndown;
drop function ops.evaluate_slos;
drop function ops.slo_status;
drop function ops.measured_slos;
drop function ops.slo_windows;
drop function ops.is_overspent;

alter table ops.settings add constraint settings_min_failures_is_a_number check (name <> 'min_failures' or (value ~ '^[1-9][0-9]{0,5}$'));
alter table ops.cursors add column advanced_at timestamptz;
comment on column ops.cursors.moved_at is 'When events were last counted, late ones behind last_id included.';
comment on column ops.cursors.advanced_at is 'When last_id last grew; null: as moved_at says.';

alter table ops.slos add column min_failures integer;
alter table ops.slos add constraint slos_min_failures_is_sensible check (min_failures between 1 and 1000000);
comment on column ops.slos.min_failures is
  'How many bad ones it takes in the long window of a burn-rate rule while one alone exceeds the budget (count); null: as the setting min_failures says.';

create function ops.fill_stretch(sli_ids bigint[], since timestamptz, until timestamptz, counted_ids ops.event_ids)
returns void
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  changes ops.unit_change[];
begin
  perform ops.add_slis(array(
    select delta from ops.count_attempts(counted_ids, since, fill_stretch.until, fill_stretch.sli_ids, true) as delta
  ));
  changes := array(
    select changed
    from ops.changed_units(array(
      select attempted from ops.count_units(counted_ids, since, fill_stretch.until, fill_stretch.sli_ids, true) as attempted
    )) as changed
  );
  perform ops.add_slis(array(select delta from ops.unit_slis(changes) as delta));
  perform ops.write_units(changes);
  update ops.slis
  set filled_until = fill_stretch.until,
      -- Events that retention removed before they were counted are missing for good.
      counted_since = greatest(
        slis.counted_since,
        (
          select removed.removed_until
          from ops.removed_events as removed
          where removed.event_type = slis.event_type
            and removed.removed_until > since
        )
      )
  where slis.sli_id = any (fill_stretch.sli_ids);
end;
$$;
comment on function ops.fill_stretch(bigint[], timestamptz, timestamptz, ops.event_ids) is
  'Counts those of some events that are in a range for some SLIs that lack just these; only fill_slis and a trial call it.';

create or replace function ops.fill_slis(until timestamptz default 'infinity')
returns timestamptz
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  counted_ids ops.event_ids;
  stretch record;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fill_slis needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('ops.refresh', 0));
  counted_ids := ops.counted_ids();
  for stretch in
    select sli.filled_until as since, array_agg(sli.sli_id) as sli_ids
    from ops.slis as sli
    where sli.filled_until < fill_slis.until
    group by 1
  loop
    perform ops.fill_stretch(stretch.sli_ids, stretch.since, fill_slis.until, counted_ids);
  end loop;
  return (select min(sli.filled_until) from ops.slis as sli);
end;
$$;

create function ops.budget_share(factor numeric, slo_window interval, alert_window interval)
returns numeric
language sql
immutable
set search_path = ''
return factor * extract(epoch from alert_window) / extract(epoch from slo_window);
comment on function ops.budget_share(numeric, interval, interval) is
  'The share of the budget of slo_window that alert_window burns at a burn rate of factor: 14.4 over 1 hour of 30 days is 0.02.';

create function ops.share_of_budget(lost numeric, allowed numeric)
returns numeric
language sql
immutable
set search_path = ''
return lost / nullif(allowed, 0);
comment on function ops.share_of_budget(numeric, numeric) is
  'How much of a budget is lost: 1 is all of it. Lost and allowed of one window give its burn rate. Null when nothing is allowed.';

create function ops.window_budget(
  allowed numeric,
  total numeric,
  target numeric,
  slo_window interval,
  elapsed interval,
  whole_slices numeric
)
returns numeric
language sql
immutable
set search_path = ''
return case
  when total > 0 then allowed + ops.allowed_losses(
    coalesce(whole_slices, total * extract(epoch from slo_window) / extract(epoch from elapsed)) - total, target
  )
end;
comment on function ops.window_budget(numeric, numeric, numeric, interval, interval, numeric) is
  'How many of a whole window may be bad: what is allowed of its total so far, and target''s share of what is still to come. That is none where the window has elapsed; else as many again as fit the pace so far, or the rest of whole_slices. Null while nothing is counted.';

create or replace function ops.burn_rate(good numeric, total numeric, target numeric)
returns numeric
language sql
immutable
set search_path = ''
return ops.share_of_budget(total - good, ops.allowed_losses(total, target));

create or replace function ops.budget_left(good numeric, total numeric, target numeric)
returns numeric
language sql
immutable
set search_path = ''
return 1 - ops.share_of_budget(total - good, ops.allowed_losses(total, target));

create function ops.is_overspent(lost numeric, allowed numeric, target numeric)
returns boolean
language sql
immutable
set search_path = ''
return lost > greatest(allowed, ops.allowed_losses(ops.events_to_judge(target), target));
comment on function ops.is_overspent(numeric, numeric, numeric) is
  'Whether more is lost than the budget allows, even if all that is still needed to judge turns out good: 2 of 10 at 99.9 %, not 1 of 10.';

create function ops.burns_share(
  long_burn numeric,
  short_burn numeric,
  factor numeric,
  lost numeric,
  allowed numeric,
  budget_share numeric
)
returns boolean
language sql
immutable
set search_path = ''
return ops.is_burning(long_burn, short_burn, factor) and lost >= budget_share * allowed;
comment on function ops.burns_share(numeric, numeric, numeric, numeric, numeric, numeric) is
  'Whether both windows burn faster than factor, and the long one really lost this share of what the whole SLO window allows: a failure of a quiet night burns fast and takes next to nothing.';

create function ops.begins_alert(
  long_burn numeric,
  short_burn numeric,
  short_total numeric,
  factor numeric,
  lost numeric,
  allowed numeric,
  budget_share numeric,
  events_needed bigint,
  min_failures integer
)
returns boolean
language sql
immutable
set search_path = ''
return coalesce(
  ops.burns_share(long_burn, short_burn, factor, lost, allowed, budget_share)
    and coalesce(short_total > 0, true)
    and (events_needed = 0 or lost >= min_failures),
  false
);
comment on function ops.begins_alert(numeric, numeric, numeric, numeric, numeric, numeric, numeric, bigint, integer) is
  'Whether what burns is enough to begin an alert: the share was really lost, the short window holds something (short_total null: there is none), and at least min_failures were lost where one alone exceeds the budget (events_needed above 0).';

create function ops.events_needed(target numeric, total bigint, whole_slices numeric)
returns bigint
language sql
immutable
set search_path = ''
return greatest(ops.events_to_judge(target) - coalesce(trunc(whole_slices)::bigint, total), 0);
comment on function ops.events_needed(numeric, bigint, numeric) is
  'How many more must be counted until a single failure fits into the budget. The pace of a young period may change, so that events to come count for its budget and not here; its slices are certain.';

create function ops.useless_because(factor numeric, slo_window interval, alert_window interval, target numeric)
returns text
language sql
immutable
set search_path = ''
return case
  when alert_window > slo_window then format(
    'its window of %s is longer than that of the objective, %s', justify_hours(alert_window), justify_hours(slo_window)
  )
  -- At exactly 1 it fires above the rate that spends the budget.
  when factor < 1 then format(
    'its factor is %s, and a burn rate below 1 leaves a part of the budget', trim_scale(round(factor, 4))
  )
  when factor >= ops.highest_burn_rate(target) then format(
    'it can never fire: its factor is %s, and at a target of %s nothing burns faster than %s',
    trim_scale(round(factor, 4)), trim_scale(target), trim_scale(round(ops.highest_burn_rate(target), 4))
  )
end;
comment on function ops.useless_because(numeric, interval, interval, numeric) is
  'Why a burn-rate rule can mean nothing for an objective, in words; null: it means something.';

create function ops.slo_windows(as_of timestamptz, slo_names text[] default null)
returns table (
  slo_name text,
  version integer,
  sli_id bigint,
  service text,
  objective text,
  target numeric,
  budgeting_method text,
  expected_interval interval,
  window_length interval,
  window_start timestamptz,
  window_end timestamptz,
  elapsed interval,
  whole_slices numeric,
  budget_basis text
)
language sql
stable
set search_path = ''
begin atomic
  select
    held.slo_name,
    held.version,
    held.sli_id,
    held.service,
    held.objective,
    held.target,
    held.budgeting_method,
    held.expected_interval,
    lasting.window_length,
    lasting.window_start,
    lasting.window_end,
    case when basis.name = 'expected' then greatest(slo_windows.as_of - lasting.window_start, interval '5 minutes') else lasting.window_length end,
    case when basis.name = 'slices' then extract(epoch from lasting.window_length) / extract(epoch from held.time_slice) end,
    basis.name
  from ops.slo_versions as held
  cross join lateral (
    select
      ops.slo_window_length(held.rolling_window, held.calendar_period, held.time_zone, slo_windows.as_of) as window_length,
      -- A window begins with the five minutes that hold its first instant.
      date_bin(
        '5 minutes',
        ops.slo_window_start(held.rolling_window, held.calendar_period, held.time_zone, slo_windows.as_of),
        timestamptz '1969-12-29 00:00+00'
      ) as window_start,
      date_bin('5 minutes', slo_windows.as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes' as window_end
    -- A barrier: each is used several times.
    offset 0
  ) as lasting
  cross join lateral (
    select case
      when held.calendar_period is null then 'counted'
      when held.time_slice is not null then 'slices'
      when lasting.window_start + lasting.window_length > lasting.window_end then 'expected'
      else 'counted'
    end as name
  ) as basis
  where held.valid_from <= slo_windows.as_of
    and held.valid_until > slo_windows.as_of
    and (slo_windows.slo_names is null or held.slo_name = any (slo_windows.slo_names));
end;
comment on function ops.slo_windows(timestamptz, text[]) is
  'One row per objective with the version that held at as_of and its window, in whole five minutes up to the ones that hold as_of; slo_names null: all objectives. budget_basis: the budget is that of what is counted (counted), of what a calendar period will come to at the pace since it began, which is elapsed ago (expected), or of its whole_slices (slices).';

create function ops.slo_parts(windows ops.slo_span[])
returns table (
  org_id uuid,
  slo_name text,
  window_version integer,
  window_since timestamptz,
  window_until timestamptz,
  version integer,
  since timestamptz,
  until timestamptz,
  target numeric,
  slo_group jsonb
)
language sql
stable
set search_path = ''
begin atomic
  with asked as materialized (
    select span.org_id, span.slo_name, span.slo_group, span.version, span.since, span.until from unnest(slo_parts.windows) as span
  ),
  -- A version judges until it ends; the time before it that no version held, from the end of the one before.
  judging as materialized (
    select
      held.slo_name,
      held.version as held_version,
      earlier.version,
      earlier.target,
      coalesce(lag(earlier.valid_until) over (partition by held.slo_name, held.version order by earlier.version), '-infinity') as since,
      case when earlier.version = held.version then 'infinity' else earlier.valid_until end as until
    from (select distinct asked.slo_name, asked.version from asked) as held
    join ops.slo_versions as known
      on known.slo_name = held.slo_name
      and known.version = held.version
    join ops.slo_versions as earlier
      on earlier.slo_name = held.slo_name
      and earlier.version <= held.version
      -- Events and slices, or slices of two lengths, do not add up, nor do groups by other labels: a version that counts others
      -- judges all of its window.
      and earlier.time_slice is not distinct from known.time_slice
    join ops.slis as known_sli
      on known_sli.sli_id = known.sli_id
    join ops.slis as earlier_sli
      on earlier_sli.sli_id = earlier.sli_id
      and earlier_sli.group_by = known_sli.group_by
  )
  select
    asked.org_id,
    asked.slo_name,
    asked.version,
    asked.since,
    asked.until,
    judging.version,
    greatest(asked.since, judging.since),
    least(asked.until, judging.until),
    judging.target,
    asked.slo_group
  from asked
  join judging
    on judging.slo_name = asked.slo_name
    and judging.held_version = asked.version
  where greatest(asked.since, judging.since) < least(asked.until, judging.until);
end;
comment on function ops.slo_parts(ops.slo_span[]) is
  'Windows of versions, cut where a version took over from another: each part with the version that judges it, and its target.';

create function ops.sum_windows(windows ops.slo_span[], fresh ops.sli_delta[] default '{}')
returns table (
  org_id uuid,
  slo_name text,
  version integer,
  since timestamptz,
  until timestamptz,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint,
  allowed numeric,
  allowed_unadjusted numeric,
  versions integer[],
  slo_group jsonb
)
language sql
stable
set search_path = ''
set jit = off
begin atomic
  with parts as materialized (
    select part.* from ops.slo_parts(sum_windows.windows) as part
  ),
  -- By itself, so that the planner takes it for many rows and hashes it.
  sums as materialized (
    select summed.*
    from ops.sum_slos(
      array(select distinct row(parts.org_id, parts.slo_name, parts.version, parts.since, parts.until, parts.slo_group)::ops.slo_span from parts),
      sum_windows.fresh
    ) as summed
  )
  select
    parts.org_id,
    parts.slo_name,
    parts.window_version,
    parts.window_since,
    parts.window_until,
    sum(sums.good)::bigint,
    sum(sums.total)::bigint,
    sum(sums.good_unadjusted)::bigint,
    sum(sums.total_unadjusted)::bigint,
    sum(ops.allowed_losses(sums.total, parts.target)),
    sum(ops.allowed_losses(sums.total_unadjusted, parts.target)),
    array_agg(parts.version order by parts.version),
    parts.slo_group
  from parts
  join sums
    on sums.org_id = parts.org_id
    and sums.slo_name = parts.slo_name
    and sums.slo_group = parts.slo_group
    and sums.version = parts.version
    and sums.since = parts.since
    and sums.until = parts.until
  group by parts.org_id, parts.slo_name, parts.window_version, parts.window_since, parts.window_until, parts.slo_group;
end;
comment on function ops.sum_windows(ops.slo_span[], ops.sli_delta[]) is
  'Good and total of windows of versions as sum_slos gives them, each part of a window by the version that held then; allowed: how many of the total may be bad; versions: those that judge a part. One row a window.';

create function ops.measured_slos(windows ops.slo_span[], as_of timestamptz, fresh ops.sli_delta[] default '{}')
returns table (
  org_id uuid,
  slo_name text,
  good bigint,
  total bigint,
  good_unadjusted bigint,
  total_unadjusted bigint,
  burn_5m numeric,
  burn_30m numeric,
  burn_1h numeric,
  burn_6h numeric,
  burn_1d numeric,
  burn_3d numeric,
  slo_group jsonb,
  allowed numeric,
  allowed_unadjusted numeric,
  lost_1h bigint,
  lost_6h bigint,
  versions integer[]
)
language sql
stable
set search_path = ''
set jit = off
begin atomic
  with spans as materialized (
    select span.org_id, span.slo_name, span.slo_group, span.version, named.window_name, named.since, named.until
    from unnest(measured_slos.windows) as span
    cross join lateral (
      select 'all' as window_name, span.since, span.until
      union all
      select burning.window_name, burning.since, burning.until
      from ops.burn_windows(measured_slos.as_of) as burning
    ) as named
  ),
  sums as materialized (
    select summed.*
    from ops.sum_windows(
      array(
        select distinct row(spans.org_id, spans.slo_name, spans.version, spans.since, spans.until, spans.slo_group)::ops.slo_span from spans
      ),
      measured_slos.fresh
    ) as summed
  )
  select
    spans.org_id,
    spans.slo_name,
    max(sums.good) filter (where spans.window_name = 'all'),
    max(sums.total) filter (where spans.window_name = 'all'),
    max(sums.good_unadjusted) filter (where spans.window_name = 'all'),
    max(sums.total_unadjusted) filter (where spans.window_name = 'all'),
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '5m'),
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '30m'),
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '1h'),
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '6h'),
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '1d'),
    max(ops.share_of_budget(sums.total - sums.good, sums.allowed)) filter (where spans.window_name = '3d'),
    spans.slo_group,
    max(sums.allowed) filter (where spans.window_name = 'all'),
    max(sums.allowed_unadjusted) filter (where spans.window_name = 'all'),
    max(sums.total - sums.good) filter (where spans.window_name = '1h'),
    max(sums.total - sums.good) filter (where spans.window_name = '6h'),
    max(sums.versions) filter (where spans.window_name = 'all')
  from spans
  join sums
    on sums.org_id = spans.org_id
    and sums.slo_name = spans.slo_name
    and sums.slo_group = spans.slo_group
    and sums.since = spans.since
  group by 1, 2, spans.slo_group;
end;
comment on function ops.measured_slos(ops.slo_span[], timestamptz, ops.sli_delta[]) is
  'One row per org and objective (or group of it) of the list: the counts of its whole window, exclusions applied and (unadjusted) not, and its burn rates as of an instant; allowed: how many of what is counted may be bad; versions: those that judge the window; fresh is added to what is stored.';

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

create or replace function ops.counting_freshness(as_of timestamptz)
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
    select daily.*, ops.allowed_losses(daily.total, parts.target) as allowed
    from ops.daily_slos(array(
      select row(parts.org_id, parts.slo_name, parts.version, parts.since, parts.until, parts.slo_group)::ops.slo_span from parts
    )) as daily
    join parts
      on parts.org_id = daily.org_id
      and parts.slo_name = daily.slo_name
      and parts.slo_group = daily.slo_group
      and parts.version = daily.version
  ),
  budgets as materialized (
    select
      spans.org_id,
      spans.slo_name,
      spans.slo_group,
      ops.window_budget(counted.allowed, counted.total, spans.target, spans.window_length, spans.elapsed, spans.whole_slices) as allowed
    from spans
    join (
      select days.org_id, days.slo_name, days.slo_group, sum(days.allowed) as allowed, sum(days.total) as total
      from days
      group by 1, 2, 3
    ) as counted
      on counted.org_id = spans.org_id
      and counted.slo_name = spans.slo_name
      and counted.slo_group = spans.slo_group
  )
  select
    days.org_id,
    days.slo_name,
    days.version,
    days.day_start,
    days.good,
    days.total,
    ops.share_of_budget(days.total - days.good, budgets.allowed),
    1 - ops.share_of_budget(sum(days.total - days.good) over so_far, budgets.allowed),
    days.slo_group
  from days
  join budgets
    on budgets.org_id = days.org_id
    and budgets.slo_name = days.slo_name
    and budgets.slo_group = days.slo_group
  window so_far as (partition by days.org_id, days.slo_name, days.slo_group order by days.day_start, days.version);
end;
comment on function ops.slo_burndown(timestamptz, text[], uuid) is
  'What each day of the running window consumed of the budget of the whole window, and what was left after it; the last row is the budget left now. A day of a change has a row for each version. slo_names null: all objectives; only_org_id null: all orgs.';

create or replace function ops.stored_losses(account ops.slo_account, only_org_id uuid default null)
returns table (
  org_id uuid,
  counted_at timestamptz,
  event_timestamp timestamptz,
  event_id uuid,
  run_id bigint,
  tag text,
  reason text
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  -- Once, and not for each event that is looked at.
  counted_until constant bigint := ops.cursor_id();
  missing constant int8multirange := ops.missing_ids();
begin
  if account.objective <> 'availability' then
    return query
    select judged.org_id, judged.event_timestamp, judged.event_timestamp, judged.event_id, judged.run_id, judged.tag, judged.reason
    from (
      select event.*, ops.lost_because(account, event) as reason
      from ops.sli_events as event
      where event.event_type = account.event_type
        and event.id <= counted_until
        and not event.id <@ missing
        and event.event_timestamp < account.filled_until
        and event.event_timestamp >= account.since
        and event.event_timestamp < account.until
        and (stored_losses.only_org_id is null or event.org_id = stored_losses.only_org_id)
        -- Most events are good by themselves: only where labels can make them bad is each of these judged.
        and (
          account.good_labels <> '{}'
          or account.bad_labels is not null
          or case account.objective
            when 'latency' then event.duration_ms >= account.threshold_ms
            when 'measured' then event.value > account.at_most
            else event.outcome = 'failure'
          end
        )
        and ops.is_admitted(account, event)
      -- A barrier: each is judged once.
      offset 0
    ) as judged
    where judged.reason is not null;
    return;
  end if;
  -- A unit of work costs once, however often it was tried; its last attempt stands for it.
  return query
  with lost_units as materialized (
    select unit.org_id, unit.unit, unit.first_attempt_at
    from ops.work_units as unit
    where unit.sli_id = account.sli_id
      and not unit.succeeded
      and unit.first_attempt_at >= account.since
      and unit.first_attempt_at < account.until
      and (stored_losses.only_org_id is null or unit.org_id = stored_losses.only_org_id)
  )
  select distinct on (lost_units.org_id, lost_units.unit)
    lost_units.org_id,
    lost_units.first_attempt_at,
    attempt.event_timestamp,
    attempt.event_id,
    attempt.run_id,
    attempt.tag,
    ops.loss_reason(account.objective, null, null)
  from lost_units
  join ops.sli_events as attempt
    on attempt.org_id = lost_units.org_id
    and attempt.unit = lost_units.unit
    and attempt.event_type = account.event_type
    and attempt.event_timestamp >= account.since
    and attempt.id <= counted_until
    and not attempt.id <@ missing
    and attempt.event_timestamp < account.filled_until
    and attempt.outcome is not null
    and (account.total_labels = '{}' and account.group_by = '{}' or ops.is_admitted(account, attempt))
  order by lost_units.org_id, lost_units.unit, attempt.event_timestamp desc, attempt.event_id;
end;
$$;

create or replace function ops.explain_slo(
  slo_name text,
  since timestamptz,
  until timestamptz,
  only_org_id uuid default null,
  only_group jsonb default null
)
returns table (
  org_id uuid,
  version integer,
  event_timestamp timestamptz,
  event_id uuid,
  event_type text,
  run_id bigint,
  tag text,
  reason text,
  cost numeric,
  slo_group jsonb
)
language plpgsql
stable
set search_path = ''
as $$
#variable_conflict use_variable
declare
  account ops.slo_account;
  known jsonb[];
  explained jsonb;
begin
  if since is null or until is null or since >= until then
    raise exception 'the range to explain is empty: % to %', since, until
      using errcode = 'OP001', hint = 'Pass since before until; the range is half-open.';
  end if;
  account := ops.slo_account(slo_name, since, until);
  known := case
    when account.group_by = '{}' then array[jsonb '{}']
    else array(
      select distinct counted.slo_group
      from ops.sli_groups as counted
      where counted.of_sli_id = account.of_sli_id
        and (only_org_id is null or counted.org_id = only_org_id)
      order by 1
    )
  end;
  if only_group is not null and only_group <> all (known) then
    raise exception 'the objective % has counted nothing in a group %', slo_name, coalesce(ops.group_name(only_group), only_group::text)
      using errcode = 'OP001',
        hint = case account.group_by
          when '{}' then 'It has no groups.'
          else format('It is grouped by %s; opskpi slo lists the groups.', array_to_string(account.group_by, ' and '))
            || case when ops.overflow_group() = any (known) then ' Values beyond the first 1,000 count in the group overflow.' else '' end
        end;
  end if;
  foreach explained in array case when only_group is null then known else array[only_group] end loop
    account := ops.slo_account(slo_name, since, until, explained);
    return query select found.* from ops.explain_account(account, only_org_id) as found;
  end loop;
end;
$$;

create or replace function ops.count_or_set_aside(ids ops.event_ids, max_ids bigint, as_of timestamptz)
returns ops.counted_range
language plpgsql
volatile
set search_path = ''
as $$
declare
  attempt ops.attempt := ops.next_attempt(ids, max_ids);
  counted ops.counted_range;
  set_aside integer := 0;
  waiting bigint;
begin
  if attempt.is_lost_alone then
    perform ops.set_aside(attempt.ids, 'three attempts to count this event alone were cut off: by a timeout, a cancellation or the end of the server process');
    set_aside := 1;
  end if;
  loop
    begin
      counted := ops.count_range(attempt.ids, as_of);
      exit;
    exception
      when others then
        waiting := ops.events_among(attempt.ids);
        if waiting = 0 or not ops.is_fault_of_events(sqlstate) then
          perform ops.forget_attempt();
          raise;
        elsif waiting = 1 then
          perform ops.set_aside(attempt.ids, format('%s (SQLSTATE %s)', sqlerrm, sqlstate));
          set_aside := set_aside + 1;
        else
          attempt.most_events := waiting / 2;
          attempt.ids := ops.first_events(attempt.ids, attempt.most_events);
        end if;
    end;
  end loop;
  update ops.cursors
  set last_id = (attempt.ids).until_id,
      moved_at = clock_timestamp(),
      advanced_at = case when (attempt.ids).until_id > cursors.last_id then clock_timestamp() else cursors.advanced_at end,
      attempts = (select sequence.last_value from ops.refresh_attempts as sequence),
      -- From there on by doubling: where one event cannot be counted, there may be more.
      most_events = case when 2 * attempt.most_events < max_ids then 2 * attempt.most_events end
  where cursors.name = 'telemetry_events';
  if set_aside > 0 then
    counted.message := format('%s event(s) could not be counted and are set aside; opskpi doctor says what to do', set_aside);
  end if;
  return counted;
end;
$$;

create function ops.useless_rules(slo_name text default null, rule_name text default null)
returns table (slo_name text, rule_name text, is_own boolean, because text, never_fires boolean)
language sql
stable
set search_path = ''
begin atomic
  select slo.slo_name, rule.rule_name, rule.slo_name is not null, longest.because, longest.factor >= ops.highest_burn_rate(slo.target)
  from ops.slos as slo
  join ops.alert_rules as rule
    on rule.slo_name = slo.slo_name
    or (
      rule.slo_name is null
      and rule.is_enabled
      and not exists (select from ops.alert_rules as own where own.slo_name = slo.slo_name and own.kind = rule.kind and own.is_enabled)
    )
  -- Periods of a calendar differ in length: these are in the shortest and in the longest of each, and what means something in either is left.
  cross join lateral (
    select meant.factor, ops.useless_because(meant.factor, period.length, rule.long_window, slo.target) as because
    from (select ops.slo_window_length(slo.rolling_window, slo.calendar_period, slo.time_zone, '2026-02-15 12:00+00') as length) as period
    cross join lateral (select coalesce(rule.factor, ops.alert_factor(rule.budget_share, period.length, rule.long_window)) as factor) as meant
    offset 0
  ) as shortest
  cross join lateral (
    select meant.factor, ops.useless_because(meant.factor, period.length, rule.long_window, slo.target) as because
    from (select ops.slo_window_length(slo.rolling_window, slo.calendar_period, slo.time_zone, '2028-07-15 12:00+00') as length) as period
    cross join lateral (select coalesce(rule.factor, ops.alert_factor(rule.budget_share, period.length, rule.long_window)) as factor) as meant
    offset 0
  ) as longest
  where rule.kind = 'burn_rate'
    and shortest.because is not null
    and longest.because is not null
    and (useless_rules.slo_name is null or slo.slo_name = useless_rules.slo_name)
    and (useless_rules.rule_name is null or rule.rule_name = useless_rules.rule_name);
end;
comment on function ops.useless_rules(text, text) is
  'Burn-rate rules that can mean nothing for an objective that they are for, and why: its own, or the general ones, which leave it out. never_fires: its factor is out of reach. null: every objective, every rule.';

create or replace function ops.check_alert_factor()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
declare
  found record;
begin
  select useless.*
  into found
  from ops.useless_rules(
    slo_name => to_jsonb(new) ->> 'slo_name',
    rule_name => case when tg_table_name = 'alert_rules' then to_jsonb(new) ->> 'rule_name' end
  ) as useless
  where useless.is_own
    and to_jsonb(new) ->> 'slo_name' is not null
  limit 1;
  if found.rule_name is not null then
    raise exception 'the rule % can mean nothing for the objective %: %', found.rule_name, found.slo_name, found.because
      using errcode = 'OP001',
        hint = 'The factor must be at least 1 and below 1 / (1 - target), and long_window at most the window of the objective; leave the rule out, or change these.';
  end if;
  return null;
end;
$$;
comment on function ops.check_alert_factor() is
  'Trigger: refuses a burn-rate rule of an objective that can mean nothing for it.';
comment on type ops.alert_condition is
  'What a rule finds about a subject, or about a group of an objective (else {}). holds: whether it goes on, as an alert that is open stays open; null where the rule cannot tell, and an alert then stays as it is. starts: whether it is enough to begin an alert; null: where it holds.';
comment on type ops.judged_slo is
  'An objective of an org as of an instant, as the rules on it see it. is_seen: its history is filled and its counts are fresh; is_judged: and it has data; silent_after: the length of silence that matters unless a rule names another; detail: its figures for a message; allowed: how many of its whole window may be bad; min_failures: how many bad ones begin an alert while one alone exceeds that.';

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
    sli.filled_until = 'infinity' and status.freshness = 'fresh' and status.status <> 'no_data',
    jsonb_strip_nulls(jsonb_build_object(
      'status', status.status,
      'sli', ops.readable(status.sli),
      'target', ops.readable(status.target),
      'good', status.good,
      'total', status.total,
      'budget_left', ops.readable(status.budget_left),
      'last_seen_at', status.last_counted_at
    )),
    status.slo_group,
    status.allowed,
    coalesce(slo.min_failures, ops.setting('min_failures')::integer, 3)
  from ops.evaluate_slos(as_of, false, slo_names) as status
  join ops.slo_versions as version
    on version.slo_name = status.slo_name
    and version.version = status.version
  join ops.slis as sli
    on sli.sli_id = version.sli_id
  left join ops.slos as slo
    on slo.slo_name = status.slo_name
  -- A group without anything in the window is over: nobody waits for a branch that was merged.
  where status.slo_group = '{}'
    or status.total_unadjusted > 0
    -- Of counts that are stale nobody can tell.
    or status.freshness <> 'fresh';
end;
$$;

create or replace function ops.burn_rate_conditions(judged ops.judged_slo[], as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with ruled as materialized (
    select slo.*, rule.rule_name, rule.long_window, rule.short_window, rule.long_since, rule.short_since, meant.factor,
      coalesce(rule.budget_share, ops.budget_share(meant.factor, slo.window_length, rule.long_window)) as budget_share
    from unnest(judged) as slo
    join ops.rules_of_slos('burn_rate', judged, as_of) as rule
      on rule.slo_name = slo.slo_name
    cross join lateral (
      select coalesce(rule.factor, ops.alert_factor(rule.budget_share, slo.window_length, rule.long_window)) as factor
      offset 0
    ) as meant
    -- A rule for every objective leaves out those for which it can mean nothing.
    where ops.useless_because(meant.factor, slo.window_length, rule.long_window, slo.target) is null
  ),
  -- By itself, so that the planner takes it for many rows and hashes it; joined to the versions it was taken for five, and looped over.
  sums as materialized (
    select
      summed.org_id, summed.slo_name, summed.slo_group, summed.since, summed.total, summed.total - summed.good as lost,
      ops.share_of_budget(summed.total - summed.good, summed.allowed) as burn_rate
    from ops.sum_windows(array(
      select distinct
        row(
          ruled.org_id, ruled.slo_name, ruled.version, windows.since,
          date_bin('5 minutes', as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes',
          ruled.slo_group
        )::ops.slo_span
      from ruled
      cross join lateral (values (ruled.long_since), (ruled.short_since)) as windows (since)
      where windows.since is not null
    )) as summed
  )
  select
    ruled.org_id,
    ruled.rule_name,
    ruled.slo_name,
    ruled.service,
    ruled.version,
    case when ruled.is_judged then ops.is_burning(long_sum.burn_rate, short_sum.burn_rate, ruled.factor) end,
    ruled.detail || jsonb_strip_nulls(jsonb_build_object(
      'long_window', ruled.long_window::text,
      'short_window', ruled.short_window::text,
      'burn_rate_long', ops.readable(long_sum.burn_rate),
      'burn_rate_short', ops.readable(short_sum.burn_rate),
      'factor', ops.readable(ruled.factor),
      'bad_long', long_sum.lost,
      'total_long', long_sum.total,
      'budget_taken', ops.readable(ops.share_of_budget(long_sum.lost, ruled.allowed)),
      'explain_since', ruled.long_since
    )),
    ruled.slo_group,
    ruled.is_judged and ops.begins_alert(
      long_sum.burn_rate, short_sum.burn_rate, short_sum.total, ruled.factor, long_sum.lost, ruled.allowed, ruled.budget_share,
      ruled.events_needed, ruled.min_failures
    )
  from ruled
  left join sums as long_sum
    on long_sum.org_id = ruled.org_id
    and long_sum.slo_name = ruled.slo_name
    and long_sum.slo_group = ruled.slo_group
    and long_sum.since = ruled.long_since
  left join sums as short_sum
    on short_sum.org_id = ruled.org_id
    and short_sum.slo_name = ruled.slo_name
    and short_sum.slo_group = ruled.slo_group
    and short_sum.since = ruled.short_since;
end;
$$;
comment on function ops.burn_rate_conditions(ops.judged_slo[], timestamptz) is
  'What the rules of the kind burn_rate find. An alert goes on while the budget burns faster than the factor in the long window and, where anything is in it, in the short one. It begins where also the long window really lost its share of the budget of the whole SLO window, the short one holds something, and enough are bad where one alone would exceed the budget.';

create or replace function ops.budget_exhausted_conditions(judged ops.judged_slo[], as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    slo.org_id,
    rule.rule_name,
    slo.slo_name,
    slo.service,
    slo.version,
    -- Too few events to judge are enough to find it overspent, and not to find it mended.
    case
      when slo.is_judged and (slo.events_needed = 0 or ops.is_overspent(slo.total - slo.good, slo.allowed, slo.target))
        then ops.is_overspent(slo.total - slo.good, slo.allowed, slo.target)
    end,
    slo.detail || jsonb_build_object('explain_since', slo.window_start),
    slo.slo_group,
    null::boolean
  from unnest(judged) as slo
  join ops.rules_of_slos('budget_exhausted', judged, as_of) as rule
    on rule.slo_name = slo.slo_name;
end;
$$;

create or replace function ops.silent_slo_conditions(judged ops.judged_slo[], as_of timestamptz)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    slo.org_id,
    rule.rule_name,
    slo.slo_name,
    slo.service,
    slo.version,
    -- An empty window is not silence yet: a new day has no events at first.
    case
      when slo.is_seen then coalesce(
        slo.last_counted_at < as_of - coalesce(ops.in_hours(rule.silent_for), slo.silent_after),
        false
      )
    end,
    slo.detail || jsonb_build_object('explain_since', slo.window_start),
    slo.slo_group,
    null::boolean
  from unnest(judged) as slo
  join ops.rules_of_slos('silent_input', judged, as_of) as rule
    on rule.slo_name = slo.slo_name;
end;
$$;

create or replace function ops.kpi_threshold_conditions(as_of timestamptz)
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

create or replace function ops.silent_type_conditions(as_of timestamptz)
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

create or replace function ops.silent_agent_conditions(as_of timestamptz)
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

create or replace function ops.other_conditions(as_of timestamptz)
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

create or replace function ops.evaluate_alerts(as_of timestamptz default now(), kinds text[] default null)
returns ops.alert_report
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  report ops.alert_report;
  started_at timestamptz := clock_timestamp();
  conditions ops.alert_condition[];
begin
  if as_of is null or not isfinite(as_of) then
    raise exception 'alerts are evaluated as of an instant, not of %', as_of
      using errcode = 'OP001', hint = 'Leave it out for now.';
  end if;
  if kinds <> array['silent_jobs'] or array_position(kinds, null) is not null then
    raise exception 'alerts are evaluated all, or silent_jobs alone, not %', kinds
      using errcode = 'OP001', hint = 'Leave kinds out, or pass {silent_jobs}.';
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0)) then
    report.state := 'busy';
    return report;
  end if;
  if exists (select from ops.alert_evaluations as evaluation where evaluation.evaluated_at > as_of and evaluation.evaluated_at <= clock_timestamp()) then
    report.state := 'past';
    return report;
  end if;

  if kinds is null then
    -- First, since an evaluation that runs has not stood still.
    insert into ops.alert_evaluations (evaluated_at) values (as_of)
    on conflict on constraint alert_evaluations_pkey do update set evaluated_at = excluded.evaluated_at;
  end if;
  conditions := array(
    select condition from ops.objective_conditions(as_of) as condition where kinds is null
    union all
    select condition from ops.other_conditions(as_of) as condition where kinds is null
    union all
    select condition from ops.job_conditions(as_of) as condition where kinds is null or 'silent_jobs' = any (kinds)
  );
  report := ops.move_alerts(conditions, as_of, kinds);
  report.queued := ops.queue_notifications(as_of);
  report.state := 'done';
  if kinds is null then
    insert into ops.job_runs (job, started_at, outcome, message)
    values (
      'alerts', started_at, 'success',
      case when report.fired + report.resolved > 0 then format('%s fired, %s over', report.fired, report.resolved) end
    );
  end if;
  return report;
end;
$$;

create or replace function ops.open_alerts(conditions ops.alert_condition[], kinds text[])
returns table (
  org_id uuid,
  alert_id bigint,
  rule_name text,
  kind text,
  subject text,
  is_found boolean,
  holds boolean,
  detail jsonb
)
language sql
stable
set search_path = ''
-- Statistics know nothing of alerts that have just begun, so that thousands of them were looped over every condition.
set enable_nestloop = off
begin atomic
  select
    alert.org_id,
    alert.alert_id,
    alert.rule_name,
    alert.kind,
    alert.subject,
    finding.rule_name is not null,
    finding.holds,
    finding.detail
  from ops.alerts as alert
  left join unnest(open_alerts.conditions) as finding
    on finding.org_id = alert.org_id
    and finding.rule_name = alert.rule_name
    and finding.subject = alert.subject
    and finding.slo_group = alert.slo_group
  where alert.state in ('pending', 'firing')
    and (open_alerts.kinds is null or alert.kind = any (open_alerts.kinds));
end;

create or replace function ops.resolve_alerts(conditions ops.alert_condition[], as_of timestamptz, kinds text[])
returns bigint
language plpgsql
volatile
set search_path = ''
as $$
declare
  resolved bigint;
begin
  -- A condition that no longer holds is resolved. An alert about which no rule asks any more ends: nobody knows whether it is over.
  with moved as (
    update ops.alerts as alert
    set state = case when open_alert.is_found then 'resolved' else 'ended' end,
        resolved_at = as_of,
        evaluated_at = as_of,
        is_frozen = false,
        detail = alert.detail || coalesce(
          open_alert.detail,
          case
            when not open_alert.is_found then ops.alert_ending(alert.rule_name, alert.subject, alert.slo_version is not null, alert.slo_group)
          end,
          '{}'
        )
    from ops.open_alerts(conditions, kinds) as open_alert
    where alert.org_id = open_alert.org_id
      and alert.alert_id = open_alert.alert_id
      and (
        open_alert.holds is false
        or (
          not open_alert.is_found
          -- A KPI without a value has no finding either: that is silence, and alerts freeze.
          and not exists (
            select from ops.alert_rules as rule
            where rule.rule_name = open_alert.rule_name
              and rule.is_enabled
              and rule.kind = 'kpi_threshold'
              and rule.kind = open_alert.kind
              and rule.metric_name = open_alert.subject
          )
          -- Nor is a group over whose history is still to be filled.
          and not exists (
            select
            from ops.slo_versions as version
            join ops.slis as sli
              on sli.sli_id = version.sli_id
              and sli.filled_until < 'infinity'
            where alert.slo_group <> '{}'
              and version.slo_name = alert.subject
              and version.valid_from <= as_of
              and version.valid_until > as_of
          )
        )
      )
    returning alert.firing_since
  )
  select count(*) filter (where moved.firing_since is not null) into resolved from moved;
  -- A state that never fired is no alert.
  delete from ops.alerts as alert where alert.state in ('resolved', 'ended') and alert.firing_since is null and alert.resolved_at = as_of;
  return resolved;
end;
$$;

create function ops.repeated_conditions(conditions ops.alert_condition[], as_of timestamptz)
returns table (org_id uuid, rule_name text, subject text, slo_group jsonb)
language plpgsql
stable
set search_path = ''
set enable_nestloop = off
as $$
begin
  if cardinality(conditions) = 0 then
    return;
  end if;
  return query
  with begun as materialized (
    select
      finding.org_id, finding.rule_name, finding.subject, finding.slo_group, finding.slo_version, (finding.detail ->> 'explain_since')::timestamptz as since
    from unnest(conditions) as finding
    where finding.starts
  ),
  mended as materialized (
    select distinct on (alert.org_id, alert.rule_name, alert.subject, alert.slo_group)
      alert.org_id,
      alert.rule_name,
      alert.subject,
      alert.slo_group,
      alert.slo_version,
      (alert.detail ->> 'explain_since')::timestamptz as since,
      (alert.detail ->> 'bad_long')::bigint as lost
    from ops.alerts as alert
    where alert.state = 'resolved'
      and alert.resolved_at > (select min(begun.since) from begun)
    order by alert.org_id, alert.rule_name, alert.subject, alert.slo_group, alert.resolved_at desc, alert.alert_id desc
  ),
  asked as materialized (
    select begun.org_id, begun.rule_name, begun.subject, begun.slo_group, begun.slo_version, mended.since, mended.lost
    from begun
    join mended
      on mended.org_id = begun.org_id
      and mended.rule_name = begun.rule_name
      and mended.subject = begun.subject
      and mended.slo_group = begun.slo_group
      and mended.slo_version = begun.slo_version
  ),
  sums as materialized (
    select summed.org_id, summed.slo_name, summed.slo_group, summed.since, summed.total - summed.good as lost
    from ops.sum_windows(array(
      select distinct
        row(
          asked.org_id, asked.subject, asked.slo_version, asked.since,
          date_bin('5 minutes', as_of, timestamptz '1969-12-29 00:00+00') + interval '5 minutes',
          asked.slo_group
        )::ops.slo_span
      from asked
    )) as summed
  )
  select asked.org_id, asked.rule_name, asked.subject, asked.slo_group
  from asked
  join sums
    on sums.org_id = asked.org_id
    and sums.slo_name = asked.subject
    and sums.slo_group = asked.slo_group
    and sums.since = asked.since
  where sums.lost <= asked.lost;
end;
$$;
comment on function ops.repeated_conditions(ops.alert_condition[], timestamptz) is
  'Those of some conditions of burn rates that would begin an alert which was resolved, although nothing has failed since: what was good has left a window, and the failures that were answered are still in it.';

create or replace function ops.raise_alerts(conditions ops.alert_condition[], as_of timestamptz)
returns table (holding bigint, fired bigint)
language plpgsql
volatile
set search_path = ''
set enable_nestloop = off
as $$
begin
  return query
  with found as materialized (
    select
      finding.org_id, finding.rule_name, finding.subject, finding.service, finding.slo_version, finding.detail, finding.slo_group,
      rule.kind, rule.severity, rule.channels, rule.notify_resolved, rule.description,
      finding as condition,
      open_alert.state is not null as is_open,
      coalesce(finding.starts, true) as starts,
      -- What is to fire must be enough to begin an alert to the end of its wait: it may not fire on an empty window.
      coalesce(open_alert.state = 'firing', false)
        or (coalesce(finding.starts, true) and as_of - coalesce(open_alert.pending_since, as_of) >= rule.alert_after) as fires
    from unnest(conditions) as finding
    join ops.alert_rules as rule
      on rule.rule_name = finding.rule_name
    left join ops.alerts as open_alert
      on open_alert.org_id = finding.org_id
      and open_alert.rule_name = finding.rule_name
      and open_alert.subject = finding.subject
      and open_alert.slo_group = finding.slo_group
      and open_alert.state in ('pending', 'firing')
    where finding.holds
  ),
  repeated as materialized (
    select again.*
    from ops.repeated_conditions(
      array(
        select found.condition from found where not found.is_open and (found.condition).starts
      ),
      as_of
    ) as again
  ),
  held as (
    insert into ops.alerts as alert (
      org_id, rule_name, kind, severity, subject, service, slo_version, state, pending_since, firing_since, evaluated_at, channels,
      notify_resolved, description, detail, slo_group
    )
    select
      found.org_id, found.rule_name, found.kind, found.severity, found.subject, found.service, found.slo_version,
      case when found.fires then 'firing' else 'pending' end,
      as_of, case when found.fires then as_of end, as_of, found.channels,
      found.notify_resolved, found.description, found.detail, found.slo_group
    from found
    where found.is_open
      or (found.starts and (found.org_id, found.rule_name, found.subject, found.slo_group) not in (
        select again.org_id, again.rule_name, again.subject, again.slo_group from repeated as again
      ))
    on conflict (org_id, rule_name, subject, slo_group) where state in ('pending', 'firing') do update set
      kind = excluded.kind,
      detail = excluded.detail,
      slo_version = excluded.slo_version,
      severity = excluded.severity,
      channels = excluded.channels,
      notify_resolved = excluded.notify_resolved,
      description = excluded.description,
      evaluated_at = excluded.evaluated_at,
      is_frozen = false,
      state = excluded.state,
      firing_since = coalesce(alert.firing_since, excluded.firing_since)
    returning alert.firing_since
  )
  select count(*), count(*) filter (where held.firing_since = as_of) from held;
end;
$$;
comment on function ops.raise_alerts(ops.alert_condition[], timestamptz) is
  'Begins an alert for each condition that starts one, and keeps those open whose condition holds; each is pending until it has held for alert_after of its rule, and fires where its condition would start it then. holding: how many are open, fired: how many fire from this instant on.';

create or replace function ops.carry_silences(old_name text, new_name text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  if exists (
    select from ops.slos as slo where slo.service = old_name
    union all
    select from ops.alert_rules as rule where old_name in (rule.rule_name, rule.metric_name, rule.event_type)
    union all
    select from ops.alerts as alert where alert.slo_version is null and alert.subject = old_name
  ) then
    -- The silence is meant for something else of this name, too, and stays for that.
    insert into ops.alert_silences (only_org_id, matcher, starts_at, until, reason, author, created_at)
    select silence.only_org_id, new_name, silence.starts_at, silence.until, silence.reason, silence.author, silence.created_at
    from ops.alert_silences as silence
    where silence.matcher = old_name;
  else
    update ops.alert_silences as silence set matcher = new_name where silence.matcher = old_name;
  end if;
  update ops.alert_silences as silence
  set matcher = new_name || substr(silence.matcher, char_length(old_name) + 1)
  where starts_with(silence.matcher, old_name || '/')
    -- Of one of its groups.
    or starts_with(silence.matcher, old_name || ' ');
end;
$$;
comment on function ops.carry_silences(text, text) is 'Makes the silences of an objective, of its rules and of its groups hold for its new name.';

create function ops.try_slis()
returns void
language plpgsql
volatile
set search_path = ''
set jit = off
as $$
declare
  counted_ids constant ops.event_ids := ops.counted_ids();
  stretch record;
begin
  for stretch in
    select sli.filled_until as since, array_agg(sli.sli_id) as sli_ids
    from ops.slis as sli
    where sli.filled_until < 'infinity'
    group by 1
  loop
    perform ops.fill_stretch(stretch.sli_ids, stretch.since, 'infinity', counted_ids);
  end loop;
end;
$$;
comment on function ops.try_slis() is
  'Gives new SLIs their history as fill_slis does, without the lock of a refresh, since nobody else sees them; for a transaction that is rolled back.';

create function ops.trial_count(
  good_before bigint[],
  total_before bigint[],
  good_slices bigint[],
  total_slices bigint[],
  steps integer,
  slice_target numeric,
  first_step integer,
  end_step integer,
  out good bigint,
  out total bigint
)
language plpgsql
immutable
set search_path = ''
as $$
declare
  first_slice constant integer := (first_step + steps - 1) / steps;
  end_slice constant integer := end_step / steps;
  edge integer[];
  seen bigint;
begin
  if slice_target is null then
    total := total_before[end_step + 1] - total_before[first_step + 1];
    good := good_before[end_step + 1] - good_before[first_step + 1];
    return;
  end if;
  total := 0;
  good := 0;
  if first_slice <= end_slice then
    total := total_slices[end_slice + 1] - total_slices[first_slice + 1];
    good := good_slices[end_slice + 1] - good_slices[first_slice + 1];
  end if;
  -- Of a slice at an edge the window sees a part; of one that holds both edges, what is between them.
  foreach edge slice 1 in array case
    when first_slice <= end_slice then array[[first_step, first_slice * steps], [end_slice * steps, end_step]]
    else array[[first_step, end_step]]
  end loop
    seen := total_before[edge[2] + 1] - total_before[edge[1] + 1];
    total := total + (seen > 0)::integer;
    good := good + (
      seen > 0 and good_before[edge[2] + 1] - good_before[edge[1] + 1] >= slice_target * seen
    )::integer;
  end loop;
end;
$$;
comment on function ops.trial_count(bigint[], bigint[], bigint[], bigint[], integer, numeric, integer, integer) is
  'Good and total between two five minutes, from what was counted before each of them, in events; or with a slice_target in slices of so many steps, from those before each slice.';

create function ops.trial_sums(org_id uuid, slo_name text, slo_group jsonb, since timestamptz, until timestamptz, lengths interval[])
returns table (as_of timestamptz, length interval, lost bigint, total bigint, seen_at timestamptz)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  promise ops.slo_versions;
  counted_as bigint;
  origin timestamptz;
  -- What was counted before each five minutes from the origin on, and of whole time slices before each slice: a window is a difference.
  good_before bigint[];
  total_before bigint[];
  good_slices bigint[] := array[0::bigint];
  total_slices bigint[] := array[0::bigint];
  steps integer;
  first_step integer;
  end_step integer;
  good bigint;
begin
  select version.* into promise
  from ops.slo_versions as version
  where version.slo_name = trial_sums.slo_name
    and version.valid_until = 'infinity';
  counted_as := ops.group_key(promise.sli_id, trial_sums.slo_group);
  steps := extract(epoch from coalesce(promise.time_slice, interval '5 minutes'))::integer / 300;
  origin := date_bin(
    make_interval(mins => 5 * steps),
    least(
      ops.slo_window_start(promise.rolling_window, promise.calendar_period, promise.time_zone, trial_sums.since),
      trial_sums.since - (select max(ops.in_hours(known.length)) from unnest(trial_sums.lengths) as known (length))
    ),
    timestamptz '1969-12-29 00:00+00'
  );
  select array_agg(summed.good order by summed.starts_at), array_agg(summed.total order by summed.starts_at)
  into good_before, total_before
  from (
    select
      step.starts_at,
      (coalesce(sum(bucket.good) over earlier, 0))::bigint as good,
      (coalesce(sum(bucket.total) over earlier, 0))::bigint as total
    from generate_series(origin, trial_sums.until, interval '5 minutes') as step (starts_at)
    left join ops.sli_counts as bucket
      on bucket.org_id = trial_sums.org_id
      and bucket.sli_id = counted_as
      and bucket.bucket_start = step.starts_at
      and not exists (
        select
        from ops.excluded_times as excluded
        where excluded.org_id = trial_sums.org_id
          and excluded.slo_name = trial_sums.slo_name
          and excluded.slo_group in ('{}', trial_sums.slo_group)
          and excluded.since <= bucket.bucket_start
          and excluded.until > bucket.bucket_start
      )
    window earlier as (order by step.starts_at rows between unbounded preceding and 1 preceding)
  ) as summed;
  if promise.time_slice is not null then
    for place in 1 .. (cardinality(total_before) - 1) / steps loop
      total := total_before[place * steps + 1] - total_before[(place - 1) * steps + 1];
      good := good_before[place * steps + 1] - good_before[(place - 1) * steps + 1];
      total_slices[place + 1] := total_slices[place] + (total > 0)::integer;
      good_slices[place + 1] := good_slices[place] + (total > 0 and good >= promise.slice_target * total)::integer;
    end loop;
  end if;
  seen_at := (
    select max(bucket.bucket_start)
    from ops.sli_counts as bucket
    where bucket.org_id = trial_sums.org_id
      and bucket.sli_id = counted_as
      and bucket.bucket_start < trial_sums.since
  );
  for as_of, seen_at in
    select instant.as_of, max(newest.bucket_start) over (order by instant.as_of)
    from generate_series(trial_sums.since, trial_sums.until - interval '1 microsecond', interval '5 minutes') as instant (as_of)
    left join (
      select max(known.bucket_start) as bucket_start, known.known_at
      from (
        select bucket.bucket_start, bucket.bucket_start + interval '5 minutes' as known_at
        from ops.sli_counts as bucket
        where bucket.org_id = trial_sums.org_id
          and bucket.sli_id = counted_as
          and bucket.bucket_start + interval '5 minutes' > trial_sums.since
        union all
        select seen_at, trial_sums.since
      ) as known
      group by 2
    ) as newest
      on newest.known_at = instant.as_of
  loop
    end_step := extract(epoch from as_of - origin)::integer / 300;
    foreach length in array trial_sums.lengths || null::interval loop
      first_step := floor(extract(epoch from coalesce(
        as_of - ops.in_hours(length),
        ops.slo_window_start(promise.rolling_window, promise.calendar_period, promise.time_zone, as_of)
      ) - origin) / 300);
      select counted.good, counted.total
      into good, total
      from ops.trial_count(
        good_before, total_before, good_slices, total_slices, steps, promise.slice_target, first_step, end_step
      ) as counted;
      lost := total - good;
      return next;
    end loop;
  end loop;
end;
$$;
comment on function ops.trial_sums(uuid, text, jsonb, timestamptz, timestamptz, interval[]) is
  'What an objective, or a group of it, has counted in windows of some lengths (null: its own) as of every five minutes of a range, each knowing only what had happened by then: how many were bad and all, in events or slices, and seen_at, the start of the last five minutes that hold any. since is the first instant of five minutes.';

create function ops.trial_conditions(org_id uuid, slo_name text, slo_group jsonb, since timestamptz, until timestamptz)
returns table (as_of timestamptz, rule_name text, holds boolean, starts boolean, lost_since timestamptz, lost bigint)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  named constant ops.judged_slo[] := array[
    jsonb_populate_record(null::ops.judged_slo, jsonb_build_object('slo_name', trial_conditions.slo_name))
  ];
  silent_after interval;
  min_failures integer;
  follows_calendar boolean;
begin
  select
    2 * ops.in_hours(coalesce(slo.expected_interval, ops.setting('expected_interval')::interval)),
    coalesce(slo.min_failures, ops.setting('min_failures')::integer, 3),
    slo.calendar_period is not null
  into silent_after, min_failures, follows_calendar
  from ops.slos as slo
  where slo.slo_name = trial_conditions.slo_name;
  return query
  with burning as materialized (
    select rule.* from ops.rules_of_slos('burn_rate', named, trial_conditions.until) as rule
  ),
  sums as materialized (
    select counted.*
    from ops.trial_sums(
      trial_conditions.org_id, trial_conditions.slo_name, trial_conditions.slo_group, trial_conditions.since, trial_conditions.until,
      array(select rule.long_window from burning as rule union select rule.short_window from burning as rule where rule.short_window is not null)
    ) as counted
  ),
  -- A window that rolls is the same at every instant, and asked for once.
  periods as materialized (
    select instant.as_of, held.target, held.window_length, held.window_start, held.elapsed, held.whole_slices
    from (
      select counted.as_of from sums as counted where counted.length is null and follows_calendar
      union all
      select trial_conditions.until where not follows_calendar
    ) as instant (as_of)
    cross join lateral ops.slo_windows(instant.as_of, array[trial_conditions.slo_name]) as held
  ),
  judged as materialized (
    select
      counted.as_of, counted.seen_at, counted.lost, held.target, held.window_length,
      ops.window_budget(
        ops.allowed_losses(counted.total, held.target), counted.total, held.target, held.window_length, held.elapsed, held.whole_slices
      ) as allowed,
      ops.events_needed(held.target, counted.total, held.whole_slices) as events_needed,
      counted.total > 0 and coalesce(counted.seen_at >= counted.as_of - silent_after, true) as is_judged,
      -- A group without anything in the window is over, whether or not that is excluded.
      trial_conditions.slo_group <> '{}' and coalesce(
        counted.seen_at < case
          when follows_calendar then held.window_start
          else date_bin('5 minutes', counted.as_of - held.window_length, timestamptz '1969-12-29 00:00+00')
        end,
        true
      ) as is_over
    from sums as counted
    join periods as held
      on held.as_of = case when follows_calendar then counted.as_of else trial_conditions.until end
    where counted.length is null
  ),
  ruled as materialized (
    select period.window_length, rule.rule_name, rule.long_window, rule.short_window, meant.factor,
      coalesce(rule.budget_share, ops.budget_share(meant.factor, period.window_length, rule.long_window)) as share
    from (select distinct judged.window_length, judged.target from judged) as period
    cross join burning as rule
    cross join lateral (
      select coalesce(rule.factor, ops.alert_factor(rule.budget_share, period.window_length, rule.long_window)) as factor
      offset 0
    ) as meant
    where ops.useless_because(meant.factor, period.window_length, rule.long_window, period.target) is null
  )
  select
    judged.as_of,
    ruled.rule_name,
    case
      when judged.is_over then false
      when judged.is_judged then ops.is_burning(rates.long, rates.short, ruled.factor)
    end,
    judged.is_judged and ops.begins_alert(
      rates.long, rates.short, short_sum.total, ruled.factor, long_sum.lost, judged.allowed, ruled.share, judged.events_needed, min_failures
    ),
    judged.as_of - ops.in_hours(ruled.long_window),
    long_sum.lost
  from judged
  join ruled
    on ruled.window_length = judged.window_length
  join sums as long_sum
    on long_sum.as_of = judged.as_of
    and long_sum.length = ruled.long_window
  left join sums as short_sum
    on short_sum.as_of = judged.as_of
    and short_sum.length = ruled.short_window
  cross join lateral (
    select
      ops.burn_rate(long_sum.total - long_sum.lost, long_sum.total, judged.target) as long,
      ops.burn_rate(short_sum.total - short_sum.lost, short_sum.total, judged.target) as short
    -- A barrier: each rate is compared twice.
    offset 0
  ) as rates
  union all
  select
    judged.as_of,
    rule.rule_name,
    case
      when judged.is_over then false
      when judged.is_judged and (judged.events_needed = 0 or spent.is_overspent) then spent.is_overspent
    end,
    null,
    null,
    null
  from judged
  cross join ops.rules_of_slos('budget_exhausted', named, trial_conditions.until) as rule
  cross join lateral (select ops.is_overspent(judged.lost, judged.allowed, judged.target) as is_overspent offset 0) as spent
  union all
  select
    judged.as_of,
    rule.rule_name,
    not judged.is_over and coalesce(judged.seen_at < judged.as_of - coalesce(ops.in_hours(rule.silent_for), silent_after), false),
    null,
    null,
    null
  from judged
  cross join ops.rules_of_slos('silent_input', named, trial_conditions.until) as rule;
end;
$$;
comment on function ops.trial_conditions(uuid, text, jsonb, timestamptz, timestamptz) is
  'What the rules on an objective, or on a group of it, would have found as of every five minutes of a range, by its version that holds now and by what had happened by then: as objective_conditions finds it, from all instants at once.';

create function ops.simulate_conditions(since timestamptz, until timestamptz, slo_names text[])
returns table (
  as_of timestamptz,
  org_id uuid,
  rule_name text,
  severity text,
  subject text,
  alert_after interval,
  holds boolean,
  starts boolean,
  lost_since timestamptz,
  lost bigint,
  slo_group jsonb
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with compared as (
    select
      condition.*,
      counted.org_id,
      version.slo_name as subject,
      counted.slo_group,
      coalesce(condition.starts, condition.holds) as begins,
      lag(condition.holds) over subject_over_time as held_before,
      lag(coalesce(condition.starts, condition.holds)) over subject_over_time as began_before,
      lag(condition.lost) over subject_over_time as lost_before,
      row_number() over subject_over_time as place
    from ops.slo_versions as version
    join ops.groups_of_slis(
      array(select ops.orgs_with_objectives()),
      array(
        select distinct counting.sli_id
        from ops.slo_versions as counting
        where counting.slo_name = any (simulate_conditions.slo_names)
          and counting.valid_until = 'infinity'
      )
    ) as counted
      on counted.of_sli_id = version.sli_id
    cross join lateral ops.trial_conditions(
      counted.org_id,
      version.slo_name,
      counted.slo_group,
      date_bin('5 minutes', simulate_conditions.since + interval '00:04:59.999999', timestamptz '1969-12-29 00:00+00'),
      simulate_conditions.until
    ) as condition
    where version.slo_name = any (simulate_conditions.slo_names)
      and version.valid_until = 'infinity'
    window subject_over_time as (
      partition by counted.org_id, version.slo_name, counted.slo_group, condition.rule_name order by condition.as_of
    )
  )
  select
    compared.as_of, compared.org_id, compared.rule_name, rule.severity, compared.subject, rule.alert_after, compared.holds,
    compared.begins, compared.lost_since, compared.lost, compared.slo_group
  from compared
  join ops.alert_rules as rule
    on rule.rule_name = compared.rule_name
  where compared.place = 1
    or compared.holds is distinct from compared.held_before
    or compared.begins is distinct from compared.began_before
    or (compared.begins and compared.lost is distinct from compared.lost_before)
  order by 1, 2, 3, 5, 11;
end;
$$;
comment on function ops.simulate_conditions(timestamptz, timestamptz, text[]) is
  'What the rules on some objectives would have found at every five minutes of a range: the first finding and each change. holds is null where they could not tell, and false where a group is over; starts: whether it is enough to begin an alert; lost: how many were bad since lost_since, which is what a burn rate looks back over.';

create function ops.lost_between(org_id uuid, slo_name text, slo_group jsonb, since timestamptz, as_of timestamptz)
returns bigint
language sql
stable
set search_path = ''
begin atomic
  select summed.total - summed.good
  from ops.sum_windows(array(
    select row(lost_between.org_id, held.slo_name, held.version, lost_between.since, lost_between.as_of, lost_between.slo_group)::ops.slo_span
    from ops.slo_windows(lost_between.as_of, array[lost_between.slo_name]) as held
  )) as summed;
end;
comment on function ops.lost_between(uuid, text, jsonb, timestamptz, timestamptz) is
  'How many of an objective, or of a group of it, were bad from an instant up to as_of.';

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
  evaluated.stale_since,
  evaluated.allowed,
  evaluated.versions,
  evaluated.budget_basis
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
comment on column public.v_ops_slo_status.allowed is 'How many of the whole window may be bad, which is its error budget (count); null without events.';
comment on column public.v_ops_slo_status.versions is 'The versions that judge the window, each the time in which it held.';
comment on column public.v_ops_slo_status.budget_basis is
  'counted: the budget is a share of what the window counts; expected: of what the calendar period will come to, as its total so far ÷ the elapsed share says; slices: of the time slices of the whole calendar period.';

create view public.v_ops_error_budget_burndown
with (security_invoker = true)
as
select
  burndown.org_id,
  burndown.slo_name,
  burndown.version,
  burndown.day_start,
  burndown.good,
  burndown.total,
  burndown.consumed,
  burndown.budget_left,
  burndown.slo_group
from ops.slo_burndown(now()) as burndown;
comment on view public.v_ops_error_budget_burndown is
  'One row an org, objective and day of its running window on which something was counted; exclusions applied; a day of a change has a row for each version.';
comment on column public.v_ops_error_budget_burndown.org_id is 'The tenant.';
comment on column public.v_ops_error_budget_burndown.slo_name is 'The objective.';
comment on column public.v_ops_error_budget_burndown.version is 'The version of the definition.';
comment on column public.v_ops_error_budget_burndown.day_start is 'First instant of the day.';
comment on column public.v_ops_error_budget_burndown.good is 'Good ones of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.total is 'All that count of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.consumed is 'What the day consumed of the budget of the whole window (ratio).';
comment on column public.v_ops_error_budget_burndown.budget_left is 'What was left of it after the day (ratio, negative when overspent).';
comment on column public.v_ops_error_budget_burndown.slo_group is 'The group: {"workflow": "release"}; {} of an objective without groups.';

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
      -- Not the groups that are over, nor those that began later.
      and (status.slo_group = '{}' or status.total_unadjusted > 0)
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

create or replace function ops.slo_burn_rates(as_of timestamptz, org_id uuid default null)
returns table (slo_name text, window_name text, good bigint, total bigint, burn_rate numeric, slo_group jsonb)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  owner_id constant uuid := ops.caller_org(slo_burn_rates.org_id);
begin
  return query
  with fresh as materialized (
    select array(select row(delta.*)::ops.sli_delta from ops.fresh_slis() as delta where delta.org_id = owner_id) as deltas
  ),
  spans as materialized (
    select version.slo_name, grouped.slo_group, version.version, burning.window_name, burning.since, burning.until
    from ops.slo_versions as version
    join (
      select found.*
      from fresh
      cross join lateral ops.groups_of_slis(
        array[owner_id], array(select distinct counting.sli_id from ops.slo_versions as counting), fresh.deltas
      ) as found
    ) as grouped
      on grouped.of_sli_id = version.sli_id
    cross join ops.burn_windows(slo_burn_rates.as_of) as burning
    where version.valid_from <= slo_burn_rates.as_of
      and version.valid_until > slo_burn_rates.as_of
  ),
  sums as materialized (
    select summed.*
    from ops.sum_windows(
      array(select row(owner_id, spans.slo_name, spans.version, spans.since, spans.until, spans.slo_group)::ops.slo_span from spans),
      (select fresh.deltas from fresh)
    ) as summed
  )
  select spans.slo_name, spans.window_name, sums.good, sums.total, ops.share_of_budget(sums.total - sums.good, sums.allowed), spans.slo_group
  from spans
  join sums
    on sums.slo_name = spans.slo_name
    and sums.slo_group = spans.slo_group
    and sums.since = spans.since
  order by spans.slo_name, spans.slo_group, spans.since desc;
end;
$$;

revoke execute on function
  ops.burns_share,
  ops.begins_alert,
  ops.share_of_budget,
  ops.budget_share,
  ops.events_needed,
  ops.is_overspent,
  ops.slo_parts,
  ops.sum_windows,
  ops.measured_slos,
  ops.slo_status,
  ops.slo_windows,
  ops.useless_because,
  ops.window_budget,
  ops.evaluate_slos,
  ops.fill_stretch,
  ops.lost_between,
  ops.repeated_conditions,
  ops.slo_gauges,
  ops.scrape,
  ops.simulate_conditions,
  ops.slo_burndown,
  ops.summary_objectives,
  ops.trial_conditions,
  ops.trial_count,
  ops.trial_sums,
  ops.try_slis,
  ops.useless_rules
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.burns_share,
    ops.begins_alert,
    ops.share_of_budget,
    ops.budget_share,
    ops.events_needed,
    ops.is_overspent,
    ops.slo_parts,
    ops.sum_windows,
    ops.measured_slos,
    ops.slo_status,
    ops.slo_windows,
    ops.useless_because,
    ops.window_budget,
    ops.evaluate_slos,
    ops.fill_stretch,
    ops.lost_between,
    ops.repeated_conditions,
    ops.slo_gauges,
    ops.scrape,
    ops.simulate_conditions,
    ops.slo_burndown,
    ops.summary_objectives,
    ops.trial_conditions,
    ops.trial_count,
    ops.trial_sums,
    ops.try_slis,
    ops.useless_rules
  from anon, authenticated, service_role;
  revoke all on
    public.v_ops_error_budget_burndown,
    public.v_ops_slo_status
  from anon, authenticated, service_role;
  grant execute on function
    ops.burns_share,
    ops.share_of_budget,
    ops.budget_share,
    ops.events_needed,
    ops.is_overspent,
    ops.slo_parts,
    ops.sum_windows,
    ops.measured_slos,
    ops.slo_status,
    ops.slo_windows,
    ops.useless_because,
    ops.window_budget,
    ops.evaluate_slos,
    ops.slo_gauges,
    ops.scrape,
    ops.slo_burndown
  to authenticated, service_role;
  grant select (advanced_at) on ops.cursors to authenticated;
  grant select on
    public.v_ops_error_budget_burndown,
    public.v_ops_slo_status
  to authenticated, service_role;
end;
$$;

update ops.alert_rules
set
  description = 'Fires when 2 % of the error budget goes within an hour.'
where rule_name = 'fast_burn'
  and description is not distinct from 'Two hundredths of the budget went within an hour.';

update ops.alert_rules
set
  description = 'Fires when 10 % of the error budget goes within a day.'
where rule_name = 'slow_burn'
  and description is not distinct from 'A tenth of the budget went within a day.';

update ops.alert_rules
set
  description = 'Fires when 5 % of the error budget goes within six hours.'
where rule_name = 'steady_burn'
  and description is not distinct from 'A twentieth of the budget went within six hours.';

update ops.alert_rules
set
  description = 'Fires when 10 % of the error budget goes within three days.'
where rule_name = 'trickle'
  and description is not distinct from 'A tenth of the budget went within three days.';

insert into ops.settings (name, value, description)
values
  ('min_failures', '3', 'How many bad ones it takes in the long window of a burn-rate rule while one alone exceeds the budget, unless the objective says otherwise (count).')
on conflict do nothing;

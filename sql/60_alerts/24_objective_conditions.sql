-- Conditions of objectives: one function per kind of rule, each reading the same judgement of every objective.
-- All in plpgsql, which keeps a plan for the session.

create type ops.judged_slo as (
  org_id uuid,
  slo_name text,
  service text,
  version integer,
  target numeric,
  good bigint,
  total bigint,
  events_needed bigint,
  window_start timestamptz,
  window_length interval,
  last_counted_at timestamptz,
  silent_after interval,
  is_seen boolean,
  is_judged boolean,
  detail jsonb,
  slo_group jsonb,
  allowed numeric,
  min_failures integer
);
comment on type ops.judged_slo is
  'An objective of an org as of an instant, as the rules on it see it. is_seen: its history is filled and its counts are fresh; is_judged: and it has data; silent_after: the length of silence that matters unless a rule names another; detail: its figures for a message; allowed: how many of its whole window may be bad; min_failures: how many bad ones begin an alert while one alone exceeds that.';

create function ops.judge_slos(as_of timestamptz, slo_names text[] default null)
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
comment on function ops.judge_slos(timestamptz, text[]) is
  'Each objective of each org as of an instant, from the counts alone, and each group that has something in its window; slo_names null: all objectives.';

create function ops.rules_of_slos(kind text, judged ops.judged_slo[], as_of timestamptz, tried ops.alert_rules[] default null)
returns table (
  slo_name text,
  rule_name text,
  factor numeric,
  budget_share numeric,
  long_window interval,
  short_window interval,
  long_since timestamptz,
  short_since timestamptz,
  silent_for interval
)
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with asked as materialized (
    select stored.* from ops.alert_rules as stored where tried is null and stored.is_enabled and stored.kind = rules_of_slos.kind
    union all
    select given.* from unnest(tried) as given where given.is_enabled and given.kind = rules_of_slos.kind
  )
  select
    slo.slo_name,
    rule.rule_name,
    rule.factor,
    rule.budget_share,
    rule.long_window,
    rule.short_window,
    date_bin('5 minutes', as_of - ops.in_hours(rule.long_window), timestamptz '1969-12-29 00:00+00'),
    date_bin('5 minutes', as_of - ops.in_hours(rule.short_window), timestamptz '1969-12-29 00:00+00'),
    rule.silent_for
  from asked as rule
  join (select distinct found.slo_name from unnest(judged) as found) as slo
    on slo.slo_name = rule.slo_name
    or (
      rule.slo_name is null
      and rule.event_type is null
      and not exists (
        select
        from asked as own
        where own.slo_name = slo.slo_name
      )
    );
end;
$$;
comment on function ops.rules_of_slos(text, ops.judged_slo[], timestamptz, ops.alert_rules[]) is
  'The rules of a kind that apply to each objective: its own, or else the general ones; with the first instant of each window that ends at as_of. tried: these rules instead of those that are stored.';

create function ops.burn_rate_conditions(judged ops.judged_slo[], as_of timestamptz)
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

create function ops.budget_exhausted_conditions(judged ops.judged_slo[], as_of timestamptz)
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
comment on function ops.budget_exhausted_conditions(ops.judged_slo[], timestamptz) is
  'What the rules of the kind budget_exhausted find: whether more is bad than the budget allows.';

create function ops.silent_slo_conditions(judged ops.judged_slo[], as_of timestamptz)
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
comment on function ops.silent_slo_conditions(ops.judged_slo[], timestamptz) is
  'What the rules of the kind silent_input find about objectives: whether nothing has arrived for too long that one could be judged by.';

create function ops.objective_conditions(as_of timestamptz, slo_names text[] default null)
returns setof ops.alert_condition
language plpgsql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  judged constant ops.judged_slo[] := array(select slo from ops.judge_slos(as_of, slo_names) as slo);
begin
  return query
  select * from ops.burn_rate_conditions(judged, as_of)
  union all
  select * from ops.budget_exhausted_conditions(judged, as_of)
  union all
  select * from ops.silent_slo_conditions(judged, as_of);
end;
$$;
comment on function ops.objective_conditions(timestamptz, text[]) is
  'What the rules on objectives find as of an instant, from the counts alone; one row an org, rule and objective, or group of it.';

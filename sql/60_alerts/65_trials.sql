-- Trials: what rules would have found in the past, and the alerts that would have come of it. Nothing is written.

create function ops.trial_conditions(
  slo ops.slos, rules ops.alert_rules[], history ops.trial_history, is_group boolean, since timestamptz, until timestamptz
)
returns table (as_of timestamptz, rule_name text, holds boolean, starts boolean, lost_since timestamptz, lost bigint)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  named constant ops.judged_slo[] := array[
    jsonb_populate_record(null::ops.judged_slo, jsonb_build_object('slo_name', slo.slo_name))
  ];
  silent_after constant interval := 2 * ops.in_hours(coalesce(slo.expected_interval, ops.setting('expected_interval')::interval));
  min_failures constant integer := coalesce(slo.min_failures, ops.setting('min_failures')::integer, 3);
  follows_calendar constant boolean := slo.calendar_period is not null;
begin
  return query
  with burning as materialized (
    select rule.* from ops.rules_of_slos('burn_rate', named, trial_conditions.until, rules) as rule
  ),
  sums as materialized (
    select counted.*
    from ops.trial_sums(
      slo, history, trial_conditions.since, trial_conditions.until,
      array(select rule.long_window from burning as rule union select rule.short_window from burning as rule where rule.short_window is not null)
    ) as counted
  ),
  -- A window that rolls is the same at every instant, and asked for once.
  periods as materialized (
    select instant.as_of, slo.target, held.window_length, held.window_start, held.elapsed, held.whole_slices
    from (
      select counted.as_of from sums as counted where counted.length is null and follows_calendar
      union all
      select trial_conditions.until where not follows_calendar
    ) as instant (as_of)
    cross join lateral ops.slo_window(slo.rolling_window, slo.calendar_period, slo.time_zone, slo.time_slice, instant.as_of) as held
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
      is_group and coalesce(
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
  cross join ops.rules_of_slos('budget_exhausted', named, trial_conditions.until, rules) as rule
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
  cross join ops.rules_of_slos('silent_input', named, trial_conditions.until, rules) as rule;
end;
$$;
comment on function ops.trial_conditions(ops.slos, ops.alert_rules[], ops.trial_history, boolean, timestamptz, timestamptz) is
  'What some rules on an objective, or (is_group) on a group of it, would have found as of every five minutes of a range, by its history up to then: as objective_conditions finds it, from all instants at once. lost: how many were bad since lost_since, which is what a burn rate looks back over.';

create function ops.trial_lost(history ops.trial_history, since timestamptz, until timestamptz)
returns bigint
language sql
immutable
set search_path = ''
begin atomic
  select counted.total - counted.good
  from ops.trial_count(
    (history).good_before, (history).total_before, (history).good_slices, (history).total_slices, (history).steps, (history).slice_target,
    (extract(epoch from since - (history).starts_at) / 300)::integer,
    (extract(epoch from until - (history).starts_at) / 300)::integer
  ) as counted;
end;
comment on function ops.trial_lost(ops.trial_history, timestamptz, timestamptz) is
  'How many were bad between two instants of the five-minute grid of a history.';

create type ops.trial_alert as (
  rule_name text,
  severity text,
  fired_at timestamptz,
  resolved_at timestamptz
);
comment on type ops.trial_alert is 'An alert that would have fired; resolved_at null: it was not over at the end of the trial.';

create function ops.trial_alerts(
  slo ops.slos, rules ops.alert_rules[], history ops.trial_history, is_group boolean, since timestamptz, until timestamptz
)
returns setof ops.trial_alert
language plpgsql
stable
set search_path = ''
set jit = off
as $$
declare
  alert ops.trial_alert;
  alert_after interval;
  pending_since timestamptz;
  mended_at timestamptz;
  mended_since timestamptz;
  mended_lost bigint;
  finding record;
begin
  for finding in
    select found.*
    from ops.trial_conditions(slo, rules, history, is_group, since, until) as found
    order by found.rule_name, found.as_of
  loop
    if finding.rule_name is distinct from alert.rule_name then
      if alert.fired_at is not null then
        return next alert;
      end if;
      select rule.rule_name, rule.severity, rule.alert_after
      into alert.rule_name, alert.severity, alert_after
      from unnest(rules) as rule
      where rule.rule_name = finding.rule_name;
      alert.fired_at := null;
      pending_since := null;
      mended_at := null;
    end if;
    -- From state to state as ops.move_alerts takes an alert: inactive, pending, firing, and then resolved.
    if finding.holds is false then
      if alert.fired_at is not null then
        alert.resolved_at := finding.as_of;
        return next alert;
        mended_at := finding.as_of;
        mended_since := finding.lost_since;
        mended_lost := finding.lost;
      end if;
      alert.fired_at := null;
      alert.resolved_at := null;
      pending_since := null;
    elsif finding.holds and alert.fired_at is null and coalesce(finding.starts, true) then
      -- As ops.repeated_conditions asks: nothing has failed since the alert was resolved, and its failures are still in the window.
      if pending_since is null
        and coalesce(mended_at > finding.lost_since and ops.trial_lost(history, mended_since, finding.as_of) <= mended_lost, false)
      then
        continue;
      end if;
      pending_since := coalesce(pending_since, finding.as_of);
      if finding.as_of - pending_since >= alert_after then
        alert.fired_at := finding.as_of;
      end if;
    end if;
  end loop;
  if alert.fired_at is not null then
    return next alert;
  end if;
end;
$$;
comment on function ops.trial_alerts(ops.slos, ops.alert_rules[], ops.trial_history, boolean, timestamptz, timestamptz) is
  'The alerts that some rules on an objective, or (is_group) on a group of it, would have fired in a range of whole five minutes, evaluated every five minutes.';

create function ops.simulate_slos(slos ops.slos[], rules ops.alert_rules[], since timestamptz, until timestamptz)
returns table (
  org_id uuid,
  rule_name text,
  severity text,
  subject text,
  slo_group jsonb,
  fired_at timestamptz,
  resolved_at timestamptz
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
declare
  slis constant ops.slis[] := array(select distinct ops.sli_of(slo) from unnest(slos) as slo);
  fresh constant ops.sli_delta[] := array(select delta from ops.trial_counts(slis) as delta);
  first_at constant timestamptz := date_bin('5 minutes', since + interval '00:04:59.999999', timestamptz '1969-12-29 00:00+00');
  longest constant interval := coalesce((select max(ops.in_hours(rule.long_window)) from unnest(rules) as rule), interval '0');
begin
  return query
  with fresh_by_key as materialized (
    select delta.org_id, delta.sli_id, array_agg(row(delta.*)::ops.sli_delta) as deltas
    from unnest(fresh) as delta
    group by 1, 2
  ),
  tried as materialized (
    select slo, (ops.sli_of(slo)).sli_id from unnest(slos) as slo
  )
  select counted.org_id, alert.rule_name, alert.severity, (tried.slo).slo_name, counted.slo_group, alert.fired_at, alert.resolved_at
  from tried
  join ops.groups_of_slis(
    array(select ops.orgs_with_objectives()), array(select distinct tried.sli_id from tried), fresh
  ) as counted
    on counted.of_sli_id = tried.sli_id
  left join fresh_by_key as own
    on own.org_id = counted.org_id
    and own.sli_id = counted.sli_id
  cross join lateral (
    select ops.trial_history(
      tried.slo, counted.org_id, counted.slo_group, first_at, simulate_slos.until, longest, coalesce(own.deltas, '{}')
    ) as history
    -- A barrier: it is made once.
    offset 0
  ) as past
  cross join lateral ops.trial_alerts(
    tried.slo, rules, past.history, counted.slo_group <> '{}', first_at, simulate_slos.until
  ) as alert
  order by 6, 2, 4, 5, 1;
end;
$$;
comment on function ops.simulate_slos(ops.slos[], ops.alert_rules[], timestamptz, timestamptz) is
  'The alerts that some rules would have fired over some objectives in a range, had all of them always stood as given, whatever stands: evaluated every five minutes by what had happened by then, each group and org by itself. It only reads.';

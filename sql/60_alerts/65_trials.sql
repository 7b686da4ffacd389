-- Trials: what rules would have found in the past, in a transaction that is rolled back.

create function ops.backdate_slos(slo_names text[])
returns void
language sql
volatile
set search_path = ''
begin atomic
  delete from ops.slo_versions as version
  where version.slo_name = any (backdate_slos.slo_names)
    and version.valid_until < 'infinity';
  update ops.slo_versions as version
  set valid_from = '-infinity'
  where version.slo_name = any (backdate_slos.slo_names);
end;
comment on function ops.backdate_slos(text[]) is
  'Makes objectives as they stand those that always were, to try them on the past; for a transaction that is rolled back.';

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

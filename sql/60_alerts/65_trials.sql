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

create function ops.simulate_conditions(since timestamptz, until timestamptz, step interval, slo_names text[])
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
  lost bigint
)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with found as (
    select
      instant.as_of,
      condition.org_id,
      condition.rule_name,
      rule.severity,
      condition.subject,
      rule.alert_after,
      condition.holds,
      coalesce(condition.starts, condition.holds) as starts,
      (condition.detail ->> 'explain_since')::timestamptz as lost_since,
      (condition.detail ->> 'bad_long')::bigint as lost
    from generate_series(simulate_conditions.since, simulate_conditions.until - interval '1 microsecond', simulate_conditions.step) as instant (as_of)
    cross join lateral ops.objective_conditions(instant.as_of, simulate_conditions.slo_names) as condition
    join ops.alert_rules as rule
      on rule.rule_name = condition.rule_name
  ),
  compared as (
    select
      found.*,
      lag(found.holds) over subject_over_time as held_before,
      lag(found.starts) over subject_over_time as started_before,
      lag(found.lost) over subject_over_time as lost_before,
      row_number() over subject_over_time as place
    from found
    window subject_over_time as (partition by found.org_id, found.rule_name, found.subject order by found.as_of)
  )
  select
    compared.as_of, compared.org_id, compared.rule_name, compared.severity, compared.subject, compared.alert_after, compared.holds,
    compared.starts, compared.lost_since, compared.lost
  from compared
  where compared.place = 1
    or compared.holds is distinct from compared.held_before
    or compared.starts is distinct from compared.started_before
    or (compared.starts and compared.lost is distinct from compared.lost_before)
  order by 1, 2, 3, 5;
end;
$$;
comment on function ops.simulate_conditions(timestamptz, timestamptz, interval, text[]) is
  'What the rules on some objectives would have found at each step of a range: the first finding and each change. holds is null where they could not tell; starts: whether it is enough to begin an alert; lost: how many were bad since lost_since, which is what a burn rate looks back over.';

create function ops.lost_between(org_id uuid, slo_name text, since timestamptz, as_of timestamptz)
returns bigint
language sql
stable
set search_path = ''
begin atomic
  select summed.total - summed.good
  from ops.sum_windows(array(
    select row(lost_between.org_id, held.slo_name, held.version, lost_between.since, held.window_end)::ops.slo_span
    from ops.slo_windows(lost_between.as_of, array[lost_between.slo_name]) as held
  )) as summed;
end;
comment on function ops.lost_between(uuid, text, timestamptz, timestamptz) is
  'How many of an objective were bad from an instant up to the five minutes that hold as_of.';

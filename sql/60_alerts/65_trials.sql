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
returns table (as_of timestamptz, org_id uuid, rule_name text, severity text, subject text, alert_after interval, holds boolean, slo_group jsonb)
language plpgsql
stable
set search_path = ''
set jit = off
as $$
#variable_conflict use_column
begin
  return query
  with found as materialized (
    select
      instant.as_of,
      condition.org_id,
      condition.rule_name,
      rule.severity,
      condition.subject,
      rule.alert_after,
      condition.holds,
      condition.slo_group,
      lag(condition.holds) over subject_over_time as held_before,
      lag(instant.as_of) over subject_over_time as found_before,
      lead(instant.as_of, 1, 'infinity') over subject_over_time as found_next
    from generate_series(simulate_conditions.since, simulate_conditions.until - interval '1 microsecond', simulate_conditions.step) as instant (as_of)
    cross join lateral ops.objective_conditions(instant.as_of, simulate_conditions.slo_names) as condition
    join ops.alert_rules as rule
      on rule.rule_name = condition.rule_name
    window subject_over_time as (partition by condition.org_id, condition.rule_name, condition.subject, condition.slo_group order by instant.as_of)
  )
  select found.as_of, found.org_id, found.rule_name, found.severity, found.subject, found.alert_after, found.holds, found.slo_group
  from found
  where found.found_before is null
    or found.found_before < found.as_of - simulate_conditions.step
    or found.holds is distinct from found.held_before
  union all
  select ended.as_of, found.org_id, found.rule_name, found.severity, found.subject, found.alert_after, false, found.slo_group
  from found
  cross join lateral (select found.as_of + simulate_conditions.step as as_of) as ended
  where found.found_next > ended.as_of
    and ended.as_of < simulate_conditions.until
  order by 1, 2, 3, 5, 8;
end;
$$;
comment on function ops.simulate_conditions(timestamptz, timestamptz, interval, text[]) is
  'What the rules on some objectives would have found at each step of a range: the first finding and each change; holds is null where they could not tell, and false where a group is over.';

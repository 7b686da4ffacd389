-- Definitions that are tried: the rows that files would make, refused as slo apply would refuse them. Nothing is written.

create function ops.require_valid(relation regclass, definitions jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  constrained record;
  is_broken boolean;
begin
  for constrained in
    select held.conname as name, pg_catalog.pg_get_expr(held.conbin, held.conrelid) as expression
    from pg_catalog.pg_constraint as held
    where held.conrelid = relation
      and held.contype = 'c'
    union all
    select attribute.attname, pg_catalog.format('%I is not null', attribute.attname)
    from pg_catalog.pg_attribute as attribute
    where attribute.attrelid = relation
      and attribute.attnum > 0
      and attribute.attnotnull
      and not attribute.attisdropped
    order by 1
  loop
    execute format('select exists (select from jsonb_populate_recordset(null::%s, $1) where (%s) is false)', relation, constrained.expression)
    into is_broken
    using definitions;
    if is_broken then
      raise exception 'a row for the table % violates the constraint %', relation, constrained.name
        using errcode = '23514', constraint = constrained.name;
    end if;
  end loop;
end;
$$;
comment on function ops.require_valid(regclass, jsonb) is
  'Refuses rows, as a list of objects, that the check constraints of a table would refuse, or that lack a column that it must have; nothing is inserted.';

create function ops.tried_slos(definitions jsonb)
returns setof ops.slos
language plpgsql
stable
set search_path = ''
as $$
declare
  tried ops.slos;
begin
  for tried in
    select wanted.* from jsonb_populate_recordset(null::ops.slos, definitions -> 'slos') as wanted order by wanted.slo_name
  loop
    tried := ops.canonical_slo(tried);
    tried.is_enabled := true;
    tried.valid_from := '-infinity';
    -- As ops.check_slo: an objective that stands may count what nobody could begin to count now.
    if not exists (
      select from ops.slos as known where known.slo_name = tried.slo_name and ops.is_same_promise(known, tried)
    ) then
      perform ops.require_countable(tried);
    end if;
    perform ops.require_valid('ops.slos', jsonb_build_array(tried));
    return next tried;
  end loop;
end;
$$;
comment on function ops.tried_slos(jsonb) is 'The objectives that definitions would make, enabled and as if they had always stood; those that could not be made are refused.';

create function ops.tried_rules(definitions jsonb)
returns setof ops.alert_rules
language plpgsql
stable
set search_path = ''
as $$
declare
  tried ops.alert_rules;
begin
  for tried in
    select wanted.* from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as wanted
  loop
    tried.is_enabled := coalesce((select known.is_enabled from ops.alert_rules as known where known.rule_name = tried.rule_name), true);
    perform ops.require_valid('ops.alert_rules', jsonb_build_array(tried));
    return next tried;
  end loop;
  -- Of those that stand the ones for every objective; the own ones of these objectives are what the files say.
  return query
  select known.*
  from ops.alert_rules as known
  where known.slo_name is null
    and not exists (
      select
      from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as wanted
      where wanted.rule_name = known.rule_name
    );
end;
$$;
comment on function ops.tried_rules(jsonb) is
  'The rules by which the objectives of definitions would be judged: those of the definitions, and those that stand for every objective. A rule that could not be made is refused.';

create function ops.require_useful_rules(slos ops.slos[], rules ops.alert_rules[])
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  perform ops.refuse_useless_rule(rule.rule_name, slo.slo_name, judged.useless_because)
  from unnest(slos) as slo
  join unnest(rules) as rule
    on rule.slo_name = slo.slo_name
    and rule.kind = 'burn_rate'
  cross join lateral ops.rule_within_slo(
    slo.rolling_window, slo.calendar_period, slo.time_zone, slo.target, rule.factor, rule.budget_share, rule.long_window
  ) as judged
  where judged.useless_because is not null;
end;
$$;
comment on function ops.require_useful_rules(ops.slos[], ops.alert_rules[]) is 'Refuses burn-rate rules that can mean nothing for the objective that has them.';

create function ops.simulate_definitions(definitions jsonb, since timestamptz, until timestamptz, event_type text default null)
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
as $$
declare
  slos ops.slos[];
  rules ops.alert_rules[];
begin
  perform ops.check_definitions(definitions);
  slos := array(select slo from ops.tried_slos(definitions) as slo);
  rules := array(select rule from ops.tried_rules(definitions) as rule);
  perform ops.require_useful_rules(slos, rules);
  return query
  select alert.*
  from ops.simulate_slos(
    array(
      select slo
      from unnest(slos) as slo
      where simulate_definitions.event_type is null
        or slo.event_type = simulate_definitions.event_type
    ),
    rules, since, until
  ) as alert;
end;
$$;
comment on function ops.simulate_definitions(jsonb, timestamptz, timestamptz, text) is
  'The alerts that the objectives and rules in {"slos", "rules"} would have fired in a range, as ops.simulate_slos finds them; refused where slo apply would refuse the definitions. event_type null: all objectives, else those that count it. It only reads.';

-- Services, objectives, channels and rules as code: the database becomes what files define.

create function ops.compare_definition(stored jsonb, wanted jsonb)
returns jsonb
language sql
immutable
set search_path = ''
return (
  select jsonb_object_agg(field.key, jsonb_build_array(stored -> field.key, field.value))
  from jsonb_each(wanted) as field
  where stored -> field.key is distinct from field.value
);
comment on function ops.compare_definition(jsonb, jsonb) is 'Each field that differs, as [stored, wanted]; null when none does.';

create type ops.definition_change as (
  kind text,
  name text,
  change text,
  differences jsonb
);
comment on type ops.definition_change is 'What becomes of a definition: created, changed or renamed (differences has each field as [before, after]), unchanged or removed.';

create type ops.definition as (
  kind text,
  name text,
  wanted jsonb,
  stored jsonb
);
comment on type ops.definition is
  'What files define of a thing (wanted: only the columns that they decide; null: it is to be removed) beside the row that is stored (null: none).';

create function ops.owning_bundle(stored jsonb, bundle text, adopt boolean)
returns text
language sql
immutable
set search_path = ''
return case when stored is null or adopt then bundle else stored ->> 'bundle' end;
comment on function ops.owning_bundle(jsonb, text, boolean) is
  'The bundle of a definition that files of a bundle make: theirs if it is new or adopted, else the one it had (null: none).';

create function ops.service_definitions(definitions jsonb, bundle text, adopt boolean)
returns setof ops.definition
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    'service',
    wanted.service_name,
    to_jsonb(wanted) || jsonb_build_object(
      'bundle', ops.owning_bundle(to_jsonb(known), service_definitions.bundle, service_definitions.adopt)
    ),
    to_jsonb(known)
  from jsonb_populate_recordset(null::ops.services, service_definitions.definitions -> 'services') as wanted
  left join ops.services as known
    on known.service_name = wanted.service_name
  order by wanted.service_name;
end;
$$;
comment on function ops.service_definitions(jsonb, text, boolean) is 'The services that files define, beside those that are stored.';

create function ops.slo_definitions(definitions jsonb, bundle text, adopt boolean)
returns setof ops.definition
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    'slo',
    wanted.slo_name,
    to_jsonb(ops.canonical_slo(wanted)) - 'valid_from' || jsonb_build_object(
      -- Files that do not say it leave it as it is.
      'is_enabled', coalesce(wanted.is_enabled, known.is_enabled, true),
      'bundle', ops.owning_bundle(to_jsonb(known), slo_definitions.bundle, slo_definitions.adopt)
    ),
    -- The defaults stand in the files that an export writes.
    to_jsonb(known) || jsonb_build_object(
      'indicator_name', coalesce(known.indicator_name, known.slo_name),
      'time_zone', case when known.calendar_period is not null then coalesce(known.time_zone, ops.time_zone()) end
    )
  from jsonb_populate_recordset(null::ops.slos, slo_definitions.definitions -> 'slos') as wanted
  left join ops.slos as known
    on known.slo_name = wanted.slo_name
  order by wanted.slo_name;
end;
$$;
comment on function ops.slo_definitions(jsonb, text, boolean) is 'The objectives that files define, beside those that are stored.';

create function ops.channel_definitions(definitions jsonb, bundle text, adopt boolean)
returns setof ops.definition
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  select
    'channel',
    wanted.channel_name,
    to_jsonb(wanted) - array['max_attempts', 'only_org_id', 'is_enabled'] || jsonb_build_object(
      'bundle', ops.owning_bundle(to_jsonb(known), channel_definitions.bundle, channel_definitions.adopt)
    ),
    to_jsonb(known)
  from jsonb_populate_recordset(null::ops.alert_channels, channel_definitions.definitions -> 'channels') as wanted
  left join ops.alert_channels as known
    on known.channel_name = wanted.channel_name
  order by wanted.channel_name;
end;
$$;
comment on function ops.channel_definitions(jsonb, text, boolean) is 'The channels that files define, beside those that are stored.';

create function ops.rule_definitions(definitions jsonb, bundle text, adopt boolean)
returns setof ops.definition
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with wanted as materialized (
    select rule.rule_name, to_jsonb(rule) - 'is_enabled' as definition
    from jsonb_populate_recordset(null::ops.alert_rules, rule_definitions.definitions -> 'rules') as rule
  )
  select 'rule', found.rule_name, found.definition, found.stored
  from (
    select
      wanted.rule_name,
      wanted.definition || jsonb_build_object(
        'bundle', ops.owning_bundle(to_jsonb(known), rule_definitions.bundle, rule_definitions.adopt)
      ) as definition,
      to_jsonb(known) as stored
    from wanted
    left join ops.alert_rules as known
      on known.rule_name = wanted.rule_name
    union all
    -- A rule of an objective that the files define and no longer give it.
    select known.rule_name, null, to_jsonb(known)
    from ops.alert_rules as known
    where known.slo_name in (
        select slo.slo_name from jsonb_populate_recordset(null::ops.slos, rule_definitions.definitions -> 'slos') as slo
      )
      and known.rule_name not in (select wanted.rule_name from wanted)
  ) as found
  order by found.definition is null, found.rule_name;
end;
$$;
comment on function ops.rule_definitions(jsonb, text, boolean) is
  'The rules that files define, beside those that are stored; then the stored rules of these objectives that the files no longer have.';

create function ops.check_definitions(definitions jsonb)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  unknown text;
begin
  select format('the rule %s is about the KPI %s, which there is not', rule.rule_name, rule.metric_name)
  into unknown
  from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as rule
  where rule.metric_name is not null
    and rule.metric_name not in (select definition.metric_name from ops.kpi_definitions as definition)
  limit 1;
  if unknown is null then
    select format('%s is about events of type %s, which is neither described nor has ever arrived', asked.name, asked.event_type)
    into unknown
    from (
      select 'the objective ' || slo.slo_name as name, slo.event_type
      from jsonb_populate_recordset(null::ops.slos, definitions -> 'slos') as slo
      union all
      select 'the rule ' || rule.rule_name, rule.event_type
      from jsonb_populate_recordset(null::ops.alert_rules, definitions -> 'rules') as rule
      where rule.event_type is not null
    ) as asked
    where asked.event_type not in (select kind.event_type from ops.event_types as kind)
      and asked.event_type not in (select series.event_type from ops.series)
    limit 1;
  end if;
  if unknown is not null then
    raise exception '%', unknown
      using errcode = 'OP001',
        hint = format(
          'Correct the name, or add it to ops.kpi_definitions or ops.event_types first. Known types of events are %s.',
          (select string_agg(kind.event_type, ', ' order by kind.event_type) from ops.event_types as kind)
        );
  end if;
end;
$$;
comment on function ops.check_definitions(jsonb) is 'Refuses rules about KPIs, and objectives and rules about types of events, that nobody has heard of.';

create function ops.definition_changes(defined ops.definition[])
returns setof ops.definition_change
language sql
immutable
set search_path = ''
begin atomic
  select
    definition.kind,
    definition.name,
    case
      when definition.wanted is null then 'removed'
      when definition.stored is null then 'created'
      when compared.differences is null then 'unchanged'
      else 'changed'
    end,
    compared.differences
  from unnest(definition_changes.defined) with ordinality as definition (kind, name, wanted, stored, place)
  cross join lateral (
    select case when definition.stored is not null then ops.compare_definition(definition.stored, definition.wanted) end as differences
    offset 0
  ) as compared
  order by definition.place;
end;
comment on function ops.definition_changes(ops.definition[]) is 'What becomes of each definition, in the order given.';

create function ops.write_definitions(relation regclass, name_column text, defined ops.definition[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  removed constant text[] := array(select definition.name from unnest(defined) as definition where definition.wanted is null);
  written constant jsonb := (
    select jsonb_agg(definition.wanted)
    from unnest(defined) as definition
    where definition.wanted is not null
      and (definition.stored is null or ops.compare_definition(definition.stored, definition.wanted) is not null)
  );
  decided constant text[] := array(select name from jsonb_object_keys(written -> 0) as name);
begin
  if removed <> '{}' then
    execute format('delete from %s where %I = any ($1)', relation, name_column) using removed;
  end if;
  if written is not null then
    execute format(
      'insert into %1$s (%2$s) select %2$s from jsonb_populate_recordset(null::%1$s, $1) on conflict (%3$I) do update set %4$s',
      relation,
      (select string_agg(quote_ident(name), ', ') from unnest(decided) as name),
      name_column,
      (select string_agg(format('%1$I = excluded.%1$I', name), ', ') from unnest(decided) as name where name <> name_column)
    ) using written;
  end if;
end;
$$;
comment on function ops.write_definitions(regclass, text, ops.definition[]) is
  'Makes the rows of a table what definitions of one kind want: those to be removed go, those that differ are written in the columns that files decide.';

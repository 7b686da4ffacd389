-- Bundles: what the same files made before. Their objects are renamed, removed and kept from the files of others.

create function ops.rename_slos(renamed jsonb)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  -- New names by old ones.
  waiting jsonb := coalesce(renamed, '{}');
  old_name text;
  new_name text;
begin
  while waiting <> '{}' loop
    select asked.key, asked.value
    into old_name, new_name
    from jsonb_each_text(waiting) as asked
    where not exists (select from ops.slos as slo where slo.slo_name = asked.value)
    order by asked.key
    limit 1;
    if not found then
      -- Each waits for the name of another: one steps aside.
      select asked.key, asked.value into old_name, new_name from jsonb_each_text(waiting) as asked order by asked.key limit 1;
      waiting := waiting || jsonb_build_object('(renaming) ' || old_name, new_name);
      new_name := '(renaming) ' || old_name;
    end if;
    waiting := waiting - old_name;
    update ops.slos as slo set slo_name = new_name, previous_name = null where slo.slo_name = old_name;
  end loop;
end;
$$;
comment on function ops.rename_slos(jsonb) is
  'Renames objectives, {"old": "new"}, in an order in which each new name is free; those that swap their names step aside for each other.';

create function ops.heirs_of_slos(definitions jsonb, bundle text, adopt boolean)
returns table (old_name text, new_name text, promises_same boolean)
-- plpgsql, because up to Postgres 17 no column is added to a table whose row an SQL body names.
language plpgsql
stable
set search_path = ''
as $$
begin
  return query
  with defined as materialized (
    select
      said ->> 'slo_name' as slo_name,
      coalesce(said ->> 'of_several', said ->> 'slo_name') as of_slo,
      ops.canonical_slo(jsonb_populate_record(null::ops.slos, said)) as promise
    from jsonb_array_elements(definitions -> 'slos') as said
  )
  select
    standing.slo_name,
    defined.slo_name,
    ops.is_same_promise(
      jsonb_populate_record(defined.promise, jsonb_build_object(
        'is_enabled', coalesce((defined.promise).is_enabled, standing.is_enabled),
        'time_zone', nullif((defined.promise).time_zone, case when standing.time_zone is null then ops.time_zone() end)
      )),
      standing
    )
  from ops.slos as standing
  join defined
    on standing.slo_name = defined.of_slo
    or starts_with(standing.slo_name, defined.of_slo || '.')
  where (standing.bundle = heirs_of_slos.bundle or adopt)
    and standing.slo_name not in (select other.slo_name from defined as other)
    and not exists (
      select from ops.slos as known where known.slo_name in (defined.slo_name, (defined.promise).previous_name)
    )
    -- Two histories cannot be one.
    and not exists (select from ops.slo_versions as version where version.slo_name = defined.slo_name);
end;
$$;
comment on function ops.heirs_of_slos(jsonb, text, boolean) is
  'One row per objective of the bundle that its SLO calls otherwise now or defines no more, and new objective of that SLO: an SLO calls its only objective as itself, and each of several after itself (of_several). promises_same: the new one may go on with the history.';

create function ops.continued_slos(definitions jsonb, bundle text, adopt boolean)
returns table (old_name text, new_name text)
language sql
stable
set search_path = ''
begin atomic
  with heirs as materialized (
    select heir.* from ops.heirs_of_slos(continued_slos.definitions, continued_slos.bundle, continued_slos.adopt) as heir
  ),
  -- Each goes on once, and as one.
  continued as (
    select heirs.old_name, heirs.new_name
    from heirs
    where heirs.promises_same
      and heirs.new_name = (select min(other.new_name) from heirs as other where other.promises_same and other.old_name = heirs.old_name)
      and heirs.old_name = (select min(other.old_name) from heirs as other where other.promises_same and other.new_name = heirs.new_name)
  )
  select heirs.old_name, max(continued.new_name)
  from heirs
  left join continued
    on continued.old_name = heirs.old_name
  where continued.old_name is not null
    -- A new one that goes on with another history takes none from this.
    or heirs.new_name not in (select taken.new_name from continued as taken)
  group by 1;
end;
comment on function ops.continued_slos(jsonb, text, boolean) is
  'One row per objective of the bundle that its SLO calls otherwise now or defines no more while it gets new ones: the new one that goes on with its history, since it promises the same; null where none does.';

create function ops.rename_defined(definitions jsonb, bundle text, adopt boolean)
returns jsonb
language plpgsql
volatile
set search_path = ''
as $$
declare
  renamed jsonb;
  refused record;
begin
  select jsonb_object_agg(standing.slo_name, wanted.slo_name)
  into renamed
  from jsonb_populate_recordset(null::ops.slos, definitions -> 'slos') as wanted
  join ops.slos as standing
    on standing.slo_name = wanted.previous_name
  left join ops.slos as known
    on known.slo_name = wanted.slo_name
  -- A previous name is heeded once, whoever has it by now.
  where known.previous_name is distinct from wanted.previous_name;

  renamed := nullif(
    (
      select coalesce(jsonb_object_agg(continued.old_name, continued.new_name), '{}')
      from ops.continued_slos(definitions, bundle, adopt) as continued
      where continued.new_name is not null
    ) || coalesce(renamed, '{}'),
    '{}'
  );

  select asked.key as old_name, asked.value as new_name, standing.bundle, taken.slo_name is not null as is_taken
  into refused
  from jsonb_each_text(renamed) as asked
  join ops.slos as standing
    on standing.slo_name = asked.key
  left join ops.slos as taken
    on taken.slo_name = asked.value
    -- Else its name becomes free in the same move.
    and not renamed ? taken.slo_name
  where taken.slo_name is not null
    or (standing.bundle <> rename_defined.bundle and not adopt)
  order by asked.key
  limit 1;
  if refused.is_taken then
    raise exception 'the objective % cannot become %, since both stand', refused.old_name, refused.new_name
      using errcode = 'OP001',
        hint = 'Two histories cannot be one: delete one of the two, or leave the annotation opskpi.dev/previous-name out.';
  elsif refused.old_name is not null then
    raise exception 'the objective % belongs to the bundle %, and these files would rename it', refused.old_name, refused.bundle
      using errcode = 'OP001',
        hint = format('Apply the files with --bundle %s, or take what they define over with --adopt.', quote_ident(refused.bundle));
  end if;
  perform ops.rename_slos(renamed);
  return renamed;
end;
$$;
comment on function ops.rename_defined(jsonb, text, boolean) is
  'Renames the objectives whose definitions name a previous name that stands and that was not heeded yet, and those that go on under another name of their SLO; returns {"old": "new"}, or null. Refused where the new name is taken, or another bundle made the objective.';

create function ops.definition_names(defined ops.definition[])
returns text[]
language sql
immutable
set search_path = ''
return array(select definition.name from unnest(defined) as definition);
comment on function ops.definition_names(ops.definition[]) is 'The names of definitions.';

create function ops.orphaned_rules(slos ops.definition[], named text[])
returns setof ops.definition
language sql
stable
set search_path = ''
begin atomic
  select 'rule', rule.rule_name, null::jsonb, to_jsonb(rule)
  from unnest(orphaned_rules.slos) as slo
  join ops.alert_rules as rule
    on rule.slo_name = slo.name
  where slo.wanted is null
    and rule.rule_name <> all (orphaned_rules.named)
  order by rule.rule_name;
end;
comment on function ops.orphaned_rules(ops.definition[], text[]) is
  'The rules of the objectives that are to be removed, as definitions that go with them; named: those that are dealt with already.';

create function ops.require_own(defined ops.definition[], bundle text)
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  other record;
begin
  select definition.kind, definition.name, definition.stored ->> 'bundle' as bundle
  into other
  from unnest(defined) as definition
  where definition.stored ->> 'bundle' <> require_own.bundle
    -- An adopted one is wanted in this bundle.
    and definition.wanted ->> 'bundle' is distinct from require_own.bundle
    and (definition.wanted is null or ops.compare_definition(definition.stored, definition.wanted) is not null)
  limit 1;
  if other.name is not null then
    raise exception 'the % % belongs to the bundle %, and these files would change it',
      case other.kind when 'slo' then 'objective' else other.kind end, other.name, other.bundle
      using errcode = 'OP001',
        hint = format('Apply the files with --bundle %s, or take what they define over with --adopt.', quote_ident(other.bundle));
  end if;
end;
$$;
comment on function ops.require_own(ops.definition[], text) is
  'Refuses definitions that would change or remove what another bundle made, unless they adopt it.';

create function ops.with_unnamed(defined ops.definition[], kind text, relation regclass, name_column text, bundle text)
returns ops.definition[]
language plpgsql
stable
set search_path = ''
as $$
declare
  unnamed ops.definition[];
begin
  execute format(
    'select array_agg(row($1, stored.%1$I, null, to_jsonb(stored))::ops.definition order by stored.%1$I) from %2$s as stored'
    ' where stored.bundle = $2 and stored.%1$I <> all ($3)',
    name_column, relation
  )
  into unnamed
  using kind, bundle, ops.definition_names(defined);
  return defined || unnamed;
end;
$$;
comment on function ops.with_unnamed(ops.definition[], text, regclass, text, text) is
  'Definitions of one kind, and what their bundle made in its table and they no longer name, to be removed.';

create function ops.require_known_channels(removed ops.definition[])
returns void
language plpgsql
stable
set search_path = ''
as $$
declare
  asking record;
begin
  select rule.rule_name, definition.name as channel_name
  into asking
  from unnest(removed) as definition
  join ops.alert_rules as rule
    on definition.name = any (rule.channels)
  where definition.wanted is null
  order by 1
  limit 1;
  if asking.rule_name is not null then
    raise exception 'the channel % cannot be removed: the rule % sends to it', asking.channel_name, asking.rule_name
      using errcode = 'OP001', hint = 'Change or remove the rule first, or keep the channel in the files.';
  end if;
end;
$$;
comment on function ops.require_known_channels(ops.definition[]) is 'Refuses the removal of channels that rules still name.';

create function ops.apply_definitions(
  definitions jsonb,
  bundle text default 'default',
  adopt boolean default false,
  prune boolean default false,
  author text default null
)
returns setof ops.definition_change
language plpgsql
volatile
set search_path = ''
as $$
declare
  renamed jsonb;
  services ops.definition[];
  slos ops.definition[];
  channels ops.definition[];
  rules ops.definition[];
begin
  if ops.is_bundle_name(bundle) is not true then
    raise exception 'a bundle has a name of 1 to 100 characters on one line, not %', coalesce(quote_literal(bundle), 'none')
      using errcode = 'OP001', hint = 'Leave it out for the bundle default.';
  end if;
  perform ops.begin_changes(author);
  perform ops.check_definitions(definitions);
  renamed := ops.rename_defined(definitions, bundle, adopt);
  -- Compared as rows, not as the text that came, and all before the first is written.
  services := array(select service from ops.service_definitions(definitions, bundle, adopt) as service);
  slos := array(select slo from ops.slo_definitions(definitions, bundle, adopt) as slo);
  channels := array(select channel from ops.channel_definitions(definitions, bundle, adopt) as channel);
  rules := array(select rule from ops.rule_definitions(definitions, bundle, adopt) as rule);
  if prune then
    services := ops.with_unnamed(services, 'service', 'ops.services', 'service_name', bundle);
    slos := ops.with_unnamed(slos, 'slo', 'ops.slos', 'slo_name', bundle);
    channels := ops.with_unnamed(channels, 'channel', 'ops.alert_channels', 'channel_name', bundle);
    rules := ops.with_unnamed(rules, 'rule', 'ops.alert_rules', 'rule_name', bundle);
    rules := rules || array(select orphan from ops.orphaned_rules(slos, ops.definition_names(rules)) as orphan);
  end if;
  perform ops.require_own(services || slos || channels || rules, bundle);
  perform ops.write_definitions('ops.services', 'service_name', services);
  perform ops.write_definitions('ops.slos', 'slo_name', slos);
  perform ops.write_definitions('ops.alert_channels', 'channel_name', channels);
  perform ops.write_definitions('ops.alert_rules', 'rule_name', rules);
  perform ops.require_known_channels(channels);
  -- Now, so that a rule that can never fire is refused here and not when the transaction ends.
  set constraints ops.slos_check_factor, ops.alert_rules_check_factor immediate;
  return query
  select 'slo', renaming.value, 'renamed', jsonb_build_object('slo_name', jsonb_build_array(renaming.key, renaming.value))
  from jsonb_each_text(renamed) as renaming
  union all
  select * from ops.definition_changes(services || slos || channels || rules);
end;
$$;
comment on function ops.apply_definitions(jsonb, text, boolean, boolean, text) is
  'Makes services, objectives, channels and rules what the rows in {"services", "slos", "channels", "rules"} say, and removes rules of these objectives that are not among them. What is new belongs to the bundle; adopt: so does all that the rows name; else what another bundle made may be named, and not changed. prune: what the bundle made and the rows do not name is removed. One row a definition: renamed, created, changed (with each field as [before, after]), unchanged or removed.';

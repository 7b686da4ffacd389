-- An erasure finds an agent in every spelling and table, labels and tags included, and says where a name stays.

drop function ops.forget_agent;
drop function ops.erase_agent;

alter type ops.anonymisation_report add attribute kept jsonb;
comment on type ops.anonymisation_report is
  'more: call again after last_id; done; busy: a refresh, a rebuild or another job has the lock, nothing was done. Events looked at and changed (count); counts as in ops.anonymisations; kept are rows by column in which an erasure leaves a name, since it is part of a definition.';
comment on type ops.anonymisation_report is
  'more: call again after last_id; done; busy: a refresh, a rebuild or another job has the lock, nothing was done. Events looked at and changed (count); counts as in ops.anonymisations; kept are rows by column in which an erasure leaves a name, since it is part of a definition.';

create function ops.agent_mention(pseudonyms ops.pseudonym[], also text[])
returns text
language plpgsql
immutable
set search_path = ''
as $$
begin
  if exists (select from unnest(also) as name where coalesce(char_length(btrim(name)), 0) < 5) then
    raise exception 'a name to erase has fewer than 5 characters'
      using errcode = 'OP001', hint = 'It would be found inside other words; pass an e-mail address or another long name.';
  end if;
  return (
    select '(?:' || string_agg(written.spelling, '|') || ')'
    from (
      -- Hyphens may be missing or stand after any four digits, as Postgres reads a UUID.
      select regexp_replace(replace(pair.agent, '-', ''), '([0-9a-f]{4})(?=.)', '\1[-_]?', 'g') as spelling
      from unnest(pseudonyms) as pair
      union
      select regexp_replace(form.text, '([][(){}.*+?^$|\\])', '\\\1', 'g')
      from unnest(also) as name
      cross join lateral (values (btrim(name)), (btrim(to_jsonb(btrim(name))::text, '"'))) as form (text)
    ) as written
  );
end;
$$;
comment on function ops.agent_mention(ops.pseudonym[], text[]) is
  'A regular expression for every spelling of an agent''s ids (capitals, without hyphens) and for its other names, also as JSON writes them.';

create function ops.without_mention(document jsonb, mention text, erased text)
returns jsonb
language plpgsql
immutable
set search_path = ''
as $$
begin
  if document::text !~* mention then
    return document;
  end if;
  return regexp_replace(document::text, mention, erased, 'gi')::jsonb;
exception
  -- An id of digits only may be a number, in which the other id has no place; and two keys may be too long for one.
  when invalid_text_representation or program_limit_exceeded then
    return regexp_replace(document::text, mention, '1', 'gi')::jsonb;
end;
$$;
comment on function ops.without_mention(jsonb, text, text) is
  'A document in which what matches is replaced, in keys and values; by a 1 where a number matches.';

create function ops.tables_with_texts()
returns table (relation regclass, org_column name, erased_columns name[], kept_columns name[])
language sql
stable
set search_path = ''
begin atomic
  with texts as (
    select
      class.oid::regclass as relation,
      (
        select owner.attname
        from pg_catalog.pg_attribute as owner
        where owner.attrelid = class.oid
          and owner.attname in ('org_id', 'only_org_id')
          and not owner.attisdropped
      ) as org_column,
      attribute.attname,
      attribute.attnum
    from pg_catalog.pg_class as class
    join pg_catalog.pg_attribute as attribute
      on attribute.attrelid = class.oid
    where class.relkind = 'r'
      and not class.relispartition
      and (class.relnamespace = 'ops'::regnamespace or class.oid in ('public.kpi_aggregations'::regclass, 'public.slsa_audit_metrics'::regclass))
      and attribute.attnum > 0
      and not attribute.attisdropped
      and attribute.attgenerated = ''
      and attribute.atttypid in ('text'::regtype, 'jsonb'::regtype, 'text[]'::regtype)
      -- A column of a few fixed words names nobody; that of the rollups, the largest table, would be searched in vain.
      and not exists (
        select
        from pg_catalog.pg_constraint as rule
        where rule.conrelid = class.oid
          and rule.contype = 'c'
          and rule.conkey = array[attribute.attnum]
          and pg_get_constraintdef(rule.oid) like 'CHECK ((' || attribute.attname || ' = ANY (ARRAY[%'
      )
  ),
  judged as (
    select
      texts.*,
      -- What holds for all orgs, where their messages go, and the names of such definitions.
      texts.relation = 'ops.alert_channels'::regclass
        or (texts.org_column is null and texts.relation <> 'ops.job_runs'::regclass)
        or texts.attname in ('event_type', 'only_event_type', 'metric_name', 'slo_name', 'rule_name', 'channel_name', 'channels', 'key_id') as stays
    from texts
  )
  select
    judged.relation,
    judged.org_column,
    coalesce(array_agg(judged.attname order by judged.attnum) filter (where not judged.stays), '{}'),
    coalesce(array_agg(judged.attname order by judged.attnum) filter (where judged.stays), '{}')
  from judged
  group by judged.relation, judged.org_column;
end;
comment on function ops.tables_with_texts() is
  'One row per table beside the events that has texts or JSON: the column that names the org (null: none), the columns in which an erasure replaces what names the agent, and those that stay by their meaning: definitions that an administrator wrote, and their names.';

create function ops.count_mentions(owner_id uuid, mention text, out counts jsonb, out kept jsonb)
language plpgsql
stable
set search_path = ''
as $$
declare
  found record;
  column_name name;
  is_own text;
  rows bigint;
begin
  counts := '{}';
  kept := '{}';
  for found in select tables.* from ops.tables_with_texts() as tables loop
    is_own := case when found.org_column is null then 'true' else format('coalesce(stored.%I, $1) = $1', found.org_column) end;
    if cardinality(found.erased_columns) > 0 then
      execute format(
        'select count(*) from %s as stored where %s and concat_ws('' '', %s) ~* $2',
        found.relation,
        is_own,
        (select string_agg(format('stored.%I::text', erased.name), ', ') from unnest(found.erased_columns) as erased (name))
      )
      into rows using owner_id, mention;
      if rows > 0 then
        counts := counts || jsonb_build_object(ops.table_name(found.relation), rows);
      end if;
    end if;
    foreach column_name in array found.kept_columns loop
      execute format('select count(*) from %s as stored where %s and stored.%I::text ~* $2', found.relation, is_own, column_name)
      into rows using owner_id, mention;
      if rows > 0 then
        kept := kept || jsonb_build_object(ops.table_name(found.relation) || '.' || column_name, rows);
      end if;
    end loop;
  end loop;
end;
$$;
comment on function ops.count_mentions(uuid, text) is
  'The rows that name an agent, by table, and those in which it stays, by column: of the org, and of what belongs to no org.';

create function ops.table_name(relation regclass)
returns text
language sql
stable
set search_path = ''
return (
  select format('%I.%I', class.relnamespace::regnamespace, class.relname) from pg_catalog.pg_class as class where class.oid = relation
);
comment on function ops.table_name(regclass) is 'The name of a table with its schema.';

create function ops.replace_mentions(owner_id uuid, mention text, erased text, counts jsonb)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  found record;
  assignments text[];
begin
  for found in select tables.* from ops.tables_with_texts() as tables where counts ? ops.table_name(tables.relation) loop
    -- The second way is for names that would be too long or twice the same.
    assignments := array(
      select string_agg(
        format(
          case attribute.atttypid
            when 'jsonb'::regtype then '%1$I = ops.without_mention(stored.%1$I, $2, %2$s)'
            when 'text[]'::regtype then '%1$I = array(select regexp_replace(element, $2, %2$s, ''gi'') from unnest(stored.%1$I) as element)'
            else case when way.is_short then '%1$I = left(regexp_replace(stored.%1$I, $2, left(gen_random_uuid()::text, 8), ''gi''), char_length(stored.%1$I))'
              else '%1$I = regexp_replace(stored.%1$I, $2, %2$s, ''gi'')' end
          end,
          attribute.attname,
          case when way.is_short then '''1''' else '$3' end
        ),
        ', '
      )
      from (values (1, false), (2, true)) as way (place, is_short)
      cross join pg_catalog.pg_attribute as attribute
      where attribute.attrelid = found.relation
        and attribute.attname = any (found.erased_columns)
      group by way.place
      order by way.place
    );
    assignments := array(
      select format(
        'update %s as stored set %s where %s and concat_ws('' '', %s) ~* $2 and $3 is not null',
        found.relation,
        assignment.list,
        case when found.org_column is null then 'true' else format('coalesce(stored.%I, $1) = $1', found.org_column) end,
        (select string_agg(format('stored.%I::text', erased.name), ', ') from unnest(found.erased_columns) as erased (name))
      )
      from unnest(assignments) with ordinality as assignment (list, place)
      order by assignment.place
    );
    begin
      execute assignments[1] using owner_id, mention, erased;
    exception
      when integrity_constraint_violation then
        execute assignments[2] using owner_id, mention, erased;
    end;
  end loop;
end;
$$;
comment on function ops.replace_mentions(uuid, text, text, jsonb) is
  'Replaces what names an agent in the tables in which count_mentions found it, but where it stays by its meaning; only forget_agent calls it.';

create function ops.rename_rollups(owner_id uuid, mention text, erased text)
returns ops.rollup_delta[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  named constant bigint[] := array(
    select series.series_id from ops.series where series.org_id = owner_id and series.labels::text ~* mention
  );
  renamed constant ops.rollup_delta[] := array(
    select row(
      rollup.org_id, series.event_type, ops.without_mention(series.labels, mention, erased), rollup.period, rollup.period_start,
      sum(rollup.event_count), sum(rollup.value_count), sum(rollup.value_sum), min(rollup.value_min), max(rollup.value_max)
    )::ops.rollup_delta
    from ops.series
    join ops.rollups as rollup
      on rollup.org_id = series.org_id
      and rollup.series_id = series.series_id
    where series.org_id = owner_id
      and series.series_id = any (named)
    group by rollup.org_id, series.event_type, ops.without_mention(series.labels, mention, erased), rollup.period, rollup.period_start
  );
begin
  delete from ops.rollups as rollup where rollup.org_id = owner_id and rollup.series_id = any (named);
  delete from ops.series where series.org_id = owner_id and series.series_id = any (named);
  perform ops.add_rollups(renamed);
  return renamed;
end;
$$;
comment on function ops.rename_rollups(uuid, text, text) is
  'Moves the rollups of series whose labels name an erased agent to the labels without it; returns what was moved. Only rename_states calls it.';

create function ops.rename_histograms(owner_id uuid, mention text, erased text)
returns ops.histograms[]
language plpgsql
volatile
set search_path = ''
as $$
declare
  moved constant ops.histogram_delta[] := array(
    select row(
      binned.org_id, binned.event_type, binned.labels, binned.period, binned.period_start, array_agg(binned.bin), array_agg(binned.value_count)
    )::ops.histogram_delta
    from (
      select
        stored.org_id, stored.event_type, ops.without_mention(stored.labels, mention, erased) as labels, stored.period, stored.period_start,
        place.bin, sum(stored.counts[place.bin])::bigint as value_count
      from ops.histograms as stored
      cross join lateral generate_subscripts(stored.counts, 1) as place (bin)
      where stored.org_id = owner_id
        and stored.labels::text ~* mention
        and stored.counts[place.bin] is not null
      group by 1, 2, 3, 4, 5, 6
    ) as binned
    group by binned.org_id, binned.event_type, binned.labels, binned.period, binned.period_start
  );
  merged ops.histograms[];
begin
  delete from ops.histograms as stored where stored.org_id = owner_id and stored.labels::text ~* mention;
  merged := array(select histogram from ops.merged_histograms(moved) as histogram);
  perform ops.write_histograms(merged);
  return merged;
end;
$$;
comment on function ops.rename_histograms(uuid, text, text) is
  'Moves histograms whose labels name an erased agent to the labels without it; returns them as they are then. Only rename_states calls it.';

create type ops.unit_rename as (org_id uuid, event_type text, old_unit text, new_unit text);
comment on type ops.unit_rename is 'A unit of work and its new name.';

create function ops.rename_units(units ops.unit_rename[])
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  stored constant ops.unit_delta[] := array(
    select row(unit.org_id, unit.event_type, renamed.new_unit, unit.first_attempt_at, unit.succeeded)::ops.unit_delta
    from ops.work_units as unit
    join unnest(units) as renamed
      on renamed.org_id = unit.org_id
      and renamed.event_type = unit.event_type
      and renamed.old_unit = unit.unit
  );
  moved constant ops.unit_delta[] := array(
    select row(unit.org_id, unit.event_type, unit.unit, min(unit.first_attempt_at), bool_or(unit.succeeded))::ops.unit_delta
    from unnest(stored) as unit
    group by unit.org_id, unit.event_type, unit.unit
  );
  changes ops.unit_change[];
begin
  delete from ops.work_units as unit
  using unnest(units) as renamed
  where renamed.org_id = unit.org_id
    and renamed.event_type = unit.event_type
    and renamed.old_unit = unit.unit;
  changes := array(select changed from ops.changed_units(moved) as changed);
  perform ops.write_units(changes);
  -- Where two units have become one, one is counted less.
  if (select count(*) from unnest(changes) as change where change.old_first_attempt_at is null) < cardinality(stored) then
    perform ops.recount_units();
  end if;
end;
$$;
comment on function ops.rename_units(ops.unit_rename[]) is
  'Gives units of work other names; those that have the same name then are one. Only an erasure calls it.';

create function ops.rename_states(owner_id uuid, mention text, erased text)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  rollups constant ops.rollup_delta[] := ops.rename_rollups(owner_id, mention, erased);
  histograms constant ops.histograms[] := ops.rename_histograms(owner_id, mention, erased);
  patterns constant ops.pattern_delta[] := array(
    select row(
      stored.org_id, regexp_replace(stored.hook_type, mention, erased, 'gi'), regexp_replace(stored.pattern, mention, erased, 'gi'),
      stored.period, stored.period_start, sum(stored.blocked_count), regexp_replace(stored.team, mention, erased, 'gi')
    )::ops.pattern_delta
    from ops.blocked_patterns as stored
    where stored.org_id = owner_id
      and concat_ws(' ', stored.hook_type, stored.pattern, stored.team) ~* mention
    group by stored.org_id, regexp_replace(stored.hook_type, mention, erased, 'gi'), regexp_replace(stored.pattern, mention, erased, 'gi'),
      stored.period, stored.period_start, regexp_replace(stored.team, mention, erased, 'gi')
  );
begin
  delete from ops.blocked_patterns as stored
  where stored.org_id = owner_id
    and concat_ws(' ', stored.hook_type, stored.pattern, stored.team) ~* mention;
  perform ops.add_patterns(patterns);
  perform ops.rename_units(array(
    select row(unit.org_id, unit.event_type, unit.unit, regexp_replace(unit.unit, mention, erased, 'gi'))::ops.unit_rename
    from ops.work_units as unit
    where unit.org_id = owner_id
      and unit.unit ~* mention
  ));
  delete from public.kpi_aggregations as stored where stored.org_id = owner_id and stored.labels::text ~* mention;
  perform ops.write_kpis(
    array(
      select kpi
      from ops.changed_ratios(array(
        -- A delta of nothing to each gives the KPIs of what stands there.
        select row(moved.org_id, moved.event_type, moved.labels, moved.period, moved.period_start, 0, 0, 0, null, null)::ops.rollup_delta
        from unnest(rollups) as moved
      )) as kpi
      union all
      select kpi from ops.changed_percentiles(histograms) as kpi
    ),
    now()
  );
end;
$$;
comment on function ops.rename_states(uuid, text, text) is
  'Moves all that was counted under a name of an erased agent to the name without it, KPIs included; only forget_agent calls it.';

create function ops.erase_agent(
  org_id uuid,
  agent_id uuid,
  after_id bigint default 0,
  max_events integer default 2000,
  dry_run boolean default false,
  without_key boolean default false,
  anonymisation_id bigint default null,
  also text[] default '{}'
)
returns ops.anonymisation_report
language plpgsql
volatile
set search_path = ''
set plan_cache_mode = force_custom_plan
set jit = off
as $$
declare
  report ops.anonymisation_report;
  pseudonyms ops.pseudonym[] := array(select pair from ops.erased_pseudonyms(erase_agent.org_id, erase_agent.agent_id, without_key) as pair);
  mention text := ops.agent_mention(pseudonyms, also);
  -- Wherever else it is written, in values and in keys.
  traces ops.anonymisation_rules[] := array[
    row('erased-agent', '', '$.**', '(?i)' || mention, 'remove', false, true, ops.anonymisation_pattern('$.**', false)),
    row('erased-agent', '', '$.**', null, 'remove', false, true, '(?i)^.*"[^"]*' || mention || '[^"]*"$')
  ]::ops.anonymisation_rules[];
  rules ops.anonymisation_rules[] := array(select rule from ops.anonymisation_rules as rule where rule.is_enabled) || traces;
  own ops.anonymisable[];
  others ops.anonymisable[];
  written record;
  written_to_others record;
  forgotten record;
begin
  if max_events is null or max_events < 1 then
    raise exception 'a batch of % events would never end', max_events
      using errcode = 'OP001', hint = 'Pass max_events of 1 or more.';
  end if;
  if not dry_run and not (
    pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) and pg_try_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0))
  ) then
    report.state := 'busy';
    return report;
  end if;
  -- Those that are not counted yet, too: nothing is counted meanwhile, and then they count for the same team.
  report.last_id := ops.last_to_anonymise(after_id, 9223372036854775807, 'infinity', max_events);
  report.state := case when report.last_id is null then 'done' else 'more' end;
  select
    array_agg(named.event) filter (where named.is_own),
    array_agg(named.event) filter (where not named.is_own)
  into own, others
  from (
    select
      row(
        row_number() over (), event.event_type, event.event_timestamp, event.run_id, event.tag, event.metadata, event.event_id, event.org_id,
        event.agent_id
      )::ops.anonymisable as event,
      coalesce(event.agent_id::text ~* mention, false) or coalesce(event.metadata ->> 'agent_id' ~* mention, false) as is_own
    from public.telemetry_events as event
    where event.id > after_id
      and event.id <= coalesce(report.last_id, 9223372036854775807)
      and event.org_id = erase_agent.org_id
      and (event.agent_id::text ~* mention or event.tag ~* mention or event.metadata::text ~* mention)
  ) as named;
  if not dry_run and own is not null then
    perform ops.add_pseudonyms(pseudonyms);
  end if;
  select * into written from ops.write_anonymised(coalesce(own, '{}'), rules, pseudonyms, true, dry_run);
  select * into written_to_others from ops.write_anonymised(coalesce(others, '{}'), traces, '{}', true, dry_run);
  if not dry_run then
    perform ops.rename_in_events(coalesce(own, '{}') || coalesce(others, '{}'), mention, pseudonyms[1].pseudonym::text);
  end if;
  report.looked_at := coalesce(cardinality(own), 0) + coalesce(cardinality(others), 0);
  -- Each named the agent, and none does any more.
  report.changed := report.looked_at;
  report.counts := ops.added_counts(written.counts, written_to_others.counts);
  if report.state = 'done' then
    select * into forgotten from ops.forget_agent(pseudonyms, mention, dry_run);
    report.counts := ops.added_counts(report.counts, forgotten.counts);
    report.kept := forgotten.kept;
  end if;
  perform ops.note_anonymisation(anonymisation_id, report);
  return report;
end;
$$;
comment on function ops.erase_agent(uuid, uuid, bigint, integer, boolean, boolean, bigint, text[]) is
  'Turns one batch of the events of an agent, and of its pseudonym, into those of the erased agent of its team and applies all rules to them; its ids in any spelling, and what it is also called, are replaced wherever they are written. Call it again after last_id until it is done, when the agent is taken out of every other table. Events that were not committed by then are for another run.';

create function ops.rename_in_events(events ops.anonymisable[], mention text, erased text)
returns void
language plpgsql
volatile
set search_path = ''
-- A plan for the partitions between the two instants, and no others.
set plan_cache_mode = force_custom_plan
set jit = off
as $$
declare
  since timestamptz := (select min(event.event_timestamp) from unnest(events) as event);
  until timestamptz := (select max(event.event_timestamp) from unnest(events) as event);
  tagged constant uuid[] := array(select event.event_id from unnest(events) as event where event.tag ~* mention);
  units ops.unit_rename[];
begin
  -- Before the tags change: the unit of a long one is a hash of it.
  units := array(
    select row(attempt.org_id, attempt.event_type, attempt.unit, attempt.event_id::text)::ops.unit_rename
    from ops.attempts as attempt
    where attempt.event_id = any (tagged)
      and attempt.event_timestamp between since and until
  );
  update public.telemetry_events as stored
  set tag = regexp_replace(stored.tag, mention, erased, 'gi'),
      metadata = ops.without_mention(stored.metadata, mention, erased)
  from unnest(events) as event
  where stored.org_id = event.org_id
    and stored.event_timestamp = event.event_timestamp
    and stored.event_id = event.event_id
    and stored.event_timestamp between since and until
    and (stored.tag ~* mention or stored.metadata::text ~* mention);
  perform ops.rename_units(array(
    select distinct row(old.org_id, old.event_type, old.old_unit, renamed.unit)::ops.unit_rename
    from unnest(units) as old
    join ops.attempts as renamed
      on renamed.org_id = old.org_id
      and renamed.event_id::text = old.new_unit
    where renamed.event_id = any (tagged)
      and renamed.event_timestamp between since and until
      and renamed.unit <> old.old_unit
  ));
end;
$$;
comment on function ops.rename_in_events(ops.anonymisable[], text, text) is
  'Replaces what still names an erased agent in events after the rules: tags and what is counted, which no rule touches. The units of work of the tags follow at once, all other states when the erasure is done. Only erase_agent calls it.';

create or replace function ops.erased_pseudonyms(org_id uuid, agent_id uuid, without_key boolean)
returns setof ops.pseudonym
language plpgsql
stable
set search_path = ''
as $$
declare
  pads bytea[] := ops.anonymisation_pads();
begin
  if erased_pseudonyms.org_id is null or erased_pseudonyms.agent_id is null then
    raise exception 'an agent is erased by its org and its id'
      using errcode = 'OP001', hint = 'Pass both.';
  end if;
  if exists (
    select
    from ops.agents as agent
    where agent.org_id = erased_pseudonyms.org_id
      and agent.agent_id = erased_pseudonyms.agent_id
      and agent.agent_id = ops.erased_agent_id(agent.org_id, agent.team)
  ) then
    raise exception 'that is what the erased agents of a team are called'
      using errcode = 'OP001', hint = 'Nobody can be told from another by it; there is nothing to erase.';
  end if;
  if pads is null and not without_key and not ops.is_pseudonym(erased_pseudonyms.agent_id::text) and exists (
    select
    from ops.agents as agent
    where agent.org_id = erased_pseudonyms.org_id
      and agent.is_pseudonym
      and agent.agent_id <> ops.erased_agent_id(agent.org_id, agent.team)
  ) then
    raise exception 'the organisation has pseudonyms, and which of them is this agent''s cannot be said without the anonymisation key'
      using errcode = 'OP003', hint = 'Set OPSKPI_ANONYMISATION_KEY; if the key is gone for good, pass --without-key.';
  end if;
  return query
  with names as (
    select name.agent_id, agent.agent_id is not null as is_known, agent.team
    from (
      select erased_pseudonyms.agent_id
      union
      select ops.agent_pseudonym(pads, erased_pseudonyms.org_id, erased_pseudonyms.agent_id::text)
    ) as name
    left join ops.agents as agent
      on agent.org_id = erased_pseudonyms.org_id
      and agent.agent_id = name.agent_id
    where name.agent_id is not null
  )
  select
    erased_pseudonyms.org_id,
    '',
    names.agent_id::text,
    names.agent_id,
    ops.erased_agent_id(
      erased_pseudonyms.org_id,
      -- With rules on the way in only the pseudonym may have a row, and without any only the agent.
      case when names.is_known then names.team else (select max(known.team) from names as known) end
    ),
    'erased-agent'
  from names
  order by names.agent_id <> erased_pseudonyms.agent_id;
end;
$$;

create function ops.forget_agent(pseudonyms ops.pseudonym[], mention text, dry_run boolean, out counts jsonb, out kept jsonb)
language plpgsql
volatile
set search_path = ''
as $$
declare
  ids constant uuid[] := array(select pair.agent_id from unnest(pseudonyms) as pair);
  owner_id constant uuid := pseudonyms[1].org_id;
  erased constant text := pseudonyms[1].pseudonym::text;
  of_kind bigint;
begin
  select named.counts, named.kept into counts, kept from ops.count_mentions(owner_id, mention) as named;
  select ops.added_counts(counts, coalesce(jsonb_object_agg(found.name, found.rows), '{}'))
  into counts
  from (
    select 'ops.agents' as name, count(*) as rows
    from ops.agents as agent
    where agent.org_id = owner_id and agent.agent_id = any (ids)
    union all
    select 'ops.request_counts', count(*)
    from ops.request_counts as stored
    where stored.org_id = owner_id and stored.agent_id = any (ids)
  ) as found
  where found.rows > 0;
  -- The kinds of counted events are few, so that only events of such a kind are read.
  select count(*) into of_kind
  from public.telemetry_events as event
  where event.org_id = owner_id
    and event.event_type in (select series.event_type from ops.series where series.org_id = owner_id and series.event_type ~* mention);
  if of_kind > 0 then
    kept := kept || jsonb_build_object('public.telemetry_events.event_type', of_kind);
  end if;
  if dry_run or counts = '{}' then
    return;
  end if;
  -- First, since whoever sends for the agent at this moment holds it and waits for the next.
  delete from ops.request_counts as stored where stored.org_id = owner_id and stored.agent_id = any (ids);
  delete from ops.agents as agent where agent.org_id = owner_id and agent.agent_id = any (ids);
  delete from ops.alerts as alert where alert.org_id = owner_id and alert.state = 'pending' and alert.subject ~* mention;
  update ops.alerts as alert
  set state = 'resolved',
      -- Nothing asks about it any more.
      resolved_at = coalesce(alert.resolved_at, greatest(alert.evaluated_at, now()))
  where alert.org_id = owner_id and alert.subject ~* mention;
  if counts ?| array['ops.series', 'ops.histograms', 'ops.blocked_patterns', 'ops.work_units', 'public.kpi_aggregations'] then
    perform ops.rename_states(owner_id, mention, erased);
  end if;
  perform ops.replace_mentions(owner_id, mention, erased, counts);
end;
$$;
comment on function ops.forget_agent(ops.pseudonym[], text, boolean) is
  'Takes an agent, its pseudonym and its other names out of every table but the events; returns the rows by table, and those in which a name stays by its meaning, by column. Its open alerts are over. Only erase_agent calls it.';

revoke execute on function
  ops.agent_mention,
  ops.count_mentions,
  ops.erase_agent,
  ops.forget_agent,
  ops.rename_histograms,
  ops.rename_in_events,
  ops.rename_rollups,
  ops.rename_states,
  ops.rename_units,
  ops.replace_mentions,
  ops.table_name,
  ops.tables_with_texts,
  ops.without_mention
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.agent_mention,
    ops.count_mentions,
    ops.erase_agent,
    ops.forget_agent,
    ops.rename_histograms,
    ops.rename_in_events,
    ops.rename_rollups,
    ops.rename_states,
    ops.rename_units,
    ops.replace_mentions,
    ops.table_name,
    ops.tables_with_texts,
    ops.without_mention
  from anon, authenticated, service_role;
end;
$$;

-- Wherever an erased agent is written, in any spelling: what is replaced, and what stays by its meaning.

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

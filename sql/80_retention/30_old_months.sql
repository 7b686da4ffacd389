-- The months of events: their content, and which are older than their rules allow.

create function ops.event_months()
returns table (relation regclass, name text, is_default boolean, month_start timestamptz, month_end timestamptz)
language sql
stable
set search_path = ''
-- The bounds of a partition are read as text.
set timezone = 'UTC'
set datestyle = 'ISO, YMD'
begin atomic
  with recursive bounds as (
    select
      inheritance.inhrelid::regclass as relation,
      class.relname::text as name,
      regexp_match(pg_get_expr(class.relpartbound, class.oid), '^FOR VALUES FROM \(''([0-9][^'']*)''\) TO \(''([0-9][^'']*)''\)$') as ends
    from pg_catalog.pg_inherits as inheritance
    join pg_catalog.pg_class as class
      on class.oid = inheritance.inhrelid
    where inheritance.inhparent = 'public.telemetry_events'::regclass
      and class.relkind = 'r'
  ),
  default_month as (
    select date_trunc('month', min(event.event_timestamp), 'UTC') as month_start
    from ops.telemetry_events_default as event
    union all
    select (
      select date_trunc('month', min(event.event_timestamp), 'UTC')
      from ops.telemetry_events_default as event
      where event.event_timestamp >= default_month.month_start + interval '1 month'
    )
    from default_month
    where default_month.month_start is not null
  )
  select bounds.relation, bounds.name, false, bounds.ends[1]::timestamptz, bounds.ends[2]::timestamptz
  from bounds
  -- What somebody else has attached is that somebody's to drop.
  where bounds.ends[1]::timestamptz = date_trunc('month', bounds.ends[1]::timestamptz, 'UTC')
    and bounds.ends[2]::timestamptz = bounds.ends[1]::timestamptz + interval '1 month'
  union all
  select
    'ops.telemetry_events_default'::regclass,
    'telemetry_events_default ' || to_char(default_month.month_start, 'YYYY-MM'),
    true,
    default_month.month_start,
    default_month.month_start + interval '1 month'
  from default_month
  where default_month.month_start is not null;
end;
comment on function ops.event_months() is 'One row a partition that is a month (UTC), and a month that has events in the default partition.';

create function ops.stored_types(relation regclass, since timestamptz, until timestamptz)
returns text[]
language plpgsql
stable
set search_path = ''
as $$
declare
  found text[];
begin
  -- From kind to kind by the index, which takes as many steps as there are kinds; counting reads every event.
  execute format(
    'with recursive kind as (
       select min(event.event_type) as event_type from %1$s as event where event.event_timestamp >= $1 and event.event_timestamp < $2
       union all
       select (
         select min(event.event_type)
         from %1$s as event
         where event.event_type > kind.event_type and event.event_timestamp >= $1 and event.event_timestamp < $2
       )
       from kind
       where kind.event_type is not null
     )
     select array_agg(kind.event_type) from kind where kind.event_type is not null',
    relation
  )
  into found
  using since, until;
  return coalesce(found, '{}');
end;
$$;
comment on function ops.stored_types(regclass, timestamptz, timestamptz) is 'The kinds of events that a partition holds of a time, in order.';

create function ops.owns_events()
returns boolean
language sql
stable
set search_path = ''
return pg_has_role((select class.relowner from pg_catalog.pg_class as class where class.oid = 'public.telemetry_events'::regclass), 'usage');
comment on function ops.owns_events() is 'Whether the caller may make and drop partitions of the events.';

create function ops.has_uncounted_events(relation regclass, since timestamptz, until timestamptz, event_type text default null)
returns boolean
language plpgsql
stable
set search_path = ''
as $$
declare
  answer boolean;
begin
  execute format(
    'select exists (
       select
       from %s as event
       where (event.id > $1 or event.id = any ($5)) and event.event_timestamp >= $2 and event.event_timestamp < $3 and ($4 is null or event.event_type = $4)
     )',
    relation
  )
  into answer
  using ops.cursor_id(), since, until, event_type, coalesce(ops.late_ids(), '{}');
  return answer;
end;
$$;
comment on function ops.has_uncounted_events(regclass, timestamptz, timestamptz, text) is
  'Whether a partition has events of a time, of one kind if named, that no refresh has counted.';

create function ops.expired_months(as_of timestamptz)
returns table (
  relation regclass,
  name text,
  is_default boolean,
  month_start timestamptz,
  month_end timestamptz,
  expired text[],
  is_whole boolean
)
language sql
stable
set search_path = ''
begin atomic
  with candidates as materialized (
    select month.*, ops.stored_types(month.relation, month.month_start, month.month_end) as event_types
    from ops.event_months() as month
    where month.month_end <= (
      select max(ops.kept_since('events', rule.event_type, expired_months.as_of))
      from ops.retention_rules as rule
      where rule.kept = 'events'
    )
  ),
  judged as (
    select
      candidates.*,
      array(
        select kind.event_type
        from unnest(candidates.event_types) as kind (event_type)
        where candidates.month_end <= ops.kept_since('events', kind.event_type, expired_months.as_of)
        order by kind.event_type
      ) as expired
    from candidates
  )
  select
    judged.relation,
    judged.name,
    judged.is_default,
    judged.month_start,
    judged.month_end,
    judged.expired,
    not judged.is_default and cardinality(judged.expired) = cardinality(judged.event_types)
  from judged
  where cardinality(judged.expired) > 0
    -- Nothing is left of a month whose kinds went one by one.
    or (not judged.is_default and cardinality(judged.event_types) = 0);
end;
comment on function ops.expired_months(timestamptz) is
  'One row a month that has events older than their rules allow, and of which kinds; is_whole: of all, so that its partition can be dropped.';

create function ops.as_owner_of_events()
returns text
language sql
stable
set search_path = ''
return case
  when ops.owns_events() then ''
  else ' as ' || (select class.relowner::regrole::text from pg_catalog.pg_class as class where class.oid = 'public.telemetry_events'::regclass) || ', which owns the events'
end;
comment on function ops.as_owner_of_events() is 'As whom a remedy has to be run where the caller does not own the events; empty when the caller does.';

create function ops.month_obstacle(relation regclass, month_start timestamptz, month_end timestamptz, is_whole boolean, expired text[])
returns text
language sql
stable
set search_path = ''
return case
  when is_whole and not ops.owns_events() then 'run opskpi retention run' || ops.as_owner_of_events()
  when is_whole and ops.has_uncounted_events(relation, month_start, month_end) then 'it has events that are not counted yet'
  when is_whole then (
    select format('drop what depends on it: %s', string_agg(distinct rule.ev_class::regclass::text, ', '))
    from pg_catalog.pg_depend as dependence
    join pg_catalog.pg_rewrite as rule
      on rule.oid = dependence.objid
    where dependence.classid = 'pg_catalog.pg_rewrite'::regclass
      and dependence.refclassid = 'pg_catalog.pg_class'::regclass
      and dependence.refobjid = month_obstacle.relation
      and rule.ev_class <> month_obstacle.relation
    having count(*) > 0
  )
  when not exists (
    select
    from unnest(expired) as kind (event_type)
    where not ops.has_uncounted_events(relation, month_start, month_end, kind.event_type)
  ) then 'it has events that are not counted yet'
end;
comment on function ops.month_obstacle(regclass, timestamptz, timestamptz, boolean, text[]) is
  'Why a month that is too old stays when retention runs, or what has to be done first; null when nothing is in the way.';

create function ops.can_drop_month(as_of timestamptz default now())
returns boolean
language sql
stable
set search_path = ''
return ops.owns_events() and exists (
  select
  from ops.expired_months(can_drop_month.as_of) as month
  where month.is_whole
    and not ops.has_uncounted_events(month.relation, month.month_start, month.month_end)
);
comment on function ops.can_drop_month(timestamptz) is
  'Whether there is a month that is older than its rules allow and counted whole, so that its partition can be dropped.';

create function ops.events_left(event_types text[], month_start timestamptz, month_end timestamptz)
returns bigint
language plpgsql
stable
set search_path = ''
as $$
declare
  zone constant text := ops.time_zone();
  counted_by text;
  counted numeric;
begin
  if cardinality(event_types) = 0 then
    return 0;
  end if;
  counted_by := case
    when ops.period_start('month', month_start, zone) = month_start and ops.period_end('month', month_start, zone) = month_end then 'month'
    when ops.period_start('hour', month_start, zone) = month_start and ops.period_start('hour', month_end, zone) = month_end then 'hour'
  end;
  if not exists (select from ops.removed_periods as removed where removed.period = counted_by and removed.removed_until > month_start) then
    select sum(rollup.event_count) - coalesce(
      (
        select sum(removed.events)
        from ops.removed_months as removed
        where removed.event_type = any (events_left.event_types)
          and removed.month_start = events_left.month_start
      ),
      0
    )
    into counted
    from ops.series
    join ops.rollups as rollup
      on rollup.org_id = series.org_id
      and rollup.series_id = series.series_id
      and rollup.period = counted_by
      and rollup.period_start >= events_left.month_start
      and rollup.period_start < events_left.month_end
    where series.event_type = any (events_left.event_types);
  end if;
  -- There are some, or their kinds would not have been found.
  return case when counted > 0 then counted end;
end;
$$;
comment on function ops.events_left(text[], timestamptz, timestamptz) is
  'How many events of some kinds a month still has, by what was counted of it less what was removed, without reading them: by its month, or in a time zone whose months are others by its hours. Null where neither says.';

create function ops.events_dropped(relation regclass, event_types text[], since timestamptz, until timestamptz)
returns bigint
language sql
stable
set search_path = ''
return coalesce(
  ops.events_left(event_types, since, until),
  (select nullif(class.reltuples, -1)::bigint from pg_catalog.pg_class as class where class.oid = relation)
);
comment on function ops.events_dropped(regclass, text[], timestamptz, timestamptz) is
  'How many events are dropped with a partition: exact by the counts, else the estimate of the last analyze, else null.';

create function ops.stored_months()
returns table (name text, month_start timestamptz, month_end timestamptz, event_types text[], events bigint, bytes bigint)
language sql
stable
set search_path = ''
begin atomic
  select
    month.name,
    month.month_start,
    month.month_end,
    stored.event_types,
    case
      when cardinality(stored.event_types) = 0 then 0
      when month.is_default then ops.events_left(stored.event_types, month.month_start, month.month_end)
      else ops.events_dropped(month.relation, stored.event_types, month.month_start, month.month_end)
    end,
    case when not month.is_default then pg_total_relation_size(month.relation) end
  from ops.event_months() as month
  cross join lateral (
    select ops.stored_types(month.relation, month.month_start, month.month_end) as event_types
    offset 0
  ) as stored
  order by month.month_start, month.name;
end;
comment on function ops.stored_months() is
  'One row a month of events: its kinds, how many events by the counts (null where only a scan could tell), and its size on disk.';

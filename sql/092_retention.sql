-- How long the data lives: a rule a kind of data and of event, and what is older than its rule allows.
-- Events go by whole months, so an event lives for its age and at most a month more.

create table ops.retention_rules (
  kept text not null,
  event_type text not null default '',
  age interval,
  constraint retention_rules_pkey primary key (kept, event_type),
  constraint retention_rules_kept_check check (kept in ('events', 'hours', 'kpis', 'alerts')),
  constraint retention_rules_event_type_is_for_events check (kept = 'events' or event_type = ''),
  -- Rules on KPIs look back 30 days over the hours.
  constraint retention_rules_age_is_sensible check (
    age >= case kept when 'events' then interval '1 day' else interval '31 days' end and age <= interval '100 years'
  )
);
comment on table ops.retention_rules is 'One row a kind of data that does not live for ever. Without a row all of it does.';
comment on column ops.retention_rules.kept is
  'events: the raw rows; hours: the counts, histograms and KPIs of hours; kpis: those of days, weeks and months; alerts: those that are over, and messages that are settled.';
comment on column ops.retention_rules.event_type is 'For events: only this kind; empty: every kind without a rule of its own.';
comment on column ops.retention_rules.age is 'How old it gets; null: it is kept for ever, whatever the rule for every kind says.';
alter table ops.retention_rules enable row level security;

create table ops.removed_months (
  event_type text not null,
  month_start timestamptz not null,
  events bigint not null,
  removed_at timestamptz not null default now(),
  constraint removed_months_pkey primary key (event_type, month_start)
);
comment on table ops.removed_months is 'One row a kind of event and month of which events were removed; with the counts of that month it says how many are left, without reading them.';
comment on column ops.removed_months.event_type is 'The kind.';
comment on column ops.removed_months.month_start is 'First instant of the month, UTC.';
comment on column ops.removed_months.events is 'Events removed so far (count).';
comment on column ops.removed_months.removed_at is 'When the last of them were.';
alter table ops.removed_months enable row level security;

create function ops.kept_since(kept text, event_type text, as_of timestamptz)
returns timestamptz
language sql
stable
set search_path = ''
return coalesce(
  (
    -- In UTC, whatever the session's zone: a month before the 31st is one instant for all.
    select (kept_since.as_of at time zone 'UTC' - rule.age) at time zone 'UTC'
    from ops.retention_rules as rule
    where rule.kept = kept_since.kept
      and rule.event_type in (kept_since.event_type, '')
    order by rule.event_type desc
    limit 1
  ),
  '-infinity'
);
comment on function ops.kept_since(text, text, timestamptz) is
  'What ended at or before this instant is older than its rule allows; -infinity where it is kept for ever. The event type is empty for what is not events.';

create function ops.set_retention(kept text, age interval, event_type text default '')
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  least_age constant interval := case set_retention.kept when 'events' then interval '1 day' else interval '31 days' end;
begin
  perform ops.require_rule_for(set_retention.kept, set_retention.event_type);
  if set_retention.age < least_age or set_retention.age > interval '100 years' then
    raise exception '% cannot be kept for %', set_retention.kept, set_retention.age
      using errcode = 'OP001', hint = format('Pass an age from %s to 100 years.', least_age);
  end if;
  insert into ops.retention_rules as rule (kept, event_type, age)
  values (set_retention.kept, set_retention.event_type, set_retention.age)
  on conflict on constraint retention_rules_pkey do update set age = excluded.age;
end;
$$;
comment on function ops.set_retention(text, interval, text) is
  'Says how old a kind of data, or one kind of event, may get; null: it is kept for ever. Nothing is removed before the next run.';

create function ops.unset_retention(kept text, event_type text default '')
returns boolean
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform ops.require_rule_for(unset_retention.kept, unset_retention.event_type);
  delete from ops.retention_rules as rule
  where rule.kept = unset_retention.kept
    and rule.event_type = unset_retention.event_type;
  return found;
end;
$$;
comment on function ops.unset_retention(text, text) is 'Takes a rule back: one kind of event follows the rule for every kind again, all else is kept for ever. True when there was one.';

create function ops.require_rule_for(kept text, event_type text)
returns void
language plpgsql
stable
set search_path = ''
as $$
begin
  if require_rule_for.kept is null or require_rule_for.kept not in ('events', 'hours', 'kpis', 'alerts') then
    raise exception 'nothing is kept under the name %', coalesce(require_rule_for.kept, 'null')
      using errcode = 'OP001', hint = 'Pass events, hours, kpis or alerts.';
  end if;
  if require_rule_for.event_type is null or (require_rule_for.event_type <> '' and require_rule_for.kept <> 'events') then
    raise exception 'only events are kept by their kind, not %', require_rule_for.kept
      using errcode = 'OP001', hint = 'Leave the event type out.';
  end if;
  if require_rule_for.event_type <> ''
    and not exists (select from ops.event_types as kind where kind.event_type = require_rule_for.event_type)
    and not exists (select from public.telemetry_events as event where event.event_type = require_rule_for.event_type)
    and not exists (select from ops.retention_rules as rule where rule.event_type = require_rule_for.event_type) then
    raise exception 'there is no kind of event %', require_rule_for.event_type
      using errcode = 'OP001',
        hint = format('Known are %s.', (select string_agg(kind.event_type, ', ' order by kind.event_type) from ops.event_types as kind));
  end if;
end;
$$;
comment on function ops.require_rule_for(text, text) is 'Refuses what no retention rule can be about; a kind of event is described, has occurred or has a rule.';

create function ops.keep_time_zone()
returns trigger
language plpgsql
volatile
set search_path = ''
as $$
begin
  if new.value is distinct from old.value
    and (exists (select from ops.removed_events) or exists (select from ops.removed_periods)) then
    raise exception 'the time zone stays %: events were removed, and what they were counted into cannot be cut anew', old.value
      using errcode = 'OP001', hint = 'A time zone is for good once retention has removed something; choose it before.';
  end if;
  return new;
end;
$$;
comment on function ops.keep_time_zone() is 'Trigger: days of another zone would stand beside those that no rebuild can make again.';

create trigger settings_keep_time_zone
before update on ops.settings
for each row
when (old.name = 'time_zone')
execute function ops.keep_time_zone();

create function ops.is_removed_month(month date)
returns boolean
language sql
stable
set search_path = ''
return exists (select from ops.removed_events)
  and not exists (
    select
    from ops.event_types as kind
    where not exists (
      select
      from ops.removed_events as removed
      where removed.event_type = kind.event_type
        and removed.removed_until >= (date_trunc('month', is_removed_month.month::timestamp) + interval '1 month') at time zone 'UTC'
    )
  );
comment on function ops.is_removed_month(date) is 'Whether ingest_events refuses whatever is of this month (UTC), of each kind that is described.';

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

create function ops.has_uncounted_events(relation regclass, since timestamptz, until timestamptz)
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
       select from %s as event where event.id > $1 and event.event_timestamp >= $2 and event.event_timestamp < $3
     )',
    relation
  )
  into answer
  using ops.cursor_id(), since, until;
  return answer;
end;
$$;
comment on function ops.has_uncounted_events(regclass, timestamptz, timestamptz) is 'Whether a partition has events of a time that no refresh has counted.';

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

create function ops.expired_periods(as_of timestamptz)
returns table (kept text, period text, first_start timestamptz, horizon timestamptz)
language sql
stable
set search_path = ''
begin atomic
  with horizons as materialized (
    -- A period is removed whole, so it has to be over for as long.
    select
      length.kept,
      length.period,
      length.place,
      ops.period_start(length.period, aged.kept_since, ops.time_zone()) as horizon
    from (values ('hours', 'hour', 1), ('kpis', 'day', 2), ('kpis', 'week', 3), ('kpis', 'month', 4)) as length (kept, period, place)
    cross join lateral (select ops.kept_since(length.kept, '', expired_periods.as_of) as kept_since) as aged
    where aged.kept_since > '-infinity'
  ),
  orgs as materialized (
    select distinct series.org_id from ops.series
  ),
  -- The oldest row of each table, by one look-up an org.
  oldest as (
    select horizons.*, found.first_start
    from horizons
    cross join orgs
    cross join lateral (
      (
        select rollup.period_start
        from ops.rollups as rollup
        join ops.series
          on series.org_id = rollup.org_id
          and series.series_id = rollup.series_id
        where rollup.org_id = orgs.org_id
          and rollup.period = horizons.period
          and rollup.period_start < horizons.horizon
          and (horizons.period <> 'hour' or series.event_type <> 'slsa_audit_metrics')
        order by rollup.period_start
        limit 1
      )
      union all
      (
        select histogram.period_start
        from ops.histograms as histogram
        where histogram.org_id = orgs.org_id
          and histogram.period = horizons.period
          and histogram.period_start < horizons.horizon
        order by histogram.period_start
        limit 1
      )
      union all
      (
        select blocked.period_start
        from ops.blocked_patterns as blocked
        where blocked.org_id = orgs.org_id
          and blocked.period = horizons.period
          and blocked.period_start < horizons.horizon
        order by blocked.period_start
        limit 1
      )
      union all
      (
        select kpi.period_start
        from ops.kpi_definitions as definition
        cross join lateral (
          select stored.period_start
          from public.kpi_aggregations as stored
          where stored.org_id = orgs.org_id
            and stored.metric_name = definition.metric_name
            and stored.aggregation_period = horizons.period
            and stored.period_start < horizons.horizon
          order by stored.period_start
          limit 1
        ) as kpi
      )
    ) as found (first_start)
  )
  select oldest.kept, oldest.period, min(oldest.first_start), oldest.horizon
  from oldest
  group by oldest.kept, oldest.period, oldest.place, oldest.horizon
  order by oldest.place;
end;
comment on function ops.expired_periods(timestamptz) is
  'One row a length of period of which something is older than its rule allows: from the first on, up to the horizon. The hour counts of audits stay: what a changed audit changes is found against them.';

create function ops.count_periods(period text, since timestamptz, until timestamptz)
returns bigint
language sql
stable
set search_path = ''
begin atomic
  select
    (
      select count(*)
      from ops.rollups as rollup
      join ops.series
        on series.org_id = rollup.org_id
        and series.series_id = rollup.series_id
      where rollup.period = count_periods.period
        and rollup.period_start >= count_periods.since
        and rollup.period_start < count_periods.until
        and (count_periods.period <> 'hour' or series.event_type <> 'slsa_audit_metrics')
    )
    + (
      select count(*)
      from ops.histograms as histogram
      where histogram.period = count_periods.period
        and histogram.period_start >= count_periods.since
        and histogram.period_start < count_periods.until
    )
    + (
      select count(*)
      from ops.blocked_patterns as blocked
      where blocked.period = count_periods.period
        and blocked.period_start >= count_periods.since
        and blocked.period_start < count_periods.until
    )
    + (
      select count(*)
      from public.kpi_aggregations as kpi
      where kpi.aggregation_period = count_periods.period
        and kpi.period_start >= count_periods.since
        and kpi.period_start < count_periods.until
    );
end;
comment on function ops.count_periods(text, timestamptz, timestamptz) is
  'Rows (count) that remove_periods would remove: counts, histograms, blocked patterns and KPIs of one length of period.';

create view ops.settled_deliveries
with (security_invoker = true)
as
select delivery.org_id, delivery.delivery_id, coalesce(delivery.settled_at, delivery.created_at) as settled_at
from ops.alert_deliveries as delivery
where delivery.state in ('delivered', 'silenced', 'superseded', 'dead')
  -- What was said of an alert is kept as long as the alert goes on.
  and not exists (
    select
    from ops.alerts as alert
    where alert.org_id = delivery.org_id
      and alert.alert_id = any (delivery.alert_ids)
      and alert.state <> 'resolved'
  );
comment on view ops.settled_deliveries is 'One row a message that is settled and whose alerts are all over.';

create view ops.settled_alerts
with (security_invoker = true)
as
select alert.org_id, alert.alert_id, alert.resolved_at
from ops.alerts as alert
where alert.state = 'resolved'
  -- A group that last said it fires has yet to say that it is over.
  and not exists (
    select
    from ops.alert_groups as known
    where known.org_id = alert.org_id
      and alert.alert_id = any (known.last_firing)
  );
comment on view ops.settled_alerts is 'One row an alert that is over and of which no group has anything left to say.';

create function ops.retention_plan(as_of timestamptz default now())
returns table (
  kept text,
  action text,
  name text,
  event_type text,
  since timestamptz,
  until timestamptz,
  removed bigint,
  bytes bigint,
  obstacle text
)
language plpgsql
stable
set search_path = ''
as $$
declare
  old_month record;
begin
  for old_month in select month.* from ops.expired_months(as_of) as month order by month.month_start, month.name loop
    obstacle := case
      when old_month.is_whole and not ops.owns_events() then 'only the owner of the events can drop a month of them'
      when ops.has_uncounted_events(old_month.relation, old_month.month_start, old_month.month_end) then 'it has events that are not counted yet'
    end;
    if old_month.is_whole then
      return query
      select
        'events', 'drop', old_month.name, null::text, old_month.month_start, old_month.month_end,
        ops.events_dropped(old_month.relation, old_month.expired, old_month.month_start, old_month.month_end),
        pg_total_relation_size(old_month.relation), obstacle;
    else
      return query
      select
        'events', 'delete', old_month.name, kind.event_type, old_month.month_start, old_month.month_end,
        ops.events_left(array[kind.event_type], old_month.month_start, old_month.month_end), null::bigint, obstacle
      from unnest(old_month.expired) as kind (event_type);
    end if;
  end loop;
  return query
  select
    expired.kept, 'delete', expired.period, null::text, expired.first_start, expired.horizon,
    ops.count_periods(expired.period, expired.first_start, expired.horizon), null::bigint, null::text
  from ops.expired_periods(as_of) as expired;
  return query
  select 'alerts', 'delete', settled.name, null::text, min(settled.settled_at), ops.kept_since('alerts', '', as_of), count(*), null::bigint, null::text
  from (
    select 'alert_deliveries' as name, delivery.settled_at from ops.settled_deliveries as delivery
    union all
    select 'alerts', alert.resolved_at from ops.settled_alerts as alert
  ) as settled
  where settled.settled_at < ops.kept_since('alerts', '', as_of)
  group by settled.name
  order by settled.name;
end;
$$;
comment on function ops.retention_plan(timestamptz) is
  'What the rules would remove as of an instant, oldest first, and what is in the way; nothing is changed. Of periods and alerts that is what is there now.';

revoke execute on function
  ops.kept_since(text, text, timestamptz),
  ops.set_retention(text, interval, text),
  ops.unset_retention(text, text),
  ops.require_rule_for(text, text),
  ops.keep_time_zone(),
  ops.is_removed_month(date),
  ops.event_months(),
  ops.stored_types(regclass, timestamptz, timestamptz),
  ops.owns_events(),
  ops.has_uncounted_events(regclass, timestamptz, timestamptz),
  ops.expired_months(timestamptz),
  ops.events_left(text[], timestamptz, timestamptz),
  ops.events_dropped(regclass, text[], timestamptz, timestamptz),
  ops.stored_months(),
  ops.expired_periods(timestamptz),
  ops.count_periods(text, timestamptz, timestamptz),
  ops.retention_plan(timestamptz)
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on ops.retention_rules, ops.removed_months, ops.settled_deliveries, ops.settled_alerts from anon, authenticated, service_role;
  grant select on ops.retention_rules to authenticated, service_role;
  -- How many events there were is told to nobody but the owner: they are those of all tenants.
  create policy retention_rules_select_authenticated on ops.retention_rules for select to authenticated using (true);
  revoke execute on function
    ops.kept_since(text, text, timestamptz),
    ops.set_retention(text, interval, text),
    ops.unset_retention(text, text),
    ops.require_rule_for(text, text),
    ops.keep_time_zone(),
    ops.is_removed_month(date),
    ops.event_months(),
    ops.stored_types(regclass, timestamptz, timestamptz),
    ops.owns_events(),
    ops.has_uncounted_events(regclass, timestamptz, timestamptz),
    ops.expired_months(timestamptz),
    ops.events_left(text[], timestamptz, timestamptz),
    ops.events_dropped(regclass, text[], timestamptz, timestamptz),
    ops.stored_months(),
    ops.expired_periods(timestamptz),
    ops.count_periods(text, timestamptz, timestamptz),
    ops.retention_plan(timestamptz)
  from anon, authenticated, service_role;
end;
$$;

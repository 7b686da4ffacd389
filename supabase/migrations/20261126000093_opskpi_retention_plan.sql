-- A dry run of the retention says of each kind by itself what is not counted yet: what is counted goes at once.

drop function ops.has_uncounted_events(regclass, timestamptz, timestamptz);

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
       where event.id > $1 and event.event_timestamp >= $2 and event.event_timestamp < $3 and ($4 is null or event.event_type = $4)
     )',
    relation
  )
  into answer
  using ops.cursor_id(), since, until, event_type;
  return answer;
end;
$$;
comment on function ops.has_uncounted_events(regclass, timestamptz, timestamptz, text) is
  'Whether a partition has events of a time, of one kind if named, that no refresh has counted.';

create or replace function ops.retention_plan(as_of timestamptz default now())
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
    if old_month.is_whole then
      return query
      select
        'events', 'drop', old_month.name, null::text, old_month.month_start, old_month.month_end,
        ops.events_dropped(old_month.relation, old_month.expired, old_month.month_start, old_month.month_end),
        pg_total_relation_size(old_month.relation),
        case
          when not ops.owns_events() then 'only the owner of the events can drop a month of them'
          when ops.has_uncounted_events(old_month.relation, old_month.month_start, old_month.month_end) then 'it has events that are not counted yet'
        end;
    else
      return query
      select
        'events', 'delete', old_month.name, kind.event_type, old_month.month_start, old_month.month_end,
        ops.events_left(array[kind.event_type], old_month.month_start, old_month.month_end), null::bigint,
        case
          when ops.has_uncounted_events(old_month.relation, old_month.month_start, old_month.month_end, kind.event_type)
            then 'it has events that are not counted yet'
        end
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
  'What the rules would remove as of an instant, oldest first, and what is in the way; nothing is changed. An obstacle keeps a partition whole, of rows only those that are not counted yet. Of periods and alerts that is what is there now.';

revoke execute on function ops.has_uncounted_events(regclass, timestamptz, timestamptz, text) from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function ops.has_uncounted_events(regclass, timestamptz, timestamptz, text) from anon, authenticated, service_role;
end;
$$;

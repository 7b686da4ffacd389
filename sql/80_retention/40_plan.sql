-- The retention plan: months of events, ranges of periods, resolved alerts.

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
  -- Messages about an alert are kept as long as the alert goes on.
  and not exists (
    select
    from ops.alerts as alert
    where alert.org_id = delivery.org_id
      and alert.alert_id = any (delivery.alert_ids)
      and alert.state in ('pending', 'firing')
  );
comment on view ops.settled_deliveries is 'One row a message that is settled and whose alerts are all over.';

create view ops.settled_alerts
with (security_invoker = true)
as
select alert.org_id, alert.alert_id, alert.resolved_at
from ops.alerts as alert
where alert.state in ('resolved', 'ended')
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

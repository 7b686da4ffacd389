-- Checks of health, one row each, for `opskpi doctor` and for SQL.

create function ops.compared_from(event_type text)
returns timestamptz
language sql
stable
set search_path = ''
begin atomic
  select greatest(
    (select removed.removed_until from ops.removed_events as removed where removed.event_type = compared_from.event_type),
    (select removed.removed_until from ops.removed_periods as removed where removed.period = 'day'),
    '-infinity'
  );
end;
comment on function ops.compared_from(text) is 'From when on neither events of a kind nor days have been removed, so that one can be checked by the other.';

create function ops.count_differences(since timestamptz)
returns table (day_start timestamptz, events bigint, counted bigint)
language sql
stable
set search_path = ''
begin atomic
  with stored as (
    select daily.day_start, sum(daily.events) as events
    from (
      select
        hourly.event_type,
        ops.period_start('day', hourly.hour_start, ops.time_zone()) as day_start,
        hourly.events
      from (
        select event.event_type, date_trunc('hour', event.event_timestamp, ops.time_zone()) as hour_start, count(*) as events
        from ops.countable_events as event
        where event.event_timestamp >= ops.period_start('day', count_differences.since, ops.time_zone())
          and event.id <= (select ops.cursor_id())
          and not event.id <@ (select ops.missing_ids())
        group by 1, 2
      ) as hourly
      offset 0
    ) as daily
    where daily.day_start >= ops.compared_from(daily.event_type)
    group by 1
  ),
  counted as (
    select rollup.period_start as day_start, sum(rollup.event_count) as events
    from ops.rollups as rollup
    join ops.series
      on series.org_id = rollup.org_id
      and series.series_id = rollup.series_id
    where rollup.period = 'day'
      and rollup.period_start >= ops.period_start('day', count_differences.since, ops.time_zone())
      and series.event_type <> 'slsa_audit_metrics'
      and rollup.period_start >= ops.compared_from(series.event_type)
    group by 1
  )
  select
    coalesce(stored.day_start, counted.day_start),
    coalesce(stored.events, 0)::bigint,
    coalesce(counted.events, 0)::bigint
  from stored
  full join counted
    on counted.day_start = stored.day_start
  where stored.events is distinct from counted.events;
end;
comment on function ops.count_differences(timestamptz) is
  'The days from since on whose rollups do not add up to the events up to the cursor; no row when all is well. Days that retention has touched are left out, kind by kind.';

create function ops.broken_views()
returns table (view_name text, reason text)
language plpgsql
stable
set search_path = ''
as $$
begin
  for view_name in
    select class.relname
    from pg_catalog.pg_class as class
    where class.relnamespace = 'public'::regnamespace
      and class.relkind = 'v'
      and class.relname like 'v\_ops\_%'
    order by class.relname
  loop
    begin
      execute format('select from public.%I limit 1', view_name);
    exception
      when others then
        reason := sqlerrm;
        return next;
    end;
  end loop;
end;
$$;
comment on function ops.broken_views() is 'The v_ops_* views that do not answer, and why; no row when all do.';

create function ops.doctor(as_of timestamptz default now())
returns table (check_name text, passed boolean, detail text)
language sql
stable
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
begin atomic
  select 'events and KPI tables', to_regclass('public.telemetry_events') is not null and to_regclass('public.kpi_aggregations') is not null,
    'telemetry_events and kpi_aggregations exist'
  union all
  select 'audits', true,
    case when exists (select from public.slsa_audit_metrics) then 'slsa_audit_metrics has rows'
      else 'slsa_audit_metrics is empty: nobody has recorded an audit' end
  union all
  select 'views', count(broken.view_name) = 0,
    coalesce(string_agg(broken.view_name || ': ' || broken.reason, '; '), 'every v_ops_* view answers')
  from ops.broken_views() as broken
  union all
  select 'jobs', counted.freshness = 'fresh',
    coalesce('last refresh ' || to_char(counted.last_run_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'no refresh has run yet')
      || case when counted.freshness = 'fresh' then '' else '; ' || ops.counting_advice() end
  from ops.counting_freshness(doctor.as_of) as counted
  union all
  select 'alerts', coalesce(watched.evaluated_at >= doctor.as_of - 2 * ops.refresh_interval(), not watched.has_channel),
    coalesce('evaluated ' || to_char(watched.evaluated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', 'never evaluated')
      || case when watched.has_channel then '' else '; no channel: nobody is told' end
      || case when coalesce(watched.evaluated_at >= doctor.as_of - 2 * ops.refresh_interval(), not watched.has_channel) then ''
        else '; ' || coalesce(ops.failure_in_words('alerts'), 'run opskpi run from cron every ' || ops.refresh_interval()) end
  from (
    select
      exists (select from ops.alert_channels as channel where channel.is_enabled) as has_channel,
      (select max(evaluation.evaluated_at) from ops.alert_evaluations as evaluation) as evaluated_at
  ) as watched
  union all
  select outbox.check_name, outbox.passed, outbox.detail
  from ops.delivery_checks(doctor.as_of) as outbox
  union all
  select 'partitions', next_month.partition is not null,
    case
      when next_month.partition is not null then next_month.name || ' is there'
      else 'ops.' || next_month.name || ' is missing; ' || coalesce(ops.failure_in_words('maintain'), 'run opskpi run' || ops.as_owner_of_events())
    end
  from (
    select named.name, to_regclass('ops.' || named.name) as partition
    from (
      select 'telemetry_events_' || to_char((doctor.as_of at time zone 'UTC') + interval '1 month', 'YYYY_MM') as name
    ) as named
  ) as next_month
  union all
  select 'retention', count(*) = 0,
    case
      when count(*) > 0 then format(
        'what is due since more than two days is still there: %s; %s',
        string_agg(overdue.name || coalesce(' (' || overdue.obstacle || ')', ''), ', ' order by overdue.month_start),
        -- Of the obstacles this is the one whose remedy is not said with it.
        case
          when bool_and(overdue.obstacle = 'it has events that are not counted yet') then ops.counting_advice()
          when bool_and(overdue.obstacle is not null) then 'mend that'
          else coalesce(ops.failure_in_words('retention'), 'run opskpi retention run')
        end
      )
      when not exists (select from ops.retention_rules as rule where rule.age is not null) then 'everything is kept for ever'
      else 'nothing is overdue'
    end
  from (
    select month.name, month.month_start, ops.month_obstacle(month.relation, month.month_start, month.month_end, month.is_whole, month.expired) as obstacle
    from ops.expired_months(doctor.as_of - interval '2 days') as month
  ) as overdue
  union all
  select 'row level security', count(*) = 0,
    coalesce('off on ' || string_agg(class.oid::regclass::text, ', '), 'on for every table')
  from pg_catalog.pg_class as class
  where class.relkind in ('r', 'p')
    and not class.relrowsecurity
    and (
      class.relnamespace = 'ops'::regnamespace
      or class.oid in ('public.telemetry_events'::regclass, 'public.kpi_aggregations'::regclass, 'public.slsa_audit_metrics'::regclass)
    )
  union all
  select 'bound logins', count(*) = 0,
    coalesce(string_agg(watched.fault, '; '), 'each reads its own org only')
  from (
    select bound.login || ': ' || ops.login_fault(bound.login) as fault
    from ops.bound_logins as bound
    where ops.login_fault(bound.login) is not null
    union all
    select format('%s.%s has no policy for them; run opskpi migrate', unguarded.relation, unguarded.column_name)
    from ops.unguarded_columns() as unguarded
    where exists (select from ops.bound_logins)
    union all
    select distinct role.rolname || ': only policies of an earlier README hold it back; run select ops.bind_login(…)'
    from pg_catalog.pg_policy as policy
    join pg_catalog.pg_roles as role
      on policy.polname = (role.rolname || '_only')::name
    where not policy.polpermissive
  ) as watched
  union all
  select 'cursor', waiting.events = 0 and held.writers is null,
    case
      when held.writers is not null then format('%s event(s) wait for transactions that stay open: %s', waiting.events, held.writers)
      when waiting.events > 0
        then waiting.events || ' events wait since ' || to_char(waiting.since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC; ' || ops.counting_advice()
      else 'no event waits' || coalesce(' but what transactions that stay open may have written: ' || held.others, '')
    end
  from (
    select count(*) as events, min(event.created_at) as since
    from ops.uncounted_events as event
    where event.id <= (select sequence.last_value from public.telemetry_events_id_seq as sequence)
      and event.created_at < doctor.as_of - 2 * ops.refresh_interval()
  ) as waiting
  cross join (
    select
      ops.awaited_in_words() as writers,
      ops.writers_in_words(array(
        select writer
        from ops.described_writers(ops.open_writers()) as writer
        where writer.waiting_since < doctor.as_of - 2 * ops.refresh_interval()
      )) as others
  ) as held
  union all
  select 'uncountable events', count(*) = 0,
    case when count(*) = 0 then 'every event could be counted'
      else format(
        '%s could not be counted, the first is %s (%s): %s; mend the cause and run select ops.count_again(), or delete it with select ops.drop_uncountable(%2$s); ops.uncountable_events lists them',
        count(*),
        min(aside.id),
        (array_agg(aside.event_type order by aside.id))[1],
        (array_agg(aside.reason order by aside.id))[1]
      ) end
  from ops.uncountable_events as aside
  union all
  select 'counts', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has %s events and %s counted; %s',
        count(difference.day_start),
        (array_agg(difference.events order by difference.day_start))[1],
        (array_agg(difference.counted order by difference.day_start))[1],
        ops.rebuild_advice(min(difference.day_start), max(difference.day_start) + interval '24 hours')
      ) end
  from ops.count_differences(doctor.as_of - interval '7 days') as difference
  union all
  select 'counts of objectives', count(difference.day_start) = 0,
    case when count(difference.day_start) = 0 then 'good and total of the last 7 days add up to their events'
      else format(
        '%s day(s) do not add up, the first has good %s of %s and %s of %s counted where they differ; %s',
        count(difference.day_start),
        (array_agg(difference.good order by difference.day_start))[1],
        (array_agg(difference.total order by difference.day_start))[1],
        (array_agg(difference.counted_good order by difference.day_start))[1],
        (array_agg(difference.counted_total order by difference.day_start))[1],
        ops.rebuild_advice(min(difference.day_start), max(difference.day_start) + interval '24 hours')
      ) end
  from ops.sli_differences(doctor.as_of - interval '7 days') as difference;
end;
comment on function ops.doctor(timestamptz) is 'One row a check: whether it passed, and what was found or what to do.';

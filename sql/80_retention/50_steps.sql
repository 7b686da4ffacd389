-- Retention steps: one bounded piece per transaction, so that an interrupted run leaves whole data and the next run continues.

create type ops.retention_step as (
  state text,
  kept text,
  action text,
  name text,
  event_type text,
  since timestamptz,
  until timestamptz,
  removed bigint,
  bytes bigint,
  message text
);
comment on type ops.retention_step is
  'freed: call again; blocked: call again with its name among skipped (events: all of them are in use); busy: a refresh or rebuild runs; done: nothing is due. action is drop (a partition) or delete (rows); removed counts events or rows, null where only a scan could tell; bytes went back to the disk.';

create function ops.note_removed_events(event_types text[], month_start timestamptz, month_end timestamptz)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.removed_events as removed (event_type, removed_until)
  select kind.event_type, note_removed_events.month_end
  from unnest(note_removed_events.event_types) as kind (event_type)
  on conflict on constraint removed_events_pkey do update set
    removed_until = excluded.removed_until
  where removed.removed_until < excluded.removed_until;
end;
comment on function ops.note_removed_events(text[], timestamptz, timestamptz) is
  'Notes that events of some kinds are removed up to the end of a month; only retention calls it, before or with the removal.';

create function ops.drop_month(month ops.retention_step, relation regclass, as_of timestamptz)
returns ops.retention_step
language plpgsql
volatile
set search_path = ''
-- Whoever reads or writes the events waits behind this; it is tried again by the next run.
set lock_timeout = '1s'
as $$
declare
  event_types text[];
begin
  month.state := 'blocked';
  if not ops.owns_events() then
    month.message := 'only the owner of the events can drop a month of them';
    return month;
  end if;
  -- The parent first, as everyone does who reads or writes through it.
  lock table only public.telemetry_events in access exclusive mode;
  execute format('lock table %s in access exclusive mode', relation);
  -- From here on nobody is left who could add an event, and each statement sees all that were.
  if ops.has_uncounted_events(relation, month.since, month.until) then
    month.message := 'it has events that are not counted yet';
    return month;
  end if;
  event_types := ops.stored_types(relation, month.since, month.until);
  if exists (select from unnest(event_types) as kind (event_type) where month.until > ops.kept_since('events', kind.event_type, as_of)) then
    month.message := 'it has got events of a kind that is kept';
    return month;
  end if;
  month.removed := ops.events_dropped(relation, event_types, month.since, month.until);
  month.bytes := pg_total_relation_size(relation);
  perform ops.note_removed_events(event_types, month.since, month.until);
  insert into ops.removed_months as removed (event_type, month_start, events)
  select kind.event_type, month.since, coalesce(ops.events_left(array[kind.event_type], month.since, month.until), 0)
  from unnest(event_types) as kind (event_type)
  on conflict on constraint removed_months_pkey do update set
    events = removed.events + excluded.events,
    removed_at = excluded.removed_at;
  execute format('drop table %s', relation);
  month.state := 'freed';
  return month;
exception
  when lock_not_available or deadlock_detected then
    month.message := month.name || ' is in use';
    -- So is every other, and waiting for each would hold writers up each time.
    month.name := 'events';
    return month;
  when dependent_objects_still_exist then
    month.message := sqlerrm;
    return month;
end;
$$;
comment on function ops.drop_month(ops.retention_step, regclass, timestamptz) is
  'Drops the partition of a month if nothing in it is uncounted or to be kept; only retain calls it, under the lock of refresh.';

create function ops.delete_month(month ops.retention_step, relation regclass, max_rows integer)
returns ops.retention_step
language plpgsql
volatile
set search_path = ''
set lock_timeout = '1s'
as $$
begin
  month.state := 'blocked';
  if not exists (
    select from ops.removed_events as removed where removed.event_type = month.event_type and removed.removed_until >= month.until
  ) then
    -- An ingest_events that began before this is known would meet a deleted event and take its repeat for new; those
    -- are waited for, and later ones know.
    lock table only public.telemetry_events in share row exclusive mode;
    perform ops.note_removed_events(array[month.event_type], month.since, month.until);
  end if;
  execute format(
    'delete from %1$s as event
     where event.ctid = any (array(
       select expired.ctid
       from %1$s as expired
       where expired.event_type = $1
         and expired.event_timestamp >= $2
         and expired.event_timestamp < $3
         and expired.id <= $4
         and not expired.id <@ $6
       limit $5
     ))',
    relation
  )
  using month.event_type, month.since, month.until, ops.cursor_id(), max_rows, ops.missing_ids();
  get diagnostics month.removed = row_count;
  if month.removed = 0 then
    month.message := 'it has events that are not counted yet';
    return month;
  end if;
  insert into ops.removed_months as removed (event_type, month_start, events)
  values (month.event_type, month.since, month.removed)
  on conflict on constraint removed_months_pkey do update set
    events = removed.events + excluded.events,
    removed_at = excluded.removed_at;
  month.state := 'freed';
  return month;
exception
  when lock_not_available or deadlock_detected then
    month.message := month.name || ' is in use';
    month.name := 'events';
    return month;
end;
$$;
comment on function ops.delete_month(ops.retention_step, regclass, integer) is
  'Deletes counted events of one kind and month, max_rows at most; only retain calls it, under the lock of refresh.';

create function ops.remove_periods(expired ops.retention_step)
returns ops.retention_step
language plpgsql
volatile
set search_path = ''
as $$
declare
  -- A bounded stretch, whole in all four tables, so that what is left is as if there had never been more.
  stretch constant interval := case expired.name when 'hour' then interval '1 day' when 'day' then interval '32 days' when 'week' then interval '70 days' else interval '370 days' end;
  stretch_end constant timestamptz := least(expired.until, ops.period_start(expired.name, expired.since + stretch, ops.time_zone()));
begin
  expired.removed := ops.count_periods(expired.name, expired.since, stretch_end);
  delete from ops.rollups as rollup
  using ops.series
  where series.org_id = rollup.org_id
    and series.series_id = rollup.series_id
    and rollup.period = expired.name
    and rollup.period_start >= expired.since
    and rollup.period_start < stretch_end
    and (expired.name <> 'hour' or series.event_type <> 'slsa_audit_metrics');
  delete from ops.histograms as histogram
  where histogram.period = expired.name
    and histogram.period_start >= expired.since
    and histogram.period_start < stretch_end;
  delete from ops.blocked_patterns as blocked
  where blocked.period = expired.name
    and blocked.period_start >= expired.since
    and blocked.period_start < stretch_end;
  delete from public.kpi_aggregations as kpi
  where kpi.aggregation_period = expired.name
    and kpi.period_start >= expired.since
    and kpi.period_start < stretch_end;
  insert into ops.removed_periods as removed (period, removed_until)
  values (expired.name, stretch_end)
  on conflict on constraint removed_periods_pkey do update set
    removed_until = excluded.removed_until
  where removed.removed_until < excluded.removed_until;
  expired.state := 'freed';
  return expired;
end;
$$;
comment on function ops.remove_periods(ops.retention_step) is
  'Removes the oldest stretch of hours, days, weeks or months, with their KPIs; only retain calls it, under the lock of refresh.';

create function ops.remove_alerts(as_of timestamptz, max_rows integer)
returns ops.retention_step
language plpgsql
volatile
set search_path = ''
as $$
declare
  step ops.retention_step;
begin
  step.kept := 'alerts';
  step.action := 'delete';
  step.until := ops.kept_since('alerts', '', as_of);
  foreach step.name in array array['alert_deliveries', 'alerts'] loop
    if step.name = 'alert_deliveries' then
      with doomed as materialized (
        select settled.org_id, settled.delivery_id, settled.settled_at
        from ops.settled_deliveries as settled
        where settled.settled_at < step.until
        order by settled.delivery_id
        limit max_rows
      ),
      deleted as (
        delete from ops.alert_deliveries as delivery
        using doomed
        where delivery.org_id = doomed.org_id
          and delivery.delivery_id = doomed.delivery_id
        returning doomed.settled_at
      )
      select count(*), min(deleted.settled_at) into step.removed, step.since from deleted;
    else
      with doomed as materialized (
        select settled.org_id, settled.alert_id, settled.resolved_at
        from ops.settled_alerts as settled
        where settled.resolved_at < step.until
        order by settled.alert_id
        limit max_rows
      ),
      deleted as (
        delete from ops.alerts as alert
        using doomed
        where alert.org_id = doomed.org_id
          and alert.alert_id = doomed.alert_id
        returning doomed.resolved_at
      )
      select count(*), min(deleted.resolved_at) into step.removed, step.since from deleted;
    end if;
    if step.removed > 0 then
      step.state := 'freed';
      return step;
    end if;
  end loop;
  step := null;
  step.state := 'done';
  return step;
end;
$$;
comment on function ops.remove_alerts(timestamptz, integer) is
  'Removes messages that are settled and alerts that are over, max_rows at most; only retain calls it.';

create function ops.note_retention(step ops.retention_step, started_at timestamptz)
returns void
language plpgsql
volatile
set search_path = ''
as $$
declare
  what constant text := concat_ws(' ', step.name, step.event_type, case step.action when 'drop' then 'dropped' else 'deleted' end);
  row_count bigint := coalesce(step.removed, 0);
begin
  -- One row a run and thing, however many steps that took.
  update ops.job_runs as run
  set events = case when step.kept = 'events' then run.events + row_count else 0 end,
      kpi_rows = case when step.kept = 'events' then 0 else run.kpi_rows + row_count end,
      message = format('%s: %s', what, case when step.kept = 'events' then run.events else run.kpi_rows end + row_count),
      finished_at = clock_timestamp()
  where run.job = 'retention'
    and run.started_at = note_retention.started_at
    and starts_with(run.message, what || ': ');
  if found then
    return;
  end if;
  insert into ops.job_runs (job, started_at, outcome, events, kpi_rows, message)
  values (
    'retention', started_at, 'success',
    case when step.kept = 'events' then row_count else 0 end,
    case when step.kept = 'events' then 0 else row_count end,
    format('%s: %s', what, coalesce(step.removed::text, 'unknown')) || coalesce(', ' || pg_size_pretty(step.bytes), '')
  );
end;
$$;
comment on function ops.note_retention(ops.retention_step, timestamptz) is 'Writes what a step freed into the journal of the jobs, in its transaction.';

create function ops.retain(
  as_of timestamptz default now(),
  started_at timestamptz default clock_timestamp(),
  skipped text[] default '{}',
  max_rows integer default 20000
)
returns ops.retention_step
language plpgsql
volatile
set search_path = ''
-- Compiling these plans takes a hundred times as long as running them.
set jit = off
as $$
declare
  step ops.retention_step;
  month record;
  expired record;
begin
  if as_of is null or not isfinite(as_of) or skipped is null or coalesce(max_rows, 0) < 1 then
    raise exception 'retention is as of an instant and in steps of 1 row or more, not as of % in steps of %', as_of, max_rows
      using errcode = 'OP001', hint = 'Leave them out for now and 20,000.';
  end if;
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'retention needs read committed, this transaction is %', current_setting('transaction_isolation')
      using errcode = 'OP002', hint = 'Call it in a transaction of the default isolation level.';
  end if;
  step.state := 'done';
  if not exists (select from ops.retention_rules as rule where rule.age is not null) then
    return step;
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('ops.refresh', 0)) then
    step.state := 'busy';
    step.message := 'a refresh or a rebuild is running';
    return step;
  end if;
  select found.* into month
  from ops.expired_months(as_of) as found
  where found.name <> all (skipped)
    and 'events' <> all (skipped)
  order by found.month_start, found.name
  limit 1;
  select found.* into expired from ops.expired_periods(as_of) as found where month.name is null limit 1;
  if month.name is not null then
    step.kept := 'events';
    step.name := month.name;
    step.since := month.month_start;
    step.until := month.month_end;
    step.action := case when month.is_whole then 'drop' else 'delete' end;
    step.event_type := case when not month.is_whole then month.expired[1] end;
    if month.is_whole then
      step := ops.drop_month(step, month.relation, as_of);
    else
      step := ops.delete_month(step, month.relation, max_rows);
    end if;
  elsif expired.period is not null then
    step.kept := expired.kept;
    step.action := 'delete';
    step.name := expired.period;
    step.since := expired.first_start;
    step.until := expired.horizon;
    step := ops.remove_periods(step);
  else
    step := ops.remove_alerts(as_of, max_rows);
  end if;
  if step.state = 'freed' then
    perform ops.note_retention(step, started_at);
  end if;
  return step;
end;
$$;
comment on function ops.retain(timestamptz, timestamptz, text[], integer) is
  'Removes one bounded piece of what is older than its rule allows: a partition, max_rows of other rows, or a stretch of periods. Call it, a transaction a call, until its state is neither freed nor blocked; skipped are the names of what was blocked, started_at holds the calls of a run together in the journal.';

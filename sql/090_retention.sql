-- Where the events lie: partitions by month, made ahead of time, and the upkeep that cron calls.

create function ops.create_partition(month date)
returns boolean
language plpgsql
volatile
set search_path = ''
-- Attaching waits for readers of the default partition; others must not queue behind that for long.
set lock_timeout = '3s'
as $$
declare
  since timestamptz := date_trunc('month', month::timestamp) at time zone 'UTC';
  until timestamptz := (date_trunc('month', month::timestamp) + interval '1 month') at time zone 'UTC';
  name text := 'telemetry_events_' || to_char(month, 'YYYY_MM');
begin
  if to_regclass(format('ops.%I', name)) is not null
    or not pg_has_role((select class.relowner from pg_catalog.pg_class as class where class.oid = 'public.telemetry_events'::regclass), 'usage') then
    return false;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('ops.create_partition', 0));
  -- Not to_regclass, which may remember that the table was not there before another session made it.
  if exists (
    select from pg_catalog.pg_class as class where class.relnamespace = 'ops'::regnamespace and class.relname = name
  ) then
    return false;
  end if;
  execute format('create table ops.%I (like public.telemetry_events including all)', name);
  execute format('alter table ops.%I enable row level security', name);
  execute format('comment on table ops.%I is %L', name, 'Events of ' || to_char(month, 'YYYY-MM') || ' (UTC).');
  if exists (
    select from ops.telemetry_events_default as event where event.event_timestamp >= since and event.event_timestamp < until
  ) then
    -- A reader who planned without the new partition must not meet the default without the rows that moved.
    lock table public.telemetry_events in access exclusive mode;
    execute format(
      'with moved as (
         delete from ops.telemetry_events_default where event_timestamp >= %L and event_timestamp < %L returning *
       )
       insert into ops.%I (id, event_type, event_timestamp, run_id, tag, metadata, created_at, event_id, org_id, agent_id)
       select id, event_type, event_timestamp, run_id, tag, metadata, created_at, event_id, org_id, agent_id from moved',
      since, until, name
    );
  end if;
  execute format(
    'alter table public.telemetry_events attach partition ops.%I for values from (%L) to (%L)', name, since, until
  );
  return true;
exception
  when lock_not_available or deadlock_detected then
    return false;
end;
$$;
comment on function ops.create_partition(date) is
  'Makes the partition of a calendar month (UTC) and moves its events from the default partition; true when it did, false when it was there, the caller does not own the events, or a reader was in the way.';

create function ops.maintain(as_of timestamptz default now())
returns integer
language plpgsql
volatile
set search_path = ''
as $$
declare
  started_at timestamptz := clock_timestamp();
  made integer;
begin
  select count(*) filter (where ops.create_partition(wanted.month))
  into made
  from (
    select (date_trunc('month', as_of at time zone 'UTC') + make_interval(months => ahead))::date as month
    from generate_series(0, 3) as ahead
    union
    -- A year at a time and within sight: a partition for every month of two centuries would exhaust the server's locks.
    (
      select distinct found.month
      from (
        select distinct date_trunc('month', event.event_timestamp at time zone 'UTC')::date as month, event.event_type
        from ops.telemetry_events_default as event
        where event.event_timestamp >= as_of - interval '20 years'
          and event.event_timestamp < as_of + interval '3 months'
      ) as found
      -- Retention takes what is too old from where it lies; else each late event would make a partition only to have it dropped.
      where (found.month + interval '1 month') at time zone 'UTC' > ops.kept_since('events', found.event_type, as_of)
      order by found.month desc
      limit 12
    )
    order by month
  ) as wanted;
  delete from ops.job_runs as run
  where run.started_at < as_of - coalesce(ops.setting('job_runs_kept'), '30 days')::interval;
  perform ops.forget_requests(as_of);
  if made > 0 then
    insert into ops.job_runs (job, started_at, outcome, message)
    values ('maintain', started_at, 'success', format('%s partitions made', made));
  end if;
  return made;
end;
$$;
comment on function ops.maintain(timestamptz) is
  'Makes the partitions of this and the next three months and of at most twelve months that have events to keep in the default partition, and forgets old job runs; returns how many partitions were made.';

create function ops.run()
returns ops.refresh_report
language plpgsql
volatile
set search_path = ''
as $$
declare
  report ops.refresh_report := ops.refresh();
  started_at constant timestamptz := clock_timestamp();
  step record;
  blocked text[] := '{}'::text[];
begin
  begin
    perform ops.evaluate_alerts();
  exception
    -- Counting must go on whatever keeps the alerts from theirs.
    when others then
      perform ops.record_job_failure('alerts', sqlerrm);
  end;
  -- Last, since a partition takes locks that are held to the end.
  begin
    perform ops.maintain();
  exception
    -- Counting must go on whatever keeps the upkeep from its work.
    when others then
      perform ops.record_job_failure('maintain', sqlerrm);
  end;
  begin
    for attempt in 1 .. 10 loop
      select * into step from ops.retain(started_at => started_at, skipped => blocked);
      -- Its locks are held to the end.
      exit when step.state not in ('freed', 'blocked') or (step.state = 'freed' and step.action = 'drop');
      if step.state = 'blocked' then
        blocked := blocked || step.name;
      end if;
    end loop;
  exception
    -- Counting must go on whatever keeps the old from being removed.
    when others then
      perform ops.record_job_failure('retention', sqlerrm);
  end;
  return report;
end;
$$;
comment on function ops.run() is 'Everything that is due, for schedulers that can only call SQL: one refresh, the alerts, upkeep, then at most ten steps of retention. Messages wait in the outbox for opskpi alert deliver.';

create function ops.schedule(every text default '* * * * *')
returns text
language plpgsql
volatile
set search_path = ''
as $$
begin
  if to_regnamespace('cron') is null then
    return 'pg_cron is not installed here. On Supabase enable the extension pg_cron and call ops.schedule() again; elsewhere add to crontab: '
      || '* * * * * opskpi run';
  end if;
  -- Not a constant text, which a linter would look up in a database that has no pg_cron.
  execute format('select %s.schedule($1, $2, $3)', to_regnamespace('cron')) using 'opskpi', every, 'select ops.run()';
  -- pg_cron keeps every run for ever.
  execute format('select %s.schedule($1, $2, $3)', to_regnamespace('cron'))
    using 'opskpi-prune', '17 3 * * *', 'delete from cron.job_run_details where end_time < now() - interval ''7 days''';
  return format('opskpi runs at %s through pg_cron', every);
end;
$$;
comment on function ops.schedule(text) is
  'Installs the jobs in pg_cron (once, however often it is called) and says so; without pg_cron it says what to do instead.';

create function ops.unschedule()
returns text
language plpgsql
volatile
set search_path = ''
as $$
begin
  if to_regnamespace('cron') is null then
    return 'pg_cron is not installed here, nothing is scheduled';
  end if;
  execute format(
    'select %1$s.unschedule(job.jobid) from %1$s.job as job where job.jobname in (''opskpi'', ''opskpi-prune'')',
    to_regnamespace('cron')
  );
  return 'opskpi is no longer scheduled through pg_cron';
end;
$$;
comment on function ops.unschedule() is 'Takes the jobs out of pg_cron.';

revoke execute on function
  ops.create_partition(date),
  ops.maintain(timestamptz),
  ops.run(),
  ops.schedule(text),
  ops.unschedule()
from public;

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.create_partition(date),
    ops.maintain(timestamptz),
    ops.run(),
    ops.schedule(text),
    ops.unschedule()
  from anon, authenticated, service_role;
end;
$$;

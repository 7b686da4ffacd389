-- Where the events lie: partitions by month, made ahead of time.

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
  where run.started_at < as_of - coalesce(ops.setting('job_runs_kept'), '30 days')::interval
    -- The last success of each job tells for how long it has failed.
    and run.job_run_id not in (
      select max(last.job_run_id) from ops.job_runs as last where last.outcome = 'success' group by last.job
    );
  perform ops.forget_requests(as_of);
  perform ops.forget_uncountable();
  if made > 0 then
    insert into ops.job_runs (job, started_at, outcome, message)
    values ('maintain', started_at, 'success', format('%s partitions made', made));
  end if;
  return made;
end;
$$;
comment on function ops.maintain(timestamptz) is
  'Makes the partitions of this and the next three months and of at most twelve months that have events to keep in the default partition, and forgets old job runs; returns how many partitions were made.';

-- A sequence, because what it notes needs no page and survives the transaction that failed.
create sequence ops.full_disks as bigint no cycle;
comment on sequence ops.full_disks is 'When the disk was last found full, in seconds since 1970.';

create function ops.note_full_disk()
returns void
language plpgsql
volatile
set search_path = ''
as $$
begin
  perform setval('ops.full_disks'::regclass, extract(epoch from clock_timestamp())::bigint);
end;
$$;
comment on function ops.note_full_disk() is 'Notes that the disk is full, so that less is written at a time for an hour.';

create function ops.is_disk_full()
returns boolean
language plpgsql
stable
set search_path = ''
as $$
begin
  return (
    select noted.is_called and to_timestamp(noted.last_value) > clock_timestamp() - interval '1 hour'
    from ops.full_disks as noted
  );
end;
$$;
comment on function ops.is_disk_full() is 'Whether the disk was found full within the last hour.';

create function ops.drop_months_ahead(as_of timestamptz default now())
returns integer
language plpgsql
volatile
set search_path = ''
set lock_timeout = '1s'
as $$
declare
  name text;
  is_used boolean;
  dropped integer := 0;
begin
  if not ops.owns_events() then
    return 0;
  end if;
  lock table only public.telemetry_events in access exclusive mode;
  for name in
    select month.name from ops.event_months() as month where not month.is_default and month.month_start > as_of
  loop
    execute format('select exists (select from ops.%I)', name) into is_used;
    if not is_used then
      execute format('drop table ops.%I', name);
      dropped := dropped + 1;
    end if;
  end loop;
  return dropped;
exception
  when lock_not_available or deadlock_detected then
    return 0;
end;
$$;
comment on function ops.drop_months_ahead(timestamptz) is
  'Drops the empty partitions of months to come, for the room that their indexes take on a full disk; returns how many. maintain makes them again.';

create function ops.vacuumed_tables(with_events boolean, larger_than bigint default 131072)
returns table (schema_name text, table_name text)
language sql
stable
set search_path = ''
begin atomic
  select class.relnamespace::regnamespace::text, class.relname::text
  from pg_catalog.pg_class as class
  where class.relkind = 'r'
    and (
      class.relnamespace = 'ops'::regnamespace
      or class.oid in ('public.kpi_aggregations'::regclass, 'public.slsa_audit_metrics'::regclass)
    )
    and (vacuumed_tables.with_events or not class.relispartition)
    -- A first vacuum needs up to four pages itself, which a small table does not give back.
    and pg_relation_size(class.oid) > vacuumed_tables.larger_than
  order by pg_relation_size(class.oid) desc;
end;
comment on function ops.vacuumed_tables(boolean, bigint) is
  'The tables that a vacuum may give room back from on a full disk, the largest first; with_events: those of the events as well; larger_than: in bytes.';

-- Each step of a run by itself, freshness beside status, and advice of doctor that helps.

create sequence ops.full_disks as bigint no cycle;
comment on sequence ops.full_disks is 'When the disk was last found full, in seconds since 1970.';
revoke all on sequence ops.full_disks from public;
do $$
begin
  if to_regrole('anon') is not null then
    revoke all on sequence ops.full_disks from anon, authenticated, service_role;
  end if;
end;
$$;

comment on type ops.refresh_report is
  'done: all that could be counted is; more: call again; waiting: a writer stayed open; busy: another refresh runs; failed (of run alone): the message says why. behind is in ids, rows are KPI rows.';

create function ops.count_or_say()
returns ops.refresh_report
language plpgsql
volatile
set search_path = ''
as $$
declare
  report ops.refresh_report;
  most_events bigint;
begin
  -- A pass that the disk has no room for is followed by smaller ones; what they count may then be dropped.
  foreach most_events in array case when ops.is_disk_full() then array[2000, 200] else array[200000, 2000, 200] end loop
    begin
      return ops.refresh(max_ids => most_events);
    exception
      -- Alerts, upkeep and retention must go on whatever keeps the counting from its work.
      when others then
        report.state := 'failed';
        report.message := sqlerrm;
        exit when sqlstate <> '53100';
        perform ops.note_full_disk();
    end;
  end loop;
  perform ops.record_job_failure('refresh', report.message);
  raise warning 'counting failed: %', report.message;
  return report;
end;
$$;
comment on function ops.count_or_say() is
  'A refresh whose failure ends no other step: it is noted in the journal, and the report says failed; only run calls it.';

create or replace function ops.run()
returns ops.refresh_report
language plpgsql
volatile
set search_path = ''
as $$
declare
  report ops.refresh_report;
  started_at constant timestamptz := clock_timestamp();
  step record;
  blocked text[] := '{}'::text[];
begin
  report := ops.count_or_say();
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

create function ops.jobs_fail()
returns boolean
language sql
stable
set search_path = ''
begin atomic
  select
    exists (
      select
      from (values ('refresh'), ('alerts')) as job (name)
      cross join lateral (
        select run.outcome
        from ops.job_runs as run
        where run.job = job.name
        order by run.started_at desc
        limit 1
      ) as newest
      where newest.outcome = 'failure'
    )
    -- An attempt that lost its server or its caller leaves no row.
    or exists (
      select
      from ops.refresh_attempts as begun
      join ops.cursors as ended
        on ended.name = 'telemetry_events'
        and ended.attempts < begun.last_value
      where begun.is_called
    );
end;
comment on function ops.jobs_fail() is
  'Whether the newest run of counting or of the alerts failed or was cut off; false as well when nobody has started one for long.';

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

create function ops.vacuumed_tables(with_events boolean)
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
    and pg_relation_size(class.oid) > 131072
  order by pg_relation_size(class.oid) desc;
end;
comment on function ops.vacuumed_tables(boolean) is
  'The tables that a vacuum may give room back from on a full disk, the largest first; with_events: those of the events as well.';

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

revoke execute on function
  ops.can_drop_month,
  ops.count_or_say,
  ops.drop_months_ahead,
  ops.is_disk_full,
  ops.jobs_fail,
  ops.note_full_disk,
  ops.vacuumed_tables
from public;

do $$
begin
  -- A Postgres without Supabase's roles has no API callers to admit.
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke execute on function
    ops.can_drop_month,
    ops.count_or_say,
    ops.drop_months_ahead,
    ops.is_disk_full,
    ops.jobs_fail,
    ops.note_full_disk,
    ops.vacuumed_tables
  from anon, authenticated, service_role;
end;
$$;

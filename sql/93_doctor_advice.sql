-- What helps where a check of the doctor fails: the remedy that can.

create function ops.failure_in_words(job text)
returns text
language sql
stable
set search_path = ''
begin atomic
  select format(
    'the last run failed at %s UTC: %s; mend that, then run opskpi run',
    to_char(newest.finished_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
    newest.message
  )
  from (
    select run.outcome, run.finished_at, run.message
    from ops.job_runs as run
    where run.job = failure_in_words.job
    order by run.started_at desc
    limit 1
  ) as newest
  where newest.outcome = 'failure';
end;
comment on function ops.failure_in_words(text) is 'Why the newest run of a job failed, which running it again does not help; null when it did not fail.';

create function ops.counting_advice()
returns text
language sql
stable
set search_path = ''
begin atomic
  select coalesce(
    ops.failure_in_words('refresh'),
    (
      select 'a refresh or a rebuild is running; wait for its end'
      from pg_catalog.pg_locks as lock
      where lock.locktype = 'advisory'
        and lock.granted
        and lock.database = (select database.oid from pg_catalog.pg_database as database where database.datname = current_database())
        and lock.objsubid = 1
        and (lock.classid::bigint << 32) | lock.objid::bigint = hashtextextended('ops.refresh', 0)
      limit 1
    ),
    (
      select format(
        'it has waited since %s UTC for a transaction that writes events and stays open; end that',
        to_char(counted.counted_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')
      )
      from ops.counting_freshness(now()) as counted
      where exists (
        select
        from ops.job_runs as run
        where run.job = 'refresh'
          and run.finished_at = counted.last_run_at
          and run.outcome = 'waiting'
      )
    ),
    'run opskpi run from cron every ' || ops.refresh_interval()
  );
end;
comment on function ops.counting_advice() is
  'What helps where events are not counted: mending the last failure, waiting for a refresh or rebuild that runs, ending the transaction that one waits for, or else running one.';

create function ops.rebuild_advice(since timestamptz, until timestamptz)
returns text
language sql
stable
set search_path = ''
return (
  select case
    when rebuildable.since < rebuild_advice.until then format(
      'run opskpi rebuild --since %s --until %s',
      to_char(rebuildable.since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
      to_char(rebuild_advice.until at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
    ) || case when rebuildable.since > rebuild_advice.since then '; what is earlier cannot be counted again, because retention has removed events of its week or month' else '' end
    else 'it cannot be counted again, because retention has removed events of its week or month'
  end
  from (select greatest(rebuild_advice.since, ops.rebuildable_from()) as since offset 0) as rebuildable
);
comment on function ops.rebuild_advice(timestamptz, timestamptz) is
  'The rebuild that repairs counts of a range, as far as retention has left events for one.';

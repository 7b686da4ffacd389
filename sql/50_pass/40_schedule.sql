-- Entry points of schedulers that can only call SQL, and pg_cron where it is installed.

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

create function ops.run()
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
comment on function ops.run() is 'Everything that is due, for schedulers that can only call SQL: one refresh, the alerts, upkeep, then at most ten steps of retention; each by itself, a failure is noted in the journal and ends no other. Messages wait in the outbox for opskpi alert deliver.';

create function ops.schedule(every text default '* * * * *')
returns text
language plpgsql
volatile
set search_path = ''
as $$
declare
  sending constant text := (
    select 'pg_cron sends no message, opskpi alert deliver does: ' || outbox.detail
    from ops.delivery_checks(now()) as outbox
    where outbox.check_name = 'senders'
  );
begin
  if to_regnamespace('cron') is null then
    return 'pg_cron is not installed here. On Supabase enable the extension pg_cron and call ops.schedule() again ('
      || sending || '); elsewhere add to crontab, which sends, too: * * * * * opskpi run';
  end if;
  -- Not a constant text, which a linter would look up in a database that has no pg_cron.
  execute format('select %s.schedule($1, $2, $3)', to_regnamespace('cron')) using 'opskpi', every, 'select ops.run()';
  -- pg_cron keeps every run for ever.
  execute format('select %s.schedule($1, $2, $3)', to_regnamespace('cron'))
    using 'opskpi-prune', '17 3 * * *', 'delete from cron.job_run_details where end_time < now() - interval ''7 days''';
  return format('opskpi runs at %s through pg_cron; %s', every, sending);
end;
$$;
comment on function ops.schedule(text) is
  'Installs the jobs in pg_cron (once, however often it is called) and says so; without pg_cron it says what to do instead. It says whether anything sends messages, too.';

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

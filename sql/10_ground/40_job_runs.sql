-- The journal of the jobs.

create table ops.job_runs (
  job_run_id bigint generated always as identity,
  job text not null,
  started_at timestamptz not null,
  finished_at timestamptz not null default clock_timestamp(),
  outcome text not null,
  events bigint not null default 0,
  kpi_rows bigint not null default 0,
  message text,
  constraint job_runs_pkey primary key (job_run_id),
  constraint job_runs_outcome_check check (outcome in ('success', 'waiting', 'failure'))
);

create index job_runs_job_started_at_idx on ops.job_runs (job, started_at desc);
comment on table ops.job_runs is 'One row a run of a job, written in the transaction of its work; a failed run is written afterwards.';
comment on column ops.job_runs.job_run_id is 'Number of the run.';
comment on column ops.job_runs.job is 'refresh, alerts, deliver, maintain, retention or rebuild.';
comment on column ops.job_runs.started_at is 'When the run began.';
comment on column ops.job_runs.finished_at is 'When its work was done.';
comment on column ops.job_runs.outcome is 'success; waiting: it did less because a writer stayed open; failure.';
comment on column ops.job_runs.events is 'Events it aggregated, or removed (count).';
comment on column ops.job_runs.kpi_rows is 'KPI rows it wrote (count).';
comment on column ops.job_runs.message is 'What a person should know; null when there is nothing to say.';
alter table ops.job_runs enable row level security;
create policy job_runs_select_authenticated on ops.job_runs for select to authenticated using ((select ops.caller_may('{read}')) is not null);

create function ops.record_job_failure(job text, message text)
returns void
language sql
volatile
set search_path = ''
begin atomic
  insert into ops.job_runs (job, started_at, outcome, message)
  values (record_job_failure.job, now(), 'failure', left(record_job_failure.message, 1000));
end;
comment on function ops.record_job_failure(text, text) is
  'Notes in a transaction of its own that a job failed, since the failed transaction took its journal row along.';

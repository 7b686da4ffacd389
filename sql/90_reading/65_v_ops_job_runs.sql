-- The jobs for operators.

create view public.v_ops_job_runs
with (security_invoker = true)
as
select
  run.job,
  run.started_at,
  run.finished_at,
  run.outcome,
  round(1000 * extract(epoch from run.finished_at - run.started_at), 3) as duration_ms,
  run.events,
  run.kpi_rows,
  run.message
from ops.job_runs as run
order by run.started_at desc;
comment on view public.v_ops_job_runs is
  'One row a run of a job, newest first.';
comment on column public.v_ops_job_runs.job is 'refresh, alerts, deliver, maintain, retention or rebuild.';
comment on column public.v_ops_job_runs.started_at is 'When it began.';
comment on column public.v_ops_job_runs.finished_at is 'When its work was done.';
comment on column public.v_ops_job_runs.outcome is 'success, waiting (a writer stayed open) or failure.';
comment on column public.v_ops_job_runs.duration_ms is 'How long it took (ms).';
comment on column public.v_ops_job_runs.events is 'Events it counted, or removed (count).';
comment on column public.v_ops_job_runs.kpi_rows is 'KPI rows it wrote (count).';
comment on column public.v_ops_job_runs.message is 'What a person should know; null when there is nothing to say.';

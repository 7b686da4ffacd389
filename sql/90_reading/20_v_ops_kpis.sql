-- KPIs for analysts.

create view public.v_ops_kpi_latest
with (security_invoker = true)
as
with placed as (
  select
    kpi.*,
    max(kpi.period_start) over (partition by kpi.org_id, kpi.metric_name, kpi.aggregation_period) as newest_start
  from ops.kpis as kpi
  -- An event of a clock that is ahead must not hide the present.
  where kpi.period_start <= now()
)
select
  kpi.org_id,
  kpi.metric_name,
  kpi.metric_value,
  kpi.unit,
  kpi.aggregation_period,
  kpi.period_start,
  kpi.period_end,
  kpi.period_end <= now() as complete,
  kpi.labels,
  kpi.numerator,
  kpi.denominator,
  kpi.sample_count,
  definition.description
from placed as kpi
left join ops.kpi_definitions as definition
  on definition.metric_name = kpi.metric_name
where kpi.period_start = kpi.newest_start
order by kpi.org_id, kpi.metric_name, kpi.aggregation_period, kpi.labels;
comment on view public.v_ops_kpi_latest is
  'One row an org, KPI, period and breakdown of the newest period that has the KPI, events behind the cursor included.';
comment on column public.v_ops_kpi_latest.org_id is 'The tenant.';
comment on column public.v_ops_kpi_latest.metric_name is 'The KPI.';
comment on column public.v_ops_kpi_latest.metric_value is 'Its value, in the unit.';
comment on column public.v_ops_kpi_latest.unit is 'percent, ms, bytes or count.';
comment on column public.v_ops_kpi_latest.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column public.v_ops_kpi_latest.period_start is 'First instant of the period.';
comment on column public.v_ops_kpi_latest.period_end is 'First instant after the period.';
comment on column public.v_ops_kpi_latest.complete is 'The period is over.';
comment on column public.v_ops_kpi_latest.labels is '{} for the org as a whole, or the breakdown.';
comment on column public.v_ops_kpi_latest.numerator is 'What the value was divided from, in the unit of the count or value; null for percentiles and counts.';
comment on column public.v_ops_kpi_latest.denominator is 'What it was divided by (count); null for percentiles and counts.';
comment on column public.v_ops_kpi_latest.sample_count is 'Events or values behind the number (count).';
comment on column public.v_ops_kpi_latest.description is 'What the KPI says.';

create view public.v_ops_kpi_daily
with (security_invoker = true)
as
select
  kpi.period_start as day_start,
  max(kpi.metric_value) filter (where kpi.metric_name = 'provenance_success_rate') as provenance_success_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'provenance_failure_rate') as provenance_failure_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'provenance_avg_duration_ms') as provenance_avg_duration_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'provenance_p95_duration_ms') as provenance_p95_duration_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'provenance_validation_rate') as provenance_validation_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'audit_success_rate') as audit_success_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'sha256_verification_rate') as sha256_verification_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'predicate_type_verification_rate') as predicate_type_verification_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'supabase_sync_rate') as supabase_sync_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'workflow_run_avg_duration_ms') as workflow_run_avg_duration_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'workflow_run_p95_duration_ms') as workflow_run_p95_duration_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'artifact_avg_size_bytes') as artifact_avg_size_bytes,
  max(kpi.metric_value) filter (where kpi.metric_name = 'api_avg_response_ms') as api_avg_response_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'api_p95_response_ms') as api_p95_response_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'error_rate') as error_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_executions_total') as hook_executions_total,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_block_rate') as hook_block_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as hook_override_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_avg_duration_ms') as hook_avg_duration_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_p95_duration_ms') as hook_p95_duration_ms,
  kpi.org_id
from ops.kpis as kpi
where kpi.aggregation_period = 'day'
  and kpi.labels = '{}'
group by kpi.org_id, kpi.period_start
order by kpi.period_start desc;
comment on view public.v_ops_kpi_daily is
  'One row an org and day with every shipped KPI in its own column, newest day first, events behind the cursor included; null where there was nothing to measure.';
comment on column public.v_ops_kpi_daily.day_start is 'First instant of the day, in the time zone of the settings.';
comment on column public.v_ops_kpi_daily.provenance_success_rate is 'Provenance runs that succeeded, of those that ended in success or failure (percent).';
comment on column public.v_ops_kpi_daily.provenance_failure_rate is 'Provenance runs that failed, of those that ended in success or failure (percent).';
comment on column public.v_ops_kpi_daily.provenance_avg_duration_ms is 'Average duration of provenance runs (ms).';
comment on column public.v_ops_kpi_daily.provenance_p95_duration_ms is '95th percentile of the duration of provenance runs (ms, within 1 %).';
comment on column public.v_ops_kpi_daily.provenance_validation_rate is 'Audits whose validation succeeded, of those whose provenance did (percent).';
comment on column public.v_ops_kpi_daily.audit_success_rate is 'Audits whose provenance and validation both succeeded, of all audits (percent).';
comment on column public.v_ops_kpi_daily.sha256_verification_rate is 'Audits with a verified SHA-256, of all audits (percent).';
comment on column public.v_ops_kpi_daily.predicate_type_verification_rate is 'Audits with a verified predicate type, of all audits (percent).';
comment on column public.v_ops_kpi_daily.supabase_sync_rate is 'Audits whose provenance and validation were both found in the database, of all audits (percent).';
comment on column public.v_ops_kpi_daily.workflow_run_avg_duration_ms is 'Average duration of workflow runs (ms).';
comment on column public.v_ops_kpi_daily.workflow_run_p95_duration_ms is '95th percentile of the duration of workflow runs (ms, within 1 %).';
comment on column public.v_ops_kpi_daily.artifact_avg_size_bytes is 'Average size of artifacts (bytes).';
comment on column public.v_ops_kpi_daily.api_avg_response_ms is 'Average response time of API requests (ms).';
comment on column public.v_ops_kpi_daily.api_p95_response_ms is '95th percentile of the response time of API requests (ms, within 1 %).';
comment on column public.v_ops_kpi_daily.error_rate is 'Failures, of all events of any type that ended in success or failure (percent).';
comment on column public.v_ops_kpi_daily.hook_executions_total is 'Hook executions (count).';
comment on column public.v_ops_kpi_daily.hook_block_rate is 'Hook executions that blocked, of those that decided (percent).';
comment on column public.v_ops_kpi_daily.hook_override_rate is 'Hook executions that were overridden, of those that decided (percent).';
comment on column public.v_ops_kpi_daily.hook_avg_duration_ms is 'Average duration of hook executions (ms).';
comment on column public.v_ops_kpi_daily.hook_p95_duration_ms is '95th percentile of the duration of hook executions (ms, within 1 %).';
comment on column public.v_ops_kpi_daily.org_id is 'The tenant.';

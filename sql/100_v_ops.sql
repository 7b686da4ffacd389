-- The analysts' reading list. Every view runs as its reader, so RLS decides what is seen.

create view ops.kpis
with (security_invoker = true)
as
with fresh as materialized (
  select fresh_kpi.*
  from ops.fresh_kpis() as fresh_kpi
)
select
  stored.org_id,
  stored.metric_name,
  stored.labels,
  stored.aggregation_period,
  stored.period_start,
  stored.period_end,
  stored.metadata ->> 'unit' as unit,
  stored.metric_value,
  (stored.metadata ->> 'numerator')::numeric as numerator,
  (stored.metadata ->> 'denominator')::numeric as denominator,
  (stored.metadata ->> 'sample_count')::bigint as sample_count
from public.kpi_aggregations as stored
where not exists (
  select
  from fresh
  where fresh.org_id = stored.org_id
    and fresh.metric_name = stored.metric_name
    and fresh.labels = stored.labels
    and fresh.period = stored.aggregation_period
    and fresh.period_start = stored.period_start
)
union all
select
  fresh.org_id,
  fresh.metric_name,
  fresh.labels,
  fresh.period,
  fresh.period_start,
  ops.period_end(fresh.period, fresh.period_start, ops.time_zone()),
  fresh.unit,
  round(fresh.metric_value, 6),
  fresh.numerator,
  fresh.denominator,
  fresh.sample_count
from fresh
where fresh.metric_value is not null;
comment on view ops.kpis is
  'One row an org, KPI, period and breakdown, as the next refresh would leave them: stored rows, and in their place what events behind the cursor make of them.';
comment on column ops.kpis.org_id is 'The tenant.';
comment on column ops.kpis.metric_name is 'The KPI: a row of ops.kpi_definitions.';
comment on column ops.kpis.labels is '{} for the org as a whole, {"team": …} or another label for a breakdown.';
comment on column ops.kpis.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column ops.kpis.period_start is 'First instant of the period.';
comment on column ops.kpis.period_end is 'First instant after the period.';
comment on column ops.kpis.unit is 'Unit of the value: percent, ms, bytes or count.';
comment on column ops.kpis.metric_value is 'The value, in the unit.';
comment on column ops.kpis.numerator is 'What the value was divided from, in the unit of the count or value; null for percentiles and counts.';
comment on column ops.kpis.denominator is 'What it was divided by (count); null for percentiles and counts.';
comment on column ops.kpis.sample_count is 'Events or values behind the number (count).';

create view public.v_ops_kpi_latest
with (security_invoker = true)
as
with newest as (
  select
    kpi.org_id,
    kpi.metric_name,
    kpi.aggregation_period,
    max(kpi.period_start) as period_start
  from ops.kpis as kpi
  -- An event of a clock that is ahead must not hide the present.
  where kpi.period_start <= now()
  group by 1, 2, 3
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
from newest
join ops.kpis as kpi
  on kpi.org_id = newest.org_id
  and kpi.metric_name = newest.metric_name
  and kpi.aggregation_period = newest.aggregation_period
  and kpi.period_start = newest.period_start
left join ops.kpi_definitions as definition
  on definition.metric_name = kpi.metric_name
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
comment on column public.v_ops_kpi_daily.hook_block_rate is 'Hook executions that blocked, of all (percent).';
comment on column public.v_ops_kpi_daily.hook_override_rate is 'Hook executions that were overridden, of all (percent).';
comment on column public.v_ops_kpi_daily.hook_avg_duration_ms is 'Average duration of hook executions (ms).';
comment on column public.v_ops_kpi_daily.hook_p95_duration_ms is '95th percentile of the duration of hook executions (ms, within 1 %).';
comment on column public.v_ops_kpi_daily.org_id is 'The tenant.';

create view public.v_ops_hook_effectiveness
with (security_invoker = true)
as
select
  kpi.aggregation_period,
  kpi.period_start,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_executions_total')::bigint as executions,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_block_rate') as block_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as override_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_avg_duration_ms') as avg_duration_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_p95_duration_ms') as p95_duration_ms,
  kpi.org_id
from ops.kpis as kpi
where kpi.aggregation_period in ('day', 'week', 'month')
  and kpi.labels = '{}'
  and kpi.metric_name in ('hook_executions_total', 'hook_block_rate', 'hook_override_rate', 'hook_avg_duration_ms', 'hook_p95_duration_ms')
group by kpi.org_id, kpi.aggregation_period, kpi.period_start
order by kpi.period_start desc, kpi.aggregation_period;
comment on view public.v_ops_hook_effectiveness is
  'One row an org and day, week or month: what the git hooks did, newest first, events behind the cursor included.';
comment on column public.v_ops_hook_effectiveness.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column public.v_ops_hook_effectiveness.period_start is 'First instant of the period.';
comment on column public.v_ops_hook_effectiveness.executions is 'Hook executions (count).';
comment on column public.v_ops_hook_effectiveness.block_rate is 'Executions that blocked, of all (percent).';
comment on column public.v_ops_hook_effectiveness.override_rate is 'Executions that were overridden, of all (percent).';
comment on column public.v_ops_hook_effectiveness.avg_duration_ms is 'Average duration (ms).';
comment on column public.v_ops_hook_effectiveness.p95_duration_ms is '95th percentile of the duration (ms, within 1 %).';
comment on column public.v_ops_hook_effectiveness.org_id is 'The tenant.';

create view public.v_ops_hook_teams
with (security_invoker = true)
as
select
  kpi.labels ->> 'team' as team,
  kpi.aggregation_period,
  kpi.period_start,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_executions_total')::bigint as executions,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_block_rate') as block_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as override_rate,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_avg_duration_ms') as avg_duration_ms,
  max(kpi.metric_value) filter (where kpi.metric_name = 'hook_p95_duration_ms') as p95_duration_ms,
  100 - max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as compliance_rate,
  kpi.org_id,
  -- Overridden less than in the period before is a gain in compliance, so the signs turn.
  lag(max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate')) over (
    partition by kpi.org_id, kpi.labels ->> 'team', kpi.aggregation_period
    order by kpi.period_start
  ) - max(kpi.metric_value) filter (where kpi.metric_name = 'hook_override_rate') as compliance_change
from ops.kpis as kpi
where kpi.aggregation_period in ('day', 'week', 'month')
  and kpi.labels ? 'team'
  and kpi.metric_name in ('hook_executions_total', 'hook_block_rate', 'hook_override_rate', 'hook_avg_duration_ms', 'hook_p95_duration_ms')
group by kpi.org_id, kpi.labels ->> 'team', kpi.aggregation_period, kpi.period_start
order by kpi.period_start desc, kpi.aggregation_period, team;
comment on view public.v_ops_hook_teams is
  'One row an org, team and day, week or month: how the team lives with the git hooks, newest first, events behind the cursor included.';
comment on column public.v_ops_hook_teams.team is 'The team of the agents, from ops.agents.';
comment on column public.v_ops_hook_teams.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column public.v_ops_hook_teams.period_start is 'First instant of the period.';
comment on column public.v_ops_hook_teams.executions is 'Hook executions (count).';
comment on column public.v_ops_hook_teams.block_rate is 'Executions that blocked, of all (percent).';
comment on column public.v_ops_hook_teams.override_rate is 'Executions that were overridden, of all (percent).';
comment on column public.v_ops_hook_teams.avg_duration_ms is 'Average duration (ms).';
comment on column public.v_ops_hook_teams.p95_duration_ms is '95th percentile of the duration (ms, within 1 %).';
comment on column public.v_ops_hook_teams.compliance_rate is 'Executions that were not overridden, of all (percent).';
comment on column public.v_ops_hook_teams.org_id is 'The tenant.';
comment on column public.v_ops_hook_teams.compliance_change is
  'compliance_rate less that of the team''s period before, of the same length (percentage points); null in its first.';

create view public.v_ops_hook_policies
with (security_invoker = true)
as
with versioned as (
  select
    part.org_id,
    case when part.labels ->> 'policy_version' ~ '^[0-9]{1,18}$' then (part.labels ->> 'policy_version')::bigint end as policy_version,
    part.event_type,
    part.labels ->> 'result' as result,
    part.day_start,
    part.event_count
  from ops.hook_days as part
),
counted as (
  select
    versioned.org_id,
    versioned.policy_version,
    min(versioned.day_start) as first_day_start,
    max(versioned.day_start) as last_day_start,
    coalesce(sum(versioned.event_count) filter (where versioned.event_type = 'hook_execution'), 0)::bigint as executions,
    coalesce(sum(versioned.event_count) filter (where versioned.result = 'blocked'), 0)::bigint as blocked_count,
    coalesce(sum(versioned.event_count) filter (where versioned.result = 'overridden'), 0)::bigint as overridden_count,
    coalesce(sum(versioned.event_count) filter (where versioned.event_type = 'hook_baseline'), 0)::bigint as baseline_count
  from versioned
  group by 1, 2
)
select
  counted.policy_version,
  policy.created_at as set_at,
  counted.first_day_start,
  counted.last_day_start,
  counted.executions,
  counted.blocked_count,
  counted.overridden_count,
  counted.baseline_count,
  round(100.0 * counted.blocked_count / nullif(counted.executions, 0), 6) as block_rate,
  round(100.0 * counted.overridden_count / nullif(counted.executions, 0), 6) as override_rate,
  round(100.0 * counted.baseline_count / nullif(counted.executions, 0), 6) as baseline_rate,
  counted.org_id
from counted
left join ops.policies as policy
  on policy.org_id = counted.org_id
  and policy.version = counted.policy_version
order by counted.org_id, counted.policy_version desc nulls last;
comment on view public.v_ops_hook_policies is
  'One row an org and version of its hook policy: what the hooks did under it, newest version first, events behind the cursor included.';
comment on column public.v_ops_hook_policies.policy_version is 'The version that the events name; 0: the default; null: they name none.';
comment on column public.v_ops_hook_policies.set_at is 'When that version was set; null for the default and for events that name none.';
comment on column public.v_ops_hook_policies.first_day_start is 'First instant of the first day with events under it.';
comment on column public.v_ops_hook_policies.last_day_start is 'First instant of the newest day with events under it.';
comment on column public.v_ops_hook_policies.executions is 'Hook executions (count).';
comment on column public.v_ops_hook_policies.blocked_count is 'Executions that blocked (count).';
comment on column public.v_ops_hook_policies.overridden_count is 'Executions that were overridden (count).';
comment on column public.v_ops_hook_policies.baseline_count is 'Findings accepted into the baseline (count).';
comment on column public.v_ops_hook_policies.block_rate is 'Executions that blocked, of all (percent).';
comment on column public.v_ops_hook_policies.override_rate is 'Executions that were overridden, of all (percent).';
comment on column public.v_ops_hook_policies.baseline_rate is 'Findings accepted into the baseline per 100 executions.';
comment on column public.v_ops_hook_policies.org_id is 'The tenant.';

create view public.v_ops_blocked_patterns
with (security_invoker = true)
as
select
  part.period as aggregation_period,
  part.period_start,
  part.hook_type,
  part.pattern,
  sum(part.blocked_count)::bigint as blocked_count,
  part.org_id
from ops.blocked_pattern_parts as part
group by part.org_id, part.period, part.period_start, part.hook_type, part.pattern
order by part.period_start desc, blocked_count desc, part.pattern;
comment on view public.v_ops_blocked_patterns is
  'One row an org, period, hook type and pattern: what blocked most, newest period and most frequent first, events behind the cursor included.';
comment on column public.v_ops_blocked_patterns.aggregation_period is 'hour, day, week (ISO, from Monday) or month.';
comment on column public.v_ops_blocked_patterns.period_start is 'First instant of the period.';
comment on column public.v_ops_blocked_patterns.hook_type is 'The hook; empty when the event names none.';
comment on column public.v_ops_blocked_patterns.pattern is 'What was found.';
comment on column public.v_ops_blocked_patterns.blocked_count is 'Executions that it blocked (count).';
comment on column public.v_ops_blocked_patterns.org_id is 'The tenant.';

create view public.v_ops_slsa_audit_kpi
with (security_invoker = true)
as
select
  (audit.audit_timestamp at time zone ops.time_zone())::date as date,
  count(*) as total_audits,
  count(*) filter (where audit.provenance_status = 'success' and audit.validation_status = 'success') as success_count,
  count(*) filter (where audit.provenance_status = 'failure' or audit.validation_status = 'failure') as failure_count,
  count(*) filter (where audit.sha256_verified) as sha256_verified_count,
  count(*) filter (where audit.predicate_type_verified) as predicate_type_verified_count,
  count(*) filter (where audit.supabase_provenance_synced) as supabase_provenance_synced_count,
  count(*) filter (where audit.supabase_validation_synced) as supabase_validation_synced_count,
  round(100.0 * count(*) filter (where audit.provenance_status = 'success' and audit.validation_status = 'success') / count(*), 2) as success_rate,
  round(100.0 * count(*) filter (where audit.sha256_verified) / count(*), 2) as sha256_verification_rate,
  round(100.0 * count(*) filter (where audit.predicate_type_verified) / count(*), 2) as predicate_type_verification_rate,
  round(100.0 * count(*) filter (where audit.supabase_provenance_synced) / count(*), 2) as supabase_provenance_sync_rate,
  round(100.0 * count(*) filter (where audit.supabase_validation_synced) / count(*), 2) as supabase_validation_sync_rate,
  audit.org_id
from public.slsa_audit_metrics as audit
where audit.audit_timestamp >= timestamptz '1970-01-01 00:00+00'
  and audit.audit_timestamp < timestamptz '2200-01-01 00:00+00'
group by 1, audit.org_id
order by date desc;
comment on view public.v_ops_slsa_audit_kpi is
  'One row an org and day with audits, newest day first.';
comment on column public.v_ops_slsa_audit_kpi.date is 'The day, in the time zone of the settings.';
comment on column public.v_ops_slsa_audit_kpi.total_audits is 'Audits (count).';
comment on column public.v_ops_slsa_audit_kpi.success_count is 'Audits whose provenance and validation both succeeded (count).';
comment on column public.v_ops_slsa_audit_kpi.failure_count is 'Audits whose provenance or validation failed (count).';
comment on column public.v_ops_slsa_audit_kpi.sha256_verified_count is 'Audits with a verified SHA-256 (count).';
comment on column public.v_ops_slsa_audit_kpi.predicate_type_verified_count is 'Audits with a verified predicate type (count).';
comment on column public.v_ops_slsa_audit_kpi.supabase_provenance_synced_count is 'Audits whose provenance run was found in the database (count).';
comment on column public.v_ops_slsa_audit_kpi.supabase_validation_synced_count is 'Audits whose validation run was found in the database (count).';
comment on column public.v_ops_slsa_audit_kpi.success_rate is 'success_count of total_audits (percent).';
comment on column public.v_ops_slsa_audit_kpi.sha256_verification_rate is 'sha256_verified_count of total_audits (percent).';
comment on column public.v_ops_slsa_audit_kpi.predicate_type_verification_rate is 'predicate_type_verified_count of total_audits (percent).';
comment on column public.v_ops_slsa_audit_kpi.supabase_provenance_sync_rate is 'supabase_provenance_synced_count of total_audits (percent).';
comment on column public.v_ops_slsa_audit_kpi.supabase_validation_sync_rate is 'supabase_validation_synced_count of total_audits (percent).';
comment on column public.v_ops_slsa_audit_kpi.org_id is 'The tenant.';

create view ops.failed_audits
with (security_invoker = true)
as
select
  audit.audit_run_id,
  audit.audit_timestamp,
  audit.provenance_status,
  audit.validation_status,
  audit.sha256_verified,
  audit.predicate_type_verified,
  audit.tag,
  audit.sha256,
  audit.predicate_type,
  audit.builder_id,
  audit.provenance_run_id,
  audit.validation_run_id,
  audit.provenance_run_url,
  audit.validation_run_url,
  audit.metadata,
  audit.org_id
from public.slsa_audit_metrics as audit
where audit.provenance_status = 'failure'
  or audit.validation_status = 'failure'
  or not audit.sha256_verified
  or not audit.predicate_type_verified;
comment on view ops.failed_audits is
  'One row an audit that failed: provenance or validation failed, or the digest or the predicate type was not verified.';

create view public.v_ops_slsa_audit_failures
with (security_invoker = true)
as
select
  audit.audit_run_id,
  audit.audit_timestamp,
  audit.provenance_status,
  audit.validation_status,
  audit.sha256_verified,
  audit.predicate_type_verified,
  audit.tag,
  audit.sha256,
  audit.predicate_type,
  audit.builder_id,
  audit.provenance_run_id,
  audit.validation_run_id,
  audit.provenance_run_url,
  audit.validation_run_url,
  audit.metadata,
  audit.org_id
from ops.failed_audits as audit
order by audit.audit_timestamp desc
limit 100;
comment on view public.v_ops_slsa_audit_failures is
  'The newest 100 audits that failed: provenance or validation failed, or the digest or the predicate type was not verified.';
comment on column public.v_ops_slsa_audit_failures.audit_run_id is 'The CI run of the audit.';
comment on column public.v_ops_slsa_audit_failures.audit_timestamp is 'When the audit was made.';
comment on column public.v_ops_slsa_audit_failures.provenance_status is 'success, failure, skipped or unknown.';
comment on column public.v_ops_slsa_audit_failures.validation_status is 'success, failure, skipped or unknown.';
comment on column public.v_ops_slsa_audit_failures.sha256_verified is 'The digest was verified.';
comment on column public.v_ops_slsa_audit_failures.predicate_type_verified is 'The predicate type was an allowed one.';
comment on column public.v_ops_slsa_audit_failures.tag is 'The release tag.';
comment on column public.v_ops_slsa_audit_failures.sha256 is 'SHA-256 of the artifact, hexadecimal.';
comment on column public.v_ops_slsa_audit_failures.predicate_type is 'The predicate type found.';
comment on column public.v_ops_slsa_audit_failures.builder_id is 'The builder found.';
comment on column public.v_ops_slsa_audit_failures.provenance_run_id is 'The CI run that made the provenance.';
comment on column public.v_ops_slsa_audit_failures.validation_run_id is 'The CI run that validated it.';
comment on column public.v_ops_slsa_audit_failures.provenance_run_url is 'Link to the run that made the provenance.';
comment on column public.v_ops_slsa_audit_failures.validation_run_url is 'Link to the run that validated it.';
comment on column public.v_ops_slsa_audit_failures.metadata is 'Whatever else the audit noted.';
comment on column public.v_ops_slsa_audit_failures.org_id is 'The tenant.';

create view public.v_ops_slo_status
with (security_invoker = true)
as
select
  evaluated.slo_name,
  evaluated.service,
  evaluated.objective,
  evaluated.status,
  evaluated.target,
  evaluated.sli,
  evaluated.good,
  evaluated.total,
  evaluated.budget_left,
  evaluated.burn_rate_1h,
  evaluated.burn_rate_6h,
  evaluated.burn_rate_1d,
  evaluated.burn_rate_3d,
  evaluated.time_to_exhaustion,
  evaluated.events_needed,
  evaluated.window_start,
  evaluated.evaluated_at,
  evaluated.org_id,
  evaluated.version,
  evaluated.budgeting_method,
  evaluated.last_counted_at,
  evaluated.good_unadjusted,
  evaluated.total_unadjusted,
  evaluated.budget_left_unadjusted
from ops.evaluate_slos(now(), true, null) as evaluated
order by evaluated.org_id, evaluated.slo_name;
comment on view public.v_ops_slo_status is
  'One row an org and objective, as of now, events behind the cursor included.';
comment on column public.v_ops_slo_status.slo_name is 'The objective.';
comment on column public.v_ops_slo_status.service is 'The service that promises.';
comment on column public.v_ops_slo_status.objective is 'availability, latency or error_rate.';
comment on column public.v_ops_slo_status.status is 'ok, at_risk (a quarter of the budget or less is left, or it burns fast), breached, insufficient (too few events to judge), no_data or stale (the jobs stopped).';
comment on column public.v_ops_slo_status.target is 'The share promised (ratio).';
comment on column public.v_ops_slo_status.sli is 'The share measured (ratio); null without events.';
comment on column public.v_ops_slo_status.good is 'Good ones in the window (count).';
comment on column public.v_ops_slo_status.total is 'All that count in the window (count).';
comment on column public.v_ops_slo_status.budget_left is 'Share of the error budget left (ratio, negative when overspent); null without events.';
comment on column public.v_ops_slo_status.burn_rate_1h is 'Burn rate over the last hour (ratio to the sustainable rate); null without events.';
comment on column public.v_ops_slo_status.burn_rate_6h is 'Burn rate over the last 6 hours (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_1d is 'Burn rate over the last day (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.burn_rate_3d is 'Burn rate over the last 3 days (ratio to the sustainable rate).';
comment on column public.v_ops_slo_status.time_to_exhaustion is 'How long the budget lasts at the burn rate of the last day; null: it is not burning.';
comment on column public.v_ops_slo_status.events_needed is 'Events still needed to judge (count); 0 when there are enough.';
comment on column public.v_ops_slo_status.window_start is 'First instant of the window.';
comment on column public.v_ops_slo_status.evaluated_at is 'The instant of the evaluation.';
comment on column public.v_ops_slo_status.org_id is 'The tenant.';
comment on column public.v_ops_slo_status.version is 'The version of the definition.';
comment on column public.v_ops_slo_status.budgeting_method is 'occurrences: good and total are events; timeslices: they are slices of time.';
comment on column public.v_ops_slo_status.last_counted_at is 'First instant of the newest five minutes that hold anything; null: nothing was ever counted.';
comment on column public.v_ops_slo_status.good_unadjusted is 'Good ones, exclusions not applied (count).';
comment on column public.v_ops_slo_status.total_unadjusted is 'All that count, exclusions not applied (count).';
comment on column public.v_ops_slo_status.budget_left_unadjusted is 'Share of the error budget left, exclusions not applied (ratio).';

create view public.v_ops_slo_history
with (security_invoker = true)
as
select
  history.org_id,
  history.slo_name,
  history.version,
  history.day_start,
  history.target,
  history.good,
  history.total,
  history.good::numeric / nullif(history.total, 0) as sli,
  history.good_unadjusted,
  history.total_unadjusted
from ops.slo_history() as history;
comment on view public.v_ops_slo_history is
  'One row an org, objective and day on which something was counted, by the version that held then; a day of a change has a row for each version.';
comment on column public.v_ops_slo_history.org_id is 'The tenant.';
comment on column public.v_ops_slo_history.slo_name is 'The objective.';
comment on column public.v_ops_slo_history.version is 'The version that held.';
comment on column public.v_ops_slo_history.day_start is 'First instant of the day.';
comment on column public.v_ops_slo_history.target is 'The share promised (ratio).';
comment on column public.v_ops_slo_history.good is 'Good ones (count of events, or of time slices).';
comment on column public.v_ops_slo_history.total is 'All that count (count of events, or of time slices).';
comment on column public.v_ops_slo_history.sli is 'The share measured (ratio); null when all is excluded.';
comment on column public.v_ops_slo_history.good_unadjusted is 'Good ones, exclusions not applied (count).';
comment on column public.v_ops_slo_history.total_unadjusted is 'All that count, exclusions not applied (count).';

create view public.v_ops_error_budget_burndown
with (security_invoker = true)
as
select
  burndown.org_id,
  burndown.slo_name,
  burndown.version,
  burndown.day_start,
  burndown.good,
  burndown.total,
  burndown.consumed,
  burndown.budget_left
from ops.slo_burndown(now()) as burndown;
comment on view public.v_ops_error_budget_burndown is
  'One row an org, objective and day of its running window on which something was counted; exclusions applied.';
comment on column public.v_ops_error_budget_burndown.org_id is 'The tenant.';
comment on column public.v_ops_error_budget_burndown.slo_name is 'The objective.';
comment on column public.v_ops_error_budget_burndown.version is 'The version of the definition.';
comment on column public.v_ops_error_budget_burndown.day_start is 'First instant of the day.';
comment on column public.v_ops_error_budget_burndown.good is 'Good ones of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.total is 'All that count of the day (count of events, or of time slices).';
comment on column public.v_ops_error_budget_burndown.consumed is 'What the day consumed of the budget of the whole window (ratio).';
comment on column public.v_ops_error_budget_burndown.budget_left is 'What was left of it after the day (ratio, negative when overspent).';

create view public.v_ops_alerts
with (security_invoker = true)
as
select
  alert.org_id,
  alert.alert_id,
  alert.rule_name,
  alert.kind,
  alert.severity,
  alert.subject,
  alert.service,
  alert.slo_version,
  alert.state,
  alert.is_frozen,
  alert.pending_since,
  alert.firing_since,
  alert.resolved_at,
  alert.evaluated_at,
  alert.description,
  alert.detail
from ops.alerts as alert
order by alert.alert_id desc;
comment on view public.v_ops_alerts is 'One row an alert, newest first.';
comment on column public.v_ops_alerts.org_id is 'The tenant; the nil org for what concerns the jobs.';
comment on column public.v_ops_alerts.alert_id is 'Number of the alert.';
comment on column public.v_ops_alerts.rule_name is 'The rule that found it.';
comment on column public.v_ops_alerts.kind is 'burn_rate, budget_exhausted, kpi_threshold, silent_input, silent_agents or silent_jobs.';
comment on column public.v_ops_alerts.severity is 'page, ticket or notice.';
comment on column public.v_ops_alerts.subject is 'The objective, KPI, event type, agent or job.';
comment on column public.v_ops_alerts.service is 'The service of the objective; else null.';
comment on column public.v_ops_alerts.slo_version is 'The version of the objective by which it was found; else null.';
comment on column public.v_ops_alerts.state is 'pending, firing or resolved.';
comment on column public.v_ops_alerts.is_frozen is 'The last evaluation could not tell, so the state stays.';
comment on column public.v_ops_alerts.pending_since is 'When the condition was first found to hold.';
comment on column public.v_ops_alerts.firing_since is 'When it fired; null: not yet.';
comment on column public.v_ops_alerts.resolved_at is 'When it was found to be over; null: it is not.';
comment on column public.v_ops_alerts.evaluated_at is 'The instant of the last evaluation.';
comment on column public.v_ops_alerts.description is 'What it means and what to do.';
comment on column public.v_ops_alerts.detail is 'The figures: burn rates and factor, SLI, target, budget left; the KPI and its limit; when last heard of.';

create view public.v_ops_alert_deliveries
with (security_invoker = true)
as
select
  delivery.org_id,
  delivery.delivery_id,
  delivery.channel_name,
  delivery.group_key,
  delivery.status,
  delivery.state,
  delivery.alert_ids,
  delivery.attempts,
  delivery.created_at,
  delivery.next_attempt_at,
  delivery.settled_at,
  delivery.last_error
from ops.alert_deliveries as delivery
order by delivery.delivery_id desc;
comment on view public.v_ops_alert_deliveries is 'One row a message for a channel, newest first.';
comment on column public.v_ops_alert_deliveries.org_id is 'The tenant.';
comment on column public.v_ops_alert_deliveries.delivery_id is 'Number of the delivery.';
comment on column public.v_ops_alert_deliveries.channel_name is 'The channel.';
comment on column public.v_ops_alert_deliveries.group_key is 'The service of the objectives, the KPI, the kind of silence, or the week of a summary.';
comment on column public.v_ops_alert_deliveries.status is 'firing, resolved, test or summary.';
comment on column public.v_ops_alert_deliveries.state is 'queued, sending, delivered, dead, silenced (logged only) or superseded.';
comment on column public.v_ops_alert_deliveries.alert_ids is 'The alerts it speaks of.';
comment on column public.v_ops_alert_deliveries.attempts is 'Attempts begun (count).';
comment on column public.v_ops_alert_deliveries.created_at is 'The instant of the evaluation or call that wrote it.';
comment on column public.v_ops_alert_deliveries.next_attempt_at is 'Not before this instant.';
comment on column public.v_ops_alert_deliveries.settled_at is 'When the last attempt ended.';
comment on column public.v_ops_alert_deliveries.last_error is 'Why the last attempt failed; null when it did not.';

create view public.v_ops_alert_silences
with (security_invoker = true)
as
select
  silence.only_org_id as org_id,
  silence.alert_silence_id,
  silence.matcher,
  silence.starts_at,
  silence.until,
  silence.reason,
  silence.author,
  silence.created_at
from ops.alert_silences as silence
order by silence.alert_silence_id desc;
comment on view public.v_ops_alert_silences is 'One row a time in which matching alerts are logged and not sent, newest first.';
comment on column public.v_ops_alert_silences.org_id is 'The tenant whose alerts it covers; null: all of them, which only the owner sees.';
comment on column public.v_ops_alert_silences.alert_silence_id is 'Number of the silence.';
comment on column public.v_ops_alert_silences.matcher is 'The name of a rule, an objective or other subject, or a service; * for everything.';
comment on column public.v_ops_alert_silences.starts_at is 'First instant.';
comment on column public.v_ops_alert_silences.until is 'First instant after it.';
comment on column public.v_ops_alert_silences.reason is 'Why.';
comment on column public.v_ops_alert_silences.author is 'Who said so.';
comment on column public.v_ops_alert_silences.created_at is 'When it was added.';

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
comment on column public.v_ops_job_runs.job is 'refresh, alerts, maintain, retention or rebuild.';
comment on column public.v_ops_job_runs.started_at is 'When it began.';
comment on column public.v_ops_job_runs.finished_at is 'When its work was done.';
comment on column public.v_ops_job_runs.outcome is 'success, waiting (a writer stayed open) or failure.';
comment on column public.v_ops_job_runs.duration_ms is 'How long it took (ms).';
comment on column public.v_ops_job_runs.events is 'Events it counted, or removed (count).';
comment on column public.v_ops_job_runs.kpi_rows is 'KPI rows it wrote (count).';
comment on column public.v_ops_job_runs.message is 'What a person should know; null when there is nothing to say.';

do $$
begin
  if to_regrole('anon') is null or to_regrole('authenticated') is null or to_regrole('service_role') is null then
    return;
  end if;
  revoke all on
    ops.kpis,
    ops.failed_audits,
    public.v_ops_kpi_latest,
    public.v_ops_kpi_daily,
    public.v_ops_hook_effectiveness,
    public.v_ops_hook_teams,
    public.v_ops_hook_policies,
    public.v_ops_blocked_patterns,
    public.v_ops_slsa_audit_kpi,
    public.v_ops_slsa_audit_failures,
    public.v_ops_slo_status,
    public.v_ops_slo_history,
    public.v_ops_error_budget_burndown,
    public.v_ops_alerts,
    public.v_ops_alert_deliveries,
    public.v_ops_alert_silences,
    public.v_ops_job_runs
  from anon, authenticated, service_role;
  grant select on
    ops.kpis,
    ops.failed_audits,
    public.v_ops_kpi_latest,
    public.v_ops_kpi_daily,
    public.v_ops_hook_effectiveness,
    public.v_ops_hook_teams,
    public.v_ops_hook_policies,
    public.v_ops_blocked_patterns,
    public.v_ops_slsa_audit_kpi,
    public.v_ops_slsa_audit_failures,
    public.v_ops_slo_status,
    public.v_ops_slo_history,
    public.v_ops_error_budget_burndown,
    public.v_ops_alerts,
    public.v_ops_alert_deliveries,
    public.v_ops_alert_silences
  to authenticated, service_role;
  grant select on public.v_ops_job_runs to service_role;
end;
$$;

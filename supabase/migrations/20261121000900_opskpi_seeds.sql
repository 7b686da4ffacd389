-- What production needs from the first day; rows that a user has changed stay as they are.

insert into ops.settings (name, value, description)
values
  ('time_zone', 'UTC', 'Time zone in which days, weeks and months begin. After a change: opskpi rebuild over all time.'),
  ('refresh_interval', '5 minutes', 'How often the jobs are meant to run; an SLO is stale after two of these without a run.'),
  ('job_runs_kept', '30 days', 'How long the journal of the jobs is kept.')
on conflict do nothing;

insert into ops.event_types (event_type, description, label_keys, value_key, value_unit, fields)
values
  (
    'hook_execution', 'A git hook ran.', '{hook_type,result,team}', 'duration_ms', 'ms',
    '{"agent_id": {"type": "uuid", "required": true},
      "org_id": {"type": "uuid", "required": true},
      "hook_type": {"type": "text", "required": true},
      "result": {"type": "text", "required": true, "one_of": ["blocked", "allowed", "overridden"]},
      "findings_summary": {"type": "object", "required": true},
      "duration_ms": {"type": "number", "required": true},
      "user_actions": {"type": "array"},
      "override_reason": {"type": "text"}}'
  ),
  (
    'hook_baseline', 'A finding was accepted into the baseline.', '{hook_type,source,reviewed}', null, null,
    '{"agent_id": {"type": "uuid", "required": true},
      "org_id": {"type": "uuid", "required": true},
      "baseline_entry": {"type": "object", "required": true, "keys": ["file", "line", "pattern", "reason", "date"]},
      "source": {"type": "text", "required": true},
      "hook_type": {"type": "text", "required": true},
      "reviewed": {"type": "boolean", "required": true}}'
  ),
  (
    'hook_override', 'A developer went on in spite of findings.', '{hook_type,severity}', 'findings_count', 'count',
    '{"agent_id": {"type": "uuid", "required": true},
      "org_id": {"type": "uuid", "required": true},
      "hook_type": {"type": "text", "required": true},
      "override_reason": {"type": "text", "required": true},
      "findings_count": {"type": "number", "required": true},
      "severity": {"type": "text", "required": true}}'
  ),
  (
    'audit_complete', 'An audit came to its end.', '{outcome}', null, null,
    '{"outcome": {"type": "text", "one_of": ["success", "failure", "cancelled", "skipped"]}}'
  ),
  (
    'slsa_provenance', 'A run made SLSA provenance.', '{outcome,workflow}', 'duration_ms', 'ms',
    '{"outcome": {"type": "text", "required": true, "one_of": ["success", "failure", "cancelled", "skipped"]},
      "workflow": {"type": "text"},
      "duration_ms": {"type": "number"}}'
  ),
  (
    'provenance_validate', 'A run validated provenance.', '{outcome,workflow}', 'duration_ms', 'ms',
    '{"outcome": {"type": "text", "required": true, "one_of": ["success", "failure", "cancelled", "skipped"]},
      "workflow": {"type": "text"},
      "duration_ms": {"type": "number"}}'
  ),
  (
    'audit_observer', 'A run of the audit observer.', '{outcome,workflow}', 'duration_ms', 'ms',
    '{"outcome": {"type": "text", "required": true, "one_of": ["success", "failure", "cancelled", "skipped"]},
      "workflow": {"type": "text"},
      "duration_ms": {"type": "number"}}'
  ),
  (
    'workflow_run', 'A CI workflow ran.', '{outcome,workflow}', 'duration_ms', 'ms',
    '{"outcome": {"type": "text", "required": true, "one_of": ["success", "failure", "cancelled", "skipped"]},
      "workflow": {"type": "text", "required": true},
      "duration_ms": {"type": "number"}}'
  ),
  (
    'artifact', 'An artifact was made.', '{kind}', 'size_bytes', 'bytes',
    '{"size_bytes": {"type": "number", "required": true},
      "kind": {"type": "text"}}'
  ),
  (
    'api_request', 'A request to an API was made.', '{outcome,endpoint}', 'duration_ms', 'ms',
    '{"outcome": {"type": "text", "required": true, "one_of": ["success", "failure", "cancelled", "skipped"]},
      "duration_ms": {"type": "number", "required": true},
      "endpoint": {"type": "text"}}'
  )
on conflict do nothing;

insert into ops.kpi_definitions (metric_name, description, unit, measure, event_type, numerator, denominator, percentile, breakdowns)
values
  (
    'provenance_success_rate', 'Provenance runs that succeeded, of those that ended in success or failure.',
    'percent', 'ratio', 'slsa_provenance', '{"outcome": ["success"]}', '{"outcome": ["success", "failure"]}', null, '{}'
  ),
  (
    'provenance_failure_rate', 'Provenance runs that failed, of those that ended in success or failure.',
    'percent', 'ratio', 'slsa_provenance', '{"outcome": ["failure"]}', '{"outcome": ["success", "failure"]}', null, '{}'
  ),
  (
    'provenance_avg_duration_ms', 'Average duration of provenance runs.',
    'ms', 'average', 'slsa_provenance', '{}', '{}', null, '{}'
  ),
  (
    'provenance_p95_duration_ms', '95th percentile of the duration of provenance runs.',
    'ms', 'percentile', 'slsa_provenance', '{}', '{}', 0.95, '{}'
  ),
  (
    'provenance_validation_rate', 'Audits whose validation succeeded, of those whose provenance did.',
    'percent', 'ratio', 'slsa_audit_metrics', '{"validation_status": ["success"]}', '{"provenance_status": ["success"]}', null, '{}'
  ),
  (
    'audit_success_rate', 'Audits whose provenance and validation both succeeded, of all audits.',
    'percent', 'ratio', 'slsa_audit_metrics', '{"provenance_status": ["success"], "validation_status": ["success"]}', '{}', null, '{}'
  ),
  (
    'sha256_verification_rate', 'Audits with a verified SHA-256, of all audits.',
    'percent', 'ratio', 'slsa_audit_metrics', '{"sha256_verified": ["true"]}', '{}', null, '{}'
  ),
  (
    'predicate_type_verification_rate', 'Audits with a verified predicate type, of all audits.',
    'percent', 'ratio', 'slsa_audit_metrics', '{"predicate_type_verified": ["true"]}', '{}', null, '{}'
  ),
  (
    'supabase_sync_rate', 'Audits whose provenance and validation were both found in the database, of all audits.',
    'percent', 'ratio', 'slsa_audit_metrics', '{"supabase_provenance_synced": ["true"], "supabase_validation_synced": ["true"]}', '{}', null, '{}'
  ),
  (
    'workflow_run_avg_duration_ms', 'Average duration of workflow runs.',
    'ms', 'average', 'workflow_run', '{}', '{}', null, '{}'
  ),
  (
    'workflow_run_p95_duration_ms', '95th percentile of the duration of workflow runs.',
    'ms', 'percentile', 'workflow_run', '{}', '{}', 0.95, '{}'
  ),
  (
    'artifact_avg_size_bytes', 'Average size of artifacts.',
    'bytes', 'average', 'artifact', '{}', '{}', null, '{}'
  ),
  (
    'api_avg_response_ms', 'Average response time of API requests.',
    'ms', 'average', 'api_request', '{}', '{}', null, '{}'
  ),
  (
    'api_p95_response_ms', '95th percentile of the response time of API requests.',
    'ms', 'percentile', 'api_request', '{}', '{}', 0.95, '{}'
  ),
  (
    'error_rate', 'Failures, of all events of any type that ended in success or failure.',
    'percent', 'ratio', null, '{"outcome": ["failure"]}', '{"outcome": ["success", "failure"]}', null, '{}'
  ),
  (
    'hook_executions_total', 'Hook executions.',
    'count', 'count', 'hook_execution', '{}', '{}', null, '{team,hook_type}'
  ),
  (
    'hook_block_rate', 'Hook executions that blocked, of all.',
    'percent', 'ratio', 'hook_execution', '{"result": ["blocked"]}', '{}', null, '{team,hook_type}'
  ),
  (
    'hook_override_rate', 'Hook executions that were overridden, of all.',
    'percent', 'ratio', 'hook_execution', '{"result": ["overridden"]}', '{}', null, '{team,hook_type}'
  ),
  (
    'hook_avg_duration_ms', 'Average duration of hook executions.',
    'ms', 'average', 'hook_execution', '{}', '{}', null, '{team,hook_type}'
  ),
  (
    'hook_p95_duration_ms', '95th percentile of the duration of hook executions.',
    'ms', 'percentile', 'hook_execution', '{}', '{}', 0.95, '{team,hook_type}'
  )
on conflict do nothing;

insert into ops.slos (slo_name, service, objective, description, event_type, target, threshold_ms)
values
  ('provenance_generation_availability', 'provenance_generation', 'availability', '99.9 % of releases get their provenance in the end.', 'slsa_provenance', 0.999, null),
  ('provenance_generation_latency', 'provenance_generation', 'latency', 'P95 of successful provenance runs is under 5 minutes.', 'slsa_provenance', 0.95, 300000),
  ('provenance_generation_error_rate', 'provenance_generation', 'error_rate', 'Under 1 % of provenance runs fail.', 'slsa_provenance', 0.99, null),
  ('provenance_validation_availability', 'provenance_validation', 'availability', '99.9 % of releases are validated in the end.', 'provenance_validate', 0.999, null),
  ('provenance_validation_latency', 'provenance_validation', 'latency', 'P95 of successful validation runs is under 2 minutes.', 'provenance_validate', 0.95, 120000),
  ('provenance_validation_error_rate', 'provenance_validation', 'error_rate', 'Under 0.5 % of validation runs fail.', 'provenance_validate', 0.995, null),
  ('audit_observer_availability', 'audit_observer', 'availability', '99.5 % of releases are audited in the end.', 'audit_observer', 0.995, null),
  ('audit_observer_latency', 'audit_observer', 'latency', 'P95 of successful audit runs is under 3 minutes.', 'audit_observer', 0.95, 180000),
  ('audit_observer_error_rate', 'audit_observer', 'error_rate', 'Under 2 % of audit runs fail.', 'audit_observer', 0.98, null)
on conflict do nothing;

insert into ops.cursors (name) values ('telemetry_events') on conflict do nothing;

-- Audits that were there before us are counted by the first refresh.
insert into ops.audit_changes (org_id, audited_at)
select audit.org_id, audit.audit_timestamp
from public.slsa_audit_metrics as audit;

select ops.maintain();

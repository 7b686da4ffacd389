-- KPI definitions as they ship.

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
    'hook_block_rate', 'Hook executions that blocked, of those that decided (allowed, blocked, overridden).',
    'percent', 'ratio', 'hook_execution', '{"result": ["blocked"]}', '{"result": ["allowed", "blocked", "overridden"]}', null, '{team,hook_type}'
  ),
  (
    'hook_override_rate', 'Hook executions that were overridden, of those that decided (allowed, blocked, overridden).',
    'percent', 'ratio', 'hook_execution', '{"result": ["overridden"]}', '{"result": ["allowed", "blocked", "overridden"]}', null, '{team,hook_type}'
  ),
  (
    'hook_avg_duration_ms', 'Average duration of hook executions.',
    'ms', 'average', 'hook_execution', '{}', '{}', null, '{team,hook_type}'
  ),
  (
    'hook_p95_duration_ms', '95th percentile of the duration of hook executions.',
    'ms', 'percentile', 'hook_execution', '{}', '{}', 0.95, '{team,hook_type}'
  );

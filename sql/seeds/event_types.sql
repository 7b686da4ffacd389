-- Event types as they ship: labels, value, and the fields that ingest_events asks for.

insert into ops.event_types (event_type, description, label_keys, value_key, value_unit, fields)
values
  (
    'hook_execution', 'A git hook ran.', '{hook_type,result,team,policy_version}', 'duration_ms', 'ms',
    '{"agent_id": {"type": "uuid", "required": true},
      "org_id": {"type": "uuid", "required": true},
      "hook_type": {"type": "text", "required": true},
      "result": {"type": "text", "required": true, "one_of": ["blocked", "allowed", "overridden", "interrupted", "failed"]},
      "findings_summary": {"type": "object", "required": true},
      "duration_ms": {"type": "number", "required": true},
      "override_reason": {"type": "text"},
      "user_actions": {"type": "array"},
      "policy_version": {"type": "number"}}'
  ),
  (
    'hook_baseline', 'A finding was accepted into the baseline.', '{hook_type,source,reviewed,policy_version}', null, null,
    '{"agent_id": {"type": "uuid", "required": true},
      "org_id": {"type": "uuid", "required": true},
      "hook_type": {"type": "text", "required": true},
      "baseline_entry": {"type": "object", "required": true, "keys": ["file", "line", "pattern", "reason", "date"]},
      "source": {"type": "text", "required": true},
      "reviewed": {"type": "boolean", "required": true},
      "policy_version": {"type": "number"}}'
  ),
  (
    'hook_override', 'A developer went on in spite of findings.', '{hook_type,severity,policy_version}', 'findings_count', 'count',
    '{"agent_id": {"type": "uuid", "required": true},
      "org_id": {"type": "uuid", "required": true},
      "hook_type": {"type": "text", "required": true},
      "override_reason": {"type": "text", "required": true},
      "findings_count": {"type": "number", "required": true},
      "severity": {"type": "text", "required": true},
      "policy_version": {"type": "number"}}'
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
    'workflow_job', 'A job of a CI workflow ran; its run is a workflow_run of its own.', '{conclusion,workflow}', 'duration_ms', 'ms',
    '{"workflow": {"type": "text", "required": true},
      "duration_ms": {"type": "number"},
      "conclusion": {"type": "text", "required": true},
      "job": {"type": "text", "required": true}}'
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
  );

-- Objectives as they ship, on a rolling 30 days; their SLIs and first versions follow from triggers.

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
  ('audit_observer_error_rate', 'audit_observer', 'error_rate', 'Under 2 % of audit runs fail.', 'audit_observer', 0.98, null);

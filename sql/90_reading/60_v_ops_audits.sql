-- Audits for analysts.

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

-- Who may do what: everything is taken from everybody, then given back by this list. sql/ is applied to an empty database,
-- so "all" means what stands above; the roles are Supabase's, which opskpi migrate makes on a plain Postgres.

revoke all on schema ops from public, anon, authenticated, service_role;
revoke all on all tables in schema public, ops from public, anon, authenticated, service_role;
revoke all on all sequences in schema public, ops from public, anon, authenticated, service_role;
revoke execute on all functions in schema public, ops from public, anon, authenticated, service_role;

-- Reading. Row level security decides which rows; what only service_role may read tells of all tenants.
grant usage on schema ops to authenticated, service_role;
grant select on
  ops.settings,
  ops.bound_logins,
  ops.event_types,
  ops.agents,
  ops.removed_events,
  public.telemetry_events,
  ops.collections,
  ops.kpi_definitions,
  ops.series,
  ops.rollups,
  ops.removed_periods,
  ops.countable_events,
  ops.histogram_groups,
  ops.labelled_events,
  ops.histograms,
  ops.blocked_patterns,
  ops.blocked_pattern_parts,
  public.kpi_aggregations,
  public.slsa_audit_metrics,
  ops.audit_changes,
  ops.labelled_audits,
  ops.slis,
  ops.services,
  ops.slos,
  ops.slo_versions,
  ops.slo_exclusions,
  ops.excluded_times,
  ops.work_units,
  ops.sli_counts,
  ops.sli_days,
  ops.slo_counts,
  ops.attempts,
  ops.alert_rules,
  ops.alerts,
  ops.alert_evaluations,
  ops.alert_silences,
  ops.alert_deliveries,
  ops.policies,
  ops.hook_days,
  ops.retention_rules,
  ops.anonymisation_rules,
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
  ops.rollup_parts,
  ops.histogram_parts
to authenticated, service_role;
grant select on ops.request_counts to authenticated;
grant select on ops.cursors to service_role;
-- Not who held up the cursor, nor which ids were drawn since: that is of all tenants.
grant select (name, last_id, moved_at) on ops.cursors to authenticated;
grant select on ops.key_requests to authenticated;
-- Not the reason, which is an error of the server.
grant select (org_id, id, event_id, event_type, event_timestamp, set_aside_at) on ops.uncountable_events to authenticated;
grant select on
  ops.job_runs,
  ops.uncountable_events,
  ops.alert_channels,
  ops.alert_groups,
  ops.request_counts,
  ops.key_requests,
  ops.anonymisations,
  public.v_ops_job_runs,
  ops.summaries
to service_role;

-- Writing. Beside service_role, only what the functions below need when they work as their caller.
grant insert on public.telemetry_events, ops.audit_changes to service_role;
grant select, insert on ops.collected_events to authenticated, service_role;
grant insert, update on public.slsa_audit_metrics to service_role;
grant insert, update on ops.request_counts to authenticated;
grant insert (org_id, token_id, requested_at) on ops.key_requests to authenticated;
-- Whether the jobs run concerns every user; how many events of all orgs they counted, and why one failed, does not.
grant select (job, started_at, finished_at, outcome) on ops.job_runs to authenticated;
-- ops is no exposed schema: only the rules that ingest_events applies come here, as its caller.
grant insert (org_id, agent_id, team) on ops.agents to authenticated, service_role;
-- Not id, which the cursor trusts, nor created_at.
grant insert (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id)
  on public.telemetry_events to authenticated;
grant usage on sequence public.telemetry_events_id_seq to authenticated, service_role;
grant usage on sequence public.slsa_audit_metrics_id_seq to service_role;
grant insert (org_id, version, policy, created_by) on ops.policies to authenticated, service_role;
-- silence_own_alerts works as its caller; ops is no exposed schema.
grant insert (matcher, starts_at, until, reason, author, only_org_id) on ops.alert_silences to authenticated;

-- Calling. ingest_events, collect_events and the anonymisation of incoming events work as their caller, so their parts are here too.
grant execute on function
  ops.setting,
  ops.refresh_interval,
  ops.time_zone,
  ops.bound_org_id,
  ops.current_org_id,
  ops.caller_may,
  ops.org_for,
  ops.period_start,
  ops.period_end,
  ops.event_limits,
  ops.field_rules,
  ops.metadata_shape,
  ops.period_window,
  ops.kept_kpis,
  ops.filtered_sums,
  ops.kpi_parts,
  ops.kpi_quantiles,
  ops.window_sums,
  ops.kpi_window,
  ops.kpi_gauges,
  ops.job_health,
  ops.events_waiting,
  ops.slo_gauges,
  ops.alert_gauges,
  ops.scrape,
  ops.activity,
  ops.team_compliance,
  ops.top_patterns,
  ops.slo_burn_rates,
  ops.newest_losses,
  ops.newest_burners,
  ops.filter_choices,
  ops.freshness,
  ops.change_marker,
  ops.hmac_pads,
  ops.hmac_sha256,
  ops.anonymisation_pads,
  ops.required_pads,
  ops.sealed_uuid,
  ops.is_pseudonym,
  ops.agent_pseudonym,
  ops.ingesting_caller,
  ops.leave_to_check,
  ops.metadata_fault,
  ops.check_events,
  ops.readable_events,
  ops.batch_spread,
  ops.admit_batch,
  ops.store_valid_events,
  public.ingest_events,
  ops.collect_events,
  ops.known_events,
  ops.count_events,
  ops.kept_spans,
  ops.rollup_deltas,
  ops.cursor_id,
  ops.histogram_deltas,
  ops.merged_histograms,
  ops.merge_histogram,
  ops.histogram_quantile,
  ops.count_patterns,
  ops.kpi_groups,
  ops.kpi_figures,
  ops.measured_value,
  ops.changed_spans,
  ops.span_rollups,
  ops.changed_sums,
  ops.changed_ratios,
  ops.changed_percentiles,
  ops.count_audits_between,
  ops.count_audit_changes,
  ops.unaudited_provenance_runs,
  ops.count_attempts,
  ops.count_units,
  ops.changed_units,
  ops.unit_slis,
  ops.alert_factor,
  ops.highest_burn_rate,
  ops.burn_rate,
  ops.budget_left,
  ops.allowed_losses,
  ops.loss_reason,
  ops.time_to_exhaustion,
  ops.budget_slices,
  ops.detection_time,
  ops.events_to_judge,
  ops.is_overspent,
  ops.in_hours,
  ops.slo_window_start,
  ops.slo_window_length,
  ops.is_burning,
  ops.counted_spans,
  ops.changed_counts,
  ops.slice_counts,
  ops.slo_windows,
  ops.burn_windows,
  ops.measured_slos,
  ops.fresh_slis,
  ops.orgs_with_objectives,
  ops.last_counts,
  ops.slo_status,
  ops.status_rank,
  ops.last_refresh_at,
  ops.sum_slos,
  ops.evaluate_slos,
  ops.daily_slos,
  ops.slo_history,
  ops.slo_burndown,
  ops.slo_account,
  ops.account_counts,
  ops.stored_losses,
  ops.account_losses,
  ops.explain_slo,
  ops.fresh_kpis,
  ops.readable,
  ops.needs_notification,
  ops.caller_org,
  ops.caller_has_scope,
  ops.policy_version,
  public.current_policy,
  public.set_policy,
  ops.token_id,
  ops.senders,
  public.hook_metrics,
  ops.counted_places,
  ops.generalised,
  ops.generalised_number,
  ops.is_anonymised,
  ops.hashed,
  ops.anonymised_parts,
  ops.neutral_value,
  ops.anonymised_value,
  ops.with_edits,
  ops.pseudonyms,
  ops.add_pseudonyms,
  ops.rules_of_places,
  ops.anonymised_events,
  ops.anonymise_incoming,
  ops.cast_anonymised,
  ops.check_anonymised,
  ops.anonymous_senders
to authenticated, service_role;
grant execute on function
  public.record_audit,
  ops.observe_audit
to service_role;
grant execute on function
  ops.count_request,
  ops.count_key_request,
  ops.refuse_request,
  ops.silence_alerts,
  public.silence_own_alerts
to authenticated;

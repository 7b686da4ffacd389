"""The dashboard of the supply chain: provenance, its audits, workflows and artifacts."""

from opskpi.grafana.overview import COUNTED, DAY
from opskpi.grafana.parts import Choice, Dashboard, Panel
from opskpi.grafana.variables import org, workflow

PANELS = (
    Panel(
        title="Audits in this time",
        kind="stat",
        sql="select coalesce(sum(total_audits), 0)::bigint as audits,"
        " 100 * sum(success_count) / nullif(sum(total_audits), 0) as success_rate,"
        " 100 * sum(sha256_verified_count) / nullif(sum(total_audits), 0) as sha256_verified,"
        " 100 * sum(predicate_type_verified_count) / nullif(sum(total_audits), 0) as predicate_type_verified"
        " from v_ops_slsa_audit_kpi where org_id = nullif('$org', '')::uuid and $__timeFilter(date)",
        says="Audits of SLSA provenance, and the shares that succeeded or verified digest and predicate type.",
        unit="count and percent",
        window="the days of the time range of the dashboard",
        samples="audits (count)",
        units={"success_rate": "percent", "sha256_verified": "percent", "predicate_type_verified": "percent"},
        width=24,
        height=5,
    ),
    Panel(
        title="Audits",
        kind="timeseries",
        format="time_series",
        sql="select date as time, success_count as success, failure_count as failure,"
        " total_audits - success_count - failure_count as neither from v_ops_slsa_audit_kpi"
        " where org_id = nullif('$org', '')::uuid and $__timeFilter(date) order by 1",
        says="Audits by how they ended; neither: skipped or unknown.",
        unit="audits (count)",
        window=DAY,
        samples="the audits themselves",
        colors={"success": "green", "failure": "red", "neither": "blue"},
        bars=True,
    ),
    Panel(
        title="Checks of audits",
        kind="timeseries",
        format="time_series",
        sql="select date as time, success_rate, sha256_verification_rate, predicate_type_verification_rate,"
        " supabase_provenance_sync_rate, supabase_validation_sync_rate from v_ops_slsa_audit_kpi"
        " where org_id = nullif('$org', '')::uuid and $__timeFilter(date) order by 1",
        says="Audits that succeeded, verified digest and predicate type, and found their runs in the database.",
        unit="percent",
        window=DAY,
        samples="audits of the day, in the panel beside",
        field_unit="percent",
    ),
    Panel(
        title="Provenance and validation",
        kind="timeseries",
        format="time_series",
        sql="select day_start as time, provenance_success_rate, provenance_failure_rate, provenance_validation_rate"
        " from v_ops_kpi_daily where org_id = nullif('$org', '')::uuid and $__timeFilter(day_start) order by 1",
        says="Provenance runs that succeeded and failed; audits whose validation succeeded, of those whose provenance"
        " did.",
        unit="percent",
        window=DAY,
        samples=f"runs that ended in success or failure, and audits; {COUNTED}",
        field_unit="percent",
    ),
    Panel(
        title="Duration of provenance and workflows",
        kind="timeseries",
        format="time_series",
        sql="select day_start as time, provenance_avg_duration_ms, provenance_p95_duration_ms,"
        " workflow_run_avg_duration_ms, workflow_run_p95_duration_ms from v_ops_kpi_daily"
        " where org_id = nullif('$org', '')::uuid and $__timeFilter(day_start) order by 1",
        says="Average and 95th percentile (within 1 %) of the duration of a run.",
        unit="ms",
        window=DAY,
        samples=f"runs that tell their duration; {COUNTED}",
        field_unit="ms",
    ),
    Panel(
        title="Size of artifacts",
        kind="timeseries",
        format="time_series",
        sql="select day_start as time, artifact_avg_size_bytes from v_ops_kpi_daily"
        " where org_id = nullif('$org', '')::uuid and $__timeFilter(day_start) order by 1",
        says="Average size of an artifact.",
        unit="bytes",
        window=DAY,
        samples=f"artifacts of the day; {COUNTED}",
        field_unit="bytes",
    ),
    Panel(
        title="By workflow, newest $period",
        kind="table",
        sql="select labels ->> 'workflow' as workflow, metric_name as kpi, metric_value as value, unit,"
        " sample_count as samples, period_start as since from v_ops_kpi_latest"
        " where org_id = nullif('$org', '')::uuid and aggregation_period = '$period' and labels ? 'workflow'"
        " and ('*' in ($workflow) or labels ->> 'workflow' in ($workflow)) order by 1, 2",
        says="Empty until a KPI is kept by workflow: update ops.kpi_definitions set breakdowns = '{workflow}'"
        " where metric_name = 'workflow_run_p95_duration_ms', then opskpi rebuild. No view has the history.",
        unit="as the column says (percent, ms, bytes or count)",
        window="the newest day, ISO week or month, as chosen",
        samples="column samples, runs (count)",
        field_unit="none",
    ),
    Panel(
        title="Failed audits",
        kind="table",
        sql="select audit_timestamp as time, tag, provenance_status, validation_status, sha256_verified,"
        " predicate_type_verified, builder_id, audit_run_id::text as audit_run, provenance_run_url, validation_run_url"
        " from v_ops_slsa_audit_failures where org_id = nullif('$org', '')::uuid and $__timeFilter(audit_timestamp)"
        " order by 1 desc",
        says="Audits whose provenance or validation failed, or whose digest or predicate type was not verified.",
        unit="one row an audit",
        window="the time range of the dashboard, of the newest 100 failures",
        samples="the audits themselves",
        field_unit="none",
        width=24,
        height=10,
    ),
)

DASHBOARD = Dashboard(
    uid="opskpi-supply-chain",
    title="opskpi: supply chain",
    description="Provenance, its audits, workflows and artifacts.",
    variables=(org, Choice("period", "Period", ("day", "week", "month")), workflow),
    panels=PANELS,
)

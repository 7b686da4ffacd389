"""The dashboard that tells in a minute how all stands."""

from opskpi.grafana.parts import Choice, Dashboard, Panel
from opskpi.grafana.variables import org

DAY = "one day, in the time zone of the settings; the newest day is still running"
COUNTED = "their number is in the table of KPIs, no view has it by day"

PANELS = (
    Panel(
        title="Objectives by status",
        kind="stat",
        sql="select count(*) filter (where status = 'breached') as breached,"
        " count(*) filter (where status = 'at_risk') as at_risk,"
        " count(*) filter (where status in ('insufficient', 'no_data')) as cannot_tell,"
        " count(*) filter (where status = 'ok') as ok, count(*) filter (where freshness = 'stale') as stale"
        " from v_ops_slo_status where org_id = nullif('$org', '')::uuid",
        says="How many objectives have which status now; cannot_tell: too few events, or none;"
        " stale: those among them whose counts are old, because the jobs stopped.",
        unit="objectives (count)",
        window="each objective's own, events of this moment included",
        samples="the dashboard of SLOs has those of each objective",
        colors={"breached": "red", "at_risk": "orange", "cannot_tell": "blue", "ok": "green", "stale": "purple"},
        width=12,
        height=5,
    ),
    Panel(
        title="Alerts firing",
        kind="stat",
        sql="select count(*) filter (where severity = 'page') as page,"
        " count(*) filter (where severity = 'ticket') as ticket,"
        " count(*) filter (where severity = 'notice') as notice"
        " from v_ops_alerts where org_id = nullif('$org', '')::uuid and state = 'firing'",
        says="Alerts that fire, by severity.",
        unit="alerts (count)",
        window="now, as of the last evaluation",
        samples="the alerts themselves, see the dashboard of alerts",
        steps=((None, "green"), (1, "red")),
        width=12,
        height=5,
    ),
    Panel(
        title="KPIs, newest $period",
        kind="table",
        sql="select metric_name as kpi, metric_value as value, unit, sample_count as samples, period_start as since,"
        " period_end as until, complete, description from v_ops_kpi_latest"
        " where org_id = nullif('$org', '')::uuid and aggregation_period = '$period' and labels = '{}' order by 1",
        says="The newest value of each KPI of the organisation as a whole.",
        unit="as the column says (percent, ms, bytes or count)",
        window="from since to until, not complete while it runs",
        samples="column samples, events or values (count)",
        field_unit="none",
        width=24,
        height=12,
    ),
    Panel(
        title="Error rate",
        kind="timeseries",
        format="time_series",
        sql="select day_start as time, error_rate from v_ops_kpi_daily"
        " where org_id = nullif('$org', '')::uuid and $__timeFilter(day_start) order by 1",
        says="Failures, of all events of any type that ended in success or failure.",
        unit="percent",
        window=DAY,
        samples=f"events that ended in success or failure; {COUNTED}",
        field_unit="percent",
    ),
    Panel(
        title="Success of provenance, validation and audits",
        kind="timeseries",
        format="time_series",
        sql="select day_start as time, provenance_success_rate, provenance_validation_rate, audit_success_rate"
        " from v_ops_kpi_daily where org_id = nullif('$org', '')::uuid and $__timeFilter(day_start) order by 1",
        says="Provenance runs that succeeded; audits whose validation succeeded, of those whose provenance did;"
        " audits with both.",
        unit="percent",
        window=DAY,
        samples=f"provenance runs and audits of the day; {COUNTED}",
        field_unit="percent",
    ),
    Panel(
        title="95th percentile of durations",
        kind="timeseries",
        format="time_series",
        sql="select day_start as time, provenance_p95_duration_ms, workflow_run_p95_duration_ms, api_p95_response_ms,"
        " hook_p95_duration_ms from v_ops_kpi_daily"
        " where org_id = nullif('$org', '')::uuid and $__timeFilter(day_start) order by 1",
        says="What 95 % of runs, requests and hooks did not exceed, within 1 %.",
        unit="ms",
        window=DAY,
        samples=f"runs, requests and hooks that tell their duration; {COUNTED}",
        field_unit="ms",
    ),
    Panel(
        title="Hook executions",
        kind="timeseries",
        format="time_series",
        sql="select day_start as time, hook_executions_total from v_ops_kpi_daily"
        " where org_id = nullif('$org', '')::uuid and $__timeFilter(day_start) order by 1",
        says="Executions of git hooks.",
        unit="executions (count)",
        window=DAY,
        samples="the executions themselves",
        bars=True,
    ),
)

DASHBOARD = Dashboard(
    uid="opskpi-overview",
    title="opskpi: overview",
    description="Objectives, alerts and KPIs at a glance.",
    variables=(org, Choice("period", "Period", ("day", "hour", "week", "month"))),
    panels=PANELS,
)

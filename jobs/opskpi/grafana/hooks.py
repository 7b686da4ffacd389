"""The dashboard of the git hooks: what they did, and how teams live with them."""

from opskpi.grafana.parts import Dashboard, Panel
from opskpi.grafana.variables import hook_type, org, period, team

PERIOD = "one day, ISO week or month, as chosen; the newest is still running"
EXECUTIONS = "executions, in the panel of executions"

PANELS = (
    Panel(
        title="Newest $period",
        kind="stat",
        sql="select executions, block_rate, override_rate, avg_duration_ms, p95_duration_ms"
        " from v_ops_hook_effectiveness where org_id = nullif('$org', '')::uuid and aggregation_period = '$period'"
        " order by period_start desc limit 1",
        says="Executions, shares that blocked and were overridden, average and 95th percentile of the duration.",
        unit="count, percent and ms",
        window=PERIOD,
        samples="executions",
        units={
            "block_rate": "percent",
            "override_rate": "percent",
            "avg_duration_ms": "ms",
            "p95_duration_ms": "ms",
        },
        width=24,
        height=5,
    ),
    Panel(
        title="Executions",
        kind="timeseries",
        format="time_series",
        sql="select period_start as time, executions from v_ops_hook_effectiveness"
        " where org_id = nullif('$org', '')::uuid and aggregation_period = '$period' and $__timeFilter(period_start)"
        " order by 1",
        says="Executions of git hooks.",
        unit="executions (count)",
        window=PERIOD,
        samples="the executions themselves",
        width=8,
        bars=True,
    ),
    Panel(
        title="Blocked and overridden",
        kind="timeseries",
        format="time_series",
        sql="select period_start as time, block_rate, override_rate from v_ops_hook_effectiveness"
        " where org_id = nullif('$org', '')::uuid and aggregation_period = '$period' and $__timeFilter(period_start)"
        " order by 1",
        says="Executions that blocked, and that were overridden, of those that decided.",
        unit="percent",
        window=PERIOD,
        samples=EXECUTIONS,
        field_unit="percent",
        width=8,
    ),
    Panel(
        title="Duration",
        kind="timeseries",
        format="time_series",
        sql="select period_start as time, avg_duration_ms, p95_duration_ms from v_ops_hook_effectiveness"
        " where org_id = nullif('$org', '')::uuid and aggregation_period = '$period' and $__timeFilter(period_start)"
        " order by 1",
        says="Average and 95th percentile (within 1 %) of the duration of an execution.",
        unit="ms",
        window=PERIOD,
        samples=EXECUTIONS,
        field_unit="ms",
        width=8,
    ),
    Panel(
        title="Compliance by team",
        kind="timeseries",
        format="time_series",
        sql="select period_start as time, team as metric, compliance_rate as value from v_ops_hook_teams"
        " where org_id = nullif('$org', '')::uuid and aggregation_period = '$period' and $__timeFilter(period_start)"
        " and ('*' in ($team) or team in ($team)) order by 1, 2",
        says="Executions of the team that were not overridden, of those that decided.",
        unit="percent",
        window=PERIOD,
        samples="executions of the team, in the table beside",
        field_unit="percent",
    ),
    Panel(
        title="Teams",
        kind="table",
        sql="select period_start as since, team, executions, block_rate, override_rate, compliance_rate,"
        " compliance_change, avg_duration_ms, p95_duration_ms from v_ops_hook_teams"
        " where org_id = nullif('$org', '')::uuid and aggregation_period = '$period' and $__timeFilter(period_start)"
        " and ('*' in ($team) or team in ($team)) order by 1 desc, 2 limit 1000",
        says="What the hooks did in each team; compliance_change is against the period before.",
        unit="count, percent, percentage points (compliance_change) and ms",
        window=PERIOD,
        samples="column executions (count)",
        units={
            "block_rate": "percent",
            "override_rate": "percent",
            "compliance_rate": "percent",
            "avg_duration_ms": "ms",
            "p95_duration_ms": "ms",
        },
    ),
    Panel(
        title="What blocks",
        kind="table",
        sql="select pattern, hook_type, blocked_count, period_start as since from v_ops_blocked_patterns"
        " where org_id = nullif('$org', '')::uuid and aggregation_period = '$period' and $__timeFilter(period_start)"
        " and ('*' in ($hook_type) or hook_type in ($hook_type)) order by blocked_count desc, 1, 2, 4 desc limit 100",
        says="The 100 patterns and periods with the most blocked executions; no view has them by team.",
        unit="executions (count)",
        window=PERIOD,
        samples="column blocked_count (count)",
    ),
    Panel(
        title="By hook type, newest $period",
        kind="table",
        sql="select labels ->> 'hook_type' as hook_type, metric_name as kpi, metric_value as value, unit,"
        " sample_count as samples, period_start as since from v_ops_kpi_latest"
        " where org_id = nullif('$org', '')::uuid and aggregation_period = '$period' and labels ? 'hook_type'"
        " and ('*' in ($hook_type) or labels ->> 'hook_type' in ($hook_type)) order by 1, 2",
        says="The newest KPIs of each hook type; no view has their history.",
        unit="as the column says (percent, ms or count)",
        window=PERIOD,
        samples="column samples, executions (count)",
        field_unit="none",
    ),
    Panel(
        title="Versions of the hook policy",
        kind="table",
        sql="select policy_version, set_at, first_day_start, last_day_start, executions, block_rate, override_rate,"
        " baseline_rate from v_ops_hook_policies where org_id = nullif('$org', '')::uuid order by 1 desc nulls last",
        says="What the hooks did under each version; 0 is the default, none: the events name none.",
        unit="count and percent; baseline_rate per 100 executions",
        window="from the first to the last day with events under the version",
        samples="column executions (count)",
        units={"block_rate": "percent", "override_rate": "percent", "baseline_rate": "percent"},
        width=24,
        height=6,
    ),
)

DASHBOARD = Dashboard(
    uid="opskpi-hooks",
    title="opskpi: hooks",
    description="What the git hooks did, and how teams live with them.",
    variables=(org, period, team, hook_type),
    panels=PANELS,
)

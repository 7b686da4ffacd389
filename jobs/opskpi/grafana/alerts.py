"""The dashboard of the alerts: what fires, what fired, and whether it was delivered."""

from opskpi.grafana.parts import Dashboard, Panel
from opskpi.grafana.variables import org

NOW = "now, as of the last evaluation"
RANGE = "the time range of the dashboard"

PANELS = (
    Panel(
        title="Open alerts",
        kind="stat",
        sql="select count(*) filter (where state = 'firing' and severity = 'page') as page_firing,"
        " count(*) filter (where state = 'firing' and severity = 'ticket') as ticket_firing,"
        " count(*) filter (where state = 'firing' and severity = 'notice') as notice_firing,"
        " count(*) filter (where state = 'pending') as pending"
        " from v_ops_alerts where org_id = nullif('$org', '')::uuid",
        says="Alerts that fire, by severity, and those that may fire soon.",
        unit="alerts (count)",
        window=NOW,
        samples="the alerts themselves, in the table below",
        steps=((None, "green"), (1, "red")),
        colors={"pending": "blue"},
        height=5,
    ),
    Panel(
        title="Messages",
        kind="stat",
        sql="select count(*) filter (where state in ('queued', 'sending')) as waiting,"
        " count(*) filter (where state = 'delivered') as delivered, count(*) filter (where state = 'dead') as dead"
        " from v_ops_alert_deliveries where org_id = nullif('$org', '')::uuid and $__timeFilter(created_at)",
        says="Messages for channels; a dead one waits for opskpi alert retry.",
        unit="messages (count)",
        window=RANGE,
        samples="the messages themselves, in the table below",
        colors={"waiting": "blue", "delivered": "green", "dead": "red"},
        height=5,
    ),
    Panel(
        title="Firing and pending",
        kind="table",
        sql="select severity, state, rule_name as rule, subject,"
        ' ops.group_name(slo_group) as "group", service,'
        " pending_since, firing_since, is_frozen,"
        " description, detail::text as detail from v_ops_alerts where org_id = nullif('$org', '')::uuid"
        " and state in ('firing', 'pending') order by firing_since nulls last, pending_since, alert_id",
        says="What needs somebody now; frozen: the last evaluation could not tell, so the state stays.",
        unit="one row an alert",
        window=NOW,
        samples="figures of the alert, in column detail",
        field_unit="none",
        width=24,
    ),
    Panel(
        title="How long alerts fired",
        kind="timeseries",
        format="time_series",
        sql="select firing_since as time,"
        " concat_ws(' ', rule_name || ':', subject, ops.group_name(slo_group)) as metric,"
        " extract(epoch from coalesce(resolved_at, now()) - firing_since) as value from v_ops_alerts"
        " where org_id = nullif('$org', '')::uuid and firing_since is not null and $__timeFilter(firing_since)"
        " order by 1, 2",
        says="Each alert at the time it began to fire, as high as it fired long; one that fires still, until now.",
        unit="seconds",
        window=RANGE,
        samples="one alert a bar",
        field_unit="s",
        bars=True,
    ),
    Panel(
        title="All alerts",
        kind="table",
        sql="select pending_since, severity, state, rule_name as rule, subject,"
        ' ops.group_name(slo_group) as "group", firing_since, resolved_at from'
        " v_ops_alerts where org_id = nullif('$org', '')::uuid and $__timeFilter(pending_since)"
        " order by 1 desc, alert_id desc limit 1000",
        says="Alerts that began in this time, over or not.",
        unit="one row an alert",
        window=RANGE,
        samples="the alerts themselves, 1,000 at most",
        field_unit="none",
    ),
    Panel(
        title="Deliveries",
        kind="table",
        sql="select created_at, channel_name as channel, group_key as about, status, state, attempts, next_attempt_at,"
        " settled_at, last_error from v_ops_alert_deliveries where org_id = nullif('$org', '')::uuid"
        " and $__timeFilter(created_at) order by 1 desc, delivery_id desc limit 1000",
        says="What was said where, and why it could not be.",
        unit="one row a message; attempts (count)",
        window=RANGE,
        samples="the messages themselves, 1,000 at most",
        field_unit="none",
        width=24,
    ),
)

DASHBOARD = Dashboard(
    uid="opskpi-alerts",
    title="opskpi: alerts",
    description="What fires, what fired, and whether it was delivered.",
    variables=(org,),
    panels=PANELS,
)

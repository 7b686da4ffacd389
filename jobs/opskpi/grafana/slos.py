"""The dashboard of the objectives: status, budget, burn rates and their history."""

from opskpi.grafana.parts import BUDGET_STEPS, Dashboard, Panel
from opskpi.grafana.variables import group, org, slo

WINDOW = "each objective's own, events of this moment included"
TOTALS = "column total of the table of objectives (count of events, or of time slices)"

PANELS = (
    Panel(
        title="Objectives",
        kind="table",
        sql='select slo_name as slo, ops.group_name(slo_group) as "group", service, objective, status,'
        " freshness, stale_since, sli, target, budget_left, good, total, events_needed,"
        " extract(epoch from time_to_exhaustion) as exhausted_in, window_start as since from v_ops_slo_status"
        " where org_id = nullif('$org', '')::uuid and ('*' in ($slo) or slo_name in ($slo))"
        " and ('*' in ($group) or coalesce(ops.group_name(slo_group), '') in ($group)) order by 1, 2",
        says="How each objective stands. insufficient: too few events to judge, events_needed says how many more;"
        " stale: the jobs have counted nothing since stale_since; exhausted_in: how long the budget lasts at the burn"
        " rate of the last day.",
        unit="shares (0 to 1 shown as percent), counts, and seconds",
        window=WINDOW,
        samples="columns good and total (count of events, or of time slices)",
        units={"sli": "percentunit", "target": "percentunit", "budget_left": "percentunit", "exhausted_in": "s"},
        statuses=("status", "freshness"),
        width=24,
        height=10,
    ),
    Panel(
        title="Error budget left",
        kind="bargauge",
        sql="select concat_ws(' ', slo_name, ops.group_name(slo_group)) as slo, budget_left from v_ops_slo_status"
        " where org_id = nullif('$org', '')::uuid and ('*' in ($slo) or slo_name in ($slo))"
        " and ('*' in ($group) or coalesce(ops.group_name(slo_group), '') in ($group))"
        " and budget_left is not null order by budget_left, 1 limit 100",
        says="Share of the error budget that is left, negative when overspent, of the 100 that have least;"
        " orange: less than a quarter, red: none.",
        unit="share of the budget (1 is 100 %)",
        window=WINDOW,
        samples=TOTALS,
        field_unit="percentunit",
        steps=BUDGET_STEPS,
    ),
    Panel(
        title="Burn rates",
        kind="table",
        sql='select slo_name as slo, ops.group_name(slo_group) as "group", burn_rate_1h as "1h",'
        ' burn_rate_6h as "6h", burn_rate_1d as "1d",'
        ' burn_rate_3d as "3d" from v_ops_slo_status'
        " where org_id = nullif('$org', '')::uuid and ('*' in ($slo) or slo_name in ($slo))"
        " and ('*' in ($group) or coalesce(ops.group_name(slo_group), '') in ($group)) order by 1, 2",
        says="How fast the budget burns; at 1 it lasts exactly as long as the window. Empty: no events.",
        unit="ratio to the sustainable rate",
        window="the last hour, 6 hours, day and 3 days",
        samples=TOTALS,
        field_unit="none",
    ),
    Panel(
        title="Budget over the window",
        kind="timeseries",
        format="time_series",
        sql="select day_start as time, concat_ws(' ', slo_name, ops.group_name(slo_group)) as metric,"
        " budget_left as value from v_ops_error_budget_burndown"
        " where org_id = nullif('$org', '')::uuid and ('*' in ($slo) or slo_name in ($slo))"
        " and ('*' in ($group) or coalesce(ops.group_name(slo_group), '') in ($group))"
        " and $__timeFilter(day_start) order by 1, 2",
        says="What was left of the budget of the running window after each day, exclusions applied.",
        unit="share of the budget (1 is 100 %)",
        window="the running window of the objective, by day",
        samples="what the objective counted that day; its total is in the panel of good and bad",
        field_unit="percentunit",
        steps=BUDGET_STEPS,
    ),
    Panel(
        title="SLI by day",
        kind="timeseries",
        format="time_series",
        sql="select day_start as time, concat_ws(' ', slo_name, ops.group_name(slo_group),"
        " case when version > 1 then 'v' || version end) as metric,"
        " sli as value from v_ops_slo_history"
        " where org_id = nullif('$org', '')::uuid and ('*' in ($slo) or slo_name in ($slo))"
        " and ('*' in ($group) or coalesce(ops.group_name(slo_group), '') in ($group))"
        " and sli is not null and $__timeFilter(day_start) order by 1, 2",
        says="The share measured on each day, by the version of the objective that held then.",
        unit="share (1 is 100 %)",
        window="one day, in the time zone of the settings",
        samples="good and bad of that day, in the panel beside",
        field_unit="percentunit",
    ),
    Panel(
        title="Bad by day",
        kind="timeseries",
        format="time_series",
        sql="select day_start as time, concat_ws(' ', slo_name, ops.group_name(slo_group),"
        " case when version > 1 then 'v' || version end) as metric,"
        " total - good as value from v_ops_slo_history"
        " where org_id = nullif('$org', '')::uuid and ('*' in ($slo) or slo_name in ($slo))"
        " and ('*' in ($group) or coalesce(ops.group_name(slo_group), '') in ($group))"
        " and $__timeFilter(day_start) order by 1, 2",
        says="What was not good on each day.",
        unit="events, or time slices (count)",
        window="one day, in the time zone of the settings",
        samples="what the objective counted that day, in the table below",
        bars=True,
    ),
    Panel(
        title="Days",
        kind="table",
        sql='select day_start as day, slo_name as slo, ops.group_name(slo_group) as "group", version,'
        " sli, target, good, total, good_unadjusted,"
        " total_unadjusted from v_ops_slo_history"
        " where org_id = nullif('$org', '')::uuid and ('*' in ($slo) or slo_name in ($slo))"
        " and ('*' in ($group) or coalesce(ops.group_name(slo_group), '') in ($group))"
        " and $__timeFilter(day_start) order by 1 desc, 2, 3, 4 limit 1000",
        says="Every day of every objective; unadjusted: exclusions not applied.",
        unit="shares and counts",
        window="one day, in the time zone of the settings",
        samples="columns good and total (count of events, or of time slices)",
        units={"sli": "percentunit", "target": "percentunit"},
    ),
)

DASHBOARD = Dashboard(
    uid="opskpi-slo",
    title="opskpi: SLOs",
    description="Status, error budgets, burn rates and history of the objectives.",
    variables=(org, slo, group),
    panels=PANELS,
)

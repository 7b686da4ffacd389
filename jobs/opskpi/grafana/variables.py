"""The variables that dashboards share. Row level security leaves most logins one org, so its choice is hidden."""

from opskpi.grafana.parts import Choice, Query

org = Query(
    name="org",
    label="Organisation",
    # The view that has a row for whoever asks, before the first event too.
    sql="select distinct org_id::text from v_ops_slo_status order by 1",
    many=False,
    hidden=True,
)
period = Choice("period", "Period", ("day", "week", "month"))
team = Query(
    name="team",
    label="Team",
    sql="select distinct team from v_ops_hook_teams where org_id = nullif('$org', '')::uuid order by 1",
)
hook_type = Query(
    name="hook_type",
    label="Hook type",
    sql="select distinct hook_type from v_ops_blocked_patterns where org_id = nullif('$org', '')::uuid"
    " union select labels ->> 'hook_type' from v_ops_kpi_latest"
    " where org_id = nullif('$org', '')::uuid and labels ? 'hook_type' order by 1",
)
workflow = Query(
    name="workflow",
    label="Workflow",
    sql="select distinct labels ->> 'workflow' from v_ops_kpi_latest"
    " where org_id = nullif('$org', '')::uuid and labels ? 'workflow' order by 1",
)
slo = Query(
    name="slo",
    label="SLO",
    sql="select distinct slo_name from v_ops_slo_status where org_id = nullif('$org', '')::uuid order by 1",
)
group = Query(
    name="group",
    label="Group",
    sql="select distinct ops.group_name(slo_group) from v_ops_slo_status where org_id = nullif('$org', '')::uuid"
    " and ('*' in ($slo) or slo_name in ($slo)) and slo_group <> '{}' order by 1",
)

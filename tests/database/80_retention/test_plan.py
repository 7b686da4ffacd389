"""The plan: what a run would remove, in every time zone, and hours, KPIs and alerts with it."""

from typing import LiteralString

import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from opskpi.upkeep import retention
from support.events import (
    AS_OF,
    MONTHS,
    NIL,
    Connection,
    add_channel,
    add_event,
    add_row,
    add_rule,
    alerts,
    instant,
    rebuild,
    refresh,
    rows,
    run_jobs,
    scalar,
    states,
)
from support.retention import STORED, add_month, freed_by_a_run, keep, retain

pytestmark = pytest.mark.database


def test_a_dry_run_says_not_yet_only_of_the_types_that_have_uncounted_events(three_months):
    for kind in ("audit_observer", "slsa_provenance"):
        keep(three_months, "events", "100 days", kind)
    add_event(three_months, at="2026-01-20T00:00Z", outcome="failure", tag="late")
    planned = [(row.event_type, row.removed, row.obstacle is not None) for row in retention.plan(three_months, AS_OF)]
    assert planned == [("audit_observer", 2, False), ("slsa_provenance", 2, True)]
    assert [(row.event_type, row.removed) for row in retention.run(three_months, as_of=AS_OF).freed] == [
        ("audit_observer", 2),
        ("slsa_provenance", 2),
    ]


def test_hours_go_and_the_days_of_them_stay(three_months):
    days = "select * from ops.rollups where period <> 'hour' order by org_id, period, period_start, series_id"
    before = rows(three_months, days)
    keep(three_months, "hours", "120 days")
    planned = retention.plan(three_months, AS_OF)
    assert [(row.kept, row.name, row.until) for row in planned] == [("hours", "hour", instant("2026-02-01T00:00Z"))]
    assert freed_by_a_run(three_months) == planned
    assert rows(three_months, days) == before
    for table in ("rollups", "histograms", "blocked_patterns"):
        query = sql.SQL("select min(period_start) >= '2026-02-01Z' from ops.{} where period = 'hour'").format(
            sql.Identifier(table)
        )
        if table == "rollups":
            query += sql.SQL(" and series_id not in (select series_id from ops.series where event_type ~ '^slsa_a')")
        assert three_months.execute(query).fetchone() == (True,)
    assert scalar(
        three_months, "select min(period_start) from public.kpi_aggregations where aggregation_period = 'hour'"
    ) >= (instant("2026-02-01T00:00Z"))


def test_hours_go_stretch_by_stretch_and_each_is_whole(three_months):
    keep(three_months, "hours", "100 days")
    assert retain(three_months)[:2] == ("freed", "hour")
    tables: dict[str, LiteralString] = {
        "rollups": "select from ops.rollups join ops.series using (org_id, series_id) where period = 'hour'"
        " and event_type <> 'slsa_audit_metrics' and period_start < %s",
        "histograms": "select from ops.histograms where period = 'hour' and period_start < %s",
        "kpis": "select from public.kpi_aggregations where aggregation_period = 'hour' and period_start < %s",
    }
    edge = scalar(three_months, "select removed_until from ops.removed_periods")
    assert instant("2026-01-01T11:00Z") <= edge < instant("2026-01-28T00:00Z")
    assert [rows(three_months, query, edge) for query in tables.values()] == [[], [], []]
    assert all(rows(three_months, query, "2026-01-29Z") for query in tables.values())


def test_a_late_event_of_a_removed_hour_counts_in_its_day_only(three_months):
    keep(three_months, "hours", "100 days")
    freed_by_a_run(three_months)
    counts = "select period, sum(event_count) from ops.rollups join ops.series using (org_id, series_id)"
    counts += " where event_type = 'hook_execution' and period_start < '2026-02-01Z' group by 1 order by 1"
    assert rows(three_months, counts) == [("day", 1), ("month", 1), ("week", 1)]
    add_event(
        three_months,
        "hook_execution",
        "2026-01-15T12:30Z",
        result="blocked",
        duration_ms=9,
        findings_summary={"pattern": "x"},
    )
    fresh = "select distinct aggregation_period from ops.kpis where period_start < '2026-01-16Z'"
    fresh += " and metric_name = 'hook_executions_total' and metric_value = 2 order by 1"
    assert rows(three_months, fresh) == [("day",), ("month",), ("week",)]
    refresh(three_months)
    assert rows(three_months, counts) == [("day", 2), ("month", 2), ("week", 2)]
    assert rows(three_months, fresh) == [("day",), ("month",), ("week",)]
    assert rows(three_months, "select sum(blocked_count) from ops.blocked_patterns where period = 'day'") == [(4,)]
    for table in ("histograms", "blocked_patterns"):
        query = sql.SQL("select from ops.{} where period = 'hour' and period_start < '2026-02-01Z'")
        assert three_months.execute(query.format(sql.Identifier(table))).fetchall() == []
    assert freed_by_a_run(three_months) == []


def test_a_rebuild_brings_no_removed_hour_back(three_months):
    keep(three_months, "hours", "100 days")
    freed_by_a_run(three_months)
    before = states(three_months)
    rebuild(three_months, "2026-01-01T00:00Z", "2026-04-01T00:00Z")
    assert states(three_months) == before


def test_an_audit_of_a_removed_hour_can_still_change(three_months):
    keep(three_months, "hours", "100 days")
    freed_by_a_run(three_months)
    three_months.execute("update public.slsa_audit_metrics set validation_status = 'failure'")
    refresh(three_months)
    query = "select aggregation_period, metric_value from public.kpi_aggregations"
    query += " where metric_name = 'audit_success_rate' order by 1"
    assert rows(three_months, query) == [("day", 0), ("month", 0), ("week", 0)]
    three_months.execute("delete from public.slsa_audit_metrics")
    refresh(three_months)
    assert rows(three_months, query) == []
    assert freed_by_a_run(three_months) == []


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_kpis_go_by_whole_periods(database, zone):
    database.execute("update ops.settings set value = %s where name = 'time_zone'", [zone])
    for month in MONTHS:
        add_month(database, month)
    refresh(database)
    keep(database, "kpis", "100 days")
    planned = retention.plan(database, AS_OF)
    assert [row.name for row in planned] == ["day", "week", "month"]
    assert freed_by_a_run(database) == planned
    for period in ("day", "week", "month"):
        removed = scalar(database, "select ops.period_start(%s, '2026-02-21Z', %s)", period, zone)
        for table in ("rollups", "histograms", "blocked_patterns"):
            query = sql.SQL("select min(period_start) >= %s from ops.{} where period = %s").format(
                sql.Identifier(table)
            )
            assert database.execute(query, [removed, period]).fetchone() == (True,)
    late = add_event(database, at="2026-01-20T00:00Z", outcome="success")
    assert refresh(database).cursor_id == late
    hours = "select period from ops.rollups where period_start < '2026-01-21Z' and period_start > '2026-01-19Z'"
    assert rows(database, hours) == [("hour",)]
    assert freed_by_a_run(database) == []


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def test_in_every_time_zone_what_was_counted_stays_and_the_plan_is_what_is_done(database, zone):
    database.execute("update ops.settings set value = %s where name = 'time_zone'", [zone])
    for month in MONTHS:
        database.execute("select ops.create_partition(%s)", [f"{month}-01"])
        add_month(database, month)
        for at in (f"{month}-01T00:00Z", f"{month}-28T23:59:59.999999Z"):
            add_event(database, at=at, outcome="success", duration_ms=1)
    refresh(database)
    database.execute("analyze")
    before = states(database)
    keep(database, "events", "90 days")
    keep(database, "events", None, "hook_execution")
    keep(database, "events", "60 days", "audit_observer")
    planned = retention.plan(database, AS_OF)
    assert states(database) == before
    freed = freed_by_a_run(database)
    known = [row if row.removed is not None else None for row in planned]
    assert [row if plan else None for row, plan in zip(freed, known, strict=True)] == known
    assert [row.removed for row in freed] == [2, 4, 2, 4, 2]
    assert (None not in known) == (zone != "Asia/Kolkata")
    assert states(database) == before
    rebuild(database, scalar(database, "select ops.rebuildable_from()"), "2026-06-01T00:00Z")
    assert states(database) == before


def test_a_dry_run_changes_nothing_and_says_exactly_what_the_run_then_does(three_months):
    keep(three_months, "events", "100 days")
    keep(three_months, "events", "60 days", "hook_execution")
    keep(three_months, "hours", "90 days")
    keep(three_months, "kpis", "60 days")
    before = states(three_months), rows(three_months, STORED), rows(three_months, "select * from ops.job_runs")
    planned = retention.plan(three_months, AS_OF)
    assert (
        states(three_months),
        rows(three_months, STORED),
        rows(three_months, "select * from ops.job_runs"),
    ) == before
    assert freed_by_a_run(three_months) == planned
    assert [row.kept for row in planned] == ["events"] * 3 + ["hours"] + ["kpis"] * 3
    assert retention.plan(three_months, AS_OF) == []


def add_alert_since_january(connection: Connection, resolved_at: str | None, subject: str = "s") -> int:
    since = instant("2026-01-01T00:00Z")
    alert = {"rule_name": "r", "kind": "kpi_threshold", "severity": "page", "subject": subject}
    alert |= {"state": "resolved" if resolved_at else "firing", "pending_since": since, "firing_since": since}
    alert |= {"evaluated_at": since, "channels": [], "notify_resolved": True, "description": "", "detail": "{}"}
    add_row(connection, "alerts", org_id=NIL, resolved_at=resolved_at, **alert)
    return scalar(connection, "select max(alert_id) from ops.alerts")


def add_delivery(connection: Connection, state: str, settled_at: str | None, alert_ids: list[int]) -> None:
    delivery = {"channel_name": "ops", "group_key": "g", "status": "firing", "alert_ids": alert_ids, "state": state}
    delivery |= {"message": Jsonb({}), "created_at": "2026-01-02T00:00Z", "next_attempt_at": "2026-01-02T00:00Z"}
    delivery |= {"leased_until": "2026-01-02T00:00Z" if state == "sending" else None}
    add_row(connection, "alert_deliveries", org_id=NIL, settled_at=settled_at, **delivery)


def test_alerts_that_are_over_go_with_their_messages_unless_somebody_still_waits(database):
    add_channel(database)
    old, recent = (
        add_alert_since_january(database, "2026-01-10T00:00Z"),
        add_alert_since_january(database, "2026-05-10T00:00Z"),
    )
    firing, unsaid = add_alert_since_january(database, None), add_alert_since_january(database, "2026-01-10T00:00Z")
    add_row(database, "alert_groups", org_id=NIL, channel_name="ops", group_key="g", last_firing=[unsaid])
    for state, settled_at, about in (
        ("delivered", "2026-01-02T00:00Z", old),
        ("dead", "2026-01-02T00:00Z", old),
        ("silenced", None, old),
        ("delivered", "2026-05-02T00:00Z", old),
        ("delivered", "2026-01-02T00:00Z", firing),
        ("queued", None, old),
        ("sending", None, old),
    ):
        add_delivery(database, state, settled_at, [about])
    assert freed_by_a_run(database) == []
    keep(database, "alerts", "100 days")
    planned = retention.plan(database, AS_OF)
    assert [(row.name, row.removed) for row in planned] == [("alert_deliveries", 3), ("alerts", 1)]
    assert freed_by_a_run(database) == planned
    assert [row[0] for row in rows(database, "select alert_id from ops.alerts order by 1")] == [recent, firing, unsaid]
    assert [row[0] for row in rows(database, "select state from ops.alert_deliveries order by delivery_id")] == [
        "delivered",
        "delivered",
        "queued",
        "sending",
    ]


def test_a_type_that_is_silent_since_before_the_hours_is_still_found_silent(three_months):
    add_rule(three_months, "quiet", "silent_input", event_type="hook_execution", silent_for="120 days")
    keep(three_months, "hours", "31 days")
    run_jobs(three_months, "2026-06-01T00:00Z")
    freed_by_a_run(three_months)
    run_jobs(three_months, "2026-06-02T00:00Z")
    assert [alert for alert in alerts(three_months) if alert[0] == "quiet"] == []
    run_jobs(three_months, "2026-07-31T00:00Z")
    assert ("quiet", "hook_execution", "firing") in alerts(three_months)

"""Recomputing a range from the events: the same rows as the increments, and a cure for damaged ones."""

import psycopg
import pytest

from support.events import AS_OF, Connection, add_audit, add_event, rebuild, refresh, rows, scalar, states
from support.oracle import assert_exact

pytestmark = pytest.mark.database

DAMAGES = {
    "wrong rollups": "update ops.rollups set event_count = event_count + 1, value_sum = 7, value_max = 0",
    "missing rollups": "delete from ops.rollups where period in ('hour', 'week')",
    "wrong histograms": "update ops.histograms set counts = '{1,2,3}'",
    "missing histograms": "delete from ops.histograms",
    "wrong KPIs": "update public.kpi_aggregations set metric_value = 0, metadata = metadata - 'unit', period_end = '2030-01-01Z'",
    "missing KPIs": "delete from public.kpi_aggregations where aggregation_period <> 'day'",
    "a KPI of no events": "insert into public.kpi_aggregations (metric_name, metric_value, aggregation_period,"
    " period_start, period_end) values ('error_rate', 1, 'hour', '2026-03-11T03:00Z', '2026-03-11T04:00Z')",
    "wrong patterns": "update ops.blocked_patterns set blocked_count = 99",
    "a pattern that never blocked": "insert into ops.blocked_patterns"
    " select distinct org_id, period, period_start, 'x', 'y', 1, 'z' from ops.blocked_patterns",
    "wrong SLI counts": "update ops.sli_counts set good = 0, total = 99",
    "missing SLI counts": "delete from ops.sli_counts",
    "wrong units of work": "update ops.work_units set succeeded = not succeeded, first_attempt_at = '2026-03-01T00:00Z'",
    "missing units of work": "delete from ops.work_units",
}
SINCE, UNTIL = "2026-03-09T00:00Z", "2026-03-16T00:00Z"


@pytest.fixture
def three_days(database: Connection) -> Connection:
    for day in (9, 10, 15):
        for outcome in ("success", "failure", "cancelled"):
            at = f"2026-03-{day:02}T10:07Z"
            add_event(database, at=at, outcome=outcome, duration_ms=day * 1000, tag=f"v{day}")
            add_event(database, "audit_observer", at, outcome=outcome, duration_ms=day, run_id=day)
        summary = {"pattern": "secret", "patterns": ["print"]}
        for hook in ("pre-commit", "pre-push"):
            add_event(
                database,
                "hook_execution",
                at,
                result="blocked",
                duration_ms=3,
                hook_type=hook,
                findings_summary=summary,
            )
        add_audit(database, day, at, sha256_verified=day > 9)
    refresh(database)
    assert_exact(database)
    return database


def test_a_rebuild_leaves_what_the_increments_gave(three_days):
    before = states(three_days)
    assert rebuild(three_days, SINCE, UNTIL) == 27
    assert states(three_days) == before


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2026-03-10T10:07Z", "2026-03-10T10:07:00.000001Z"),
        ("2026-03-01T00:00Z", "2026-04-01T00:00Z"),
        ("2026-03-10T10:30Z", "2026-03-15T10:10Z"),
        ("2026-03-11T00:00Z", "2026-03-12T00:00Z"),
        ("2025-01-01T00:00Z", "2025-01-02T00:00Z"),
        ("2027-01-01T00:00Z", "2027-01-02T00:00Z"),
    ],
)
def test_a_rebuild_of_any_range_leaves_all_else_alone(three_days, since, until):
    before = states(three_days)
    rebuild(three_days, since, until)
    rebuild(three_days, since, until)
    assert states(three_days) == before


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_rebuild_repairs_damaged_rows(three_days, damage):
    before = states(three_days)
    three_days.execute(damage)
    assert states(three_days) != before
    rebuild(three_days, SINCE, UNTIL)
    assert states(three_days) == before


def test_events_deleted_by_hand_are_gone_after_a_rebuild(three_days):
    three_days.execute(
        "delete from public.telemetry_events where event_timestamp < '2026-03-10Z' or metadata ? 'hook_type'"
    )
    rebuild(three_days, SINCE, UNTIL)
    assert_exact(three_days)
    assert rows(three_days, "select from ops.blocked_patterns") == []


def test_events_behind_the_cursor_are_counted_by_a_rebuild_too(three_days):
    add_event(three_days, at="2026-03-10T10:00Z", outcome="success", duration_ms=1, tag="v99")
    add_event(three_days, at="2026-05-01T10:00Z", outcome="success", duration_ms=1, tag="v10")
    add_audit(three_days, 99, "2026-03-10T10:00Z", validation_status="failure")
    rebuild(three_days, SINCE, UNTIL)
    assert_exact(three_days)
    before = states(three_days)
    assert refresh(three_days).events == 0
    assert states(three_days) == before


def test_events_of_open_transactions_are_left_to_a_later_refresh(three_days, connect):
    writer = connect(autocommit=False)
    add_event(writer, at="2026-03-10T10:00Z", outcome="success", duration_ms=1, tag="v10")
    add_event(three_days, at="2026-03-10T10:00Z", outcome="failure", duration_ms=1, tag="v11")
    rebuild(three_days, SINCE, UNTIL)
    writer.commit()
    refresh(three_days)
    assert_exact(three_days)


def test_an_audit_changed_since_the_last_refresh_is_right_after_a_rebuild(three_days):
    three_days.execute(
        "update public.slsa_audit_metrics set validation_status = 'failure', audit_timestamp = '2026-03-12T00:00Z'"
        " where audit_run_id = 10"
    )
    rebuild(three_days, SINCE, UNTIL)
    assert_exact(three_days)
    refresh(three_days)
    assert_exact(three_days)


def test_a_rebuild_waits_for_a_running_refresh(three_days, connect):
    aggregator = connect(autocommit=False)
    refresh(aggregator)
    three_days.execute("set lock_timeout = '100ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        rebuild(three_days, SINCE, UNTIL)
    aggregator.commit()
    assert rebuild(three_days, SINCE, UNTIL) == 27


def test_a_refresh_beside_a_rebuild_is_busy(three_days, connect):
    repairer = connect(autocommit=False)
    rebuild(repairer, SINCE, UNTIL)
    assert refresh(three_days).state == "busy"


def test_a_rebuild_is_in_the_journal(three_days):
    rebuild(three_days, SINCE, UNTIL)
    assert rows(three_days, "select outcome, events from ops.job_runs where job = 'rebuild'") == [("success", 27)]


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2026-03-10T00:00Z", "2026-03-10T00:00Z"),
        ("2026-03-10T00:00Z", "2026-03-09T00:00Z"),
        ("1969-01-01T00:00Z", "2026-03-10T00:00Z"),
        ("2026-03-10T00:00Z", "2201-01-01T00:00Z"),
        ("-infinity", "infinity"),
        (None, "2026-03-10T00:00Z"),
        ("2026-03-10T00:00Z", None),
    ],
)
def test_a_range_that_is_empty_or_out_of_bounds_is_refused(three_days, since, until):
    before = states(three_days)
    with pytest.raises(psycopg.Error) as refused:
        rebuild(three_days, since, until)
    assert (refused.value.sqlstate, bool(refused.value.diag.message_hint)) == ("OP001", True)
    assert states(three_days) == before


@pytest.mark.parametrize("at", [[], ["1970-01-01T00:00Z", "2199-12-31T23:00Z"]], ids=["no events", "two far apart"])
def test_all_time_is_rebuilt_within_seconds(database, at):
    for instant in at:
        add_event(database, at=instant, outcome="success", duration_ms=1)
    refresh(database)
    database.execute("set statement_timeout = '30s'")
    assert scalar(database, "select ops.rebuild('1970-01-01Z', '2200-01-01Z', %s)", AS_OF) == len(at)
    assert_exact(database)

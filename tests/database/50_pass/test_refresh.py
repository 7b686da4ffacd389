"""Counting every event exactly once, one session at a time."""

import psycopg
import pytest

from support.events import AS_OF, add_audit, add_event, add_events, ingest, refresh, rows, scalar, states
from support.oracle import assert_exact

pytestmark = pytest.mark.database

ORG = "67f5687d-170e-5a9e-bbad-5e2b93907731"
POISONED = {
    "null": "null",
    "JSON null": "'null'",
    "an array": """'[{"outcome": "success", "duration_ms": 1, "result": "blocked"}]'""",
    "a string": "'\"outcome\"'",
    "a number": "'1e400'",
    "a huge duration": """'{"outcome": "success", "duration_ms": 1e400, "size_bytes": 1e400}'""",
    "a tiny duration": """'{"outcome": "success", "duration_ms": 1e-400, "size_bytes": 1e-4000}'""",
    "a long duration": """'{"outcome": "success", "duration_ms": 0.12345678901234567890123456789012345678}'""",
    "a negative duration": """'{"outcome": "success", "duration_ms": -1, "size_bytes": -1}'""",
    "a duration as text": """'{"outcome": "success", "duration_ms": "12", "size_bytes": "NaN"}'""",
    "huge labels": """jsonb_build_object('outcome', repeat('😀', 10000), 'workflow', repeat('a', 10000),
      'kind', repeat('😀', 10000), 'hook_type', repeat('😀', 99))""",
    "labels that compress badly": """jsonb_build_object(
      'hook_type', translate(encode(sha256('1'), 'hex') || encode(sha256('2'), 'hex'), '0123456789', '😀😁😂😃😄😅😆😇😈😉'),
      'outcome', translate(encode(sha256('3'), 'hex') || encode(sha256('4'), 'hex'), 'abcdef0123', '😀😁😂😃😄😅😆😇😈😉'),
      'workflow', translate(encode(sha256('5'), 'hex') || encode(sha256('6'), 'hex'), 'fedcba4567', '😀😁😂😃😄😅😆😇😈😉'),
      'result', translate(encode(sha256('7'), 'hex') || encode(sha256('8'), 'hex'), 'abcdef3456', '😀😁😂😃😄😅😆😇😈😉'))""",
}
ODD_FINDINGS = [
    '[{"patterns": {"a": null}, "pattern": 7}]',
    '{"patterns": [null, 1, {"a": 1}, [], "x"], "pattern": []}',
    '{"patterns": "x", "pattern": "x"}',
    '"x"',
    "null",
]
KINDS = ["slsa_provenance", "artifact", "hook_execution", "undescribed", "😀" * 100]


def counted_events(connection: psycopg.Connection) -> int:
    query = "select coalesce(sum(event_count), 0)::int from ops.rollups where period = 'hour'"
    return scalar(connection, query)


def test_events_inserted_in_any_way_are_counted_once(database):
    add_event(database, outcome="success", duration_ms=1500)
    request = {"event_type": "api_request", "payload": {"outcome": "failure", "duration_ms": 3, "org_id": ORG}}
    assert ingest(database, request, request)["accepted"] == 2
    add_event(database, "undescribed", outcome="failure")
    report = refresh(database)
    assert (report.state, report.events, report.cursor_id, report.behind) == ("done", 4, 4, 0)
    assert counted_events(database) == 4


def test_the_report_counts_the_kpi_rows_written_by_period(database):
    add_event(database, "artifact", "2026-03-10T10:00Z", size_bytes=1)
    add_event(database, "artifact", "2026-03-11T10:00Z", size_bytes=1)
    report = refresh(database)
    assert (report.hour_rows, report.day_rows, report.week_rows, report.month_rows) == (2, 2, 1, 1)
    assert rows(database, "select job, outcome, events, kpi_rows, message from ops.job_runs where job = 'refresh'") == [
        ("refresh", "success", 2, 6, None)
    ]


def test_a_second_refresh_without_new_events_changes_nothing(database):
    add_event(database, outcome="success", duration_ms=1500, tag="v1")
    add_audit(database, 1)
    refresh(database)
    before = states(database)
    report = refresh(database)
    assert (report.state, report.events, report.hour_rows) == ("done", 0, 0)
    assert states(database) == before


def test_an_empty_database_has_nothing_to_count(database):
    report = refresh(database)
    assert (report.state, report.events, report.cursor_id, report.behind) == ("done", 0, 0, 0)


def test_a_late_event_adds_to_its_own_hour(database):
    add_event(database, at="2026-03-10T10:30Z", outcome="failure", duration_ms=10)
    refresh(database)
    add_event(database, at="2026-03-12T09:00Z", outcome="success", duration_ms=10)
    refresh(database)
    add_event(database, at="2026-03-10T10:59:59.999999Z", outcome="success", duration_ms=30)
    refresh(database)
    found = rows(
        database,
        "select period_start = '2026-03-10T10:00Z', metric_value from public.kpi_aggregations"
        " where metric_name = 'provenance_success_rate' and aggregation_period = 'hour' order by period_start",
    )
    assert found == [(True, 50), (False, 100)]
    assert_exact(database)


def test_a_resent_event_is_counted_once_although_refreshes_lie_between(database):
    document = {
        "event_type": "api_request",
        "event_id": "5f0c1c1e-0000-4000-8000-000000000001",
        "timestamp": "2026-03-10T10:00:00Z",
        "metadata": {"outcome": "success", "duration_ms": 3},
    }
    for _ in range(3):
        ingest(database, document)
        refresh(database)
    assert counted_events(database) == 1


def test_an_event_written_into_a_partition_is_counted(database):
    database.execute("select ops.create_partition('2026-03-01')")
    database.execute(
        "insert into ops.telemetry_events_2026_03 (event_type, event_timestamp) values ('made', '2026-03-10T10:00Z')"
    )
    refresh(database)
    assert counted_events(database) == 1


def test_an_event_that_moves_to_its_new_partition_is_not_counted_again(database):
    add_event(database, outcome="success", duration_ms=5, tag="v1")
    refresh(database)
    add_event(database, outcome="failure")
    assert scalar(database, "select ops.create_partition('2026-03-01')") is True
    refresh(database)
    assert counted_events(database) == 2
    assert_exact(database)


def test_max_ids_splits_the_work_into_batches_that_add_up(database):
    add_events(database, 25, "slsa_provenance", "2026-03-10T10:00Z", outcome="success", duration_ms=20)
    reports = [refresh(database, max_ids=10) for _ in range(3)]
    assert [(report.state, report.events, report.behind) for report in reports] == [
        ("more", 10, 15),
        ("more", 10, 5),
        ("done", 5, 0),
    ]
    assert_exact(database)


@pytest.mark.parametrize("max_ids", [0, -1])
def test_a_batch_of_no_ids_is_refused(database, max_ids):
    with pytest.raises(psycopg.Error) as refused:
        refresh(database, max_ids=max_ids)
    assert (refused.value.sqlstate, bool(refused.value.diag.message_hint)) == ("OP001", True)


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_another_isolation_level_than_read_committed_is_refused(connect, level):
    connection = connect(autocommit=False)
    connection.isolation_level = level
    with pytest.raises(psycopg.Error) as refused:
        refresh(connection)
    assert (refused.value.sqlstate, bool(refused.value.diag.message_hint)) == ("OP002", True)


def test_ids_that_were_drawn_and_rolled_back_are_passed_over(database):
    add_event(database)
    with database.transaction(force_rollback=True):
        add_event(database)
    add_event(database)
    report = refresh(database)
    assert (report.state, report.events, report.cursor_id) == ("done", 2, 3)


def test_events_of_the_callers_own_transaction_are_counted_with_it(database):
    with database.transaction(force_rollback=True):
        add_event(database)
        assert refresh(database).events == 1
    assert counted_events(database) == 0
    add_event(database)
    assert refresh(database).events == 1
    assert_exact(database)


@pytest.mark.parametrize("kind", KINDS, ids=[kind[:15] for kind in KINDS])
@pytest.mark.parametrize("metadata", POISONED.values(), ids=POISONED)
def test_nothing_that_a_plain_insert_may_hold_stops_the_aggregation(database, kind, metadata):
    database.execute(
        "insert into public.telemetry_events (event_type, event_timestamp, tag, metadata)"
        f" select %s, '2026-03-10T10:00Z', 'v1', ({metadata})::jsonb",
        [kind],
    )
    assert (refresh(database).state, counted_events(database)) == ("done", 1)
    assert_exact(database)
    before = states(database)
    database.execute("select ops.rebuild('2026-03-01Z', '2026-04-01Z', %s)", [AS_OF])
    assert states(database) == before


@pytest.mark.parametrize("summary", ODD_FINDINGS)
def test_odd_findings_do_not_stop_the_aggregation(database, summary):
    database.execute(
        "insert into public.telemetry_events (event_type, metadata)"
        """ values ('hook_execution', jsonb_build_object('result', 'blocked', 'findings_summary', %s::jsonb))""",
        [summary],
    )
    assert (refresh(database).state, counted_events(database)) == ("done", 1)


def test_equal_patterns_of_one_execution_count_once(database):
    long = "x" * 100
    summary = {"pattern": "secret", "patterns": ["secret", "secret", long + "1", long + "2"]}
    add_event(database, "hook_execution", result="blocked", findings_summary=summary)
    refresh(database)
    query = "select pattern, blocked_count from ops.blocked_patterns where period = 'hour' order by 1"
    assert rows(database, query) == [("secret", 1), (long, 1)]


def test_a_tag_of_a_megabyte_is_one_unit_of_work(database):
    for outcome in ("failure", "success"):
        add_event(database, outcome=outcome, tag="v" * 1_000_000)
        refresh(database)
    query = "select good, total from ops.slo_counts where slo_name = 'provenance_generation_availability'"
    assert rows(database, query) == [(1, 1)]


@pytest.mark.parametrize(
    "at", ["1970-01-01T00:00Z", "1999-12-31T23:00Z", "2000-01-03T00:00Z", "2199-12-31T23:59:59.999999Z"]
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_the_earliest_and_the_latest_instant_are_counted(database, at, zone):
    database.execute("update ops.settings set value = %s where name = 'time_zone'", [zone])
    add_event(database, at=at, outcome="success", duration_ms=1, tag="v1")
    assert refresh(database).state == "done"
    assert_exact(database, zone)


@pytest.mark.parametrize("at", ["1969-12-31T23:59:59Z", "2200-01-01T00:00Z", "infinity", "-infinity"])
def test_an_instant_beyond_the_bounds_is_refused_on_insert(database, at):
    with pytest.raises(psycopg.errors.CheckViolation):
        add_event(database, at=at)


def test_an_event_that_calls_itself_an_audit_is_not_taken_for_one(database):
    add_event(database, "slsa_audit", "2026-03-10T10:00Z")
    add_audit(database, 1, "2026-03-10T10:10Z")
    refresh(database)
    database.execute("update public.slsa_audit_metrics set tag = 'v1'")
    refresh(database)
    query = "select metric_value from public.kpi_aggregations where metric_name = 'audit_success_rate'"
    assert rows(database, query) == [(100,)] * 4
    before = states(database)
    database.execute("select ops.rebuild('2026-03-01Z', '2026-04-01Z', %s)", [AS_OF])
    assert states(database) == before


def test_a_sequence_with_a_cache_is_refused_before_it_loses_an_event(database):
    database.execute("alter sequence public.telemetry_events_id_seq cache 50")
    add_event(database)
    with pytest.raises(psycopg.Error) as refused:
        refresh(database)
    assert (refused.value.sqlstate, "cache 1" in (refused.value.diag.message_hint or "")) == ("OP003", True)


def test_ids_that_were_set_back_are_refused_and_the_hint_mends_them(database):
    for _ in range(3):
        add_event(database)
    refresh(database)
    database.execute("truncate public.telemetry_events restart identity")
    add_event(database)
    with pytest.raises(psycopg.Error) as refused:
        refresh(database)
    assert refused.value.sqlstate == "OP003"
    hint = refused.value.diag.message_hint or ""
    assert "select setval('public.telemetry_events_id_seq', 3)" in hint
    database.execute("select setval('public.telemetry_events_id_seq', 3)")
    database.execute("select ops.rebuild('1970-01-01Z', '2200-01-01Z', %s)", [AS_OF])
    add_event(database)
    refresh(database)
    assert_exact(database)

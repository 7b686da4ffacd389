"""Counting every event exactly once while others write, refresh and die: two connections, explicit steps."""

import psycopg
import pytest
from psycopg import sql

from support.events import Connection, add_audit, add_event, refresh, rows, scalar, states
from support.oracle import assert_exact
from support.patience import eventually
from support.sessions import in_background, waits_for

pytestmark = pytest.mark.database

WRITTEN_TABLES = [
    "series",
    "rollups",
    "histograms",
    "blocked_patterns",
    "sli_counts",
    "work_units",
    "kpi_aggregations",
    "cursors",
    "event_gaps",
    "audit_changes",
    "job_runs",
]


def add_one_of_each(connection: Connection) -> None:
    add_event(connection, outcome="success", duration_ms=1500, tag="v1")
    add_event(connection, "hook_execution", result="blocked", duration_ms=3, findings_summary={"pattern": "secret"})
    add_audit(connection, scalar(connection, "select count(*) + 1 from public.slsa_audit_metrics"))


def gaps(connection: Connection) -> list[str]:
    return [ids for (ids,) in rows(connection, "select ids::text from ops.event_gaps order by until_id")]


def test_an_event_that_commits_after_later_ones_is_counted(database, connect):
    writer = connect(autocommit=False)
    add_event(writer)
    second = add_event(database)
    report = refresh(database)
    assert (report.state, report.events, report.behind, report.cursor_id) == ("done", 1, 0, second)
    writer.commit()
    report = refresh(database)
    assert (report.state, report.events, report.cursor_id) == ("done", 1, second)
    assert_exact(database)


def test_a_writer_that_rolls_back_holds_nothing_up(database, connect):
    writer = connect(autocommit=False)
    add_event(writer)
    add_event(database)
    writer.rollback()
    report = refresh(database)
    assert (report.state, report.events) == ("done", 1)


def test_a_writer_is_never_blocked_by_a_refresh(database, connect):
    add_event(database)
    aggregator = connect(autocommit=False)
    assert refresh(aggregator).events == 1
    database.execute("set lock_timeout = '1s'")
    add_one_of_each(database)
    aggregator.commit()
    assert refresh(database).events == 2
    assert_exact(database)


def test_a_writer_that_commits_during_the_wait_is_counted_in_that_run(database, connect):
    writer, aggregator = connect(autocommit=False), connect()
    add_event(writer)
    with in_background(lambda: refresh(aggregator, max_wait="20s")) as answers:
        eventually(lambda: waits_for(database, aggregator, "Timeout"))
        writer.commit()
    assert [(report.state, report.events) for report in answers] == [("done", 1)]


def test_a_writer_that_begins_during_the_wait_does_not_prolong_it(database, connect):
    writer, later, aggregator = connect(autocommit=False), connect(autocommit=False), connect()
    add_event(writer)
    with in_background(lambda: refresh(aggregator, max_wait="20s")) as answers:
        eventually(lambda: waits_for(database, aggregator, "Timeout"))
        add_event(later)
        writer.commit()
    assert [(report.state, report.events, report.behind) for report in answers] == [("done", 1, 1)]
    later.commit()
    assert refresh(database).events == 1
    assert_exact(database)


def test_a_writer_into_a_partition_is_waited_for(database, connect):
    writer = connect(autocommit=False)
    writer.execute(
        "insert into ops.telemetry_events_default (event_type, event_timestamp) values ('made', '2026-03-10Z')"
    )
    add_event(database)
    assert [refresh(database).events, refresh(database).events] == [1, 0]
    writer.commit()
    assert refresh(database).events == 1


def test_a_writer_that_goes_on_after_a_savepoint_is_counted(database, connect):
    writer = connect(autocommit=False)
    writer.execute("savepoint before")
    add_event(writer)
    writer.execute("rollback to before")
    refresh(database)
    add_event(writer)
    add_event(database)
    refresh(database)
    writer.commit()
    refresh(database)
    assert_exact(database)


def test_a_transaction_that_is_prepared_is_waited_for(prepared, connect):
    writer = connect()
    writer.execute("begin")
    add_event(writer)
    writer.execute("prepare transaction 'early'")
    add_event(prepared)
    assert [refresh(prepared).events, refresh(prepared).events] == [1, 0]
    writer.execute("commit prepared 'early'")
    assert (refresh(prepared).events, gaps(prepared)) == (1, [])


@pytest.mark.parametrize("verdict", ["commit", "rollback"])
def test_a_transaction_that_is_prepared_during_the_wait_is_still_waited_for(prepared, connect, verdict):
    writer, aggregator = connect(), connect()
    writer.execute("begin")
    add_event(writer)
    add_event(prepared)
    with in_background(lambda: refresh(aggregator, max_wait="20s")) as answers:
        eventually(lambda: waits_for(prepared, aggregator, "Timeout"))
        writer.execute("prepare transaction 'during'")
        for _ in range(200):
            eventually(lambda: waits_for(prepared, aggregator, "Timeout"))
        writer.execute("commit prepared 'during'" if verdict == "commit" else "rollback prepared 'during'")
    assert [(report.state, report.events) for report in answers] == [("done", 2 if verdict == "commit" else 1)]


def test_a_transaction_that_is_prepared_between_two_runs_is_still_waited_for(prepared, connect):
    writer = connect()
    writer.execute("begin")
    add_event(writer)
    add_event(prepared)
    assert refresh(prepared).events == 1
    writer.execute("prepare transaction 'between'")
    assert [refresh(prepared).events, refresh(prepared).events] == [0, 0]
    writer.execute("commit prepared 'between'")
    assert (refresh(prepared).events, gaps(prepared)) == (1, [])


def test_writers_that_overlap_forever_do_not_hold_the_cursor_for_ever(database, connect):
    writer = connect(autocommit=False)
    add_event(writer)
    refresh(database)
    for _ in range(5):
        following = connect(autocommit=False)
        add_event(following)
        writer.commit()
        report = refresh(database)
        assert (report.state, report.events, len(gaps(database))) == ("done", 1, 1)
        writer = following
    writer.commit()
    assert (refresh(database).state, refresh(database).behind, gaps(database)) == ("done", 0, [])
    assert_exact(database)


def test_of_two_refreshes_at_once_the_second_is_busy_and_nothing_is_counted_twice(database, connect):
    add_one_of_each(database)
    aggregator = connect(autocommit=False)
    assert refresh(aggregator).events == 2
    report = refresh(database)
    assert (report.state, bool(report.message)) == ("busy", True)
    aggregator.commit()
    assert (refresh(database).state, refresh(database).events) == ("done", 0)
    assert_exact(database)


def test_after_a_refresh_that_rolled_back_the_next_one_counts_all(database, connect):
    add_one_of_each(database)
    before = states(database)
    aggregator = connect(autocommit=False)
    refresh(aggregator)
    aggregator.rollback()
    assert states(database) == before
    assert refresh(database).events == 2
    assert_exact(database)


@pytest.mark.parametrize("table", WRITTEN_TABLES)
def test_a_refresh_that_is_killed_anywhere_leaves_nothing_half_done(database, connect, table):
    add_one_of_each(database)
    writer = connect(autocommit=False)
    add_event(writer)
    refresh(database)
    add_event(writer)
    add_one_of_each(database)
    add_event(database, "artifact", "2026-04-01T00:00Z", kind="new", size_bytes=7)
    blocker, aggregator = connect(autocommit=False), connect()
    written = ("select * from ops.cursors", "select * from ops.event_gaps", "select * from ops.job_runs")
    before = [states(database), *(rows(database, query) for query in written)]
    schema = "public" if table == "kpi_aggregations" else "ops"
    blocker.execute(sql.SQL("lock table {} in share mode").format(sql.Identifier(schema, table)))
    with in_background(lambda: refresh(aggregator)) as answers:
        eventually(lambda: waits_for(database, aggregator, "Lock"))
        database.execute("select pg_terminate_backend(%s)", [aggregator.info.backend_pid])
    assert [type(answer) for answer in answers] == [psycopg.errors.AdminShutdown]
    blocker.rollback()
    eventually(lambda: not rows(database, "select from pg_stat_activity where pid = %s", aggregator.info.backend_pid))
    assert before == [states(database), *(rows(database, query) for query in written)]
    writer.commit()
    assert (refresh(database).state, refresh(database).events) == ("done", 0)
    assert_exact(database)


def test_an_audit_that_changes_while_a_refresh_runs_is_counted_by_the_next(database, connect):
    add_audit(database, 1)
    aggregator = connect(autocommit=False)
    refresh(aggregator)
    database.execute("update public.slsa_audit_metrics set validation_status = 'failure'")
    add_audit(database, 2)
    aggregator.commit()
    refresh(database)
    assert_exact(database)


def test_upkeep_and_refresh_in_one_transaction_do_not_wait_for_writers_of_the_default_partition(database, connect):
    writer = connect(autocommit=False)
    add_event(writer)
    with in_background(lambda: database.execute("select * from ops.run()")):
        eventually(lambda: waits_for(writer, database, "Lock") or waits_for(writer, database, "Timeout"))
        writer.execute("set lock_timeout = '2s'")
        add_event(writer)
        writer.commit()
    refresh(database)
    assert_exact(database)

"""Partitions are there before events need them, and the jobs can run without Python."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.rows import scalar_row

from opskpi.postgres import migrations
from support.patience import PATIENCE_S
from support.postgres import Database, Server, unavailable

pytestmark = pytest.mark.database

Connect = Callable[..., psycopg.Connection]
PLACES = "select tableoid::regclass::text, tag from public.telemetry_events order by id"


def value_of(connection: psycopg.Connection, query: str, arguments: list[object] | None = None) -> object:
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(query.encode(), arguments).fetchall()[0]


def test_an_event_of_a_month_without_partition_is_kept_and_moved_by_the_upkeep(database: psycopg.Connection) -> None:
    database.execute(
        "insert into telemetry_events (event_type, event_timestamp, tag, metadata) values"
        """ ('workflow_run', '2019-03-14T15:00:00Z', 'old', '{"outcome": "success", "duration_ms": 5}')"""
    )
    assert database.execute(PLACES).fetchall() == [("ops.telemetry_events_default", "old")]
    before = database.execute("select telemetry_events::text from telemetry_events").fetchall()
    database.execute("select ops.maintain('2026-11-21T00:00:00Z')")
    assert database.execute(PLACES).fetchall() == [("ops.telemetry_events_2019_03", "old")]
    assert database.execute("select telemetry_events::text from telemetry_events").fetchall() == before


def test_moving_an_event_neither_loses_nor_repeats_it_in_the_counts(database: psycopg.Connection) -> None:
    database.execute("insert into telemetry_events (event_type, event_timestamp) values ('x', '2019-03-14T15:00:00Z')")
    assert value_of(database, "select events from ops.refresh()") == 1
    database.execute("insert into telemetry_events (event_type, event_timestamp) values ('x', '2019-03-14T15:30:00Z')")
    assert value_of(database, "select ops.create_partition('2019-03-01')") is True
    assert value_of(database, "select events from ops.refresh()") == 1
    assert value_of(database, "select event_count from ops.rollups where period = 'hour'") == 2


def test_upkeep_makes_this_and_the_next_three_months_once(database: psycopg.Connection) -> None:
    database.execute("select ops.maintain('2031-11-30T23:59:59Z')")
    names = database.execute(
        "select relname from pg_class where relname ~ '^telemetry_events_203[12]_\\d\\d$' order by 1"
    ).fetchall()
    assert [name for (name,) in names] == [
        "telemetry_events_2031_11",
        "telemetry_events_2031_12",
        "telemetry_events_2032_01",
        "telemetry_events_2032_02",
    ]
    assert value_of(database, "select ops.maintain('2031-11-30T23:59:59Z')") == 0


def test_the_last_instant_of_a_month_lies_in_it_and_the_next_does_not(database: psycopg.Connection) -> None:
    database.execute("select ops.create_partition('2019-02-01'), ops.create_partition('2019-03-31')")
    database.execute(
        "insert into telemetry_events (event_type, event_timestamp, tag) values"
        " ('x', '2019-02-28T23:59:59.999999Z', 'a'), ('x', '2019-03-01T00:00:00Z', 'b')"
    )
    places = [("ops.telemetry_events_2019_02", "a"), ("ops.telemetry_events_2019_03", "b")]
    assert database.execute(PLACES).fetchall() == places


def test_a_reader_in_the_way_delays_a_partition_and_fails_nothing(
    database: psycopg.Connection, connect: Connect
) -> None:
    reader = connect(autocommit=False)
    database.execute("insert into telemetry_events (event_type, event_timestamp) values ('x', '2019-03-14T15:00:00Z')")
    reader.execute("select count(*) from telemetry_events")
    assert value_of(database, "select ops.create_partition('2019-03-01')") is False
    assert value_of(database, "select to_regclass('ops.telemetry_events_2019_03') is null") is True
    reader.rollback()
    assert value_of(database, "select ops.create_partition('2019-03-01')") is True


def test_old_job_runs_are_forgotten(database: psycopg.Connection) -> None:
    database.execute(
        "insert into ops.job_runs (job, started_at, outcome) values"
        " ('refresh', '2026-01-01T00:00:00Z', 'success'), ('refresh', '2026-11-20T00:00:00Z', 'success')"
    )
    database.execute("select ops.maintain('2026-11-21T00:00:00Z')")
    assert value_of(database, "select count(*) from v_ops_job_runs where job = 'refresh'") == 1


def test_without_pg_cron_scheduling_says_what_to_do_instead(database: psycopg.Connection) -> None:
    advice = str(value_of(database, "select ops.schedule()"))
    assert "pg_cron is not installed" in advice
    assert "opskpi run" in advice
    assert "nothing is scheduled" in str(value_of(database, "select ops.unschedule()"))


def test_one_call_in_sql_does_everything_that_is_due(database: psycopg.Connection) -> None:
    database.execute("insert into telemetry_events (event_type, event_timestamp) values ('x', '2019-03-14T15:00:00Z')")
    assert database.execute("select state, events from ops.run()").fetchall() == [("done", 1)]
    assert database.execute(PLACES).fetchall() == [("ops.telemetry_events_2019_03", None)]


def test_with_pg_cron_the_jobs_are_scheduled_once_and_can_be_taken_out(
    server: Server, create_database: Callable[..., Database]
) -> None:
    if server.cron_database is None:
        reason = "this Postgres has no pg_cron; Debian's Postgres 15 has it as a package"
        # Only Debian's build can have it, and CI installs it there.
        unavailable(reason) if server.version == "15" else pytest.skip(reason)
    created = create_database(name=server.cron_database)
    with psycopg.connect(created.dsn, autocommit=True) as connection:
        connection.execute("create extension pg_cron")
        migrations.migrate(connection)
        for _ in range(2):
            assert "through pg_cron" in str(value_of(connection, "select ops.schedule()"))
        jobs = connection.execute("select jobname, command from cron.job order by jobname").fetchall()
        assert [name for name, _ in jobs] == ["opskpi", "opskpi-prune"]
        connection.execute("insert into telemetry_events (event_type) values ('x')")
        for _, command in jobs:
            connection.execute(command.encode())
        assert value_of(connection, "select sum(event_count) from ops.rollups where period = 'day'") == 1
        connection.execute("select ops.unschedule()")
        assert value_of(connection, "select count(*) from cron.job") == 0


def test_two_sessions_that_make_the_same_partition_make_it_once(database: psycopg.Connection, connect: Connect) -> None:
    first, second = connect(autocommit=False), connect(autocommit=False)
    assert value_of(first, "select ops.create_partition('2019-03-01')") is True
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(value_of, second, "select ops.create_partition('2019-03-01')")
        while not value_of(
            database, "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
        ):
            assert not waiting.done()
        first.commit()
        assert waiting.result(timeout=PATIENCE_S) is False
    second.commit()

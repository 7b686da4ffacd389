"""Each advice of the doctor is followed to the letter, and what it was about is well; none is given that cannot help."""

import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import pytest

from support.events import Connection, add_channel, add_event, add_events, refresh, rows, scalar, wait_for_a_writer
from support.fixtures import Cli, Connect

pytestmark = [pytest.mark.database, pytest.mark.own_database]

RELEASE = "slsa_provenance"
AN_HOUR_AGO: LiteralString = (
    "update ops.job_runs set started_at = started_at - interval '1 hour', finished_at = finished_at - interval '1 hour'"
)
Check = Callable[[], tuple[bool, str]]


def check(connection: Connection, name: str) -> tuple[bool, str]:
    [found] = rows(connection, "select passed, detail from ops.doctor() where check_name = %s", name)
    return found


def do_as_advised(advice: str, connection: Connection, cli: Cli) -> None:
    """Do what an advice says: the command of opskpi or the statement that it names first."""
    found = re.search(r"run (?:opskpi (?P<command>[^;,(]*)|(?P<statement>select [^;,]*))", advice)
    assert found, advice
    if found["statement"]:
        connection.execute(found["statement"].encode())
        return
    command = found["command"].partition(" from cron every ")[0]
    answer = cli(*shlex.split(command))
    assert answer.returncode == 0, answer.stderr


def without_a_run(_: Connection) -> None:
    """Leave everything as it is made."""


def without_a_run_for_long(connection: Connection) -> None:
    refresh(connection)
    connection.execute(AN_HOUR_AGO)


def not_evaluated(connection: Connection) -> None:
    add_channel(connection)


def evaluated_long_ago(connection: Connection) -> None:
    connection.execute("select ops.evaluate_alerts(now() - interval '1 hour')")


def without_next_month(connection: Connection) -> None:
    month = datetime.now(UTC).replace(day=1) + timedelta(days=32)
    connection.execute(f"drop table ops.telemetry_events_{month:%Y_%m}".encode())


def with_an_old_month(connection: Connection) -> None:
    connection.execute("select ops.create_partition('2020-01-01')")
    add_events(connection, 3, RELEASE, "2020-01-15T10:00Z", outcome="success")
    refresh(connection)
    connection.execute("select ops.set_retention('events', interval '2 years')")


def with_an_old_month_of_uncounted_events(connection: Connection) -> None:
    with_an_old_month(connection)
    add_events(connection, 3, RELEASE, "2020-01-16T10:00Z", outcome="success")


def with_events_that_wait(connection: Connection) -> None:
    refresh(connection)
    add_event(connection, RELEASE, datetime.now(UTC), outcome="success")
    connection.execute("update telemetry_events set created_at = now() - interval '1 hour'")


def with_an_event_that_was_set_aside(connection: Connection) -> None:
    add_event(connection, RELEASE, datetime.now(UTC), outcome="success")
    connection.execute(
        "insert into ops.uncountable_events (org_id, id, event_id, event_type, event_timestamp, reason)"
        " select org_id, id, event_id, event_type, event_timestamp, 'why' from telemetry_events"
    )
    refresh(connection)


def with_another_count(connection: Connection) -> None:
    add_event(connection, RELEASE, datetime.now(UTC), outcome="success")
    refresh(connection)
    connection.execute("update ops.rollups set event_count = event_count + 1 where period = 'day'")


def with_another_count_of_objectives(connection: Connection) -> None:
    add_event(connection, RELEASE, datetime.now(UTC), outcome="success")
    refresh(connection)
    connection.execute("update ops.sli_counts set good = 0")


def with_a_dead_message(connection: Connection) -> None:
    add_channel(connection)
    connection.execute("select ops.queue_test('ops', '{}')")
    connection.execute("update ops.alert_deliveries set state = 'dead', last_error = 'why'")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("jobs", without_a_run),
        ("jobs", without_a_run_for_long),
        ("alerts", not_evaluated),
        ("alerts", evaluated_long_ago),
        ("partitions", without_next_month),
        ("retention", with_an_old_month),
        ("retention", with_an_old_month_of_uncounted_events),
        ("cursor", with_events_that_wait),
        ("uncountable events", with_an_event_that_was_set_aside),
        ("counts", with_another_count),
        ("counts of objectives", with_another_count_of_objectives),
        ("messages", with_a_dead_message),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_who_follows_an_advice_is_well(
    database: Connection, cli: Cli, name: str, damage: Callable[[Connection], None]
) -> None:
    damage(database)
    passed, advice = check(database, name)
    assert not passed, advice
    do_as_advised(advice, database, cli)
    assert check(database, name)[0] is True


def test_an_event_that_was_set_aside_may_be_dropped_as_well(database: Connection, cli: Cli) -> None:
    with_an_event_that_was_set_aside(database)
    _, advice = check(database, "uncountable events")
    do_as_advised(
        advice.replace("run select ops.count_again()", "").replace("with select", "run select"), database, cli
    )
    assert check(database, "uncountable events") == (True, "every event could be counted")
    assert rows(database, "select from telemetry_events") == []


def test_where_nobody_audits_nothing_is_wrong(database: Connection) -> None:
    assert check(database, "audits") == (True, "slsa_audit_metrics is empty: nobody has recorded an audit")


def test_a_lack_of_channels_is_said_and_is_no_fault(database: Connection) -> None:
    assert check(database, "alerts") == (True, "never evaluated; no channel: nobody is told")


@pytest.fixture
def failing_jobs(database: Connection, cli: Cli) -> Connection:
    """Let each job fail, for an hour."""
    assert cli("run").returncode == 0
    add_event(database, RELEASE, datetime.now(UTC), outcome="success")
    database.execute("update telemetry_events set created_at = now() - interval '1 hour'")
    database.execute(AN_HOUR_AGO)
    database.execute("update ops.alert_evaluations set evaluated_at = evaluated_at - interval '1 hour'")
    without_next_month(database)
    database.execute(
        "create function ops.break_job() returns trigger language plpgsql as $$ begin raise 'broken_for_a_test'; end $$"
    )
    for table in ("rollups", "alert_evaluations", "alert_groups", "job_runs"):
        when = {"alert_evaluations": "insert or update", "job_runs": "delete"}.get(table, "insert")
        database.execute(
            f"create trigger broken before {when} on ops.{table} execute function ops.break_job()".encode()
        )
    assert cli("run").returncode == 1
    return database


@pytest.mark.parametrize("name", ["jobs", "cursor", "alerts", "partitions"])
def test_where_a_job_fails_the_advice_is_to_mend_that_and_not_only_to_run_it(
    failing_jobs: Connection, cli: Cli, name: str
) -> None:
    passed, advice = check(failing_jobs, name)
    assert (passed, re.sub("[0-9]{4}.*UTC: ", "… ", advice.partition("; the last")[2])) == (
        False,
        " run failed at … broken_for_a_test; mend that, then run opskpi run",
    )
    for table in ("rollups", "alert_evaluations", "alert_groups", "job_runs"):
        failing_jobs.execute(f"drop trigger broken on ops.{table}".encode())
    do_as_advised(advice, failing_jobs, cli)
    assert check(failing_jobs, name)[0] is True


@pytest.mark.parametrize(("minutes", "is_well"), [(14, True), (16, False)])
def test_a_refresh_that_waits_for_more_than_three_intervals_is_not_to_be_run_again(
    database: Connection, minutes: int, is_well: bool
) -> None:
    since = datetime.now(UTC) - timedelta(minutes=minutes)
    wait_for_a_writer(database, since=since, until=datetime.now(UTC))
    passed, detail = check(database, "jobs")
    assert passed is is_well
    assert ("opskpi run" in detail) is False
    told = f"it has waited since {since:%Y-%m-%d %H:%M:%S} UTC for a transaction that writes events and stays open; end that"
    assert (told in detail) is not is_well


def test_while_a_rebuild_runs_the_advice_is_to_wait(database: Connection, connect: Connect) -> None:
    without_a_run_for_long(database)
    with connect(autocommit=False) as rebuilding:
        rebuilding.execute("select pg_advisory_xact_lock(hashtextextended('ops.refresh', 0))")
        assert check(database, "jobs")[1].endswith("; a refresh or a rebuild is running; wait for its end")
    assert "run opskpi run" in check(database, "jobs")[1]


def test_a_month_with_a_view_on_it_is_said_with_the_view(database: Connection, cli: Cli) -> None:
    with_an_old_month(database)
    database.execute("create view public.january as select * from ops.telemetry_events_2020_01")
    passed, advice = check(database, "retention")
    assert (passed, advice.rpartition(": telemetry")[2]) == (
        False,
        "_events_2020_01 (drop what depends on it: public.january); mend that",
    )
    database.execute("drop view public.january")
    do_as_advised(check(database, "retention")[1], database, cli)
    assert check(database, "retention")[0] is True


def test_who_does_not_own_the_events_is_told_who_does(database: Connection, connect: Connect) -> None:
    with_an_old_month(database)
    without_next_month(database)
    database.execute("create role not_the_owner in role pg_read_all_data")
    try:
        database.execute(
            "grant usage on schema ops to not_the_owner; grant execute on all functions in schema ops to not_the_owner"
        )
        database.execute("alter role not_the_owner bypassrls")
        with connect(autocommit=False) as other:
            other.execute("set role not_the_owner")
            told = dict(rows(other, "select check_name, detail from ops.doctor()"))
            assert told["partitions"].endswith("; run opskpi run as postgres, which owns the events")
            assert "(run opskpi retention run as postgres, which owns the events)" in told["retention"]
    finally:
        database.execute("drop owned by not_the_owner; drop role not_the_owner")


@pytest.mark.parametrize("name", ["counts", "counts of objectives"])
def test_a_rebuild_is_advised_only_of_days_of_which_retention_has_left_all(
    database: Connection, cli: Cli, name: str
) -> None:
    query = "select detail from ops.doctor('2026-03-05T12:00Z') where check_name = %s"
    for at in ("2026-02-28T10:00Z", "2026-03-04T10:00Z"):
        add_event(database, RELEASE, at, outcome="success")
    refresh(database)
    database.execute("update ops.rollups set event_count = event_count + 1 where period = 'day'")
    database.execute("update ops.sli_counts set good = good + 1, total = total + 1")
    # Events of another type are gone up to a Sunday, so the first whole week begins the day after.
    database.execute("insert into ops.removed_events (event_type, removed_until) values ('artifact', '2026-03-01Z')")
    border = "it cannot be counted again, because retention has removed events of its week or month"
    advice = scalar(database, query, name)
    assert "run opskpi rebuild --since 2026-03-02T00:00:00Z --until 2026-03-05T00:00:00Z; what is earlier" in advice
    do_as_advised(advice, database, cli)
    left = scalar(database, query, name)
    assert left.startswith("1 day(s) do not add up")
    assert left.endswith(border)

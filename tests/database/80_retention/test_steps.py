"""Steps of the retention: nothing uncounted goes, whoever is at work is not disturbed, and what dies in the middle is finished."""

import psycopg
import pytest
from psycopg import sql

from opskpi.upkeep import retention
from support.events import (
    AS_OF,
    Connection,
    add_event,
    ingest,
    refresh,
    refused,
    rows,
    states,
)
from support.fixtures import Connect
from support.patience import eventually
from support.retention import STORED, freed_by_a_run, keep, partitions, repeatable, retain
from support.sessions import in_background, waits_for

pytestmark = pytest.mark.database


def test_a_run_is_in_the_journal_if_it_freed_something(three_months):
    keep(three_months, "events", "100 days")
    freed_by_a_run(three_months)
    freed_by_a_run(three_months)
    (row,) = rows(three_months, "select outcome, events, message from ops.job_runs where job = 'retention'")
    assert row[:2] == ("success", 5)
    assert row[2].startswith("telemetry_events_2026_01 dropped: 5, ")


def test_the_steps_of_one_thing_are_one_row_in_the_journal(three_months):
    keep(three_months, "events", "40 days", "slsa_provenance")
    retain(three_months, max_rows=1)
    retain(three_months, max_rows=1)
    assert rows(three_months, "select events, message from ops.job_runs where job = 'retention'") == [
        (2, "telemetry_events_2026_01 slsa_provenance deleted: 2")
    ]


# Nothing uncounted is removed, and whoever is at work is not disturbed.


@pytest.mark.parametrize("event_type", ["slsa_provenance", ""])
def test_an_event_that_is_not_counted_yet_is_not_removed(three_months, event_type):
    keep(three_months, "events", "100 days", event_type)
    late = add_event(three_months, at="2026-01-20T00:00Z", outcome="failure", tag="late")
    assert "not counted" in str(retention.plan(three_months, AS_OF)[0].obstacle)
    outcome = retention.run(three_months, as_of=AS_OF)
    assert "not counted" in outcome.obstacles[0]
    assert rows(three_months, "select tag from public.telemetry_events where id = %s", late) == [("late",)]
    refresh(three_months)
    before = states(three_months)
    assert freed_by_a_run(three_months)
    assert states(three_months) == before
    assert rows(three_months, "select from public.telemetry_events where id = %s", late) == []


def test_a_writer_with_an_open_transaction_in_the_month_delays_it(three_months, connect):
    keep(three_months, "events", "100 days")
    writer = connect(autocommit=False)
    add_event(writer, at="2026-01-20T00:00Z", outcome="success")
    outcome = retention.run(three_months, as_of=AS_OF)
    assert (outcome.freed, outcome.obstacles) == ([], ["telemetry_events_2026_01 is in use"])
    writer.commit()
    assert "not counted" in retention.run(three_months, as_of=AS_OF).obstacles[0]
    assert refresh(three_months).events == 1
    assert [row.removed for row in freed_by_a_run(three_months)] == [6]


def test_a_prepared_transaction_delays_the_month_it_wrote_to(prepared_months, connect):
    keep(prepared_months, "events", "100 days")
    writer = connect()
    writer.execute("begin")
    add_event(writer, at="2026-01-20T00:00Z")
    writer.execute("prepare transaction 'retention'")
    assert retention.run(prepared_months, as_of=AS_OF).freed == []
    writer.execute("commit prepared 'retention'")
    refresh(prepared_months)
    assert [row.removed for row in freed_by_a_run(prepared_months)] == [6]


def test_a_reader_delays_a_month_but_not_the_hours(three_months, connect):
    keep(three_months, "events", "100 days")
    keep(three_months, "hours", "100 days")
    reader = connect(autocommit=False)
    reader.execute("select count(*) from public.telemetry_events")
    outcome = retention.run(three_months, as_of=AS_OF)
    assert [row.name for row in outcome.freed] == ["hour"]
    assert outcome.obstacles == ["telemetry_events_2026_01 is in use"]
    reader.rollback()
    assert [row.name for row in freed_by_a_run(three_months)] == ["telemetry_events_2026_01"]


def test_of_two_runs_at_once_one_says_that_it_is_busy(three_months, connect):
    keep(three_months, "events", "90 days")
    other = connect(autocommit=False)
    assert retain(other)[0] == "freed"
    assert retain(three_months)[0] == "busy"
    assert refresh(three_months).state == "busy"
    other.commit()
    assert [row.name for row in freed_by_a_run(three_months)] == ["telemetry_events_2026_02"]


def test_retention_beside_a_refresh_or_a_rebuild_is_busy(three_months, connect):
    keep(three_months, "events", "90 days")
    other = connect(autocommit=False)
    refresh(other)
    outcome = retention.run(three_months, as_of=AS_OF)
    assert (outcome.freed, len(outcome.obstacles)) == ([], 1)
    other.rollback()
    assert len(freed_by_a_run(three_months)) == 2


@pytest.mark.own_database
def test_retention_refuses_a_transaction_that_sees_an_old_state(three_months):
    keep(three_months, "events", "90 days")
    with refused("OP002"), three_months.transaction():
        three_months.execute("set transaction isolation level repeatable read")
        retain(three_months)


def test_retention_refuses_steps_that_go_nowhere(three_months):
    with refused():
        retain(three_months, max_rows=0)
    with refused():
        retain(three_months, as_of="infinity")


def test_one_call_in_sql_removes_what_is_due_too(three_months):
    keep(three_months, "events", "90 days")
    keep(three_months, "events", "40 days", "hook_execution")
    for _ in range(4):
        three_months.execute("select * from ops.run()")
    # By the clock of the server, so that all three months are long over.
    assert rows(three_months, STORED) == []
    assert rows(three_months, "select outcome from ops.job_runs where job = 'retention' and outcome <> 'success'") == []


# What dies in the middle.

STOPS = ("removed_events", "removed_months", "removed_periods", "job_runs")


@pytest.mark.parametrize("table", STOPS)
def test_a_run_that_is_killed_in_the_middle_of_a_step_leaves_it_undone_and_the_next_one_finishes(
    three_months, connect: Connect, table
):
    keep(three_months, "events", "100 days")
    keep(three_months, "events", "60 days", "hook_execution")
    keep(three_months, "hours", "90 days")
    finished = retention.plan(three_months, AS_OF)
    victim, blocker = connect(), connect(autocommit=False)
    if table == "removed_periods":
        while retain(victim)[1] != "telemetry_events_2026_03":
            pass
        finished = retention.plan(three_months, AS_OF)
    before = states(three_months), rows(three_months, STORED), partitions(three_months)
    blocker.execute(sql.SQL("lock table ops.{} in share mode").format(sql.Identifier(table)))
    with in_background(lambda: retain(victim)) as answers:
        eventually(lambda: waits_for(three_months, victim, "Lock"))
        three_months.execute("select pg_terminate_backend(%s)", [victim.info.backend_pid])
    assert [type(answer) for answer in answers] == [psycopg.errors.AdminShutdown]
    blocker.rollback()
    eventually(lambda: not rows(three_months, "select from pg_stat_activity where pid = %s", victim.info.backend_pid))
    assert (states(three_months), rows(three_months, STORED), partitions(three_months)) == before
    assert freed_by_a_run(three_months) == finished
    assert retention.plan(three_months, AS_OF) == []


def test_a_run_that_ends_between_two_steps_is_finished_by_the_next(three_months):
    keep(three_months, "events", "90 days")
    keep(three_months, "hours", "90 days")
    before = {period: value for period, value in states(three_months).items() if period in ("slis", "units")}
    for _ in range(3):
        assert retain(three_months)[0] == "freed"
    refresh(three_months)
    freed_by_a_run(three_months)
    assert retention.plan(three_months, AS_OF) == []
    assert {period: value for period, value in states(three_months).items() if period in ("slis", "units")} == before


def test_an_ingest_that_begins_while_a_type_is_deleted_learns_of_it(three_months, connect: Connect):
    event = repeatable("2026-01-20T00:00:00Z")
    ingest(three_months, event)
    refresh(three_months)
    keep(three_months, "events", "90 days", "slsa_provenance")
    other, sender = connect(autocommit=False), connect()
    assert retain(other)[:2] == ("freed", "telemetry_events_2026_01")
    with in_background(lambda: ingest(sender, event)) as answers:
        eventually(lambda: waits_for(three_months, sender, "Lock"))
        other.commit()
    assert [(answer["accepted"], len(answer["refused"])) for answer in answers] == [(0, 1)]


def test_an_ingest_that_is_under_way_is_waited_for(three_months, connect: Connect):
    keep(three_months, "events", "90 days", "slsa_provenance")
    sender = connect(autocommit=False)
    ingest(sender, repeatable("2026-03-20T00:00:00Z"))
    assert retain(three_months)[0] == "blocked"
    sender.commit()
    assert retain(three_months)[0] == "freed"


def test_a_sender_whose_snapshot_is_older_than_a_removal_is_refused(three_months: Connection, connect: Connect) -> None:
    keep(three_months, "events", "60 days")
    sender = connect(autocommit=False)
    sender.execute("set transaction isolation level repeatable read")
    sender.execute("select 1")
    freed_by_a_run(three_months)
    with refused("OP002"):
        ingest(sender, repeatable("2026-01-10T12:00Z"))
    sender.rollback()

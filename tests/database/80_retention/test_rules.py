"""What is too old goes, by month, kind and period; what was counted of it stays, and nothing is counted twice."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from opskpi.upkeep import retention
from opskpi.upkeep.retention import Removal
from support.events import (
    AS_OF,
    NIL,
    Connection,
    add_audit,
    add_channel,
    add_event,
    add_row,
    add_rule,
    add_slo,
    alerts,
    ingest,
    instant,
    rebuild,
    refresh,
    refused,
    rows,
    run_jobs,
    scalar,
    states,
)
from support.fixtures import ActingAs, Connect

pytestmark = pytest.mark.database

MONTHS = ("2026-01", "2026-02", "2026-03")
JANUARY = ("2026-01-01T00:00Z", "2026-02-01T00:00Z")
PARTITIONS = (
    "select relname from pg_class join pg_inherits on inhrelid = oid"
    " where inhparent = 'public.telemetry_events'::regclass and relname ~ '_2026_0[1-4]$' order by 1"
)
STORED = (
    "select to_char(event_timestamp at time zone 'UTC', 'YYYY-MM'), event_type, count(*)"
    " from public.telemetry_events group by 1, 2 order by 1, 2"
)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that within 10 s"
        time.sleep(0.005)


def waits_for(watcher: Connection, worker: Connection, event: str) -> bool:
    query = "select wait_event_type from pg_stat_activity where pid = %s"
    return scalar(watcher, query, worker.info.backend_pid) == event


@contextmanager
def in_background(call: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run one blocking call; what it returned or raised is in the list after the block."""
    answers: list[Any] = []

    def work() -> None:
        try:
            answers.append(call())
        except psycopg.Error as error:
            answers.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield answers
    finally:
        thread.join(timeout=30)
        assert not thread.is_alive()


def keep(connection: Connection, kept: str, age: str | None, event_type: str = "") -> None:
    connection.execute("select ops.set_retention(%s, %s::interval, %s)", [kept, age, event_type])


def retain(connection: Connection, *, as_of: str = AS_OF, max_rows: int = 20_000) -> Any:
    """Take one step and return state, name, event type and rows."""
    (step,) = rows(
        connection,
        "select state, name, event_type, removed, message from ops.retain(%s, '2026-06-01T00:00Z', '{}', %s)",
        *(as_of, max_rows),
    )
    return step


def run(connection: Connection, as_of: str = AS_OF) -> list[Removal]:
    outcome = retention.run(connection, as_of=as_of)
    assert outcome.obstacles == []
    return outcome.freed


def partitions(connection: Connection) -> list[str]:
    return [name for (name,) in rows(connection, PARTITIONS)]


def add_month(connection: Connection, month: str) -> None:
    """Store two runs and a hook of a month, of which one is a unit of work that never succeeded."""
    for day in (1, 28):
        at = f"{month}-{day:02}T10:07Z"
        add_event(connection, at=at, outcome="failure", duration_ms=day, tag=f"{month}-{day}")
        add_event(connection, "audit_observer", at, outcome="success", duration_ms=day * 1000, run_id=day)
    add_event(
        connection,
        "hook_execution",
        f"{month}-15T12:00Z",
        result="blocked",
        duration_ms=3,
        findings_summary={"pattern": "x"},
    )


@pytest.fixture
def filled(database: Connection) -> Connection:
    """Store and count three months in partitions of their own, and an event of 2019 in the default one."""
    for month in MONTHS:
        database.execute("select ops.create_partition(%s)", [f"{month}-01"])
        add_month(database, month)
    add_audit(database, 1, "2026-01-15T10:00Z")
    refresh(database)
    return database


@pytest.fixture
def prepared(filled: Connection) -> Any:
    if scalar(filled, "select current_setting('max_prepared_transactions')") == "0":
        pytest.skip("max_prepared_transactions is 0")
    yield filled
    for (name,) in rows(filled, "select gid from pg_prepared_xacts where database = current_database()"):
        filled.execute(sql.SQL("rollback prepared {}").format(name))


def test_without_a_rule_nothing_is_ever_removed(filled):
    assert rows(filled, "select * from ops.retention_rules") == []
    assert retention.plan(filled, "2099-01-01T00:00Z") == []
    assert run(filled, "2099-01-01T00:00Z") == []
    assert len(rows(filled, "select from public.telemetry_events")) == 15


def test_a_month_that_is_too_old_is_dropped_and_all_that_was_counted_of_it_stays(filled):
    before = states(filled)
    size = scalar(filled, "select pg_total_relation_size('ops.telemetry_events_2026_01')")
    keep(filled, "events", "100 days")
    assert run(filled) == [
        Removal(
            "events", "drop", "telemetry_events_2026_01", None, instant(JANUARY[0]), instant(JANUARY[1]), 5, size, None
        )
    ]
    assert states(filled) == before
    assert partitions(filled) == ["telemetry_events_2026_02", "telemetry_events_2026_03"]
    assert run(filled) == []


def test_an_event_lives_for_its_age_and_until_its_month_is_as_old(filled):
    keep(filled, "events", "100 days")
    assert run(filled, "2026-05-11T23:59:59.999999Z") == []
    assert [freed.name for freed in run(filled, "2026-05-12T00:00Z")] == ["telemetry_events_2026_01"]


def test_ages_are_reckoned_in_utc_whatever_the_session_says(filled):
    filled.execute("set timezone = 'Pacific/Auckland'; set datestyle = 'SQL, DMY'")
    keep(filled, "events", "1 month")
    assert retain(filled, as_of="2026-02-28T23:59:59Z")[0] == "done"
    assert retain(filled, as_of="2026-03-01T00:00Z")[:2] == ("freed", "telemetry_events_2026_01")
    assert retain(filled, as_of="2026-03-01T00:00Z")[0] == "done"


def test_a_run_is_in_the_journal_if_it_freed_something(filled):
    keep(filled, "events", "100 days")
    run(filled)
    run(filled)
    (row,) = rows(filled, "select outcome, events, message from ops.job_runs where job = 'retention'")
    assert row[:2] == ("success", 5)
    assert row[2].startswith("telemetry_events_2026_01 dropped: 5, ")


def test_a_type_with_an_age_of_its_own_goes_by_itself_in_batches(filled):
    before = states(filled)
    keep(filled, "events", "40 days", "slsa_provenance")
    assert retain(filled, max_rows=1) == ("freed", "telemetry_events_2026_01", "slsa_provenance", 1, None)
    planned = retention.plan(filled, AS_OF)
    assert [(row.action, row.name, row.event_type, row.removed) for row in planned] == [
        ("delete", "telemetry_events_2026_01", "slsa_provenance", 1),
        ("delete", "telemetry_events_2026_02", "slsa_provenance", 2),
        ("delete", "telemetry_events_2026_03", "slsa_provenance", 2),
    ]
    assert [row.removed for row in run(filled)] == [1, 2, 2]
    assert states(filled) == before
    assert [row for row in rows(filled, STORED) if row[1] == "slsa_provenance"] == []
    assert len(rows(filled, "select from public.telemetry_events")) == 9
    journal = rows(filled, "select events, message from ops.job_runs where job = 'retention' order by message")
    assert journal[0] == (1, "telemetry_events_2026_01 slsa_provenance deleted: 1")


def test_the_steps_of_one_thing_are_one_row_in_the_journal(filled):
    keep(filled, "events", "40 days", "slsa_provenance")
    retain(filled, max_rows=1)
    retain(filled, max_rows=1)
    assert rows(filled, "select events, message from ops.job_runs where job = 'retention'") == [
        (2, "telemetry_events_2026_01 slsa_provenance deleted: 2")
    ]


def test_a_type_can_be_kept_for_ever_though_the_others_are_not(filled):
    keep(filled, "events", "40 days")
    keep(filled, "events", None, "hook_execution")
    run(filled)
    assert rows(filled, STORED) == [(month, "hook_execution", 1) for month in MONTHS]
    filled.execute("select ops.unset_retention('events', 'hook_execution')")
    assert [(row.action, row.removed) for row in run(filled)] == [("drop", 1)] * 3


def test_a_month_whose_types_went_one_by_one_is_dropped_in_the_end(filled):
    keep(filled, "events", "40 days", "slsa_provenance")
    run(filled)
    for kind in ("audit_observer", "hook_execution"):
        keep(filled, "events", "40 days", kind)
    freed = run(filled)
    assert {(row.action, row.removed) for row in freed} == {("drop", 3)}
    assert partitions(filled) == []


def test_what_is_too_old_in_the_default_partition_is_deleted_there(filled):
    keep(filled, "events", "100 days")
    run(filled)
    for at in ("2019-03-14T15:00Z", "2026-01-05T15:00Z"):
        add_event(filled, "hook_override", at)
    refresh(filled)
    before = states(filled)
    assert [(row.name, row.event_type, row.removed) for row in run(filled)] == [
        ("telemetry_events_default 2019-03", "hook_override", 1),
        ("telemetry_events_default 2026-01", "hook_override", 1),
    ]
    assert states(filled) == before


def test_late_events_of_a_month_that_is_gone_make_no_partition_that_is_dropped_again(filled):
    keep(filled, "events", "100 days")
    run(filled)
    add_event(filled, at="2026-01-05T15:00Z", outcome="success")
    assert scalar(filled, "select ops.maintain(%s)", AS_OF) == 4
    assert partitions(filled) == ["telemetry_events_2026_02", "telemetry_events_2026_03"]
    keep(filled, "events", None, "slsa_provenance")
    filled.execute("select ops.maintain(%s)", [AS_OF])
    assert partitions(filled)[0] == "telemetry_events_2026_01"
    assert run(filled) == []


def test_a_partition_that_somebody_else_attached_is_left_to_that_somebody(filled):
    filled.execute(
        "create table ops.quarter partition of public.telemetry_events for values from ('2025-01-01Z') to ('2025-04-01Z')"
    )
    add_event(filled, at="2025-02-01T00:00Z")
    refresh(filled)
    keep(filled, "events", "1 day")
    run(filled)
    assert rows(filled, "select tableoid::regclass::text from public.telemetry_events") == [("ops.quarter",)]


def test_a_month_on_which_something_depends_waits_and_the_next_one_goes(filled):
    filled.execute("create view public.mine as select id from ops.telemetry_events_2026_01")
    keep(filled, "events", "90 days")
    outcome = retention.run(filled, as_of=AS_OF)
    assert [row.name for row in outcome.freed] == ["telemetry_events_2026_02"]
    assert "depend" in outcome.obstacles[0]


# Nothing uncounted is removed, and whoever is at work is not disturbed.


@pytest.mark.parametrize("event_type", ["slsa_provenance", ""])
def test_an_event_that_is_not_counted_yet_is_not_removed(filled, event_type):
    keep(filled, "events", "100 days", event_type)
    late = add_event(filled, at="2026-01-20T00:00Z", outcome="failure", tag="late")
    assert "not counted" in str(retention.plan(filled, AS_OF)[0].obstacle)
    outcome = retention.run(filled, as_of=AS_OF)
    assert "not counted" in outcome.obstacles[0]
    assert rows(filled, "select tag from public.telemetry_events where id = %s", late) == [("late",)]
    refresh(filled)
    before = states(filled)
    assert run(filled)
    assert states(filled) == before
    assert rows(filled, "select from public.telemetry_events where id = %s", late) == []


def test_a_dry_run_says_not_yet_only_of_the_types_that_have_uncounted_events(filled):
    for kind in ("audit_observer", "slsa_provenance"):
        keep(filled, "events", "100 days", kind)
    add_event(filled, at="2026-01-20T00:00Z", outcome="failure", tag="late")
    planned = [(row.event_type, row.removed, row.obstacle is not None) for row in retention.plan(filled, AS_OF)]
    assert planned == [("audit_observer", 2, False), ("slsa_provenance", 2, True)]
    assert [(row.event_type, row.removed) for row in retention.run(filled, as_of=AS_OF).freed] == [
        ("audit_observer", 2),
        ("slsa_provenance", 2),
    ]


def test_a_writer_with_an_open_transaction_in_the_month_delays_it(filled, connect):
    keep(filled, "events", "100 days")
    writer = connect(autocommit=False)
    add_event(writer, at="2026-01-20T00:00Z", outcome="success")
    outcome = retention.run(filled, as_of=AS_OF)
    assert (outcome.freed, outcome.obstacles) == ([], ["telemetry_events_2026_01 is in use"])
    writer.commit()
    assert "not counted" in retention.run(filled, as_of=AS_OF).obstacles[0]
    assert refresh(filled).events == 1
    assert [row.removed for row in run(filled)] == [6]


def test_a_prepared_transaction_delays_the_month_it_wrote_to(prepared, connect):
    keep(prepared, "events", "100 days")
    writer = connect()
    writer.execute("begin")
    add_event(writer, at="2026-01-20T00:00Z")
    writer.execute("prepare transaction 'retention'")
    assert retention.run(prepared, as_of=AS_OF).freed == []
    writer.execute("commit prepared 'retention'")
    refresh(prepared)
    assert [row.removed for row in run(prepared)] == [6]


def test_a_reader_delays_a_month_but_not_the_hours(filled, connect):
    keep(filled, "events", "100 days")
    keep(filled, "hours", "100 days")
    reader = connect(autocommit=False)
    reader.execute("select count(*) from public.telemetry_events")
    outcome = retention.run(filled, as_of=AS_OF)
    assert [row.name for row in outcome.freed] == ["hour"]
    assert outcome.obstacles == ["telemetry_events_2026_01 is in use"]
    reader.rollback()
    assert [row.name for row in run(filled)] == ["telemetry_events_2026_01"]


def test_of_two_runs_at_once_one_says_that_it_is_busy(filled, connect):
    keep(filled, "events", "90 days")
    other = connect(autocommit=False)
    assert retain(other)[0] == "freed"
    assert retain(filled)[0] == "busy"
    assert refresh(filled).state == "busy"
    other.commit()
    assert [row.name for row in run(filled)] == ["telemetry_events_2026_02"]


def test_retention_beside_a_refresh_or_a_rebuild_is_busy(filled, connect):
    keep(filled, "events", "90 days")
    other = connect(autocommit=False)
    refresh(other)
    outcome = retention.run(filled, as_of=AS_OF)
    assert (outcome.freed, len(outcome.obstacles)) == ([], 1)
    other.rollback()
    assert len(run(filled)) == 2


@pytest.mark.own_database
def test_retention_refuses_a_transaction_that_sees_an_old_state(filled):
    keep(filled, "events", "90 days")
    with refused("OP002"), filled.transaction():
        filled.execute("set transaction isolation level repeatable read")
        retain(filled)


def test_retention_refuses_steps_that_go_nowhere(filled):
    with refused():
        retain(filled, max_rows=0)
    with refused():
        retain(filled, as_of="infinity")


# What is gone is neither counted again nor missed.


def repeatable(at: str, event_type: str = "slsa_provenance") -> dict[str, object]:
    return {
        "event_type": event_type,
        "payload": {"outcome": "success", "workflow": "w"},
        "event_id": str(uuid4()),
        "event_timestamp": at,
    }


def test_a_repeat_of_a_removed_event_is_refused_since_it_cannot_be_recognised(filled):
    event = repeatable("2026-01-20T00:00:00Z")
    assert ingest(filled, event)["accepted"] == 1
    refresh(filled)
    before = states(filled)
    keep(filled, "events", "90 days")
    run(filled)
    answer = ingest(filled, event, repeatable("2026-03-02T00:00:00Z"), repeatable("2026-02-28T23:59:59Z"))
    assert (answer["accepted"], [fault["index"] for fault in answer["refused"]]) == (1, [0, 2])
    assert {fault["field"] for fault in answer["refused"]} == {"timestamp"}
    assert "removed" in answer["refused"][0]["reason"]
    filled.execute("delete from public.telemetry_events where event_timestamp = '2026-03-02Z'")
    refresh(filled)
    assert states(filled) == before


def test_only_the_types_that_were_removed_are_refused(filled):
    keep(filled, "events", "90 days", "slsa_provenance")
    run(filled)
    accepted = ingest(filled, repeatable("2026-01-20T00:00:00Z", "workflow_run"))
    assert (accepted["accepted"], accepted["refused"]) == (1, [])
    assert ingest(filled, repeatable("2026-01-20T00:00:00Z"))["accepted"] == 0


def test_users_are_refused_likewise(filled, acting_as: ActingAs):
    keep(filled, "events", "90 days")
    run(filled)
    with acting_as(filled, "authenticated", org=UUID(int=7)):
        answer = ingest(filled, repeatable("2026-01-20T00:00:00Z"), repeatable("2026-03-20T00:00:00Z"))
    assert (answer["accepted"], len(answer["refused"])) == (1, 1)


def test_a_plain_insert_of_a_removed_time_is_new_and_counted(filled):
    keep(filled, "events", "90 days")
    run(filled)
    add_event(filled, at="2026-01-20T00:00Z", outcome="success", duration_ms=1)
    assert refresh(filled).events == 1
    assert [(row.name, row.removed) for row in run(filled)] == [("telemetry_events_default 2026-01", 1)]
    query = "select sum(event_count) from ops.rollups join ops.series using (org_id, series_id)"
    query += " where period = 'month' and period_start = '2026-01-01Z' and event_type = 'slsa_provenance'"
    assert scalar(filled, query) == 3


def test_a_month_that_is_dropped_a_second_time_frees_only_what_came_since(filled):
    keep(filled, "events", "90 days")
    run(filled)
    filled.execute("select ops.create_partition('2026-01-01')")
    add_event(filled, at="2026-01-20T00:00Z", outcome="success", duration_ms=1)
    refresh(filled)
    assert [(row.action, row.removed) for row in run(filled)] == [("drop", 1)]


def test_a_collected_event_that_was_removed_is_a_duplicate(filled):
    known, new, broken = (repeatable("2026-01-20T00:00:00Z"), repeatable("2026-03-20T00:00:00Z"), {"event_type": "?"})
    assert scalar(filled, "select ops.collect_events(%s)", Jsonb([known]))["accepted"] == 1
    refresh(filled)
    keep(filled, "events", "90 days")
    run(filled)
    moved = known | {"event_timestamp": "2026-03-21T00:00:00Z"}
    unseen = repeatable("2026-01-21T00:00:00Z")
    for expected in ((1, 2), (0, 3)):
        answer = scalar(filled, "select ops.collect_events(%s)", Jsonb([known, broken, new, moved, unseen]))
        assert (answer["accepted"], answer["duplicate"]) == expected
        assert [fault["index"] for fault in answer["refused"]] == [1, 4]
    assert scalar(filled, "select count(*) from public.telemetry_events where event_type = 'slsa_provenance'") == 3


def test_an_audit_that_is_repeated_after_its_event_was_removed_stays_as_it_was(filled):
    add_event(filled, at="2026-01-20T00:00Z", run_id=77, outcome="success")
    audit = {"audit_run_id": 5, "provenance_run_id": 77, "audit_timestamp": "2026-01-20T01:00Z", "tag": "v1"}
    audit |= {"provenance_status": "success"}
    query = "select events_stored, provenance_synced from ops.observe_audit(%s, %s)"
    arguments = [Jsonb(audit), Jsonb({"outcome": "success"})]
    assert rows(filled, query, *arguments) == [(1, True)]
    refresh(filled)
    before = states(filled)
    keep(filled, "events", "90 days")
    run(filled)
    assert rows(filled, query, *arguments) == [(0, True)]
    refresh(filled)
    assert states(filled) == before


def test_a_rebuild_of_what_is_gone_is_refused_and_the_hint_names_what_can_be_rebuilt(filled):
    keep(filled, "events", "90 days")
    run(filled)
    before = states(filled)
    for since in ("2026-01-15T00:00Z", "2026-02-28T00:00Z", "2026-03-01T00:00Z"):
        with refused():
            rebuild(filled, since, "2026-04-01T00:00Z")
    # The first week that lies in March begins on the second, and April is the first month that begins in or after it.
    first = scalar(filled, "select ops.rebuildable_from()")
    assert first == instant("2026-03-02T00:00Z")
    assert states(filled) == before


def test_a_rebuild_after_the_removal_leaves_all_that_was_counted(filled):
    for tag in ("2026-01-1", "2026-02-28", "new"):
        add_event(filled, at="2026-03-20T10:00Z", outcome="success", duration_ms=5, tag=tag)
    add_event(filled, at="2026-04-20T10:00Z", outcome="success", duration_ms=5, tag="2026-03-1")
    refresh(filled)
    before = states(filled)
    keep(filled, "events", "90 days")
    run(filled)
    first = scalar(filled, "select ops.rebuildable_from()")
    rebuild(filled, first, "2026-06-01T00:00Z")
    assert states(filled) == before


def test_objectives_explain_what_burned_though_its_events_are_gone(filled):
    queries = [f"provenance_generation_{objective}" for objective in ("availability", "latency", "error_rate")]
    add_slo(filled, "sliced", event_type="slsa_provenance", slices=("1 hour", "0.9"))

    def costs(name: str) -> Any:
        query = "select count(*), sum(cost), count(event_id) from ops.explain_slo(%s, '2026-01-01Z', '2026-04-01Z')"
        return rows(filled, query, name)[0]

    refresh(filled)
    before = {name: costs(name) for name in [*queries, "sliced"]}
    assert before["sliced"][2] == 6
    keep(filled, "events", "90 days")
    run(filled)
    for name, (count, cost, _) in before.items():
        assert costs(name)[:2] == (count, cost)
    assert costs("sliced")[2] == 2
    reasons = rows(filled, "select distinct reason from ops.explain_slo('sliced', '2026-01-01Z', '2026-02-01Z')")
    assert reasons == [("no longer stored",)]


def test_doctor_does_not_miss_what_retention_removed_and_says_when_it_is_overdue(filled):
    keep(filled, "events", "90 days")
    checks = "select check_name, passed from ops.doctor(%s) where check_name in ('counts', 'retention') order by 1"
    assert rows(filled, checks, "2026-05-31T00:00Z") == [("counts", True), ("retention", False)]
    run(filled, "2026-05-31T00:00Z")
    assert rows(filled, checks, "2026-05-31T00:00Z") == [("counts", True), ("retention", True)]
    assert rows(filled, checks, "2026-02-03T00:00Z") == [("counts", True), ("retention", True)]
    # What is damaged beside it is still found.
    filled.execute("update ops.rollups set event_count = 9 where period = 'day' and period_start = '2026-03-15Z'")
    assert rows(filled, "select day_start from ops.count_differences('2026-01-01Z')") == [
        (instant("2026-03-15T00:00Z"),)
    ]


# Hours, KPIs and alerts.


def test_hours_go_and_the_days_of_them_stay(filled):
    days = "select * from ops.rollups where period <> 'hour' order by org_id, period, period_start, series_id"
    before = rows(filled, days)
    keep(filled, "hours", "120 days")
    planned = retention.plan(filled, AS_OF)
    assert [(row.kept, row.name, row.until) for row in planned] == [("hours", "hour", instant("2026-02-01T00:00Z"))]
    assert run(filled) == planned
    assert rows(filled, days) == before
    for table in ("rollups", "histograms", "blocked_patterns"):
        query = sql.SQL("select min(period_start) >= '2026-02-01Z' from ops.{} where period = 'hour'").format(
            sql.Identifier(table)
        )
        if table == "rollups":
            query += sql.SQL(" and series_id not in (select series_id from ops.series where event_type ~ '^slsa_a')")
        assert filled.execute(query).fetchone() == (True,)
    assert scalar(
        filled, "select min(period_start) from public.kpi_aggregations where aggregation_period = 'hour'"
    ) >= (instant("2026-02-01T00:00Z"))


def test_hours_go_stretch_by_stretch_and_each_is_whole(filled):
    keep(filled, "hours", "100 days")
    assert retain(filled)[:2] == ("freed", "hour")
    tables: dict[str, LiteralString] = {
        "rollups": "select from ops.rollups join ops.series using (org_id, series_id) where period = 'hour'"
        " and event_type <> 'slsa_audit_metrics' and period_start < %s",
        "histograms": "select from ops.histograms where period = 'hour' and period_start < %s",
        "kpis": "select from public.kpi_aggregations where aggregation_period = 'hour' and period_start < %s",
    }
    edge = scalar(filled, "select removed_until from ops.removed_periods")
    assert instant("2026-01-01T11:00Z") <= edge < instant("2026-01-28T00:00Z")
    assert [rows(filled, query, edge) for query in tables.values()] == [[], [], []]
    assert all(rows(filled, query, "2026-01-29Z") for query in tables.values())


def test_a_late_event_of_a_removed_hour_counts_in_its_day_only(filled):
    keep(filled, "hours", "100 days")
    run(filled)
    counts = "select period, sum(event_count) from ops.rollups join ops.series using (org_id, series_id)"
    counts += " where event_type = 'hook_execution' and period_start < '2026-02-01Z' group by 1 order by 1"
    assert rows(filled, counts) == [("day", 1), ("month", 1), ("week", 1)]
    add_event(
        filled,
        "hook_execution",
        "2026-01-15T12:30Z",
        result="blocked",
        duration_ms=9,
        findings_summary={"pattern": "x"},
    )
    fresh = "select distinct aggregation_period from ops.kpis where period_start < '2026-01-16Z'"
    fresh += " and metric_name = 'hook_executions_total' and metric_value = 2 order by 1"
    assert rows(filled, fresh) == [("day",), ("month",), ("week",)]
    refresh(filled)
    assert rows(filled, counts) == [("day", 2), ("month", 2), ("week", 2)]
    assert rows(filled, fresh) == [("day",), ("month",), ("week",)]
    assert rows(filled, "select sum(blocked_count) from ops.blocked_patterns where period = 'day'") == [(4,)]
    for table in ("histograms", "blocked_patterns"):
        query = sql.SQL("select from ops.{} where period = 'hour' and period_start < '2026-02-01Z'")
        assert filled.execute(query.format(sql.Identifier(table))).fetchall() == []
    assert run(filled) == []


def test_a_rebuild_brings_no_removed_hour_back(filled):
    keep(filled, "hours", "100 days")
    run(filled)
    before = states(filled)
    rebuild(filled, "2026-01-01T00:00Z", "2026-04-01T00:00Z")
    assert states(filled) == before


def test_an_audit_of_a_removed_hour_can_still_change(filled):
    keep(filled, "hours", "100 days")
    run(filled)
    filled.execute("update public.slsa_audit_metrics set validation_status = 'failure'")
    refresh(filled)
    query = "select aggregation_period, metric_value from public.kpi_aggregations"
    query += " where metric_name = 'audit_success_rate' order by 1"
    assert rows(filled, query) == [("day", 0), ("month", 0), ("week", 0)]
    filled.execute("delete from public.slsa_audit_metrics")
    refresh(filled)
    assert rows(filled, query) == []
    assert run(filled) == []


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_kpis_go_by_whole_periods(database, zone):
    database.execute("update ops.settings set value = %s where name = 'time_zone'", [zone])
    for month in MONTHS:
        add_month(database, month)
    refresh(database)
    keep(database, "kpis", "100 days")
    planned = retention.plan(database, AS_OF)
    assert [row.name for row in planned] == ["day", "week", "month"]
    assert run(database) == planned
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
    assert run(database) == []


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
    freed = run(database)
    known = [row if row.removed is not None else None for row in planned]
    assert [row if plan else None for row, plan in zip(freed, known, strict=True)] == known
    assert [row.removed for row in freed] == [2, 4, 2, 4, 2]
    assert (None not in known) == (zone != "Asia/Kolkata")
    assert states(database) == before
    rebuild(database, scalar(database, "select ops.rebuildable_from()"), "2026-06-01T00:00Z")
    assert states(database) == before


def test_a_dry_run_changes_nothing_and_says_exactly_what_the_run_then_does(filled):
    keep(filled, "events", "100 days")
    keep(filled, "events", "60 days", "hook_execution")
    keep(filled, "hours", "90 days")
    keep(filled, "kpis", "60 days")
    before = states(filled), rows(filled, STORED), rows(filled, "select * from ops.job_runs")
    planned = retention.plan(filled, AS_OF)
    assert (states(filled), rows(filled, STORED), rows(filled, "select * from ops.job_runs")) == before
    assert run(filled) == planned
    assert [row.kept for row in planned] == ["events"] * 3 + ["hours"] + ["kpis"] * 3
    assert retention.plan(filled, AS_OF) == []


def add_alert(connection: Connection, resolved_at: str | None, subject: str = "s") -> int:
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
    old, recent = add_alert(database, "2026-01-10T00:00Z"), add_alert(database, "2026-05-10T00:00Z")
    firing, unsaid = add_alert(database, None), add_alert(database, "2026-01-10T00:00Z")
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
    assert run(database) == []
    keep(database, "alerts", "100 days")
    planned = retention.plan(database, AS_OF)
    assert [(row.name, row.removed) for row in planned] == [("alert_deliveries", 3), ("alerts", 1)]
    assert run(database) == planned
    assert [row[0] for row in rows(database, "select alert_id from ops.alerts order by 1")] == [recent, firing, unsaid]
    assert [row[0] for row in rows(database, "select state from ops.alert_deliveries order by delivery_id")] == [
        "delivered",
        "delivered",
        "queued",
        "sending",
    ]


def test_a_type_that_is_silent_since_before_the_hours_is_still_found_silent(filled):
    add_rule(filled, "quiet", "silent_input", event_type="hook_execution", silent_for="120 days")
    keep(filled, "hours", "31 days")
    run_jobs(filled, "2026-06-01T00:00Z")
    run(filled)
    run_jobs(filled, "2026-06-02T00:00Z")
    assert [alert for alert in alerts(filled) if alert[0] == "quiet"] == []
    run_jobs(filled, "2026-07-31T00:00Z")
    assert ("quiet", "hook_execution", "firing") in alerts(filled)


# Rules that cannot be.


@pytest.mark.parametrize(
    "arguments",
    [
        ("events", "23 hours", ""),
        ("hours", "30 days", ""),
        ("kpis", "30 days", ""),
        ("alerts", "30 days", ""),
        ("events", "101 years", ""),
        ("everything", "90 days", ""),
        ("hours", "90 days", "hook_execution"),
        ("events", "90 days", "no_such_type"),
        ("events", "90 days", None),
        (None, "90 days", ""),
    ],
    ids=str,
)
def test_a_rule_that_makes_no_sense_is_refused(database, arguments):
    with refused():
        keep(database, *arguments)
    assert rows(database, "select from ops.retention_rules") == []


def test_an_unknown_type_is_refused_with_those_that_are_known_and_one_that_occurs_is_fine(database):
    with pytest.raises(psycopg.Error) as caught:
        keep(database, "events", "90 days", "made_up")
    assert "hook_execution, hook_override" in str(caught.value.diag.message_hint)
    add_event(database, "made_up")
    keep(database, "events", "90 days", "made_up")
    keep(database, "events", "80 days", "made_up")
    assert [(rule.event_type, rule.age) for rule in retention.rules(database)] == [("made_up", "80 days")]


def test_users_may_read_the_rules_and_change_nothing(filled, acting_as: ActingAs):
    keep(filled, "events", "90 days")
    with acting_as(filled, "authenticated", org=NIL):
        assert rows(filled, "select kept from ops.retention_rules") == [("events",)]
    for statement in ("delete from ops.retention_rules", "select * from ops.removed_months", "select ops.retain()"):
        with acting_as(filled, "authenticated", org=NIL), pytest.raises(psycopg.errors.InsufficientPrivilege):
            filled.execute(statement)


def test_a_user_learns_no_name_of_a_type_that_nobody_described(filled, acting_as: ActingAs):
    add_event(filled, "secret_project", "2026-01-10T00:00Z")
    refresh(filled)
    keep(filled, "events", "90 days")
    run(filled)
    assert ("secret_project",) in rows(filled, "select event_type from ops.removed_events")
    with acting_as(filled, "authenticated", org=UUID(int=7)):
        seen = rows(filled, "select event_type from ops.removed_events")
    assert ("slsa_provenance",) in seen
    assert ("secret_project",) not in seen


def test_one_call_in_sql_removes_what_is_due_too(filled):
    keep(filled, "events", "90 days")
    keep(filled, "events", "40 days", "hook_execution")
    for _ in range(4):
        filled.execute("select * from ops.run()")
    # By the clock of the server, so that all three months are long over.
    assert rows(filled, STORED) == []
    assert rows(filled, "select outcome from ops.job_runs where job = 'retention' and outcome <> 'success'") == []


def test_what_the_hooks_did_of_late_on_a_removed_day_is_not_shown_and_then_gone(filled):
    keep(filled, "kpis", "100 days")
    run(filled)
    days = "select to_char(day_start at time zone 'UTC', 'MM-DD') from ops.hook_days order by 1"
    before = rows(filled, days)
    add_event(filled, "hook_execution", "2026-01-20T00:00Z", result="allowed", duration_ms=1)
    assert rows(filled, days) == before == [("03-15",)]
    refresh(filled)
    assert rows(filled, days) == before


# What dies in the middle.

STOPS = ("removed_events", "removed_months", "removed_periods", "job_runs")


@pytest.mark.parametrize("table", STOPS)
def test_a_run_that_is_killed_in_the_middle_of_a_step_leaves_it_undone_and_the_next_one_finishes(
    filled, connect: Connect, table
):
    keep(filled, "events", "100 days")
    keep(filled, "events", "60 days", "hook_execution")
    keep(filled, "hours", "90 days")
    finished = retention.plan(filled, AS_OF)
    victim, blocker = connect(), connect(autocommit=False)
    if table == "removed_periods":
        while retain(victim)[1] != "telemetry_events_2026_03":
            pass
        finished = retention.plan(filled, AS_OF)
    before = states(filled), rows(filled, STORED), partitions(filled)
    blocker.execute(sql.SQL("lock table ops.{} in share mode").format(sql.Identifier(table)))
    with in_background(lambda: retain(victim)) as answers:
        until(lambda: waits_for(filled, victim, "Lock"))
        filled.execute("select pg_terminate_backend(%s)", [victim.info.backend_pid])
    assert [type(answer) for answer in answers] == [psycopg.errors.AdminShutdown]
    blocker.rollback()
    until(lambda: not rows(filled, "select from pg_stat_activity where pid = %s", victim.info.backend_pid))
    assert (states(filled), rows(filled, STORED), partitions(filled)) == before
    assert run(filled) == finished
    assert retention.plan(filled, AS_OF) == []


def test_a_run_that_ends_between_two_steps_is_finished_by_the_next(filled):
    keep(filled, "events", "90 days")
    keep(filled, "hours", "90 days")
    before = {period: value for period, value in states(filled).items() if period in ("slis", "units")}
    for _ in range(3):
        assert retain(filled)[0] == "freed"
    refresh(filled)
    run(filled)
    assert retention.plan(filled, AS_OF) == []
    assert {period: value for period, value in states(filled).items() if period in ("slis", "units")} == before


def test_an_ingest_that_begins_while_a_type_is_deleted_learns_of_it(filled, connect: Connect):
    event = repeatable("2026-01-20T00:00:00Z")
    ingest(filled, event)
    refresh(filled)
    keep(filled, "events", "90 days", "slsa_provenance")
    other, sender = connect(autocommit=False), connect()
    assert retain(other)[:2] == ("freed", "telemetry_events_2026_01")
    with in_background(lambda: ingest(sender, event)) as answers:
        until(lambda: waits_for(filled, sender, "Lock"))
        other.commit()
    assert [(answer["accepted"], len(answer["refused"])) for answer in answers] == [(0, 1)]


def test_an_ingest_that_is_under_way_is_waited_for(filled, connect: Connect):
    keep(filled, "events", "90 days", "slsa_provenance")
    sender = connect(autocommit=False)
    ingest(sender, repeatable("2026-03-20T00:00:00Z"))
    assert retain(filled)[0] == "blocked"
    sender.commit()
    assert retain(filled)[0] == "freed"


def test_a_sender_whose_snapshot_is_older_than_a_removal_is_refused(filled: Connection, connect: Connect) -> None:
    keep(filled, "events", "60 days")
    sender = connect(autocommit=False)
    sender.execute("set transaction isolation level repeatable read")
    sender.execute("select 1")
    run(filled)
    with refused("OP002"):
        ingest(sender, repeatable("2026-01-10T12:00Z"))
    sender.rollback()


def test_the_time_zone_stays_once_something_was_removed(filled: Connection) -> None:
    change: LiteralString = "update ops.settings set value = 'Asia/Kolkata' where name = 'time_zone'"
    filled.execute(change)
    filled.execute("update ops.settings set value = 'UTC' where name = 'time_zone'")
    keep(filled, "events", "60 days")
    run(filled)
    with refused("OP001"):
        filled.execute(change)
    filled.execute("update ops.settings set value = '10 minutes' where name = 'refresh_interval'")


def test_a_removed_month_is_known_as_such_and_no_other(filled: Connection) -> None:
    query: LiteralString = "select ops.is_removed_month(%s)"
    assert not scalar(filled, query, "2026-01-01")
    filled.execute(
        "insert into ops.removed_events (event_type, removed_until) select event_type, '2026-02-01Z' from ops.event_types"
    )
    assert scalar(filled, query, "2026-01-01")
    assert not scalar(filled, query, "2026-02-01")

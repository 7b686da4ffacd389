"""What is too old goes, by month, kind and period; what was counted of it stays, and nothing is counted twice."""

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
from support.sessions import eventually, in_background, waits_for

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


def freed_by_a_run(connection: Connection, as_of: str = AS_OF) -> list[Removal]:
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
def three_months(database: Connection) -> Connection:
    """Store and count three months in partitions of their own, and an event of 2019 in the default one."""
    for month in MONTHS:
        database.execute("select ops.create_partition(%s)", [f"{month}-01"])
        add_month(database, month)
    add_audit(database, 1, "2026-01-15T10:00Z")
    refresh(database)
    return database


@pytest.fixture
def prepared_months(three_months: Connection) -> Any:
    if scalar(three_months, "select current_setting('max_prepared_transactions')") == "0":
        pytest.skip("max_prepared_transactions is 0")
    yield three_months
    for (name,) in rows(three_months, "select gid from pg_prepared_xacts where database = current_database()"):
        three_months.execute(sql.SQL("rollback prepared {}").format(name))


def test_without_a_rule_nothing_is_ever_removed(three_months):
    assert rows(three_months, "select * from ops.retention_rules") == []
    assert retention.plan(three_months, "2099-01-01T00:00Z") == []
    assert freed_by_a_run(three_months, "2099-01-01T00:00Z") == []
    assert len(rows(three_months, "select from public.telemetry_events")) == 15


def test_a_month_that_is_too_old_is_dropped_and_all_that_was_counted_of_it_stays(three_months):
    before = states(three_months)
    size = scalar(three_months, "select pg_total_relation_size('ops.telemetry_events_2026_01')")
    keep(three_months, "events", "100 days")
    assert freed_by_a_run(three_months) == [
        Removal(
            "events", "drop", "telemetry_events_2026_01", None, instant(JANUARY[0]), instant(JANUARY[1]), 5, size, None
        )
    ]
    assert states(three_months) == before
    assert partitions(three_months) == ["telemetry_events_2026_02", "telemetry_events_2026_03"]
    assert freed_by_a_run(three_months) == []


def test_an_event_lives_for_its_age_and_until_its_month_is_as_old(three_months):
    keep(three_months, "events", "100 days")
    assert freed_by_a_run(three_months, "2026-05-11T23:59:59.999999Z") == []
    assert [freed.name for freed in freed_by_a_run(three_months, "2026-05-12T00:00Z")] == ["telemetry_events_2026_01"]


def test_ages_are_reckoned_in_utc_whatever_the_session_says(three_months):
    three_months.execute("set timezone = 'Pacific/Auckland'; set datestyle = 'SQL, DMY'")
    keep(three_months, "events", "1 month")
    assert retain(three_months, as_of="2026-02-28T23:59:59Z")[0] == "done"
    assert retain(three_months, as_of="2026-03-01T00:00Z")[:2] == ("freed", "telemetry_events_2026_01")
    assert retain(three_months, as_of="2026-03-01T00:00Z")[0] == "done"


def test_a_run_is_in_the_journal_if_it_freed_something(three_months):
    keep(three_months, "events", "100 days")
    freed_by_a_run(three_months)
    freed_by_a_run(three_months)
    (row,) = rows(three_months, "select outcome, events, message from ops.job_runs where job = 'retention'")
    assert row[:2] == ("success", 5)
    assert row[2].startswith("telemetry_events_2026_01 dropped: 5, ")


def test_a_type_with_an_age_of_its_own_goes_by_itself_in_batches(three_months):
    before = states(three_months)
    keep(three_months, "events", "40 days", "slsa_provenance")
    assert retain(three_months, max_rows=1) == ("freed", "telemetry_events_2026_01", "slsa_provenance", 1, None)
    planned = retention.plan(three_months, AS_OF)
    assert [(row.action, row.name, row.event_type, row.removed) for row in planned] == [
        ("delete", "telemetry_events_2026_01", "slsa_provenance", 1),
        ("delete", "telemetry_events_2026_02", "slsa_provenance", 2),
        ("delete", "telemetry_events_2026_03", "slsa_provenance", 2),
    ]
    assert [row.removed for row in freed_by_a_run(three_months)] == [1, 2, 2]
    assert states(three_months) == before
    assert [row for row in rows(three_months, STORED) if row[1] == "slsa_provenance"] == []
    assert len(rows(three_months, "select from public.telemetry_events")) == 9
    journal = rows(three_months, "select events, message from ops.job_runs where job = 'retention' order by message")
    assert journal[0] == (1, "telemetry_events_2026_01 slsa_provenance deleted: 1")


def test_the_steps_of_one_thing_are_one_row_in_the_journal(three_months):
    keep(three_months, "events", "40 days", "slsa_provenance")
    retain(three_months, max_rows=1)
    retain(three_months, max_rows=1)
    assert rows(three_months, "select events, message from ops.job_runs where job = 'retention'") == [
        (2, "telemetry_events_2026_01 slsa_provenance deleted: 2")
    ]


def test_a_type_can_be_kept_for_ever_though_the_others_are_not(three_months):
    keep(three_months, "events", "40 days")
    keep(three_months, "events", None, "hook_execution")
    freed_by_a_run(three_months)
    assert rows(three_months, STORED) == [(month, "hook_execution", 1) for month in MONTHS]
    three_months.execute("select ops.unset_retention('events', 'hook_execution')")
    assert [(row.action, row.removed) for row in freed_by_a_run(three_months)] == [("drop", 1)] * 3


def test_a_month_whose_types_went_one_by_one_is_dropped_in_the_end(three_months):
    keep(three_months, "events", "40 days", "slsa_provenance")
    freed_by_a_run(three_months)
    for kind in ("audit_observer", "hook_execution"):
        keep(three_months, "events", "40 days", kind)
    freed = freed_by_a_run(three_months)
    assert {(row.action, row.removed) for row in freed} == {("drop", 3)}
    assert partitions(three_months) == []


def test_what_is_too_old_in_the_default_partition_is_deleted_there(three_months):
    keep(three_months, "events", "100 days")
    freed_by_a_run(three_months)
    for at in ("2019-03-14T15:00Z", "2026-01-05T15:00Z"):
        add_event(three_months, "hook_override", at)
    refresh(three_months)
    before = states(three_months)
    assert [(row.name, row.event_type, row.removed) for row in freed_by_a_run(three_months)] == [
        ("telemetry_events_default 2019-03", "hook_override", 1),
        ("telemetry_events_default 2026-01", "hook_override", 1),
    ]
    assert states(three_months) == before


def test_late_events_of_a_month_that_is_gone_make_no_partition_that_is_dropped_again(three_months):
    keep(three_months, "events", "100 days")
    freed_by_a_run(three_months)
    add_event(three_months, at="2026-01-05T15:00Z", outcome="success")
    assert scalar(three_months, "select ops.maintain(%s)", AS_OF) == 4
    assert partitions(three_months) == ["telemetry_events_2026_02", "telemetry_events_2026_03"]
    keep(three_months, "events", None, "slsa_provenance")
    three_months.execute("select ops.maintain(%s)", [AS_OF])
    assert partitions(three_months)[0] == "telemetry_events_2026_01"
    assert freed_by_a_run(three_months) == []


def test_a_partition_that_somebody_else_attached_is_left_to_that_somebody(three_months):
    three_months.execute(
        "create table ops.quarter partition of public.telemetry_events for values from ('2025-01-01Z') to ('2025-04-01Z')"
    )
    add_event(three_months, at="2025-02-01T00:00Z")
    refresh(three_months)
    keep(three_months, "events", "1 day")
    freed_by_a_run(three_months)
    assert rows(three_months, "select tableoid::regclass::text from public.telemetry_events") == [("ops.quarter",)]


def test_a_month_on_which_something_depends_waits_and_the_next_one_goes(three_months):
    three_months.execute("create view public.mine as select id from ops.telemetry_events_2026_01")
    keep(three_months, "events", "90 days")
    outcome = retention.run(three_months, as_of=AS_OF)
    assert [row.name for row in outcome.freed] == ["telemetry_events_2026_02"]
    assert "depend" in outcome.obstacles[0]


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


# What is gone is neither counted again nor missed.


def repeatable(at: str, event_type: str = "slsa_provenance") -> dict[str, object]:
    return {
        "event_type": event_type,
        "payload": {"outcome": "success", "workflow": "w"},
        "event_id": str(uuid4()),
        "event_timestamp": at,
    }


def test_a_repeat_of_a_removed_event_is_refused_since_it_cannot_be_recognised(three_months):
    event = repeatable("2026-01-20T00:00:00Z")
    assert ingest(three_months, event)["accepted"] == 1
    refresh(three_months)
    before = states(three_months)
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    answer = ingest(three_months, event, repeatable("2026-03-02T00:00:00Z"), repeatable("2026-02-28T23:59:59Z"))
    assert (answer["accepted"], [fault["index"] for fault in answer["refused"]]) == (1, [0, 2])
    assert {fault["field"] for fault in answer["refused"]} == {"timestamp"}
    assert "removed" in answer["refused"][0]["reason"]
    three_months.execute("delete from public.telemetry_events where event_timestamp = '2026-03-02Z'")
    refresh(three_months)
    assert states(three_months) == before


def test_only_the_types_that_were_removed_are_refused(three_months):
    keep(three_months, "events", "90 days", "slsa_provenance")
    freed_by_a_run(three_months)
    accepted = ingest(three_months, repeatable("2026-01-20T00:00:00Z", "workflow_run"))
    assert (accepted["accepted"], accepted["refused"]) == (1, [])
    assert ingest(three_months, repeatable("2026-01-20T00:00:00Z"))["accepted"] == 0


def test_users_are_refused_likewise(three_months, acting_as: ActingAs):
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    with acting_as(three_months, "authenticated", org=UUID(int=7)):
        answer = ingest(three_months, repeatable("2026-01-20T00:00:00Z"), repeatable("2026-03-20T00:00:00Z"))
    assert (answer["accepted"], len(answer["refused"])) == (1, 1)


def test_a_plain_insert_of_a_removed_time_is_new_and_counted(three_months):
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    add_event(three_months, at="2026-01-20T00:00Z", outcome="success", duration_ms=1)
    assert refresh(three_months).events == 1
    assert [(row.name, row.removed) for row in freed_by_a_run(three_months)] == [
        ("telemetry_events_default 2026-01", 1)
    ]
    query = "select sum(event_count) from ops.rollups join ops.series using (org_id, series_id)"
    query += " where period = 'month' and period_start = '2026-01-01Z' and event_type = 'slsa_provenance'"
    assert scalar(three_months, query) == 3


def test_a_month_that_is_dropped_a_second_time_frees_only_what_came_since(three_months):
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    three_months.execute("select ops.create_partition('2026-01-01')")
    add_event(three_months, at="2026-01-20T00:00Z", outcome="success", duration_ms=1)
    refresh(three_months)
    assert [(row.action, row.removed) for row in freed_by_a_run(three_months)] == [("drop", 1)]


def test_a_collected_event_that_was_removed_is_a_duplicate(three_months):
    known, new, broken = (repeatable("2026-01-20T00:00:00Z"), repeatable("2026-03-20T00:00:00Z"), {"event_type": "?"})
    assert scalar(three_months, "select ops.collect_events(%s)", Jsonb([known]))["accepted"] == 1
    refresh(three_months)
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    moved = known | {"event_timestamp": "2026-03-21T00:00:00Z"}
    unseen = repeatable("2026-01-21T00:00:00Z")
    for expected in ((1, 2), (0, 3)):
        answer = scalar(three_months, "select ops.collect_events(%s)", Jsonb([known, broken, new, moved, unseen]))
        assert (answer["accepted"], answer["duplicate"]) == expected
        assert [fault["index"] for fault in answer["refused"]] == [1, 4]
    assert (
        scalar(three_months, "select count(*) from public.telemetry_events where event_type = 'slsa_provenance'") == 3
    )


def test_an_audit_that_is_repeated_after_its_event_was_removed_stays_as_it_was(three_months):
    add_event(three_months, at="2026-01-20T00:00Z", run_id=77, outcome="success")
    audit = {"audit_run_id": 5, "provenance_run_id": 77, "audit_timestamp": "2026-01-20T01:00Z", "tag": "v1"}
    audit |= {"provenance_status": "success"}
    query = "select events_stored, provenance_synced from ops.observe_audit(%s, %s)"
    arguments = [Jsonb(audit), Jsonb({"outcome": "success"})]
    assert rows(three_months, query, *arguments) == [(1, True)]
    refresh(three_months)
    before = states(three_months)
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    assert rows(three_months, query, *arguments) == [(0, True)]
    refresh(three_months)
    assert states(three_months) == before


def test_a_rebuild_of_what_is_gone_is_refused_and_the_hint_names_what_can_be_rebuilt(three_months):
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    before = states(three_months)
    for since in ("2026-01-15T00:00Z", "2026-02-28T00:00Z", "2026-03-01T00:00Z"):
        with refused():
            rebuild(three_months, since, "2026-04-01T00:00Z")
    # The first week that lies in March begins on the second, and April is the first month that begins in or after it.
    first = scalar(three_months, "select ops.rebuildable_from()")
    assert first == instant("2026-03-02T00:00Z")
    assert states(three_months) == before


def test_a_rebuild_after_the_removal_leaves_all_that_was_counted(three_months):
    for tag in ("2026-01-1", "2026-02-28", "new"):
        add_event(three_months, at="2026-03-20T10:00Z", outcome="success", duration_ms=5, tag=tag)
    add_event(three_months, at="2026-04-20T10:00Z", outcome="success", duration_ms=5, tag="2026-03-1")
    refresh(three_months)
    before = states(three_months)
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    first = scalar(three_months, "select ops.rebuildable_from()")
    rebuild(three_months, first, "2026-06-01T00:00Z")
    assert states(three_months) == before


def test_objectives_explain_what_burned_though_its_events_are_gone(three_months):
    queries = [f"provenance_generation_{objective}" for objective in ("availability", "latency", "error_rate")]
    add_slo(three_months, "sliced", event_type="slsa_provenance", slices=("1 hour", "0.9"))

    def costs(name: str) -> Any:
        query = "select count(*), sum(cost), count(event_id) from ops.explain_slo(%s, '2026-01-01Z', '2026-04-01Z')"
        return rows(three_months, query, name)[0]

    refresh(three_months)
    before = {name: costs(name) for name in [*queries, "sliced"]}
    assert before["sliced"][2] == 6
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    for name, (count, cost, _) in before.items():
        assert costs(name)[:2] == (count, cost)
    assert costs("sliced")[2] == 2
    reasons = rows(three_months, "select distinct reason from ops.explain_slo('sliced', '2026-01-01Z', '2026-02-01Z')")
    assert reasons == [("no longer stored",)]


def test_doctor_does_not_miss_what_retention_removed_and_says_when_it_is_overdue(three_months):
    keep(three_months, "events", "90 days")
    checks = "select check_name, passed from ops.doctor(%s) where check_name in ('counts', 'retention') order by 1"
    assert rows(three_months, checks, "2026-05-31T00:00Z") == [("counts", True), ("retention", False)]
    freed_by_a_run(three_months, "2026-05-31T00:00Z")
    assert rows(three_months, checks, "2026-05-31T00:00Z") == [("counts", True), ("retention", True)]
    assert rows(three_months, checks, "2026-02-03T00:00Z") == [("counts", True), ("retention", True)]
    # What is damaged beside it is still found.
    three_months.execute("update ops.rollups set event_count = 9 where period = 'day' and period_start = '2026-03-15Z'")
    assert rows(three_months, "select day_start from ops.count_differences('2026-01-01Z')") == [
        (instant("2026-03-15T00:00Z"),)
    ]


# Hours, KPIs and alerts.


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


def test_users_may_read_the_rules_and_change_nothing(three_months, acting_as: ActingAs):
    keep(three_months, "events", "90 days")
    with acting_as(three_months, "authenticated", org=NIL):
        assert rows(three_months, "select kept from ops.retention_rules") == [("events",)]
    for statement in ("delete from ops.retention_rules", "select * from ops.removed_months", "select ops.retain()"):
        with acting_as(three_months, "authenticated", org=NIL), pytest.raises(psycopg.errors.InsufficientPrivilege):
            three_months.execute(statement)


def test_a_user_learns_no_name_of_a_type_that_nobody_described(three_months, acting_as: ActingAs):
    add_event(three_months, "secret_project", "2026-01-10T00:00Z")
    refresh(three_months)
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    assert ("secret_project",) in rows(three_months, "select event_type from ops.removed_events")
    with acting_as(three_months, "authenticated", org=UUID(int=7)):
        seen = rows(three_months, "select event_type from ops.removed_events")
    assert ("slsa_provenance",) in seen
    assert ("secret_project",) not in seen


def test_one_call_in_sql_removes_what_is_due_too(three_months):
    keep(three_months, "events", "90 days")
    keep(three_months, "events", "40 days", "hook_execution")
    for _ in range(4):
        three_months.execute("select * from ops.run()")
    # By the clock of the server, so that all three months are long over.
    assert rows(three_months, STORED) == []
    assert rows(three_months, "select outcome from ops.job_runs where job = 'retention' and outcome <> 'success'") == []


def test_what_the_hooks_did_of_late_on_a_removed_day_is_not_shown_and_then_gone(three_months):
    keep(three_months, "kpis", "100 days")
    freed_by_a_run(three_months)
    days = "select to_char(day_start at time zone 'UTC', 'MM-DD') from ops.hook_days order by 1"
    before = rows(three_months, days)
    add_event(three_months, "hook_execution", "2026-01-20T00:00Z", result="allowed", duration_ms=1)
    assert rows(three_months, days) == before == [("03-15",)]
    refresh(three_months)
    assert rows(three_months, days) == before


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


def test_the_time_zone_stays_once_something_was_removed(three_months: Connection) -> None:
    change: LiteralString = "update ops.settings set value = 'Asia/Kolkata' where name = 'time_zone'"
    three_months.execute(change)
    three_months.execute("update ops.settings set value = 'UTC' where name = 'time_zone'")
    keep(three_months, "events", "60 days")
    freed_by_a_run(three_months)
    with refused("OP001"):
        three_months.execute(change)
    three_months.execute("update ops.settings set value = '10 minutes' where name = 'refresh_interval'")


def test_a_removed_month_is_known_as_such_and_no_other(three_months: Connection) -> None:
    query: LiteralString = "select ops.is_removed_month(%s)"
    assert not scalar(three_months, query, "2026-01-01")
    three_months.execute(
        "insert into ops.removed_events (event_type, removed_until) select event_type, '2026-02-01Z' from ops.event_types"
    )
    assert scalar(three_months, query, "2026-01-01")
    assert not scalar(three_months, query, "2026-02-01")

"""Events that cannot be counted are set aside, and the counting of all others goes on."""

from uuid import UUID

import psycopg
import pytest

from support.events import (
    AS_OF,
    NIL,
    Connection,
    Report,
    add_audit,
    add_event,
    rebuild,
    refresh,
    rows,
    scalar,
    states,
)
from support.oracle import assert_exact

pytestmark = pytest.mark.database

AGENT = UUID("99999999-8888-4777-8666-555555555555")
# A rule of the database that the poisoned event breaks, wherever counting writes.
RULES = {
    "ops.series": "labels ->> 'hook_type' <> 'poison'",
    "ops.rollups": "value_max <> 666",
    "ops.histograms": "event_type <> 'hook_execution'",
    "public.kpi_aggregations": "metric_name <> 'hook_executions_total'",
    "ops.blocked_patterns": "pattern <> 'poison'",
    "ops.agents": f"agent_id <> '{AGENT}'",
}
COUNTED, LATER = "2026-03-10T12:00:00Z", "2026-03-11T12:00:00Z"


def add_poisoned(connection: Connection, org_id: UUID = NIL) -> int:
    return add_event(
        connection,
        "hook_execution",
        COUNTED,
        result="blocked",
        hook_type="poison",
        duration_ms=666,
        outcome="failure",
        findings_summary={"pattern": "poison"},
        agent_id=AGENT,
        org_id=org_id,
    )


def add_good(connection: Connection, count: int = 1, at: str = COUNTED) -> None:
    for number in range(count):
        add_event(connection, at=at, outcome="success", duration_ms=number, tag=f"v{number}")


def forbid(connection: Connection, table: str = "ops.rollups") -> None:
    """Have the database refuse what the poisoned event comes to."""
    connection.execute(f"alter table {table} add constraint no_poison check ({RULES[table]})".encode())


def allow(connection: Connection, table: str = "ops.rollups") -> None:
    connection.execute(f"alter table {table} drop constraint no_poison".encode())


def fail_with(connection: Connection, code: str, action: str = "") -> None:
    """Have the counting of the poisoned event end with an error, or do something else."""
    action = action or f"raise exception 'no' using errcode = '{code}'"
    connection.execute(
        (
            "create function ops.fail() returns trigger language plpgsql set search_path = '' as"
            f" $$ begin if new.value_max = 666 then {action}; end if; return new; end; $$;"
            " create trigger fail before insert or update on ops.rollups for each row execute function ops.fail()"
        ).encode()
    )


def refresh_all(connection: Connection, max_ids: int = 200_000) -> list[Report]:
    reports = [refresh(connection, max_ids=max_ids)]
    while reports[-1].state == "more":
        reports.append(refresh(connection, max_ids=max_ids))
    return reports


def set_aside(connection: Connection) -> list[int]:
    return [found for (found,) in rows(connection, "select id from ops.uncountable_events order by id")]


def doctor_says(connection: Connection) -> tuple[bool, str]:
    query = "select passed, detail from ops.doctor(%s) where check_name = 'uncountable events'"
    ((passed, detail),) = rows(connection, query, AS_OF)
    return passed, detail


@pytest.mark.parametrize("table", RULES)
def test_the_event_that_cannot_be_counted_is_set_aside_and_all_others_are_counted_once(database, table):
    forbid(database, table)
    add_good(database, 5)
    poisoned = add_poisoned(database)
    add_audit(database, 1)
    add_good(database, 6)
    reports = refresh_all(database)
    assert set_aside(database) == [poisoned]
    assert (sum(report.events for report in reports), reports[-1].state, reports[-1].behind) == (11, "done", 0)
    assert [report.message for report in reports if report.message] == [
        "1 event(s) could not be counted and are set aside; opskpi doctor says what to do"
    ]
    assert_exact(database)
    before = states(database)
    rebuild(database, "2026-03-01Z", "2026-04-01Z")
    assert states(database) == before
    assert "poison" not in str(before)


def test_doctor_fails_while_an_event_is_set_aside_and_says_what_to_do(database):
    forbid(database)
    poisoned = add_poisoned(database)
    refresh_all(database)
    passed, detail = doctor_says(database)
    assert not passed
    for said in (f"the first is {poisoned} (hook_execution)", "no_poison", "23514", "ops.count_again()"):
        assert said in detail
    assert f"ops.drop_uncountable({poisoned})" in detail
    assert rows(database, "select passed from ops.doctor(%s) where check_name = 'counts'", AS_OF) == [(True,)]
    assert scalar(database, "select events_set_aside from ops.freshness()") == 1


def test_an_event_that_was_set_aside_is_counted_again_when_the_cause_is_gone(database):
    forbid(database)
    add_good(database, 3)
    poisoned = add_poisoned(database)
    add_good(database, 2, LATER)
    refresh_all(database)
    assert scalar(database, "select ops.count_again(as_of => %s)", AS_OF) == 0
    assert set_aside(database) == [poisoned]
    allow(database)
    assert scalar(database, "select ops.count_again(%s, %s)", poisoned + 1, AS_OF) == 0
    assert scalar(database, "select ops.count_again(%s, %s)", poisoned, AS_OF) == 1
    assert (set_aside(database), doctor_says(database)[0]) == ([], True)
    assert_exact(database)
    assert scalar(database, "select ops.count_again(as_of => %s)", AS_OF) == 0
    before = states(database)
    assert refresh(database).events == 0
    rebuild(database, "2026-03-01Z", "2026-04-01Z")
    assert states(database) == before


def test_an_event_that_was_set_aside_can_be_dropped(database):
    forbid(database)
    add_good(database)
    poisoned = add_poisoned(database)
    refresh_all(database)
    assert scalar(database, "select ops.drop_uncountable(%s)", poisoned - 1) == 0
    assert scalar(database, "select ops.drop_uncountable(%s)", poisoned) == 1
    assert rows(database, "select id from public.telemetry_events") == [(poisoned - 1,)]
    assert (set_aside(database), doctor_says(database)[0]) == ([], True)
    assert_exact(database)


def test_what_somebody_deleted_is_no_longer_set_aside_after_the_upkeep(database):
    forbid(database)
    poisoned = add_poisoned(database)
    refresh_all(database)
    database.execute("select ops.maintain(%s)", [AS_OF])
    assert set_aside(database) == [poisoned]
    database.execute("delete from public.telemetry_events where id = %s", [poisoned])
    database.execute("select ops.maintain(%s)", [AS_OF])
    assert set_aside(database) == []


def test_many_events_that_cannot_be_counted_cost_a_few_passes_each(database):
    forbid(database)
    for _ in range(10):
        add_good(database, 3)
        add_poisoned(database)
        add_poisoned(database)
    reports = refresh_all(database)
    assert len(set_aside(database)) == 20
    assert sum(report.events for report in reports) == 30
    assert len(reports) <= 60
    assert_exact(database)
    assert refresh(database, max_ids=8).state == "done"


@pytest.mark.parametrize("code", ["22003", "21000", "54000", "53200", "XX000"])
def test_errors_that_come_from_the_data_set_the_event_aside(database, code):
    fail_with(database, code)
    poisoned = add_poisoned(database)
    refresh_all(database)
    assert set_aside(database) == [poisoned]


@pytest.mark.parametrize("code", ["P0001", "42883", "53100", "55P03", "40P01", "OP003"])
def test_errors_with_another_cause_are_raised_and_nothing_is_set_aside(database, code):
    fail_with(database, code)
    add_good(database)
    add_poisoned(database)
    for _ in range(8):
        with pytest.raises(psycopg.Error) as failed:
            refresh(database)
        assert failed.value.sqlstate == code
    database.execute("drop trigger fail on ops.rollups")
    reports = refresh_all(database)
    assert (set_aside(database), sum(report.events for report in reports)) == ([], 2)
    assert_exact(database)


def test_an_error_that_needs_no_event_is_raised(database):
    add_audit(database, 1)
    add_good(database)
    database.execute("alter table ops.rollups add constraint no_audits check (event_count < 0) not valid")
    with pytest.raises(psycopg.errors.CheckViolation):
        refresh(database)
    assert set_aside(database) == []


def test_after_cancelled_passes_the_next_take_fewer_events_until_one_is_set_aside(database):
    fail_with(database, "57014")
    add_good(database, 20)
    poisoned = add_poisoned(database)
    add_good(database, 20, LATER)
    cancelled = 0
    for _ in range(100):
        try:
            if refresh(database).state == "done":
                break
        except psycopg.errors.QueryCanceled:
            cancelled += 1
    assert set_aside(database) == [poisoned]
    assert cancelled <= 20
    assert "cut off" in doctor_says(database)[1]
    assert_exact(database)


def test_an_event_whose_counting_was_cancelled_a_few_times_is_not_set_aside(database):
    fail_with(database, "57014")
    add_poisoned(database)
    for _ in range(3):
        with pytest.raises(psycopg.errors.QueryCanceled):
            refresh(database)
    database.execute("drop trigger fail on ops.rollups")
    assert (refresh(database).events, set_aside(database)) == (1, [])
    assert_exact(database)


def test_batches_grow_again_after_the_event_is_set_aside(database):
    forbid(database)
    add_good(database, 8)
    add_poisoned(database)
    refresh_all(database, max_ids=20)
    add_good(database, 20, LATER)
    refresh_all(database, max_ids=20)
    assert scalar(database, "select most_events from ops.cursors") is None


def test_a_pass_with_an_uncountable_event_that_is_rolled_back_leaves_nothing(database, connect):
    forbid(database)
    poisoned = add_poisoned(database)
    before = states(database), rows(database, "select last_id from ops.cursors")
    aggregator = connect(autocommit=False)
    refresh(aggregator)
    assert set_aside(aggregator) == [poisoned]
    aggregator.rollback()
    assert (states(database), rows(database, "select last_id from ops.cursors")) == before
    assert set_aside(database) == []
    refresh_all(database)
    assert set_aside(database) == [poisoned]


def test_a_statement_timeout_of_the_jobs_sets_the_event_aside_and_counts_the_others(database, cli):
    fail_with(database, "", "perform pg_sleep(20)")
    add_good(database, 2)
    poisoned = add_poisoned(database)
    ended = cli("aggregate", env={"PGOPTIONS": "-c statement_timeout=700"})
    assert (ended.returncode, "set aside" in ended.stdout) == (0, True), ended.stderr
    assert set_aside(database) == [poisoned]
    assert_exact(database)
    doctor = cli("doctor")
    assert (doctor.returncode, "ops.count_again" in doctor.stdout) == (1, True)


def test_a_user_sees_which_own_events_are_set_aside_but_not_the_error(database, acting_as):
    other = UUID("aaaaaaaa-0000-4000-8000-00000000000a")
    forbid(database)
    mine = add_poisoned(database)
    add_poisoned(database, other)
    refresh_all(database)
    with acting_as(database, "authenticated"):
        assert rows(database, "select id, event_type from ops.uncountable_events") == [(mine, "hook_execution")]
        assert scalar(database, "select events_set_aside from ops.freshness()") == 1
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.execute("select reason from ops.uncountable_events")


def test_an_event_that_ends_the_server_process_is_set_aside_after_a_few_of_them(database, connect):
    fail_with(database, "", "perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(1)")
    add_good(database, 3)
    poisoned = add_poisoned(database)
    ended = 0
    while not set_aside(database):
        assert ended < 10
        try:
            refresh(connect())
        except psycopg.errors.AdminShutdown:
            ended += 1
    refresh_all(database)
    assert set_aside(database) == [poisoned]
    assert_exact(database)


def test_what_pg_cron_calls_sets_the_event_aside_too(database):
    forbid(database)
    add_good(database, 3)
    poisoned = add_poisoned(database)
    for _ in range(5):
        database.execute("select ops.run()")
    assert set_aside(database) == [poisoned]
    assert scalar(database, "select sum(event_count) from ops.rollups where period = 'month'") == 3

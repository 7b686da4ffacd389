"""A transaction that stays open delays its own events only, and where too much is kept for it, everybody is told which it is."""

from contextlib import closing
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from opskpi.alerting import messages
from support.events import NIL, Connection, add_event, add_events, at, rebuild, refresh, rows, scalar, wait_for_a_writer
from support.fixtures import ActingAs
from support.oracle import assert_exact
from support.privacy import keyed
from support.retention import keep, retain
from support.tenants import ORG_A

pytestmark = pytest.mark.database

FRESH_AND_COUNTED = (
    "select sum(event_count)::integer from ops.rollup_parts where period = 'day' and event_type = 'slsa_provenance'"
)
UNITS = "select good::integer, total::integer from public.v_ops_slo_status where slo_name = 'provenance_generation_availability'"
FRESHNESS = "select is_waiting, waits_for from ops.freshness()"
BOUND = 10_000


def noted_gaps(connection: Connection) -> list[str]:
    return [ids for (ids,) in rows(connection, "select ids::text from ops.event_gaps order by until_id")]


def add_every_second_id(connection: Connection, count: int) -> None:
    """Store events so that each has a gap before it, as transactions that were rolled back leave them."""
    connection.execute(
        "insert into public.telemetry_events (id, event_type, event_timestamp)"
        " select drawn.id, 'made', '2026-03-10T12:00Z'"
        " from (select nextval('public.telemetry_events_id_seq') as id, place from generate_series(1, 2 * %s) as place offset 0) as drawn"
        " where drawn.place %% 2 = 0",
        [count],
    )


def with_many_gaps(writer: Connection, database: Connection) -> str:
    """Leave a transaction open, with more gaps behind its first event than may be kept; return who it is."""
    add_event(writer, outcome="success")
    refresh(database)
    add_every_second_id(database, BOUND + 50)
    return f"select pg_terminate_backend({writer.info.backend_pid})"


def doctor_says_of_gaps(connection: Connection) -> tuple[bool, str]:
    ((passed, detail),) = rows(
        connection, "select passed, detail from ops.doctor(now() + interval '1 hour') where check_name = 'cursor'"
    )
    return passed, detail


@pytest.mark.parametrize(
    ("noted", "now_open", "still_open"),
    [
        ("3/2 -1/753", ["3/2 -1/753", "4/1 -1/754"], ["3/2 -1/753"]),
        ("3/2 -1/", ["3/2 -1/753"], ["3/2 -1/"]),
        ("3/2 -1/753", ["-1/753", "3/2 -1/900"], ["-1/753"]),
        ("3/2 -1/", ["-1/753"], ["-1/753"]),
        ("3/2 -1/753", ["3/2 -1/900", "3/3 -1/", "-1/754"], []),
    ],
)
def test_a_prepared_transaction_is_known_again_after_a_restart(database, noted, now_open, still_open):
    assert scalar(database, "select ops.still_open(%s, %s)", [noted], now_open) == still_open


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_what_others_write_is_counted_while_a_transaction_stays_prepared(prepared, connect, end):
    writer = connect()
    writer.execute("begin")
    add_event(writer, outcome="success", duration_ms=7, tag="v1")
    writer.execute("prepare transaction 'forgotten'")
    for events in (300, 1, 0, 20):
        add_events(prepared, events, "slsa_provenance", at("12:00:00"), outcome="failure")
        report = refresh(prepared)
        assert (report.state, report.events, report.message) == ("done", events, None)
    prepared.execute(sql.SQL("{} prepared 'forgotten'").format(sql.SQL(end)))
    assert (refresh(prepared).events, noted_gaps(prepared)) == (end == "commit", [])
    assert_exact(prepared)


def test_views_show_a_late_event_at_once_and_once(database, connect):
    writer = connect(autocommit=False)
    add_event(writer, outcome="failure", tag="v1", at="2026-11-20Z")
    add_event(database, outcome="success", tag="v1", at="2026-11-20Z")
    refresh(database)
    assert scalar(database, FRESH_AND_COUNTED) == 1
    writer.commit()
    for waiting in (1, 0):
        assert scalar(database, FRESH_AND_COUNTED) == 2
        assert scalar(database, "select events_waiting from ops.freshness()") == waiting
        assert (
            rows(database, "select sum(total)::integer from ops.fresh_slis() having count(*) > 0") == [(1,)] * waiting
        )
        refresh(database)
    assert_exact(database)


def test_a_user_sees_the_late_events_of_the_own_org_only(database, connect, acting_as: ActingAs):
    writer = connect(autocommit=False)
    for org in (UUID(ORG_A), NIL):
        add_event(writer, outcome="failure", org_id=org)
    refresh(database)
    writer.commit()
    with acting_as(database, "authenticated", org=ORG_A):
        assert scalar(database, FRESH_AND_COUNTED) == 1


def test_an_id_that_is_drawn_by_hand_before_the_first_insert_is_counted(database, connect):
    writer = connect(autocommit=False)
    drawn = scalar(writer, "select nextval('public.telemetry_events_id_seq')")
    add_event(database)
    assert [refresh(database).events, noted_gaps(database)] == [1, [f"{{[{drawn},{drawn + 1})}}"]]
    writer.execute(
        "insert into public.telemetry_events (id, event_type, event_timestamp) values (%s, 'made', '2026-03-10Z')",
        [drawn],
    )
    refresh(database)
    writer.commit()
    assert (refresh(database).events, noted_gaps(database)) == (1, [])
    assert_exact(database)


def test_an_id_that_is_used_again_after_a_savepoint_is_counted(database, connect):
    writer = connect(autocommit=False)
    writer.execute("savepoint before")
    drawn = add_event(writer)
    writer.execute("rollback to before")
    add_event(database)
    refresh(database)
    writer.execute(
        "insert into public.telemetry_events (id, event_type, event_timestamp) values (%s, 'made', '2026-03-10Z')",
        [drawn],
    )
    writer.commit()
    assert refresh(database).events == 1
    assert_exact(database)


def test_a_session_that_was_killed_leaves_no_gap(database, connect):
    writer = connect(autocommit=False)
    add_event(writer)
    add_event(database)
    refresh(database)
    scalar(database, "select pg_terminate_backend(%s, 10000)", writer.info.backend_pid)
    assert (refresh(database).events, noted_gaps(database)) == (0, [])


@pytest.mark.parametrize("kind", ["idle", "prepared"])
def test_a_forgotten_transaction_gathers_no_gaps_of_later_ones(prepared, connect, kind):
    writer, other = connect(autocommit=False), connect(autocommit=False)
    add_event(writer)
    if kind == "prepared":
        writer.execute("prepare transaction 'forgotten'")
    for _ in range(3):
        add_event(prepared)
        refresh(prepared)
    before = noted_gaps(prepared)
    for _ in range(3):
        add_event(other)
        other.rollback()
        add_event(prepared)
        refresh(prepared)
    assert (noted_gaps(prepared), len(before)) == (before, 1)
    if kind == "prepared":
        prepared.execute("commit prepared 'forgotten'")
    else:
        add_event(writer)
        add_event(other)
        refresh(prepared)
        writer.commit()
        other.commit()
    refresh(prepared)
    refresh(prepared)
    assert noted_gaps(prepared) == []
    assert_exact(prepared)


def test_a_rebuild_leaves_late_events_to_the_next_refresh(database, connect):
    writer = connect(autocommit=False)
    add_event(writer, outcome="success", tag="v1")
    add_event(database, outcome="success", tag="v2")
    refresh(database)
    writer.commit()
    writer = connect(autocommit=False)
    add_event(writer, outcome="success", tag="v3")
    rebuild(database, "2026-03-10Z", "2026-03-11Z")
    writer.commit()
    refresh(database)
    assert_exact(database)


def test_a_new_objective_counts_a_late_event_once(database, connect):
    writer = connect(autocommit=False)
    add_event(writer, outcome="success", tag="v1")
    add_event(database, outcome="failure", tag="v2")
    refresh(database)
    database.execute(
        "insert into ops.slos (slo_name, service, objective, description, event_type, target)"
        " values ('mine', 'mine', 'error_rate', 'Mine.', 'slsa_provenance', 0.9)"
    )
    writer.commit()
    refresh(database)
    assert rows(database, "select good, total from ops.slo_counts where slo_name = 'mine'") == [(1, 2)]
    assert_exact(database)


def test_retention_deletes_no_late_event_before_it_is_counted(database, connect):
    database.execute("select ops.create_partition('2026-01-01')")
    keep(database, "events", "30 days", "artifact")
    writer = connect(autocommit=False)
    late = add_event(writer, "artifact", "2026-01-10Z", size_bytes=1)
    add_event(database, "artifact", "2026-01-10Z", size_bytes=1)
    add_event(database, "workflow_run", "2026-01-10Z")
    refresh(database)
    writer.commit()
    assert retain(database)[3] == 1
    assert retain(database)[0] == "blocked"
    assert rows(database, "select id from public.telemetry_events where event_type = 'artifact'") == [(late,)]
    refresh(database)
    assert retain(database)[3] == 1


def test_a_late_event_is_anonymised_after_it_is_counted(database, connect):
    database.execute("select ops.set_anonymisation_rule('mine', '$.note', 'remove')")
    writer = connect(autocommit=False)
    add_event(writer, "workflow_run", note="Anna")
    add_event(database, "workflow_run", note="Ben")
    refresh(database)
    writer.commit()
    for looked_at in (1, 2):
        with keyed(database):
            assert scalar(database, "select looked_at from ops.anonymise_events('2026-06-01Z')") == looked_at
        refresh(database)
    assert_exact(database)


def test_many_late_events_are_counted_in_steps_even_when_their_transaction_has_ended(database, connect):
    writer = connect(autocommit=False)
    add_events(writer, 7, "slsa_provenance", at("12:00:00"), outcome="success")
    add_event(database)
    refresh(database)
    writer.commit()
    add_events(database, 2, "slsa_provenance", at("12:00:00"), outcome="success")
    reports = [refresh(database, max_ids=3) for _ in range(3)]
    assert [(report.state, report.events) for report in reports] == [("more", 3), ("more", 3), ("done", 3)]
    assert_exact(database)


def test_a_late_event_that_cannot_be_counted_is_set_aside(database, connect):
    database.execute("alter table ops.rollups add constraint no_poison check (value_max <> 666)")
    writer = connect(autocommit=False)
    for duration_ms in (1, 666, 2):
        add_event(writer, outcome="success", duration_ms=duration_ms)
    add_event(database)
    refresh(database)
    writer.commit()
    add_event(database)
    while refresh(database).state == "more":
        pass
    assert rows(database, "select count(*) from ops.uncountable_events") == [(1,)]
    assert noted_gaps(database) == []
    assert_exact(database)


def test_when_too_many_gaps_are_kept_counting_waits_and_says_for_whom(database, connect, cli):
    writer = connect(autocommit=False)
    remedy = with_many_gaps(writer, database)
    report = refresh(database)
    assert (report.state, report.events, report.behind) == ("waiting", BOUND - 1, 102)
    assert remedy in (report.message or "")
    assert "user postgres" in (report.message or "")
    assert rows(database, "select message from ops.job_runs where outcome = 'waiting'") == [(report.message,)]
    passed, detail = doctor_says_of_gaps(database)
    assert (passed, remedy in detail, "51 event(s) wait" in detail) == (False, True, True)
    is_waiting, waits_for = rows(database, FRESHNESS)[0]
    assert (is_waiting, remedy in waits_for) == (True, True)
    assert remedy in cli("run").stdout
    writer.rollback()
    assert (refresh(database).state, noted_gaps(database), rows(database, FRESHNESS)) == ("done", [], [(False, None)])
    assert doctor_says_of_gaps(database)[0]
    assert_exact(database)


def test_the_watchdog_pages_when_counting_waits_for_three_intervals_and_says_for_whom(database, connect):
    writer = connect(autocommit=False)
    remedy = with_many_gaps(writer, database)
    refresh(database)
    found = "select holds, detail from ops.job_conditions(now() + %s::interval) where subject = 'refresh'"
    assert rows(database, found, "1 minute")[0][0] is False
    database.execute("update ops.job_runs set finished_at = now() + interval '1 hour'")
    ((holds, detail),) = rows(database, found, "16 minutes")
    assert (holds, remedy in detail["waits_for"]) == (True, True)
    section = messages._section({"kind": "silent_jobs", "subject": "refresh", "detail": detail})
    assert section.heading == "the job refresh waits"
    assert any(remedy in fact for fact in section.facts)


def test_a_prepared_transaction_is_named_with_the_statement_that_ends_it(prepared, connect):
    writer = connect(autocommit=False)
    with_many_gaps(writer, prepared)
    add_event(writer)
    writer.execute("prepare transaction 'it''s mine'")
    assert "rollback prepared 'it''s mine'" in (refresh(prepared).message or "")


def test_doctor_names_an_idle_transaction_whose_events_wait(database, connect):
    writer = connect(autocommit=False)
    add_event(writer)
    add_event(database)
    refresh(database)
    passed, detail = doctor_says_of_gaps(database)
    assert (passed, f"select pg_terminate_backend({writer.info.backend_pid})" in detail) == (True, True)


def test_a_job_without_the_right_to_see_sessions_names_their_process(database, connect, migrated_database):
    writer = connect(autocommit=False)
    remedy = with_many_gaps(writer, database)
    database.execute("create role counting superuser login; alter role counting nosuperuser bypassrls")
    try:
        database.execute(
            "grant all on schema ops to counting; grant all on all tables in schema public, ops to counting"
        )
        database.execute(
            "grant all on all sequences in schema public, ops to counting; grant execute on all functions in schema ops to counting"
        )
        with closing(psycopg.connect(migrated_database.dsn, user="counting", autocommit=True)) as counting:
            report = refresh(counting)
        assert (report.state, remedy in (report.message or "")) == ("waiting", True)
    finally:
        database.execute("drop owned by counting; drop role counting")


def test_a_tenant_is_told_that_counting_waits_and_only_its_admin_for_whom(database, connect, acting_as: ActingAs):
    writer = connect(autocommit=False)
    with_many_gaps(writer, database)
    refresh(database)
    with acting_as(database, "authenticated", org=ORG_A):
        assert rows(database, FRESHNESS) == [(True, None)]
    with acting_as(database, "authenticated", app_metadata={"org_id": ORG_A, "scopes": ["read", "admin"]}):
        assert rows(database, FRESHNESS)[0][1] is not None


def test_late_events_alone_do_not_make_counts_fresh_that_wait(database, connect):
    writer = connect(autocommit=False)
    add_event(writer, outcome="failure", tag="v1")
    add_event(database, outcome="success", tag="v2")
    refresh(database)
    ((moved_at, advanced_at),) = rows(database, "select moved_at, advanced_at from ops.cursors")
    writer.commit()
    assert refresh(database).events == 1
    ((moved_later, advanced_later),) = rows(database, "select moved_at, advanced_at from ops.cursors")
    assert (moved_later > moved_at, advanced_later) == (True, advanced_at)
    wait_for_a_writer(database, since="2030-01-01T12:00Z", until="2030-01-01T13:00Z")
    assert scalar(database, "select freshness from ops.counting_freshness('2030-01-01T13:00Z')") == "stale"

"""Objectives that are removed, disabled, enabled and renamed: what goes along, what stays, and how their alerts end."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from support.events import (
    NIL,
    Connection,
    add_channel,
    add_event,
    add_events,
    add_row,
    add_slo,
    alerts,
    evaluate,
    evaluate_alerts,
    refresh,
    refused,
    rows,
    run_jobs,
    scalar,
    told,
)
from support.fixtures import ActingAs, Connect
from support.patience import eventually
from support.sessions import in_background, waits_for

pytestmark = pytest.mark.database

DELETED = "select * from ops.delete_slos(array['deploys'], 'anna')"
DISABLED = "select * from ops.enable_slos(array['deploys'], false, 'anna')"
ENABLED = "select * from ops.enable_slos(array['deploys'], true, 'anna')"
LIST = "select slo_name, state, author, version from ops.slo_list() where service = 'shop' order by 1"
CHANGES = "select slo_name, change, author, previous_name from ops.slo_changes order by slo_change_id"


def a_moment_later(seconds: float = 1) -> datetime:
    """An instant of the clock: objectives end when they are removed and not when a test says."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.mark.own_database
@pytest.mark.parametrize(("change", "reason"), [(DELETED, "objective_removed"), (DISABLED, "objective_disabled")])
def test_the_alerts_of_an_objective_that_is_removed_or_disabled_end_with_who_and_when(
    paged: Connection, change: str, reason: str
) -> None:
    paged.execute(change.encode())
    at = scalar(paged, "select changed_at from ops.slo_changes")
    run_jobs(paged, a_moment_later())
    assert alerts(paged) == [("burn", "deploys", "ended")]
    message = scalar(paged, "select message from ops.alert_deliveries order by delivery_id desc limit 1")
    assert (message["status"], message["title"], message["firing"], message["resolved"]) == (
        "ended",
        "shop: ended",
        [],
        [],
    )
    (ended,) = message["ended"]
    detail = ended["detail"]
    assert (detail["ended_because"], detail["ended_by"]) == (reason, "anna")
    assert datetime.fromisoformat(detail["ended_at"]) == at
    assert evaluate_alerts(paged, a_moment_later(300)).queued == 0


@pytest.mark.own_database
def test_an_objective_deleted_by_hand_in_sql_ends_its_alerts_by_the_role_that_did_it(paged: Connection) -> None:
    paged.execute("delete from ops.slos where slo_name = 'deploys'")
    run_jobs(paged, a_moment_later())
    detail = scalar(paged, "select detail from ops.alerts")
    assert (detail["ended_because"], detail["ended_by"]) == (
        "objective_removed",
        scalar(paged, "select current_user"),
    )


@pytest.mark.own_database
def test_an_objective_that_comes_back_before_the_next_evaluation_goes_on_firing_without_a_word(
    paged: Connection,
) -> None:
    paged.execute(DELETED.encode())
    add_slo(paged)
    run_jobs(paged, a_moment_later())
    assert alerts(paged) == [("burn", "deploys", "firing")]
    assert len(told(paged)) == 1
    assert rows(paged, LIST) == [("deploys", "enabled", "anna", 2)]


@pytest.mark.own_database
def test_an_objective_that_comes_back_well_raises_no_alert_and_goes_on_counting_versions(paged: Connection) -> None:
    paged.execute(DELETED.encode())
    run_jobs(paged, a_moment_later())
    add_events(paged, 1000, "deploy", datetime.now(UTC), outcome="success")
    add_slo(paged)
    run_jobs(paged, a_moment_later(2))
    assert alerts(paged) == [("burn", "deploys", "ended")]
    assert rows(paged, "select version from ops.slo_versions where slo_name = 'deploys' order by 1") == [(1,), (2,)]


@pytest.mark.own_database
def test_a_disabled_objective_has_no_status_and_no_alert_and_counts_on(database: Connection) -> None:
    add_slo(database)
    add_event(database, "deploy", datetime.now(UTC), outcome="success")
    refresh(database, as_of=datetime.now(UTC))
    database.execute(DISABLED.encode())
    current = "select slo_name from public.v_ops_slo_status where service = 'shop'"
    assert rows(database, current) == []
    assert rows(database, LIST) == [("deploys", "disabled", "anna", 1)]
    add_events(database, 19, "deploy", datetime.now(UTC), outcome="failure")
    run_jobs(database, a_moment_later())
    assert [alert for alert in alerts(database) if alert[1] == "deploys"] == []
    database.execute(ENABLED.encode())
    assert rows(database, current) == [("deploys",)]
    assert evaluate(database, "deploys", "good", "total", "version", as_of=a_moment_later(3)) == (1, 20, 2)
    assert rows(database, LIST) == [("deploys", "enabled", "anna", 2)]


@pytest.mark.own_database
def test_the_days_the_burndown_and_the_explanation_of_what_was_stay_readable(database: Connection) -> None:
    add_slo(database)
    add_event(database, "deploy", "2026-03-10T12:00Z", outcome="failure")
    add_event(database, "deploy", "2026-03-10T12:01Z", outcome="success")
    refresh(database)
    found = []
    for change in ("select 1", DISABLED, DELETED):
        database.execute(change.encode())
        found.append(
            [
                rows(database, "select * from public.v_ops_slo_history where slo_name = 'deploys'"),
                rows(database, "select * from ops.slo_burndown('2026-03-11', '{deploys}')"),
                rows(database, "select * from ops.explain_slo('deploys', '2026-03-10', '2026-03-11')"),
            ]
        )
    assert found[0] == found[1] == found[2]
    assert all(found[0])


def test_a_definition_may_change_while_it_is_disabled_and_holds_when_it_is_enabled(database: Connection) -> None:
    add_slo(database)
    database.execute(DISABLED.encode())
    database.execute("update ops.slos set target = 0.8 where slo_name = 'deploys'")
    query = "select version, target::text from ops.slo_versions where slo_name = 'deploys' order by 1"
    assert rows(database, query) == [(1, "0.900000")]
    database.execute(ENABLED.encode())
    assert rows(database, query)[-1][1] == "0.800000"


def test_disabling_ends_a_planned_change_and_enabling_holds_at_once(database: Connection) -> None:
    add_slo(database)
    database.execute("update ops.slos set target = 0.8, valid_from = '2199-01-01Z' where slo_name = 'deploys'")
    database.execute(DISABLED.encode())
    assert (
        scalar(database, "select count(*) from ops.slo_versions where valid_until > now() and slo_name = 'deploys'")
        == 0
    )
    database.execute(ENABLED.encode())
    query = "select valid_from <= now(), target::text from ops.slo_versions where slo_name = 'deploys' and valid_until = 'infinity'"
    assert rows(database, query) == [(True, "0.800000")]


def test_an_objective_that_was_made_disabled_holds_from_the_beginning_when_it_is_enabled(database: Connection) -> None:
    add_row(
        database,
        "slos",
        **{"slo_name": "deploys", "service": "shop", "objective": "error_rate", "description": "", "target": "0.9"},
        event_type="deploy",
        is_enabled=False,
    )
    assert rows(database, LIST) == [("deploys", "disabled", None, None)]
    database.execute(ENABLED.encode())
    query = "select version, valid_from::text from ops.slo_versions where slo_name = 'deploys'"
    assert rows(database, query) == [(1, "-infinity")]


def test_disabling_and_enabling_again_is_no_change(database: Connection) -> None:
    add_slo(database)
    for statement, expected in ((ENABLED, "unchanged"), (DISABLED, "changed"), (DISABLED, "unchanged")):
        (found,) = database.execute(statement.encode()).fetchall()
        assert found[2] == expected
    assert rows(database, CHANGES) == [("deploys", "disabled", "anna", None)]


@pytest.mark.parametrize("call", [DELETED, DISABLED, ENABLED])
def test_an_objective_that_is_not_there_is_refused(database: Connection, call: str) -> None:
    with refused():
        database.execute(call.encode())


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
@pytest.mark.parametrize("call", [DELETED, DISABLED, "update ops.slos set slo_name = 'x'", "delete from ops.slos"])
def test_only_the_owner_changes_what_holds_for_all_tenants(
    database: Connection, acting_as: ActingAs, role: str, call: str
) -> None:
    with acting_as(database, role) as caller, pytest.raises(psycopg.errors.InsufficientPrivilege):
        caller.execute(call.encode())


@pytest.mark.own_database
@pytest.mark.parametrize("change", [DELETED, DISABLED, "update ops.slos set slo_name = 'x' where slo_name = 'deploys'"])
def test_a_change_waits_for_an_evaluation_and_an_evaluation_passes_a_change_by(
    paged: Connection, connect: Connect, change: str
) -> None:
    with connect(autocommit=False) as evaluating, connect(autocommit=False) as changing:
        assert evaluate_alerts(evaluating, a_moment_later()).state == "done"
        changing.execute("set local lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            changing.execute(change.encode())
        changing.rollback()
        evaluating.commit()
        changing.execute(change.encode())
        assert evaluate_alerts(evaluating, a_moment_later(2)).state == "busy"
        evaluating.rollback()
        changing.commit()
    run_jobs(paged, a_moment_later(3))
    ((_, subject, state),) = alerts(paged)
    assert (subject, state) == (("deploys", "ended") if "x" not in change.split("'")[1] else ("x", "firing"))


@pytest.mark.own_database
def test_a_channel_is_removed_after_an_evaluation_that_sends_to_it_and_the_two_do_not_block_each_other(
    paged: Connection, connect: Connect
) -> None:
    with connect(autocommit=False) as evaluating, connect() as removing:
        evaluating.execute("select pg_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0))")
        with in_background(lambda: removing.execute("delete from ops.alert_channels")):
            eventually(lambda: waits_for(paged, removing, "Lock"))
            add_row(evaluating, "alert_groups", org_id=NIL, channel_name="ops", group_key="another")
            evaluating.commit()
    assert scalar(paged, "select count(*) from ops.alert_groups") == 0


@pytest.mark.own_database
def test_an_objective_made_after_retention_says_from_when_on_it_has_its_events(database: Connection) -> None:
    database.execute("select ops.create_partition('2026-02-01'), ops.create_partition('2026-03-01')")
    for day in ("2026-02-10T10:00Z", "2026-03-10T10:00Z"):
        add_event(database, "deploy", day, outcome="success")
    add_slo(database, "before", window="10 years")
    refresh(database)
    database.execute("select ops.note_removed_events(array['deploy'], '2026-02-01Z', '2026-03-01Z')")
    add_slo(database, "after", target="0.8", threshold_ms=5, objective="latency", window="10 years")
    refresh(database)
    query = "select slo_name, counted_since::text from public.v_ops_slo_status where service = 'shop' order by 1"
    assert rows(database, query) == [("after", "2026-03-01 00:00:00+00"), ("before", None)]
    listed = "select slo_name, counted_since::text from ops.slo_list() where service = 'shop' order by 1"
    assert rows(database, listed) == rows(database, query)


def test_a_channel_that_is_removed_leaves_its_messages_on_record_and_none_waiting(database: Connection) -> None:
    add_channel(database)
    message = "insert into ops.alert_deliveries (org_id, channel_name, group_key, status, alert_ids, message, state, created_at, next_attempt_at, leased_until) values (%s, 'ops', 'g', 'firing', '{}', '{}', %s, now(), now(), %s)"
    for state in ("queued", "sending", "dead", "delivered"):
        database.execute(message, [NIL, state, datetime.now(UTC) if state == "sending" else None])
    add_row(database, "alert_groups", org_id=NIL, channel_name="ops", group_key="g")
    database.execute("delete from ops.alert_channels where channel_name = 'ops'")
    assert rows(database, "select state, last_error from ops.alert_deliveries order by 1, 2") == [
        ("delivered", None),
        *[("superseded", "the channel was removed")] * 3,
    ]
    assert scalar(database, "select count(*) from ops.alert_groups") == 0

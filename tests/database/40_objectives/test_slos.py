"""Versions of an objective, and that a new one has its history at once and exactly."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.pq import ExecStatus

from support import oracle
from support.events import (
    AS_OF,
    NIL,
    Connection,
    add_event,
    add_events,
    add_slo,
    evaluate,
    instant,
    rebuild,
    refresh,
    refused,
    rows,
    scalar,
)
from support.fixtures import Connect
from support.patience import eventually

pytestmark = pytest.mark.database

FIRST, SECOND, THIRD = "2026-03-05T00:00:00Z", "2026-03-10T00:00:00Z", "2026-03-15T00:00:00Z"
ORG = UUID(int=7)
OBJECTIVES = {"availability": None, "latency": 100, "error_rate": None}
COUNTING = (
    "select sli.objective, sli.threshold_ms, bucket.org_id, bucket.bucket_start, bucket.good, bucket.total"
    " from ops.sli_counts as bucket join ops.slis as sli using (sli_id) where sli.event_type = %s order by 1, 2, 3, 4"
)


def versions(connection: Connection, slo: str = "deploys") -> list[tuple[object, ...]]:
    return rows(
        connection,
        "select version, valid_from::text, valid_until::text, target::float8, threshold_ms::integer,"
        " coalesce(rolling_window::text, calendar_period) from ops.slo_versions join ops.slis using (sli_id)"
        " where slo_name = %s order by version",
        slo,
    )


@pytest.fixture
def promised(database: Connection) -> Connection:
    """Promise something of the deploys, and show instants in UTC."""
    database.execute("set timezone = 'UTC'")
    add_slo(database)
    return database


def change(connection: Connection, column: str, value: object, valid_from: str | None = None) -> None:
    query = f"update ops.slos set {column} = %s" + (", valid_from = %s" if valid_from else "")
    connection.execute(query + " where slo_name = 'deploys'", [value, valid_from] if valid_from else [value])  # pyright: ignore[reportArgumentType]


def test_a_new_objective_is_version_1_and_has_always_held(promised):
    assert versions(promised) == [(1, "-infinity", "infinity", 0.9, None, "30 days")]


def test_a_new_objective_may_hold_from_an_instant_on(database):
    add_slo(database, valid_from=FIRST)
    query = "select slo_name, version from ops.evaluate_slos(%s) where slo_name = 'deploys'"
    assert rows(database, query, "2026-03-04T23:59:59Z") == []
    database.execute("set timezone = 'UTC'")
    assert versions(database) == [(1, "2026-03-05 00:00:00+00", "infinity", 0.9, None, "30 days")]


def test_a_changed_objective_is_a_new_version_from_the_given_instant(promised):
    change(promised, "target", "0.95", FIRST)
    change(promised, "rolling_window", "7 days", SECOND)
    assert versions(promised) == [
        (1, "-infinity", "2026-03-05 00:00:00+00", 0.9, None, "30 days"),
        (2, "2026-03-05 00:00:00+00", "2026-03-10 00:00:00+00", 0.95, None, "30 days"),
        (3, "2026-03-10 00:00:00+00", "infinity", 0.95, None, "7 days"),
    ]


@pytest.mark.own_database
def test_a_changed_objective_holds_from_now_when_it_does_not_say(promised):
    with promised.transaction():
        change(promised, "target", "0.95")
        started = scalar(promised, "select now()::text")
    assert versions(promised) == [
        (1, "-infinity", started, 0.9, None, "30 days"),
        (2, started, "infinity", 0.95, None, "30 days"),
    ]
    assert scalar(promised, "select valid_from::text from ops.slos where slo_name = 'deploys'") == started


@pytest.mark.parametrize(
    "changes",
    [
        "service = 'other'",
        "event_type = 'other'",
        "target = 0.91",
        "objective = 'availability'",
        "objective = 'latency', threshold_ms = 5",
        "rolling_window = '7 days'",
        "rolling_window = null, calendar_period = 'month'",
        "rolling_window = null, calendar_period = 'month', time_zone = 'UTC'",
        "budgeting_method = 'timeslices', time_slice = '1 hour', slice_target = 0.5",
        "expected_interval = '1 hour'",
    ],
)
def test_every_part_of_the_promise_makes_a_version(promised, changes):
    promised.execute(f"update ops.slos set {changes}, valid_from = '{FIRST}' where slo_name = 'deploys'")
    assert [version for version, *_ in versions(promised)] == [1, 2]
    query = (
        "select to_jsonb(slo) @> (to_jsonb(latest) - array['version', 'valid_until', 'sli_id'])"
        "  and to_jsonb(slo) @> (to_jsonb(sli) - array['filled_until', 'counted_since', 'sli_id'])"
        " from ops.slos as slo join ops.slo_versions as latest using (slo_name) join ops.slis as sli using (sli_id)"
        " where slo_name = 'deploys' and latest.version = 2"
    )
    assert scalar(promised, query)


def test_a_new_description_makes_no_version(promised):
    change(promised, "target", "0.95", FIRST)
    before = versions(promised)
    for column in ("description", "display_name", "indicator_name"):
        change(promised, column, "nicer", THIRD)
    for column in ("labels", "annotations"):
        change(promised, column, '{"team": "shop"}', "2020-01-01T00:00:00Z")
    change(promised, "target", "0.950")
    change(promised, "rolling_window", "720 hours")
    assert versions(promised) == before
    query = "select display_name, labels, valid_from from ops.slos where slo_name = 'deploys'"
    assert rows(promised, query) == [("nicer", {"team": "shop"}, instant(FIRST))]


def test_a_change_before_the_last_one_is_refused(promised):
    change(promised, "target", "0.95", SECOND)
    before = versions(promised)
    with refused():
        change(promised, "target", "0.97", FIRST)
    assert versions(promised) == before


@pytest.mark.own_database
def test_two_changes_in_one_transaction_are_one_version(promised):
    change(promised, "target", "0.95", FIRST)
    with promised.transaction():
        change(promised, "target", "0.96")
        change(promised, "rolling_window", "7 days")
        started = scalar(promised, "select now()::text")
    assert versions(promised)[1:] == [
        (2, "2026-03-05 00:00:00+00", started, 0.95, None, "30 days"),
        (3, started, "infinity", 0.96, None, "7 days"),
    ]


def test_a_change_that_began_before_another_one_is_not_refused(promised, connect):
    with connect(autocommit=False) as other:
        scalar(other, "select now()")
        change(promised, "target", "0.95")
        change(other, "target", "0.96")
        other.commit()
    assert versions(promised)[-1][3] == 0.96
    assert scalar(promised, "select target from ops.slos where slo_name = 'deploys'") == Decimal("0.96")


def test_a_planned_change_can_be_amended_before_it_holds(promised):
    change(promised, "target", "0.95", "2199-01-01T00:00:00Z")
    change(promised, "target", "0.96")
    assert versions(promised) == [
        (1, "-infinity", "2199-01-01 00:00:00+00", 0.9, None, "30 days"),
        (2, "2199-01-01 00:00:00+00", "infinity", 0.96, None, "30 days"),
    ]


@pytest.mark.own_database
def test_a_deleted_objective_ends(promised):
    with promised.transaction():
        promised.execute("delete from ops.slos where slo_name = 'deploys'")
        ended = scalar(promised, "select now()::text")
    assert versions(promised) == [(1, "-infinity", ended, 0.9, None, "30 days")]
    query = "select version from ops.evaluate_slos(%s) where slo_name = 'deploys'"
    add_event(promised, "deploy", FIRST, outcome="success")
    refresh(promised)
    assert rows(promised, query, "2026-03-06T00:00Z") == [(1,)]
    assert rows(promised, query, "2199-01-01T00:00Z") == []


def test_a_deleted_objective_ends_although_a_change_was_planned(promised):
    change(promised, "target", "0.95", "2199-01-01T00:00:00Z")
    promised.execute("delete from ops.slos where slo_name = 'deploys'")
    add_event(promised, "deploy", FIRST, outcome="success")
    refresh(promised)
    query = "select version from ops.evaluate_slos(%s) where slo_name = 'deploys'"
    assert rows(promised, query, "2198-01-01T00:00Z") == []
    assert rows(promised, query, "2199-06-01T00:00Z") == []
    add_slo(promised)
    assert rows(promised, query, "2198-01-01T00:00Z") != []


@pytest.mark.own_database
def test_an_objective_that_comes_back_goes_on_counting_versions(promised):
    with promised.transaction():
        promised.execute("delete from ops.slos where slo_name = 'deploys'")
        ended = scalar(promised, "select now()::text")
    add_slo(promised, target="0.5")
    assert versions(promised) == [
        (1, "-infinity", ended, 0.9, None, "30 days"),
        (2, ended, "infinity", 0.5, None, "30 days"),
    ]
    with promised.transaction():
        change(promised, "target", "0.6")
        changed = scalar(promised, "select now()::text")
    assert versions(promised)[1:] == [
        (2, ended, changed, 0.5, None, "30 days"),
        (3, changed, "infinity", 0.6, None, "30 days"),
    ]


def test_an_objective_that_came_back_cannot_change_before_it_did(promised):
    promised.execute("delete from ops.slos where slo_name = 'deploys'")
    add_slo(promised)
    with refused():
        change(promised, "target", "0.95", FIRST)


@pytest.mark.own_database
def test_replacing_an_objective_in_one_transaction_ends_the_old_definition(promised):
    with promised.transaction():
        promised.execute("delete from ops.slos where slo_name = 'deploys'")
        add_slo(promised, target="0.5")
        promised.execute("delete from ops.slos where slo_name = 'deploys'")
        add_slo(promised, target="0.6")
        started = scalar(promised, "select now()::text")
    assert versions(promised) == [
        (1, "-infinity", started, 0.9, None, "30 days"),
        (2, started, "infinity", 0.6, None, "30 days"),
    ]


def test_a_renamed_objective_keeps_its_versions_and_may_change_with_its_name(promised):
    change(promised, "slo_name", "releases")
    assert versions(promised) == []
    assert versions(promised, "releases") == [(1, "-infinity", "infinity", 0.9, None, "30 days")]
    promised.execute("update ops.slos set slo_name = 'rollouts', target = 0.5 where slo_name = 'releases'")
    assert [(version, target) for version, _, _, target, *_ in versions(promised, "rollouts")] == [(1, 0.9), (2, 0.5)]


def test_an_objective_cannot_take_a_name_that_has_a_history(promised):
    add_slo(promised, "rollouts")
    promised.execute("delete from ops.slos where slo_name = 'rollouts'")
    before = versions(promised, "rollouts"), versions(promised)
    with refused():
        change(promised, "slo_name", "rollouts")
    assert (versions(promised, "rollouts"), versions(promised)) == before


def test_inserting_an_objective_that_stands_changes_nothing(promised):
    change(promised, "target", "0.95", FIRST)
    before = versions(promised)
    promised.execute(
        "insert into ops.slos (slo_name, service, objective, description, event_type, target)"
        " values ('deploys', 's', 'availability', 'd', 'e', 0.5) on conflict do nothing"
    )
    assert versions(promised) == before
    assert rows(promised, "select * from ops.slis where event_type = 'e'") == []


@pytest.fixture
def tightened(database: Connection) -> Connection:
    """Promise half of the deploys within 100 ms, and 90 % of them within 50 ms from SECOND on."""
    add_slo(database, objective="latency", threshold_ms=100, target="0.5")
    for day in (8, 12):
        add_events(database, 6, "deploy", f"2026-03-{day:02}T10:00Z", outcome="success", duration_ms=70)
        add_events(database, 4, "deploy", f"2026-03-{day:02}T10:00Z", outcome="success", duration_ms=30)
    refresh(database)
    database.execute(
        "update ops.slos set target = 0.9, threshold_ms = 50, valid_from = %s where slo_name = 'deploys'", [SECOND]
    )
    refresh(database)
    return database


def test_before_a_change_the_old_promise_is_measured_as_it_was(tightened):
    columns = ("version", "target", "good", "total", "budget_left")
    assert evaluate(tightened, "deploys", *columns, as_of="2026-03-09T23:59:59Z") == (1, Decimal("0.5"), 10, 10, 1)
    assert evaluate(tightened, "deploys", *columns, as_of=SECOND) == (2, Decimal("0.9"), 10, 10, 1)


def test_a_window_is_judged_before_a_change_by_the_old_promise_and_after_it_by_the_new(tightened):
    columns = ("version", "target", "good", "total", "allowed", "budget_left", "versions")
    # 5 of the first ten may be slow and none is; 1 of the second ten, and 6 are.
    assert evaluate(tightened, "deploys", *columns, as_of=THIRD) == (2, Decimal("0.9"), 14, 20, 6, 0, [1, 2])
    burndown = "select version, good, total, budget_left from ops.slo_burndown(%s, '{deploys}') order by day_start"
    assert rows(tightened, burndown, THIRD) == [(1, 10, 10, 1), (2, 4, 10, 0)]
    history = "select version, target, good, total from ops.slo_history() where slo_name = 'deploys' order by 1"
    assert rows(tightened, history) == [(1, Decimal("0.5"), 10, 10), (2, Decimal("0.9"), 4, 10)]
    # Once the change has left the window, so has the old promise.
    assert evaluate(tightened, "deploys", "versions", "total", as_of="2026-04-10T12:00Z") == ([2], 10)


def test_a_burn_rate_over_a_change_is_that_of_each_promise_in_its_own_time(promised):
    add_events(promised, 50, "deploy", "2026-03-10T11:20Z", outcome="success")
    add_events(promised, 50, "deploy", "2026-03-10T11:20Z", outcome="failure")
    add_events(promised, 95, "deploy", "2026-03-10T11:50Z", outcome="success")
    add_events(promised, 5, "deploy", "2026-03-10T11:50Z", outcome="failure")
    refresh(promised)
    change(promised, "target", "0.5", "2026-03-10T11:30Z")
    found = evaluate(promised, "deploys", "burn_rate_1h", "allowed", "versions", as_of="2026-03-10T12:00Z")
    assert found == (pytest.approx(Decimal(55) / 60), 60, [1, 2])


def test_a_version_that_counts_in_other_units_judges_its_whole_window(promised):
    add_events(promised, 6, "deploy", "2026-03-08T10:00Z", outcome="success")
    add_events(promised, 6, "deploy", "2026-03-12T10:00Z", outcome="success")
    refresh(promised)
    promised.execute(
        "update ops.slos set budgeting_method = 'timeslices', time_slice = '1 hour', slice_target = 1, valid_from = %s"
        " where slo_name = 'deploys'",
        [SECOND],
    )
    columns = ("version", "total", "budgeting_method", "versions")
    assert evaluate(promised, "deploys", *columns, as_of=THIRD) == (2, 2, "timeslices", [2])


def test_late_events_from_before_a_change_count_for_the_version_that_held(tightened):
    add_events(tightened, 5, "deploy", "2026-03-08T11:00Z", outcome="success", duration_ms=100)
    add_events(tightened, 5, "deploy", "2026-03-08T11:00Z", outcome="success", duration_ms=60)
    for fresh in (True, False):
        counted = [
            evaluate(tightened, "deploys", "version", "good", "total", as_of=as_of, with_fresh=fresh)
            for as_of in ("2026-03-09T12:00Z", THIRD)
        ]
        assert counted == ([(1, 15, 20), (2, 19, 30)] if fresh else [(1, 10, 10), (2, 14, 20)])
    refresh(tightened)
    assert evaluate(tightened, "deploys", "version", "good", "total", as_of="2026-03-09T12:00Z") == (1, 15, 20)
    assert evaluate(tightened, "deploys", "version", "good", "total", as_of=THIRD) == (2, 19, 30)


def test_a_rebuild_recounts_what_old_versions_counted(tightened):
    before = rows(tightened, COUNTING, "deploy")
    tightened.execute("update ops.sli_counts set good = 0, total = 99")
    rebuild(tightened, "2026-03-01T00:00Z", "2026-04-01T00:00Z")
    assert rows(tightened, COUNTING, "deploy") == before


def test_objectives_that_count_alike_share_their_counts(promised):
    add_events(promised, 3, "deploy", FIRST, outcome="failure")
    refresh(promised)
    add_slo(promised, "strict deploys", target="0.999", window="7 days")
    query = "select count(distinct sli_id), count(*) from ops.slo_versions where slo_name like '%%deploys'"
    assert rows(promised, query) == [(1, 2)]
    for slo in ("deploys", "strict deploys"):
        assert evaluate(promised, slo, "good", "total", as_of=SECOND) == (0, 3)
    assert [count[-2:] for count in rows(promised, COUNTING, "deploy")] == [(0, 3)]


def test_an_objective_added_before_the_first_refresh_counts_without_one(database):
    add_event(database, "deploy", FIRST, outcome="failure")
    add_slo(database)
    assert evaluate(database, "deploys", "good", "total", as_of=SECOND, with_fresh=True) == (0, 1)
    refresh(database)
    assert evaluate(database, "deploys", "good", "total", as_of=SECOND) == (0, 1)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_added_beside_the_first_refresh_loses_no_event(database, connect, objective):
    add_events(database, 3, "deploy", FIRST, outcome="success", duration_ms=5)
    with connect(autocommit=False) as other:
        other.isolation_level = IsolationLevel.REPEATABLE_READ
        assert scalar(other, "select ops.cursor_id()") == 0
        refresh(database)
        add_slo(other, objective=objective, threshold_ms=OBJECTIVES[objective])
        other.commit()
    refresh(database)
    assert evaluate(database, "deploys", "good", "total", as_of=SECOND) == (3, 3)


@contextmanager
def refresh_under_way(connect: Connect, database: Connection) -> Iterator[None]:
    """Hold a refresh in its middle, after it has filled what was to be filled; it goes on and ends after the block."""
    with connect() as holder, connect() as refreshing:
        holder.execute("begin")
        holder.execute("lock table ops.audit_changes in access exclusive mode")
        refreshing.pgconn.send_query(b"select ops.refresh(max_wait => '0', as_of => '2026-06-01Z')")
        query = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
        eventually(lambda: scalar(database, query, refreshing.info.backend_pid))
        yield
        holder.execute("rollback")
        result = refreshing.pgconn.get_result()
        assert result is not None
        assert result.status == ExecStatus.TUPLES_OK, result.error_message
        assert refreshing.pgconn.get_result() is None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_added_while_a_refresh_counts_loses_no_event(database, connect, objective):
    add_event(database, "deploy", FIRST, outcome="success", duration_ms=5)
    refresh(database)
    add_event(database, "deploy", FIRST, outcome="success", duration_ms=5)
    with refresh_under_way(connect, database):
        add_slo(database, objective=objective, threshold_ms=OBJECTIVES[objective])
    refresh(database)
    assert evaluate(database, "deploys", "good", "total", as_of=SECOND) == (2, 2)


def test_an_objective_added_while_the_first_refresh_counts_waits_for_it(database, connect):
    add_event(database, "deploy", FIRST, outcome="success")
    with connect() as adding:
        adding.execute("set lock_timeout = '100ms'")
        with refresh_under_way(connect, database), pytest.raises(psycopg.errors.LockNotAvailable):
            add_slo(adding)
        add_slo(adding)
    refresh(database)
    assert evaluate(database, "deploys", "good", "total", as_of=SECOND) == (1, 1)


def test_a_fill_that_cannot_see_a_refresh_is_refused(database, connect):
    add_event(database, "deploy", FIRST, outcome="success")
    refresh(database)
    add_event(database, "deploy", FIRST, outcome="success")
    with connect(autocommit=False) as filling:
        filling.isolation_level = IsolationLevel.REPEATABLE_READ
        with refresh_under_way(connect, database):
            add_slo(database)
            scalar(filling, "select 1")
        with refused("OP002"):
            filling.execute("select ops.fill_slis()")
        filling.rollback()
    refresh(database)
    assert evaluate(database, "deploys", "good", "total", as_of=SECOND) == (2, 2)


def add_three(connection: Connection, event_type: str) -> None:
    for objective, threshold_ms in OBJECTIVES.items():
        add_slo(
            connection,
            f"{event_type} {objective}",
            objective=objective,
            threshold_ms=threshold_ms,
            event_type=event_type,
        )


class Twins:
    """The same random events for several event types; the counts of all must be the same in the end."""

    def __init__(self, connection: Connection, seed: int, event_types: tuple[str, ...]) -> None:
        self.connection, self.chance, self.event_types = connection, random.Random(seed), event_types  # noqa: S311

    def happen(self, count: int) -> None:
        """Store events of three days at 10 minutes' distance, many of the same few units of work."""
        for _ in range(count):
            chance = self.chance
            at = instant("2026-03-09T00:00Z") + timedelta(minutes=10 * chance.randrange(432), seconds=chance.random())
            tag = chance.choice([None, f"v{chance.randrange(9)}", f"v{chance.randrange(9)}"])
            run = chance.choice([None, chance.randrange(9)])
            org = chance.choice([NIL, NIL, ORG])
            said = {
                "outcome": chance.choice(["success", "failure", "failure", "failure", "cancelled"]),
                "duration_ms": chance.choice([5, 99.999, 100, 500, "unknown"]),
            }
            for event_type in self.event_types:
                add_event(self.connection, event_type, at, tag=tag, run_id=run, org_id=org, **said)

    def counted(self, event_type: str) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        units = (
            "select org_id, case when unit like 'event:%%' then 'event' else unit end, first_attempt_at, succeeded"
            " from ops.work_units join ops.slis using (sli_id) where event_type = %s order by 1, 2, 3, 4"
        )
        return rows(self.connection, COUNTING, event_type), rows(self.connection, units, event_type)

    def instant(self) -> str:
        return (instant("2026-03-09T00:00Z") + timedelta(minutes=self.chance.randrange(4320))).isoformat()


@pytest.mark.parametrize("seed", range(6))
def test_a_new_objective_equals_one_that_existed_from_the_start(database, seed):
    twins = Twins(database, seed, ("old", "new", "whole"))
    add_three(database, "old")
    twins.happen(40)
    refresh(database)
    add_three(database, "new")
    twins.happen(20)
    *_, last = stretches = sorted(twins.instant() for _ in range(3))
    for until in stretches:
        assert scalar(database, "select ops.fill_slis(%s)", until) == instant(until)
        twins.happen(5)
    add_three(database, "whole")
    scalar(database, "select ops.fill_slis(%s)", last)
    assert twins.counted("new") == twins.counted("whole")

    twins.happen(20)
    while refresh(database, max_ids=25).state == "more":
        twins.happen(1)
    assert twins.counted("new") == twins.counted("old") == twins.counted("whole")
    oracle.assert_slis(database)


@pytest.mark.parametrize("seed", range(4))
def test_refreshes_between_the_stretches_change_nothing(database, seed):
    twins = Twins(database, seed, ("old", "new"))
    add_three(database, "old")
    twins.happen(40)
    refresh(database)
    for objective, threshold_ms in OBJECTIVES.items():
        add_slo(database, objective, objective=objective, threshold_ms=threshold_ms, event_type="new")
        scalar(database, "select ops.fill_slis(%s)", twins.instant())
        twins.happen(10)
        if twins.chance.random() < 0.7:
            refresh(database, max_ids=twins.chance.randrange(1, 40))
    refresh(database)
    assert twins.counted("new") == twins.counted("old")
    rebuild(database, "2026-03-10T00:00Z", "2026-03-11T00:00Z")
    assert twins.counted("new") == twins.counted("old")
    oracle.assert_slis(database)


@pytest.mark.parametrize("seed", range(3))
def test_a_fill_or_refresh_that_dies_is_taken_up_again(database, connect, seed):
    twins = Twins(database, seed, ("old", "new"))
    add_three(database, "old")
    twins.happen(40)
    refresh(database)
    add_three(database, "new")
    dying = connect(autocommit=False)
    for until in sorted(twins.instant() for _ in range(3)):
        dying.execute("select ops.fill_slis(%s)", [until])
        dying.rollback()
        scalar(database, "select ops.fill_slis(%s)", until)
        twins.happen(5)
        dying.execute("select ops.refresh(max_wait => '0', as_of => %s)", [AS_OF])
        dying.rollback()
    # After passes that were cut off the next ones take fewer events.
    while refresh(database).state == "more":
        pass
    assert twins.counted("new") == twins.counted("old")


def test_a_half_filled_objective_shows_with_fresh_events_what_it_will_have(database):
    add_event(database, "deploy", FIRST, outcome="failure", tag="v1")
    add_event(database, "deploy", THIRD, outcome="success", tag="v2")
    refresh(database)
    add_three(database, "deploy")
    database.execute("select ops.fill_slis(%s)", [SECOND])
    add_event(database, "deploy", "2026-03-06T00:00Z", outcome="success", tag="v1")
    add_event(database, "deploy", "2026-03-16T00:00Z", outcome="failure", tag="v2")
    found = [
        evaluate(database, f"deploy {objective}", "good", "total", as_of="2026-03-20T00:00Z", with_fresh=True)
        for objective in ("availability", "error_rate")
    ]
    assert found == [(1, 1), (1, 2)]
    refresh(database)
    found = [
        evaluate(database, f"deploy {objective}", "good", "total", as_of="2026-03-20T00:00Z")
        for objective in ("availability", "error_rate")
    ]
    assert found == [(2, 2), (2, 4)]


def test_the_fill_says_how_far_it_has_come(database):
    add_event(database, "deploy", FIRST, outcome="success")
    refresh(database)
    assert scalar(database, "select ops.fill_slis() = 'infinity'")
    add_slo(database)
    assert scalar(database, "select ops.fill_slis('-infinity') = '-infinity'")
    assert scalar(database, "select ops.fill_slis(%s)", SECOND) == instant(SECOND)
    assert scalar(database, "select ops.fill_slis(%s)", FIRST) == instant(SECOND)
    assert scalar(database, "select ops.fill_slis() = 'infinity'")
    assert scalar(database, "select ops.fill_slis() = 'infinity'")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
@pytest.mark.parametrize(
    "statement",
    [
        "select ops.fill_slis()",
        "insert into ops.slos (slo_name, service, objective, description, event_type, target)"
        " values ('x', 's', 'error_rate', 'd', 'e', 0.5)",
        "delete from ops.slo_versions",
        "update ops.slis set filled_until = 'infinity'",
    ],
)
def test_only_the_owner_changes_promises(database, acting_as, role, statement):
    with acting_as(database, role) as caller, pytest.raises(psycopg.errors.InsufficientPrivilege):
        caller.execute(statement)


@pytest.mark.parametrize("role", ["authenticated", "service_role"])
def test_users_read_the_versions(database, acting_as, role):
    add_slo(database)
    with acting_as(database, role, ORG) as caller:
        query = "select version.version from ops.slo_versions as version join ops.slis using (sli_id) where slo_name = 'deploys'"
        assert rows(caller, query) == [(1,)]

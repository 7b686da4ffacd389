"""What is left out of an account, what burned it, and how it went day by day."""

import random
from collections import defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg import sql

from support.events import (
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
from support.oracle import period_start

pytestmark = pytest.mark.database

AS_OF = "2026-03-10T12:00:00Z"
ORG = UUID(int=7)
OBJECTIVES = {"availability": None, "latency": 100, "error_rate": None}
COUNTS = ("good", "total", "good_unadjusted", "total_unadjusted")
BOTH = (*COUNTS, "budget_left", "budget_left_unadjusted")
Explained = dict[UUID, Decimal]


def exclude(
    connection: Connection, since: str | datetime, until: str | datetime, slo: str = "deploys", org_id: UUID = NIL
) -> int:
    query = "select ops.exclude_from_slo(%s, %s, %s, 'upgrade', 'me', %s)"
    return scalar(connection, query, slo, since, until, org_id)


def explain(
    connection: Connection, slo: str = "deploys", since: str = "2026-03-01T00:00Z", until: str = AS_OF
) -> list[tuple[Any, ...]]:
    """Return time, tag, reason and cost of the events that burned the budget, in order."""
    query = "select to_char(event_timestamp at time zone 'UTC', 'HH24:MI'), tag, reason, cost from ops.explain_slo(%s, %s, %s)"
    return rows(connection, query, slo, since, until)


@pytest.fixture
def deploys(database: Connection) -> Connection:
    """Store ten good deploys an hour from 9 to 11, and five failed ones at 10."""
    add_slo(database)
    for hour in (9, 10, 11):
        add_events(database, 10, "deploy", f"2026-03-10T{hour:02}:02Z", outcome="success")
    add_events(database, 5, "deploy", "2026-03-10T10:02Z", outcome="failure")
    refresh(database)
    return database


def test_maintenance_is_left_out_afterwards_and_the_account_shows_both(deploys):
    before = evaluate(deploys, "deploys", *BOTH, as_of=AS_OF)
    assert before == (30, 35, 30, 35, before[4], before[4])
    exclude(deploys, "2026-03-10T10:00Z", "2026-03-10T11:00Z")
    assert evaluate(deploys, "deploys", *BOTH, as_of=AS_OF) == (20, 20, 30, 35, 1, before[4])
    rates = ("burn_rate_1h", "burn_rate_6h", "burn_rate_1d", "burn_rate_3d", "sli", "status")
    assert evaluate(deploys, "deploys", *rates, as_of=AS_OF) == (0, 0, 0, 0, 1, "ok")


def test_maintenance_that_overlaps_is_left_out_once(deploys):
    for since, until in (("09:30", "10:30"), ("10:00", "11:00"), ("10:00", "11:00"), ("10:02", "10:03")):
        exclude(deploys, f"2026-03-10T{since}Z", f"2026-03-10T{until}Z")
    assert evaluate(deploys, "deploys", *COUNTS, as_of=AS_OF) == (20, 20, 30, 35)


@pytest.mark.parametrize(
    ("since", "until", "good"),
    [
        ("10:04:59", "10:05:00", 20),
        ("10:00:00", "10:00:01", 20),
        ("10:01", "10:02", 20),
        ("09:55", "10:00:00.000001", 20),
        ("10:04:59.999999", "10:30", 20),
        ("09:55", "10:00", 30),
        ("10:05", "10:30", 30),
    ],
)
def test_five_minutes_that_maintenance_touches_are_left_out_whole(deploys, since, until, good):
    exclude(deploys, f"2026-03-10T{since}Z", f"2026-03-10T{until}Z")
    total = good if good == 20 else 35
    assert evaluate(deploys, "deploys", *COUNTS, as_of=AS_OF) == (good, total, 30, 35)
    assert sum(row[-1] for row in explain(deploys)) == scalar(deploys, "select ops.burn_rate(%s, %s, 0.9)", good, total)


def test_maintenance_concerns_one_objective_of_one_org(deploys):
    add_slo(deploys, "other")
    add_event(deploys, "deploy", "2026-03-10T10:02Z", outcome="failure", org_id=ORG)
    refresh(deploys)
    exclude(deploys, "2026-03-10T00:00Z", "2026-03-11T00:00Z")
    assert evaluate(deploys, "deploys", *COUNTS, as_of=AS_OF) == (0, 0, 30, 35)
    assert evaluate(deploys, "deploys", "status", "budget_left", as_of=AS_OF) == ("no_data", None)
    assert evaluate(deploys, "other", *COUNTS, as_of=AS_OF) == (30, 35, 30, 35)
    assert evaluate(deploys, "deploys", *COUNTS, as_of=AS_OF, org_id=ORG) == (0, 1, 0, 1)
    exclude(deploys, "2026-03-10T00:00Z", "2026-03-11T00:00Z", org_id=ORG)
    assert evaluate(deploys, "deploys", *COUNTS, as_of=AS_OF, org_id=ORG) == (0, 0, 0, 1)


def test_maintenance_holds_for_every_version(deploys):
    deploys.execute("update ops.slos set target = 0.5, valid_from = '2026-03-10T11:00Z' where slo_name = 'deploys'")
    exclude(deploys, "2026-03-10T10:00Z", "2026-03-10T10:05Z")
    assert evaluate(deploys, "deploys", "version", *COUNTS, as_of="2026-03-10T10:59Z") == (1, 10, 10, 20, 25)
    assert evaluate(deploys, "deploys", "version", *COUNTS, as_of=AS_OF) == (2, 20, 20, 30, 35)


@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_maintenance_leaves_out_events_that_no_job_has_counted_yet(database, outcome):
    add_slo(database)
    add_event(database, "deploy", "2026-03-10T10:02Z", outcome=outcome)
    add_event(database, "deploy", "2026-03-10T11:02Z", outcome="success")
    refresh(database)
    # As many of the same five minutes, so that counted and fresh look alike.
    add_event(database, "deploy", "2026-03-10T10:03Z", outcome=outcome)
    exclude(database, "2026-03-10T10:00Z", "2026-03-10T10:05Z")
    good = 3 if outcome == "success" else 1
    assert evaluate(database, "deploys", *COUNTS, as_of=AS_OF, with_fresh=True) == (1, 1, good, 3)
    refresh(database)
    assert evaluate(database, "deploys", *COUNTS, as_of=AS_OF) == (1, 1, good, 3)


def test_maintenance_leaves_a_part_of_a_slice_out(database):
    add_slo(database, slices=("1 hour", "0.5"), target="0.5")
    for minute, outcome in ((2, "success"), (12, "failure"), (22, "failure")):
        add_event(database, "deploy", f"2026-03-10T10:{minute:02}Z", outcome=outcome)
    add_event(database, "deploy", "2026-03-10T11:02Z", outcome="failure")
    refresh(database)
    assert evaluate(database, "deploys", *COUNTS, as_of=AS_OF) == (0, 2, 0, 2)
    exclude(database, "2026-03-10T10:10Z", "2026-03-10T10:15Z")
    assert evaluate(database, "deploys", *COUNTS, as_of=AS_OF) == (1, 2, 0, 2)
    exclude(database, "2026-03-10T11:00Z", "2026-03-10T12:00Z")
    assert evaluate(database, "deploys", *BOTH, as_of=AS_OF) == (1, 1, 0, 2, 1, -1)


def test_an_exclusion_says_who_and_why(deploys):
    number = exclude(deploys, "2026-03-10T10:00Z", "2026-03-10T11:00Z")
    query = "select slo_exclusion_id, org_id, slo_name, since, until, reason, author from ops.slo_exclusions"
    since, until = instant("2026-03-10T10:00Z"), instant("2026-03-10T11:00Z")
    assert rows(deploys, query) == [(number, NIL, "deploys", since, until, "upgrade", "me")]


@pytest.mark.parametrize(
    ("since", "until", "reason", "author"),
    [
        ("2026-03-10T10:00Z", "2026-03-10T10:00Z", "upgrade", "me"),
        ("2026-03-10T11:00Z", "2026-03-10T10:00Z", "upgrade", "me"),
        ("-infinity", "2026-03-10T10:00Z", "upgrade", "me"),
        ("2026-03-10T10:00Z", "infinity", "upgrade", "me"),
        (None, "2026-03-10T10:00Z", "upgrade", "me"),
        ("2026-03-10T10:00Z", "2026-03-10T11:00Z", " ", "me"),
        ("2026-03-10T10:00Z", "2026-03-10T11:00Z", None, "me"),
        ("2026-03-10T10:00Z", "2026-03-10T11:00Z", "upgrade", ""),
    ],
)
def test_an_exclusion_without_a_range_a_reason_or_an_author_is_refused(deploys, since, until, reason, author):
    with refused():
        scalar(deploys, "select ops.exclude_from_slo('deploys', %s, %s, %s, %s)", since, until, reason, author)
    assert rows(deploys, "select * from ops.slo_exclusions") == []


@pytest.mark.parametrize("slo", ["unknown", None])
def test_an_exclusion_from_an_unknown_objective_is_refused(deploys, slo):
    with refused():
        scalar(deploys, "select ops.exclude_from_slo(%s, '2026-03-10Z', '2026-03-11Z', 'upgrade', 'me')", slo)


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_only_the_owner_leaves_time_out(deploys, acting_as, role):
    with acting_as(deploys, role) as caller, pytest.raises(psycopg.errors.InsufficientPrivilege):
        exclude(caller, "2026-03-10T10:00Z", "2026-03-10T11:00Z")


def test_users_see_the_exclusions_of_their_org(deploys, acting_as):
    exclude(deploys, "2026-03-10T10:00Z", "2026-03-10T11:00Z")
    exclude(deploys, "2026-03-10T10:00Z", "2026-03-10T11:00Z", org_id=ORG)
    with acting_as(deploys, "authenticated", ORG) as caller:
        assert rows(caller, "select org_id from ops.slo_exclusions") == [(ORG,)]


def test_every_failed_attempt_costs_its_share_of_an_error_rate(database):
    add_slo(database, target="0.75")
    add_event(database, "deploy", "2026-03-10T10:00Z", outcome="failure", tag="v1")
    add_event(database, "deploy", "2026-03-10T10:01Z", outcome="success", tag="v1")
    add_event(database, "deploy", "2026-03-10T10:02Z", outcome="cancelled", tag="v2")
    add_event(database, "deploy", "2026-03-10T10:03Z", outcome="failure", tag="v3")
    add_event(database, "build", "2026-03-10T10:03Z", outcome="failure", tag="v3")
    add_events(database, 1, "deploy", "2026-03-10T10:04Z", outcome="success")
    refresh(database)
    add_event(database, "deploy", "2026-03-10T10:05Z", outcome="failure", tag="not counted yet")
    assert explain(database) == [("10:00", "v1", "failed", 1), ("10:03", "v3", "failed", 1)]


def test_every_slow_run_costs_its_share_of_the_latency(database):
    add_slo(database, objective="latency", threshold_ms=100, target="0.5")
    add_event(database, "deploy", "2026-03-10T10:00Z", outcome="success", duration_ms=100, tag="v1")
    add_event(database, "deploy", "2026-03-10T10:01Z", outcome="success", duration_ms=99.9, tag="v2")
    add_event(database, "deploy", "2026-03-10T10:02Z", outcome="failure", duration_ms=500, tag="v3")
    add_event(database, "deploy", "2026-03-10T10:03Z", outcome="success", tag="v4")
    refresh(database)
    assert explain(database) == [("10:00", "v1", "took 100 ms, the limit is 100 ms", 1)]


def test_a_release_costs_once_and_its_last_attempt_stands_for_it(database):
    add_slo(database, objective="availability", target="0.5")
    for minute, outcome, tag in (
        (0, "failure", "v1"),
        (10, "failure", "v1"),
        (20, "failure", "v2"),
        (30, "success", "v2"),
    ):
        add_event(database, "deploy", f"2026-03-10T10:{minute:02}Z", outcome=outcome, tag=tag)
    long = "v" * 300
    add_event(database, "deploy", "2026-03-10T10:15Z", outcome="failure", tag=long)
    add_event(database, "deploy", "2026-03-10T10:16Z", outcome="failure", run_id=5)
    refresh(database)
    add_event(database, "deploy", "2026-03-10T10:40Z", outcome="failure", tag="v1")
    assert [row[:3] for row in explain(database)] == [
        ("10:10", "v1", "never succeeded"),
        ("10:15", long, "never succeeded"),
        ("10:16", None, "never succeeded"),
    ]
    assert sum(row[3] for row in explain(database)) == scalar(database, "select ops.burn_rate(1, 4, 0.5)")
    assert [row[0] for row in explain(database, since="2026-03-10T10:05Z")] == ["10:15", "10:16"]


def test_only_bad_slices_cost_and_their_events_share_it(database):
    add_slo(database, slices=("1 hour", "0.5"), target="0.5")
    for hour, good, bad in ((8, 2, 1), (9, 0, 2), (10, 5, 0), (11, 1, 3)):
        for number in range(bad):
            add_event(database, "deploy", f"2026-03-10T{hour:02}:0{number}Z", outcome="failure")
        add_events(database, good, "deploy", f"2026-03-10T{hour:02}:50Z", outcome="success")
    refresh(database)
    explained = explain(database)
    assert [row[0] for row in explained] == ["09:00", "09:01", "11:00", "11:01", "11:02"]
    assert [round(row[3], 6) for row in explained] == [
        *(Decimal("0.25"), Decimal("0.25")),
        *(Decimal("0.166667"), Decimal("0.166667"), Decimal("0.166667")),
    ]
    assert sum(row[3] for row in explained) == 1


def test_a_range_is_explained_in_whole_five_minutes(database):
    add_slo(database)
    for second in (0, 299, 300, 599, 600):
        add_event(database, "deploy", instant("2026-03-10T10:00Z") + timedelta(seconds=second), outcome="failure")
    refresh(database)
    for since, until, expected in (
        ("10:04:59", "10:05:00", ["10:00", "10:04"]),
        ("10:04:59", "10:05:01", ["10:00", "10:04", "10:05", "10:09"]),
        ("10:05:00", "10:10:00", ["10:05", "10:09"]),
    ):
        explained = explain(database, since=f"2026-03-10T{since}Z", until=f"2026-03-10T{until}Z")
        assert [row[0] for row in explained] == expected
    assert len(explain(database, since="-infinity", until="infinity")) == 5
    assert explain(database, until="2026-03-02T00:00Z") == []


@pytest.mark.parametrize(
    ("objective", "late_at", "then"),
    [("error_rate", "10:01", ["10:01", "10:02"]), ("availability", "10:04", ["10:04"])],
)
def test_a_late_event_explains_nothing_before_it_is_counted(
    database: Connection, connect: Connect, objective: str, late_at: str, then: list[str]
):
    add_slo(database, objective=objective, target="0.5")
    writer = connect(autocommit=False)
    add_event(writer, "deploy", f"2026-03-10T{late_at}Z", outcome="failure", tag="v1")
    add_event(database, "deploy", "2026-03-10T10:02Z", outcome="failure", tag="v1")
    refresh(database)
    writer.commit()
    assert [row[0] for row in explain(database)] == ["10:02"]
    refresh(database)
    assert [row[0] for row in explain(database)] == then


def scatter_events(connection: Connection, seed: int, count: int) -> None:
    """Store random events of nine days of two orgs, with retries."""
    chance = random.Random(seed)  # noqa: S311
    for _ in range(count):
        at = instant("2026-03-01T00:00Z") + timedelta(minutes=chance.randrange(9 * 24 * 60), seconds=chance.random())
        add_event(
            connection,
            "deploy",
            at,
            outcome=chance.choice(["success", "failure", "cancelled"]),
            duration_ms=chance.choice([5, 100, 500.5, "unknown"]),
            tag=chance.choice([None, f"v{chance.randrange(count // 2)}"]),
            run_id=chance.choice([None, chance.randrange(count)]),
            org_id=chance.choice([NIL, ORG]),
        )


SLICES = [None, ("5 minutes", "0.5"), ("1 hour", "0.75"), ("1 day", "0.6"), ("1 day", "1")]


@pytest.fixture(params=SLICES, ids=str)
def random_objectives(database: Connection, request: pytest.FixtureRequest) -> Connection:
    """Store random events, three objectives and some maintenance of both orgs."""
    for objective, threshold_ms in OBJECTIVES.items():
        add_slo(
            database, objective, objective=objective, threshold_ms=threshold_ms, slices=request.param, target="0.937"
        )
    scatter_events(database, 5, 200)
    refresh(database)
    for objective in OBJECTIVES:
        exclude(database, "2026-03-02T10:03Z", "2026-03-02T15:00Z", objective)
        exclude(database, "2026-03-02T12:00Z", "2026-03-03T12:32Z", objective)
        exclude(database, "2026-03-05T00:00Z", "2026-03-06T00:00Z", objective, ORG)
    return database


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2026-03-01T00:00Z", AS_OF),
        ("2026-03-02T14:00Z", "2026-03-05T10:20Z"),
        ("2026-03-04T03:41:07Z", "2026-03-07T17:19:59Z"),
        ("-infinity", "infinity"),
    ],
)
def test_the_costs_of_an_org_add_up_to_exactly_its_burn_rate(random_objectives, since, until):
    for objective in OBJECTIVES:
        found = rows(
            random_objectives,
            "with explained as ("
            "  select org_id, sum(cost) as cost, min(cost) > 0 as is_positive"
            "  from ops.explain_slo(%(slo)s, %(since)s, %(until)s) group by 1"
            ") select summed.org_id, ops.burn_rate(summed.good, summed.total, 0.937) = coalesce(explained.cost, 0),"
            "  is_positive"
            " from ops.sum_slos(array("
            "  select row(org.id, %(slo)s, 1,"
            "   case when %(since)s = '-infinity' then %(since)s else date_bin('5 minutes', %(since)s::timestamptz, '1969-12-29Z') end,"
            "   case when %(until)s = 'infinity' then %(until)s"
            "    else date_bin('5 minutes', %(until)s::timestamptz - interval '1 us', '1969-12-29Z') + interval '5 minutes' end"
            ", jsonb '{}')::ops.slo_span from unnest(%(orgs)s) as org (id)"
            " )) as summed left join explained using (org_id) order by 1".replace("%(slo)s", f"'{objective}'")  # pyright: ignore[reportArgumentType]
            .replace("%(since)s", f"'{since}'::timestamptz")
            .replace("%(until)s", f"'{until}'::timestamptz")
            .replace("%(orgs)s", f"array['{NIL}', '{ORG}']::uuid[]"),
        )
        assert found == [(NIL, True, True), (ORG, True, True)], objective


def test_an_org_can_be_explained_alone(random_objectives):
    query = (
        "select * from ops.explain_slo('error_rate', '2026-03-01Z', '2026-03-10Z'{}) order by org_id, event_timestamp"
    )
    both = rows(random_objectives, query.replace("{}", ""))
    assert {row[0] for row in both} == {NIL, ORG}
    alone = rows(random_objectives, query.replace("{}", f", '{ORG}'"))  # pyright: ignore[reportArgumentType]
    assert alone == [row for row in both if row[0] == ORG]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_user_sees_only_what_burned_the_budget_of_the_own_org(random_objectives, acting_as, objective):
    query = "select * from ops.explain_slo(%s, '2026-03-01Z', '2026-03-10Z', %s) order by org_id, event_timestamp"
    expected = rows(random_objectives, query, objective, ORG)
    everything = rows(random_objectives, query, objective, None)
    assert len(everything) > len(expected) > 0
    with acting_as(random_objectives, "authenticated", ORG) as caller:
        assert rows(caller, query, objective, None) == expected
        assert rows(caller, query, objective, NIL) == []
        query_of_history = "select distinct org_id from ops.slo_history() where day_start > %s"
        assert rows(caller, query_of_history, "2026-01-01Z") == [(ORG,)]
        assert rows(caller, "select distinct org_id from ops.slo_burndown(%s)", AS_OF) == [(ORG,)]
    with acting_as(random_objectives, "authenticated", UUID(int=8)) as caller:
        assert rows(caller, query, objective, None) == []
    with acting_as(random_objectives, "anon") as caller, pytest.raises(psycopg.errors.InsufficientPrivilege):
        rows(caller, query, objective, None)


@pytest.mark.parametrize(
    ("slo", "since", "until"),
    [
        ("deploys", AS_OF, AS_OF),
        ("deploys", AS_OF, "2026-03-01T00:00Z"),
        ("deploys", AS_OF, None),
        ("unknown", "2026-03-01T00:00Z", AS_OF),
        (None, "2026-03-01T00:00Z", AS_OF),
        ("later", "2026-03-01T00:00Z", AS_OF),
    ],
)
def test_what_cannot_be_explained_is_refused(deploys, slo, since, until):
    add_slo(deploys, "later", valid_from=AS_OF)
    with refused():
        rows(deploys, "select * from ops.explain_slo(%s, %s, %s)", slo, since, until)


def test_each_stretch_of_a_range_is_explained_by_the_version_that_held_then(deploys):
    add_events(deploys, 2, "deploy", "2026-03-10T11:02Z", outcome="failure")
    refresh(deploys)
    deploys.execute("update ops.slos set target = 0.5, valid_from = '2026-03-10T11:00Z' where slo_name = 'deploys'")
    query = (
        "select version, count(*), sum(cost) from ops.explain_slo('deploys', '2026-03-10Z', %s) group by 1 order by 1"
    )
    # Of 25 events until 11:00 2.5 may fail, of the 12 after it 6.
    allowed = Decimal("8.5")
    found = rows(deploys, query, "2026-03-10T11:05Z")
    assert [(*row[:2], round(row[2], 12)) for row in found] == [
        (1, 5, round(5 / allowed, 12)),
        (2, 2, round(2 / allowed, 12)),
    ]
    assert rows(deploys, query, "2026-03-10T11:00Z") == [(1, 5, 2)]


# By target, window, budgeting and groups; a change of the target is made at the fifth day.
WINDOWS: dict[str, dict[str, Any]] = {
    "a rolling window": {"window": "6 days"},
    "a rolling window of slices": {"window": "6 days", "slices": ("1 hour", "0.75")},
    "a month": {"calendar": "month", "zone": "Europe/Zurich"},
    "a week": {"calendar": "week", "zone": "UTC"},
    "slices of a month": {"calendar": "month", "zone": "Europe/Zurich", "slices": ("1 hour", "0.75")},
}


@pytest.mark.parametrize(
    "change", [None, "target = 0.8", "target = 0.8, rolling_window = null, calendar_period = 'quarter'"]
)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_explanation_consumes_what_status_says_is_consumed(database, objective, window, change):
    promised = {"objective": objective, "threshold_ms": OBJECTIVES[objective], "target": "0.937"} | WINDOWS[window]
    add_slo(database, **promised)
    scatter_events(database, 23, 200)
    refresh(database)
    exclude(database, "2026-03-05T10:03Z", "2026-03-06T15:00Z")
    if change:
        query = sql.SQL("update ops.slos set {}, valid_from = '2026-03-05T12:03Z' where slo_name = 'deploys'")
        database.execute(query.format(sql.SQL(change)))
    database.execute("select ops.fill_slis()")
    for as_of in ("2026-03-04T11:03Z", "2026-03-07T11:03Z", "2026-03-12T00:00Z"):
        for org in (NIL, ORG):
            good, total, left, basis = evaluate(
                database, "deploys", "good", "total", "budget_left", "budget_basis", as_of=as_of, org_id=org
            )
            explained = rows(
                database,
                "select cost, budget_basis from ops.explain_slo('deploys', null, %s, %s)",
                *(as_of, org),
            )
            assert {row[1] for row in explained} == ({basis} if total > good else set())
            consumed = sum(row[0] for row in explained)
            assert consumed == (1 - left if total else 0), (as_of, org)


def test_an_explanation_of_a_group_consumes_what_its_status_says_is_consumed(database):
    add_slo(database, event_type="workflow_run", group_by=["workflow"], calendar="month", zone="UTC")
    for workflow, failures in (("nightly", 1), ("release", 3)):
        add_events(database, 9, "workflow_run", "2026-03-03T10:00Z", outcome="success", workflow=workflow)
        add_events(database, failures, "workflow_run", "2026-03-04T10:00Z", outcome="failure", workflow=workflow)
    refresh(database)
    explained = "select slo_group, sum(cost) from ops.explain_slo('deploys', null, %s) group by 1 order by 1"
    status = "select slo_group, 1 - budget_left from ops.evaluate_slos(%s, false, '{deploys}') order by 1"
    assert rows(database, explained, AS_OF) == rows(database, status, AS_OF) != []


def test_a_part_of_a_month_consumes_a_part_of_the_budget_of_the_month(database):
    add_slo(database, target="0.9", calendar="month", zone="UTC")
    for day in range(1, 11):
        add_events(database, 9, "deploy", f"2026-03-{day:02}T10:00Z", outcome="success")
        add_event(database, "deploy", f"2026-03-{day:02}T10:30Z", outcome="failure")
    refresh(database)
    query = "select sum(cost), min(budget_basis) from ops.explain_slo('deploys', %s, %s)"
    whole, basis = rows(database, query, "2026-03-01Z", "2026-03-11Z")[0]
    assert (round(whole * 31 / 10, 12), basis) == (1, "expected")
    part, basis = rows(database, query, "2026-03-10Z", "2026-03-11Z")[0]
    assert (round(part * 31, 12), basis) == (1, "expected")
    # Once the month is over, its budget is that of what it came to.
    assert rows(database, query, "2026-03-01Z", "2026-04-01Z") == [(1, "counted")]
    # Two months have no budget in common: it is that of what was counted in the range.
    assert rows(database, query, "2026-02-20Z", "2026-03-11Z") == [(1, "counted")]


def test_a_half_filled_objective_explains_only_what_it_counted(database):
    for day, outcome in ((3, "failure"), (4, "success"), (8, "failure"), (9, "success")):
        add_event(database, "deploy", f"2026-03-0{day}T10:00Z", outcome=outcome, tag=f"v{day}")
    add_event(database, "deploy", "2026-03-08T11:00Z", outcome="success", tag="v3")
    refresh(database)
    for objective in ("availability", "error_rate"):
        add_slo(database, objective, objective=objective, target="0.5")
    database.execute("select ops.fill_slis('2026-03-06Z')")
    assert [row[1:3] for row in explain(database, "error_rate")] == [("v3", "failed")]
    explained = rows(
        database, "select event_timestamp, cost from ops.explain_slo('availability', '2026-03-01Z', %s)", AS_OF
    )
    assert explained == [(instant("2026-03-03T10:00Z"), 1)]


def history_of_deploys(connection: Connection) -> list[tuple[object, ...]]:
    query = (
        "select version, to_char(day_start at time zone 'UTC', 'MM-DD HH24:MI'), target::float8, good, total,"
        " good_unadjusted, total_unadjusted from ops.slo_history() where slo_name = 'deploys' order by 1, 2"
    )
    return rows(connection, query)


def test_the_history_shows_the_day_of_a_change_in_both_versions(database):
    add_slo(database)
    for at in ("09T23:59", "10T00:00", "10T10:59", "10T11:00", "10T12:00", "11T00:00"):
        add_event(database, "deploy", f"2026-03-{at}Z", outcome="failure")
        add_event(database, "deploy", f"2026-03-{at}Z", outcome="success")
    refresh(database)
    database.execute("update ops.slos set target = 0.5, valid_from = '2026-03-10T11:00Z' where slo_name = 'deploys'")
    assert history_of_deploys(database) == [
        (1, "03-09 00:00", 0.9, 1, 2, 1, 2),
        (1, "03-10 00:00", 0.9, 2, 4, 2, 4),
        (2, "03-10 00:00", 0.5, 2, 4, 2, 4),
        (2, "03-11 00:00", 0.5, 1, 2, 1, 2),
    ]


def test_the_history_counts_each_event_in_the_version_that_counted_then(database):
    add_slo(database, objective="latency", threshold_ms=100)
    for day in (9, 11):
        add_event(database, "deploy", f"2026-03-{day:02}T10:00Z", outcome="success", duration_ms=70)
    refresh(database)
    database.execute("update ops.slos set threshold_ms = 50, valid_from = '2026-03-10Z' where slo_name = 'deploys'")
    refresh(database)
    expected = [(1, "03-09 00:00", 0.9, 1, 1, 1, 1), (2, "03-11 00:00", 0.9, 0, 1, 0, 1)]
    assert history_of_deploys(database) == expected
    add_event(database, "deploy", "2026-03-09T11:00Z", outcome="success", duration_ms=70)
    refresh(database)
    assert history_of_deploys(database) == [(1, "03-09 00:00", 0.9, 2, 2, 2, 2), expected[1]]


def test_the_days_of_the_history_are_those_of_the_settings(database):
    database.execute("update ops.settings set value = 'Europe/Zurich' where name = 'time_zone'")
    add_slo(database)
    for at in ("03-29T22:59", "03-28T22:59", "03-28T23:00", "03-29T21:59", "03-29T22:00"):
        add_event(database, "deploy", f"2026-{at}Z", outcome="success")
    refresh(database)
    assert history_of_deploys(database) == [
        (1, "03-27 23:00", 0.9, 1, 1, 1, 1),
        (1, "03-28 23:00", 0.9, 2, 2, 2, 2),
        (1, "03-29 22:00", 0.9, 2, 2, 2, 2),
    ]


def test_the_history_shows_maintenance_both_ways_and_survives_a_rebuild(deploys):
    deploys.execute("update ops.slos set target = 0.5, valid_from = '2026-03-10T10:30Z' where slo_name = 'deploys'")
    exclude(deploys, "2026-03-10T10:00Z", "2026-03-10T10:05Z")
    exclude(deploys, "2026-03-10T09:00Z", "2026-03-10T10:05Z")
    expected = [(1, "03-10 00:00", 0.9, 0, 0, 20, 25), (2, "03-10 00:00", 0.5, 10, 10, 10, 10)]
    assert history_of_deploys(deploys) == expected
    rebuild(deploys, "2026-03-01T00:00Z", "2026-04-01T00:00Z")
    assert history_of_deploys(deploys) == expected


def test_a_deleted_objective_keeps_its_history(deploys):
    deploys.execute("delete from ops.slos where slo_name = 'deploys'")
    assert history_of_deploys(deploys) == [(1, "03-10 00:00", 0.9, 30, 35, 30, 35)]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Zurich"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_days_of_the_history_add_up_to_the_counts(database, zone, objective):
    database.execute("update ops.settings set value = %s where name = 'time_zone'", [zone])
    add_slo(database, objective=objective, threshold_ms=OBJECTIVES[objective])
    scatter_events(database, 11, 200)
    refresh(database)
    exclude(database, "2026-03-02T10:03Z", "2026-03-04T15:02Z")
    database.execute("update ops.slos set target = 0.5, valid_from = '2026-03-05T12:00Z' where slo_name = 'deploys'")
    expected: defaultdict[tuple[object, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    counts = rows(database, "select org_id, bucket_start, good, total from ops.slo_counts where slo_name = 'deploys'")
    for org, start, good, total in counts:
        is_excluded = org == NIL and instant("2026-03-02T10:00Z") <= start < instant("2026-03-04T15:05Z")
        version = 1 if start < instant("2026-03-05T12:00Z") else 2
        figures = (0 if is_excluded else good, 0 if is_excluded else total, good, total)
        day = expected[org, version, period_start("day", start, ZoneInfo(zone))]
        day[:] = [one + other for one, other in zip(day, figures, strict=True)]
    query = (
        "select org_id, version, day_start, good, total, good_unadjusted, total_unadjusted"
        " from ops.slo_history() where slo_name = 'deploys'"
    )
    found = rows(database, query)
    assert {tuple(row[:3]): list(row[3:]) for row in found} == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize("slices", SLICES, ids=str)
@pytest.mark.parametrize(("calendar", "zone"), [(None, None), ("month", "Europe/Zurich"), ("week", "UTC")])
def test_the_last_day_of_the_burn_down_leaves_the_budget_that_is_left(database, slices, calendar, zone):
    database.execute("update ops.settings set value = 'Europe/Zurich' where name = 'time_zone'")
    window = {"window": "6 days", "calendar": calendar, "zone": zone, "slices": slices, "target": "0.937"}
    for objective, threshold_ms in OBJECTIVES.items():
        add_slo(database, objective, objective=objective, threshold_ms=threshold_ms, **window)
    scatter_events(database, 13, 150)
    refresh(database)
    exclude(database, "2026-03-05T10:03Z", "2026-03-06T15:00Z", "error_rate")
    add_event(database, "deploy", "2026-03-08T10:00Z", outcome="failure")
    for as_of in ("2026-03-07T11:03Z", "2026-03-08T00:00Z", "2026-03-12T00:00Z"):
        for slo in OBJECTIVES:
            for org in (NIL, ORG):
                found = rows(
                    database,
                    "select day_start, good, total, consumed, budget_left from ops.slo_burndown(%s)"
                    " where slo_name = %s and org_id = %s order by day_start",
                    *(as_of, slo, org),
                )
                good, total, left = evaluate(database, slo, "good", "total", "budget_left", as_of=as_of, org_id=org)
                assert (sum(row[1] for row in found), sum(row[2] for row in found)) == (good, total)
                if found:
                    assert found[-1][-1] == left
                    assert abs(1 - sum(row[3] for row in found) - left) < Decimal("1e-12")
                else:
                    assert left is None


def test_the_burn_down_says_what_each_day_cost(deploys):
    add_events(deploys, 3, "deploy", "2026-03-08T10:02Z", outcome="failure")
    add_events(deploys, 2, "deploy", "2026-03-09T10:02Z", outcome="success")
    add_event(deploys, "deploy", "2026-03-10T12:06Z", outcome="failure")
    refresh(deploys)
    query = "select good, total, consumed, budget_left from ops.slo_burndown(%s) where slo_name = 'deploys' order by day_start"
    assert rows(deploys, query, AS_OF) == [
        (0, 3, Decimal("0.75"), Decimal("0.25")),
        (2, 2, 0, Decimal("0.25")),
        (30, 35, Decimal("1.25"), -1),
    ]

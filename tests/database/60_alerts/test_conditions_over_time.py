"""Whole stories of an objective, minute by minute: when each shipped burn-rate rule fires and when it resolves."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from support.events import (
    NIL,
    Connection,
    add_channel,
    add_event,
    add_slo,
    evaluate_alerts,
    instant,
    refresh,
    scalar,
    told,
)

pytestmark = pytest.mark.database

START = instant("2026-03-10T00:00Z")
RULES = {"fast": "fast_burn", "steady": "steady_burn", "slow": "slow_burn", "trickle": "trickle"}
# Minutes from and until, every how many minutes, how many then, and how many of them are bad.
Traffic = tuple[int, int, int, int, int]
# Minutes at which a rule fires and resolves; None: it still fires at the end.
Firing = tuple[int, int | None]
MONTH = -30 * 24 * 60


@dataclass(frozen=True, slots=True)
class Scenario:
    """The traffic of an objective of 99.9 % over 30 days, and when the shipped rules fire; the rest is silence."""

    traffic: Sequence[Traffic]
    end: int
    fires: dict[str, list[Firing]]


def steady(*rates: Traffic, history: int = 50) -> list[Traffic]:
    """Return traffic in five minutes each, after 30 days of `history` good ones in each five minutes."""
    return [(MONTH, 0, 5, history, 0), *rates]


SCENARIOS = {
    "total outage, 10 a minute": Scenario(
        steady((0, 600, 5, 50, 0), (600, 630, 5, 50, 50), (630, 1000, 5, 50, 0)),
        1000,
        {"fast": [(605, 635)], "steady": [(605, 660)], "slow": [(605, 750)], "trickle": [(605, 990)]},
    ),
    "1.8 % for two hours, 100 a minute": Scenario(
        steady((0, 60, 5, 500, 0), (60, 180, 5, 500, 9), (180, 300, 5, 500, 0)),
        300,
        {"fast": [(110, 185)], "steady": [(105, 200)], "slow": [(100, 280)], "trickle": [(90, None)]},
    ),
    "exactly 14.4 times the budget rate (1.44 %)": Scenario(
        steady((0, 60, 5, 50_000, 0), (60, 240, 5, 50_000, 720), (240, 300, 5, 50_000, 0)),
        300,
        {"fast": [], "steady": [(105, 260)], "slow": [(80, None)], "trickle": [(65, None)]},
    ),
    "one run every 30 minutes, one failure at 60": Scenario(
        [(MONTH, 60, 30, 1, 0), (60, 61, 30, 1, 1), (90, 500, 30, 1, 0)],
        500,
        {"fast": [(65, 95)], "steady": [(65, 95)], "slow": [(65, 185)], "trickle": [(65, 425)]},
    ),
    "outage, then no data, then healthy": Scenario(
        steady((0, 60, 5, 50, 0), (60, 80, 5, 50, 50), (260, 450, 5, 50, 0)),
        450,
        {"fast": [(65, 265)], "steady": [(65, 265)], "slow": [(65, 265)], "trickle": [(65, 440)]},
    ),
    "new service, 10 a minute, no history": Scenario(
        [(0, 30, 5, 50, 0), (30, 90, 5, 50, 50), (90, 300, 5, 50, 0)],
        300,
        {"fast": [(35, 95)], "steady": [(35, 120)], "slow": [(35, 210)], "trickle": [(35, None)]},
    ),
    "one failure in a quiet night, after days of 30 runs in each five minutes": Scenario(
        [(MONTH, -480, 5, 30, 0), (0, 1, 5, 1, 1), (60, 61, 5, 1, 0)],
        90,
        {"fast": [], "steady": [], "slow": [], "trickle": []},
    ),
    "an outage in a quiet night that takes a tenth of the budget": Scenario(
        [(MONTH, -480, 5, 30, 0), (0, 65, 5, 3, 3), (65, 70, 5, 3, 0)],
        100,
        # 2 % of the budget of 253 are 6 failures, 5 % 13 and 10 % 26.
        {"fast": [(10, 70)], "steady": [(25, 95)], "slow": [(45, None)], "trickle": [(45, None)]},
    ),
    "25 runs a day, and all fail for five hours": Scenario(
        [(MONTH, 0, 58, 1, 0), (0, 300, 58, 1, 1), (348, 400, 58, 1, 0)],
        400,
        # There are too few to judge, so that it takes three failures.
        {"fast": [], "steady": [(120, 350)], "slow": [(120, None)], "trickle": [(120, None)]},
    ),
    "25 runs a day, and one fails": Scenario(
        [(MONTH, 0, 58, 1, 0), (0, 1, 58, 1, 1), (58, 400, 58, 1, 0)],
        400,
        {"fast": [], "steady": [], "slow": [], "trickle": []},
    ),
    "a run an hour, one outage of six runs": Scenario(
        [(MONTH, 0, 60, 1, 0), (0, 360, 60, 1, 1), (360, 700, 60, 1, 0)],
        700,
        {"fast": [], "steady": [(125, 365)], "slow": [(125, 425)], "trickle": [(125, 665)]},
    ),
}


def arrivals(traffic: Sequence[Traffic]) -> Iterator[tuple[int, int, int]]:
    """Return the minute, good and total of each five minutes that hold something."""
    for since, until, every, total, bad in traffic:
        for minute in range(since, until, every):
            yield minute, total - bad, total


def store_counts(connection: Connection, sli_id: int, minutes: Sequence[tuple[int, int, int]]) -> None:
    """Store what the jobs would have counted."""
    connection.execute(
        "insert into ops.sli_counts (org_id, sli_id, bucket_start, good, total)"
        " select %s, %s, %s + make_interval(mins => minute), good, total"
        " from unnest(%s::integer[], %s::bigint[], %s::bigint[]) as counted (minute, good, total)",
        [NIL, sli_id, START, *(list(column) for column in zip(*minutes, strict=True))],
    )


def play(connection: Connection, scenario: Scenario, slo: str = "deploys") -> None:
    """Let the traffic arrive and evaluate the rules every five minutes, each time with what has happened by then."""
    sli_id = scalar(connection, "select sli_id from ops.slo_versions where slo_name = %s", slo)
    waiting = sorted(arrivals(scenario.traffic))
    first = min((minute for minute, good, total in waiting if good < total), default=0)
    for minute in range(first, scenario.end + 1, 5):
        arrived = [bucket for bucket in waiting if bucket[0] < minute]
        waiting = waiting[len(arrived) :]
        if arrived:
            store_counts(connection, sli_id, arrived)
        connection.execute("update ops.job_runs set finished_at = %s where job = 'refresh'", [minute_of(minute)])
        evaluate_alerts(connection, minute_of(minute))


def minute_of(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def firings(connection: Connection, slo: str = "deploys") -> dict[str, list[Firing]]:
    """Return when each shipped burn-rate rule fired and resolved."""
    found: dict[str, list[Firing]] = {name: [] for name in RULES}
    query = (
        "select rule_name, extract(epoch from firing_since - %(start)s)::integer / 60,"
        " extract(epoch from resolved_at - %(start)s)::integer / 60 from ops.alerts"
        " where kind = 'burn_rate' and subject = %(slo)s and firing_since is not null order by firing_since"
    )
    with connection.cursor() as cursor:
        for rule, since, until in cursor.execute(query, {"start": START, "slo": slo}).fetchall():
            found[next(name for name, known in RULES.items() if known == rule)].append((since, until))
    return found


@pytest.fixture
def shop(database: Connection) -> Connection:
    """Define one objective of 99.9 % over 30 days, and count an event of a tenant."""
    database.execute("delete from ops.slos")
    database.execute("update ops.slo_versions set valid_until = valid_from")
    add_slo(database, target="0.999")
    add_event(database, "deploy", START - timedelta(days=100), outcome="success")
    refresh(database, as_of=START)
    return database


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_rule_fires_and_resolves_when_it_should(shop, name):
    play(shop, SCENARIOS[name])
    assert firings(shop) == SCENARIOS[name].fires


@pytest.mark.parametrize("name", ["a run an hour, one outage of six runs", "25 runs a day, and one fails"])
def test_a_service_with_a_run_an_hour_gets_one_page_for_an_outage_and_none_for_a_failure(shop, name):
    add_channel(shop, severities=["page"])
    play(shop, SCENARIOS[name])
    outage = [("ops", "shop", ["steady_burn"], []), ("ops", "shop", [], ["steady_burn"])]
    assert told(shop) == (outage if "outage" in name else [])


def test_prometheus_fires_as_often_and_says_when(shared_data):
    shared = json.loads((shared_data / "cases/slo/burn_scenarios.json").read_text("utf-8"))
    told_here = {scenario["name"]: scenario["here"] for scenario in shared["scenarios"]}
    assert told_here == {
        name: {
            rule: [first, "end" if last is None else last] if found else None
            for rule, found in SCENARIOS[name].fires.items()
            for first, last in found or [(0, 0)]
        }
        for name in told_here
    }

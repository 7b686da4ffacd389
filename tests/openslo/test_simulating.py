"""A simulation beside a live run over the same events: equal alerts, to the minute."""

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from opskpi.openslo import Definitions, Slo, applying, simulating
from support.events import Connection, add_rule, add_slo, evaluate_alerts, instant, refresh, rows, run_jobs
from support.fixtures import Connect

pytestmark = pytest.mark.database

START = instant("2026-03-09T21:00Z")
STEP = timedelta(minutes=5)
STEPS = 72
OBJECTIVES: dict[str, dict[str, Any]] = {
    "month": {"target": "0.99", "window": "30 days"},
    "hours": {"target": "0.9", "window": "6 hours", "expected_interval": "30 minutes"},
    "day": {"target": "0.95", "calendar": "day", "zone": "UTC"},
    "slices": {"target": "0.9", "window": "2 days", "slices": ("15 minutes", "0.8")},
    "week_of_slices": {"target": "0.98", "calendar": "week", "zone": "Europe/Zurich", "slices": ("35 minutes", "0.7")},
}


def stream(seed: int) -> list[tuple[datetime, bool]]:
    """Return random attempts from two days before the start on: quiet times, bursts, outages, silence."""
    chance = random.Random(seed)  # noqa: S311
    at, end = START - timedelta(days=2), START + STEPS * STEP
    attempts: list[tuple[datetime, bool]] = []
    while at < end:
        length = timedelta(minutes=chance.choice([5, 20, 60, 180]))
        pause = chance.choice([20, 120, 900, 4000, 1_000_000])
        failing = chance.choice([0, 0, 0, 0.02, 0.3, 1])
        until = min(at + length, end)
        at += timedelta(seconds=chance.uniform(1, pause))
        while at < until:
            attempts.append((at, chance.random() >= failing))
            at += timedelta(seconds=chance.uniform(1, pause))
        at = until
    return attempts


def insert(connection: Connection, attempts: list[tuple[datetime, bool]]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into public.telemetry_events (event_type, event_timestamp, metadata) values ('deploy', %s, %s)",
            [(at, Jsonb({"outcome": "success" if good else "failure"})) for at, good in attempts],
        )


@pytest.mark.parametrize("seed", range(4))
def test_a_simulation_fires_and_resolves_as_a_live_run_does(database: Connection, seed: int):
    database.execute("delete from ops.slos")
    database.execute("update ops.slo_versions set valid_until = valid_from")
    for name, columns in OBJECTIVES.items():
        promised: dict[str, Any] = {"expected_interval": "30 days"} | columns
        add_slo(database, name, **promised)
    for name in ("month", "hours"):
        burn: dict[str, Any] = {"slo_name": name, "factor": "1.5", "long_window": "1 hour", "short_window": "5 minutes"}
        add_rule(database, f"{name}/waiting", "burn_rate", alert_after="10 minutes", **burn)
        add_rule(database, f"{name}/one", "burn_rate", **burn | {"factor": 3, "short_window": None})
    waiting = stream(seed)
    for step in range(STEPS):
        as_of = START + step * STEP
        arrived = [attempt for attempt in waiting if attempt[0] < as_of]
        waiting = waiting[len(arrived) :]
        insert(database, arrived)
        run_jobs(database, as_of)
    query = (
        "select rule_name, subject, firing_since, resolved_at from ops.alerts where slo_version is not null"
        " and firing_since is not null order by 3, 1, 2"
    )
    live = rows(database, query)
    stored = applying.stored(database)
    defined = Definitions(slos=stored.slos, rules=tuple(rule for rule in stored.rules if rule.slo_name))
    simulated = simulating.simulate(database, defined, START, START + STEPS * STEP)
    assert [(alert.rule_name, alert.subject, alert.fired_at, alert.resolved_at) for alert in simulated] == live
    assert len(live) > 3


def test_the_jobs_go_on_while_a_simulation_runs(database: Connection, connect: Connect):
    insert(database, stream(1))
    refresh(database)
    promised = Slo("new", "shop", "error_rate", "deploy", Decimal("0.9"), "new", rolling_window=timedelta(days=1))
    other, states = connect(), list[str]()

    def run(_: int) -> None:
        states.extend([refresh(other).state, evaluate_alerts(other, START).state])

    found = simulating.simulate(database, Definitions(slos=(promised,)), START - timedelta(days=1), START, run)
    assert (states, found != []) == (["done", "done"], True)
    assert rows(database, "select from ops.slos where slo_name = 'new'") == []

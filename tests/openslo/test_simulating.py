"""A simulation beside a live run over the same events: equal alerts, to the minute."""

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from opskpi.openslo import Definitions, Rule, Slo, applying, simulating
from support.events import Connection, add_rule, add_slo, evaluate_alerts, instant, refresh, rows, run_jobs, scalar
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
        told: dict[str, Any] = {"expected_interval": "30 days"} | columns
        add_slo(database, name, **told)
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


PROMISES: dict[str, dict[str, Any]] = {
    "attempts": {},
    "attempts by workflow": {"group_by": ("workflow",)},
    "units of work": {"objective": "availability"},
    "units of work by workflow": {"objective": "availability", "group_by": ("workflow",)},
    "durations of one workflow": {
        "objective": "latency",
        "threshold_ms": Decimal(200),
        "total_labels": {"workflow": ("a",)},
    },
    "labels": {"objective": "events", "good_labels": {"workflow": ("a", "b")}},
    "values": {"objective": "measured", "at_most": Decimal(150)},
    "slices of a week": {
        "window_kind": "calendar",
        "rolling_window": None,
        "calendar_period": "week",
        "time_zone": "Europe/Zurich",
        "budgeting_method": "timeslices",
        "time_slice": timedelta(minutes=35),
        "slice_target": Decimal("0.7"),
    },
}


def new_promise(**columns: Any) -> Definitions:
    """Return a new objective over workflow runs, with a rule of its own."""
    slo = {"objective": "error_rate", "target": Decimal("0.9"), "rolling_window": timedelta(days=1)} | columns
    rule = {"factor": Decimal("1.5"), "long_window": timedelta(hours=1), "short_window": timedelta(minutes=5)}
    return Definitions(
        slos=(Slo(slo_name="new", service="shop", event_type="workflow_run", indicator_name="new", **slo),),
        rules=(Rule("new/burn", "burn_rate", "page", slo_name="new", **rule),),
    )


def simulated(connection: Connection, definitions: Definitions) -> list[simulating.Fired]:
    return simulating.simulate(connection, definitions, START - timedelta(days=1), START + STEPS * STEP)


@pytest.fixture
def workflows(database: Connection) -> Connection:
    """Count random runs of three workflows, of which no objective asks anything but the outcome."""
    chance = random.Random(7)  # noqa: S311
    with database.cursor() as cursor:
        cursor.executemany(
            "insert into public.telemetry_events (event_type, event_timestamp, tag, metadata) values ('workflow_run', %s, %s, %s)",
            [
                (at, f"v{chance.randrange(9999)}", Jsonb({"outcome": "success" if good else "failure"} | said))
                for at, good in stream(7)
                for said in [{"workflow": chance.choice("abc"), "duration_ms": chance.randrange(300)}]
            ],
        )
    refresh(database)
    return database


@pytest.mark.parametrize("name", PROMISES)
def test_a_new_objective_is_tried_as_it_is_judged_once_it_stands(workflows: Connection, name: str):
    definitions = new_promise(**PROMISES[name])
    before = simulated(workflows, definitions)
    assert rows(workflows, "select from ops.slos where slo_name = 'new'") == []
    applying.make(workflows, definitions)
    half = scalar(workflows, "select ops.fill_slis(%s)", START - timedelta(hours=7))
    assert half == START - timedelta(hours=7)
    assert simulated(workflows, definitions) == before
    workflows.execute("select ops.fill_slis()")
    assert simulated(workflows, definitions) == before
    assert before != []


def test_a_simulation_only_reads_and_keeps_no_job_waiting(database: Connection, connect: Connect):
    insert(database, stream(1))
    refresh(database)
    trying, held = connect(), list[tuple[Any, ...]]()
    trying.execute("set default_transaction_read_only = on")

    def look(_: int) -> None:
        held.extend(
            rows(
                database,
                "select locktype, mode from pg_locks where pid = %s and mode <> 'AccessShareLock'"
                " and (locktype, mode) <> ('virtualxid', 'ExclusiveLock')",
                trying.info.backend_pid,
            )
        )

    other = Slo("other", "shop", "availability", "deploy", Decimal("0.9"), "other", rolling_window=timedelta(days=1))
    found = simulating.simulate(trying, Definitions(slos=(other,)), START - timedelta(days=1), START, look)
    assert (held, found != []) == ([], True)


@pytest.mark.parametrize(
    ("columns", "sqlstate"),
    [
        ({"target": Decimal("1.5")}, "23514"),
        ({"rolling_window": None, "calendar_period": "week", "time_zone": "Mars/Olympus"}, "22023"),
        ({"total_labels": {"colour": ("red",)}}, "OP001"),
        ({"group_by": ("outcome",)}, "OP001"),
        ({"rolling_window": timedelta(minutes=30)}, "OP001"),
    ],
)
def test_what_cannot_be_applied_cannot_be_simulated(database: Connection, columns: dict[str, Any], sqlstate: str):
    definitions = new_promise(**columns)
    for attempt in (applying.make, simulated):
        with database.transaction(force_rollback=True), pytest.raises(psycopg.Error) as refusal:
            attempt(database, definitions)
        assert refusal.value.sqlstate == sqlstate


def test_the_jobs_go_on_while_a_simulation_runs(database: Connection, connect: Connect):
    insert(database, stream(1))
    refresh(database)
    new = Slo("new", "shop", "error_rate", "deploy", Decimal("0.9"), "new", rolling_window=timedelta(days=1))
    other, states = connect(), list[str]()

    def run(_: int) -> None:
        states.extend([refresh(other).state, evaluate_alerts(other, START).state])

    found = simulating.simulate(database, Definitions(slos=(new,)), START - timedelta(days=1), START, run)
    assert (states, found != []) == (["done", "done"], True)
    assert rows(database, "select from ops.slos where slo_name = 'new'") == []

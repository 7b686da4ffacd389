"""Objectives as analysts, pages and summaries list them."""

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from opskpi.dashboard import figures
from opskpi.status import reading
from support.events import add_event, add_slo, instant, refresh, rows

pytestmark = pytest.mark.database

Connection = psycopg.Connection[Any]


def attempt(connection: Connection, event_type: str, good: int, bad: int) -> None:
    for outcome, count in (("success", good), ("failure", bad)):
        for _ in range(count):
            connection.execute(
                "insert into public.telemetry_events (event_type, event_timestamp, metadata)"
                " values (%s, now() - interval '1 hour', jsonb_build_object('outcome', %s::text))",
                [event_type, outcome],
            )


def test_the_worst_objective_comes_first_in_views_commands_and_summaries(database: Connection) -> None:
    database.execute("delete from ops.slos")
    for name in ("b_fine", "c_empty", "d_spent", "e_worse", "f_few", "a_close"):
        add_slo(database, name, event_type=name)
    attempt(database, "b_fine", 100, 1)
    attempt(database, "d_spent", 80, 20)
    attempt(database, "e_worse", 50, 50)
    attempt(database, "f_few", 3, 0)
    attempt(database, "a_close", 91, 9)
    refresh(database)
    expected = [
        *[("e_worse", "breached"), ("d_spent", "breached"), ("a_close", "at_risk")],
        *[("f_few", "insufficient"), ("c_empty", "no_data"), ("b_fine", "ok")],
    ]
    assert rows(database, "select slo_name, status from public.v_ops_slo_status") == expected
    assert [(slo.slo_name, slo.status) for slo in reading.slos(database)] == expected
    (listed,) = rows(
        database,
        "select array(select slo ->> 'objective' from jsonb_array_elements("
        "ops.summary_objectives('00000000-0000-0000-0000-000000000000', now()) -> 'list') as slo)",
    )
    assert listed == ([name for name, _ in expected],)


def test_rows_of_objectives_follow_the_order_of_the_status_and_lose_none() -> None:
    counted = [{"slo_name": name, "slo_group": {}, "n": n} for n, name in enumerate("abab")]
    found = figures.by_promise(counted, [("b", ""), ("x", "")])
    assert [(name, [row["n"] for row in of_one]) for (name, _), of_one in found.items()] == [
        ("b", [1, 3]),
        ("a", [0, 2]),
    ]


def test_a_year_burns_down_day_by_day_from_its_first_instant(database: Connection) -> None:
    add_slo(database, calendar="year", zone="Europe/Zurich", target="0.5")
    add_event(database, "deploy", "2025-12-31T22:59:00Z", outcome="failure")
    for day in ("2025-12-31T23:00:00Z", "2026-03-10T11:00:00Z", "2026-12-31T22:59:00Z"):
        add_event(database, "deploy", day, outcome="success")
        add_event(database, "deploy", day, outcome="failure" if day.startswith("2026-03") else "success")
    refresh(database)
    found = rows(
        database,
        "select good, total, consumed, budget_left from ops.slo_burndown(%s, array['deploys'])",
        instant("2026-12-31T22:59:30Z"),
    )
    assert [tuple(map(float, row)) for row in found] == [
        (2, 2, 0, 1),
        (1, 2, pytest.approx(1 / 3), pytest.approx(2 / 3)),
        (2, 2, 0, pytest.approx(2 / 3)),
    ]
    (length,) = rows(database, "select window_length from ops.slo_windows('2026-03-01Z', array['deploys'])")
    assert length == (timedelta(days=365),)


def test_burn_rates_of_a_page_are_those_of_the_status_after_a_change_of_the_target(database: Connection) -> None:
    add_slo(database, target="0.9")
    now = rows(database, "select now() from ops.settings limit 1")[0][0]
    for outcome, count in (("success", 80), ("failure", 20)):
        for _ in range(count):
            add_event(database, "deploy", now - timedelta(minutes=30), outcome=outcome)
    refresh(database)
    database.execute("update ops.slos set target = 0.99 where slo_name = 'deploys'")
    [(of_status,)] = rows(database, "select burn_rate_1h from public.v_ops_slo_status where slo_name = 'deploys'")
    shown = "select burn_rate from ops.slo_burn_rates(now()) where slo_name = 'deploys' and window_name = '1h'"
    assert rows(database, shown) == [(of_status,)]
    assert of_status == 2

"""Whatever the order of arrival and whenever the jobs run, the objectives and their alerts end the same."""

import os
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.events import Connection, add_event, add_rule, add_slo, instant, refresh, rows, run_jobs

pytestmark = pytest.mark.database

FINAL = instant("2026-03-10T12:00:00Z")
LENGTH = timedelta(hours=8)
# Minutes before the end, whether it succeeded and was fast, and of which release.
Attempt = tuple[int, bool, bool, int]

attempts = st.tuples(
    st.integers(min_value=0, max_value=LENGTH // timedelta(minutes=1)), st.booleans(), st.booleans(), st.integers(0, 4)
)
moments = st.sampled_from(["", "", "refresh one", "refresh", "evaluate"])


@pytest.fixture
def shop_of_every_kind(database: Connection) -> Connection:
    """Define an objective of each kind, and rules whose windows all have events at the end."""
    database.execute("delete from ops.alert_rules")
    database.execute("delete from ops.slos")
    database.execute("update ops.slo_versions set valid_until = valid_from")
    add_slo(database, "errors", window="6 hours")
    add_slo(database, "releases", objective="availability")
    add_slo(database, "speed", objective="latency", threshold_ms=100, calendar="day", zone="UTC")
    add_slo(database, "slices", target="0.3", slices=("5 minutes", "0.5"))
    add_rule(database, "fast", "burn_rate", "page", factor=2, long_window="1 hour", short_window="5 minutes")
    add_rule(database, "slow", "burn_rate", budget_share="0.05", long_window="3 hours")
    add_rule(database, "spent", "budget_exhausted")
    return database


def arrive(connection: Connection, org: UUID, attempt: Attempt) -> None:
    minutes, good, fast, release = attempt
    said = {"outcome": "success" if good else "failure", "duration_ms": 99 if fast else 100}
    tag = f"v{release}" if release else None
    add_event(connection, "deploy", FINAL - timedelta(minutes=minutes), tag=tag, org_id=org, **said)


def arrive_steadily(connection: Connection, org: UUID) -> None:
    """Let enough arrive that every objective can be judged in the end."""
    for number in range(12):
        arrive(connection, org, (number % 3, True, True, 0))


def found(connection: Connection, org: UUID) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    objectives = rows(
        connection,
        "select slo_name, good, total, status, budget_left, burn_rate_1h, time_to_exhaustion, last_counted_at"
        " from ops.evaluate_slos(%s, false) where org_id = %s order by 1",
        FINAL,
        org,
    )
    query = (
        "select rule_name, subject, is_frozen from ops.alerts where org_id = %s and state <> 'resolved' order by 1, 2"
    )
    return objectives, rows(connection, query, org)


@example(story=[((minutes, False, True, 0), "evaluate") for minutes in range(30)], steady_first=False)
@given(story=st.lists(st.tuples(attempts, moments), max_size=30), steady_first=st.booleans())
@settings(
    deadline=None,
    max_examples=int(os.environ.get("OPSKPI_EXAMPLES", "10")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_order_of_arrival_and_any_schedule_end_as_one_pass_over_all_events(
    shop_of_every_kind, story: Sequence[tuple[Attempt, str]], steady_first: bool
):
    shop_of_every_kind.execute("truncate ops.alert_evaluations")
    piecemeal, at_once = uuid4(), uuid4()
    if steady_first:
        arrive_steadily(shop_of_every_kind, piecemeal)
    for place, (attempt, moment) in enumerate(story):
        arrive(shop_of_every_kind, piecemeal, attempt)
        if moment == "evaluate":
            run_jobs(shop_of_every_kind, FINAL - LENGTH + LENGTH * place / len(story))
        elif moment:
            refresh(shop_of_every_kind, max_ids=1 if moment == "refresh one" else 200_000)
    if not steady_first:
        arrive_steadily(shop_of_every_kind, piecemeal)
    arrive_steadily(shop_of_every_kind, at_once)
    for attempt, _ in sorted(story, reverse=True):
        arrive(shop_of_every_kind, at_once, attempt)
    run_jobs(shop_of_every_kind, FINAL)
    objectives, firing = found(shop_of_every_kind, piecemeal)
    assert (objectives, firing) == found(shop_of_every_kind, at_once)
    assert {status for _, _, _, status, *_ in objectives} <= {"ok", "at_risk", "breached"}
    assert not any(is_frozen for _, _, is_frozen in firing)

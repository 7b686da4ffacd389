"""A day of an objective's counts is the sum of its five minutes, whoever changed them."""

from datetime import timedelta
from typing import Any, LiteralString

import psycopg
import pytest

from support.events import NIL, add_event, add_slo, instant, rebuild, refresh, rows, scalar

pytestmark = pytest.mark.database

Connection = psycopg.Connection[Any]
START = instant("2026-03-10T22:00:00Z")
SUMS: LiteralString = "select sli_id, date_bin('1 day', bucket_start, '1969-12-29Z'), sum(good), sum(total) from ops.sli_counts group by 1, 2 order by 1, 2"
DAYS: LiteralString = "select sli_id, day_start, good, total from ops.sli_days where total <> 0 order by 1, 2"


@pytest.fixture
def objectives_over_midnight(database: Connection) -> Connection:
    """Objectives of every kind over five hours around a midnight."""
    for objective, threshold in (("error_rate", None), ("latency", 100), ("availability", None)):
        add_slo(database, objective, objective=objective, threshold_ms=threshold)
    for number in range(60):
        said = {"outcome": "failure" if number % 7 == 0 else "success", "duration_ms": 10 * number}
        add_event(database, "deploy", START + timedelta(minutes=5 * number), tag=f"v{number // 2}", **said)
    refresh(database)
    return database


@pytest.mark.parametrize(
    "change",
    [
        "select",
        "update ops.sli_counts set good = 0, total = 99",
        "delete from ops.sli_counts where total = 1",
        "truncate ops.sli_counts",
        "update ops.sli_counts set bucket_start = bucket_start + interval '3 days' where bucket_start < '2026-03-11Z'",
    ],
)
def test_the_days_follow_every_change_of_the_counts(
    objectives_over_midnight: Connection, change: LiteralString
) -> None:
    before = rows(objectives_over_midnight, DAYS)
    assert len(before) >= 6
    assert before == rows(objectives_over_midnight, SUMS)
    objectives_over_midnight.execute(change)
    assert rows(objectives_over_midnight, DAYS) == rows(objectives_over_midnight, SUMS)


def test_a_late_success_and_a_rebuild_keep_the_days_right(objectives_over_midnight: Connection) -> None:
    add_event(objectives_over_midnight, "deploy", START + timedelta(days=3), tag="v0", outcome="success")
    add_event(objectives_over_midnight, "deploy", START - timedelta(days=3), tag="v1", outcome="success")
    refresh(objectives_over_midnight)
    assert rows(objectives_over_midnight, DAYS) == rows(objectives_over_midnight, SUMS)
    before = rows(objectives_over_midnight, DAYS)
    rebuild(objectives_over_midnight, START - timedelta(days=5), START + timedelta(days=5))
    assert rows(objectives_over_midnight, DAYS) == rows(objectives_over_midnight, SUMS) == before


@pytest.mark.parametrize(
    "since", ["-infinity", "2026-03-10T21:55Z", "2026-03-11T00:00Z", "2026-03-11T00:05Z", "2026-03-11T01:00Z"]
)
@pytest.mark.parametrize(
    "until", ["infinity", "2026-03-11T00:00Z", "2026-03-11T01:10Z", "2026-03-12T00:00Z", "2026-03-15T04:00Z"]
)
def test_a_window_sums_whole_days_and_edges_to_what_its_five_minutes_are(
    objectives_over_midnight: Connection, since: str, until: str
) -> None:
    summed = scalar(
        objectives_over_midnight,
        "select array[good, total] from ops.sum_slos(array[row(%s, 'error_rate', 1, %s, %s, '{}')::ops.slo_span])",
        *(NIL, since, until),
    )
    plain = scalar(
        objectives_over_midnight,
        "select array[coalesce(sum(good), 0), coalesce(sum(total), 0)] from ops.slo_counts where slo_name = 'error_rate'"
        " and bucket_start >= %s and bucket_start < %s",
        *(since, until),
    )
    assert summed == plain

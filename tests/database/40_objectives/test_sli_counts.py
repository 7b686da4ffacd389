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
def counted(database: Connection) -> Connection:
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
def test_the_days_follow_every_change_of_the_counts(counted: Connection, change: LiteralString) -> None:
    before = rows(counted, DAYS)
    assert len(before) >= 6
    assert before == rows(counted, SUMS)
    counted.execute(change)
    assert rows(counted, DAYS) == rows(counted, SUMS)


def test_a_late_success_and_a_rebuild_keep_the_days_right(counted: Connection) -> None:
    add_event(counted, "deploy", START + timedelta(days=3), tag="v0", outcome="success")
    add_event(counted, "deploy", START - timedelta(days=3), tag="v1", outcome="success")
    refresh(counted)
    assert rows(counted, DAYS) == rows(counted, SUMS)
    before = rows(counted, DAYS)
    rebuild(counted, START - timedelta(days=5), START + timedelta(days=5))
    assert rows(counted, DAYS) == rows(counted, SUMS) == before


@pytest.mark.parametrize(
    "since", ["-infinity", "2026-03-10T21:55Z", "2026-03-11T00:00Z", "2026-03-11T00:05Z", "2026-03-11T01:00Z"]
)
@pytest.mark.parametrize(
    "until", ["infinity", "2026-03-11T00:00Z", "2026-03-11T01:10Z", "2026-03-12T00:00Z", "2026-03-15T04:00Z"]
)
def test_a_window_sums_whole_days_and_edges_to_what_its_five_minutes_are(
    counted: Connection, since: str, until: str
) -> None:
    summed = scalar(
        counted,
        "select array[good, total] from ops.sum_slos(array[row(%s, 'error_rate', 1, %s, %s)::ops.slo_span])",
        *(NIL, since, until),
    )
    plain = scalar(
        counted,
        "select array[coalesce(sum(good), 0), coalesce(sum(total), 0)] from ops.slo_counts where slo_name = 'error_rate'"
        " and bucket_start >= %s and bucket_start < %s",
        *(since, until),
    )
    assert summed == plain

"""What one sender may send costs the counting for everybody no more than ordinary events of as many bytes do."""

import time
from dataclasses import dataclass

import psycopg
import pytest

from support import hostile
from support.events import Connection, ingest, refresh, scalar

# Each with its own database: what other tests rolled back stays in the indexes of the shared one.
pytestmark = [pytest.mark.database, pytest.mark.own_database]

SIZE = 300_000
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """What a refresh costs: seconds, and the events it reads with the rows it writes."""

    seconds: float
    rows: int

    @property
    def seconds_per_row(self) -> float:
        return self.seconds / self.rows


def rows_written(connection: Connection) -> int:
    query = "select sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint from pg_stat_xact_user_tables"
    return scalar(connection, query)


def cost_of(connection: Connection, make: hostile.Make, seed: int, size: int = SIZE) -> Cost:
    events = hostile.batch_of(make, seed, size)
    assert ingest(connection, *events)["accepted"] == len(events)
    with connection.transaction():
        written, started_at = rows_written(connection), time.perf_counter()
        assert refresh(connection).events == len(events)
        return Cost(time.perf_counter() - started_at, len(events) + rows_written(connection) - written)


def quickest(connection: Connection, make: hostile.Make, size: int = SIZE) -> Cost:
    return min((cost_of(connection, make, seed, size) for seed in range(ROUNDS)), key=lambda cost: cost.seconds)


def test_the_worst_batch_that_the_hub_accepts_costs_at_most_five_ordinary_ones(database):
    normal = quickest(database, hostile.ordinary, hostile.LARGEST)
    worst = quickest(database, hostile.BOUNDED["patterns"], hostile.LARGEST)
    assert worst.seconds < 5 * normal.seconds
    assert worst.rows < 5 * normal.rows


@pytest.mark.parametrize("name", hostile.BOUNDED)
def test_a_batch_that_is_odd_inside_costs_at_most_five_ordinary_ones(database, name):
    normal = quickest(database, hostile.ordinary)
    assert quickest(database, hostile.BOUNDED[name]).seconds < 5 * normal.seconds


@pytest.mark.parametrize("name", hostile.ROWS_OF_ITS_OWN)
def test_a_batch_of_as_many_hours_and_labels_as_the_hub_accepts_costs_at_most_five_ordinary_ones(
    database, acting_as, name
):
    make = hostile.ROWS_OF_ITS_OWN[name]
    widest = hostile.within_the_spread(make)
    with acting_as(database, "authenticated"), pytest.raises(psycopg.Error) as refused:
        ingest(database, *hostile.batch_of(make, 0))
    assert refused.value.sqlstate == "PT413"
    with acting_as(database, "authenticated"):
        assert ingest(database, *hostile.batch_of(widest, 0, hostile.LARGEST))["refused"] == []
    normal = quickest(database, hostile.ordinary, hostile.LARGEST)
    assert quickest(database, widest, hostile.LARGEST).seconds < 5 * normal.seconds


@pytest.mark.parametrize("name", hostile.ROWS_OF_ITS_OWN)
def test_a_batch_of_many_hours_or_labels_costs_no_more_per_row_than_an_ordinary_one_however_many_there_are(
    database, name
):
    normal = quickest(database, hostile.ordinary)
    for seed in range(ROUNDS):
        found = cost_of(database, hostile.ROWS_OF_ITS_OWN[name], seed)
        assert found.seconds_per_row < 5 * normal.seconds_per_row

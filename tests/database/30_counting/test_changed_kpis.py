"""KPIs that new events change: their stored figures and what is added, or all of their events where the figures are of something else."""

from decimal import Decimal

import psycopg
import pytest

from support.events import Connection, add_event, add_events, kpis, refresh, rows
from support.oracle import assert_exact

pytestmark = pytest.mark.database

RATE = "provenance_success_rate"
ONLY_OTHERS = "update ops.kpi_definitions set numerator = '{\"outcome\": [\"failure\"]}' where metric_name = 'provenance_success_rate'"


def rates_of_the_day(connection: Connection) -> list[Decimal]:
    return [value for _, labels, value in kpis(connection, RATE) if not labels]


@pytest.fixture
def three_of_four_succeeded(database: Connection) -> Connection:
    add_events(database, 3, "slsa_provenance", "2026-03-10T01:00Z", outcome="success")
    add_event(database, at="2026-03-10T02:00Z", outcome="failure")
    refresh(database)
    assert rates_of_the_day(database) == [75]
    return database


def test_an_event_after_a_change_of_the_definition_brings_the_day_to_the_new_one(three_of_four_succeeded):
    three_of_four_succeeded.execute(ONLY_OTHERS)
    add_event(three_of_four_succeeded, at="2026-03-10T03:00Z", outcome="failure")
    refresh(three_of_four_succeeded)
    assert rates_of_the_day(three_of_four_succeeded) == [40]


def test_a_definition_that_was_written_again_without_a_change_keeps_what_was_counted(three_of_four_succeeded):
    changed_at = rows(three_of_four_succeeded, "select updated_at from ops.kpi_definitions order by metric_name")
    three_of_four_succeeded.execute("update ops.kpi_definitions set description = description")
    assert (
        rows(three_of_four_succeeded, "select updated_at from ops.kpi_definitions order by metric_name") == changed_at
    )


def test_a_definition_that_was_deleted_and_made_again_counts_all_events_of_the_day(three_of_four_succeeded):
    three_of_four_succeeded.execute(
        "create temporary table kept as select * from ops.kpi_definitions where metric_name = %s", [RATE]
    )
    three_of_four_succeeded.execute("delete from ops.kpi_definitions where metric_name = %s", [RATE])
    add_event(three_of_four_succeeded, at="2026-03-10T03:00Z", outcome="failure")
    refresh(three_of_four_succeeded)
    three_of_four_succeeded.execute("insert into ops.kpi_definitions select * from kept")
    add_event(three_of_four_succeeded, at="2026-03-10T03:00Z", outcome="success")
    refresh(three_of_four_succeeded)
    assert rates_of_the_day(three_of_four_succeeded) == [Decimal("66.666667")]
    assert_exact(three_of_four_succeeded)


@pytest.mark.parametrize(
    "harm",
    [
        "delete from public.kpi_aggregations",
        "update public.kpi_aggregations set metadata = null",
        'update public.kpi_aggregations set metadata = metadata || \'{"denominator": "four"}\'',
        "update public.kpi_aggregations set metadata = metadata - 'sample_count'",
    ],
    ids=["deleted", "without metadata", "with a word for a number", "without samples"],
)
def test_a_row_whose_figures_somebody_took_away_is_counted_from_all_its_events(three_of_four_succeeded, harm):
    three_of_four_succeeded.execute(harm)
    add_event(three_of_four_succeeded, at="2026-03-10T02:00Z", outcome="failure")
    refresh(three_of_four_succeeded)
    assert rates_of_the_day(three_of_four_succeeded) == [60]


def test_a_change_of_the_definition_counts_even_where_the_clock_was_set_back_before_it(three_of_four_succeeded):
    three_of_four_succeeded.execute("update public.kpi_aggregations set created_at = now() + interval '2 days'")
    three_of_four_succeeded.execute(ONLY_OTHERS)
    add_event(three_of_four_succeeded, at="2026-03-10T03:00Z", outcome="failure")
    refresh(three_of_four_succeeded)
    assert rates_of_the_day(three_of_four_succeeded) == [40]


def test_a_change_of_the_definition_waits_for_the_refresh_that_counts_by_the_old_one(connect):
    with connect() as refreshing, connect() as changing:
        with refreshing.transaction():
            add_event(refreshing, outcome="success")
            refresh(refreshing)
            changing.execute("set lock_timeout = '300ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                changing.execute(ONLY_OTHERS)
        changing.execute("reset lock_timeout")
        changing.execute(ONLY_OTHERS)
        add_event(changing, outcome="failure")
        refresh(changing)
        assert rates_of_the_day(changing) == [50]


def test_a_late_event_of_a_breakdown_that_is_new_to_its_day_adds_up_with_the_others(database):
    add_event(database, "hook_execution", "2026-03-10T10:00Z", hook_type="pre-commit", result="blocked")
    refresh(database)
    add_event(database, "hook_execution", "2026-03-12T10:00Z", hook_type="pre-push", result="allowed")
    refresh(database)
    add_events(database, 2, "hook_execution", "2026-03-10T11:00Z", hook_type="pre-push", result="allowed")
    refresh(database)
    assert [
        (labels, value) for start, labels, value in kpis(database, "hook_block_rate") if start == "2026-03-10 00:00"
    ] == [
        ({"hook_type": "pre-commit"}, 100),
        ({"hook_type": "pre-push"}, 0),
        ({}, Decimal("33.333333")),
    ]
    assert_exact(database)

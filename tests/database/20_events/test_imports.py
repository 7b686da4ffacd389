"""The real history of five repositories comes in through `opskpi ingest` and out as the figures of plain Python."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from opskpi.ingestion.files import ingest
from support.events import Connection, refresh, rows, scalar, states
from support.fixtures import CreateDatabase, shared_folder
from support.postgres import Database, Server, janitor

pytestmark = pytest.mark.database

TOTALS = ("total_executions", "blocked_count", "allowed_count", "overridden_count")


@pytest.fixture
def figures_of_python(shared_data: Path) -> dict[str, Any]:
    return json.loads((shared_data / "data/hooks/expected.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def history_database(server: Server, template: Database) -> Iterator[Database]:
    """Import the history once; every test gets a copy of the database."""
    shared_data = shared_folder()
    with janitor(server, "opskpi_history", template=template.name, as_template=True):
        with psycopg.connect(server.dsn("opskpi_history"), autocommit=True) as connection:
            summary = ingest(connection, str(shared_data / "data/hooks/events.jsonl"), on_progress=lambda *_: None)
            assert (summary.read, summary.accepted, summary.refused) == (8190, 8190, 0)
            connection.execute("select ops.maintain('2026-07-15T00:00Z')")
            while refresh(connection, max_ids=3000, as_of="2026-08-01T00:00Z").state != "done":
                pass
        yield server.database("opskpi_history")


@pytest.fixture
def imported_history(create_database: CreateDatabase, history_database: Database) -> Iterator[Connection]:
    with psycopg.connect(create_database(history_database).dsn, autocommit=True) as connection:
        yield connection


def results(connection: Connection, org: str) -> dict[str, int]:
    query = (
        "select labels ->> 'result', sum(event_count)::int from ops.rollups join ops.series using (org_id, series_id)"
        " where org_id = %s and period = 'month' group by 1"
    )
    return dict(rows(connection, query, org))


def blocked_patterns(connection: Connection, org: str, period: str, start: str | None = None) -> list[dict[str, Any]]:
    query = (
        "select pattern, sum(blocked_count)::int from public.v_ops_blocked_patterns where org_id = %s"
        " and aggregation_period = %s and (%s::timestamptz is null or period_start = %s) group by 1 order by 2 desc, 1"
    )
    return [
        {"pattern": pattern, "count": count} for pattern, count in rows(connection, query, org, period, start, start)
    ]


def assert_within_one_percent(found: float, exact: float) -> None:
    assert abs(float(found) - exact) <= exact / 100


def test_the_totals_of_each_org_are_those_of_the_history(imported_history, figures_of_python):
    for org, figures in figures_of_python["orgs"].items():
        all_time, found = figures["all"], results(imported_history, org)
        named = {name: found.get(name.removesuffix("_count"), 0) for name in TOTALS[1:]}
        assert {"total_executions": sum(found.values())} | named == {name: all_time[name] for name in TOTALS}
        query = "select round(sum(value_sum) / sum(value_count), 4)::float from ops.rollups where org_id = %s and period = 'day'"
        assert scalar(imported_history, query, org) == all_time["avg_duration_ms"]
        for name in ("override", "block"):
            count = all_time["overridden_count" if name == "override" else "blocked_count"]
            assert round(100 * count / sum(found.values()), 4) == all_time[f"{name}_rate"]
        assert blocked_patterns(imported_history, org, "month") == all_time["most_blocked_patterns"]


def test_the_metrics_of_the_hub_are_those_of_the_history(imported_history, figures_of_python):
    for org, figures in figures_of_python["orgs"].items():
        found = scalar(imported_history, "select public.hook_metrics(%s, '2010-01-01', '2030-01-01')", org)
        assert {name: found[name] for name in TOTALS} == {name: figures["all"][name] for name in TOTALS}
        assert round(found["avg_duration_ms"], 4) == figures["all"]["avg_duration_ms"]
        assert round(found["override_rate"], 4) == figures["all"]["override_rate"]
        assert found["most_blocked_patterns"] == figures["all"]["most_blocked_patterns"][:10]


def test_the_percentile_of_all_time_is_within_one_percent(imported_history, figures_of_python):
    quantile = (
        "select ops.histogram_quantile(merged.counts, 0.95, (select sum(n) from unnest(merged.counts) as n)::bigint)"
        " from ops.merge_histogram(null, %s::int[], %s::bigint[]) as merged (counts)"
    )
    for org, figures in figures_of_python["orgs"].items():
        counts: dict[int, int] = {}
        query = (
            "select array_lower(counts, 1), counts from ops.histograms"
            " where org_id = %s and period = 'month' and labels = '{}'"
        )
        for first, stored in rows(imported_history, query, org):
            for place, count in enumerate(stored, first):
                counts[place] = counts.get(place, 0) + (count or 0)
        assert_within_one_percent(
            scalar(imported_history, quantile, [*counts], [*counts.values()]), figures["all"]["p95_duration_ms"]
        )


def test_every_period_with_events_has_its_rows_and_no_other(imported_history, figures_of_python):
    for org, figures in figures_of_python["orgs"].items():
        for period, counted in figures["periods"].items():
            query = "select count(*) from ops.kpis where org_id = %s and aggregation_period = %s and labels = '{}'"
            query += " and metric_name = 'hook_executions_total'"
            assert scalar(imported_history, query, org, period) == counted["count"]


def test_the_busiest_periods_have_the_figures_of_plain_python(imported_history, figures_of_python):
    query = (
        "select metric_name, metric_value::float from public.kpi_aggregations where org_id = %s"
        " and aggregation_period = %s and period_start = %s and labels = '{}'"
    )
    for org, figures in figures_of_python["orgs"].items():
        for period, counted in figures["periods"].items():
            for start, exact in counted["busiest"].items():
                found = dict(rows(imported_history, query, org, period, start))
                assert found["hook_executions_total"] == exact["total_executions"]
                assert round(found["hook_block_rate"], 4) == pytest.approx(exact["block_rate"], abs=1e-4)
                assert round(found["hook_override_rate"], 4) == pytest.approx(exact["override_rate"], abs=1e-4)
                assert round(found["hook_avg_duration_ms"], 4) == pytest.approx(exact["avg_duration_ms"], abs=1e-4)
                assert_within_one_percent(found["hook_p95_duration_ms"], exact["p95_duration_ms"])
                assert blocked_patterns(imported_history, org, period, start) == exact["most_blocked_patterns"]


def test_importing_it_twice_adds_nothing(imported_history, shared_data):
    before = states(imported_history)
    summary = ingest(imported_history, str(shared_data / "data/hooks/events.jsonl"), on_progress=lambda *_: None)
    assert (summary.accepted, summary.duplicate) == (0, 8190)
    assert refresh(imported_history).events == 0
    assert states(imported_history) == before


def test_every_month_of_the_history_has_its_partition(imported_history):
    assert scalar(imported_history, "select count(*) from ops.telemetry_events_default") == 0
    query = (
        "select count(*) from (select distinct tableoid, date_trunc('month', event_timestamp, 'UTC')"
        " from public.telemetry_events) as parts"
    )
    months = "select count(distinct date_trunc('month', event_timestamp, 'UTC')) from public.telemetry_events"
    assert scalar(imported_history, query) == scalar(imported_history, months) > 90


def test_a_rebuild_of_all_the_history_leaves_it_as_it_is(imported_history):
    before = states(imported_history)
    imported_history.execute("select ops.rebuild('2018-01-01Z', '2026-08-01Z', '2026-08-01Z')")
    assert states(imported_history) == before

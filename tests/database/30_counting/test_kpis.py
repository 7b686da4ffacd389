"""The KPIs by hand: rates of sums, exact averages, percentiles within 1 %, breakdowns, complete periods."""

import json
from bisect import bisect_left
from decimal import Decimal
from fractions import Fraction
from math import ceil
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.events import NIL, Connection, add_event, add_events, instant, kpis, rebuild, refresh, rows, scalar
from support.oracle import assert_exact

pytestmark = pytest.mark.database

DAY = "2026-03-10 00:00"
MERGE = "select ops.merge_histogram(%s, %s::int[], %s::bigint[])::text"
QUANTILE = (
    "select ops.histogram_quantile(given.counts, given.share, (select sum(n) from unnest(given.counts) as n)::bigint)"
    " from (select %s::bigint[] as counts, %s::numeric as share) as given"
)


# Bin n holds the values above the edge before it, up to and with its own.
EDGES = [Decimal("0.001") * Decimal("1.0198") ** place for place in range(2200)]


def value_of_the_day(connection: Connection, metric: str) -> Decimal | None:
    found = [value for start, labels, value in kpis(connection, metric) if start == DAY and not labels]
    return found[0] if found else None


def test_a_rate_is_a_ratio_of_sums_not_an_average_of_hourly_rates(database):
    add_events(database, 9, "slsa_provenance", "2026-03-10T01:00Z", outcome="success")
    add_event(database, at="2026-03-10T02:00Z", outcome="failure")
    refresh(database)
    assert value_of_the_day(database, "provenance_success_rate") == 90
    assert value_of_the_day(database, "provenance_failure_rate") == 10


def test_cancelled_and_skipped_runs_count_in_no_rate(database):
    for outcome in ("success", "failure", "cancelled", "skipped", "unheard of"):
        add_event(database, outcome=outcome)
    refresh(database)
    assert (value_of_the_day(database, "provenance_success_rate"), value_of_the_day(database, "error_rate")) == (50, 50)


def test_without_a_denominator_there_is_no_row_neither_0_nor_100(database):
    add_event(database, outcome="cancelled")
    add_event(database, "artifact")
    refresh(database)
    assert rows(database, "select from public.kpi_aggregations") == []


def test_the_error_rate_is_of_all_types_that_have_an_outcome(database):
    add_event(database, "workflow_run", outcome="failure")
    add_event(database, "api_request", outcome="success")
    add_event(database, "slsa_provenance", outcome="success")
    add_event(database, "undescribed", outcome="failure")
    add_event(database, "hook_execution", result="blocked")
    refresh(database)
    assert value_of_the_day(database, "error_rate") == Decimal("33.333333")


def test_an_average_is_of_the_values_that_are_there(database):
    for said in ({"duration_ms": 0.1}, {"duration_ms": 0.2}, {"duration_ms": None}, {}, {"duration_ms": -5}):
        add_event(database, "api_request", metadata=json.dumps(said))
    refresh(database)
    assert value_of_the_day(database, "api_avg_response_ms") == Decimal("0.15")


def test_the_metadata_says_how_the_value_came_about(database):
    add_event(database, "hook_execution", result="blocked", duration_ms=3)
    add_event(database, "hook_execution", result="allowed", duration_ms=4)
    refresh(database)
    query = "select metric_name, metadata from public.kpi_aggregations where aggregation_period = 'day' order by 1"
    common = {"sample_count": 2, "complete": True, "labels": {}}
    assert rows(database, query) == [
        ("hook_avg_duration_ms", common | {"unit": "ms", "numerator": 7, "denominator": 2}),
        ("hook_block_rate", common | {"unit": "percent", "numerator": 1, "denominator": 2}),
        ("hook_executions_total", common | {"unit": "count", "numerator": None, "denominator": None}),
        ("hook_override_rate", common | {"unit": "percent", "numerator": 0, "denominator": 2}),
        ("hook_p95_duration_ms", common | {"unit": "ms", "numerator": None, "denominator": None}),
    ]


def test_a_breakdown_is_kept_from_the_day_up(database):
    agent = UUID(int=5)
    database.execute("insert into ops.agents (org_id, agent_id, team) values (%s, %s, 'red')", [NIL, agent])
    add_event(database, "hook_execution", agent_id=agent, hook_type="pre-commit", result="blocked", duration_ms=3)
    add_event(database, "hook_execution", hook_type="pre-push", result="allowed", duration_ms=3)
    refresh(database)
    for period in ("day", "week", "month"):
        assert [(labels, value) for _, labels, value in kpis(database, "hook_block_rate", period)] == [
            ({"hook_type": "pre-commit"}, 100),
            ({"hook_type": "pre-push"}, 0),
            ({"team": "red"}, 100),
            ({}, 50),
        ]
        assert len(kpis(database, "hook_p95_duration_ms", period)) == 4
    assert [labels for _, labels, _ in kpis(database, "hook_block_rate", "hour")] == [{}]


def test_a_period_becomes_complete_when_it_is_over_without_new_events(database):
    query = "select aggregation_period, complete from public.kpi_aggregations order by period_end"
    add_event(database, "artifact", "2026-03-10T10:30Z", size_bytes=1)
    refresh(database, as_of="2026-03-10T10:59:59Z")
    assert rows(database, query) == [("hour", False), ("day", False), ("week", False), ("month", False)]
    refresh(database, as_of="2026-03-10T11:00:00Z")
    assert rows(database, query) == [("hour", True), ("day", False), ("week", False), ("month", False)]
    refresh(database, as_of="2026-04-01T00:00:00Z")
    assert rows(database, query) == [("hour", True), ("day", True), ("week", True), ("month", True)]


def test_a_new_definition_and_a_rebuild_give_the_kpi_with_its_history(database):
    for day, kind in ((9, "wheel"), (10, "wheel"), (10, "image")):
        add_event(database, "artifact", f"2026-03-{day:02}T10:00Z", kind=kind, size_bytes=day)
    refresh(database)
    database.execute(
        "insert into ops.kpi_definitions (metric_name, description, unit, measure, event_type, numerator, percentile,"
        " breakdowns, breakdown_periods) values"
        " ('wheel_rate', 'Wheels.', 'percent', 'ratio', 'artifact', '{\"kind\": [\"wheel\"]}', null, '{}', '{}'),"
        " ('wheels_total', 'Wheels.', 'count', 'count', 'artifact', '{\"kind\": [\"wheel\"]}', null, '{}', '{}'),"
        " ('artifact_p50_bytes', 'Median.', 'bytes', 'percentile', 'artifact', '{}', 0.5, '{kind}', '{hour,day}')"
    )
    rebuild(database, "2026-03-01T00:00Z", "2026-04-01T00:00Z")
    assert [value for *_, value in kpis(database, "wheel_rate")] == [100, 50]
    assert [value for *_, value in kpis(database, "wheels_total", "month")] == [2]
    assert len(kpis(database, "artifact_p50_bytes", "hour")) == 5
    add_event(database, "artifact", "2026-03-10T10:00Z", kind="wheel", size_bytes=100)
    refresh(database)
    assert_exact(database)


def test_a_new_event_type_brings_its_kpis_without_a_migration(database):
    database.execute(
        "insert into ops.event_types (event_type, description, label_keys, value_key, value_unit)"
        " values ('deploy', 'A deployment.', '{environment}', 'seconds', 'count')"
    )
    database.execute(
        "insert into ops.kpi_definitions (metric_name, description, unit, measure, event_type, breakdowns)"
        " values ('deploy_avg', 'Average.', 'count', 'average', 'deploy', '{environment}')"
    )
    for environment, seconds in (("staging", 1), ("production", 2), ("production", 6)):
        add_event(database, "deploy", environment=environment, seconds=seconds)
    refresh(database)
    assert [(labels, value) for _, labels, value in kpis(database, "deploy_avg")] == [
        ({"environment": "production"}, 4),
        ({"environment": "staging"}, 1),
        ({}, 3),
    ]


def test_an_empty_histogram_has_no_percentile(database):
    assert scalar(database, QUANTILE, [], Decimal("0.95")) is None
    assert scalar(database, QUANTILE, None, Decimal("0.95")) is None
    assert scalar(database, QUANTILE, [None, 0, None], Decimal("0.95")) is None


def test_bins_merge_into_what_is_stored_in_any_order(database):
    merged = scalar(database, MERGE, None, [5, 0, 5], [1, 2, 3])
    assert merged == "[0:5]={2,NULL,NULL,NULL,NULL,4}"
    assert scalar(database, MERGE, scalar(database, MERGE, None, [0], [2]), [5], [4]) == merged
    assert scalar(database, MERGE, merged, [], []) == merged


quantities = st.one_of(
    st.integers(0, 10**15).map(Decimal),
    st.decimals(min_value=0, max_value=1000, places=6),
    st.decimals(min_value=0, max_value=Decimal("0.01"), places=9),
    st.sampled_from(["0", "0.001", "0.0010198", "0.00104", "1", "1000000000000000"]).map(Decimal),
)


@given(
    values=st.one_of(
        st.lists(quantities, min_size=1, max_size=60),
        st.tuples(quantities, st.integers(1, 200)).map(lambda same: [same[0]] * same[1]),
        st.integers(1, 300).map(lambda count: [Decimal(number) for number in range(count)]),
    ),
    share=st.sampled_from(["0.01", "0.25", "0.5", "0.9", "0.95", "0.99", "0.999"]).map(Decimal),
)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_percentile_is_within_one_percent_of_percentile_disc(database, values, share):
    bins = [bisect_left(EDGES, value) for value in values]
    merged = None
    for start in range(0, len(bins), 7):
        part = bins[start : start + 7]
        merged = scalar(database, MERGE, merged, part, [1] * len(part))
    found = scalar(database, QUANTILE, merged, share)
    exact = sorted(values)[ceil(Fraction(share) * len(values)) - 1]
    if exact <= Decimal("0.001"):
        assert found == 0
    else:
        assert abs(Fraction(found) - Fraction(exact)) <= Fraction(exact) / 100


@pytest.mark.parametrize(
    "value", ["0", "0.001", "0.0010000001", "0.00102", "0.002", "1", "14", "119999.999", "1000000000000000"]
)
def test_the_percentile_of_a_single_value_is_that_value_within_one_percent(database, value):
    add_event(database, "api_request", metadata=f'{{"duration_ms": {value}}}')
    refresh(database)
    found = value_of_the_day(database, "api_p95_response_ms")
    assert found is not None
    exact = Fraction(value) if Fraction(value) > Fraction(1, 1000) else Fraction(0)
    assert abs(Fraction(found) - exact) <= exact / 100


@pytest.mark.parametrize(
    ("at", "start", "end"),
    [
        ("2026-03-29T12:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
        ("2026-10-25T12:00Z", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
    ],
)
def test_a_day_on_which_the_clocks_change_has_23_or_25_hours(database, at, start, end):
    database.execute("update ops.settings set value = 'Europe/Berlin' where name = 'time_zone'")
    add_event(database, "artifact", at, size_bytes=1)
    refresh(database)
    query = "select period_start, period_end from public.kpi_aggregations where aggregation_period = 'day'"
    assert rows(database, query) == [(instant(start), instant(end))]


@pytest.mark.parametrize("zone", ["Africa/Cairo", "Asia/Beirut", "America/Santiago", "Europe/Berlin", "UTC"])
def test_each_day_ends_where_the_next_begins_even_where_midnight_is_skipped(database, zone):
    query = (
        "select count(*) from generate_series(timestamptz '2024-01-01Z', '2026-12-31Z', '6 hours') as at,"
        " lateral (select ops.period_start('day', at, %s) as start) as day,"
        " lateral (select ops.period_end('day', day.start, %s) as finish) as ended"
        " where ops.period_start('day', finish, %s) <> finish"
    )
    assert scalar(database, query, zone, zone, zone) == 0

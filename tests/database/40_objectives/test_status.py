"""The objectives: what counts as good, in which window, and what the status says."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from support.events import Connection, add_event, add_events, instant, refresh, rows, scalar, wait_for_a_writer
from support.oracle import nearest_rank

pytestmark = pytest.mark.database

AS_OF = "2026-03-10T12:00:00Z"
SLO = "provenance_generation"
RELEASE = "slsa_provenance"


@pytest.fixture
def status_after_refresh(database: Connection) -> Callable[..., tuple[Any, ...]]:
    """Refresh as if the clock showed AS_OF, and return a way to evaluate one objective."""

    def evaluate(slo: str, *columns: str, as_of: str = AS_OF, ran_at: str | None = None) -> tuple[Any, ...]:
        refresh(database, as_of=as_of)
        database.execute("update ops.job_runs set finished_at = %s", [ran_at or as_of])
        query = "select to_jsonb(evaluated) from ops.evaluate_slos(%s) as evaluated where slo_name = %s"
        found = scalar(database, query, as_of, f"{SLO}_{slo}")
        return tuple(found[column] for column in columns)

    return evaluate


def buckets(connection: Connection, slo: str) -> list[tuple[str, int, int]]:
    return rows(
        connection,
        "select to_char(bucket_start at time zone 'UTC', 'HH24:MI'), good, total from ops.slo_counts"
        " where slo_name = %s order by bucket_start",
        f"{SLO}_{slo}",
    )


def test_nine_objectives_ship(database):
    query = "select slo_name, target, threshold_ms from ops.slos order by 1"
    assert rows(database, query) == [
        ("audit_observer_availability", Decimal("0.995"), None),
        ("audit_observer_error_rate", Decimal("0.98"), None),
        ("audit_observer_latency", Decimal("0.95"), 180_000),
        ("provenance_generation_availability", Decimal("0.999"), None),
        ("provenance_generation_error_rate", Decimal("0.99"), None),
        ("provenance_generation_latency", Decimal("0.95"), 300_000),
        ("provenance_validation_availability", Decimal("0.999"), None),
        ("provenance_validation_error_rate", Decimal("0.995"), None),
        ("provenance_validation_latency", Decimal("0.95"), 120_000),
    ]


@pytest.mark.parametrize(
    ("good", "bad", "status"),
    [
        (1000, 0, "ok"),
        (1000, 7, "ok"),
        (1000, 8, "at_risk"),
        (990, 10, "at_risk"),
        (989, 11, "breached"),
        (99, 0, "insufficient"),
        (98, 1, "insufficient"),
        (97, 2, "breached"),
        (0, 99, "breached"),
        (0, 100, "breached"),
        (0, 0, "no_data"),
    ],
)
def test_the_status_follows_the_budget(database, status_after_refresh, good, bad, status):
    add_events(database, good, RELEASE, "2026-03-01T10:00Z", outcome="success")
    add_events(database, bad, RELEASE, "2026-03-01T10:00Z", outcome="failure")
    needed = max(100 - good - bad, 0)
    assert status_after_refresh("error_rate", "status", "good", "total", "events_needed") == (
        status,
        good,
        good + bad,
        needed,
    )


@pytest.mark.parametrize(
    ("minutes", "status"), [((50,), "ok"), ((3, 50), "at_risk")], ids=["the short window is well", "both windows burn"]
)
def test_a_fast_burn_that_goes_on_puts_the_objective_at_risk(database, status_after_refresh, minutes, status):
    add_events(database, 100_000, RELEASE, "2026-03-05T10:00Z", outcome="success")
    for minute in minutes:
        add_events(database, 50, RELEASE, f"2026-03-10T11:{60 - minute:02}Z", outcome="failure")
        add_events(database, 150, RELEASE, f"2026-03-10T11:{60 - minute:02}Z", outcome="success")
    add_events(database, 1, RELEASE, "2026-03-10T11:58Z", outcome="success")
    assert status_after_refresh("error_rate", "status") == (status,)


@pytest.mark.parametrize(
    ("ran_at", "since"),
    [("2026-03-10T11:50:00Z", None), ("2026-03-10T11:49:59Z", "2026-03-10T11:49:59Z"), (AS_OF, None)],
)
@pytest.mark.parametrize(("outcome", "status"), [("success", "ok"), ("failure", "breached")])
def test_without_a_run_for_two_intervals_the_counts_are_stale_and_the_status_stays(
    database, status_after_refresh, ran_at, since, outcome, status
):
    add_events(database, 100, RELEASE, "2026-03-10T10:00Z", outcome=outcome)
    told = status_after_refresh("error_rate", "status", "freshness", "stale_since", ran_at=ran_at)
    assert told[:2] == (status, "stale" if since else "fresh")
    assert (told[2] and instant(told[2])) == (since and instant(since))


@pytest.mark.parametrize("as_of", ["2026-03-10T13:00Z", "2026-03-31T12:00Z"])
@pytest.mark.parametrize(("outcome", "status"), [("success", "ok"), ("failure", "breached")])
def test_however_long_the_jobs_stand_still_the_health_is_told(database, status_after_refresh, as_of, outcome, status):
    database.execute("update ops.settings set value = '1 hour' where name = 'expected_interval'")
    add_events(database, 100, RELEASE, "2026-03-10T11:00Z", outcome=outcome)
    told = status_after_refresh("error_rate", "status", "freshness", as_of=as_of, ran_at=AS_OF)
    assert told == (status, "stale")


@pytest.mark.parametrize(
    ("waited_until", "freshness"), [("2026-03-10T12:15:00Z", "fresh"), ("2026-03-10T12:15:01Z", "stale")]
)
def test_a_refresh_that_waits_for_more_than_three_intervals_is_stale(
    database, status_after_refresh, waited_until, freshness
):
    add_events(database, 100, RELEASE, "2026-03-10T10:00Z", outcome="failure")
    status_after_refresh("error_rate", "status")
    wait_for_a_writer(database, since=AS_OF, until=waited_until)
    query = (
        "select status, freshness, stale_since from ops.evaluate_slos(%s)"
        " where slo_name = 'provenance_generation_error_rate'"
    )
    since = instant(AS_OF) if freshness == "stale" else None
    assert rows(database, query, waited_until) == [("breached", freshness, since)]


def test_a_refresh_that_waits_and_still_gets_on_is_fresh(database, status_after_refresh):
    status_after_refresh("error_rate", "status")
    wait_for_a_writer(database, since=AS_OF, until="2026-03-10T14:00Z")
    database.execute("update ops.cursors set advanced_at = '2026-03-10T13:50Z'")
    assert scalar(database, "select freshness from ops.counting_freshness('2026-03-10T14:00Z')") == "fresh"


def test_before_the_first_run_nothing_is_fresh(database):
    query = (
        "select distinct status, freshness, stale_since from ops.evaluate_slos(%s)"
        " where service = 'provenance_generation'"
    )
    assert rows(database, query, AS_OF) == [("no_data", "stale", None)]
    add_events(database, 2000, RELEASE, "2026-03-10T10:00Z", outcome="success", duration_ms=1)
    assert rows(database, query, AS_OF) == [("ok", "stale", None)]


def test_a_retry_that_succeeds_makes_the_release_good(database):
    for outcome, tag, run in (
        ("failure", "v1", 1),
        ("failure", "v1", 2),
        ("success", "v1", 3),
        ("failure", "v2", 3),
        ("failure", None, 4),
        ("success", None, 4),
        ("failure", None, None),
        ("failure", None, None),
        ("cancelled", "v3", 5),
    ):
        add_event(database, outcome=outcome, tag=tag, run_id=run)
        refresh(database)
    assert buckets(database, "availability") == [("12:00", 2, 5)]
    assert buckets(database, "error_rate") == [("12:00", 2, 8)]


def test_a_release_is_counted_where_it_was_first_attempted(database):
    steps = [
        ("2026-03-10T10:12Z", "failure", [("10:10", 0, 1)]),
        ("2026-03-10T11:00Z", "success", [("10:10", 1, 1)]),
        ("2026-03-10T09:59Z", "failure", [("09:55", 1, 1)]),
        ("2026-03-10T12:00Z", "failure", [("09:55", 1, 1)]),
    ]
    for at, outcome, expected in steps:
        add_event(database, at=at, outcome=outcome, tag="v1")
        refresh(database)
        assert buckets(database, "availability") == expected


def test_releases_that_swap_their_buckets_in_one_refresh_stay_counted(database):
    add_event(database, at="2026-03-10T10:01Z", outcome="success", tag="v1")
    add_event(database, at="2026-03-10T10:06Z", outcome="failure", tag="v2")
    refresh(database)
    add_event(database, at="2026-03-10T09:56Z", outcome="failure", tag="v1")
    add_event(database, at="2026-03-10T10:02Z", outcome="failure", tag="v2")
    refresh(database)
    assert buckets(database, "availability") == [("09:55", 1, 1), ("10:00", 0, 1)]


def test_the_same_tag_of_another_org_or_service_is_another_unit(database):
    add_event(database, outcome="success", tag="v1")
    add_event(database, "audit_observer", outcome="failure", tag="v1")
    add_event(database, outcome="failure", tag="v1", org_id=UUID(int=7))
    refresh(database)
    query = "select good, total from ops.slo_counts where slo_name like '%%availability' order by slo_name, org_id"
    assert rows(database, query) == [(0, 1), (1, 1), (0, 1)]


def test_empty_tags_are_no_common_release(database):
    add_event(database, outcome="success", tag="", run_id=1)
    add_event(database, outcome="failure", tag="", run_id=2)
    refresh(database)
    assert buckets(database, "availability") == [("12:00", 1, 2)]


@pytest.mark.parametrize(("duration_ms", "good"), [(299_999.999, 1), (300_000, 0), (300_000.001, 0), (0, 1)])
def test_a_run_is_fast_when_it_took_strictly_less_than_the_threshold(database, duration_ms, good):
    add_event(database, outcome="success", duration_ms=duration_ms)
    add_event(database, outcome="success", duration_ms="unknown")
    add_event(database, outcome="failure", duration_ms=1)
    refresh(database)
    assert buckets(database, "latency") == [("12:00", good, 1)]


@pytest.mark.parametrize(("fast", "slow"), [(95, 5), (94, 6), (19, 1), (18, 2), (20, 1), (190, 11), (1, 1)])
def test_the_objective_holds_exactly_when_the_95th_percentile_is_below_the_threshold(
    database, status_after_refresh, fast, slow
):
    add_events(database, fast, RELEASE, "2026-03-10T10:00Z", outcome="success", duration_ms=299_999)
    add_events(database, slow, RELEASE, "2026-03-10T10:00Z", outcome="success", duration_ms=300_000)
    percentile = nearest_rank([299_999] * fast + [300_000] * slow, Decimal("0.95"))
    (budget_left,) = status_after_refresh("latency", "budget_left")
    assert (budget_left >= 0) == (percentile < 300_000)


def test_each_burn_rate_looks_back_over_its_own_window(database, status_after_refresh):
    add_events(database, 100, RELEASE, "2026-03-08T12:00Z", outcome="failure")
    add_events(database, 100, RELEASE, "2026-03-09T13:00Z", outcome="success")
    add_events(database, 100, RELEASE, "2026-03-10T07:00Z", outcome="failure")
    add_events(database, 100, RELEASE, "2026-03-10T11:30Z", outcome="success")
    add_events(database, 999, RELEASE, "2026-03-10T12:05Z", outcome="failure")
    rates = tuple(f"burn_rate_{window}" for window in ("1h", "6h", "1d", "3d"))
    assert status_after_refresh("error_rate", *rates, "good", "total") == (
        0,
        50,
        pytest.approx(33.3333333),
        50,
        200,
        400,
    )


def test_a_burn_rate_without_events_is_unknown_not_zero(database, status_after_refresh):
    add_event(database, at="2026-03-01T00:00Z", outcome="success")
    assert status_after_refresh("error_rate", "burn_rate_1h", "burn_rate_3d", "time_to_exhaustion") == (
        None,
        None,
        None,
    )


def test_the_window_is_30_days_whatever_the_session_calls_its_time_zone(database):
    query = "select distinct window_start from ops.evaluate_slos('2026-04-10T00:00:00Z')"
    database.execute("set timezone = 'Europe/Berlin'")
    assert [start.astimezone() == instant("2026-03-11T00:00:00Z") for (start,) in rows(database, query)] == [True]


def test_attempts_before_the_window_do_not_count(database, status_after_refresh):
    add_event(database, at="2026-02-08T11:59:59Z", outcome="failure")
    add_event(database, at="2026-02-08T12:00:00Z", outcome="success")
    assert status_after_refresh("error_rate", "good", "total") == (1, 1)


def test_ratios_are_numeric_not_float(database, status_after_refresh):
    add_events(database, 9856, RELEASE, "2026-03-10T11:30Z", outcome="success")
    add_events(database, 144, RELEASE, "2026-03-10T11:30Z", outcome="failure")
    refresh(database)
    query = (
        "select sli, burn_rate_1h, pg_typeof(budget_left)::text from ops.evaluate_slos(%s)"
        " where slo_name = 'provenance_generation_error_rate'"
    )
    assert rows(database, query, AS_OF) == [(Decimal("0.9856"), Decimal("1.44"), "numeric")]


@pytest.mark.parametrize(
    "values",
    [
        "'x', 's', 'availability', 'd', 'e', 1, null",
        "'x', 's', 'availability', 'd', 'e', 0, null",
        "'x', 's', 'availability', 'd', 'e', 0.9, 5",
        "'x', 's', 'latency', 'd', 'e', 0.9, null",
        "'x', 's', 'latency', 'd', 'e', 0.9, 0",
        "'x', 's', 'speed', 'd', 'e', 0.9, null",
    ],
)
def test_an_objective_that_promises_nonsense_is_refused(database, values):
    columns = "slo_name, service, objective, description, event_type, target, threshold_ms"
    with pytest.raises(Exception, match="violates check constraint"):
        database.execute(f"insert into ops.slos ({columns}) values ({values})")

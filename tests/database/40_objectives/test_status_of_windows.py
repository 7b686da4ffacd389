"""Windows that roll or go by the calendar, time slices, and what the status makes of them."""

import random
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil
from uuid import uuid4
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import (
    Connection,
    add_event,
    add_events,
    add_slo,
    alerts,
    evaluate,
    instant,
    refresh,
    rows,
    run_jobs,
    scalar,
)

pytestmark = pytest.mark.database

AS_OF = "2026-03-10T12:03:00Z"
COUNTS = ("good", "total", "budget_left")
BURN_RATES = {"burn_rate_1h": 1, "burn_rate_6h": 6, "burn_rate_1d": 24, "burn_rate_3d": 72}
EPOCH = datetime(1969, 12, 29, tzinfo=UTC)
Verdict = tuple[datetime, bool]


def bin_start(at: datetime, length: timedelta = timedelta(minutes=5)) -> datetime:
    return at - (at - EPOCH) % length


def calendar_window(period: str, as_of: datetime, zone: str) -> tuple[datetime, datetime]:
    """Return the first instant of the calendar period that holds the instant, and of the next."""
    day = as_of.astimezone(ZoneInfo(zone)).date()
    if period == "day":
        days = day, day + timedelta(days=1)
    elif period == "week":
        monday = day - timedelta(days=day.weekday())
        days = monday, monday + timedelta(days=7)
    else:
        months = {"month": 1, "quarter": 3, "year": 12}[period]
        first = (day.month - 1) // months * months
        later = first + months
        days = date(day.year, first + 1, 1), date(day.year + later // 12, later % 12 + 1, 1)
    start, end = (datetime.combine(found, time(), ZoneInfo(zone)).astimezone(UTC) for found in days)
    return start, end


def account(verdicts: Iterable[Verdict], slices: tuple[timedelta, Fraction] | None) -> tuple[int, int]:
    """Return good and total, in events or in slices."""
    if slices is None:
        counted = [good for _, good in verdicts]
    else:
        by_slice: dict[datetime, list[bool]] = {}
        for at, good in verdicts:
            by_slice.setdefault(bin_start(at, slices[0]), []).append(good)
        counted = [Fraction(sum(found), len(found)) >= slices[1] for found in by_slice.values()]
    return sum(counted), len(counted)


def burn_rate(good: int, total: int, target: Fraction) -> Fraction | None:
    return Fraction(total - good, total) / (1 - target) if total else None


def assert_all_but_equal(found: Decimal | None, exact: Fraction | None, column: str) -> None:
    if found is None or exact is None:
        assert (found, exact) == (None, None), column
    else:
        assert abs(Fraction(found) - exact) <= abs(exact) / 10**14, column


def store(connection: Connection, verdicts: Iterable[Verdict]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into public.telemetry_events (event_type, event_timestamp, metadata, event_id)"
            " values ('deploy', %s, %s, %s)",
            [(at, Jsonb({"outcome": "success" if good else "failure"}), uuid4()) for at, good in verdicts],
        )


def scattered_verdicts(seed: int, as_of: datetime, edge: datetime) -> list[Verdict]:
    """Return random events: of the last quarter, of the last days, and around an edge."""
    chance = random.Random(seed)  # noqa: S311
    seconds = [chance.uniform(-(10 ** chance.uniform(0, 7)), 600) for _ in range(250)]
    ats = [as_of + timedelta(seconds=second) for second in seconds]
    ats += [edge + timedelta(microseconds=micro) for micro in (-300_000_000, -1, 0, 1, 299_999_999, 300_000_000)]
    return [(at, chance.random() < 0.93) for at in ats]


def assert_as_by_hand(
    connection: Connection,
    as_of: datetime,
    since: datetime,
    length: timedelta,
    verdicts: list[Verdict],
    target: Fraction,
    slices: tuple[timedelta, Fraction] | None = None,
    *,
    calendar: bool = False,
) -> None:
    """Compare the objective with what its events come to in plain fractions; a calendar has the budget of its period."""
    until = bin_start(as_of) + timedelta(minutes=5)

    def over(start: datetime) -> tuple[int, int]:
        return account([(at, good) for at, good in verdicts if bin_start(start) <= at < until], slices)

    good, total = over(since)
    columns = ("good", "total", "window_start", "window_length", "sli", "budget_left", *BURN_RATES)
    found = evaluate(connection, "deploys", *columns, "time_to_exhaustion", "events_needed", as_of=as_of)
    assert found[:4] == (good, total, bin_start(since), length)
    burnt = burn_rate(good, total, target)
    assert burnt is not None
    assert_all_but_equal(found[4], Fraction(good, total), "sli")
    if calendar and slices:
        burnt *= total / Fraction(length / slices[0])
    elif calendar and until < since + length:
        burnt *= Fraction(max(as_of - since, timedelta(minutes=5)) / length)
    assert_all_but_equal(found[5], 1 - burnt, "budget_left")
    for column, value in zip(BURN_RATES, found[6:10], strict=True):
        rate = burn_rate(*over(as_of - timedelta(hours=BURN_RATES[column])), target)
        assert_all_but_equal(value, rate, column)
    day = burn_rate(*over(as_of - timedelta(days=1)), target)
    if day:
        seconds = max(Fraction(length.total_seconds()) * (1 - burnt) / day, Fraction(0))
        # A timedelta holds less than a Postgres interval.
        assert abs(Fraction(found[10].total_seconds()) - seconds) < Fraction(1, 1000) + seconds / 10**14
    else:
        assert found[10] is None
    judged = int(length / slices[0]) if calendar and slices else total
    assert found[11] == max(ceil(1 / (1 - target)) - judged, 0)


@pytest.mark.parametrize("window", ["1 hour", "7 days", "28 days", "30 days", "90 days", "720 hours 3 minutes"])
@pytest.mark.parametrize("target", ["0.9", "0.999"])
def test_a_rolling_window_holds_what_it_says(database, window, target):
    add_slo(database, window=window, target=target)
    as_of = instant(AS_OF)
    length = scalar(database, "select extract(epoch from %s::interval)::bigint", window)
    since = as_of - timedelta(seconds=length)
    verdicts = scattered_verdicts(7, as_of, bin_start(since))
    store(database, verdicts)
    refresh(database)
    assert_as_by_hand(database, as_of, since, timedelta(seconds=length), verdicts, Fraction(target))


CALENDARS = [
    ("day", "Europe/Zurich", "2026-03-28T23:00:00Z", 23),
    ("day", "Europe/Zurich", "2026-03-29T21:59:59Z", 23),
    ("day", "Europe/Zurich", "2026-03-29T22:00:00Z", 24),
    ("day", "Europe/Zurich", "2026-10-25T00:30:00Z", 25),
    ("day", "Europe/Zurich", "2026-10-25T01:30:00Z", 25),
    ("day", "UTC", "2026-03-29T10:00:00Z", 24),
    ("week", "Europe/Zurich", "2026-03-29T21:59:59Z", 167),
    ("week", "Europe/Zurich", "2026-03-29T22:00:00Z", 168),
    ("week", "Europe/Zurich", "2026-10-20T12:00:00Z", 169),
    ("week", "UTC", "2026-01-01T00:00:00Z", 168),
    ("month", "Europe/Zurich", "2026-03-31T21:59:59Z", 743),
    ("month", "Europe/Zurich", "2026-03-31T22:00:00Z", 720),
    ("month", "Europe/Zurich", "2026-10-26T12:00:00Z", 745),
    ("month", "UTC", "2026-02-15T12:00:00Z", 672),
    ("month", "UTC", "2028-02-29T12:00:00Z", 696),
    ("month", "UTC", "2026-12-31T23:59:59Z", 744),
    ("month", "Asia/Kathmandu", "2026-03-31T18:14:59Z", 744),
    ("month", "Asia/Kathmandu", "2026-03-31T18:15:00Z", 720),
    ("quarter", "Europe/Zurich", "2026-03-31T12:00:00Z", 2159),
    ("quarter", "Europe/Zurich", "2026-11-10T12:00:00Z", 2209),
    ("quarter", "UTC", "2026-02-15T12:00:00Z", 2160),
    ("year", "UTC", "2026-03-10T12:00:00Z", 8760),
    ("year", "UTC", "2028-12-31T23:59:59Z", 8784),
    ("year", "Europe/Zurich", "2025-12-31T22:59:59Z", 8760),
    ("year", "Europe/Zurich", "2025-12-31T23:00:00Z", 8760),
    ("year", "America/Sao_Paulo", "2018-11-04T12:00:00Z", 8760),
    ("day", "America/Sao_Paulo", "2018-11-04T12:00:00Z", 23),
]


@pytest.mark.parametrize(("period", "zone", "as_of", "hours"), CALENDARS)
def test_a_calendar_window_is_the_period_of_its_time_zone(database, period, zone, as_of, hours):
    add_slo(database, calendar=period, zone=zone)
    start, end = calendar_window(period, instant(as_of), zone)
    assert end - start == timedelta(hours=hours)
    verdicts = scattered_verdicts(hours, instant(as_of), start)
    store(database, verdicts)
    refresh(database)
    database.execute("set timezone = 'Pacific/Auckland'")
    assert_as_by_hand(database, instant(as_of), start, end - start, verdicts, Fraction("0.9"), calendar=True)


def test_a_calendar_without_a_time_zone_goes_by_the_settings(database):
    database.execute("update ops.settings set value = 'Europe/Zurich' where name = 'time_zone'")
    add_slo(database, calendar="month")
    add_event(database, "deploy", "2026-03-31T21:59:00Z", outcome="failure")
    add_event(database, "deploy", "2026-03-31T22:00:00Z", outcome="success")
    refresh(database)
    columns = ("good", "total", "window_start", "window_length")
    assert evaluate(database, "deploys", *columns, as_of="2026-04-10T00:00Z") == (
        *(1, 1, instant("2026-03-31T22:00Z")),
        timedelta(days=30),
    )


@pytest.mark.parametrize("as_of", ["2026-11-01T23:59:59Z", "2026-11-02T00:00:00Z"])
def test_a_calendar_window_has_the_budget_of_the_whole_period(database, as_of):
    add_slo(database, target="0.999", calendar="month", zone="UTC")
    add_events(database, 990, "deploy", "2026-11-01T10:00Z", outcome="success")
    add_events(database, 10, "deploy", "2026-11-01T10:00Z", outcome="failure")
    refresh(database)
    left, allowed, basis, status = evaluate(
        database, "deploys", "budget_left", "allowed", "budget_basis", "status", as_of=as_of
    )
    assert (round(left, 4), round(allowed, 2), basis) == (Decimal("0.6667"), 30, "expected")
    assert status == "ok"


def test_the_budget_of_a_calendar_window_is_that_of_its_exact_total_once_it_is_over(database):
    add_slo(database, target="0.9", calendar="month", zone="UTC")
    add_events(database, 95, "deploy", "2026-11-01T10:00Z", outcome="success")
    add_events(database, 5, "deploy", "2026-11-30T23:59:59Z", outcome="failure")
    refresh(database)
    columns = ("budget_left", "allowed", "budget_basis")
    assert evaluate(database, "deploys", *columns, as_of="2026-11-30T23:55:00Z") == (Decimal("0.5"), 10, "counted")


def test_a_rolling_window_has_the_budget_of_what_it_counts(database):
    add_slo(database, target="0.9")
    add_events(database, 95, "deploy", "2026-03-01T10:00Z", outcome="success")
    add_events(database, 5, "deploy", "2026-03-02T10:00Z", outcome="failure")
    refresh(database)
    columns = ("budget_left", "allowed", "budget_basis", "versions")
    assert evaluate(database, "deploys", *columns, as_of=AS_OF) == (Decimal("0.5"), 10, "counted", [1])


def test_the_time_slices_of_a_calendar_window_have_the_budget_of_all_its_slices(database):
    add_slo(database, target="0.999", calendar="month", zone="UTC", slices=("5 minutes", "0.5"))
    for number in range(432):
        at = instant("2026-11-01T00:00Z") + timedelta(minutes=5 * number)
        add_event(database, "deploy", at, outcome="failure" if number in {100, 200} else "success")
    run_jobs(database, "2026-11-02T11:59:59Z")
    columns = ("good", "total", "allowed", "budget_basis", "status", "events_needed")
    found = evaluate(database, "deploys", *columns, "budget_left", as_of="2026-11-02T11:59:59Z")
    assert found[:-1] == (430, 432, Decimal("8.64"), "slices", "ok", 0)
    assert round(found[-1], 4) == Decimal("0.7685")
    assert [alert for alert in alerts(database) if alert[1] == "deploys"] == []


@pytest.mark.parametrize("slices", [None, ("5 minutes", "0.5")])
@pytest.mark.parametrize("as_of", ["2026-11-02T11:59:59Z", "2026-11-30T23:59:59Z"])
def test_status_and_burn_down_of_a_calendar_window_agree(database, slices, as_of):
    add_slo(database, target="0.99", calendar="month", zone="UTC", slices=slices)
    for day, bad in ((1, 3), (2, 1)):
        for minute in range(60):
            at = instant(f"2026-11-{day:02}T08:00Z") + timedelta(minutes=5 * minute)
            add_event(database, "deploy", at, outcome="failure" if minute < bad else "success")
    refresh(database)
    (left,) = evaluate(database, "deploys", "budget_left", as_of=as_of)
    days = rows(
        database, "select consumed, budget_left from ops.slo_burndown(%s, '{deploys}') order by day_start", as_of
    )
    assert days[-1][1] == left
    assert_all_but_equal(sum((consumed for consumed, _ in days), Decimal(0)), 1 - Fraction(left), "consumed")


def test_the_first_failure_of_a_month_is_not_told_by_the_pace_of_five_minutes(database):
    add_slo(database, target="0.999", calendar="month", zone="UTC")
    add_event(database, "deploy", "2026-11-01T00:02Z", outcome="failure")
    run_jobs(database, "2026-11-01T00:05Z")
    assert evaluate(database, "deploys", "status", "events_needed", as_of="2026-11-01T00:05Z") == ("insufficient", 999)
    assert [alert for alert in alerts(database) if alert[1] == "deploys"] == []


@pytest.mark.parametrize(
    ("period", "zone", "as_of", "hours"),
    [*CALENDARS, (None, None, AS_OF, 720), ("month", "America/New_York", "2026-11-01T05:30:00Z", 721)],
)
def test_the_length_of_a_window_is_in_hours(database, period, zone, as_of, hours):
    database.execute("set timezone = 'Europe/Zurich'")
    window = None if period else "30 days"
    query = "select ops.slo_window_length(%s, %s, %s, %s)::text, ops.slo_window_start(%s, %s, %s, %s)"
    length, start = rows(database, query, *(window, period, zone, as_of) * 2)[0]
    assert length == f"{hours}:00:00"
    expected = calendar_window(period, instant(as_of), zone)[0] if period else instant(as_of) - timedelta(hours=720)
    assert start == expected


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("rolling_window, calendar_period", "null, null"),
        ("rolling_window, calendar_period", "'30 days', 'month'"),
        ("rolling_window, calendar_period", "null, 'decade'"),
        ("rolling_window, time_zone", "'30 days', 'UTC'"),
        ("rolling_window", "'0'"),
        ("rolling_window", "'-1 day'"),
        ("budgeting_method", "'timeslices'"),
        ("time_slice, slice_target", "'5 minutes', 0.5"),
        ("budgeting_method, time_slice, slice_target", "'timeslices', '7 minutes', 0.5"),
        ("budgeting_method, time_slice, slice_target", "'timeslices', '25 hours', 0.5"),
        ("budgeting_method, time_slice, slice_target", "'timeslices', '1 month', 0.5"),
        ("budgeting_method, time_slice, slice_target", "'timeslices', '5 minutes', 0"),
        ("budgeting_method, time_slice, slice_target", "'timeslices', '5 minutes', 1.1"),
        ("budgeting_method, time_slice, slice_target", "'other', null, null"),
        ("expected_interval", "'0'"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(database, columns, values):
    statement = (
        f"insert into ops.slos (slo_name, service, objective, description, event_type, target, {columns})"
        f" values ('x', 's', 'error_rate', 'd', 'e', 0.9, {values})"
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute(statement)


def test_a_time_zone_that_does_not_exist_is_refused(database):
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        add_slo(database, calendar="month", zone="Europe/Atlantis")


def test_a_slice_counts_by_its_share_and_a_slice_without_events_is_neither(database):
    add_slo(database, slices=("1 hour", "0.5"), target="0.5")
    for hour, good, bad in ((6, 1, 1), (7, 1, 2), (8, 3, 0), (9, 0, 1)):
        add_events(database, good, "deploy", f"2026-03-10T{hour:02}:10Z", outcome="success")
        add_events(database, bad, "deploy", f"2026-03-10T{hour:02}:50Z", outcome="failure")
    refresh(database)
    assert evaluate(database, "deploys", *COUNTS, "budgeting_method", as_of=AS_OF) == (2, 4, 0, "timeslices")


def test_an_event_on_the_edge_of_a_slice_belongs_to_the_next(database):
    add_slo(database, slices=("10 minutes", "1"))
    add_event(database, "deploy", "2026-03-10T10:09:59.999999Z", outcome="success")
    add_event(database, "deploy", "2026-03-10T10:10:00Z", outcome="failure")
    add_event(database, "deploy", "2026-03-10T10:20:00Z", outcome="success")
    refresh(database)
    assert evaluate(database, "deploys", "good", "total", as_of=AS_OF) == (2, 3)


@pytest.mark.parametrize(
    "slices", [("5 minutes", "0.9"), ("15 minutes", "1"), ("35 minutes", "0.5"), ("1 day", "0.93")]
)
@pytest.mark.parametrize("calendar", [None, "month"])
def test_slices_and_their_burn_rates_are_what_they_are_by_hand(database, slices, calendar):
    add_slo(database, slices=slices, calendar=calendar, zone=calendar and "Europe/Zurich")
    as_of = instant("2026-03-30T12:03:00Z")
    start, end = as_of - timedelta(days=30), as_of
    if calendar:
        start, end = calendar_window(calendar, as_of, "Europe/Zurich")
    verdicts = scattered_verdicts(3, as_of, bin_start(start))
    store(database, verdicts)
    refresh(database)
    length = timedelta(minutes=scalar(database, "select extract(epoch from %s::interval)::integer / 60", slices[0]))
    by_slices = (length, Fraction(slices[1]))
    assert_as_by_hand(
        database, as_of, start, end - start, verdicts, Fraction("0.9"), by_slices, calendar=calendar is not None
    )


def test_time_slices_count_units_of_work_and_fast_runs_too(database):
    add_slo(database, "units", objective="availability", slices=("1 hour", "1"))
    add_slo(database, "fast", objective="latency", threshold_ms=100, slices=("1 hour", "1"))
    add_event(database, "deploy", "2026-03-10T09:00Z", outcome="failure", tag="v1")
    add_event(database, "deploy", "2026-03-10T10:00Z", outcome="success", tag="v1", duration_ms=100)
    add_event(database, "deploy", "2026-03-10T11:00Z", outcome="failure", tag="v2")
    refresh(database)
    assert evaluate(database, "units", "good", "total", as_of=AS_OF) == (1, 2)
    assert evaluate(database, "fast", "good", "total", as_of=AS_OF) == (0, 1)


@pytest.mark.parametrize(
    ("target", "good", "bad", "status"),
    [
        ("0.999", 9, 1, "insufficient"),
        ("0.999", 8, 2, "breached"),
        ("0.999", 998, 1, "insufficient"),
        ("0.999", 997, 2, "breached"),
        ("0.999", 999, 1, "at_risk"),
        ("0.999", 998, 2, "breached"),
        ("0.999", 1998, 2, "at_risk"),
        ("0.999", 1997, 3, "breached"),
        ("0.9985", 665, 1, "insufficient"),
        ("0.9985", 666, 1, "at_risk"),
        ("0.5", 1, 0, "insufficient"),
        ("0.5", 1, 1, "at_risk"),
        ("0.5", 2, 0, "ok"),
    ],
)
def test_one_failure_too_many_for_the_events_that_it_takes_is_a_breach(database, target, good, bad, status):
    add_slo(database, target=target)
    add_events(database, good, "deploy", "2026-03-08T10:00Z", outcome="success")
    add_events(database, bad, "deploy", "2026-03-08T10:00Z", outcome="failure")
    refresh(database)
    assert evaluate(database, "deploys", "status", as_of=AS_OF) == (status,)


@pytest.mark.parametrize(("slices", "status"), [(9, "insufficient"), (8, "breached")])
def test_bad_slices_breach_as_bad_events_do(database, slices, status):
    add_slo(database, target="0.999", slices=("5 minutes", "1"))
    for number in range(10):
        at = instant("2026-03-10T11:00Z") + timedelta(minutes=5 * number)
        add_events(database, 3, "deploy", at, outcome="success" if number < slices else "failure")
    refresh(database)
    columns = ("status", "good", "total", "events_needed")
    assert evaluate(database, "deploys", *columns, as_of=AS_OF) == (status, slices, 10, 990)


@pytest.mark.parametrize(
    ("setting", "own", "as_of", "status"),
    [
        ("1 hour", None, "2026-03-10T12:00:00Z", "ok"),
        ("1 hour", None, "2026-03-10T12:05:01Z", "no_data"),
        ("10 years", "1 hour", "2026-03-10T12:00:00Z", "ok"),
        ("10 years", "1 hour", "2026-03-10T12:05:01Z", "no_data"),
        ("1 hour", "1 day", "2026-03-10T12:05:01Z", "ok"),
        ("1 hour", "1 day", "2026-03-12T10:05:01Z", "no_data"),
    ],
)
def test_an_input_silent_for_twice_the_expected_interval_is_no_data(database, setting, own, as_of, status):
    database.execute("update ops.settings set value = %s where name = 'expected_interval'", [setting])
    add_slo(database, expected_interval=own)
    add_events(database, 100, "deploy", "2026-03-10T10:00:00Z", outcome="success")
    refresh(database)
    assert evaluate(database, "deploys", "status", "last_counted_at", as_of=as_of) == (
        status,
        instant("2026-03-10T10:00Z"),
    )


def test_a_breach_does_not_hide_that_the_input_stopped_nor_do_the_jobs(database):
    add_slo(database, expected_interval="1 hour")
    add_events(database, 100, "deploy", "2026-03-10T10:00:00Z", outcome="failure")
    refresh(database)
    assert evaluate(database, "deploys", "status", as_of="2026-03-10T11:00Z") == ("breached",)
    assert evaluate(database, "deploys", "status", as_of="2026-03-10T13:00Z") == ("no_data",)
    query = "select status, freshness from ops.evaluate_slos(%s, slo_names => '{deploys}')"
    assert rows(database, query, "2026-03-10T13:10:01Z") == [("no_data", "stale")]


def test_a_window_without_events_is_no_data_also_when_the_jobs_stop(database):
    add_slo(database)
    add_event(database, "build", "2026-03-10T10:00:00Z", outcome="success")
    refresh(database)
    assert evaluate(database, "deploys", "status", "last_counted_at", *COUNTS, as_of=AS_OF) == (
        "no_data",
        None,
        0,
        0,
        None,
    )
    query = "select status, freshness from ops.evaluate_slos(%s, slo_names => '{deploys}')"
    assert rows(database, query, "2026-03-10T12:13:01Z") == [("no_data", "stale")]


def scans(connection: Connection) -> int:
    return scalar(
        connection,
        "select sum(seq_scan + coalesce(idx_scan, 0))::bigint from pg_stat_xact_user_tables"
        " where relname like 'telemetry_events%%'",
    )


def test_evaluating_what_is_stored_does_not_touch_the_events(database):
    for objective, threshold_ms in (("availability", None), ("latency", 100), ("error_rate", None)):
        add_slo(database, objective, objective=objective, threshold_ms=threshold_ms)
    add_events(database, 10, "deploy", "2026-03-10T10:00:00Z", outcome="success", duration_ms=5)
    refresh(database)
    add_events(database, 10, "deploy", "2026-03-10T11:00:00Z", outcome="success", duration_ms=5)
    with database.transaction():
        before = scans(database)
        for query in (
            "select count(*) from ops.evaluate_slos(%s, false)",
            "select count(*) from ops.slo_burndown(%s)",
            "select count(*) from ops.slo_history() where day_start < %s",
        ):
            assert scalar(database, query, AS_OF) > 0
            assert scans(database) == before, query
        scalar(database, "select count(*) from ops.evaluate_slos(%s, true)", AS_OF)
        assert scans(database) > before


def standing(connection: Connection, *, with_fresh: bool) -> list[tuple[object, ...]]:
    query = "select * from ops.evaluate_slos(%s, %s) order by org_id, slo_name"
    return rows(connection, query, AS_OF, with_fresh)


@pytest.mark.parametrize("seed", range(5))
def test_with_fresh_events_an_objective_stands_as_after_a_refresh(database, seed):
    chance = random.Random(seed)  # noqa: S311
    for objective, threshold_ms in (("availability", None), ("latency", 100), ("error_rate", None)):
        add_slo(database, objective, objective=objective, threshold_ms=threshold_ms, expected_interval="1 hour")
        slices = ("15 minutes", "0.5")
        add_slo(database, f"{objective} slices", objective=objective, threshold_ms=threshold_ms, slices=slices)
    add_event(database, "deploy", "2026-03-01T00:00Z", outcome="success", duration_ms=5)
    refresh(database)
    for _ in range(5):
        for slo in ("availability", "latency", "error_rate slices"):
            since = instant(AS_OF) - timedelta(minutes=chance.randrange(600))
            query = "select ops.exclude_from_slo(%s, %s, %s, 'upgrade', 'me')"
            scalar(database, query, slo, since, since + timedelta(minutes=chance.randrange(1, 30)))
        for _ in range(chance.randrange(1, 25)):
            at = instant(AS_OF) - timedelta(minutes=chance.randrange(-10, 600), seconds=chance.randrange(60))
            outcome = chance.choice(["success", "failure"])
            add_event(
                database,
                "deploy",
                at,
                outcome=outcome,
                tag=f"v{chance.randrange(40)}",
                duration_ms=chance.choice([5, 500]),
            )
        database.execute("update ops.job_runs set finished_at = %s", [AS_OF])
        fresh = standing(database, with_fresh=True)
        refresh(database)
        database.execute("update ops.job_runs set finished_at = %s", [AS_OF])
        assert standing(database, with_fresh=False) == fresh
        assert standing(database, with_fresh=True) == fresh


def test_a_release_that_turns_out_older_takes_its_place_with_it(database):
    add_slo(database, objective="availability")
    add_event(database, "deploy", "2026-03-10T11:00Z", outcome="success", tag="v1")
    refresh(database)
    add_event(database, "deploy", "2026-03-10T09:00Z", outcome="failure", tag="v1")
    columns = ("good", "total", "last_counted_at")
    for fresh in (True, False):
        assert evaluate(database, "deploys", *columns, as_of=AS_OF, with_fresh=fresh) == (
            (1, 1, instant("2026-03-10T09:00Z" if fresh else "2026-03-10T11:00Z"))
        )
    refresh(database)
    assert evaluate(database, "deploys", *columns, as_of=AS_OF) == (1, 1, instant("2026-03-10T09:00Z"))


def test_a_budget_that_lasts_for_ages_is_no_error(database):
    query = "select ops.time_to_exhaustion('10 years', 0.0000001, 1) > interval '1000 years'"
    assert scalar(database, query)
    assert scalar(database, query.replace("10 years", "1 day").replace("0.0000001", "1e-30"))
    add_slo(database, target="0.01", window="10 years")
    add_event(database, "deploy", "2026-03-10T10:00Z", outcome="failure")
    refresh(database)
    database.execute("update ops.sli_counts set good = 99999999, total = 100000000 where total = 1")
    assert evaluate(database, "deploys", "status", as_of=AS_OF) == ("ok",)

"""Burn-rate and budget rules: when they fire, when they cannot tell, and which are refused."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import (
    Connection,
    add_channel,
    add_event,
    add_events,
    add_rule,
    add_slo,
    alerts,
    instant,
    rows,
    run_jobs,
    scalar,
)

pytestmark = pytest.mark.database

NOON = "2026-03-10T12:00:00Z"
ERRORS = "provenance_generation_error_rate"
Fired = Callable[..., set[str]]


@pytest.fixture
def fired(database: Connection) -> Fired:
    """Run the jobs at an instant, noon unless told, and return the rules that fire for an objective."""

    def run(slo: str = "deploys", as_of: str = NOON) -> set[str]:
        run_jobs(database, as_of)
        return {rule for rule, subject, state in alerts(database) if (subject, state) == (slo, "firing")}

    return run


def deploy(connection: Connection, good: int, bad: int, at: str = "2026-03-10T11:58Z") -> None:
    add_events(connection, good, "deploy", at, outcome="success")
    add_events(connection, bad, "deploy", at, outcome="failure")


def burn_rule(connection: Connection, **columns: object) -> None:
    burn = {"slo_name": "deploys", "factor": 2, "long_window": "1 hour", "short_window": "5 minutes"}
    add_rule(connection, "burn", "burn_rate", "page", **burn | columns)


def factors(connection: Connection, slo: str, as_of: str) -> dict[str, Decimal]:
    found = rows(
        connection,
        "select rule_name, (detail ->> 'factor')::numeric from ops.objective_conditions(%s, array[%s])"
        " where detail ? 'factor'",
        as_of,
        slo,
    )
    return dict(found)


def test_the_four_standard_rules_ship(database):
    query = (
        "select ops.alert_factor(budget_share, '30 days', long_window), long_window::text, short_window::text, severity"
        " from ops.alert_rules where kind = 'burn_rate' order by long_window"
    )
    assert rows(database, query) == [
        (Decimal("14.4"), "01:00:00", "00:05:00", "page"),
        (Decimal(6), "06:00:00", "00:30:00", "page"),
        (Decimal(3), "1 day", "02:00:00", "ticket"),
        (Decimal(1), "3 days", "06:00:00", "ticket"),
    ]


@pytest.mark.parametrize(
    ("rule", "bad"), [("fast_burn", 1440), ("steady_burn", 600), ("slow_burn", 300), ("trickle", 100)]
)
@pytest.mark.parametrize("more", [0, 1])
def test_a_rule_fires_above_its_factor_and_not_at_it(database, fired, rule, bad, more):
    add_slo(database, target="0.99")
    deploy(database, 10_000 - bad - more, bad + more)
    assert (rule in fired()) == bool(more)


@pytest.mark.parametrize(
    ("long", "short", "burning"),
    [(3, 3, True), (2, 3, False), (3, 2, False), (3, None, True), (2, None, False), (None, 3, None)],
)
def test_each_window_must_burn_faster_than_the_factor(database, long, short, burning):
    assert scalar(database, "select ops.is_burning(%s, %s, 2)", long, short) is burning


def test_a_burn_rate_that_a_float_would_put_above_the_factor_does_not_fire(database, fired):
    add_slo(database, target="0.999")
    deploy(database, 9856, 144)
    assert fired() == {"steady_burn", "slow_burn", "trickle", "budget_exhausted"}


@pytest.mark.parametrize(
    ("earlier", "later", "fires"),
    [
        ((0, 50), (50, 50), True),
        ((0, 50), (50, 0), False),
        ((5000, 0), (0, 50), False),
        ((0, 50), (0, 0), False),
        ((50, 0), (0, 0), False),
    ],
    ids=["both burn", "it is over", "a blip", "nothing since", "nothing since and before it was well"],
)
def test_both_windows_must_burn_and_an_empty_short_one_begins_nothing(database, fired, earlier, later, fires):
    add_slo(database)
    burn_rule(database)
    deploy(database, *earlier, at="2026-03-10T11:30Z")
    deploy(database, *later)
    assert ("burn" in fired()) == fires


def test_an_empty_short_window_keeps_an_alert_that_fires_until_something_succeeds(database, fired):
    add_slo(database)
    burn_rule(database)
    deploy(database, 0, 50)
    assert "burn" in fired()
    assert "burn" in fired(as_of="2026-03-10T12:30Z")
    deploy(database, 1, 0, at="2026-03-10T12:31Z")
    assert "burn" not in fired(as_of="2026-03-10T12:32Z")


def test_a_rule_of_one_window_needs_no_other(database, fired):
    add_slo(database)
    burn_rule(database, short_window=None)
    deploy(database, 0, 50, at="2026-03-10T11:30Z")
    deploy(database, 50, 0)
    assert "burn" in fired()


def test_what_was_before_the_window_does_not_burn(database, fired):
    add_slo(database)
    burn_rule(database)
    deploy(database, 0, 50, at="2026-03-10T10:59:59Z")
    deploy(database, 50, 0)
    assert "burn" not in fired()
    deploy(database, 0, 50, at="2026-03-10T11:00Z")
    deploy(database, 0, 1)
    assert "burn" not in fired()


def test_an_alert_freezes_while_its_long_window_is_empty(database, fired):
    add_slo(database)
    burn_rule(database)
    deploy(database, 0, 50)
    assert "burn" in fired()
    assert "burn" in fired(as_of="2026-03-10T13:00Z")
    query = "select is_frozen, detail ->> 'burn_rate_long' from ops.alerts where rule_name = 'burn'"
    assert rows(database, query) == [(True, "10")]
    deploy(database, 1, 0, at="2026-03-10T13:30Z")
    assert "burn" not in fired(as_of="2026-03-10T13:31Z")


def test_a_rule_of_an_objective_stands_for_the_general_ones_of_its_kind(database, fired):
    add_slo(database, target="0.99")
    burn_rule(database, factor=50)
    deploy(database, 100, 100)
    assert fired() == {"budget_exhausted"}
    deploy(database, 0, 10)
    assert fired(as_of="2026-03-10T12:00:01Z") == {"burn", "budget_exhausted"}
    database.execute("update ops.alert_rules set is_enabled = false where rule_name = 'burn'")
    everything = {"fast_burn", "steady_burn", "slow_burn", "trickle", "budget_exhausted"}
    assert fired(as_of="2026-03-10T12:00:02Z") == everything


@pytest.mark.parametrize("columns", [{"factor": 10}, {"factor": 11}, {"factor": None, "budget_share": "0.05"}], ids=str)
def test_a_rule_that_can_never_fire_is_refused(database, columns):
    add_slo(database)
    with pytest.raises(psycopg.Error) as refused:
        burn_rule(database, **columns)
    assert (refused.value.sqlstate, bool(refused.value.diag.message_hint)) == ("OP001", True)
    burn_rule(database, factor="9.99")


@pytest.mark.parametrize("change", ["target = 0.5", "rolling_window = '90 days'"])
def test_a_change_of_the_objective_that_makes_a_rule_hopeless_is_refused(database, change):
    add_slo(database)
    burn_rule(database, factor=None, budget_share="0.01")
    with pytest.raises(psycopg.Error) as refused:
        database.execute(f"update ops.slos set {change} where slo_name = 'deploys'")
    assert refused.value.sqlstate == "OP001"


def test_a_target_and_the_rule_that_depends_on_it_change_together(database):
    add_slo(database)
    burn_rule(database, factor=5)
    with database.transaction():
        database.execute("update ops.slos set target = 0.5 where slo_name = 'deploys'")
        database.execute("update ops.alert_rules set factor = 1.5 where rule_name = 'burn'")
    assert rows(database, "select target from ops.slos where slo_name = 'deploys'") == [(Decimal("0.5"),)]


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("burn_rate", {"factor": 2}),
        ("burn_rate", {"long_window": "1 hour"}),
        ("burn_rate", {"factor": 2, "budget_share": 0.1, "long_window": "1 hour"}),
        ("burn_rate", {"factor": 2, "long_window": "1 hour", "short_window": "1 hour"}),
        ("burn_rate", {"factor": 2, "long_window": "7 minutes"}),
        ("burn_rate", {"factor": 0, "long_window": "1 hour"}),
        ("burn_rate", {"factor": 2, "long_window": "1 hour", "threshold": 3}),
        ("burn_rate", {"factor": 2, "long_window": "1 hour", "event_type": "deploy"}),
        ("budget_exhausted", {"factor": 2}),
        ("budget_exhausted", {"factor": 2, "budget_share": 0.1}),
        ("budget_exhausted", {"short_window": "5 minutes"}),
        ("kpi_threshold", {"metric_name": "error_rate", "comparison": "gt", "threshold": 3}),
        ("kpi_threshold", {"metric_name": "error_rate", "comparison": "eq", "threshold": 3, "lasting": "1 hour"}),
        ("kpi_threshold", {"metric_name": "error_rate", "comparison": "gt", "threshold": 3, "lasting": "90 minutes"}),
        ("kpi_threshold", {"metric_name": "unheard_of", "comparison": "gt", "threshold": 3, "lasting": "1 hour"}),
        ("silent_agents", {}),
        ("silent_input", {"event_type": "deploy"}),
        ("silent_jobs", {"slo_name": "audit_observer_latency"}),
        ("silent_jobs", {"alert_after": "-1 hour"}),
        ("unheard_of", {}),
    ],
    ids=str,
)
def test_a_rule_that_makes_no_sense_is_refused(database, kind, columns):
    with pytest.raises(psycopg.IntegrityError):
        add_rule(database, "odd", kind, **columns)


def test_a_channel_may_be_of_any_kind_that_is_a_plain_word(database):
    add_channel(database, kind="carrier_pigeon2", settings=Jsonb({"to": ["a", "b"], "loft": "north"}))
    assert rows(database, "select kind from ops.alert_channels") == [("carrier_pigeon2",)]


@pytest.mark.parametrize("kind", ["", "Slack", "2fa", "a b", "slack\n", "https://hooks.slack.com/s3cr3t", "a" * 31])
def test_a_kind_of_channel_that_is_no_plain_word_is_refused(database, kind):
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        add_channel(database, kind=kind)
    assert refused.value.diag.constraint_name == "alert_channels_kind_is_a_plain_word"


def test_general_rules_leave_out_objectives_for_which_they_are_hopeless(database, fired):
    add_slo(database)
    deploy(database, 0, 100)
    assert fired() == {"steady_burn", "slow_burn", "trickle", "budget_exhausted"}
    assert set(factors(database, "deploys", NOON)) == {"steady_burn", "slow_burn", "trickle"}


@pytest.mark.parametrize(
    ("zone", "as_of", "factor"),
    [
        ("UTC", NOON, "14.88"),
        ("UTC", "2026-02-10T12:00Z", "13.44"),
        ("Europe/Berlin", NOON, "14.86"),
        ("Europe/Berlin", "2026-03-31T22:30Z", "14.4"),
    ],
)
def test_the_factor_of_a_calendar_month_follows_its_length(database, zone, as_of, factor):
    add_slo(database, target="0.99", calendar="month", zone=zone)
    add_event(database, "deploy", outcome="success")
    run_jobs(database, as_of)
    assert factors(database, "deploys", as_of)["fast_burn"] == Decimal(factor)


def test_a_factor_that_was_given_is_the_same_in_every_month(database):
    add_slo(database, target="0.99", calendar="month", zone="UTC")
    burn_rule(database)
    add_event(database, "deploy", outcome="success")
    run_jobs(database, NOON)
    assert factors(database, "deploys", NOON) == {"burn": 2}


def test_a_new_month_begins_with_a_whole_budget(database, fired):
    add_slo(database, calendar="month", zone="UTC")
    deploy(database, 100, 20, at="2026-02-28T22:00Z")
    assert "budget_exhausted" in fired(as_of="2026-02-28T23:59Z")
    deploy(database, 20, 0, at="2026-03-01T00:01Z")
    assert "budget_exhausted" not in fired(as_of="2026-03-01T00:05Z")


# Few events


def test_one_failure_of_ten_pages_nobody_at_999_per_mille(database, fired):
    add_slo(database, target="0.999")
    deploy(database, 9, 1)
    assert fired() == set()
    assert rows(database, "select from ops.alerts") == []


def test_a_slow_trickle_of_failures_becomes_a_ticket_though_there_are_never_enough_events(database):
    add_slo(database, target="0.999")
    raised = []
    query = "select rule_name, severity from ops.alerts where state = 'firing' and subject = 'deploys'"
    for day in range(1, 6):
        deploy(database, 4, 1, at=f"2026-03-{day:02}T10:00Z")
        run_jobs(database, f"2026-03-{day:02}T12:00Z")
        raised.append(rows(database, query))
    spent, trickle = ("budget_exhausted", "ticket"), ("trickle", "ticket")
    assert [sorted(found) for found in raised] == [[], [spent], *[[spent, trickle]] * 3]


def test_too_few_events_to_judge_are_enough_to_see_that_failures_have_stopped(database, fired):
    add_slo(database, window="1 day")
    burn_rule(database)
    deploy(database, 5, 5)
    assert fired() == {"burn", "budget_exhausted"}
    deploy(database, 9, 0, at="2026-03-11T12:30Z")
    # How much of the budget is left cannot be told, so its alert stays as it is.
    assert fired(as_of="2026-03-11T12:35Z") == {"budget_exhausted"}
    query = "select is_frozen, detail ->> 'status' from ops.alerts where subject = 'deploys' and state = 'firing'"
    assert rows(database, query) == [(True, "breached")]
    deploy(database, 1, 0, at="2026-03-11T12:35Z")
    assert fired(as_of="2026-03-11T12:40Z") == set()


@pytest.mark.parametrize(("failures", "pages"), [(1, False), (2, False), (3, True), (9, True)])
def test_where_one_failure_exceeds_the_budget_it_takes_three_to_page(database, fired, failures, pages):
    add_slo(database)
    burn_rule(database)
    deploy(database, 0, failures)
    assert ("burn" in fired()) == pages


@pytest.mark.parametrize(("setting", "own", "needed"), [("3", 5, 5), ("3", 1, 1), ("2", None, 2), ("2", 7, 7)])
def test_how_many_failures_it_takes_is_said_by_the_objective_or_else_by_the_setting(
    database, fired, setting, own, needed
):
    add_slo(database)
    database.execute("update ops.settings set value = %s where name = 'min_failures'", [setting])
    database.execute("update ops.slos set min_failures = %s where slo_name = 'deploys'", [own])
    burn_rule(database)
    deploy(database, 0, needed - 1)
    assert "burn" not in fired()
    deploy(database, 0, 1)
    assert "burn" in fired(as_of="2026-03-10T12:00:01Z")
    assert rows(database, "select version from ops.slo_versions where slo_name = 'deploys'") == [(1,)]


@pytest.mark.parametrize("value", ["0", "-1", "many", ""])
def test_a_number_of_failures_that_is_none_is_refused(database, value):
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("update ops.settings set value = %s where name = 'min_failures'", [value])


# What was really taken of the budget


@pytest.mark.parametrize(
    ("columns", "failures", "fires"),
    [
        ({"factor": None, "budget_share": "0.01"}, 2, False),
        ({"factor": None, "budget_share": "0.01"}, 3, True),
        # Two hours of 30 days at a factor of 9 are a fortieth, and 30 hours at a factor of 2 a twelfth.
        ({"factor": 9, "long_window": "2 hours"}, 7, False),
        ({"factor": 9, "long_window": "2 hours"}, 8, True),
        ({"factor": 2, "long_window": "30 hours"}, 24, False),
        ({"factor": 2, "long_window": "30 hours"}, 25, True),
    ],
    ids=str,
)
def test_a_window_that_burns_fast_must_really_have_taken_its_share(database, fired, columns, failures, fires):
    add_slo(database)
    burn_rule(database, **columns)
    # Of 3,000 may 300 be bad.
    deploy(database, 3000 - failures, 0, at="2026-03-01T10:00Z")
    deploy(database, 0, failures)
    assert ("burn" in fired()) == fires


def test_one_failure_in_a_quiet_night_pages_nobody_and_puts_nothing_at_risk(database, fired):
    add_slo(database, target="0.99")
    for day in range(10, 30):
        deploy(database, 1500, 0, at=(instant("2026-02-01T10:00Z") + timedelta(days=day)).isoformat())
    deploy(database, 0, 1)
    assert fired() == set()
    query = "select status, round(budget_left, 4) from ops.evaluate_slos(%s, slo_names => '{deploys}')"
    assert rows(database, query, NOON) == [("ok", Decimal("0.9967"))]


def test_the_detail_says_what_was_measured(database, fired):
    add_slo(database)
    burn_rule(database)
    deploy(database, 940, 0, at="2026-03-01T10:00Z")
    deploy(database, 30, 30)
    assert "burn" in fired()
    detail = scalar(database, "select detail from ops.alerts where rule_name = 'burn'")
    figures = ("bad_long", "total_long", "budget_taken", "burn_rate_long", "factor")
    assert [detail[figure] for figure in figures] == [30, 60, "0.3", "5", "2"]


# Rules that can mean nothing


def rules_left_out(connection: Connection, slo: str = "deploys") -> dict[str, str]:
    query = "select rule_name, because from ops.useless_rules(%s) where not is_own"
    return dict(rows(connection, query, slo))


@pytest.mark.parametrize(
    ("window", "applies"),
    [
        ({"window": "30 days"}, "fast_burn steady_burn slow_burn trickle"),
        ({"window": "28 days"}, "fast_burn steady_burn slow_burn"),
        ({"window": "7 days"}, "fast_burn steady_burn"),
        ({"window": "1 day"}, ""),
        ({"calendar": "day", "zone": "UTC"}, ""),
        ({"calendar": "week", "zone": "UTC"}, "fast_burn steady_burn"),
        ({"calendar": "month", "zone": "UTC"}, "fast_burn steady_burn slow_burn trickle"),
    ],
    ids=str,
)
def test_general_rules_leave_out_objectives_for_which_they_can_mean_nothing(database, window, applies):
    add_slo(database, target="0.99", **window)
    add_event(database, "deploy", outcome="success")
    run_jobs(database, NOON)
    assert set(factors(database, "deploys", NOON)) == set(applies.split())
    assert set(rules_left_out(database)) == {"fast_burn", "steady_burn", "slow_burn", "trickle"} - set(applies.split())


def test_while_the_budget_is_kept_no_rule_of_any_window_fires(database):
    for name, window in (("1d", "1 day"), ("7d", "7 days"), ("30d", "30 days")):
        add_slo(database, name, target="0.99", window=window)
    add_slo(database, "day", target="0.99", calendar="day", zone="UTC")
    database.execute(
        "insert into public.telemetry_events (event_type, event_timestamp, metadata)"
        " select 'deploy', timestamptz '2026-03-10T12:00Z' - interval '30 seconds' * number - interval '1 second',"
        " jsonb_build_object('outcome', case when number % 180 = 7 then 'failure' else 'success' end)"
        " from generate_series(0, 14 * 24 * 120 - 1) as number"
    )
    for hours in range(24, -1, -1):
        run_jobs(database, instant(NOON) - timedelta(hours=hours))
    assert rows(database, "select from ops.alerts where kind in ('burn_rate', 'budget_exhausted')") == []
    found = rows(database, "select distinct status from ops.evaluate_slos(%s, slo_names => '{1d,7d,30d,day}')", NOON)
    assert found == [("ok",)]


@pytest.mark.parametrize(
    ("window", "columns"),
    [
        ({"window": "1 day"}, {"factor": None, "budget_share": "0.02"}),
        ({"window": "1 day"}, {"long_window": "25 hours"}),
        ({"window": "30 days"}, {"factor": "0.99"}),
        ({"calendar": "day", "zone": "UTC"}, {"long_window": "2 days"}),
        ({"calendar": "month", "zone": "UTC"}, {"factor": None, "budget_share": "0.09", "long_window": "3 days"}),
    ],
    ids=str,
)
def test_a_rule_of_an_objective_that_can_mean_nothing_is_refused(database, window, columns):
    add_slo(database, **window)
    with pytest.raises(psycopg.Error) as refused:
        burn_rule(database, **columns)
    assert (refused.value.sqlstate, bool(refused.value.diag.message_hint)) == ("OP001", True)


@pytest.mark.parametrize(
    ("window", "columns"),
    [
        # A factor of 1 fires above the rate that spends the budget.
        ({"window": "30 days"}, {"factor": 1}),
        ({"window": "1 day"}, {"long_window": "1 day"}),
        # In months of 31 days, not in February.
        ({"calendar": "month", "zone": "UTC"}, {"factor": None, "budget_share": "0.1", "long_window": "3 days"}),
    ],
    ids=str,
)
def test_a_rule_of_an_objective_that_means_something_at_times_is_taken(database, window, columns):
    add_slo(database, **window)
    burn_rule(database, **columns)
    assert rules_left_out(database) == {}


def test_each_org_has_its_own_alerts(database, fired):
    add_slo(database)
    add_events(database, 50, "deploy", "2026-03-10T11:58Z", org_id=UUID(int=7), outcome="failure")
    deploy(database, 50, 0)
    fired()
    query = "select distinct org_id from ops.alerts where subject = 'deploys'"
    assert rows(database, query) == [(UUID(int=7),)]

"""Burn-rate and budget rules: when they fire, when they cannot tell, and which are refused."""

from collections.abc import Callable
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
        ((0, 50), (0, 0), True),
        ((50, 0), (0, 0), False),
    ],
    ids=["both burn", "it is over", "a blip", "nothing since", "nothing since and before it was well"],
)
def test_both_windows_must_burn_and_an_empty_short_one_says_nothing_against(database, fired, earlier, later, fires):
    add_slo(database)
    burn_rule(database)
    deploy(database, *earlier, at="2026-03-10T11:30Z")
    deploy(database, *later)
    assert ("burn" in fired()) == fires


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
    assert raised == [[], *[[("budget_exhausted", "ticket")]] * 4]


def test_too_few_events_freeze_what_fires(database, fired):
    add_slo(database, window="1 day")
    burn_rule(database)
    deploy(database, 5, 5)
    assert fired() == {"burn", "budget_exhausted"}
    deploy(database, 9, 0, at="2026-03-11T12:30Z")
    assert fired(as_of="2026-03-11T12:35Z") == {"burn", "budget_exhausted"}
    query = "select distinct is_frozen, detail ->> 'status' from ops.alerts where subject = 'deploys'"
    assert rows(database, query) == [(True, "breached")]
    deploy(database, 1, 0, at="2026-03-11T12:35Z")
    assert fired(as_of="2026-03-11T12:40Z") == set()


def test_how_fast_the_budget_burns_is_not_told_from_too_few_events(database, fired):
    add_slo(database)
    burn_rule(database)
    deploy(database, 0, 9)
    assert fired() == {"budget_exhausted"}
    deploy(database, 0, 1)
    assert fired(as_of="2026-03-10T12:00:01Z") == {"burn", "budget_exhausted"}


def test_each_org_has_its_own_alerts(database, fired):
    add_slo(database)
    add_events(database, 50, "deploy", "2026-03-10T11:58Z", org_id=UUID(int=7), outcome="failure")
    deploy(database, 50, 0)
    fired()
    query = "select distinct org_id from ops.alerts where subject = 'deploys'"
    assert rows(database, query) == [(UUID(int=7),)]

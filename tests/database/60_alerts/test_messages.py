"""Who hears what, and when: channels, groups, repeats, inhibition and silences."""

import shlex
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import NIL, Connection, add_channel, add_row, add_rule, instant, rows, scalar, told

pytestmark = pytest.mark.database

NOON = instant("2026-03-10T12:00:00Z")
ONE, TWO = UUID(int=1), UUID(int=2)


@pytest.fixture
def raised(database: Connection) -> Callable[..., None]:
    """Let an alert fire since noon: `raised("burn", severity="page", subject="deploys", service="shop")`."""

    def add(
        rule: str,
        severity: str = "ticket",
        subject: str = "deploys",
        service: str | None = "shop",
        **columns: object,
    ) -> None:
        alert = {"org_id": NIL, "kind": "burn_rate", "channels": [], "notify_resolved": True, "description": ""}
        alert |= {"state": "firing", "pending_since": NOON, "firing_since": NOON, "evaluated_at": NOON, "detail": "{}"}
        alert |= {"rule_name": rule, "severity": severity, "subject": subject, "service": service}
        add_row(database, "alerts", **alert | columns)

    return add


def end(connection: Connection, rule: str) -> None:
    connection.execute(
        "update ops.alerts set state = 'resolved', resolved_at = now() where rule_name = %s and state = 'firing'",
        [rule],
    )


def notify(connection: Connection, minutes: float = 0) -> list[tuple[str, str, list[str], list[str]]]:
    """Queue what the channels should hear so many minutes after noon, and return it."""
    before = len(told(connection))
    queued = scalar(connection, "select ops.queue_notifications(%s)", NOON + timedelta(minutes=minutes))
    new = told(connection)[before:]
    assert queued == len(new)
    return new


def silence(connection: Connection, matcher: str = "*", minutes: float = 60, **columns: object) -> None:
    known = {"matcher": matcher, "reason": "maintenance", "author": "ada"}
    known |= {"starts_at": NOON, "until": NOON + timedelta(minutes=minutes)}
    add_row(connection, "alert_silences", **known | columns)


# Groups and repeats


def test_alerts_of_a_service_are_one_message_and_those_of_another_org_another(database, raised):
    add_channel(database)
    raised("fast", subject="speed")
    raised("slow")
    raised("slow", subject="x", service="mail")
    raised("slow", subject="hook_override_rate", service=None)
    raised("slow", org_id=ONE)
    assert sorted(notify(database)) == [
        ("ops", "hook_override_rate", ["slow"], []),
        ("ops", "mail", ["slow"], []),
        ("ops", "shop", ["fast", "slow"], []),
        ("ops", "shop", ["slow"], []),
    ]


def test_what_goes_on_is_repeated_after_the_interval_of_the_channel(database, raised):
    add_channel(database, repeat_interval="4 hours")
    raised("burn")
    minutes = (0, 5, 240, 240.1, 245, 480.1, 480.2)
    assert [len(notify(database, minute)) for minute in minutes] == [1, 0, 0, 1, 0, 0, 1]


def test_something_new_is_said_at_once_with_what_goes_on(database, raised):
    add_channel(database)
    raised("slow")
    notify(database)
    raised("fast")
    assert notify(database, 1) == [("ops", "shop", ["fast", "slow"], [])]


def test_what_is_over_is_said_once(database, raised):
    add_channel(database)
    raised("slow")
    raised("fast")
    notify(database)
    end(database, "slow")
    assert notify(database, 1) == [("ops", "shop", ["fast"], ["slow"])]
    assert notify(database, 2) == []
    end(database, "fast")
    assert notify(database, 3) == [("ops", "shop", [], ["fast"])]
    assert notify(database, 1000) == []
    query = "select status, state from ops.alert_deliveries order by delivery_id"
    assert rows(database, query) == [("firing", "queued"), ("firing", "queued"), ("resolved", "queued")]


def test_what_is_over_is_not_said_where_the_rule_does_not_want_it(database, raised):
    add_channel(database)
    raised("slow", notify_resolved=False)
    raised("fast")
    notify(database)
    end(database, "slow")
    assert notify(database, 1) == []
    end(database, "fast")
    assert notify(database, 2) == [("ops", "shop", [], ["fast"])]


def test_what_comes_back_after_an_end_nobody_was_told_of_is_said(database, raised):
    add_channel(database)
    raised("slow", notify_resolved=False)
    notify(database)
    end(database, "slow")
    assert notify(database, 1) == []
    raised("slow", notify_resolved=False)
    assert notify(database, 2) == [("ops", "shop", ["slow"], [])]


# Channels


def test_a_channel_hears_what_it_takes(database, raised):
    add_channel(database, "pager", severities=["page"])
    add_channel(database, "desk", severities=["ticket", "notice"])
    add_channel(database, "off", is_enabled=False)
    add_channel(database, "one", only_org_id=ONE)
    raised("fast", "page", subject="a", service="a")
    raised("slow", "ticket", subject="b", service="b")
    raised("quiet", "notice", subject="c", service="c", org_id=ONE)
    assert sorted(notify(database)) == [
        ("desk", "b", ["slow"], []),
        ("desk", "c", ["quiet"], []),
        ("one", "c", ["quiet"], []),
        ("pager", "a", ["fast"], []),
    ]


def test_a_rule_with_channels_is_sent_to_those(database, raised):
    add_channel(database, "ops")
    add_channel(database, "mail")
    raised("slow", channels=["mail"])
    assert notify(database) == [("mail", "shop", ["slow"], [])]


def test_a_channel_that_was_off_hears_that_it_is_over(database, raised):
    add_channel(database)
    raised("slow")
    notify(database)
    database.execute("update ops.alert_channels set is_enabled = false")
    end(database, "slow")
    assert notify(database, 1) == []
    database.execute("update ops.alert_channels set is_enabled = true")
    assert notify(database, 2) == [("ops", "shop", [], ["slow"])]


@pytest.mark.parametrize("change", ["channels = '{mail}'", "severity = 'ticket'"])
def test_a_channel_that_heard_of_an_alert_hears_its_end_though_its_rule_names_another_now(database, raised, change):
    add_channel(database, "pager", severities=["page"])
    add_channel(database, "mail")
    raised("fast", "page")
    notify(database)
    database.execute(f"update ops.alerts set {change}")
    end(database, "fast")
    assert sorted(notify(database, 1)) == [("mail", "shop", [], ["fast"]), ("pager", "shop", [], ["fast"])]


# Inhibition


def test_a_page_inhibits_the_ticket_of_the_same_objective_and_org_only(database, raised):
    add_channel(database)
    raised("slow", "ticket")
    raised("quiet", "notice")
    raised("slow", "ticket", subject="speed", service="speed")
    raised("slow", "ticket", org_id=ONE)
    raised("fast", "page")
    assert sorted(notify(database)) == [
        ("ops", "shop", ["fast", "quiet"], []),
        ("ops", "shop", ["slow"], []),
        ("ops", "speed", ["slow"], []),
    ]


def test_a_ticket_is_sent_when_the_page_that_inhibited_it_is_over(database, raised):
    add_channel(database)
    raised("slow", "ticket")
    raised("fast", "page")
    assert notify(database) == [("ops", "shop", ["fast"], [])]
    end(database, "fast")
    assert notify(database, 1) == [("ops", "shop", ["slow"], ["fast"])]


def test_a_ticket_that_was_sent_before_the_page_is_not_over(database, raised):
    add_channel(database, "desk", severities=["ticket"])
    raised("slow", "ticket")
    notify(database)
    raised("fast", "page")
    assert notify(database, 1) == []
    end(database, "slow")
    assert notify(database, 2) == [("desk", "shop", [], ["slow"])]


# Silences


def logged(connection: Connection) -> int:
    return scalar(connection, "select count(*) from ops.alert_deliveries where state = 'silenced'")


@pytest.mark.parametrize("matcher", ["*", "slow", "deploys", "shop"])
def test_a_silenced_alert_is_logged_once_and_sent_when_the_silence_ends(database, raised, matcher):
    add_channel(database)
    silence(database, matcher)
    raised("slow")
    assert [notify(database, minutes) for minutes in (0, 30, 59)] == [[], [], []]
    assert logged(database) == 1
    assert notify(database, 60) == [("ops", "shop", ["slow"], [])]


def test_what_ends_while_it_is_silenced_is_never_sent(database, raised):
    add_channel(database)
    silence(database)
    raised("slow")
    notify(database)
    end(database, "slow")
    assert (notify(database, 30), notify(database, 90)) == ([], [])


def test_a_silence_stops_the_repeats_of_what_fires(database, raised):
    add_channel(database, repeat_interval="10 minutes")
    raised("slow")
    notify(database)
    silence(database, "slow")
    assert (notify(database, 11), notify(database, 59)) == ([], [])
    assert notify(database, 60) == [("ops", "shop", ["slow"], [])]


def deliver_all(connection: Connection) -> None:
    connection.execute("update ops.alert_deliveries set state = 'delivered' where state = 'queued'")


def queued_and_silenced(connection: Connection) -> list[tuple[str, str]]:
    return rows(connection, "select status, state from ops.alert_deliveries order by delivery_id")


def test_a_message_that_still_waits_is_not_sent_once_a_silence_is_made(database, raised):
    add_channel(database)
    raised("slow")
    notify(database)
    silence(database)
    assert notify(database, 1) == []
    assert queued_and_silenced(database) == [("firing", "silenced"), ("firing", "silenced")]
    # It has told nobody, so it is said when the silence ends.
    assert notify(database, 60) == [("ops", "shop", ["slow"], [])]


def test_what_nobody_was_told_of_and_ends_in_a_silence_is_never_sent(database, raised):
    add_channel(database)
    raised("slow")
    notify(database)
    silence(database)
    notify(database, 1)
    end(database, "slow")
    assert (notify(database, 30), notify(database, 90)) == ([], [])


def test_what_was_told_before_a_silence_is_said_to_be_over_though_its_repeat_was_silenced(database, raised):
    add_channel(database, repeat_interval="10 minutes")
    raised("slow")
    notify(database)
    deliver_all(database)
    notify(database, 11)
    silence(database)
    notify(database, 12)
    assert queued_and_silenced(database)[:2] == [("firing", "delivered"), ("firing", "silenced")]
    end(database, "slow")
    assert notify(database, 30) == [("ops", "shop", [], ["slow"])]


def test_a_silence_takes_back_no_message_that_says_something_else_or_is_being_sent(database, raised):
    add_channel(database)
    raised("slow")
    raised("fast")
    notify(database)
    silence(database, "slow")
    assert notify(database, 1) == []
    assert queued_and_silenced(database)[0] == ("firing", "queued")
    database.execute("update ops.alert_deliveries set state = 'sending', leased_until = now() where state = 'queued'")
    silence(database, "fast")
    notify(database, 2)
    assert queued_and_silenced(database)[0] == ("firing", "sending")


@pytest.mark.parametrize(
    ("matcher", "columns"),
    [
        ("*", {"only_org_id": TWO}),
        ("fast", {}),
        ("*", {"starts_at": NOON + timedelta(minutes=1)}),
        ("*", {"starts_at": NOON - timedelta(minutes=1), "until": NOON}),
    ],
    ids=["another org's", "another rule's", "not yet", "no more"],
)
def test_a_silence_of_something_else_silences_nothing(database, raised, matcher, columns):
    add_channel(database)
    silence(database, matcher, **columns)
    raised("slow", org_id=ONE)
    assert (notify(database), logged(database)) == ([("ops", "shop", ["slow"], [])], 0)


def test_a_silence_of_one_org_silences_it(database, raised):
    add_channel(database)
    silence(database, only_org_id=ONE)
    raised("slow", org_id=ONE)
    assert (notify(database), logged(database)) == ([], 1)


@pytest.mark.parametrize(
    "matcher", ["*", "trickle", "provenance_generation", "audit_observer_latency", "slow", "hook_override_rate"]
)
def test_a_user_silences_what_exists(database, raised, matcher):
    add_rule(
        database,
        "overrides",
        "kpi_threshold",
        **{"metric_name": "hook_override_rate", "comparison": "gt", "threshold": 20, "lasting": "1 hour"},
    )
    raised("slow")
    query = "select ops.silence_alerts(%s, %s, 'maintenance', 'ada', %s, %s)"
    number = scalar(database, query, matcher, NOON + timedelta(hours=1), ONE, NOON)
    assert rows(
        database, "select alert_silence_id, only_org_id, matcher, starts_at, until from ops.alert_silences"
    ) == [(number, ONE, matcher, NOON, NOON + timedelta(hours=1))]


@pytest.mark.parametrize("matcher", ["unheard_of", "", "%", "provenance"])
def test_a_silence_of_what_does_not_exist_is_refused(database, matcher):
    with pytest.raises(psycopg.Error) as refused:
        database.execute("select ops.silence_alerts(%s, %s, 'x', 'ada')", [matcher, NOON + timedelta(days=9999)])
    assert (refused.value.sqlstate, bool(refused.value.diag.message_hint)) == ("OP001", True)


# The command that explains


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({}, []),
        ({"workflow": "release"}, ["--group", "workflow=release"]),
        ({"workflow": None, "team": "a b"}, ["--group", 'team="a b"', "--group", "workflow="]),
        ({"workflow": "it's $(date)'\\"}, ["--group", "workflow=\"it's $(date)'\\\\\""]),
        ({"overflow": True}, ["--group", "overflow"]),
    ],
    ids=str,
)
def test_an_alert_names_the_command_that_explains_its_group_as_a_shell_takes_it(
    database: Connection, raised: Callable[..., None], group: dict[str, str | None], words: list[str]
) -> None:
    raised("burn", slo_group=Jsonb(group), detail=Jsonb({"explain_since": "2026-03-01T00:00:00Z"}))
    query = (
        "select ops.alert_facts(array(select alert_id from ops.alerts where rule_name = 'burn'), %s) -> 0 ->> 'explain'"
    )
    command = shlex.split(scalar(database, query, NOON))
    since, until = "2026-03-01T00:00:00Z", "2026-03-10T12:00:00Z"
    assert command == ["opskpi", "slo", "explain", "deploys", *words, "--since", since, "--until", until]

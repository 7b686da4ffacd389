"""From state to state: pending, firing, resolved; one evaluation at a time, forwards only, and all of it or nothing."""

import psycopg
import pytest

from support.events import (
    AlertReport,
    Connection,
    add_channel,
    add_events,
    add_rule,
    add_slo,
    alerts,
    at,
    evaluate_alerts,
    instant,
    rows,
    run_jobs,
    scalar,
    told,
)
from support.fixtures import Connect

pytestmark = pytest.mark.database

NOON = "2026-03-10T12:00:00Z"
NOTHING = AlertReport("done", found=0, fired=0, resolved=0, frozen=0, queued=0)


@pytest.fixture
def burning_shop(database: Connection) -> Connection:
    """Let an objective burn since 11:58, with one rule and one channel, before any evaluation."""
    database.execute("delete from ops.alert_rules")
    add_slo(database)
    burn = {"factor": 2, "long_window": "1 hour", "short_window": "5 minutes", "description": "Roll back."}
    add_rule(database, "burn", "burn_rate", slo_name="deploys", **burn)
    add_channel(database)
    add_events(database, 20, "deploy", at("11:58"), outcome="failure")
    return database


def mend(connection: Connection, time: str) -> None:
    add_events(connection, 1000, "deploy", at(time), outcome="success")


def outcome(connection: Connection) -> tuple[object, ...]:
    """Return all that an evaluation may write."""
    return (
        rows(connection, "select * from ops.alerts order by alert_id"),
        rows(connection, "select * from ops.alert_groups order by 1, 2, 3"),
        rows(connection, "select * from ops.alert_deliveries order by delivery_id"),
        rows(connection, "select * from ops.alert_evaluations"),
        rows(connection, "select * from ops.job_runs where job = 'alerts'"),
    )


def test_an_alert_fires_and_is_resolved(burning_shop):
    assert run_jobs(burning_shop, NOON) == AlertReport("done", found=1, fired=1, resolved=0, frozen=0, queued=1)
    assert run_jobs(burning_shop, at("12:01")) == AlertReport("done", found=1, fired=0, resolved=0, frozen=0, queued=0)
    mend(burning_shop, "12:02")
    assert run_jobs(burning_shop, at("12:03")) == AlertReport("done", found=0, fired=0, resolved=1, frozen=0, queued=1)
    assert run_jobs(burning_shop, at("12:04")) == NOTHING
    query = (
        "select kind, severity, service, slo_version, state, pending_since, firing_since, resolved_at, description"
        " from ops.alerts"
    )
    noon, over = instant(NOON), instant(at("12:03"))
    assert rows(burning_shop, query) == [
        ("burn_rate", "ticket", "shop", 1, "resolved", noon, noon, over, "Roll back."),
    ]
    assert told(burning_shop) == [("ops", "shop", ["burn"], []), ("ops", "shop", [], ["burn"])]


def test_what_burns_again_is_another_alert(burning_shop):
    run_jobs(burning_shop, NOON)
    mend(burning_shop, "12:02")
    run_jobs(burning_shop, at("12:03"))
    add_events(burning_shop, 1000, "deploy", at("12:09"), outcome="failure")
    run_jobs(burning_shop, at("12:10"))
    assert alerts(burning_shop) == [("burn", "deploys", "resolved"), ("burn", "deploys", "firing")]


@pytest.mark.parametrize(("failures", "late"), [(0, False), (1, False), (1, True)], ids=["none", "new", "late"])
def test_an_alert_that_was_resolved_fires_again_only_with_a_new_failure(burning_shop, failures, late):
    burning_shop.execute("update ops.alert_rules set short_window = '30 minutes'")
    # What was good before leaves the window of an hour at 12:20, and the failures burn as fast as they did.
    add_events(burning_shop, 10, "deploy", at("11:10"), outcome="success")
    run_jobs(burning_shop, NOON)
    add_events(burning_shop, 75, "deploy", at("12:01"), outcome="success")
    run_jobs(burning_shop, at("12:05"))
    assert alerts(burning_shop) == [("burn", "deploys", "resolved")]
    add_events(burning_shop, failures, "deploy", at("12:02") if late else at("12:14"), outcome="failure")
    run_jobs(burning_shop, at("12:20"))
    again = [("burn", "deploys", "firing")] * failures
    assert alerts(burning_shop) == [*again, ("burn", "deploys", "resolved")] or alerts(burning_shop) == [
        ("burn", "deploys", "resolved"),
        *again,
    ]


def test_an_alert_is_pending_until_its_condition_has_held_long_enough(burning_shop):
    burning_shop.execute("update ops.alert_rules set alert_after = '10 minutes'")
    assert run_jobs(burning_shop, NOON) == AlertReport("done", found=1, fired=0, resolved=0, frozen=0, queued=0)
    assert run_jobs(burning_shop, at("12:09:59")) == AlertReport(
        "done", found=1, fired=0, resolved=0, frozen=0, queued=0
    )
    assert (alerts(burning_shop), told(burning_shop)) == ([("burn", "deploys", "pending")], [])
    add_events(burning_shop, 1, "deploy", at("12:09"), outcome="failure")
    assert run_jobs(burning_shop, at("12:10")) == AlertReport("done", found=1, fired=1, resolved=0, frozen=0, queued=1)
    query = "select state, pending_since, firing_since from ops.alerts"
    assert rows(burning_shop, query) == [("firing", instant(NOON), instant(at("12:10")))]


def test_an_alert_that_waits_fires_on_no_silence(burning_shop):
    burning_shop.execute("update ops.alert_rules set alert_after = '10 minutes'")
    run_jobs(burning_shop, NOON)
    run_jobs(burning_shop, at("12:30"))
    assert alerts(burning_shop) == [("burn", "deploys", "pending")]
    add_events(burning_shop, 1, "deploy", at("12:31"), outcome="failure")
    run_jobs(burning_shop, at("12:35"))
    assert alerts(burning_shop) == [("burn", "deploys", "firing")]


def test_what_ends_while_it_is_pending_was_never_an_alert(burning_shop):
    burning_shop.execute("update ops.alert_rules set alert_after = '10 minutes'")
    run_jobs(burning_shop, NOON)
    mend(burning_shop, "12:02")
    assert run_jobs(burning_shop, at("12:05")) == NOTHING
    assert (alerts(burning_shop), told(burning_shop)) == ([], [])


@pytest.mark.parametrize("state", ["firing", "pending"])
@pytest.mark.parametrize(
    "change",
    [
        "delete from ops.alert_rules",
        "update ops.alert_rules set is_enabled = false",
        "update ops.alert_rules set rule_name = 'renamed', is_enabled = false",
        "delete from ops.slos where slo_name = 'deploys'",
    ],
)
def test_what_no_rule_asks_about_any_more_ends_and_is_not_said_to_be_resolved(burning_shop, state, change):
    if state == "pending":
        burning_shop.execute("update ops.alert_rules set alert_after = '1 hour'")
    run_jobs(burning_shop, NOON)
    burning_shop.execute(change)
    run_jobs(burning_shop, at("12:01"))
    assert alerts(burning_shop) == ([("burn", "deploys", "ended")] if state == "firing" else [])


def test_the_alerts_of_a_deleted_objective_end_for_the_general_rules_too(burning_shop):
    burning_shop.execute("update ops.alert_rules set slo_name = null")
    run_jobs(burning_shop, NOON)
    burning_shop.execute("delete from ops.slos where slo_name = 'deploys'")
    burning_shop.execute("update ops.slo_versions set valid_until = %s where slo_name = 'deploys'", [at("12:01")])
    run_jobs(burning_shop, at("12:01"))
    assert alerts(burning_shop) == [("burn", "deploys", "ended")]


def test_an_alert_follows_its_rule_while_it_fires(burning_shop):
    run_jobs(burning_shop, NOON)
    burning_shop.execute(
        "update ops.alert_rules set severity = 'page', channels = '{ops}', notify_resolved = false, description = 'New.'"
    )
    run_jobs(burning_shop, at("12:01"))
    query = "select severity, channels, notify_resolved, description, state, firing_since from ops.alerts"
    assert rows(burning_shop, query) == [("page", ["ops"], False, "New.", "firing", instant(NOON))]


def test_an_alert_says_by_which_kind_of_rule_it_was_found_last(burning_shop):
    run_jobs(burning_shop, NOON)
    burning_shop.execute(
        "update ops.alert_rules set kind = 'budget_exhausted', factor = null, long_window = null, short_window = null"
    )
    run_jobs(burning_shop, at("12:01"))
    assert rows(burning_shop, "select kind, state from ops.alerts") == [("budget_exhausted", "firing")]


def test_an_objective_whose_history_is_still_being_filled_raises_nothing(burning_shop):
    add_rule(burning_shop, "spent", "budget_exhausted")
    add_rule(burning_shop, "silent", "silent_input", "notice", silent_for="1 day")
    add_events(burning_shop, 20, "release", "2026-03-01T12:00Z", outcome="failure")
    add_events(burning_shop, 2000, "release", at("11:59"), outcome="success")
    run_jobs(burning_shop, NOON)
    add_slo(burning_shop, "releases", event_type="release")
    burning_shop.execute("select ops.fill_slis('2026-03-05T00:00Z')")
    evaluate_alerts(burning_shop, at("12:01"))
    assert [alert for alert in alerts(burning_shop) if alert[1] == "releases"] == []


def test_an_instant_before_the_last_evaluation_is_left_alone(burning_shop):
    run_jobs(burning_shop, NOON)
    mend(burning_shop, "11:59")
    before = outcome(burning_shop)
    assert run_jobs(burning_shop, at("11:59:59")) == AlertReport("past", None, None, None, None, None)
    assert outcome(burning_shop) == before


def test_the_same_instant_twice_says_nothing_twice(burning_shop):
    run_jobs(burning_shop, NOON)
    before = outcome(burning_shop)[:4]
    assert run_jobs(burning_shop, NOON).queued == 0
    assert outcome(burning_shop)[:4] == before


@pytest.mark.parametrize("as_of", [None, "infinity", "-infinity"])
def test_an_evaluation_needs_an_instant(burning_shop, as_of):
    with pytest.raises(psycopg.Error) as refused:
        burning_shop.execute("select ops.evaluate_alerts(%s)", [as_of])
    assert (refused.value.sqlstate, bool(refused.value.diag.message_hint)) == ("OP001", True)


def test_one_evaluation_runs_at_a_time(burning_shop, connect: Connect):
    other = connect(autocommit=False)
    run_jobs(other, NOON)
    assert evaluate_alerts(burning_shop, NOON) == AlertReport("busy", None, None, None, None, None)
    other.commit()
    assert evaluate_alerts(burning_shop, NOON).state == "done"
    assert alerts(burning_shop) == [("burn", "deploys", "firing")]


def test_an_evaluation_that_is_rolled_back_sends_nothing(burning_shop, connect: Connect):
    before = outcome(burning_shop)
    other = connect(autocommit=False)
    run_jobs(other, NOON)
    assert len(told(other)) == 1
    other.rollback()
    assert outcome(burning_shop) == before
    assert run_jobs(burning_shop, NOON).queued == 1


@pytest.mark.parametrize("table", ["alert_deliveries", "alert_groups", "alert_evaluations"])
def test_states_and_messages_are_written_together_or_not_at_all(burning_shop, table):
    before = outcome(burning_shop)
    burning_shop.execute("create function fail() returns trigger language plpgsql as $$begin raise 'disk full'; end$$")
    burning_shop.execute(f"create trigger fail before insert on ops.{table} execute function fail()")
    with pytest.raises(psycopg.Error, match="disk full"):
        run_jobs(burning_shop, NOON)
    assert outcome(burning_shop) == before
    burning_shop.execute(f"drop trigger fail on ops.{table}")
    assert run_jobs(burning_shop, NOON).queued == 1


@pytest.mark.parametrize("kinds", [["burn_rate"], ["silent_jobs", "burn_rate"], ["unheard_of"], [None]], ids=str)
def test_no_alert_ends_because_an_evaluation_did_not_look(burning_shop, kinds):
    run_jobs(burning_shop, NOON)
    try:
        evaluate_alerts(burning_shop, at("12:01"), kinds)
    except psycopg.Error as refused:
        assert refused.sqlstate == "OP001"
    assert alerts(burning_shop) == [("burn", "deploys", "firing")]


def test_an_alert_keeps_the_version_of_the_objective_that_found_it(burning_shop):
    run_jobs(burning_shop, NOON)
    burning_shop.execute("update ops.slos set target = 0.89, valid_from = %s where slo_name = 'deploys'", [at("12:01")])
    run_jobs(burning_shop, at("12:01"))
    assert scalar(burning_shop, "select slo_version from ops.alerts") == 2


def test_a_message_says_what_how_bad_and_how_to_look(burning_shop):
    burning_shop.execute("insert into ops.settings values ('dashboard_url', 'https://ops.example', 'where')")
    run_jobs(burning_shop, NOON)
    (message,) = scalar(burning_shop, "select array[message] from ops.alert_deliveries")
    alert = scalar(burning_shop, "select to_jsonb(alert) from ops.alerts as alert")
    assert message == {
        "kind": "alerts",
        "title": "shop: 1 firing",
        "status": "firing",
        "org_id": "00000000-0000-0000-0000-000000000000",
        "group": "shop",
        "link": "https://ops.example",
        "resolved": [],
        "ended": [],
        "firing": [
            {
                "alert_id": alert["alert_id"],
                "rule": "burn",
                "kind": "burn_rate",
                "severity": "ticket",
                "subject": "deploys",
                "slo_group": None,
                "group": None,
                "service": "shop",
                "description": "Roll back.",
                "since": "2026-03-10T12:00:00+00:00",
                "resolved_at": None,
                "slo_version": 1,
                "explain": "opskpi slo explain deploys --since 2026-03-10T11:00:00Z --until 2026-03-10T12:00:00Z",
                "detail": {
                    "status": "breached",
                    "sli": "0",
                    "target": "0.9",
                    "good": 0,
                    "total": 20,
                    "budget_left": "-9",
                    "long_window": "01:00:00",
                    "short_window": "00:05:00",
                    "burn_rate_long": "10",
                    "burn_rate_short": "10",
                    "factor": "2",
                    "bad_long": 20,
                    "total_long": 20,
                    "budget_taken": "10",
                    "last_seen_at": "2026-03-10T11:55:00+00:00",
                },
            }
        ],
    }

"""Silence is never ok: the input that stops, the agents that are not heard of, the jobs that stand still."""

from uuid import UUID

import pytest

from support.events import (
    Connection,
    add_channel,
    add_event,
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
    wait_for_a_writer,
)

pytestmark = pytest.mark.database

NOON = "2026-03-10T12:00:00Z"
LAPTOP, RUNNER = UUID(int=1), UUID(int=2)


@pytest.fixture
def hourly_shop(database: Connection) -> Connection:
    """Let an objective that expects input every hour burn at noon, in a database with few rules and a channel."""
    database.execute("delete from ops.alert_rules where rule_name not like 'silent%'")
    add_slo(database, expected_interval="1 hour")
    burn = {"slo_name": "deploys", "factor": 2, "long_window": "1 day", "short_window": "1 hour"}
    add_rule(database, "burn", "burn_rate", "page", **burn)
    add_channel(database)
    add_events(database, 20, "deploy", "2026-03-10T11:58Z", outcome="failure")
    run_jobs(database, NOON)
    return database


def status(connection: Connection, as_of: str) -> str:
    query = "select status from ops.evaluate_slos(%s) where slo_name = 'deploys'"
    return scalar(connection, query, as_of)


# The input


def test_within_two_intervals_a_silent_input_is_no_data_and_what_fires_stays(hourly_shop):
    run_jobs(hourly_shop, at("13:55"))
    assert (status(hourly_shop, at("13:55")), alerts(hourly_shop)) == ("breached", [("burn", "deploys", "firing")])
    run_jobs(hourly_shop, at("13:58"))
    assert status(hourly_shop, at("13:58")) == "no_data"
    assert alerts(hourly_shop) == [("burn", "deploys", "firing"), ("silent_input", "deploys", "firing")]
    assert rows(hourly_shop, "select rule_name, is_frozen from ops.alerts order by 1") == [
        ("burn", True),
        ("silent_input", False),
    ]


def test_a_silent_input_is_said_once_and_when_it_is_over(hourly_shop):
    add_channel(hourly_shop, "notices", severities=["notice"], repeat_interval="1 year")
    for time in ("13:55", "13:58", "14:00", "14:05", "15:00", "20:00"):
        run_jobs(hourly_shop, at(time))
    add_events(hourly_shop, 1, "deploy", at("20:01"), outcome="failure")
    for time in ("20:05", "20:10"):
        run_jobs(hourly_shop, at(time))
    assert [message for message in told(hourly_shop) if message[0] == "notices"] == [
        ("notices", "shop", ["silent_input"], []),
        ("notices", "shop", [], ["silent_input"]),
    ]
    assert rows(hourly_shop, "select state, is_frozen from ops.alerts where rule_name = 'burn'") == [("firing", False)]


def test_the_objectives_of_a_silent_service_are_one_message(database):
    database.execute("update ops.settings set value = '1 hour' where name = 'expected_interval'")
    add_channel(database, severities=["notice"])
    add_events(database, 2000, "slsa_provenance", at("10:00"), outcome="success", duration_ms=1)
    run_jobs(database, at("10:01"))
    assert run_jobs(database, at("13:00")).queued == 1
    assert told(database) == [("ops", "provenance_generation", ["silent_input"] * 3, [])]


def test_an_input_that_never_came_is_not_missed(database):
    add_slo(database, expected_interval="1 hour")
    add_event(database, "artifact")
    run_jobs(database, NOON)
    run_jobs(database, "2026-03-20T12:00Z")
    assert [alert for alert in alerts(database) if alert[0] == "silent_input"] == []


def test_a_new_day_is_not_silent_before_its_first_event(database):
    add_slo(database, calendar="day", zone="UTC", expected_interval="1 day")
    add_events(database, 20, "deploy", "2026-03-10T23:30Z", outcome="success")
    run_jobs(database, "2026-03-10T23:59Z")
    run_jobs(database, "2026-03-11T00:04Z")
    assert alerts(database) == []


@pytest.mark.parametrize(("as_of", "found"), [("12:55", []), ("12:56", [("quiet", "deploys", "firing")])])
def test_a_rule_may_say_how_long_an_objective_may_be_silent(hourly_shop, as_of, found):
    add_rule(hourly_shop, "quiet", "silent_input", slo_name="deploys", silent_for="1 hour")
    run_jobs(hourly_shop, at(as_of))
    assert [alert for alert in alerts(hourly_shop) if alert[0] == "quiet"] == found


@pytest.mark.parametrize(("as_of", "found"), [("15:00", []), ("15:01", [("quiet", "deploy", "firing")])])
def test_a_rule_may_watch_one_kind_of_event(hourly_shop, as_of, found):
    add_rule(hourly_shop, "quiet", "silent_input", event_type="deploy", silent_for="3 hours")
    run_jobs(hourly_shop, at(as_of))
    assert [alert for alert in alerts(hourly_shop) if alert[0] == "quiet"] == found


def test_a_kind_of_event_that_comes_again_is_silent_no_more(hourly_shop):
    add_rule(hourly_shop, "quiet", "silent_input", event_type="deploy", silent_for="3 hours")
    run_jobs(hourly_shop, at("18:00"))
    add_event(hourly_shop, "deploy", at("18:01"), outcome="success")
    run_jobs(hourly_shop, at("18:05"))
    assert ("quiet", "deploy", "resolved") in alerts(hourly_shop)


def test_an_event_of_the_future_does_not_hide_that_a_kind_is_silent(hourly_shop):
    add_rule(hourly_shop, "quiet", "silent_input", event_type="deploy", silent_for="3 hours")
    add_event(hourly_shop, "deploy", "2026-09-01T00:00Z", outcome="success")
    run_jobs(hourly_shop, at("18:00"))
    assert ("quiet", "deploy", "firing") in alerts(hourly_shop)


# The jobs


def test_when_the_jobs_stop_what_fires_is_frozen(hourly_shop):
    evaluate_alerts(hourly_shop, at("12:10"))
    assert (status(hourly_shop, at("12:10")), scalar(hourly_shop, "select is_frozen from ops.alerts")) == (
        "breached",
        False,
    )
    evaluate_alerts(hourly_shop, at("12:10:01"))
    assert status(hourly_shop, at("12:10:01")) == "breached"
    assert rows(hourly_shop, "select rule_name, subject, state, is_frozen from ops.alerts order by 1") == [
        ("burn", "deploys", "firing", True),
        ("silent_jobs", "refresh", "firing", False),
    ]


@pytest.mark.parametrize("silence", ["2 hours", "20 days", "40 days"])
def test_however_long_the_jobs_stand_still_no_alert_resolves_because_of_it(hourly_shop, silence):
    add_rule(hourly_shop, "spent", "budget_exhausted")
    add_rule(
        hourly_shop, "many", "kpi_threshold", metric_name="error_rate", comparison="gt", threshold=1, lasting="1 hour"
    )
    add_event(hourly_shop, "slsa_provenance", "2026-03-10T11:58Z", outcome="failure")
    run_jobs(hourly_shop, at("12:05"))
    fired = {(rule, subject) for rule, subject, state in alerts(hourly_shop) if state == "firing"}
    assert {rule for rule, _ in fired} == {"burn", "spent", "many"}
    later = scalar(hourly_shop, "select %s::timestamptz + %s::interval", NOON, silence)
    evaluate_alerts(hourly_shop, later)
    still = {(rule, subject) for rule, subject, state in alerts(hourly_shop) if state == "firing"}
    assert still == fired | {("silent_jobs", "refresh")}


def test_counting_that_fails_for_months_is_not_forgotten_with_the_journal(hourly_shop):
    evaluate_alerts(hourly_shop, at("12:30"))
    hourly_shop.execute("select ops.maintain('2026-06-10T12:00Z')")
    evaluate_alerts(hourly_shop, "2026-06-10T12:00Z")
    assert ("silent_jobs", "refresh", "firing") in alerts(hourly_shop)


@pytest.mark.parametrize(("as_of", "found"), [("12:15", []), ("12:15:01", ["firing"])])
def test_the_watchdog_says_that_a_refresh_waits_for_more_than_three_intervals(hourly_shop, as_of, found):
    wait_for_a_writer(hourly_shop, since=NOON, until=at(as_of))
    evaluate_alerts(hourly_shop, at(as_of), ["silent_jobs"])
    assert [
        state for rule, subject, state in alerts(hourly_shop) if (rule, subject) == ("silent_jobs", "refresh")
    ] == found
    if found:
        detail = scalar(hourly_shop, "select detail from ops.alerts where subject = 'refresh'")
        assert instant(detail["waiting_since"]) == instant(NOON)


def test_a_watchdog_queues_one_page_when_the_jobs_stop(hourly_shop):
    add_channel(hourly_shop, "pager", severities=["page"])
    run_jobs(hourly_shop, at("12:05"))
    assert evaluate_alerts(hourly_shop, at("12:15"), ["silent_jobs"]).queued == 0
    assert evaluate_alerts(hourly_shop, at("12:16"), ["silent_jobs"]).queued == 2
    assert evaluate_alerts(hourly_shop, at("12:30"), ["silent_jobs"]).queued == 0
    assert [message for message in told(hourly_shop) if message[1] == "silent_jobs"] == [
        ("ops", "silent_jobs", ["silent_jobs"] * 2, []),
        ("pager", "silent_jobs", ["silent_jobs"] * 2, []),
    ]


def test_a_watchdog_leaves_all_else_as_it_is(hourly_shop):
    before = rows(hourly_shop, "select * from ops.alerts")
    evaluate_alerts(hourly_shop, at("13:00"), ["silent_jobs"])
    assert rows(hourly_shop, "select * from ops.alerts where rule_name <> 'silent_jobs'") == before
    assert scalar(hourly_shop, "select evaluated_at = %s from ops.alert_evaluations", NOON)


def test_jobs_that_run_again_are_over_at_once(hourly_shop):
    evaluate_alerts(hourly_shop, at("12:30"), ["silent_jobs"])
    run_jobs(hourly_shop, at("12:40"))
    assert [alert for alert in alerts(hourly_shop) if alert[0] == "silent_jobs"] == [
        ("silent_jobs", "alerts", "resolved"),
        ("silent_jobs", "refresh", "resolved"),
    ]
    assert told(hourly_shop)[-1] == ("ops", "silent_jobs", [], ["silent_jobs"] * 2)


def test_jobs_that_run_again_do_not_page_for_themselves(hourly_shop):
    run_jobs(hourly_shop, at("12:40"))
    assert [alert for alert in alerts(hourly_shop) if alert[0] == "silent_jobs"] == []


def test_jobs_that_never_ran_are_not_missed(database):
    assert evaluate_alerts(database, NOON, ["silent_jobs"]).found == 0


@pytest.mark.parametrize(("as_of", "queued"), [("13:00", 0), ("13:01", 1)])
def test_a_rule_may_say_how_long_the_jobs_may_stand_still(hourly_shop, as_of, queued):
    hourly_shop.execute("update ops.alert_rules set silent_for = '1 hour' where rule_name = 'silent_jobs'")
    assert evaluate_alerts(hourly_shop, at(as_of), ["silent_jobs"]).queued == queued


def test_events_and_agents_are_not_called_silent_while_nothing_is_counted(hourly_shop):
    add_rule(hourly_shop, "quiet", "silent_input", event_type="deploy", silent_for="1 hour")
    add_rule(hourly_shop, "away", "silent_agents", silent_for="1 hour")
    add_event(hourly_shop, "deploy", at("11:59"), outcome="success", agent_id=LAPTOP)
    run_jobs(hourly_shop, at("12:01"))
    evaluate_alerts(hourly_shop, at("15:00"))
    assert [alert for alert in alerts(hourly_shop) if alert[0] in {"quiet", "away"}] == []


# Agents


@pytest.fixture
def away(database: Connection) -> Connection:
    """Let two agents be heard of a day apart, and watch nothing but them."""
    database.execute("delete from ops.alert_rules")
    add_rule(database, "away", "silent_agents", silent_for="1 day", description="Ask its owner.")
    add_event(database, "deploy", "2026-03-09T11:00Z", agent_id=LAPTOP)
    add_event(database, "deploy", "2026-03-10T11:00Z", agent_id=RUNNER)
    return database


def test_an_agent_that_is_silent_is_found_and_another_is_not(away):
    run_jobs(away, "2026-03-10T11:00Z")
    assert alerts(away) == []
    run_jobs(away, NOON)
    assert alerts(away) == [("away", str(LAPTOP), "firing")]


def test_all_silent_agents_of_an_org_are_one_message(away):
    add_channel(away)
    run_jobs(away, "2026-03-12T12:00Z")
    assert [message for message in told(away) if message[1] == "silent_agents"] == [
        ("ops", "silent_agents", ["away", "away"], [])
    ]


def test_an_agent_that_is_heard_of_again_is_over(away):
    run_jobs(away, NOON)
    add_event(away, "deploy", at("12:01"), agent_id=LAPTOP)
    run_jobs(away, at("12:05"))
    assert alerts(away) == [("away", str(LAPTOP), "resolved")]


def test_an_agent_silent_for_ten_times_as_long_is_retired_and_its_rule_is_not_said_to_be_gone(away):
    run_jobs(away, NOON)
    run_jobs(away, "2026-03-19T11:00:01Z")
    query = "select subject, state, detail ? 'rule_is_gone' from ops.alerts where rule_name = 'away' order by 1"
    assert rows(away, query) == [(str(LAPTOP), "ended", False), (str(RUNNER), "firing", False)]

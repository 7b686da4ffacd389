"""Alerts of an objective with groups are each group's own."""

import pytest

from support.events import (
    NIL,
    Connection,
    add_events,
    add_row,
    add_rule,
    add_slo,
    evaluate_alerts,
    instant,
    refused,
    rows,
    run_jobs,
    scalar,
)

pytestmark = pytest.mark.database

AT, LATER = "2026-03-10T12:00Z", "2026-03-10T12:05Z"
STATES = "select slo_group ->> 'workflow', severity, state from ops.alerts order by 1, 2, alert_id"


@pytest.fixture
def grouped(database: Connection) -> Connection:
    database.execute("delete from ops.alert_rules")
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"], window="7 days")
    add_rule(database, "gone", "budget_exhausted", "page", slo_name="mine")
    add_row(database, "alert_channels", channel_name="c", kind="webhook", secret_env="URL")
    return database


def add_attempts_of(connection: Connection, workflow: str, outcome: str, count: int, at: str = AT) -> None:
    add_events(connection, count, "workflow_run", at, outcome=outcome, workflow=workflow)


def test_one_group_pages_while_the_others_stay_quiet_and_its_message_names_it(grouped: Connection) -> None:
    add_attempts_of(grouped, "release it", "failure", 20)
    add_attempts_of(grouped, "nightly", "success", 20)
    run_jobs(grouped, LATER)
    assert rows(grouped, STATES) == [("release it", "page", "firing")]
    (facts,) = rows(grouped, "select message -> 'firing' -> 0 from ops.alert_deliveries")[0]
    assert (facts["subject"], facts["group"], facts["slo_group"]) == (
        "mine",
        'workflow="release it"',
        {"workflow": "release it"},
    )
    assert facts["explain"].startswith(
        """opskpi slo explain mine --group 'workflow="release it"' --since 2026-03-03T12:05"""
    )
    add_attempts_of(grouped, "nightly", "failure", 20, LATER)
    run_jobs(grouped, "2026-03-10T12:10Z")
    assert rows(grouped, STATES) == [("nightly", "page", "firing"), ("release it", "page", "firing")]
    add_attempts_of(grouped, "release it", "success", 2000, "2026-03-10T12:10Z")
    run_jobs(grouped, "2026-03-10T12:15Z")
    assert rows(grouped, STATES) == [("nightly", "page", "firing"), ("release it", "page", "resolved")]


def test_a_page_of_one_group_inhibits_no_ticket_of_another(grouped: Connection) -> None:
    add_rule(grouped, "burn", "burn_rate", "ticket", slo_name="mine", factor="1.5", long_window="1 hour")
    grouped.execute("update ops.alert_rules set is_enabled = false where rule_name = 'gone'")
    for workflow in ("a", "b"):
        add_attempts_of(grouped, workflow, "failure", 20)
    run_jobs(grouped, LATER)
    grouped.execute("update ops.alert_rules set is_enabled = true where rule_name = 'gone'")
    add_attempts_of(grouped, "b", "success", 180, LATER)
    run_jobs(grouped, "2026-03-10T12:10Z")
    inhibited = (
        "select alert.slo_group ->> 'workflow', alert.severity, addressed.is_inhibited"
        " from ops.addressed_alerts('2026-03-10T12:10Z') as addressed join ops.alerts as alert using (alert_id)"
        " where alert.state = 'firing' order by 1, 2"
    )
    assert rows(grouped, inhibited) == [("a", "page", False), ("a", "ticket", True)]


def test_the_alert_of_a_group_that_is_over_ends_and_is_never_called_resolved(grouped: Connection) -> None:
    add_attempts_of(grouped, "merged", "failure", 20)
    run_jobs(grouped, LATER)
    add_attempts_of(grouped, "other", "success", 20, "2026-03-18T12:00Z")
    run_jobs(grouped, "2026-03-18T12:05Z")
    assert rows(grouped, "select state, detail ->> 'ended_because' from ops.alerts") == [("ended", "group_is_over")]


def test_a_silence_of_one_group_covers_that_one_only(grouped: Connection) -> None:
    for workflow in ("a", "b"):
        add_attempts_of(grouped, workflow, "failure", 20)
    run_jobs(grouped, LATER)
    grouped.execute("select ops.silence_alerts('mine workflow=a', '2099-01-01Z', 'known', 'me')")
    covered = (
        "select alert.slo_group ->> 'workflow', addressed.is_silenced from ops.addressed_alerts(now()) as addressed"
        " join ops.alerts as alert using (alert_id) order by 1"
    )
    assert rows(grouped, covered) == [("a", True), ("b", False)]
    with refused():
        scalar(grouped, "select ops.silence_alerts('mine workflow=unheard', '2099-01-01Z', 'known', 'me')")


def test_a_simulation_tells_the_groups_apart(grouped: Connection) -> None:
    add_attempts_of(grouped, "a", "failure", 20)
    add_attempts_of(grouped, "b", "success", 20)
    run_jobs(grouped, LATER)
    found = (
        "select slo_group ->> 'workflow', fired_at from ops.simulate_slos("
        "  array(select slo from ops.slos as slo where slo_name = 'mine'),"
        "  array(select rule from ops.alert_rules as rule where slo_name = 'mine'), '2026-03-10T12:05Z', '2026-03-10T12:15Z')"
    )
    assert rows(grouped, found) == [("a", instant(LATER))]


def test_while_nobody_can_tell_the_alert_of_a_group_stays_as_it_is(grouped: Connection) -> None:
    grouped.execute("update ops.slos set rolling_window = null, calendar_period = 'day', time_zone = 'UTC'")
    add_attempts_of(grouped, "a", "failure", 20, "2026-03-10T23:40Z")
    run_jobs(grouped, "2026-03-10T23:45Z")
    # The jobs stop, and the day that holds the failures is over.
    evaluate_alerts(grouped, "2026-03-11T00:20Z")
    assert rows(grouped, "select state, is_frozen from ops.alerts") == [("firing", True)]


def test_a_changed_definition_whose_history_is_not_filled_ends_no_alert_of_a_group(grouped: Connection) -> None:
    add_attempts_of(grouped, "a", "failure", 20)
    run_jobs(grouped, LATER)
    grouped.execute("""update ops.slos set total_labels = '{"workflow": ["a", "b"]}', valid_from = %s""", [LATER])
    evaluate_alerts(grouped, "2026-03-10T12:06Z")
    assert rows(grouped, "select state from ops.alerts") == [("firing",)]
    run_jobs(grouped, "2026-03-10T12:10Z")
    assert rows(grouped, "select state from ops.alerts") == [("firing",)]


def test_a_silence_of_a_group_goes_along_to_a_new_name(grouped: Connection) -> None:
    add_attempts_of(grouped, "a", "failure", 20)
    run_jobs(grouped, LATER)
    grouped.execute("select ops.silence_alerts('mine workflow=a', '2099-01-01Z', 'known', 'me')")
    grouped.execute("update ops.slos set slo_name = 'yours' where slo_name = 'mine'")
    assert rows(grouped, "select matcher from ops.alert_silences") == [("yours workflow=a",)]


def test_a_group_whose_window_is_left_out_is_not_over_in_a_simulation_either(grouped: Connection) -> None:
    add_attempts_of(grouped, "a", "failure", 20)
    run_jobs(grouped, LATER)
    grouped.execute("select ops.exclude_from_slo('mine', '2026-03-01Z', '2026-03-11Z', 'move', 'me')")
    found = (
        "select condition.holds from ops.slos as slo cross join lateral ops.trial_history("
        "  slo, %s, '{\"workflow\": \"a\"}', '2026-03-10T12:10Z', '2026-03-10T12:15Z', '1 hour', '{}') as history"
        " cross join lateral ops.trial_conditions(slo, array(select rule from ops.alert_rules as rule where slo_name = 'mine'),"
        "  history, true, '2026-03-10T12:10Z', '2026-03-10T12:15Z') as condition where slo_name = 'mine'"
    )
    assert rows(grouped, found, NIL) == [(None,)]
    live = "select holds from ops.objective_conditions('2026-03-10T12:10Z', '{mine}')"
    assert rows(grouped, live) == [(None,)]

"""`opskpi run`: each step by itself, the watchdog first, and the exit code of the worst."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import LiteralString

import pytest

from support.events import Connection, add_channel, add_events, refresh, rows, scalar
from support.fixtures import Cli
from support.receivers import HttpTarget, http_target

pytestmark = [pytest.mark.database, pytest.mark.own_database]

RELEASE = "slsa_provenance"
# What makes each step fail, and the exit code of that failure.
BROKEN: dict[str, tuple[LiteralString, int]] = {
    "watchdog": ("drop function ops.jobs_fail", 78),
    "counting": ("create trigger broken before insert on ops.rollups execute function ops.break_step()", 1),
    "alerts": ("create trigger broken before insert on ops.alert_evaluations execute function ops.break_step()", 1),
    "sending": ("create trigger broken before update on ops.alert_deliveries execute function ops.break_step()", 1),
    "upkeep": ("create trigger broken before delete on ops.request_counts execute function ops.break_step()", 1),
    "retention": ("drop function ops.retain", 78),
}


@pytest.fixture
def target() -> Iterator[HttpTarget]:
    """Run the receiver of the channel."""
    with http_target() as receiving:
        yield receiving


@pytest.fixture
def due(database: Connection, target: HttpTarget, cli: Cli) -> Connection:
    """Make every step due: events to count, a message to send, a month that is too old; what breaks them raises."""
    database.execute(
        "create function ops.break_step() returns trigger language plpgsql as $$ begin raise 'broken_for_a_test'; end $$"
    )
    add_channel(database, kind="webhook", secret_env="URL", settings='{"signing_env": "KEY"}')
    database.execute("select ops.create_partition('2020-01-01')")
    add_events(database, 1, RELEASE, "2020-01-15T10:00Z", outcome="success")
    refresh(database)
    database.execute("select ops.set_retention('events', interval '2 years')")
    database.execute("select ops.queue_test('ops', '{}')")
    database.execute("select ops.drop_months_ahead(); delete from ops.job_runs where job = 'maintain'")
    add_events(database, 10, RELEASE, datetime.now(UTC), outcome="success")
    return database


@pytest.fixture
def environ(target: HttpTarget) -> dict[str, str]:
    """Hold the secrets of the channel."""
    return {"URL": target.url, "KEY": "a signing key of some length", "NO_PROXY": "127.0.0.1"}


def done(connection: Connection, target: HttpTarget) -> set[str]:
    """Which steps have done their work."""
    found = {
        "counting": scalar(
            connection, "select count(*) > 1 from ops.job_runs where job = 'refresh' and outcome = 'success'"
        ),
        "alerts": scalar(connection, "select exists (select from ops.alert_evaluations)"),
        "sending": bool(target.requests),
        "retention": scalar(connection, "select to_regclass('ops.telemetry_events_2020_01') is null"),
        "upkeep": scalar(
            connection, "select exists (select from ops.job_runs where job = 'maintain' and outcome = 'success')"
        ),
    }
    return {step for step, is_done in found.items() if is_done}


STEPS = {"counting", "alerts", "sending", "upkeep", "retention"}


@pytest.mark.parametrize("step", BROKEN)
def test_a_step_that_fails_keeps_no_other_from_its_work(due, target, environ, cli, step):
    statement, exit_code = BROKEN[step]
    due.execute(statement)
    answer = cli("run", env=environ)
    assert (answer.returncode, done(due, target)) == (exit_code, STEPS - {step})
    [failure, summary] = answer.stderr.splitlines()
    assert failure.startswith(f"opskpi: {step}: ")
    assert summary == f"opskpi: failed: {step}"


def test_the_exit_code_is_that_of_the_worst_step_and_each_failure_is_said(due, environ, cli):
    for step in ("counting", "retention", "sending"):
        due.execute(BROKEN[step][0])
    answer = cli("run", "--json", env=environ)
    assert answer.returncode == 78
    assert [line.split(": ")[1] for line in answer.stderr.splitlines()] == [
        "counting",
        "sending",
        "retention",
        "failed",
    ]
    said = json.loads(answer.stdout)
    assert (said["events"], said["alerts"]["state"], said["deliveries"], said["retention"]) == (
        None,
        "done",
        None,
        None,
    )
    assert [(failure["step"], failure["exit_code"]) for failure in said["failures"]] == [
        ("counting", 1),
        ("sending", 1),
        ("retention", 78),
    ]
    assert said["failures"][0]["message"] == "broken_for_a_test"


def test_a_step_that_costs_the_connection_costs_the_others_nothing(due, target, environ, cli):
    due.execute(
        "create or replace function ops.break_step() returns trigger language plpgsql as"
        " $$ begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$"
    )
    due.execute(BROKEN["counting"][0])
    answer = cli("run", env=environ)
    assert (answer.returncode, done(due, target)) == (75, STEPS - {"counting"})


@pytest.fixture
def failing_counts(due: Connection, environ: dict[str, str], cli: Cli) -> Connection:
    """Let counting have failed for an hour, as far as the journal tells."""
    assert cli("run", env=environ).returncode == 0
    due.execute("update ops.alert_channels set severities = '{page}'")
    due.execute("update ops.alert_rules set is_enabled = false where kind <> 'silent_jobs'")
    due.execute(BROKEN["counting"][0])
    add_events(due, 1, RELEASE, datetime.now(UTC), outcome="success")
    assert cli("run", env=environ).returncode == 1
    for column in ("started_at", "finished_at"):
        due.execute(f"update ops.job_runs set {column} = {column} - interval '1 hour'".encode())
    return due


def test_counting_that_fails_for_good_is_told_before_it_is_tried_again(failing_counts, target, environ, cli):
    target.requests.clear()
    # What the message found of the outbox when counting began.
    failing_counts.execute(
        "create or replace function ops.break_step() returns trigger language plpgsql as $$ begin"
        " raise 'delivered: %', (select count(*) from ops.alert_deliveries where status = 'firing' and state = 'delivered');"
        " end $$"
    )
    answer = cli("run", env=environ)
    assert (answer.returncode, "delivered: 1" in answer.stderr) == (1, True)
    [(_, body)] = target.requests
    [alert] = json.loads(body)["firing"]
    assert (alert["rule"], alert["subject"]) == ("silent_jobs", "refresh")


def test_jobs_that_nobody_started_for_a_day_are_not_told_of_once_they_run(failing_counts, target, environ, cli):
    failing_counts.execute("drop trigger broken on ops.rollups")
    assert cli("run", env=environ).returncode == 0
    failing_counts.execute(
        "update ops.job_runs set started_at = started_at - interval '1 day', finished_at = finished_at - interval '1 day'"
    )
    target.requests.clear()
    assert cli("run", env=environ).returncode == 0
    assert target.requests == []


def test_a_pass_that_was_cut_off_without_a_trace_is_told_of(failing_counts, target, environ, cli):
    failing_counts.execute("delete from ops.job_runs where outcome = 'failure'")
    assert scalar(failing_counts, "select ops.jobs_fail()") is False
    failing_counts.execute("select ops.begin_attempt()")
    target.requests.clear()
    assert cli("run", env=environ).returncode == 1
    assert [json.loads(body)["status"] for _, body in target.requests] == ["firing"]


def test_run_from_sql_counts_on_nothing_and_does_the_rest(due):
    due.execute(BROKEN["counting"][0])
    assert rows(due, "select state, message from ops.run()") == [("failed", "broken_for_a_test")]
    assert scalar(due, "select exists (select from ops.alert_evaluations)")
    assert scalar(due, "select to_regclass('ops.telemetry_events_2020_01') is null")
    assert (
        scalar(due, "select message from ops.job_runs where job = 'refresh' and outcome = 'failure'")
        == "broken_for_a_test"
    )


def test_what_waits_is_sent_although_the_watchdog_fails(due, target, environ, cli):
    due.execute("drop function ops.job_conditions")
    answer = cli("alert", "deliver", env=environ)
    assert (answer.returncode, len(target.requests)) == (78, 1)
    assert answer.stderr.startswith("opskpi: watchdog: function ops.job_conditions")


@pytest.fixture
def full_once(due: Connection) -> Connection:
    """Let the first pass find the disk full, and no later one."""
    due.execute(
        "create sequence ops.passes; create or replace function ops.break_step() returns trigger language plpgsql as $$"
        " begin if nextval('ops.passes') = 1 then raise 'no room' using errcode = 'disk_full'; end if; return null; end $$"
    )
    due.execute(BROKEN["counting"][0])
    return due


def test_a_pass_that_finds_the_disk_full_is_followed_by_smaller_ones(full_once, environ, cli):
    answer = cli("run", "--json", env=environ)
    assert (answer.returncode, json.loads(answer.stdout)["events"], answer.stderr) == (0, 10, "")
    assert scalar(full_once, "select ops.is_disk_full()") is True
    # And what was given back for the time being is there again.
    assert scalar(full_once, "select count(*) from ops.event_months() where month_start > now()") == 3


def test_run_from_sql_counts_less_at_a_time_on_a_full_disk(full_once):
    assert rows(full_once, "select state, events from ops.run()") == [("done", 10)]
    assert scalar(full_once, "select ops.is_disk_full()") is True

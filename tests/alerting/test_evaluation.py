"""What `opskpi run` and `opskpi alert` do about messages, and what they say of it."""

import re

import pytest

from support.events import add_channel, rows, scalar
from support.fixtures import Cli
from support.outboxes import queue_message


@pytest.mark.parametrize("command", [("run",), ("alert", "deliver")])
def test_whatever_sends_is_in_the_journal_and_doctor_knows_it(database, cli: Cli, http, command):
    database.execute("""select public.record_audit('{"audit_run_id": 1}')""")
    assert cli("run").returncode == 0
    database.execute("delete from ops.job_runs where job = 'deliver'")
    add_channel(database, "ops")
    queue_message(database)
    blind = cli("doctor")
    assert blind.returncode == 1
    assert "FAIL senders: nothing sends to ops: no sender has run yet" in blind.stdout
    assert "FAIL messages: 1 waiting for longer than an hour" in blind.stdout
    sent = cli(*command, env={"OPS_URL": http.url})
    assert (sent.returncode, "1 messages delivered" in sent.stdout) == (0, True)
    assert rows(database, "select outcome, message from public.v_ops_job_runs where job = 'deliver'") == [
        ("success", "1 messages delivered, 0 to be tried again, 0 dead")
    ]
    assert cli("doctor").returncode == 0


def test_a_channel_that_is_down_is_said_once_and_what_was_not_tried_is_counted(database, cli: Cli):
    add_channel(database, "ops")
    for group in "abc":
        queue_message(database, group=group)
    sent = cli("alert", "deliver", env={"OPS_URL": ""})
    assert sent.stdout == "0 messages delivered, 1 to be tried again, 0 dead, 2 not tried yet\n"
    assert sent.stderr == "ops: environment variable OPS_URL is not set (message 1 is queued)\n"


def test_a_receiver_that_puts_messages_off_is_said_once(database, cli: Cli, http):
    database.execute("update ops.settings set value = '1 second' where name = 'refresh_interval'")
    add_channel(database, "ops")
    for group in "abc":
        queue_message(database, group=group)
    http.status = 429
    sent = cli("alert", "deliver", env={"OPS_URL": http.url})
    assert sent.stderr == "ops: answered 429 Too Many Requests; it is sent to more slowly\n"
    assert re.fullmatch(r"0 messages delivered, \d to be tried again, 0 dead(, \d not tried yet)?\n", sent.stdout)
    assert scalar(database, "select max(attempts) from ops.alert_deliveries") == 0


def test_a_test_of_a_channel_waits_for_no_receiver(database, cli: Cli, http):
    add_channel(database, "ops")
    http.status, http.headers = 429, {"Retry-After": "200"}
    tried = cli("alert", "test", "ops", env={"OPS_URL": http.url})
    assert tried.returncode == 1
    assert "answered 429 Too Many Requests (the message is dead)" in tried.stderr

"""Whether anything empties the outbox, as doctor and the scheduling say it."""

from datetime import timedelta

import pytest

from support.events import Connection, add_channel, instant, rows, scalar
from support.outboxes import queue_message

pytestmark = pytest.mark.database

NOON = instant("2026-03-10T12:00:00Z")
HOUR = timedelta(hours=1)


def sender_check(connection: Connection, name: str, later: timedelta = timedelta()) -> tuple[bool, str]:
    """Return whether a check of doctor passed, and what it says."""
    query = "select passed, detail from ops.doctor(%s) where check_name = %s"
    [found] = rows(connection, query, NOON + later, name)
    return found


def send_at(connection: Connection, minutes: int) -> None:
    connection.execute("select ops.record_sending('0')")
    connection.execute(
        "update ops.job_runs set finished_at = %s where job = 'deliver'", [NOON + timedelta(minutes=minutes)]
    )


def test_messages_that_wait_for_longer_than_an_hour_fail_the_check(database):
    add_channel(database, "ops")
    queue_message(database, at=NOON)
    queue_message(database, group="search", at=NOON + HOUR)
    assert sender_check(database, "messages", HOUR) == (True, "none is dead, and none waits for longer than an hour")
    passed, detail = sender_check(database, "messages", HOUR + timedelta(seconds=1))
    assert (passed, detail) == (
        False,
        "1 waiting for longer than an hour, the oldest for ops since 2026-03-10 12:00:00 UTC: not tried yet",
    )
    database.execute("update ops.alert_deliveries set last_error = 'answered 429 Too Many Requests', attempts = 3")
    assert "answered 429 Too Many Requests" in sender_check(database, "messages", 2 * HOUR)[1]


@pytest.mark.parametrize(
    "over",
    [
        "update ops.alert_deliveries set state = 'delivered'",
        "update ops.alert_deliveries set state = 'superseded'",
        "update ops.alert_channels set is_enabled = false",
        "delete from ops.alert_channels",
    ],
)
def test_what_nobody_waits_for_fails_no_check(database, over):
    add_channel(database, "ops")
    queue_message(database, at=NOON)
    database.execute(over)
    assert sender_check(database, "messages", 2 * HOUR)[0]


def test_a_message_that_a_sender_holds_for_hours_waits_as_well(database):
    add_channel(database, "ops")
    queue_message(database, at=NOON)
    database.execute("select ops.claim_deliveries(1, '30 seconds', %s)", [NOON])
    assert not sender_check(database, "messages", 2 * HOUR)[0]


def test_dead_messages_are_named_beside_those_that_wait(database):
    add_channel(database, "ops")
    for _ in range(2):
        queue_message(database, at=NOON)
    database.execute(
        "update ops.alert_deliveries set state = 'dead', last_error = 'answered 400' where delivery_id = 1"
    )
    passed, detail = sender_check(database, "messages", 2 * HOUR)
    assert not passed
    assert detail.startswith("1 dead for ops: answered 400; mend it and run opskpi alert retry; 1 waiting for longer")


def test_a_channel_needs_something_that_sends(database):
    assert sender_check(database, "senders") == (True, "no channel: nothing is to be sent")
    add_channel(database, "ops")
    add_channel(database, "mail")
    passed, detail = sender_check(database, "senders")
    assert not passed
    assert detail.startswith(
        "nothing sends to mail, ops: no sender has run yet; run opskpi run or opskpi alert deliver"
    )
    send_at(database, 0)
    assert sender_check(database, "senders", HOUR) == (True, "the outbox was last emptied at 2026-03-10 12:00:00 UTC")
    passed, detail = sender_check(database, "senders", HOUR + timedelta(seconds=1))
    assert not passed
    assert "the last sender ran at 2026-03-10 12:00:00 UTC" in detail
    database.execute("update ops.alert_channels set is_enabled = false")
    assert sender_check(database, "senders", 2 * HOUR)[0]


def test_a_sender_that_runs_as_rarely_as_the_jobs_are_meant_to_is_enough(database):
    add_channel(database, "ops")
    send_at(database, 0)
    database.execute("update ops.settings set value = '1 day' where name = 'refresh_interval'")
    assert sender_check(database, "senders", 48 * HOUR)[0]
    assert not sender_check(database, "senders", 49 * HOUR)[0]


def test_a_sender_that_failed_has_sent_nothing(database):
    add_channel(database, "ops")
    database.execute("select ops.record_job_failure('deliver', 'no')")
    assert not sender_check(database, "senders")[0]


def test_sql_alone_counts_and_evaluates_and_sends_nothing(database):
    add_channel(database, "ops")
    database.execute("select ops.run()")
    assert scalar(database, "select ops.last_sending_at()") is None


def test_scheduling_says_whether_anything_sends(database):
    said = scalar(database, "select ops.schedule()")
    assert "pg_cron sends no message" in said
    assert "no channel: nothing is to be sent" in said
    add_channel(database, "ops")
    assert "nothing sends to ops: no sender has run yet" in scalar(database, "select ops.schedule()")
    database.execute("select ops.record_sending('0')")
    assert "the outbox was last emptied at" in scalar(database, "select ops.schedule()")

"""Pauses of channels: what a receiver asks for holds for every sender, and costs no message an attempt."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from support.events import Connection, add_channel, instant, rows, scalar
from support.fixtures import Connect
from support.outboxes import queue_message

pytestmark = pytest.mark.database

NOON = instant("2026-03-10T12:00:00Z")
SECOND = timedelta(seconds=1)


@pytest.fixture
def three_groups(database: Connection) -> Connection:
    """Let three groups wait for the channel ops."""
    add_channel(database, "ops")
    for group in ("a", "b", "c"):
        queue_message(database, group=group, at=NOON)
    return database


def claim(connection: Connection, as_of: datetime, *but: str) -> tuple[int, int] | None:
    """Claim one message and return its number and attempt."""
    query = "select delivery_id, attempt from ops.claim_deliveries(1, '30 seconds', %s, %s::text[])"
    found = rows(connection, query, as_of, list(but))
    return found[0] if found else None


def end_attempt(connection: Connection, claimed: Any, outcome: str, as_of: datetime, after: str | None = None) -> str:
    query = "select ops.settle_delivery(%s, %s, %s, 'answered 429', %s, %s)"
    return scalar(connection, query, *claimed, outcome, after, as_of)


def put_off(connection: Connection, as_of: datetime, after: str | None = None) -> None:
    claimed = claim(connection, as_of)
    assert claimed is not None
    assert end_attempt(connection, claimed, "throttled", as_of, after) == "queued"


def time_to_wait(connection: Connection, as_of: datetime, *but: str) -> timedelta | None:
    return scalar(connection, "select ops.wait_for_channels(%s, %s::text[])", as_of, list(but))


def test_a_message_that_is_put_off_keeps_its_attempts_and_pauses_its_channel(three_groups):
    put_off(three_groups, NOON, "7 seconds")
    assert rows(three_groups, "select attempts, state, next_attempt_at from ops.alert_deliveries order by 1, 2, 3")[
        -1
    ] == (
        0,
        "queued",
        NOON,
    )
    assert claim(three_groups, NOON + 6 * SECOND) is None
    # Then what was never tried goes first.
    assert claim(three_groups, NOON + 7 * SECOND) == (2, 1)


def test_a_pause_is_of_its_channel_alone(three_groups):
    add_channel(three_groups, "mail")
    other = queue_message(three_groups, channel="mail", at=NOON)
    put_off(three_groups, NOON, "1 hour")
    assert claim(three_groups, NOON) == (other, 1)


def test_senders_are_told_how_long_to_wait_for_a_channel_that_has_something_ready(three_groups):
    assert time_to_wait(three_groups, NOON) is None
    put_off(three_groups, NOON, "7 seconds")
    assert time_to_wait(three_groups, NOON + SECOND) == 6 * SECOND
    assert time_to_wait(three_groups, NOON + 9 * SECOND) == timedelta()
    assert time_to_wait(three_groups, NOON + SECOND, "ops") is None
    three_groups.execute("update ops.alert_channels set is_enabled = false")
    assert time_to_wait(three_groups, NOON + SECOND) is None


def test_a_receiver_that_goes_on_refusing_is_asked_half_as_often_each_time_and_once_a_minute_at_least(three_groups):
    at, waits = NOON, []
    for _ in range(9):
        claimed = claim(three_groups, at)
        assert claimed is not None
        end_attempt(three_groups, claimed, "throttled", at, "1 second")
        until = scalar(three_groups, "select until from ops.channel_pauses")
        waits.append((until - at).total_seconds())
        at = until
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_after_six_refusals_in_a_row_the_channel_fails_and_attempts_count(three_groups):
    at = NOON
    for _ in range(9):
        claimed = claim(three_groups, at)
        assert claimed is not None
        end_attempt(three_groups, claimed, "throttled", at)
        at += timedelta(hours=1)
    assert scalar(three_groups, "select sum(attempts) from ops.alert_deliveries") == 3
    claimed = claim(three_groups, at)
    assert claimed is not None
    end_attempt(three_groups, claimed, "delivered", at)
    # One that is taken, and the count begins anew.
    assert scalar(three_groups, "select refused from ops.channel_pauses") == 0


def test_one_message_between_two_refusals_sets_the_pace_until_an_hour_of_quiet(three_groups):
    for group in "defg":
        queue_message(three_groups, group=group, at=NOON)
    put_off(three_groups, NOON, "1 second")
    at = NOON + SECOND
    end_attempt(three_groups, claim(three_groups, at), "delivered", at)
    put_off(three_groups, at, "1 second")
    at += SECOND
    end_attempt(three_groups, claim(three_groups, at), "delivered", at)
    # A tenth more than the receiver needs, since not all requests take equally long to arrive.
    assert (claim(three_groups, at), time_to_wait(three_groups, at)) == (None, 1.1 * SECOND)
    at += 1.1 * SECOND
    end_attempt(three_groups, claim(three_groups, at), "delivered", at)
    assert claim(three_groups, at) is None
    at += timedelta(hours=2)
    for _ in range(3):
        end_attempt(three_groups, claim(three_groups, at), "delivered", at)


def test_a_long_wait_is_no_pace(three_groups):
    put_off(three_groups, NOON, "30 seconds")
    at = NOON + 30 * SECOND
    end_attempt(three_groups, claim(three_groups, at), "delivered", at)
    put_off(three_groups, at, "30 seconds")
    assert scalar(three_groups, "select gap from ops.channel_pauses") == timedelta()


def test_a_test_of_a_channel_is_over_when_it_is_put_off(three_groups):
    three_groups.execute("delete from ops.alert_deliveries")
    three_groups.execute("select ops.queue_test('ops', '{}', %s)", [NOON])
    assert end_attempt(three_groups, claim(three_groups, NOON), "throttled", NOON) == "dead"


def test_a_worker_that_lost_its_message_pauses_nothing(three_groups):
    claimed = claim(three_groups, NOON)
    late = NOON + timedelta(minutes=1)
    three_groups.execute("delete from ops.alert_deliveries where delivery_id > 1")
    assert claim(three_groups, late) == (1, 2)
    assert end_attempt(three_groups, claimed, "throttled", late, "1 hour") == "lost"
    assert rows(three_groups, "select from ops.channel_pauses") == []


def test_a_retry_by_hand_and_the_removal_of_a_channel_end_its_pause(three_groups):
    put_off(three_groups, NOON, "1 hour")
    three_groups.execute("select ops.retry_deliveries('mail', %s)", [NOON])
    assert claim(three_groups, NOON) is None
    three_groups.execute("select ops.retry_deliveries('ops', %s)", [NOON])
    assert claim(three_groups, NOON) == (2, 1)
    three_groups.execute("insert into ops.channel_pauses values ('ops', %s, '0', 0, 0)", [NOON])
    three_groups.execute("delete from ops.alert_channels")
    assert rows(three_groups, "select from ops.channel_pauses") == []


def test_two_senders_that_claim_at_once_take_one_message_of_a_paced_channel(three_groups, connect: Connect):
    put_off(three_groups, NOON, "1 second")
    at = NOON + SECOND
    one, two = connect(autocommit=False), connect(autocommit=False)
    assert claim(one, at) == (2, 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(claim, two, at)
        while not scalar(three_groups, "select exists (select from pg_locks where not granted)"):
            assert not waiting.done()
        one.commit()
        assert waiting.result(timeout=60) is None
    two.commit()
    assert time_to_wait(three_groups, at) == SECOND


@pytest.mark.parametrize("first", ["sender", "remover"])
def test_a_channel_that_is_removed_while_a_sender_settles_locks_nobody_out(three_groups, connect: Connect, first):
    claimed = claim(three_groups, NOON)
    sender, remover = connect(autocommit=False), connect(autocommit=False)

    def settles() -> str:
        return end_attempt(sender, claimed, "throttled", NOON, "1 hour")

    def removes() -> None:
        remover.execute("delete from ops.alert_channels")

    steps = [(settles, sender), (removes, remover)]
    (begins, beginning), (follows, following) = steps if first == "sender" else steps[::-1]
    begins()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(follows)
        while not scalar(three_groups, "select exists (select from pg_locks where not granted)"):
            assert not waiting.done()
        beginning.commit()
        assert waiting.result(timeout=60) == ("lost" if first == "remover" else None)
    following.commit()
    assert rows(three_groups, "select from ops.channel_pauses") == []
    assert set(rows(three_groups, "select state from ops.alert_deliveries")) == {("superseded",)}

"""The outbox is emptied at least once, in order, by however many workers, whatever fails in between."""

import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Barrier, Thread

import psycopg
import pytest
from psycopg.types.json import Jsonb

from opskpi.alerting import messages
from opskpi.alerting.delivery import LEASE, OnSent, Summary, deliver
from opskpi.alerting.outcomes import Delivery, Outcome, Refused, Retry, Sent
from opskpi.errors import OpsKpiError
from support import forks
from support.fixtures import Connect
from support.outboxes import NOON, MovedClock, delivery_states, outbox_rows
from support.patience import PATIENCE_S

LONGEST_BACKOFF = timedelta(hours=1)

# A worker that dies where it is told to.
WORKER = """
import os, signal, sys
from datetime import datetime
from opskpi.alerting.channels import registry
from opskpi.alerting.delivery import Clock, deliver
from opskpi.postgres import connecting

dsn, as_of, moment = sys.argv[1:]

class Still(Clock):
    def now(self):
        return datetime.fromisoformat(as_of)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def send(delivery, environ):
    if moment == "before the send":
        die()
    outcome = registry.send(delivery, environ)
    if moment == "before it is settled":
        die()
    return outcome

with connecting.connect(dsn) as connection:
    deliver(connection, environ=os.environ, clock=Still(), on_sent=die, send=send)
"""


@dataclass
class Channel:
    """A stand-in for the outside world: it remembers what it got and answers as told, by channel or by group."""

    answers: dict[str, Outcome] = field(default_factory=dict)
    taken: list[tuple[str, str]] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)

    def __call__(self, delivery: Delivery, _environ: Mapping[str, str]) -> Outcome:
        self.attempts.append(delivery.delivery_id)
        outcome = self.answers.get(delivery.channel_name) or self.answers.get(delivery.group_key) or Sent()
        if outcome == Sent():
            self.taken.append((delivery.group_key, str(delivery.message["title"])))
        return outcome


def deliver_by(
    database: psycopg.Connection,
    send: Callable[[Delivery, Mapping[str, str]], Outcome],
    later: timedelta = timedelta(),
    *,
    limit: int | None = None,
    on_sent: OnSent = lambda *_: None,
) -> Summary:
    return deliver(database, environ={}, clock=MovedClock(NOON + later), send=send, limit=limit, on_sent=on_sent)


# What becomes of a message


def test_a_message_goes_out_and_is_settled(database, new_channel, new_message, http):
    new_channel()
    new_message("checkout")
    assert deliver(database, environ={"OPS_URL": http.url}, clock=MovedClock(NOON)) == Summary(delivered=1)
    assert outbox_rows(database) == [{"state": "delivered", "attempts": 1, "last_error": None}]
    assert [json.loads(body)["title"] for _, body in http.requests] == ["checkout"]
    assert deliver(database, environ={"OPS_URL": http.url}, clock=MovedClock(NOON)) == Summary()


def test_a_message_is_due_by_the_clock_of_the_server_unless_another_instant_is_given(
    database, new_channel, new_message
):
    new_channel()
    new_message()
    database.execute("update ops.alert_deliveries set next_attempt_at = now() - interval '1 second'")
    assert deliver(database, environ={}, send=Channel()) == Summary(delivered=1)


def test_a_failure_is_tried_again_after_its_backoff_and_not_before(database, new_channel, new_message, http):
    new_channel()
    new_message()
    environ = {"OPS_URL": http.url}
    http.status = 500
    assert deliver(database, environ=environ, clock=MovedClock(NOON)) == Summary(retried=1)
    assert outbox_rows(database) == [
        {"state": "queued", "attempts": 1, "last_error": "answered 500 Internal Server Error"}
    ]
    http.status = 200
    assert deliver(database, environ=environ, clock=MovedClock(NOON + timedelta(seconds=1))) == Summary()
    assert deliver(database, environ=environ, clock=MovedClock(NOON + timedelta(seconds=10))) == Summary(delivered=1)
    assert len(http.requests) == 2


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(database, new_channel, new_message, http):
    new_channel()
    new_message()
    environ = {"OPS_URL": http.url}
    http.status, http.headers = 429, {"Retry-After": "7200"}
    deliver(database, environ=environ, clock=MovedClock(NOON))
    http.status = 200
    assert deliver(database, environ=environ, clock=MovedClock(NOON + timedelta(hours=1))) == Summary()
    assert deliver(database, environ=environ, clock=MovedClock(NOON + timedelta(seconds=7200))) == Summary(delivered=1)


def test_a_refused_message_is_dead_at_once_and_does_not_stop_the_others(database, new_channel, new_message):
    new_channel()
    new_message(group="bad")
    new_message(group="good")
    assert deliver_by(database, Channel({"bad": Refused("answered 404 Not Found")})) == Summary(delivered=1, dead=1)
    assert outbox_rows(database) == [
        {"state": "dead", "attempts": 1, "last_error": "answered 404 Not Found"},
        {"state": "delivered", "attempts": 1, "last_error": None},
    ]


def test_a_message_that_was_tried_often_enough_is_dead(database, new_channel, new_message):
    new_channel(max_attempts=2)
    new_message()
    down = Channel({"ops": Retry(None, "no answer in time", "channel")})
    assert deliver_by(database, down) == Summary(retried=1)
    assert deliver_by(database, down, LONGEST_BACKOFF) == Summary(dead=1)
    assert outbox_rows(database) == [{"state": "dead", "attempts": 2, "last_error": "no answer in time"}]


def test_what_is_odd_about_a_delivered_message_is_kept(database, new_channel, new_message):
    new_channel()
    new_message()
    assert deliver_by(database, Channel({"ops": Sent("not accepted for a@example.com: 550")})) == Summary(delivered=1)
    assert outbox_rows(database) == [
        {"state": "delivered", "attempts": 1, "last_error": "not accepted for a@example.com: 550"}
    ]


def test_a_message_waits_until_the_operator_sets_the_secret(database, new_channel, new_message, http):
    new_channel()
    new_message()
    assert deliver(database, environ={}, clock=MovedClock(NOON)) == Summary(retried=1)
    assert outbox_rows(database)[0]["last_error"] == "environment variable OPS_URL is not set"
    assert deliver(database, environ={"OPS_URL": http.url}, clock=MovedClock(NOON + LONGEST_BACKOFF)) == Summary(
        delivered=1
    )


def test_no_address_gets_into_the_outbox(database, new_channel, new_message, http):
    new_channel()
    for status in (404, 500):
        http.status = status
        new_message(group=str(status))
        deliver(database, environ={"OPS_URL": http.url}, clock=MovedClock(NOON))
    assert all(
        "127.0.0.1" not in row["last_error"] and "T0KEN" not in row["last_error"] for row in outbox_rows(database)
    )


def test_a_user_can_try_a_channel(database, new_channel, http):
    new_channel(kind="slack")
    database.execute(
        "select ops.queue_test(channel_name => 'ops', message => %s, as_of => %s)",
        [Jsonb(messages.test_message("ops")), NOON],
    )
    assert deliver(database, environ={"OPS_URL": http.url}, clock=MovedClock(NOON)) == Summary(delivered=1)
    assert json.loads(http.requests[0][1])["text"] == "[TEST] a test of the channel ops"


def test_each_attempt_is_reported_with_its_outcome_and_state(database, new_channel, new_message):
    new_channel()
    new_message(group="bad")
    new_message(group="good")
    reported = []
    deliver_by(
        database,
        Channel({"bad": Retry(None, "answered 500")}),
        on_sent=lambda delivery, outcome, state: reported.append((delivery.group_key, outcome, state)),
    )
    assert reported == [("bad", Retry(None, "answered 500"), "queued"), ("good", Sent(), "delivered")]


def test_a_limit_ends_the_run(database, new_channel, new_message):
    new_channel()
    for group in ("a", "b", "c"):
        new_message(group=group)
    assert deliver_by(database, Channel(), limit=2) == Summary(delivered=2, untried=1)
    assert delivery_states(database) == ["delivered", "delivered", "queued"]


# Order


def test_resolved_never_overtakes_firing(database, new_channel, new_message):
    new_channel()
    new_message("it fires")
    new_message("it is over", status="resolved")
    channel = Channel({"checkout": Retry(None, "answered 500")})
    assert deliver_by(database, channel) == Summary(retried=1)
    channel.answers.clear()
    assert deliver_by(database, channel, LONGEST_BACKOFF) == Summary(delivered=2)
    assert channel.taken == [("checkout", "it fires"), ("checkout", "it is over")]


def test_a_stuck_message_holds_up_its_own_group_and_channel_only(database, new_channel, new_message):
    new_channel("ops")
    new_channel("mail")
    for channel in ("ops", "mail"):
        new_message(channel=channel, group="checkout")
        new_message(channel=channel, group="search")
    stuck = Channel({"ops": Retry(None, "answered 500")})
    assert deliver_by(database, stuck) == Summary(delivered=2, retried=2)
    assert delivery_states(database) == ["queued", "queued", "delivered", "delivered"]


# A channel that is down


def test_a_channel_that_is_down_costs_a_run_one_attempt_and_others_none(database, new_channel, new_message):
    new_channel("ops")
    new_channel("mail")
    numbers = [new_message(channel="ops", group=f"group {number}") for number in range(5)]
    new_message(channel="mail")
    down = Channel({"ops": Retry(None, "no connection: Connection refused", "channel")})
    assert deliver_by(database, down) == Summary(delivered=1, retried=1, untried=4)
    assert [row["attempts"] for row in outbox_rows(database)] == [1, 0, 0, 0, 0, 1]
    for minutes in range(1, 5):
        deliver_by(database, down, timedelta(minutes=minutes))
    tried = [number for number in down.attempts if number in numbers]
    assert tried == numbers
    down.answers.clear()
    assert deliver_by(database, down, LONGEST_BACKOFF) == Summary(delivered=5)


def test_a_channel_whose_host_asks_for_hours_is_left_alone_by_all_its_groups(database, new_channel, new_message):
    new_channel()
    for number in range(3):
        new_message(group=f"group {number}")
    busy = Channel({"ops": Retry(timedelta(hours=3), "answered 429", "throttled")})
    assert deliver_by(database, busy) == Summary(retried=1, untried=2)
    assert len(busy.attempts) == 1
    assert deliver_by(database, busy, timedelta(hours=2)) == Summary(untried=2)
    busy.answers.clear()
    assert deliver_by(database, busy, timedelta(hours=3)) == Summary(delivered=3)
    assert [row["attempts"] for row in outbox_rows(database)] == [1, 1, 1]


def test_after_an_hour_without_a_connection_every_message_arrives_once_and_in_order(
    database, new_channel, new_message, http
):
    new_channel()
    for title in ("it fires", "it is over"):
        new_message(title)
    nowhere = {"OPS_URL": "http://127.0.0.1:1/"}
    for minutes in range(0, 61, 5):
        assert deliver(database, environ=nowhere, clock=MovedClock(NOON + timedelta(minutes=minutes))).delivered == 0
    assert delivery_states(database) == ["queued", "queued"]
    assert deliver(database, environ={"OPS_URL": http.url}, clock=MovedClock(NOON + 3 * LONGEST_BACKOFF)) == Summary(
        delivered=2
    )
    assert [json.loads(body)["title"] for _, body in http.requests] == ["it fires", "it is over"]


# Workers that die, and workers that meet


@pytest.mark.parametrize(
    ("moment", "sent_before", "sent_in_all"),
    [("before the send", 0, 1), ("before it is settled", 1, 2), ("after it is settled", 1, 1)],
)
def test_a_worker_that_is_killed_loses_nothing(
    database, migrated_database, new_channel, new_message, http, moment, sent_before, sent_in_all
):
    new_channel()
    new_message()
    environ = {"OPS_URL": http.url, "NO_PROXY": "127.0.0.1"}
    died = forks.run(migrated_database.dsn, NOON.isoformat(), moment, code=WORKER, env=environ)
    assert died.returncode == -signal.SIGKILL
    assert len(http.requests) == sent_before
    assert deliver(database, environ=environ, clock=MovedClock(NOON + LEASE - timedelta(seconds=1))) == Summary()
    deliver(database, environ=environ, clock=MovedClock(NOON + LEASE))
    assert delivery_states(database) == ["delivered"]
    # The receiver tells a repeated message by its id.
    ids = [headers["webhook-id"] for headers, _ in http.requests]
    assert (len(ids), len(set(ids))) == (sent_in_all, 1)


def test_an_interrupted_send_is_taken_up_when_its_lease_ends(database, new_channel, new_message):
    def interrupt(delivery: Delivery, environ: Mapping[str, str]) -> Outcome:
        raise KeyboardInterrupt

    new_channel()
    new_message()
    with pytest.raises(KeyboardInterrupt):
        deliver_by(database, interrupt)
    assert deliver_by(database, Channel(), LEASE - timedelta(seconds=1)) == Summary()
    assert deliver_by(database, Channel(), LEASE) == Summary(delivered=1)
    assert outbox_rows(database) == [{"state": "delivered", "attempts": 2, "last_error": None}]


def test_a_worker_that_was_too_slow_does_not_undo_what_another_settled(
    database, connect: Connect, new_channel, new_message
):
    new_channel()
    new_message()

    def overslept(delivery: Delivery, environ: Mapping[str, str]) -> Outcome:
        assert deliver_by(connect(), Channel(), LEASE) == Summary(delivered=1)
        return Retry(None, "answered 500")

    assert deliver_by(database, overslept, limit=1) == Summary(lost=1)
    assert outbox_rows(database) == [{"state": "delivered", "attempts": 2, "last_error": None}]


def test_two_workers_send_each_message_once(database, connect: Connect, new_channel, new_message):
    new_channel()
    numbers = [new_message(group=f"group {number}") for number in range(100)]
    channels, ready = (Channel(), Channel()), Barrier(2)

    def work(connection: psycopg.Connection, channel: Channel) -> None:
        ready.wait(timeout=PATIENCE_S)
        deliver_by(connection, channel)

    workers = [Thread(target=work, args=(connect(), channel)) for channel in channels]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(channels[0].attempts + channels[1].attempts) == numbers
    assert set(delivery_states(database)) == {"delivered"}


def test_a_claim_is_committed_before_the_send(database, connect: Connect, new_channel, new_message):
    new_channel()
    new_message()
    seen = []

    def look(delivery: Delivery, environ: Mapping[str, str]) -> Outcome:
        seen.extend(outbox_rows(connect()))
        return Sent()

    deliver_by(database, look)
    assert seen == [{"state": "sending", "attempts": 1, "last_error": None}]


def test_a_connection_that_would_not_commit_the_claim_is_refused(connect: Connect):
    with pytest.raises(OpsKpiError, match="autocommit"):
        deliver_by(connect(autocommit=False), Channel())

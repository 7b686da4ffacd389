"""One message, one receiver or one sender holds up nobody else: real servers, and a clock that goes on with the sleep."""

import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import psycopg
import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from opskpi.alerting.delivery import FAILURES_OF_A_CHANNEL, LEASE, Summary, deliver
from opskpi.alerting.outcomes import Delivery, Outcome, Retry, Sent
from support.fixtures import Connect
from support.outboxes import NOON, MovedClock, delivery_states, outbox_rows, queue_message
from support.postgres import free_port
from support.receivers import Inbox, smtp_server

pytestmark = pytest.mark.own_database

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
GROUPS = [f"group {number}" for number in range(200)]
Answer = tuple[int, dict[str, str]]
OK: Answer = (200, {})


@dataclass
class PagedService:
    """An HTTP server by the clock of the test: `answers` says what a group gets, None resets the connection.

    A request travels for `travel` times 0 to 4, and its answer for `latency`, as those of a receiver elsewhere do.
    """

    clock: MovedClock
    answers: Callable[[str], Answer | None] = lambda _: OK
    latency: timedelta = timedelta()
    travel: timedelta = timedelta()
    url: str = ""
    taken: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def receiver_at(clock: MovedClock) -> Iterator[PagedService]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            group = next(group for group in [*GROUPS, "poison"] if f'"group":"{group}"' in body)
            inbound.asked.append(group)
            inbound.ids.append(str(self.headers["webhook-id"]))
            clock.at += len(inbound.asked) * 7 % 5 * inbound.travel
            answer = inbound.answers(group)
            clock.at += inbound.latency
            if answer is None:
                # With SO_LINGER 0, closing resets.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            if answer == OK:
                inbound.taken.append(group)
            self.send_response(answer[0])
            for name, value in answer[1].items():
                self.send_header(name, value)
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:  # noqa: ARG002
            return format_datetime(clock.at, usegmt=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    inbound = PagedService(clock, url=f"http://127.0.0.1:{server.server_port}/")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield inbound
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class OneASecond:
    """Takes one message a second, after a burst; it answers others as told, by the seconds that are left."""

    clock: MovedClock
    answer: Callable[[int], Answer]
    burst: int = 0
    taken_at: list[datetime] = field(default_factory=list)
    refused: int = 0

    def takes(self) -> bool:
        is_free = len(self.taken_at) < self.burst or not self.taken_at or self.clock.at - self.taken_at[-1] >= SECOND
        if is_free:
            self.taken_at.append(self.clock.at)
        else:
            self.refused += 1
        return is_free

    def __call__(self, _group: str) -> Answer:
        return OK if self.takes() else self.answer(1)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def inbound(clock: MovedClock) -> Iterator[PagedService]:
    with receiver_at(clock) as running:
        yield running


@pytest.fixture
def storm(database: psycopg.Connection, new_channel: Callable[..., None]) -> psycopg.Connection:
    """Let 200 groups page at once."""
    new_channel()
    for group in GROUPS:
        queue_message(database, group=group)
    return database


def run_by_cron(
    connection: psycopg.Connection, clock: MovedClock, environ: Mapping[str, str], *, runs: int = 1
) -> list[Summary]:
    """Deliver every minute; a run that lasts longer puts off the next one."""
    summaries = []
    for number in range(runs):
        clock.at = max(clock.at, NOON + number * MINUTE)
        summaries.append(deliver(connection, environ=environ, clock=clock))
    return summaries


def minutes(clock: MovedClock) -> float:
    return (clock.at - NOON) / MINUTE


def groups_of(connection: psycopg.Connection, state: str) -> list[str]:
    query = "select group_key from ops.alert_deliveries where state = %s order by delivery_id"
    return [row[0] for row in connection.execute(query, [state]).fetchall()]


# A receiver that takes one message a second


def told_at_one_a_second(
    storm: psycopg.Connection, clock: MovedClock, inbound: PagedService, groups: int, answer: Callable[[int], Answer]
) -> None:
    """Deliver until all are told, and require 1.2 seconds a group at most, which is four minutes for 200."""
    storm.execute("delete from ops.alert_deliveries where not group_key = any (%s)", [GROUPS[:groups]])
    inbound.answers = OneASecond(clock, answer)
    while len(inbound.taken) < groups and clock.at - NOON < 1.2 * groups * SECOND:
        run_by_cron(storm, clock, {"OPS_URL": inbound.url})
    assert Counter(inbound.taken) == Counter(GROUPS[:groups])
    assert clock.at - NOON <= 1.2 * groups * SECOND
    # None has lost an attempt to the pace.
    assert {(row["state"], row["attempts"]) for row in outbox_rows(storm)} == {("delivered", 1)}


def test_two_hundred_groups_at_one_a_second_are_told_within_four_minutes_of_runs(storm, clock, inbound):
    # As far away as Slack is.
    inbound.latency, inbound.travel = timedelta(milliseconds=300), timedelta(milliseconds=20)
    told_at_one_a_second(storm, clock, inbound, 200, lambda seconds: (429, {"Retry-After": str(seconds)}))


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: (429, {}),
        lambda _: (429, {"Retry-After": "0"}),
        lambda _: (429, {"Retry-After": "soon"}),
        lambda seconds: (503, {"Retry-After": str(seconds)}),
    ],
    ids=["429 without a time", "429 with a time too short", "429 with no time at all", "503"],
)
def test_a_pace_is_found_whatever_time_the_receiver_names(storm, clock, inbound, answer):
    told_at_one_a_second(storm, clock, inbound, 40, answer)


def test_a_pace_is_kept_over_runs_that_wait_less_than_all_take(storm, clock, inbound):
    storm.execute("update ops.settings set value = '10 seconds' where name = 'refresh_interval'")
    told_at_one_a_second(storm, clock, inbound, 40, lambda seconds: (429, {"Retry-After": str(seconds)}))


def test_a_receiver_that_names_its_pace_is_not_asked_more_often(storm, clock, inbound):
    pace = OneASecond(clock, lambda seconds: (429, {"Retry-After": str(seconds)}), burst=20)
    inbound.answers = pace
    assert run_by_cron(storm, clock, {"OPS_URL": inbound.url}) == [Summary(delivered=200)]
    # Until one message is taken between two refusals; without the pace every second request would be refused.
    assert pace.refused <= 3


def test_a_receiver_that_is_full_for_a_minute_is_waited_for_and_then_gets_all_at_once(storm, clock, inbound):
    until = [NOON + MINUTE]
    inbound.answers = lambda _: (
        OK
        if clock.at >= until[0]
        else (429, {"Retry-After": format_datetime(until[0], usegmt=True), "Date": "ignored"})
    )
    assert run_by_cron(storm, clock, {"OPS_URL": inbound.url}) == [Summary(delivered=200)]
    assert minutes(clock) <= 1.1
    assert len(inbound.asked) == 201


@pytest.mark.parametrize("after", ["1", "30", None])
def test_the_only_message_is_waited_for_as_well(database, clock, inbound, new_channel, after):
    new_channel()
    queue_message(database, group=GROUPS[0])
    answers = iter([(429, {"Retry-After": after} if after else {}), OK])
    inbound.answers = lambda _: next(answers)
    assert run_by_cron(database, clock, {"OPS_URL": inbound.url}) == [Summary(delivered=1)]
    assert clock.at - NOON == int(after or 1) * SECOND


def test_a_run_waits_no_longer_than_the_refresh_interval(storm, clock, inbound):
    inbound.answers = lambda _: (429, {"Retry-After": "120"})
    (summary,) = run_by_cron(storm, clock, {"OPS_URL": inbound.url})
    assert summary == Summary(retried=3, untried=197)
    assert minutes(clock) <= 5
    assert len(inbound.asked) == 3


def test_other_channels_go_on_while_one_is_waited_for(storm, clock, inbound, new_channel):
    new_channel("mail", secret_env="MAIL_URL")
    for group in GROUPS[:20]:
        queue_message(storm, channel="mail", group=group)
    inbound.answers = OneASecond(clock, lambda _: (429, {"Retry-After": "1"}))
    with receiver_at(clock) as other:
        told_at = []
        other.answers = lambda _: told_at.append(clock.at) or OK
        run_by_cron(storm, clock, {"OPS_URL": inbound.url, "MAIL_URL": other.url})
    assert sorted(other.taken) == sorted(GROUPS[:20])
    assert max(told_at) - NOON <= 2 * SECOND


def test_two_channels_of_one_host_are_waited_for_each_by_itself(database, clock, inbound, new_channel):
    new_channel("ops")
    new_channel("pages")
    for channel in ("ops", "pages"):
        for group in GROUPS[:30]:
            queue_message(database, channel=channel, group=group)
    inbound.answers = OneASecond(clock, lambda _: (429, {"Retry-After": "1"}))
    assert run_by_cron(database, clock, {"OPS_URL": inbound.url}) == [Summary(delivered=60)]
    assert Counter(inbound.taken) == Counter(2 * GROUPS[:30])
    assert minutes(clock) <= 2


def test_what_a_receiver_only_put_off_never_dies_while_it_takes_others(storm, clock, inbound):
    storm.execute("update ops.alert_channels set max_attempts = 1")
    inbound.answers = OneASecond(clock, lambda _: (429, {}))
    assert run_by_cron(storm, clock, {"OPS_URL": inbound.url}) == [Summary(delivered=200)]


def test_a_receiver_that_puts_off_everything_for_hours_is_a_failing_one(database, clock, inbound, new_channel):
    new_channel()
    queue_message(database)
    database.execute('update ops.alert_deliveries set message = \'{"group": "group 0"}\'')
    inbound.answers = lambda _: (429, {"Retry-After": "1"})
    while delivery_states(database) == ["queued"] and clock.at < NOON + timedelta(days=1):
        deliver(database, environ={"OPS_URL": inbound.url}, clock=clock)
        clock.at += 5 * MINUTE
    assert outbox_rows(database) == [{"state": "dead", "attempts": 15, "last_error": "answered 429 Too Many Requests"}]
    assert timedelta(hours=2) < clock.at - NOON < timedelta(hours=12)


def test_a_pause_is_over_when_somebody_retries_by_hand(database, clock, inbound, new_channel):
    new_channel()
    for group in GROUPS[:2]:
        queue_message(database, group=group)
    inbound.answers = lambda _: (429, {"Retry-After": "7200"})
    run_by_cron(database, clock, {"OPS_URL": inbound.url})
    inbound.answers = lambda _: OK
    assert run_by_cron(database, clock, {"OPS_URL": inbound.url}) == [Summary(untried=1)]
    database.execute("select ops.retry_deliveries('ops')")
    assert run_by_cron(database, clock, {"OPS_URL": inbound.url})[0].delivered >= 1


# A message that a receiver cannot take


@pytest.mark.parametrize("poison", [None, (500, {}), (503, {}), (403, {}), (400, {}), (429, {"Retry-After": "1"})])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_poisoned_message_delays_no_other_by_more_than_one_run(database, clock, inbound, new_channel, poison, place):
    new_channel()
    groups = ["poison", *GROUPS[:20]] if place == "first" else [*GROUPS[:20], "poison"]
    for group in groups:
        queue_message(database, group=group)
    inbound.answers = lambda group: poison if group == "poison" else OK
    run_by_cron(database, clock, {"OPS_URL": inbound.url}, runs=2)
    assert Counter(inbound.taken) == Counter(GROUPS[:20])
    # What comes later does not wait for it either.
    for number in range(2, 8):
        queue_message(database, group=GROUPS[number], at=clock.at)
        run_by_cron(database, clock, {"OPS_URL": inbound.url}, runs=number + 1)
        assert inbound.taken[-1] == GROUPS[number]


@pytest.mark.parametrize("poison", [None, (500, {})])
def test_a_few_poisoned_messages_use_up_their_own_attempts_only(database, clock, inbound, new_channel, poison):
    new_channel()
    for group in GROUPS[:30]:
        queue_message(database, group=group)
    bad = set(GROUPS[:8])
    inbound.answers = lambda group: poison if group in bad else OK
    summaries = run_by_cron(database, clock, {"OPS_URL": inbound.url}, runs=4)
    # Failures in a row close the channel for a run, since it may be all of it.
    assert summaries[0] == Summary(retried=FAILURES_OF_A_CHANNEL, untried=27)
    assert sorted(groups_of(database, "delivered")) == sorted(GROUPS[8:30])
    assert {row["attempts"] for row in outbox_rows(database) if row["state"] == "delivered"} == {1}


def test_a_receiver_that_resets_everything_costs_a_run_three_attempts(storm, clock, inbound):
    inbound.answers = lambda _: None
    assert run_by_cron(storm, clock, {"OPS_URL": inbound.url}, runs=3)[-1] == Summary(retried=3, untried=191)
    # Each run begins with what was never tried.
    assert inbound.asked == GROUPS[:9]


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/", "http://no-such-host.invalid/", "ftp://somewhere/", ""], ids=str
)
def test_a_channel_that_is_not_reached_at_all_uses_up_no_attempt_of_others(storm, clock, address):
    summaries = run_by_cron(storm, clock, {"OPS_URL": address}, runs=3)
    assert summaries == [
        Summary(retried=1, untried=199),
        Summary(retried=1, untried=198),
        Summary(retried=1, untried=197),
    ]
    assert Counter(row["attempts"] for row in outbox_rows(storm)) == {0: 197, 1: 3}


def test_the_order_within_a_group_stays_when_its_first_message_is_put_off(database, clock, inbound, new_channel):
    new_channel()
    for status in ("firing", "resolved"):
        for group in GROUPS[:10]:
            queue_message(database, f"{status} {group}", group=group, status=status)
    inbound.answers = OneASecond(clock, lambda _: (429, {"Retry-After": "1"}))
    assert run_by_cron(database, clock, {"OPS_URL": inbound.url}) == [Summary(delivered=20)]
    query = "select group_key, array_agg(status order by settled_at) from ops.alert_deliveries group by 1"
    assert {tuple(order) for _, order in database.execute(query).fetchall()} == {("firing", "resolved")}


# Mail


@contextmanager
def mail_server_at(clock: MovedClock, refusal: str, step: str) -> Iterator[tuple[Inbox, OneASecond]]:
    """Take one mail a second and answer others with the refusal, at a step of the session."""
    pace = OneASecond(clock, lambda _: (0, {}))

    async def handle_MAIL(_server: SMTP, _session: Session, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        envelope.mail_from = address
        return "250 OK" if step != "MAIL" or pace.takes() else refusal

    async def handle_RCPT(_server: SMTP, _session: Session, envelope: Envelope, address: str, _options: Any) -> str:  # noqa: N802
        if step == "RCPT" and not pace.takes():
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    with smtp_server() as inbox:
        vars(inbox).update(handle_MAIL=handle_MAIL, handle_RCPT=handle_RCPT)
        yield inbox, pace


@pytest.mark.parametrize(
    ("step", "refusal"),
    [("MAIL", "450 4.7.1 too much mail"), ("MAIL", "421 4.3.2 too many"), ("RCPT", "450 4.7.1 quota exceeded")],
)
def test_mails_at_one_a_second_are_told_at_that_pace(database, clock, new_channel, step, refusal):
    new_channel(kind="email", settings={"to": ["ops@example.com"], "from": "alerts@example.com"})
    for group in GROUPS[:40]:
        queue_message(database, group=group)
    with mail_server_at(clock, refusal, step) as (inbox, _):
        run_by_cron(database, clock, {"OPS_URL": f"smtp://127.0.0.1:{inbox.port}?starttls=no"})
    assert len({mail["Message-ID"] for mail in inbox.mails}) == len(inbox.mails) == 40
    assert clock.at - NOON <= 48 * SECOND
    assert {(row["state"], row["attempts"]) for row in outbox_rows(database)} == {("delivered", 1)}


@pytest.mark.parametrize("reply", ["554 5.6.0 spam", "451 4.6.0 not now"])
def test_a_mail_whose_content_is_refused_holds_up_no_other(database, clock, new_channel, reply):
    new_channel(kind="email", settings={"to": ["ops@example.com"], "from": "alerts@example.com"})
    for group in ["poison", *GROUPS[:5]]:
        queue_message(database, group=group)
    with smtp_server() as inbox:
        taken = type(inbox).handle_DATA

        async def handle_DATA(server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
            return (
                reply
                if b"poison" in (envelope.original_content or b"")
                else await taken(inbox, server, session, envelope)
            )

        vars(inbox).update(handle_DATA=handle_DATA)
        run_by_cron(database, clock, {"OPS_URL": f"smtp://127.0.0.1:{inbox.port}?starttls=no"})
    assert delivery_states(database)[1:] == 5 * ["delivered"]
    assert outbox_rows(database)[0]["attempts"] == 1


def test_a_mail_server_that_is_down_uses_up_no_attempt_of_others(database, clock, new_channel):
    new_channel(kind="email", settings={"to": ["ops@example.com"], "from": "alerts@example.com"})
    for group in GROUPS[:10]:
        queue_message(database, group=group)
    nowhere = {"OPS_URL": f"smtp://127.0.0.1:{free_port()}?starttls=no"}
    assert run_by_cron(database, clock, nowhere) == [Summary(retried=1, untried=9)]


# What happens meanwhile


def test_two_senders_keep_the_pace_of_a_receiver_together(database, clock, connect: Connect, inbound, new_channel):
    new_channel()
    for group in GROUPS[:40]:
        queue_message(database, group=group)
    pace = OneASecond(clock, lambda _: (429, {"Retry-After": "1"}))
    inbound.answers = pace
    environ = {"OPS_URL": inbound.url}
    # In turns, one attempt each: the second always finds what the first has learned.
    other = connect()
    while len(inbound.taken) < 40 and minutes(clock) < 2:
        for connection in (database, other):
            deliver(connection, environ=environ, clock=clock, limit=1)
    assert Counter(inbound.taken) == Counter(GROUPS[:40])
    assert pace.refused <= 3
    assert {row["attempts"] for row in outbox_rows(database)} == {1}


def test_a_message_of_a_killed_sender_is_taken_over_when_its_lease_ends(database, clock, inbound, new_channel):
    new_channel()
    for group in GROUPS[:3]:
        queue_message(database, group=group)

    def killed(delivery: Delivery, environ: Mapping[str, str]) -> Outcome:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deliver(database, environ={}, clock=clock, send=killed)
    assert timedelta(seconds=30) == LEASE
    # It holds up its own group only, and no longer than the lease.
    assert deliver(database, environ={"OPS_URL": inbound.url}, clock=clock) == Summary(delivered=2)
    clock.at += timedelta(seconds=29)
    assert deliver(database, environ={"OPS_URL": inbound.url}, clock=clock) == Summary()
    clock.at += SECOND
    assert deliver(database, environ={"OPS_URL": inbound.url}, clock=clock) == Summary(delivered=1)


def test_a_message_that_kills_its_senders_holds_up_no_other(database, clock, inbound, new_channel):
    new_channel(max_attempts=3)
    for group in ["poison", *GROUPS[:5]]:
        queue_message(database, group=group)

    def deadly(delivery: Delivery, environ: Mapping[str, str]) -> Outcome:
        if delivery.group_key == "poison":
            raise KeyboardInterrupt
        return Sent()

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            deliver(database, environ={}, clock=clock, send=deadly)
        clock.at += MINUTE
    # The second run begins with what was never tried.
    assert delivery_states(database) == ["sending", *5 * ["delivered"]]
    assert deliver(database, environ={}, clock=clock, send=deadly) == Summary()
    assert delivery_states(database) == ["dead", *5 * ["delivered"]]
    assert outbox_rows(database)[0]["attempts"] == 3


def test_a_channel_that_is_removed_while_it_is_waited_for_ends_the_run(storm, clock, inbound):
    def remove_then_refuse(_group: str) -> Answer:
        storm.execute("delete from ops.alert_channels")
        return 429, {"Retry-After": "1"}

    def sending(delivery: Delivery, environ: Mapping[str, str]) -> Outcome:
        remove_then_refuse(delivery.group_key)
        return Retry(SECOND, "answered 429", "throttled")

    assert deliver(storm, environ={}, clock=clock, send=sending) == Summary(lost=1)
    assert set(delivery_states(storm)) == {"superseded"}
    assert storm.execute("select count(*) from ops.channel_pauses").fetchone() == (0,)


def test_repeats_are_under_the_same_id(database, clock, inbound, new_channel):
    new_channel()
    queue_message(database, group=GROUPS[0])
    answers = iter([(500, {}), None, (429, {"Retry-After": "1"}), OK])
    inbound.answers = lambda _: next(answers)
    for _ in range(4):
        deliver(database, environ={"OPS_URL": inbound.url}, clock=clock)
        clock.at += timedelta(hours=1)
    assert (len(inbound.ids), len(set(inbound.ids))) == (4, 1)

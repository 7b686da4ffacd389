"""Empties the outbox: claims a delivery, sends it, settles it, until nothing is left to claim or to wait for."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import class_row, scalar_row

from opskpi.alerting.outcomes import Delivery, Outcome, Refused, Retry, Scope, Sent
from opskpi.errors import OpsKpiError

# Longer than one send takes (`Timeouts.sending`), and as long as a killed sender holds up a group. Deliveries are
# claimed one by one, so that none outlives its lease while others time out.
LEASE = timedelta(seconds=30)
# A run waits for receivers that ask for it as long as the next run is away, and no longer than this in all.
LONGEST_PATIENCE = timedelta(minutes=10)
SHORTEST_WAIT = timedelta(milliseconds=50)
# A receiver that cannot take one message looks like a receiver that takes none, until other groups fail as well.
FAILURES_OF_A_CHANNEL = 3

OnSent = Callable[[Delivery, Outcome, str], None]
Send = Callable[[Delivery, Mapping[str, str]], Outcome]


def _send_through_channel(delivery: Delivery, environ: Mapping[str, str]) -> Outcome:
    from opskpi.alerting.channels import registry  # noqa: PLC0415 - most runs have nothing to send

    return registry.send(delivery, environ)


class Clock:
    """The clock of the server, for which now is None, and sleep."""

    def now(self) -> datetime | None:
        """The instant as of which to claim and settle."""
        return None

    def sleep(self, wait: timedelta) -> None:
        """Let that time pass."""
        time.sleep(wait.total_seconds())


@dataclass(frozen=True, slots=True)
class Summary:
    """How many messages ended how; `lost` are those whose lease another worker had taken over meanwhile.

    `retried` are to be tried again, `untried` are those that this run left as they were.
    """

    delivered: int = 0
    retried: int = 0
    dead: int = 0
    lost: int = 0
    untried: int = 0


@dataclass(slots=True)
class _Run:
    """The knowledge of one run: the channels that take nothing now, failures in a row, and what became of messages."""

    closed: set[str] = field(default_factory=set)
    failures: dict[str, int] = field(default_factory=dict)
    states: dict[int, str] = field(default_factory=dict)

    def learn(self, delivery: Delivery, outcome: Outcome, state: str) -> None:
        """Note an attempt; a channel that takes nothing is left alone for the rest of the run."""
        channel = delivery.channel_name
        self.states[delivery.delivery_id] = state
        scope: Scope | None = outcome.scope if isinstance(outcome, Retry) else None
        self.failures[channel] = self.failures.get(channel, 0) + 1 if scope == "unclear" else 0
        if scope == "channel" or self.failures[channel] >= FAILURES_OF_A_CHANNEL:
            self.closed.add(channel)

    def summary(self, untried: int) -> Summary:
        """Count the messages by what became of them."""
        ends = list(self.states.values())
        return Summary(
            delivered=ends.count("delivered"),
            retried=ends.count("queued"),
            dead=ends.count("dead"),
            lost=ends.count("lost"),
            untried=untried,
        )


def deliver(
    connection: psycopg.Connection,
    *,
    environ: Mapping[str, str],
    clock: Clock = Clock(),  # noqa: B008 - it has no state
    patience: timedelta | None = None,
    limit: int | None = None,
    on_sent: OnSent = lambda *_: None,
    send: Send = _send_through_channel,
) -> Summary:
    """Send what is due, each message claimed and committed before it is sent, at most `limit` attempts.

    `connection` is in autocommit mode. `environ` holds the secrets that channels name. `on_sent` gets each delivery
    with its outcome and the state it is in now: delivered, queued, dead or lost. A receiver that takes no more for now
    is waited for while the others go on, `patience` in all (None: the refresh interval, at most ten minutes).
    At least once: what is interrupted is claimed again when its lease ends. Raises psycopg.Error when the database
    fails, OpsKpiError when the connection is not in autocommit mode.
    """
    if not connection.autocommit:
        raise OpsKpiError("deliveries need a connection in autocommit mode: a claim must be committed before the send")
    run = _Run()
    left = _patience(connection) if patience is None else patience
    attempts = 0
    while limit is None or attempts < limit:
        delivery = _claim(connection, run, clock)
        if delivery is None:
            wait = _wait(connection, run, clock)
            if wait is None or wait > left:
                break
            left -= wait
            clock.sleep(wait)
            continue
        attempts += 1
        outcome = send(delivery, environ)
        state = _settle(connection, delivery, outcome, clock)
        run.learn(delivery, outcome, state)
        on_sent(delivery, outcome, state)
    return run.summary(_untried(connection, clock))


def _patience(connection: psycopg.Connection) -> timedelta:
    with connection.cursor(row_factory=scalar_row) as cursor:
        # In seconds, since an interval may be of months.
        (seconds,) = cursor.execute("select extract(epoch from ops.refresh_interval())").fetchall()
    return min(timedelta(seconds=float(seconds)), LONGEST_PATIENCE)


def _claim(connection: psycopg.Connection, run: _Run, clock: Clock) -> Delivery | None:
    with connection.cursor(row_factory=class_row(Delivery)) as cursor:
        return cursor.execute(
            "select delivery_id, attempt, org_id, channel_name, channel_kind, secret_env, settings, group_key,"
            " created_at, message from ops.claim_deliveries(max_deliveries => 1, lease => %(lease)s,"
            " as_of => coalesce(%(as_of)s::timestamptz, now()), except_channels => %(closed)s::text[])",
            {"lease": LEASE, "as_of": clock.now(), "closed": list(run.closed)},
        ).fetchone()


def _wait(connection: psycopg.Connection, run: _Run, clock: Clock) -> timedelta | None:
    """How long until a paused channel takes a message; None when there is nothing to wait for."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        (wait,) = cursor.execute(
            "select ops.wait_for_channels(as_of => coalesce(%(as_of)s::timestamptz, now()),"
            " except_channels => %(closed)s::text[])",
            {"as_of": clock.now(), "closed": list(run.closed)},
        ).fetchall()
    # Not at once: another sender may be about to take the turn.
    return None if wait is None else max(wait, SHORTEST_WAIT)


def _settle(connection: psycopg.Connection, delivery: Delivery, outcome: Outcome, clock: Clock) -> str:
    match outcome:
        case Sent(note):
            settled, error, retry_after = "delivered", note, None
        case Retry(after, reason, scope):
            settled, error, retry_after = "throttled" if scope == "throttled" else "retry", reason, after
        case Refused(reason):
            settled, error, retry_after = "dead", reason, None
    with connection.cursor(row_factory=scalar_row) as cursor:
        state = cursor.execute(
            "select ops.settle_delivery(delivery_id => %(delivery_id)s, attempt => %(attempt)s, outcome => %(outcome)s,"
            " error => %(error)s, retry_after => %(retry_after)s, as_of => coalesce(%(as_of)s::timestamptz, now()))",
            {
                "delivery_id": delivery.delivery_id,
                "attempt": delivery.attempt,
                "outcome": settled,
                "error": error,
                "retry_after": retry_after,
                "as_of": clock.now(),
            },
        ).fetchone()
    return str(state)


def _untried(connection: psycopg.Connection, clock: Clock) -> int:
    with connection.cursor(row_factory=scalar_row) as cursor:
        (untried,) = cursor.execute(
            "select ops.untried_deliveries(as_of => coalesce(%(as_of)s::timestamptz, now()))", {"as_of": clock.now()}
        ).fetchall()
    return untried

"""Empties the outbox: claims a delivery, sends it, settles it, until nothing is left to claim."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row

from opskpi.alerting.channels import registry
from opskpi.alerting.outcomes import Delivery, Outcome, Refused, Retry, Sent
from opskpi.errors import OpsKpiError

# Longer than one send takes. Deliveries are claimed one by one, so that none outlives its lease while others time out.
LEASE = timedelta(minutes=2)

OnSent = Callable[[Delivery, Outcome, str], None]
Send = Callable[[Delivery, Mapping[str, str]], Outcome]


@dataclass(frozen=True, slots=True)
class Summary:
    """How many attempts ended how; `lost` are those whose lease another worker had taken over meanwhile."""

    delivered: int = 0
    retried: int = 0
    dead: int = 0
    lost: int = 0


@dataclass(slots=True)
class _Run:
    """What one run has learned: the channels that take nothing now, and the deliveries it has met."""

    closed: dict[tuple[UUID, str], Retry] = field(default_factory=dict)
    met: set[int] = field(default_factory=set)
    states: dict[str, int] = field(default_factory=dict)


def deliver(
    connection: psycopg.Connection,
    *,
    environ: Mapping[str, str],
    as_of: datetime | None = None,
    limit: int | None = None,
    on_sent: OnSent = lambda *_: None,
    send: Send = registry.send,
) -> Summary:
    """Send what is due, at most `limit` deliveries, each claimed and committed before it is sent.

    `connection` is in autocommit mode. `environ` holds the secrets that channels name. `as_of` replaces the server's
    clock. `on_sent` gets each delivery with its outcome and the state it is in now: delivered, queued, dead or lost.
    At least once: what is interrupted is claimed again when its lease ends. Raises psycopg.Error when the database
    fails, OpsKpiError when the connection is not in autocommit mode.
    """
    if not connection.autocommit:
        raise OpsKpiError("deliveries need a connection in autocommit mode: a claim must be committed before the send")
    run = _Run()
    while limit is None or sum(run.states.values()) < limit:
        delivery = _claim(connection, as_of)
        if delivery is None:
            break
        outcome = _attempt(run, delivery, environ, send)
        state = _settle(connection, delivery, outcome, as_of)
        run.states[state] = run.states.get(state, 0) + 1
        on_sent(delivery, outcome, state)
    return Summary(
        delivered=run.states.get("delivered", 0),
        retried=run.states.get("queued", 0),
        dead=run.states.get("dead", 0),
        lost=run.states.get("lost", 0),
    )


def _attempt(run: _Run, delivery: Delivery, environ: Mapping[str, str], send: Send) -> Outcome:
    """Send, unless this run knows that the channel takes nothing now: a dead server costs one timeout, not one each."""
    channel = (delivery.org_id, delivery.channel_name)
    known = run.closed.get(channel)
    # One that comes back in the same run has waited for its turn; it is tried, or attempts would run out untried.
    if known is not None and delivery.delivery_id not in run.met:
        run.met.add(delivery.delivery_id)
        return known
    run.met.add(delivery.delivery_id)
    outcome = send(delivery, environ)
    if isinstance(outcome, Retry) and outcome.channel_wide:
        run.closed[channel] = outcome
    else:
        run.closed.pop(channel, None)
    return outcome


def _claim(connection: psycopg.Connection, as_of: datetime | None) -> Delivery | None:
    with connection.cursor(row_factory=class_row(Delivery)) as cursor:
        return cursor.execute(
            "select delivery_id, attempt, org_id, channel_name, channel_kind, secret_env, settings, group_key,"
            " created_at, message from ops.claim_deliveries(max_deliveries => 1, lease => %(lease)s,"
            " as_of => coalesce(%(as_of)s::timestamptz, now()))",
            {"lease": LEASE, "as_of": as_of},
        ).fetchone()


def _settle(connection: psycopg.Connection, delivery: Delivery, outcome: Outcome, as_of: datetime | None) -> str:
    match outcome:
        case Sent(note):
            settled, error, retry_after = "delivered", note, None
        case Retry(after, reason):
            settled, error, retry_after = "retry", reason, after
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
                "as_of": as_of,
            },
        ).fetchone()
    return str(state)

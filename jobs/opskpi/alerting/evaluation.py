"""Evaluates the rules and empties the outbox, as cron does; what people ask about alerts from a terminal."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb

from opskpi.alerting import delivery
from opskpi.alerting.outcomes import Delivery, Outcome, Retry, Sent
from opskpi.groups import Group
from opskpi.postgres import connecting
from opskpi.postgres.journal import journalled


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `ops.evaluate_alerts` did; all but `state` (done, busy, past) are counts, None when it did nothing."""

    state: str
    found: int | None
    fired: int | None
    resolved: int | None
    frozen: int | None
    queued: int | None


@dataclass(frozen=True, slots=True)
class Alert:
    """A row of `v_ops_alerts`; `slo_group` is the group of the objective that it is about, else {}."""

    alert_id: int
    org_id: UUID
    rule_name: str
    severity: str
    subject: str
    slo_group: Group
    state: str
    is_frozen: bool
    pending_since: datetime
    firing_since: datetime | None
    resolved_at: datetime | None
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Channel:
    """A row of `ops.alert_channels`, without what is only for sending."""

    channel_name: str
    kind: str
    secret_env: str
    severities: list[str]
    is_enabled: bool


def evaluate(connection: psycopg.Connection) -> Evaluation:
    """Evaluate the rules now; states and messages are written together. A failure goes to the journal of the jobs."""
    with journalled(connection, "alerts"):
        return _evaluate(connection, None)


def watch(connection: psycopg.Connection) -> Evaluation:
    """Find out only whether the jobs stand still: for whoever sends while nobody evaluates."""
    return _evaluate(connection, ["silent_jobs"])


def warn(connection: psycopg.Connection, environ: Mapping[str, str], notify: Callable[[str], None]) -> None:
    """Say at once, before the jobs run, that they stand still where the last ones failed or were cut off.

    After jobs that nobody started there is nothing to say, because they run now.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        (failing,) = cursor.execute("select ops.jobs_fail()").fetchall()
    if failing and watch(connection).queued:
        # The jobs come next, so nobody is waited for.
        send(connection, environ, notify, patience=timedelta())


def send(
    connection: psycopg.Connection,
    environ: Mapping[str, str],
    notify: Callable[[str], None],
    *,
    patience: timedelta | None = None,
) -> delivery.Summary:
    """Send what waits in the outbox, and note that something sends.

    Receivers that ask for it are waited for, `patience` in all (None: as long as the next run is away); a caller with
    urgent work after it passes less. `notify` gets one line for each message that did not get through, and one for a
    channel that puts messages off.
    """
    slow: set[str] = set()

    def tell(attempted: Delivery, outcome: Outcome, state: str) -> None:
        if isinstance(outcome, Retry) and outcome.scope == "throttled" and state == "queued":
            if attempted.channel_name not in slow:
                notify(f"{attempted.channel_name}: {outcome.reason}; it is sent to more slowly")
            slow.add(attempted.channel_name)
        elif not isinstance(outcome, Sent):
            notify(f"{attempted.channel_name}: {outcome.reason} (message {attempted.delivery_id} is {state})")

    with journalled(connection, "deliver"):
        began = time.monotonic()
        summary = delivery.deliver(connection, environ=environ, patience=patience, on_sent=tell)
        connection.execute(
            "select ops.record_sending(took => %s, message => %s)",
            [timedelta(seconds=time.monotonic() - began), sent_in_words(summary)],
        )
        return summary


def send_test(connection: psycopg.Connection, channel: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Send one message to a channel; returns its state and why it failed, if it did.

    Raises psycopg.Error (OP001) when there is no such channel.
    """
    from opskpi.alerting import messages  # noqa: PLC0415 - for a person at a terminal, while most runs send nothing

    with connection.cursor(row_factory=scalar_row) as cursor:
        (delivery_id,) = cursor.execute(
            "select ops.queue_test(channel_name => %s, message => %s)", [channel, Jsonb(messages.test_message(channel))]
        ).fetchall()
    reasons: dict[int, str] = {}

    def note(attempted: Delivery, outcome: Outcome, _: str) -> None:
        reasons[attempted.delivery_id] = "" if isinstance(outcome, Sent) else outcome.reason

    # A person waits for the answer, so waits for receivers are left to the jobs.
    delivery.deliver(connection, environ=environ, patience=timedelta(), on_sent=note)
    with connection.cursor(row_factory=scalar_row) as cursor:
        (state,) = cursor.execute(
            "select state from public.v_ops_alert_deliveries where delivery_id = %s", [delivery_id]
        ).fetchall()
    return state, reasons.get(delivery_id, "")


def alerts(connection: psycopg.Connection, *, resolved: bool) -> list[Alert]:
    """The alerts that are pending or firing, newest first; with `resolved` those that are over too."""
    with connecting.unfiltered(connection), connection.cursor(row_factory=class_row(Alert)) as cursor:
        return cursor.execute(
            "select alert_id, org_id, rule_name, severity, subject, state, is_frozen, pending_since, firing_since,"
            " resolved_at, detail, slo_group from public.v_ops_alerts where state in ('pending', 'firing') or %s",
            [resolved],
        ).fetchall()


def channels(connection: psycopg.Connection) -> list[Channel]:
    """Where alerts go."""
    with connecting.unfiltered(connection), connection.cursor(row_factory=class_row(Channel)) as cursor:
        return cursor.execute(
            "select channel_name, kind, secret_env, severities, is_enabled from ops.alert_channels order by 1"
        ).fetchall()


def silence(connection: psycopg.Connection, matcher: str, until: datetime, reason: str, author: str) -> int:
    """Keep matching alerts from being sent until an instant; returns the number of the silence."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        (number,) = cursor.execute(
            "select ops.silence_alerts(matcher => %s, until => %s, reason => %s, author => %s)",
            [matcher, until, reason, author],
        ).fetchall()
    return number


def retry(connection: psycopg.Connection, channel: str | None) -> int:
    """Queue dead messages again, of one channel or all; returns how many."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        (queued,) = cursor.execute("select ops.retry_deliveries(channel_name => %s)", [channel]).fetchall()
    return queued


def in_words(evaluated: Evaluation | None, sent: delivery.Summary | None) -> str:
    """Both in one line; None is a step that failed."""
    said = [_found_in_words(evaluated)] if evaluated else []
    return f"alerts: {'; '.join([*said, *([sent_in_words(sent)] if sent else [])])}"


def _found_in_words(evaluated: Evaluation) -> str:
    if evaluated.state != "done":
        return "another evaluation is running" if evaluated.state == "busy" else "a later instant has been evaluated"
    return f"{evaluated.found} conditions hold, {evaluated.fired} fired, {evaluated.resolved} over"


def sent_in_words(sent: delivery.Summary) -> str:
    """How the deliveries went."""
    untried = f", {sent.untried} not tried yet" if sent.untried else ""
    return f"{sent.delivered} messages delivered, {sent.retried} to be tried again, {sent.dead} dead{untried}"


def _evaluate(connection: psycopg.Connection, kinds: list[str] | None) -> Evaluation:
    with connection.cursor(row_factory=class_row(Evaluation)) as cursor:
        (evaluated,) = cursor.execute(
            "select state, found, fired, resolved, frozen, queued from ops.evaluate_alerts(kinds => %s)", [kinds]
        ).fetchall()
    return evaluated

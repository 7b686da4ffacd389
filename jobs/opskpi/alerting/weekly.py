"""Writes the summary of an org's week for channels, once each, and sends it as everything in the outbox is sent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from opskpi.alerting import evaluation
from opskpi.postgres import connecting


@dataclass(frozen=True, slots=True)
class Written:
    """A row of `ops.queue_summary`; `delivery_id` is None once retention has removed the message."""

    channel_name: str
    week_name: str
    delivery_id: int | None
    is_new: bool


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a channel's summary; `state` is that of the outbox, `gone` once the message is not there."""

    channel: str
    week: str
    message: int | None
    is_new: bool
    state: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class _Standing:
    delivery_id: int
    state: str
    last_error: str | None


def tell(
    connection: psycopg.Connection,
    channels: Sequence[str],
    *,
    org_id: UUID,
    week: str | None,
    again: bool,
    environ: Mapping[str, str],
    notify: Callable[[str], None],
) -> list[Told]:
    """Write the summary of a week (2026-W47, None: the last one that is over) where it is not written yet, and send.

    Whatever else waits in the outbox is sent along, a summary that an earlier call left there included; `notify` gets
    a line for each message that did not get through. Raises psycopg.Error: OP001 for a channel or week that cannot be
    told of, OP002 for a week without data, 42501 for a role that would see some rows only.
    """
    written = _write(connection, channels, org_id, week, again=again)
    evaluation.send(connection, environ, notify)
    standing = _standing(connection, [row.delivery_id for row in written if row.delivery_id is not None])
    return [_told(row, standing.get(row.delivery_id)) for row in written]


def in_words(told: Told) -> str:
    """One line."""
    what = f"{told.channel}: the summary of {told.week}"
    known = f"message {told.message} is {told.state}" if told.message is not None else "its message is removed"
    if not told.is_new:
        return f"{what} was already written, {known}; --again writes another"
    return f"{what} is {told.state}" + ("" if told.state == "delivered" else f": {told.reason or 'not sent yet'}")


def _write(
    connection: psycopg.Connection, channels: Sequence[str], org_id: UUID, week: str | None, *, again: bool
) -> list[Written]:
    with connecting.unfiltered(connection), connection.cursor(row_factory=class_row(Written)) as cursor:
        return cursor.execute(
            "select channel_name, week_name, delivery_id, is_new from ops.queue_summary("
            "channel_names => %s::text[], org_id => %s, week => %s, again => %s)",
            [list(channels), org_id, week, again],
        ).fetchall()


def _standing(connection: psycopg.Connection, numbers: Sequence[int]) -> dict[int | None, _Standing]:
    with connection.cursor(row_factory=class_row(_Standing)) as cursor:
        found = cursor.execute(
            "select delivery_id, state, last_error from public.v_ops_alert_deliveries where delivery_id = any(%s)",
            [list(numbers)],
        ).fetchall()
    return {row.delivery_id: row for row in found}


def _told(written: Written, standing: _Standing | None) -> Told:
    state, reason = (standing.state, standing.last_error) if standing else ("gone", None)
    return Told(written.channel_name, written.week_name, written.delivery_id, written.is_new, state, reason)

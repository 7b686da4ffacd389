"""The outbox for the tests: messages that wait, and a clock that goes on while a sender sleeps."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from opskpi.alerting.delivery import Clock

NIL = UUID(int=0)
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class MovedClock(Clock):
    """A clock that stands still but for the sleep of senders; it remembers how long they slept."""

    at: datetime = NOON
    slept: list[timedelta] = field(default_factory=list)

    def now(self) -> datetime:
        return self.at

    def sleep(self, wait: timedelta) -> None:
        self.slept.append(wait)
        self.at += wait


def queue_message(
    connection: psycopg.Connection,
    title: str = "checkout",
    channel: str = "ops",
    group: str = "checkout",
    status: str = "firing",
    at: datetime = NOON,
    org: UUID = NIL,
) -> int:
    """Write a message to the outbox, due at an instant."""
    row = connection.execute(
        "insert into ops.alert_deliveries (org_id, channel_name, group_key, status, alert_ids, message, state,"
        " created_at, next_attempt_at) values (%s, %s, %s, %s, '{}', %s, 'queued', %s, %s) returning delivery_id",
        [org, channel, group, status, Jsonb({"title": title, "group": group, "status": status}), at, at],
    ).fetchone()
    assert row is not None
    return row[0]


def outbox_rows(connection: psycopg.Connection) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "select state, attempts, last_error from ops.alert_deliveries order by delivery_id"
        ).fetchall()


def delivery_states(connection: psycopg.Connection) -> list[str]:
    return [row["state"] for row in outbox_rows(connection)]

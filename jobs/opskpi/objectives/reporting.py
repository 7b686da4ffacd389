"""What burned the budget of an objective, and the times that its account leaves out."""

from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row


@dataclass(frozen=True, slots=True)
class Cost:
    """An event that burned the budget; `cost` is the share of the budget of the explained range that it took."""

    org_id: UUID
    event_timestamp: datetime
    event_id: UUID
    event_type: str
    run_id: int | None
    tag: str | None
    reason: str
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A time, half-open, that the account of an objective of one org leaves out, with why and who said so."""

    slo_name: str
    since: datetime
    until: datetime
    reason: str
    author: str
    org_id: UUID


def explain(
    connection: psycopg.Connection, name: str, since: datetime, until: datetime, org: UUID | None
) -> list[Cost]:
    """The counted events that burned the budget of an objective in [since, until), widened to five minutes.

    Raises psycopg.Error (OP001) when there is no such objective.
    """
    with connection.cursor(row_factory=class_row(Cost)) as cursor:
        return cursor.execute(
            "select org_id, event_timestamp, event_id, event_type, run_id, tag, reason, cost"
            " from ops.explain_slo(slo_name => %s, since => %s, until => %s, only_org_id => %s)",
            [name, since, until, org],
        ).fetchall()


def exclude(connection: psycopg.Connection, exclusion: Exclusion) -> int:
    """Add an exclusion; returns its number. Raises psycopg.Error (OP001) when there is no such objective."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        (number,) = cursor.execute(
            "select ops.exclude_from_slo(slo_name => %(slo_name)s, since => %(since)s, until => %(until)s,"
            " reason => %(reason)s, author => %(author)s, org_id => %(org_id)s)",
            asdict(exclusion),
        ).fetchall()
    return number

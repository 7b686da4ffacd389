"""What burned the budget of an objective, and the times that its account leaves out."""

from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import psycopg
from psycopg.rows import class_row, dict_row, scalar_row
from psycopg.types.json import Jsonb

from opskpi import groups
from opskpi.groups import Group


@dataclass(frozen=True, slots=True)
class Cost:
    """An event that burned the budget; `cost` is its share of the budget of its group.

    That budget is the one of all since `budget_since`, and `budget_basis` says of what: of what was counted, of what
    the calendar period is expected to come to, or of its time slices. `version` is the one that judged the event.
    """

    org_id: UUID
    event_timestamp: datetime
    event_id: UUID
    event_type: str
    run_id: int | None
    tag: str | None
    reason: str
    cost: Decimal
    slo_group: Group
    version: int
    budget_basis: str
    budget_since: datetime


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A time, half-open, that the account of an objective of one org leaves out, with why and who said so.

    `slo_group` {} means all of the objective.
    """

    slo_name: str
    since: datetime
    until: datetime
    reason: str
    author: str
    org_id: UUID
    slo_group: Group


def explain(
    connection: psycopg.Connection,
    name: str,
    since: datetime | None,
    until: datetime,
    org: UUID | None,
    *,
    group: Group | None = None,
) -> list[Cost]:
    """The counted events that burned the budget of an objective in [since, until), widened to five minutes.

    `since` None means the window of the objective that ends at `until`. They come group by group; `group` None means
    all. Raises psycopg.Error (OP001) when there is no such objective or group.
    """
    with connection.cursor(row_factory=class_row(Cost)) as cursor:
        return cursor.execute(
            "select org_id, event_timestamp, event_id, event_type, run_id, tag, reason, cost, slo_group, version,"
            " budget_basis, budget_since"
            " from ops.explain_slo(slo_name => %s, since => %s, until => %s, only_org_id => %s, only_group => %s)",
            [name, since, until, org, None if group is None else Jsonb(group)],
        ).fetchall()


@dataclass(frozen=True, slots=True)
class Unknown:
    """A group in which an org has counted nothing: the names of those `like` it, and whether no place is free any more.

    Without a free place its events would be counted in the overflow.
    """

    like: list[str]
    is_full: bool


def unknown(connection: psycopg.Connection, name: str, org: UUID, group: Group) -> Unknown | None:
    """Look a group of an objective up; None where some counted group has all of its labels."""
    if not group:
        return None
    with connection.cursor(row_factory=dict_row) as cursor:
        (found,) = cursor.execute(
            "select ops.counted_groups(slo_name => %s, org_id => %s) as counted, ops.most_groups() as most", [name, org]
        ).fetchall()
    counted: list[Group] = found["counted"]
    if any(groups.contains(other, group) for other in counted):
        return None
    return Unknown(
        groups.nearest(groups.shown(group), counted), len(counted) - (groups.OVERFLOW in counted) >= found["most"]
    )


def unknown_in_words(name: str, unknown: Unknown) -> str:
    """The notice that an exclusion of a group in which nothing is counted leaves out nothing yet."""
    said = [f"nothing has been counted in {name} yet, so this exclusion leaves out nothing until that comes"]
    if unknown.is_full:
        said.append("all places for groups are taken, so that a new group would be counted in overflow, which stays in")
    if unknown.like:
        said.append(f"counted groups like it: {', '.join(unknown.like)}")
    return "; ".join(said)


def exclude(connection: psycopg.Connection, exclusion: Exclusion) -> int:
    """Add an exclusion; returns its number. Raises psycopg.Error (OP001) when there is no such objective."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        (number,) = cursor.execute(
            "select ops.exclude_from_slo(slo_name => %(slo_name)s, since => %(since)s, until => %(until)s,"
            " reason => %(reason)s, author => %(author)s, org_id => %(org_id)s, slo_group => %(slo_group)s)",
            asdict(exclusion) | {"slo_group": Jsonb(exclusion.slo_group)},
        ).fetchall()
    return number

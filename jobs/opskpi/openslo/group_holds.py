"""Exclusions and silences of groups: they hold while groups of their objective can contain the one that they name."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from opskpi.orgs import NIL_ORG


@dataclass(frozen=True, slots=True)
class Hold:
    """An exclusion that reaches into the window of its objective, or a silence that is not over, of some groups.

    `group_name` is as `groups.name_of` writes it, `group_by` has the keys by which the objective is grouped, and it
    `holds` where groups by these can contain that one. `org_id` None is a silence of every org.
    """

    kind: str
    number: int
    org_id: UUID | None
    slo_name: str
    group_name: str
    since: datetime
    until: datetime
    group_by: list[str]
    holds: bool


def standing(connection: psycopg.Connection) -> list[Hold]:
    """All of them as they stand, in the order of their objectives."""
    with connection.cursor(row_factory=class_row(Hold)) as cursor:
        return cursor.execute(
            "select kind, number, org_id, slo_name, group_name, since, until, group_by, holds from ops.group_holds()"
        ).fetchall()


def lost(before: Iterable[Hold], after: Iterable[Hold]) -> list[Hold]:
    """The exclusions and silences that held before a change and hold no more after it."""
    held = {(hold.kind, hold.number) for hold in before if hold.holds}
    return [hold for hold in after if not hold.holds and (hold.kind, hold.number) in held]


def in_words(hold: Hold) -> str:
    """Why it holds no more, and what can be done."""
    whose = f", {hold.org_id}" if hold.org_id not in {None, NIL_ORG} else ""
    now = f"grouped by {' and '.join(hold.group_by)}" if hold.group_by else "not grouped any more"
    return (
        f"{hold.kind} {hold.number} of {hold.slo_name} {hold.group_name} (from {_written(hold.since)}"
        f" to {_written(hold.until)}{whose}): {hold.slo_name} is {now};"
        f" say it anew of {'the groups that it meant' if hold.group_by else 'all of the objective'}: {_command(hold)}"
    )


def _command(hold: Hold) -> str:
    """The command that says it of groups by the new keys, of which each VALUE is for the user to name."""
    labels = [f"{key}=VALUE" for key in hold.group_by]
    if hold.kind == "silence":
        words = ["opskpi", "alert", "silence", " ".join([hold.slo_name, *labels]), "--until", _written(hold.until)]
    else:
        named = [word for label in labels for word in ("--group", label)]
        org = [] if hold.org_id == NIL_ORG else ["--org", str(hold.org_id)]
        span = ["--since", _written(hold.since), "--until", _written(hold.until)]
        words = ["opskpi", "slo", "exclude", hold.slo_name, *named, *span, *org]
    return f"{shlex.join(words)} --reason …"


def _written(at: datetime) -> str:
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"

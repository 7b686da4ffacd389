"""Agents and their teams, as whoever runs the hub sees and changes them."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row

from opskpi.access import pseudonyms


@dataclass(frozen=True, slots=True)
class Agent:
    """A row of `ops.agents`: a developer's machine or a runner, and its team (None: in none)."""

    org_id: UUID
    agent_id: UUID
    team: str | None
    last_event_at: datetime | None
    updated_at: datetime
    is_pseudonym: bool


def known(connection: psycopg.Connection, org_id: UUID | None) -> list[Agent]:
    """The agents that sent events or have a team, of one org or of all."""
    with connection.cursor(row_factory=class_row(Agent)) as cursor:
        return cursor.execute(
            "select org_id, agent_id, team, last_event_at, updated_at, is_pseudonym from ops.agents"
            " where org_id = %(org_id)s or %(org_id)s::uuid is null order by org_id, team nulls last, agent_id",
            {"org_id": org_id},
        ).fetchall()


def assign(connection: psycopg.Connection, org_id: UUID, agent_id: UUID, team: str | None) -> None:
    """Put an agent, and its pseudonym where the key is set, into a team (None: into none), from the next refresh on."""
    with connection.transaction():
        pseudonyms.pass_key(connection)
        connection.execute(
            "select from ops.assign_team(org_id => %s, agent_id => %s, team => %s)", [org_id, agent_id, team]
        )


def has_pseudonyms(connection: psycopg.Connection, org_id: UUID) -> bool:
    """Whether agents of the org have pseudonyms, which only the key leads to."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        query = "select exists (select from ops.agents where org_id = %s and is_pseudonym)"
        return bool(cursor.execute(query, [org_id]).fetchone())

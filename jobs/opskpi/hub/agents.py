"""Agents and their teams, as whoever runs the hub sees and changes them."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True)
class Agent:
    """A row of `ops.agents`: a developer's machine or a runner, and its team (None: in none)."""

    org_id: UUID
    agent_id: UUID
    team: str | None
    last_event_at: datetime | None
    updated_at: datetime


def known(connection: psycopg.Connection, org_id: UUID | None) -> list[Agent]:
    """The agents that sent events or have a team, of one org or of all."""
    with connection.cursor(row_factory=class_row(Agent)) as cursor:
        return cursor.execute(
            "select org_id, agent_id, team, last_event_at, updated_at from ops.agents"
            " where org_id = %(org_id)s or %(org_id)s::uuid is null order by org_id, team nulls last, agent_id",
            {"org_id": org_id},
        ).fetchall()


def assign(connection: psycopg.Connection, org_id: UUID, agent_id: UUID, team: str | None) -> None:
    """Put an agent into a team (None: into none), from the next refresh on."""
    connection.execute(
        "select from ops.assign_team(org_id => %s, agent_id => %s, team => %s)", [org_id, agent_id, team]
    )

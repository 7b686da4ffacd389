"""What is kept for how long in the tests of the retention, and what a run frees."""

from typing import Any
from uuid import uuid4

from opskpi.upkeep import retention
from opskpi.upkeep.retention import Removal

from .events import (
    AS_OF,
    Connection,
    add_event,
    rows,
)

JANUARY = ("2026-01-01T00:00Z", "2026-02-01T00:00Z")
PARTITIONS = (
    "select relname from pg_class join pg_inherits on inhrelid = oid"
    " where inhparent = 'public.telemetry_events'::regclass and relname ~ '_2026_0[1-4]$' order by 1"
)
STORED = (
    "select to_char(event_timestamp at time zone 'UTC', 'YYYY-MM'), event_type, count(*)"
    " from public.telemetry_events group by 1, 2 order by 1, 2"
)


def keep(connection: Connection, kept: str, age: str | None, event_type: str = "") -> None:
    connection.execute("select ops.set_retention(%s, %s::interval, %s)", [kept, age, event_type])


def retain(connection: Connection, *, as_of: str = AS_OF, max_rows: int = 20_000) -> Any:
    """Take one step and return state, name, event type and rows."""
    (step,) = rows(
        connection,
        "select state, name, event_type, removed, message from ops.retain(%s, '2026-06-01T00:00Z', '{}', %s)",
        *(as_of, max_rows),
    )
    return step


def freed_by_a_run(connection: Connection, as_of: str = AS_OF) -> list[Removal]:
    outcome = retention.run(connection, as_of=as_of)
    assert outcome.obstacles == []
    return outcome.freed


def partitions(connection: Connection) -> list[str]:
    return [name for (name,) in rows(connection, PARTITIONS)]


def add_month(connection: Connection, month: str) -> None:
    """Store two runs and a hook of a month, of which one is a unit of work that never succeeded."""
    for day in (1, 28):
        at = f"{month}-{day:02}T10:07Z"
        add_event(connection, at=at, outcome="failure", duration_ms=day, tag=f"{month}-{day}")
        add_event(connection, "audit_observer", at, outcome="success", duration_ms=day * 1000, run_id=day)
    add_event(
        connection,
        "hook_execution",
        f"{month}-15T12:00Z",
        result="blocked",
        duration_ms=3,
        findings_summary={"pattern": "x"},
    )


def repeatable(at: str, event_type: str = "slsa_provenance") -> dict[str, object]:
    return {
        "event_type": event_type,
        "payload": {"outcome": "success", "workflow": "w"},
        "event_id": str(uuid4()),
        "event_timestamp": at,
    }

"""Personal data in events, the rules that take it out, and all that must stay as it was."""

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from .events import (
    NIL,
    NOON,
    Connection,
    add_event,
    ingest,
    refresh,
    rows,
    scalar,
)
from .events import states as unsorted_states

KEY = "a key of the tests, long enough"
ORG_A = UUID("aaaaaaaa-0000-4000-8000-00000000000a")
ORG_B = UUID("bbbbbbbb-0000-4000-8000-00000000000b")
ANNA = UUID("11111111-2222-4333-8444-555555555555")
BEN = UUID("99999999-8888-4777-8666-555555555555")
LATER = "2026-04-01T00:00:00Z"
ALL = ("agent-ids", "e-mail-addresses", "files", "override-reasons", "reasons")
COUNTING = ["outcome", "duration_ms", "org_id", "policy_version", "agent_id"]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch reports."""

    state: str
    last_id: int | None
    looked_at: int | None
    changed: int | None
    counts: dict[str, int] | None
    kept: dict[str, int] | None = None


@contextmanager
def keyed(connection: Connection, key: str | None = KEY) -> Iterator[Connection]:
    """A transaction that has the key, as the jobs make one."""
    with connection.transaction():
        if key is not None:
            connection.execute("select set_config('opskpi.anonymisation_key', %s, true)", [key])
        yield connection


def anonymise(connection: Connection, key: str | None = KEY, **arguments: object) -> Batch:
    said = {"before": LATER, "only_org_id": None, "only_event_type": None, "after_id": 0, "max_events": 2000}
    said |= {"dry_run": False, "anonymisation_id": None} | arguments
    with keyed(connection, key), connection.cursor(row_factory=class_row(Batch)) as cursor:
        found = cursor.execute(
            "select state, last_id, looked_at, changed, counts from ops.anonymise_events(before => %(before)s,"
            " only_org_id => %(only_org_id)s, only_event_type => %(only_event_type)s, after_id => %(after_id)s,"
            " max_events => %(max_events)s, dry_run => %(dry_run)s, anonymisation_id => %(anonymisation_id)s)",
            said,
        ).fetchone()
    assert found is not None
    return found


def erase(connection: Connection, agent: UUID, key: str | None = KEY, **arguments: object) -> Batch:
    said = {"org_id": ORG_A, "agent_id": agent, "after_id": 0, "max_events": 2000, "dry_run": False}
    said |= {"without_key": False, "also": []} | arguments
    with keyed(connection, key), connection.cursor(row_factory=class_row(Batch)) as cursor:
        found = cursor.execute(
            "select state, last_id, looked_at, changed, counts, kept from ops.erase_agent(org_id => %(org_id)s,"
            " agent_id => %(agent_id)s, after_id => %(after_id)s, max_events => %(max_events)s,"
            " dry_run => %(dry_run)s, without_key => %(without_key)s, also => %(also)s)",
            said,
        ).fetchone()
    assert found is not None
    return found


def only(connection: Connection, path: str, action: str, matching: str | None = None, event_type: str = "") -> None:
    """Have one rule and no other."""
    connection.execute("delete from ops.anonymisation_rules")
    connection.execute(
        "insert into ops.anonymisation_rules (rule_name, path, action, matching, event_type) values ('it', %s, %s, %s, %s)",
        [path, action, matching, event_type],
    )


def switch_on(connection: Connection, *names: str) -> None:
    connection.execute("update ops.anonymisation_rules set on_ingest = true where rule_name = any (%s)", [list(names)])


def metadata_of(connection: Connection, event_id: int) -> Any:
    return scalar(connection, "select metadata from public.telemetry_events where id = %s", event_id)


def after(connection: Connection, said: object, event_type: str = "deploy") -> Any:
    """What the rules make of the metadata of one counted event."""
    event_id = add_event(connection, event_type, metadata=Jsonb(said))
    refresh(connection)
    anonymise(connection)
    return metadata_of(connection, event_id)


def token(text: str, org: UUID = NIL) -> str:
    return "hmac:" + hmac.new(KEY.encode(), f"{org} {text}".encode(), hashlib.sha256).hexdigest()[:32]


def pseudonym(agent: UUID, org: UUID = NIL) -> UUID:
    digest = hmac.new(KEY.encode(), f"{org} {agent}".encode(), hashlib.sha256).hexdigest()
    head = digest[:12] + "8" + digest[13:16]
    return UUID(head + "8" + hashlib.sha256(b"opskpi" + bytes.fromhex(head)).hexdigest()[:15])


def blocked_push_of(agent: UUID, org: UUID = ORG_A, at: str = NOON, **said: object) -> dict[str, Any]:
    payload = {"agent_id": str(agent), "org_id": str(org), "hook_type": "pre-commit", "result": "blocked"}
    payload |= {"duration_ms": 12.5, "findings_summary": {"total": 1, "pattern": "aws-key"}, "timestamp": at}
    return {"event_type": "hook_execution", "payload": payload | {"event_id": str(uuid4())} | said}


def baseline(agent: UUID, org: UUID = ORG_A, at: str = NOON) -> dict[str, Any]:
    entry = {"file": "src/anna/a.py", "line": 7, "pattern": "aws-key", "reason": "Anna's key", "date": "2026-03-01"}
    payload = {"agent_id": str(agent), "org_id": str(org), "hook_type": "pre-commit", "source": "manual"}
    payload |= {"reviewed": True, "baseline_entry": entry, "timestamp": at, "event_id": str(uuid4())}
    return {"event_type": "hook_baseline", "payload": payload}


def override_of(agent: UUID, org: UUID = ORG_A, at: str = NOON) -> dict[str, Any]:
    payload = {"agent_id": str(agent), "org_id": str(org), "hook_type": "pre-push", "override_reason": "secret reason"}
    payload |= {"findings_count": 2, "severity": "high", "timestamp": at, "event_id": str(uuid4())}
    return {"event_type": "hook_override", "payload": payload}


def shown_by_views(connection: Connection) -> dict[str, Any]:
    """Everything that analysts read, except the journal of the jobs."""
    names = rows(
        connection,
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'v'"
        " and starts_with(relname, 'v_ops_') and relname <> 'v_ops_job_runs' order by 1",
    )
    read = "select coalesce(jsonb_agg(to_jsonb(entry) order by to_jsonb(entry)), '[]') from public.{} as entry"
    found = {}
    for (name,) in names:
        query = sql.SQL(read).format(sql.Identifier(name))
        found[name] = connection.execute(query).fetchone()
    return found


def sorted_states(connection: Connection) -> dict[str, Any]:
    """All that the aggregation keeps, in an order of every column."""
    return {name: sorted(found, key=repr) for name, found in unsorted_states(connection).items()}


def kept_and_shown(connection: Connection) -> tuple[Any, Any]:
    return sorted_states(connection), shown_by_views(connection)


def fill_two_orgs(connection: Connection) -> None:
    """Two orgs, agents in teams and in none, every kind of event, counted."""
    for org in (ORG_A, ORG_B):
        connection.execute("select ops.assign_team(%s, %s, 'red')", [org, ANNA])
        for agent in (ANNA, BEN):
            told = [
                blocked_push_of(agent, org, user_actions=["asked anna@example.com"]),
                baseline(agent, org),
                override_of(agent, org),
            ]
            assert ingest(connection, *told)["refused"] == []
        add_event(connection, outcome="failure", duration_ms=7, workflow="path", reason="why", org_id=org, tag="v1")
        add_event(
            connection, outcome="success", duration_ms=9, workflow="path", path="/home/anna/x.py", org_id=org, tag="v1"
        )
        add_event(connection, "api_request", outcome="success", duration_ms=3, endpoint="a@b.example", org_id=org)
        add_event(
            connection, "never described", outcome="failure", duration_ms=3, file="b.js", org_id=org, agent_id=BEN
        )
    refresh(connection)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**16), 10**16)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
    | st.sampled_from(
        ["a.b@c.example", "to a@b.example!", "x/y.py", "[removed]", "*.py", "hmac:" + "0" * 32, str(ANNA), "blocked"]
    ),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["file", "pattern", "patterns", "reason", "x", 'a"b', "."]), below, max_size=3
        )
    ),
    max_leaves=8,
)


documents = (
    st.dictionaries(
        st.sampled_from(
            [
                *COUNTING,
                "hook_type",
                "result",
                "findings_summary",
                "file",
                "reason",
                "user_actions",
                "override_reason",
                "x",
            ]
        ),
        values,
        max_size=6,
    )
    | values
)


some_rules = st.lists(
    st.tuples(
        st.sampled_from(["$.**", "$.**.file", "$.x", "$.**[*]", "$.findings_summary", "$.**.patterns", "$.reason.**"]),
        st.sampled_from(["remove", "hmac", "generalise"]),
        st.none() | st.sampled_from(["[a-z]+", ".", "^a", "a$", "@", "e|m", "\\mx", "[0-9*.]+"]),
    ),
    min_size=1,
    max_size=4,
)

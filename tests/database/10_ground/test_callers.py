"""Who is asking: the org and scopes of a caller, and what a key with one scope alone can do with it."""

from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Json, Jsonb

from support.events import rows, scalar
from support.fixtures import ActingAs

ORG = UUID("aaaaaaaa-0000-4000-8000-00000000000a")
NIL_ORG = UUID(int=0)


def key(*scopes: str) -> dict[str, Any]:
    return {"sub": "0123456789ab", "app_metadata": {"org_id": str(ORG), "scopes": scopes}}


def ingest_as_caller(database: psycopg.Connection, *events: dict[str, Any]) -> dict[str, Any]:
    return scalar(database, "select public.ingest_events(%s)", Json(events))


def run_of_agent(agent: UUID | None = None) -> dict[str, Any]:
    agent_id = str(agent or uuid4())
    payload = {
        "agent_id": agent_id,
        "org_id": str(ORG),
        "hook_type": "pre-commit",
        "result": "allowed",
        "findings_summary": {},
        "duration_ms": 10,
        "timestamp": "2026-03-10T12:00:00Z",
        "event_id": str(uuid4()),
    }
    return {"event_type": "hook_execution", "payload": payload}


def test_a_key_that_may_only_ingest_sends_and_resends_good_events_and_bad_ones(
    database: psycopg.Connection, acting_as: ActingAs
) -> None:
    sent = run_of_agent()
    with acting_as(database, "authenticated", commit=True, **key("ingest")):
        assert ingest_as_caller(database, sent)["accepted"] == 1
        assert ingest_as_caller(database, sent)["duplicate"] == 1
        mixed = ingest_as_caller(database, sent, run_of_agent(), {"event_type": "no such kind"})
        assert (mixed["accepted"], mixed["duplicate"], len(mixed["refused"])) == (1, 1, 1)
        collected = {
            "event_type": "audit_complete",
            "event_id": str(uuid4()),
            "event_timestamp": "2026-03-10T12:00:00Z",
        }
        for field in ("accepted", "duplicate"):
            assert scalar(database, "select ops.collect_events(%s)", Jsonb([collected]))[field] == 1
        assert rows(database, "select from public.telemetry_events") == []
    assert scalar(database, "select count(*) from public.telemetry_events") == 3


def test_a_key_that_may_only_ingest_sends_events_that_get_pseudonyms(
    database: psycopg.Connection, acting_as: ActingAs
) -> None:
    database.execute("update ops.anonymisation_rules set on_ingest = true where true")
    agent = uuid4()
    with acting_as(database, "authenticated", commit=True, **key("ingest")):
        database.execute("select set_config('opskpi.anonymisation_key', 'long enough for a test', true)")
        for _ in range(2):
            assert ingest_as_caller(database, run_of_agent(agent))["accepted"] == 1
    assert scalar(database, "select count(distinct agent_id) from public.telemetry_events") == 1
    assert str(agent) not in str(rows(database, "select agent_id, metadata from public.telemetry_events"))


@pytest.mark.parametrize("scopes", [("read",), ("admin",), ("hook",), ()])
def test_a_key_that_may_not_ingest_stores_nothing_by_function_or_by_insert(
    database: psycopg.Connection, acting_as: ActingAs, scopes: tuple[str, ...]
) -> None:
    attempts: list[tuple[LiteralString, str]] = [
        ('select public.ingest_events(\'[{"event_type": "audit_complete"}]\')', "PT403"),
        ("insert into public.telemetry_events (event_type) values ('audit_complete')", "42501"),
    ]
    for statement, code in attempts:
        with acting_as(database, "authenticated", **key(*scopes)), pytest.raises(psycopg.Error) as refusal:
            database.execute(statement)
        assert refusal.value.sqlstate == code
    assert rows(database, "select from public.telemetry_events") == []


@pytest.mark.parametrize(
    ("claims", "org", "may"),
    [
        ({}, NIL_ORG, {"ingest", "read"}),
        ({"app_metadata": {"org_id": str(ORG)}}, ORG, {"ingest", "read"}),
        ({"app_metadata": {"org_id": str(ORG), "scopes": ["admin"]}}, ORG, {"admin"}),
        ({"app_metadata": {"org_id": str(ORG), "scopes": []}}, None, set[str]()),
        ({"app_metadata": {"org_id": str(ORG), "scopes": {"read": True}}}, None, set[str]()),
        ({"app_metadata": {"org_id": "none"}}, None, {"ingest", "read"}),
        ({"app_metadata": {"org_id": f"{ORG}\n"}}, None, {"ingest", "read"}),
        ({"app_metadata": {"org_id": "aaaaaaaa0-000-4000-8000-00000000000a"}}, None, {"ingest", "read"}),
        ({"app_metadata": {"org_id": "-" * 36}}, None, {"ingest", "read"}),
        ({"is_anonymous": True}, None, set[str]()),
        ({"is_anonymous": 1}, None, set[str]()),
        ({"is_anonymous": False}, NIL_ORG, {"ingest", "read"}),
        ({"is_anonymous": None}, NIL_ORG, {"ingest", "read"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_what_the_claims_say_is_who_is_asking(
    database: psycopg.Connection, acting_as: ActingAs, claims: dict[str, Any], org: UUID | None, may: set[str]
) -> None:
    with acting_as(database, "authenticated", **claims):
        assert scalar(database, "select ops.current_org_id()") == org
        assert {
            scope for scope in ("ingest", "read", "admin") if scalar(database, "select ops.caller_has_scope(%s)", scope)
        } == may

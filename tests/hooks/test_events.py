"""What the hook client sends and the line reader lets through, against the rules that the database states."""

import json
from typing import Any

import psycopg
import pytest

from opskpi.hooks import events
from opskpi.ingestion import lines, records
from support.events import rows, scalar

STAMP = "2026-03-10T12:00:00.000Z"
COMMON: dict[str, Any] = {
    "event_id": "dddddddd-0000-4000-8000-000000000004",
    "agent_id": "cccccccc-0000-4000-8000-000000000003",
    "org_id": events.NIL_ORG,
    "policy_version": 7,
}
LONGEST = "é" * 2000
NUMBER = 10**15
# Each key at its largest: the client cuts texts and lists itself.
FULLEST: dict[str, dict[str, Any]] = {
    "hook_execution": {
        "hook_type": LONGEST,
        "result": "blocked",
        "findings_summary": {
            "total": NUMBER,
            "by_severity": {f"{number} {LONGEST}": NUMBER for number in range(50)},
            "pattern": LONGEST,
            "patterns": [LONGEST] * 50,
        },
        "duration_ms": NUMBER,
        "user_actions": [LONGEST] * 50,
        "override_reason": LONGEST,
    },
    "hook_baseline": {
        "hook_type": LONGEST,
        "baseline_entry": dict.fromkeys(("file", "pattern", "reason", "date"), LONGEST) | {"line": NUMBER},
        "source": LONGEST,
        "reviewed": True,
    },
    "hook_override": {
        "hook_type": LONGEST,
        "override_reason": LONGEST,
        "findings_count": NUMBER,
        "severity": LONGEST,
    },
}


@pytest.fixture
def fields(database: psycopg.Connection) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the fields of each event type, as the database asks for them."""
    return dict(rows(database, "select event_type, fields from ops.event_types"))


def limit(database: psycopg.Connection, name: str) -> Any:
    return scalar(database, "select to_jsonb(ops.event_limits()) -> %s", name)


@pytest.mark.parametrize("kind", events.KINDS)
def test_the_client_asks_for_the_keys_that_the_database_asks_for(
    fields: dict[str, dict[str, dict[str, Any]]], kind: str
) -> None:
    asked = fields[kind]
    built = events.build(kind, FULLEST[kind], COMMON, STAMP)["metrics"]
    assert isinstance(built, dict)
    assert set(built) - {"event_id"} == set(asked)
    for key, rule in asked.items():
        if not rule.get("required") or key in COMMON:
            continue
        without = {name: value for name, value in FULLEST[kind].items() if name != key}
        try:
            kept = events.build(kind, without, COMMON, STAMP)["metrics"]
        except events.Malformed:
            continue
        assert isinstance(kept, dict)
        assert key in kept, f"the client sends a {kind} without {key}"


def test_the_client_knows_the_same_words_and_the_same_largest_number(
    database: psycopg.Connection, fields: dict[str, dict[str, dict[str, Any]]]
) -> None:
    assert set(fields["hook_execution"]["result"]["one_of"]) == set(events.RESULTS)
    largest = int(limit(database, "largest_number"))
    override = FULLEST["hook_override"]
    events.cleaned("hook_override", {**override, "findings_count": largest})
    with pytest.raises(events.Malformed):
        events.cleaned("hook_override", {**override, "findings_count": largest + 1})


@pytest.mark.parametrize("kind", events.KINDS)
def test_the_database_takes_the_largest_event_that_the_client_sends(database: psycopg.Connection, kind: str) -> None:
    sent = events.payload(events.build(kind, FULLEST[kind], COMMON, STAMP))
    answer = scalar(database, "select ingest_events(%s)", json.dumps([sent]))
    assert answer == {"accepted": 1, "duplicate": 0, "refused": []}


def test_the_line_reader_lets_through_all_that_the_database_takes(database: psycopg.Connection) -> None:
    assert limit(database, "deepest_nesting") == lines.DEEPEST_NESTING
    assert limit(database, "largest_number") < 10**lines.LONGEST_INTEGER
    # A character may take six bytes as an escape, and white space is not stored.
    assert 6 * limit(database, "largest_bytes") < records.LONGEST_EVENT

"""What the hook client and `opskpi ingest` look at before they send says nothing else than the database does."""

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opskpi.hooks import events
from opskpi.ingestion import lines
from opskpi.ingestion.records import Record
from support.event_borders import ACCEPTED, AGENT, AT, ORG, REFUSED, answer, nested, written
from support.events import Connection, rows, scalar

pytestmark = pytest.mark.database

COMMON: dict[str, object] = {"agent_id": AGENT, "org_id": ORG, "policy_version": 1}
# Longer than any text may be, of characters that take four bytes each.
LONG = "\N{GRINNING FACE} " * 1000
FULL: dict[str, dict[str, object]] = {
    "hook_execution": {
        "hook_type": LONG,
        "result": "blocked",
        "findings_summary": {
            "total": events.LARGEST_NUMBER,
            "by_severity": {f"{number} {LONG}": events.LARGEST_NUMBER for number in range(30)},
            "pattern": LONG,
            "patterns": [LONG] * 30,
        },
        "duration_ms": events.LARGEST_NUMBER,
        "user_actions": [LONG] * 30,
        "override_reason": LONG,
    },
    "hook_baseline": {
        "hook_type": LONG,
        "baseline_entry": {
            "file": LONG,
            "line": events.LARGEST_NUMBER,
            "pattern": LONG,
            "reason": LONG,
            "date": LONG,
        },
        "source": LONG,
        "reviewed": True,
    },
    "hook_override": {
        "hook_type": LONG,
        "override_reason": LONG,
        "findings_count": events.LARGEST_NUMBER,
        "severity": LONG,
    },
}


def fields_of(connection: Connection, kind: str) -> dict[str, dict[str, Any]]:
    return scalar(connection, "select fields from ops.event_types where event_type = %s", kind)


def sent(kind: str, metrics: dict[str, object], common: dict[str, object] | None = None) -> str:
    """An event as the hook client sends it."""
    return json.dumps(events.payload(events.build(kind, metrics, COMMON if common is None else common, AT)))


def required(kind: str) -> dict[str, object]:
    """What the hook client cannot do without, of the largest event of a kind."""
    kept = dict(FULL[kind])
    for key in FULL[kind]:
        try:
            events.cleaned(kind, {name: value for name, value in kept.items() if name != key})
        except events.Malformed:
            continue
        del kept[key]
    return kept


def test_the_hook_client_knows_the_kinds_of_hook_events_and_no_other(undone: Connection) -> None:
    kinds = rows(undone, "select event_type from ops.event_types where event_type like 'hook\\_%%' order by 1")
    assert [kind for (kind,) in kinds] == sorted(events.KINDS) == sorted(events.KEYS) == sorted(FULL)


@pytest.mark.parametrize("kind", events.KINDS)
def test_the_hook_client_sends_the_keys_that_the_kind_has(undone: Connection, kind: str) -> None:
    assert set(events.KEYS[kind]) | set(COMMON) == set(fields_of(undone, kind))
    told = json.loads(sent(kind, FULL[kind]))["payload"]
    assert set(told) == set(fields_of(undone, kind)) | {"event_id", "timestamp"}


@pytest.mark.parametrize("kind", events.KINDS)
def test_the_least_that_the_hook_client_sends_is_what_the_kind_requires(undone: Connection, kind: str) -> None:
    asked = {key for key, rule in fields_of(undone, kind).items() if rule.get("required")}
    least = sent(kind, required(kind), {"agent_id": AGENT, "org_id": ORG})
    assert set(json.loads(least)["payload"]) == asked | {"event_id", "timestamp"}
    assert answer(undone, least)[0] == {}


@pytest.mark.parametrize("kind", events.KINDS)
def test_a_word_that_is_one_of_a_few_is_one_of_the_same_few_on_both_sides(undone: Connection, kind: str) -> None:
    for key, rule in fields_of(undone, kind).items():
        words = rule.get("one_of", [])
        assert set(words) == (set(events.RESULTS) if key == "result" else set())
        for word in words:
            assert events.cleaned(kind, FULL[kind] | {key: word})[key] == word
        if words:
            with pytest.raises(events.Malformed, match=key):
                events.cleaned(kind, FULL[kind] | {key: "none of them"})


@pytest.mark.parametrize("kind", events.KINDS)
def test_the_largest_event_of_the_hook_client_is_within_the_limits(undone: Connection, kind: str) -> None:
    largest = sent(kind, FULL[kind], COMMON | {"policy_version": events.LARGEST_NUMBER})
    refused, ((_, _, _, _, metadata, *_),) = answer(undone, largest)
    assert refused == {}
    assert metadata.items() >= events.cleaned(kind, FULL[kind]).items()
    ((size, limit),) = rows(undone, "select pg_column_size(%s::jsonb), (ops.event_limits()).largest_bytes", largest)
    assert size < limit / 2


def test_the_hook_client_and_the_database_have_the_same_largest_number(undone: Connection) -> None:
    assert scalar(undone, "select (ops.event_limits()).largest_number") == events.LARGEST_NUMBER
    above = events.LARGEST_NUMBER + 1
    with pytest.raises(events.Malformed):
        events.cleaned("hook_override", FULL["hook_override"] | {"findings_count": above})
    assert (events.as_version(events.LARGEST_NUMBER), events.as_version(above)) == (events.LARGEST_NUMBER, None)
    assert (events.as_version(-1), events.as_version(True), events.as_version("1")) == (None, None, None)


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.uuids().map(str), st.text("0aF-{} g", max_size=37), st.from_regex(r"[0-9a-fA-F-]{36}\n?")))
@example(str(uuid4()).upper())
@example(str(uuid4()) + "\n")
@example("-" * 36)
def test_a_uuid_of_the_hook_client_is_one_of_the_database(event_database: Connection, text: str) -> None:
    refused, _ = answer(event_database, written(json.dumps({"agent_id": text})))
    assert events.is_uuid(text) is not refused


def unfit(text: str) -> lines.UnfitError | None:
    """Why `opskpi ingest` does not send a line."""
    try:
        lines.sendable(Record(1, len(text), text.encode(), cut=False))
    except lines.UnfitError as error:
        return error
    return None


def with_time(text: str) -> str | None:
    """The event with a time, which every event in a file must say; None for what is not an object."""
    event = json.loads(text)
    return text[:-1] + f', "timestamp": "{AT}"}}' if isinstance(event, dict) and event else None


def test_a_line_that_is_not_sent_would_be_refused_by_the_database(undone: Connection) -> None:
    held_back = 0
    for text in filter(None, (with_time(text) for text, _ in (*ACCEPTED, *REFUSED))):
        refused, _ = answer(undone, text)
        if unfit(text):
            held_back += 1
            assert refused, text
    assert held_back > 3


@pytest.mark.parametrize("innermost", ["", "1"])
@pytest.mark.parametrize("change", [-1, 0, 1, 2])
def test_a_line_may_be_nested_as_deep_as_an_event(undone: Connection, innermost: str, change: int) -> None:
    deepest = scalar(undone, "select (ops.event_limits()).deepest_nesting")
    assert deepest == lines.DEEPEST_NESTING
    text = with_time(nested(deepest + change, innermost))
    assert text
    refused, _ = answer(undone, text)
    reason = f"is nested deeper than {deepest}"
    assert refused == ({0: ("metadata", reason)} if change > 0 else {})
    assert (str(unfit(text)) == reason) is (change > 0)

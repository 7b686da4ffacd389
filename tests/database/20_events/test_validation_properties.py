"""Any event, not only those at the border: compared with what the README says, and with what it is answered alone."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, LiteralString, cast

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import Jsonb

from support.event_borders import AGENT, AT, COLUMNS, DAY, ID, NIL, ORG, UNREADABLE, answer
from support.events import Connection, rows

pytestmark = pytest.mark.database


INSTANT = re.compile(
    r"([1-9]\d{3})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(?:[Zz]|([+-])(0\d|1[0-4])(?::?([0-5]\d))?)",
    re.ASCII,
)


def instant_of(text: str) -> datetime | None:
    """What the README says of a time, without Postgres."""
    found = INSTANT.fullmatch(text)
    if not found or len(text) > 64 or int(found[6] or 0) > 59:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    offset = timedelta(hours=int(found[9] or 0), minutes=int(found[10] or 0)) * (-1 if found[8] == "-" else 1)
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone(offset))
    except ValueError:
        return None
    return moment + timedelta(microseconds=round(float(f"0.{found[7] or 0}") * 1_000_000))


EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)


def near(text: str, characters: str) -> Iterator[str]:
    """The text with one character replaced, left out or put in, at each place."""
    for place in range(len(text) + 1):
        yield text[:place] + text[place + 1 :]
        for character in characters:
            yield text[:place] + character + text[place + 1 :]
            yield text[:place] + character + text[place:]


def assert_read(connection: Connection, field: str, texts: Iterable[str], wanted: Callable[[str], object]) -> None:
    """Compare what becomes of a field with what is wanted (None: a refusal), looked at first and cast at once."""
    column = {"timestamp": "event_timestamp", "run_id": "run_id"}.get(field, f"{field}::text")
    query = sql.SQL("select {column}, refusal[1] from ops.check_events(%s, %s) order by place").format(
        column=sql.SQL(cast("LiteralString", column))
    )
    texts = sorted(set(texts))
    assert sum(wanted(text) is not None for text in texts) > 10
    documents = [{"event_type": "audit_complete", "payload": {"timestamp": AT} | {field: text}} for text in texts]
    careful = connection.execute(query, [Jsonb(documents), False]).fetchall()
    assert [None if fault else value for value, fault in careful] == [wanted(text) for text in texts]
    assert {fault for _, fault in careful} == {None, field}
    for text, document in zip(texts, documents, strict=True):
        try:
            with connection.transaction():
                ((value, fault),) = connection.execute(query, [Jsonb([document]), True]).fetchall()
        except psycopg.DataError:
            value, fault = None, field
        assert (None if fault else value) == wanted(text), text


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"{DAY}T12:00:00Z",
            f"{DAY}T23:59:59.999Z",
            "2024-02-29T09:08:07.000001Z",
            "2020-10-31T20:10:01.123456+00:00",
        ),
        *("2025-12-30 12:34+0130", "2026-01-09t00:00:00.5-09"),
    ],
)
def test_a_time_is_read_as_the_readme_says_and_no_other_form_of_postgres_passes(undone: Connection, text: str) -> None:
    def wanted(text: str) -> datetime | None:
        moment = instant_of(text)
        return moment if moment and moment >= EARLIEST else None

    # Whether those are ahead depends on the day of the test.
    texts = [each for each in near(text, "0123469-+:. TtZz,\u0662\n") if (instant_of(each) or LATEST) <= LATEST]
    assert_read(undone, "timestamp", texts, wanted)


@pytest.mark.parametrize("field", ["event_id", "org_id", "agent_id"])
def test_a_uuid_is_32_hexadecimal_digits_in_five_groups(undone: Connection, field: str) -> None:
    pattern = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
    texts = near("dDdddddd-0000-4000-8aaa-00000000000F", "0aFg-{} \u0664\n")
    assert_read(undone, field, texts, lambda text: text.lower() if pattern.fullmatch(text) else None)


def test_a_run_id_is_one_to_18_digits(undone: Connection) -> None:
    pattern = re.compile(r"\d{1,18}", re.ASCII)
    texts = [*near("12345678901234567", "0_+-.xeE \u0661\n"), *near("0", "0_+-.xeE \u0661\n"), *near("1_000", "0")]
    assert_read(undone, "run_id", texts, lambda text: int(text) if pattern.fullmatch(text) else None)


INSTANTS = [
    AT,
    f"{DAY}T12:00:00.5+05:30",
    f"{DAY}T24:00:00Z",
    f"{DAY} 12:00+00",
    f"{DAY}T12:00:00GMT+05:00",
    "now",
    "",
    None,
    5,
]
UUIDS = [ID, ID.upper(), NIL, f"{{{ID}}}", f"{ID}\n", "", None, 5]
# What is said outside of the payload wins, and null says nothing.
OUTSIDE: dict[str, list[object]] = {
    "event_timestamp": INSTANTS,
    "timestamp": INSTANTS,
    "event_id": UUIDS,
    "org_id": UUIDS,
    "agent_id": UUIDS,
    "run_id": [42, "42", " 12 ", "+12", "0x10", "1_000", "12\n", 1.0, -1, None],
    "tag": ["v1", "", 5, "x" * 1001, None],
}
INSIDE: dict[str, list[object]] = {key: OUTSIDE[key] for key in OUTSIDE if key != "event_timestamp"} | {
    "outcome": ["success", "maybe", None, 5],
    "workflow": ["ci", None, 5],
    "duration_ms": [0, 10**15, 10**15 + 1, -1, "1", None],
    "hook_type": ["pre-push", 5],
    "result": ["blocked", "Blocked"],
    "findings_summary": [{}, [], "none"],
}


def some(values: Mapping[str, list[object]]) -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries({}, optional={key: st.sampled_from(each) for key, each in values.items()})


def likely(values: Mapping[str, list[object]]) -> dict[str, object]:
    return {
        key: each[0]
        for key, each in values.items()
        if key in {"outcome", "workflow", "hook_type", "result", "findings_summary"}
    }


PAYLOADS = st.builds(
    lambda valid, drawn: (
        likely(INSIDE) | {"duration_ms": 1, "org_id": ORG, "agent_id": AGENT} | drawn if valid else drawn
    ),
    st.booleans(),
    some(INSIDE),
)
EVENTS = st.one_of(
    st.builds(
        lambda event_type, body, drawn, outside: {"event_type": event_type, body: drawn} | outside,
        st.sampled_from(["audit_complete", "workflow_run", "hook_execution", "api_request", "artifact", "nonsense", 5]),
        st.sampled_from(["payload", "metadata"]),
        PAYLOADS,
        st.one_of(
            st.just({}), some(OUTSIDE), some({"surprise": [1], "payload": [None, [], {}], "metadata": [None, {}]})
        ),
    ),
    st.sampled_from([None, 5, [], {}, {"event_type": "audit_complete"}]),
).map(json.dumps)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.one_of(EVENTS, st.just(UNREADABLE)), min_size=1, max_size=5))
def test_every_event_of_a_batch_is_answered_and_stored_as_it_is_alone(
    event_database: Connection, texts: list[str]
) -> None:
    # In one transaction, so that an event without a time gets the same one each time.
    with event_database.transaction(force_rollback=True):
        alone = [answer(event_database, text) for text in texts]
        refused, stored = answer(event_database, *texts)
    assert refused == {place: told[0] for place, (told, _) in enumerate(alone) if told}
    expected: dict[object, tuple[Any, ...]] = {}
    for place, (_, found) in enumerate(alone):
        for row in found:
            columns = dict(zip(COLUMNS, row, strict=True))
            key = (columns["org_id"], columns["event_id"], columns["event_timestamp"]) if columns["event_id"] else place
            expected.setdefault(key, row)
    assert sorted(map(repr, stored)) == sorted(map(repr, expected.values()))


TYPES = {dict: "object", list: "array", str: "string", int: "number", float: "number", bool: "boolean"}
FIELDS = st.dictionaries(
    st.sampled_from(["a", "b.c", 'd"e', "$", "agent_id", "long name"]),
    st.one_of(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["text", "uuid", "number", "boolean", "object", "array"])},
            optional={"required": st.booleans()},
        ),
        st.just({}),
        st.just({"required": True}),
        st.fixed_dictionaries(
            {"type": st.just("text"), "one_of": st.just(["x", 'y"', "50 %"])}, optional={"required": st.booleans()}
        ),
        st.fixed_dictionaries(
            {"type": st.just("object"), "keys": st.just(["k", "l m"])}, optional={"required": st.booleans()}
        ),
    ),
    max_size=4,
)
VALUES = st.sampled_from(
    [
        *(None, True, 0, -1, 0.5, -0.5, 10**15, 10**15 + 1),
        *("", "x", 'y"', "50 %", ID, ID.upper(), f"{ID}\n", ["x"], [], {}, {"k": None, "l m": 1}, {"k": 1}),
    ]
)


def fault_of(fields: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[str] | None:
    """The first fault of metadata by what ops.event_types.fields says, without Postgres."""
    for key in sorted(fields, key=lambda key: (len(key), key)):
        rule, found = fields[key], metadata.get(key)
        wanted = rule.get("type")
        reason = None
        if found is None:
            reason = "is required" if rule.get("required") else None
        elif wanted == "uuid":
            is_uuid = isinstance(found, str) and re.fullmatch(
                r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", found.lower(), re.ASCII
            )
            reason = None if is_uuid else "must be a UUID"
        elif wanted and TYPES[type(found)] != {"text": "string"}.get(wanted, wanted):
            reason = f"must be of type {wanted}, not {TYPES[type(found)]}"
        elif wanted == "number" and found < 0:
            reason = "must be 0 or more"
        elif wanted == "number" and found > 10**15:
            reason = "must be at most 10^15"
        elif "one_of" in rule and found not in rule["one_of"]:
            reason = f"must be one of {json.dumps(rule['one_of'])}"
        elif "keys" in rule and not set(rule["keys"]) <= set(found):
            reason = f"must have the keys {json.dumps(rule['keys'])}"
        if reason:
            return [key, reason]
    return None


@settings(max_examples=300, deadline=None)
@given(
    fields=FIELDS,
    metadata=st.dictionaries(st.sampled_from(["a", "b.c", 'd"e', "$", "agent_id", "long name", "z"]), VALUES),
)
def test_the_rules_of_a_kind_of_event_are_tested_at_once_as_one_by_one(
    event_database: Connection, fields: dict[str, Any], metadata: dict[str, Any]
) -> None:
    ((fault, is_in_shape),) = rows(
        event_database,
        "select ops.metadata_fault(ops.field_rules(said.fields), said.metadata),"
        " coalesce(jsonb_path_match(said.metadata, ops.metadata_shape(said.fields), '{}', true), false)"
        " from (select %s::jsonb as fields, %s::jsonb as metadata) as said",
        Jsonb(fields),
        Jsonb(metadata),
    )
    assert fault == fault_of(fields, metadata)
    # That an agent_id is a UUID is seen where the column is made of it.
    assert is_in_shape is (
        fault is None or (fault == ["agent_id", "must be a UUID"] and isinstance(metadata["agent_id"], str))
    )

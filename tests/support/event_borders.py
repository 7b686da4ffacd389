"""Events at the border of what is valid, with what becomes of them, and how a database answers them."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .events import Connection, rows, scalar

DAY = "2026-03-10"
AT = f"{DAY}T12:00:00Z"
NOON = f"{DAY}T12:00:00.000000"
ID = "dddddddd-0000-4000-8000-000000000004"
ORG = "aaaaaaaa-0000-4000-8000-000000000001"
AGENT = "cccccccc-0000-4000-8000-000000000003"
ARABIC = str.maketrans("0123456789", "".join(map(chr, range(0x660, 0x66A))))
NIL = "00000000-0000-0000-0000-000000000000"
MALFORMED = '{"event_type": "artifact", "payload": {"run_id": "x"}}'
UNREADABLE = '{"event_type": "artifact", "payload": {"kind": "\\u0000"}}'
NEIGHBOUR = '{"event_type": "artifact", "payload": {"size_bytes": 1, "timestamp": "2026-01-01T00:00:00Z"}}'
HOOK = {
    "agent_id": AGENT,
    "org_id": ORG,
    "hook_type": "pre-commit",
    "result": "allowed",
    "findings_summary": {},
    "duration_ms": 1,
}
COLUMNS = (
    *("event_type", "event_timestamp", "run_id", "tag", "metadata", "org_id", "agent_id", "outcome", "duration_ms"),
    "event_id",
)
# An event_id that the event does not say is drawn.
STORED = (
    "select event_type, to_char(event_timestamp at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US'), run_id, tag, metadata, org_id::text, agent_id::text, outcome, duration_ms,"
    f" case when event_id in ('{ID}', '{NIL}') then event_id::text end from public.telemetry_events order by id"
)


def said(**payload: object) -> str:
    """An event of a kind that asks for nothing."""
    return json.dumps({"event_type": "audit_complete", "payload": payload})


def written(payload: str) -> str:
    """The same of a payload that is JSON text."""
    return f'{{"event_type": "audit_complete", "payload": {payload}}}'


def run_with(**payload: object) -> str:
    return json.dumps({"event_type": "workflow_run", "payload": {"outcome": "success", "workflow": "ci"} | payload})


def hook(**payload: object) -> str:
    return json.dumps({"event_type": "hook_execution", "payload": HOOK | payload})


def row_form(**columns: object) -> str:
    return json.dumps({"event_type": "audit_complete"} | columns)


def nested(levels: int, innermost: str = "1") -> str:
    """An event of objects and arrays inside each other, that many with the event itself."""
    return written('{"a": ' + "[" * (levels - 2) + innermost + "]" * (levels - 2) + "}")


def of_size(size: int) -> str:
    """An event of that many bytes as jsonb."""
    # 71 bytes are those of the two objects, their keys and the type.
    return said(a="x" * (size - 71))


def dated(text: str, instant: str) -> tuple[str, dict[str, object]]:
    return said(timestamp=text), {"event_timestamp": datetime.fromisoformat(instant).isoformat(timespec="microseconds")}


# Each with what is stored of it.
ACCEPTED: list[tuple[str, Mapping[str, object]]] = [
    dated(f"{DAY}T12:00:00Z", f"{DAY}T12:00:00"),
    dated(f"{DAY}t12:00:00z", f"{DAY}T12:00:00"),
    dated(f"{DAY} 12:00:00Z", f"{DAY}T12:00:00"),
    dated(f"{DAY}T12:00Z", f"{DAY}T12:00:00"),
    dated(f"{DAY}T12:00+00", f"{DAY}T12:00:00"),
    dated(f"{DAY} 12:00:00.5+00", f"{DAY}T12:00:00.500000"),
    dated(f"{DAY}T12:00:00+0530", f"{DAY}T06:30:00"),
    dated(f"{DAY}T12:00:00+05:30", f"{DAY}T06:30:00"),
    dated(f"{DAY}T12:00:00-09", f"{DAY}T21:00:00"),
    dated(f"{DAY}T12:00:00-00:00", f"{DAY}T12:00:00"),
    dated(f"{DAY}T12:00:00+14:59", "2026-03-09T21:01:00"),
    dated(f"{DAY}T12:00:00-14:59", "2026-03-11T02:59:00"),
    dated(f"{DAY}T00:00:00Z", f"{DAY}T00:00:00"),
    dated(f"{DAY}T23:59:59Z", f"{DAY}T23:59:59"),
    dated(f"{DAY}T12:00:00.1Z", f"{DAY}T12:00:00.100000"),
    dated(f"{DAY}T12:00:00.123Z", f"{DAY}T12:00:00.123000"),
    dated(f"{DAY}T12:00:00.123456Z", f"{DAY}T12:00:00.123456"),
    dated(f"{DAY}T12:00:00.123456+00:00", f"{DAY}T12:00:00.123456"),
    dated(f"{DAY}T12:00:00.123456789Z", f"{DAY}T12:00:00.123457"),
    dated(f"{DAY}T12:00:00.123456789012345678Z", f"{DAY}T12:00:00.123457"),
    dated(f"{DAY}T23:59:59.9999999Z", "2026-03-11T00:00:00"),
    dated(f"{DAY}T12:00:00." + "1" * 43 + "Z", f"{DAY}T12:00:00.111111"),
    dated("2024-02-29T00:00:00Z", "2024-02-29T00:00:00"),
    dated("2000-02-29T00:00:00Z", "2000-02-29T00:00:00"),
    dated("2026-01-31T00:00:00Z", "2026-01-31T00:00:00"),
    dated("2026-04-30T00:00:00Z", "2026-04-30T00:00:00"),
    dated("2000-01-01T00:00:00Z", "2000-01-01T00:00:00"),
    dated("2000-01-01T00:00:00-01:00", "2000-01-01T01:00:00"),
    (written('{"timestamp": "2026-03-10T12:00:00\\u005a"}'), {"event_timestamp": NOON}),
    (written('{"timestamp": "x", "timestamp": "2026-03-10T12:00:00Z"}'), {"event_timestamp": NOON}),
    (row_form(event_timestamp=AT), {"event_timestamp": NOON}),
    (row_form(timestamp=AT), {"event_timestamp": NOON}),
    (row_form(event_timestamp=AT, timestamp="x"), {"event_timestamp": NOON}),
    (row_form(event_timestamp=None, payload={"timestamp": AT}), {"event_timestamp": NOON}),
    (said(timestamp=None), {"metadata": {}}),
    (written("{}"), {"event_type": "audit_complete", "org_id": NIL, "agent_id": None, "run_id": None, "tag": None}),
    ('{"event_type": "audit_complete"}', {"metadata": {}}),
    (row_form(metadata={"a": 1}), {"metadata": {"a": 1}}),
    (row_form(metadata=None, payload={"a": 1}), {"metadata": {"a": 1}}),
    ('{"event_type": "nonsense", "event_type": "audit_complete"}', {"event_type": "audit_complete"}),
    (said(run_id=0), {"run_id": 0}),
    (said(run_id=42), {"run_id": 42}),
    (said(run_id="42"), {"run_id": 42}),
    (said(run_id="007"), {"run_id": 7}),
    (said(run_id="0" * 18), {"run_id": 0}),
    (said(run_id=999_999_999_999_999_999), {"run_id": 999_999_999_999_999_999}),
    (said(run_id=None), {"run_id": None}),
    (written('{"run_id": -0}'), {"run_id": 0}),
    (written('{"run_id": 1e3}'), {"run_id": 1000}),
    (row_form(run_id=7, payload={"run_id": "x"}), {"run_id": 7, "metadata": {}}),
    (said(tag="v1"), {"tag": "v1", "metadata": {}}),
    (said(tag=""), {"tag": ""}),
    (said(tag="x" * 1000), {"tag": "x" * 1000}),
    (said(tag="😀" * 1000), {"tag": "😀" * 1000}),
    (said(tag=None), {"tag": None}),
    (said(tag=1.5), {"tag": "1.5"}),
    (said(tag=True), {"tag": "true"}),
    (said(tag={"a": 1}), {"tag": '{"a": 1}'}),
    (said(tag=" v1\n"), {"tag": " v1\n"}),
    (said(event_id=ID, timestamp=AT), {"event_id": ID, "metadata": {}}),
    (said(event_id=ID.upper(), timestamp=AT), {"event_id": ID}),
    (said(event_id=NIL, timestamp=AT), {"event_id": NIL}),
    (row_form(event_id=ID, event_timestamp=AT, payload={"event_id": "x"}), {"event_id": ID, "metadata": {}}),
    (said(agent_id=AGENT.upper()), {"agent_id": AGENT, "metadata": {"agent_id": AGENT.upper()}}),
    (said(org_id=ORG), {"org_id": ORG, "metadata": {"org_id": ORG}}),
    (row_form(org_id=ORG, agent_id=AGENT), {"org_id": ORG, "agent_id": AGENT, "metadata": {}}),
    (row_form(org_id=None, payload={"org_id": ORG}), {"org_id": ORG}),
    (row_form(agent_id=AGENT, payload={"agent_id": "me"}), {"agent_id": AGENT, "metadata": {"agent_id": "me"}}),
    (hook(), {"agent_id": AGENT, "duration_ms": 1}),
    (hook(override_reason=None, user_actions=[]), {"duration_ms": 1}),
    (hook(duration_ms=0), {"duration_ms": 0}),
    (hook(policy_version=1.5), {"duration_ms": 1}),
    (json.dumps({"event_type": "hook_execution", "payload": HOOK, "agent_id": AGENT}), {"agent_id": AGENT}),
    (run_with(duration_ms=10**15), {"duration_ms": 10**15}),
    (written('{"duration_ms": -1, "outcome": null}'), {"outcome": None, "duration_ms": None}),
    (run_with(duration_ms=None), {"duration_ms": None}),
    (run_with(workflow=""), {"outcome": "success"}),
    (run_with(more={"any": ["thing", 1e300, None]}), {"outcome": "success"}),
    (of_size(65536), {"event_type": "audit_complete"}),
    (nested(32), {"event_type": "audit_complete"}),
    (nested(32, ""), {"event_type": "audit_complete"}),
    (written('{"a": ' + "9" * 1001 + "}"), {"event_type": "audit_complete"}),
    (written('{"a": "\\\\u0000"}'), {"metadata": {"a": "\\u0000"}}),
]

# Each with the field that is named.
REFUSED: list[tuple[str, str]] = [
    *(
        (said(timestamp=text), "timestamp")
        for text in (
            f"{DAY}T12:00:00GMT+05:00", f"{DAY}T12:00:00UTC+00:00", f"{DAY}T12:00:00 UTC+00:00", f"{DAY}T12:00:00Z+01:00",
            f"{DAY}T12:00:00+01:00Z", f"{DAY}T12:00:00<+05>-05", f"{DAY}T12:00:00 PM Z", f"{DAY}T12:00:00 CET", f"{DAY}T12:00:00CET",
            f"{DAY}T12:00:00 Europe/Berlin", f"{DAY}T12:00:00ZZ", f"{DAY}T12:00:00.ZZZZ", f"{DAY}T12:00:00.12ZZ",
            f"{DAY}T24:00:00Z", f"{DAY}T24:00:00.000Z", f"{DAY}T12:00:60Z", f"{DAY}T23:59:60Z", f"{DAY}T12:60:00Z", f"{DAY}T25:00:00Z",
            f"{DAY}T12:00:00+15:30", f"{DAY}T12:00:00+15:00", f"{DAY}T12:00:00+14:60", f"{DAY}T12:00:00+5", f"{DAY}T12:00:00+05:3",
            f"{DAY}T12:00:00+05:30:00", f"{DAY}T12:00:00 +05:30", f"{DAY}T12:00:00\u221205:00",
            f"{DAY}T12:00:00", f"{DAY}T12:00:00.Z", f"{DAY}T12:00:00,5Z", f"{DAY}T12:00.5Z", f"{DAY}T12Z", f"{DAY}T12:0:00Z", f"{DAY}T1200Z",
            f"{DAY}T12:00:00." + "1" * 44 + "Z", DAY, f"{DAY}Z", f"{DAY}  12:00:00Z", f"{DAY}_12:00:00Z", "12:00:00Z",
            "20260310T120000Z", "2026-3-10T12:00:00Z", "26-03-10T12:00:00Z", "02026-03-10T12:00:00Z", "+2026-03-10T12:00:00Z",
            "2026-069T12:00:00Z", "2026-W11-2T12:00:00Z", "10/03/2026 12:00:00Z", "2026/03/10 12:00:00Z", "J2461110 12:00:00Z",
            "2026-02-29T00:00:00Z", "2100-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2026-02-30T00:00:00Z", "2026-04-31T00:00:00Z",
            "2026-00-10T00:00:00Z", "2026-13-10T00:00:00Z", "2026-03-00T00:00:00Z", "2026-03-32T00:00:00Z",
            "0000-01-01T00:00:00Z", "0044-03-15T00:00:00Z", f"{DAY}T12:00:00Z BC", "1999-12-31T23:59:59Z", "2000-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59Z", "epoch", "infinity", "-infinity", "now", "today", "tomorrow", "allballs",
            "", " ", f" {AT}", f"{AT} ", f"{AT}\n", f"\n{AT}", f"{AT}\t", AT.translate(ARABIC), f"{DAY}T12:00:0\uff10Z", f"{DAY}T12\u200b:00:00Z",
            1773144000, 1.5, True, [AT], {"at": AT},
        )
    ),
    (said(event_id=ID), "timestamp"),
    (row_form(event_id=ID, payload={}), "timestamp"),
    (row_form(event_timestamp="x", payload={"timestamp": AT}), "timestamp"),
    *(
        (said(run_id=number), "run_id")
        for number in (
            " 12 ", "12 ", "12\n", "\n12", "+12", "-12", "-0", "0x10", "0o17", "0b1", "1_000", "1,000", "1e3", "12.0", "12.", "", " ",
            "12".translate(ARABIC), "\uff11\uff12", "\u00b2", "x", "0" * 19, "9" * 19, 10**18, 9223372036854775808, 10**30, -1, 1.5, 12.0, True, [], {}, [12],
        )
    ),
    (written('{"run_id": 1.0e0}'), "run_id"),
    (written('{"run_id": 1e-1}'), "run_id"),
    (row_form(run_id="x", payload={"run_id": 7}), "run_id"),
    *(
        (said(timestamp=AT, **{field: text}), field)
        for field in ("event_id", "org_id", "agent_id")
        for text in (
            f"{{{ID}}}", ID.replace("-", ""), f"urn:uuid:{ID}", f" {ID}", f"{ID} ", f"{ID}\n", ID[:-1], f"{ID}0", f"{ID[:-1]}g", "",
            "dddddddd-0000-4000-8000-0000000000-4", "dddddddd-0000-4000-8000-00000000000-", "-ddddddd-0000-4000-8000-000000000004",
            "dddd-dddd-0000-4000-8000000000000004", "dddddddd_0000_4000_8000_000000000004", "\u0664ddddddd-0000-4000-8000-000000000004",
            "------------------------------------", 5, True, [ID], {},
        )
    ),
    (row_form(agent_id="me", payload={"agent_id": AGENT}), "agent_id"),
    (said(tag="x" * 1001), "tag"),
    (said(tag="😀" * 1001), "tag"),
    (written("[]"), "payload"),
    (written("null"), "payload"),
    (written('"x"'), "payload"),
    (row_form(metadata=[]), "payload"),
    (row_form(metadata={"a": 1}, payload={"a": 1}), "metadata"),
    (row_form(metadata={}, payload={}), "metadata"),
    (of_size(65537), "metadata"),
    (nested(33), "metadata"),
    (nested(33, ""), "metadata"),
    (row_form(surprise=1), ""),
    (row_form(id=1), ""),
    (row_form(created_at=AT), ""),
    ("{}", "event_type"),
    ('{"event_type": null}', "event_type"),
    ('{"event_type": ""}', "event_type"),
    ('{"event_type": 5}', "event_type"),
    ('{"event_type": true}', "event_type"),
    ('{"event_type": ["audit_complete"]}', "event_type"),
    ('{"event_type": "Audit_complete"}', "event_type"),
    ('{"event_type": " audit_complete"}', "event_type"),
    ('{"event_type": "slsa_audit_metrics"}', "event_type"),
    ('["event_type"]', ""),
    ("[]", ""),
    ("5", ""),
    ("null", ""),
    ('"audit_complete"', ""),
    (run_with(outcome="Success"), "outcome"),
    (run_with(outcome=["success"]), "outcome"),
    (run_with(outcome=None), "outcome"),
    (run_with(workflow=5), "workflow"),
    (run_with(duration_ms="12"), "duration_ms"),
    (run_with(duration_ms=[12]), "duration_ms"),
    (run_with(duration_ms=-0.001), "duration_ms"),
    (run_with(duration_ms=10**15 + 1), "duration_ms"),
    (hook(reviewed=1, findings_summary=[{}]), "findings_summary"),
    (hook(policy_version="1"), "policy_version"),
    (json.dumps({"event_type": "hook_execution", "payload": HOOK | {"agent_id": "me"}, "agent_id": AGENT}), "agent_id"),
    (json.dumps({"event_type": "hook_execution", "payload": HOOK | {"org_id": 5}, "org_id": ORG}), "org_id"),
    (written('{"a": "\\u0000"}'), ""),
    (written('{"\\u0000": 1}'), ""),
    (written('{"a": "\\ud800"}'), ""),
    (written('{"a": 1e999999}'), ""),
]  # fmt: skip


def answer(connection: Connection, *texts: str) -> tuple[dict[int, tuple[str, str]], list[tuple[Any, ...]]]:
    """What a batch is answered: field and reason of the refused events by index, and the rows that it stored."""
    with connection.transaction(force_rollback=True):
        told = scalar(connection, "select public.ingest_events(%s::json)", f"[{','.join(texts)}]")
        stored = connection.execute(STORED).fetchall()
    refused = {refusal["index"]: (refusal["field"], refusal["reason"]) for refusal in told["refused"]}
    assert told["accepted"] == len(stored)
    assert told["accepted"] + told["duplicate"] + len(refused) == len(texts)
    return refused, stored


def answers(connection: Connection, text: str) -> list[tuple[tuple[str, str] | None, list[tuple[Any, ...]]]]:
    """The refusal of an event and its row: alone, with neighbours of each sort, and with a rule that applies on the way in."""
    found: list[tuple[tuple[str, str] | None, list[tuple[Any, ...]]]] = []
    for before, after in (((), ()), ((MALFORMED,), ()), ((), (UNREADABLE,)), ((NEIGHBOUR,), (NEIGHBOUR,))):
        refused, stored = answer(connection, *before, text, *after)
        found.append((refused.get(len(before)), [row for row in stored if row[0] != "artifact"]))
    with connection.transaction(force_rollback=True):
        connection.execute("select ops.set_anonymisation_rule('it', '$.nowhere', 'remove', on_ingest => true)")
        refused, stored = answer(connection, text)
        found.append((refused.get(0), stored))
    return found


def checked(connection: Connection) -> list[tuple[Any, ...]]:
    """All events at the border and beyond it, as the check has them."""
    texts = [
        text
        for text, _ in (*ACCEPTED, *REFUSED)
        if "\\u0000" not in text and "\\ud800" not in text and "999999}" not in text
    ]
    return rows(
        connection,
        "select place, event_type, extract(epoch from nullif(event_timestamp, now())), run_id, tag, metadata, org_id, agent_id, refusal"
        " from ops.check_events(%s::jsonb) order by place",
        f"[{','.join(texts)}]",
    )

"""ingest_events: what is well formed is stored once; what is not is refused by index, field and reason, alone."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
import pytest
from psycopg.rows import scalar_row

pytestmark = pytest.mark.database

ORG_A = "aaaaaaaa-0000-4000-8000-000000000001"
ORG_B = "bbbbbbbb-0000-4000-8000-000000000002"
AGENT = "cccccccc-0000-4000-8000-000000000003"
EVENT_ID = "dddddddd-0000-4000-8000-000000000004"
HOOK = {
    "agent_id": AGENT,
    "org_id": ORG_A,
    "hook_type": "pre-commit",
    "result": "allowed",
    "findings_summary": {"total": 0},
    "duration_ms": 12,
    "timestamp": "2026-01-05T10:00:00Z",
}
RUN = {"outcome": "success", "workflow": "ci", "duration_ms": 1200, "timestamp": "2026-01-05T10:00:00Z"}
VALID = {"event_type": "workflow_run", "payload": RUN}


def answer_to(connection: psycopg.Connection, events: object) -> dict:
    """The answer to one batch; `events` may be JSON text already."""
    document = events if isinstance(events, str) else json.dumps(events)
    with connection.cursor(row_factory=scalar_row) as cursor:
        (answer,) = cursor.execute("select public.ingest_events(events => %s::json)", [document]).fetchall()
    return answer


def hook_event_of(**changes: object) -> dict:
    return {"event_type": "hook_execution", "payload": HOOK | changes}


def run_event_of(**changes: object) -> dict:
    return {"event_type": "workflow_run", "payload": RUN | changes}


def stored_events_count(connection: psycopg.Connection) -> int:
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute("select count(*) from public.telemetry_events").fetchall()[0]


def test_a_valid_event_is_stored_with_its_columns_and_its_metadata(database: psycopg.Connection) -> None:
    payload = RUN | {"event_id": EVENT_ID, "run_id": 42, "tag": "v1.0.0", "org_id": ORG_A, "agent_id": AGENT}
    assert answer_to(database, [{"event_type": "workflow_run", "payload": payload}]) == {
        "accepted": 1,
        "duplicate": 0,
        "refused": [],
    }
    row = database.execute(
        "select event_type, event_timestamp = '2026-01-05T10:00:00Z', run_id, tag, event_id::text, org_id::text, agent_id::text,"
        " outcome, duration_ms, metadata from public.telemetry_events"
    ).fetchone()
    metadata = {"outcome": "success", "workflow": "ci", "duration_ms": 1200, "org_id": ORG_A, "agent_id": AGENT}
    assert row == ("workflow_run", True, 42, "v1.0.0", EVENT_ID, ORG_A, AGENT, "success", 1200, metadata)


def test_the_row_form_stores_the_same_event_as_the_batch_form(database: psycopg.Connection) -> None:
    row_form = {
        "event_type": "workflow_run",
        "event_timestamp": "2026-01-05T10:00:00Z",
        "event_id": EVENT_ID,
        "run_id": 42,
        "metadata": {"outcome": "success", "workflow": "ci", "duration_ms": 1200},
    }
    assert answer_to(database, [row_form])["accepted"] == 1
    batch_form = {"event_type": "workflow_run", "payload": RUN | {"event_id": EVENT_ID, "run_id": 42}}
    assert answer_to(database, [batch_form])["duplicate"] == 1


def test_an_event_sent_again_is_a_duplicate_even_within_one_batch(database: psycopg.Connection) -> None:
    event = run_event_of(event_id=EVENT_ID)
    assert answer_to(database, [event, event]) == {"accepted": 1, "duplicate": 1, "refused": []}
    assert answer_to(database, [event]) == {"accepted": 0, "duplicate": 1, "refused": []}
    assert stored_events_count(database) == 1


def test_an_empty_batch_is_nothing(database: psycopg.Connection) -> None:
    assert answer_to(database, []) == {"accepted": 0, "duplicate": 0, "refused": []}


def test_a_timestamp_with_an_offset_is_the_same_instant(database: psycopg.Connection) -> None:
    for text in (
        "2026-01-05T12:00:00+02:00",
        "2026-01-05t10:00:00.000000z",
        "2026-01-05 10:00+00",
        "2026-01-05T05:00:00-0500",
    ):
        assert answer_to(database, [run_event_of(timestamp=text)])["refused"] == [], text
    rows = database.execute("select distinct event_timestamp = '2026-01-05T10:00:00Z' from public.telemetry_events")
    assert rows.fetchall() == [(True,)]


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (5, ""),
        (None, ""),
        ("text", ""),
        ([1], ""),
        ({}, "event_type"),
        ({"event_type": None}, "event_type"),
        ({"event_type": "no_such_kind", "payload": {}}, "event_type"),
        ({"event_type": "workflow_run'; drop table telemetry_events; --", "payload": {}}, "event_type"),
        ({"event_type": "workflow_run", "payload": []}, "payload"),
        ({"event_type": "workflow_run", "payload": "x"}, "payload"),
        ({"event_type": "workflow_run", "payload": RUN, "surprise": 1}, ""),
        (run_event_of(outcome="maybe"), "outcome"),
        (run_event_of(outcome=None), "outcome"),
        (run_event_of(outcome=7), "outcome"),
        (run_event_of(outcome=["success"]), "outcome"),
        (run_event_of(workflow=None), "workflow"),
        (run_event_of(duration_ms=-1), "duration_ms"),
        (run_event_of(duration_ms="12"), "duration_ms"),
        (run_event_of(duration_ms="NaN"), "duration_ms"),
        (run_event_of(duration_ms=10**16), "duration_ms"),
        (run_event_of(timestamp="yesterday"), "timestamp"),
        (run_event_of(timestamp="now"), "timestamp"),
        (run_event_of(timestamp="infinity"), "timestamp"),
        (run_event_of(timestamp="2026-01-05"), "timestamp"),
        (run_event_of(timestamp="2026-01-05T10:00:00"), "timestamp"),
        (run_event_of(timestamp="2026-02-30T10:00:00Z"), "timestamp"),
        (run_event_of(timestamp="2025-02-29T10:00:00Z"), "timestamp"),
        (run_event_of(timestamp="2026-13-01T10:00:00Z"), "timestamp"),
        (run_event_of(timestamp="1999-12-31T23:59:59Z"), "timestamp"),
        (run_event_of(timestamp="2199-01-01T00:00:00Z"), "timestamp"),
        (run_event_of(timestamp=1767607200), "timestamp"),
        (run_event_of(timestamp=None, event_id=EVENT_ID), "timestamp"),
        (run_event_of(event_id="not-a-uuid"), "event_id"),
        (run_event_of(event_id="{dddddddd-0000-4000-8000-000000000004}"), "event_id"),
        (run_event_of(org_id="acme"), "org_id"),
        (run_event_of(agent_id="me"), "agent_id"),
        (run_event_of(run_id="abc"), "run_id"),
        (run_event_of(run_id=-1), "run_id"),
        (run_event_of(run_id=1.5), "run_id"),
        (run_event_of(run_id=10**30), "run_id"),
        (run_event_of(tag="x" * 1001), "tag"),
        (run_event_of(note="x" * 1_000_000), "metadata"),
        (hook_event_of(result="exploded"), "result"),
        (hook_event_of(findings_summary="none"), "findings_summary"),
        (hook_event_of(agent_id=None), "agent_id"),
        (hook_event_of(user_actions="clicked"), "user_actions"),
        ({"event_type": "hook_baseline", "payload": HOOK | {"baseline_entry": {"file": "a"}, "source": "cli", "reviewed": True}}, "baseline_entry"),
        ({"event_type": "hook_baseline", "payload": HOOK | {"baseline_entry": dict.fromkeys(("file", "line", "pattern", "reason", "date"), 1), "source": "cli", "reviewed": "yes"}}, "reviewed"),
        ({"event_type": "artifact", "payload": {"size_bytes": -5}}, "size_bytes"),
        ({"event_type": "api_request", "payload": {"outcome": "success"}}, "duration_ms"),
    ],
)  # fmt: skip
def test_a_malformed_event_is_refused_with_its_field_and_takes_no_other_along(
    database: psycopg.Connection, event: object, field: str
) -> None:
    answer = answer_to(database, [VALID, event, VALID])
    assert (answer["accepted"], answer["duplicate"]) == (2, 0)
    assert [(refusal["index"], refusal["field"]) for refusal in answer["refused"]] == [(1, field)]
    assert answer["refused"][0]["reason"]
    assert stored_events_count(database) == 2


@pytest.mark.parametrize(
    "text",
    [
        '{"event_type": "workflow_run", "payload": {"outcome": "success", "workflow": "a\\u0000b"}}',
        '{"event_type": "workflow_run", "payload": {"outcome": "success", "workflow": "\\ud800"}}',
        '{"event_type": "workflow_run", "payload": {"outcome": "success", "workflow": "a", "duration_ms": 1e999999}}',
        '{"event_type": "workflow_run", "payload": {"outcome": "success", "workflow": "a", "x": '
        + "[" * 200
        + "]" * 200
        + "}}",
    ],
    ids=["NUL", "half a surrogate", "a number beyond numeric", "200 deep"],
)
def test_what_postgres_cannot_hold_is_refused_alone(database: psycopg.Connection, text: str) -> None:
    answer = answer_to(database, f"[{json.dumps(VALID)}, {text}, {json.dumps(VALID)}]")
    assert answer["accepted"] == 2
    assert [refusal["index"] for refusal in answer["refused"]] == [1]


def test_the_same_rules_hold_whichever_way_a_batch_is_checked(database: psycopg.Connection) -> None:
    """A valid batch takes the quick way, one with a fault in it the thorough one: the valid events must not differ."""
    events = [
        hook_event_of(event_id=EVENT_ID),
        run_event_of(run_id="17", timestamp="2026-01-05T10:00:00.123456789Z"),
        {"event_type": "artifact", "payload": {"size_bytes": 0, "timestamp": "2024-02-29T00:00:00Z", "kind": None}},
        {"event_type": "audit_complete", "payload": {"timestamp": "2026-01-05T10:00:00+05:45"}},
    ]
    columns = "event_type, event_timestamp, run_id, tag, metadata, org_id, agent_id, outcome, duration_ms"
    assert answer_to(database, events)["accepted"] == 4
    quick = database.execute(f"select {columns} from public.telemetry_events order by 1, 2").fetchall()
    database.execute("truncate public.telemetry_events")
    assert answer_to(database, [*events, 0])["accepted"] == 4
    assert database.execute(f"select {columns} from public.telemetry_events order by 1, 2").fetchall() == quick


@pytest.mark.parametrize("document", ["5", "{}", '"text"', "null"])
def test_a_batch_that_is_no_array_is_an_error_that_says_what_to_send(
    database: psycopg.Connection, document: str
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        answer_to(database, document)
    assert caught.value.sqlstate == "OP001"
    assert "event_type" in (caught.value.diag.message_hint or "")


def test_a_user_writes_only_into_the_own_organisation(
    database: psycopg.Connection, acting_as: Callable[..., AbstractContextManager]
) -> None:
    with acting_as(database, "authenticated", ORG_A):
        answer = answer_to(database, [run_event_of(), run_event_of(org_id=ORG_A), run_event_of(org_id=ORG_B)])
        assert answer["accepted"] == 2
        assert [(refusal["index"], refusal["field"]) for refusal in answer["refused"]] == [(2, "org_id")]
        assert database.execute("select distinct org_id::text from public.telemetry_events").fetchall() == [(ORG_A,)]


def test_the_service_role_writes_for_any_organisation(
    database: psycopg.Connection, acting_as: Callable[..., AbstractContextManager]
) -> None:
    with acting_as(database, "service_role"):
        assert answer_to(database, [run_event_of(org_id=ORG_A), run_event_of(org_id=ORG_B)])["accepted"] == 2


def test_a_new_kind_of_event_is_a_row_whose_rules_hold_at_once(database: psycopg.Connection) -> None:
    database.execute(
        "insert into ops.event_types (event_type, description, label_keys, fields) values ('deploy', 'A deployment.',"
        """ '{target}', '{"target": {"type": "text", "required": true, "one_of": ["prod", "test"]}, "by": {"type": "uuid"}}')"""
    )
    answer = answer_to(
        database,
        [
            {"event_type": "deploy", "payload": {"target": "prod", "by": AGENT}},
            {"event_type": "deploy", "payload": {"target": "moon"}},
            {"event_type": "deploy", "payload": {"target": "test", "by": "somebody"}},
        ],
    )
    assert answer["accepted"] == 1
    assert [(refusal["index"], refusal["field"]) for refusal in answer["refused"]] == [(1, "target"), (2, "by")]


def test_a_plain_insert_as_before_works_and_takes_any_content(database: psycopg.Connection) -> None:
    database.execute(
        "insert into telemetry_events (event_type, run_id, tag, metadata) values"
        """ ('slsa_provenance', 1, 'v1', '{"outcome": "success"}'), ('whatever', null, null, '{"duration_ms": "soon"}'),"""
        " ('whatever', null, null, null), ('whatever', null, null, '[]')"
    )
    rows = database.execute("select org_id, outcome, duration_ms from telemetry_events order by id").fetchall()
    assert [(row[1], row[2]) for row in rows] == [("success", None), (None, None), (None, None), (None, None)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("event_type", ""),
        ("event_type", "x" * 101),
        ("event_type", "slsa_audit_metrics"),
        ("event_timestamp", "infinity"),
        ("event_timestamp", "-infinity"),
        ("event_timestamp", "0044-03-15T00:00Z BC"),
        ("event_timestamp", "1969-12-31T23:59:59Z"),
        ("event_timestamp", "2200-01-01T00:00Z"),
        ("id", "0"),
    ],
)
def test_a_plain_insert_is_refused_only_by_the_constraints_that_the_readme_names(
    database: psycopg.Connection, column: str, value: str
) -> None:
    values = {"event_type": "anything", "event_timestamp": "2026-03-10T12:00Z", "id": "1"} | {column: value}
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute(
            "insert into telemetry_events (event_type, event_timestamp, id) values (%s, %s::timestamptz, %s::bigint)",
            [values["event_type"], values["event_timestamp"], values["id"]],
        )

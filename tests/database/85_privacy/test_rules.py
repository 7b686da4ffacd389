"""Taking personal data out of events: every rule and action, what never changes, interruptions, and erasure."""

import hashlib
import hmac
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from support.events import (
    AS_OF,
    NIL,
    NOON,
    Connection,
    add_channel,
    add_event,
    add_rule,
    ingest,
    rebuild,
    refresh,
    refused,
    rows,
    run_jobs,
    scalar,
)
from support.events import states as unsorted_states
from support.fixtures import ActingAs
from support.postgres import Database, Server

pytestmark = pytest.mark.database

KEY = "a key of the tests, long enough"
ORG_A = UUID("aaaaaaaa-0000-4000-8000-00000000000a")
ORG_B = UUID("bbbbbbbb-0000-4000-8000-00000000000b")
ANNA = UUID("11111111-2222-4333-8444-555555555555")
BEN = UUID("99999999-8888-4777-8666-555555555555")
LATER = "2026-04-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch reports."""

    state: str
    last_id: int | None
    looked_at: int | None
    changed: int | None
    counts: dict[str, int] | None


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
    said |= {"without_key": False} | arguments
    with keyed(connection, key), connection.cursor(row_factory=class_row(Batch)) as cursor:
        found = cursor.execute(
            "select state, last_id, looked_at, changed, counts from ops.erase_agent(org_id => %(org_id)s,"
            " agent_id => %(agent_id)s, after_id => %(after_id)s, max_events => %(max_events)s,"
            " dry_run => %(dry_run)s, without_key => %(without_key)s)",
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


@pytest.fixture
def at_one_instant(database: Connection) -> Iterator[Connection]:
    """One transaction, in which now() stands still: what the views say of now can be compared."""
    with database.transaction(force_rollback=True):
        yield database


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


# The hash and the pseudonyms


@pytest.mark.parametrize(
    ("key", "data", "digest"),
    [
        ("0b" * 20, b"Hi There".hex(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (b"Jefe".hex(), b"what do ya want for nothing?".hex(), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ("aa" * 20, "dd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (bytes(range(1, 26)).hex(), "cd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
        ("aa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First".hex(), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
        (
            "aa" * 131,
            b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm.".hex(),
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        ),
    ],
)  # fmt: skip
def test_the_hash_is_hmac_sha_256_of_rfc_4231(database, key, data, digest):
    query = "select encode(ops.hmac_sha256(ops.hmac_pads(decode(%s, 'hex')), decode(%s, 'hex')), 'hex')"
    assert scalar(database, query, key, data) == digest


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200])
def test_the_hash_is_that_of_pythons_hmac_for_keys_of_every_length(database, length):
    key = bytes(range(256))[:length]
    query = "select ops.hmac_sha256(ops.hmac_pads(%s), %s)"
    assert scalar(database, query, key, b"message") == hmac.new(key, b"message", hashlib.sha256).digest()


def test_a_pseudonym_is_known_as_one_and_is_its_own_pseudonym(database):
    query = "select ops.agent_pseudonym(ops.hmac_pads(%s), %s, %s)"
    made = scalar(database, query, KEY.encode(), NIL, str(ANNA))
    assert made == pseudonym(ANNA)
    assert (made.version, scalar(database, "select ops.is_pseudonym(%s)", str(made))) == (8, True)
    assert scalar(database, query, b"another key, as long", NIL, str(made).upper()) == made
    assert scalar(database, query, KEY.encode(), ORG_A, str(ANNA)) != made
    assert [scalar(database, "select ops.is_pseudonym(%s)", text) for text in (str(ANNA), "", "anna", None)] == [
        False
    ] * 4


def test_without_a_key_there_is_no_pseudonym(database):
    assert scalar(database, "select ops.agent_pseudonym(ops.anonymisation_pads(), %s, %s)", NIL, str(ANNA)) is None


@pytest.mark.parametrize(("claims", "code"), [("", "OP003"), ('{"role": "authenticated"}', "PT503")])
def test_a_short_key_is_refused_and_not_repeated(database, claims, code):
    with refused(code), database.transaction():
        database.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        database.execute("select set_config('opskpi.anonymisation_key', 'fifteen letters', true)")
        try:
            database.execute("select ops.anonymisation_pads()")
        except psycopg.Error as error:
            assert "fifteen letters" not in str(error)
            raise


# Paths, actions, and what they make of values


DOCUMENT = {"a": "1", "b": {"a": "2", "x y": "3"}, "c": [{"a": "4"}, "5"]}


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("$.a", {"b": {"a": "2", "x y": "3"}, "c": [{"a": "4"}, "5"]}),
        ("$.b.a", {"a": "1", "b": {"x y": "3"}, "c": [{"a": "4"}, "5"]}),
        ("$.**.a", {"b": {"x y": "3"}, "c": [{}, "5"]}),
        ("$.c[*].a", {"a": "1", "b": {"a": "2", "x y": "3"}, "c": [{}, "5"]}),
        ("$.b.**", {"a": "1", "c": [{"a": "4"}, "5"]}),
        ('$.b."x y"', {"a": "1", "b": {"a": "2"}, "c": [{"a": "4"}, "5"]}),
        ("$.**[*]", {"a": "1", "b": {"a": "2", "x y": "3"}, "c": []}),
        ("$.d.a", DOCUMENT),
        ("$.c.a", DOCUMENT),
        ("$.**", {}),
    ],
)
def test_a_path_names_places(database, path, left):
    only(database, path, "remove")
    assert after(database, DOCUMENT) == left


@pytest.mark.parametrize("path", ["a", "$", "$.", "$.a b", "$..a", "$.a[0]", "$.***", '$."a', "$.a.*", "$.a\n"])
def test_a_path_that_is_not_understood_is_refused(database, path):
    with refused():
        database.execute("select ops.set_anonymisation_rule('it', %s, 'remove')", [path])
    with pytest.raises(psycopg.errors.CheckViolation):
        only(database, path, "remove")


@pytest.mark.parametrize("matching", ["", "x*", "(", "^", "a|"])
def test_an_expression_that_matches_nothing_or_is_none_is_refused(database, matching):
    with refused():
        database.execute("select ops.set_anonymisation_rule('it', '$.**', 'remove', matching => %s)", [matching])


@pytest.mark.parametrize(
    ("raw", "general"),
    [
        ("src/anna/a.py", "*.py"),
        ("C:\\Users\\anna\\A.TSX", "*.tsx"),
        ("anna.smith", "*"),
        ("Makefile", "*"),
        ("archive.tar", "*"),
        ("anna@example.com", "[e-mail]"),
        ("Anna Smith", "*"),
        ("", ""),
        ("*.py", "*.py"),
        (1234, 1000),
        (0.0567, 0.06),
        (-9.7, -10),
        (0, 0),
        (7, 7),
        (10**15 - 1, 10**15),
        (10**40, 10**15),
        (1e-9, 0),
        (True, True),
        (None, None),
        (["x/y.js", {"z": "Anna", "n": 19}], ["*.js", {"z": "*", "n": 20}]),
    ],
)
def test_generalise_keeps_an_ending_a_digit_or_nothing(database, raw, general):
    only(database, "$.a", "generalise")
    assert after(database, {"a": raw, "b": raw}) == {"a": general, "b": raw}


def test_hmac_gives_the_same_word_for_the_same_value_of_an_org(database):
    only(database, "$.who", "hmac")
    first = add_event(database, "deploy", who="anna", org_id=ORG_A)
    second = add_event(database, "deploy", who=["anna", {"deep": 5}, True, None], org_id=ORG_A)
    other = add_event(database, "deploy", who="anna", org_id=ORG_B)
    refresh(database)
    anonymise(database)
    assert metadata_of(database, first) == {"who": token("anna", ORG_A)}
    assert metadata_of(database, second) == {
        "who": [token("anna", ORG_A), {"deep": token("5", ORG_A)}, token("true", ORG_A), None]
    }
    assert metadata_of(database, other) == {"who": token("anna", ORG_B)}


@pytest.mark.parametrize(
    ("action", "part"), [("remove", "[removed]"), ("generalise", "[*]"), ("hmac", token("JIRA-12"))]
)
def test_only_the_part_that_matches_is_replaced(database, action, part):
    only(database, "$.**", action, "JIRA-[0-9]+")
    said = {"a": "see JIRA-12, not JIRA", "b": ["JIRA-12"], "c": 5}
    assert after(database, said) == {"a": f"see {part}, not JIRA", "b": [part], "c": 5}


@pytest.mark.parametrize(
    ("matching", "raw", "left"),
    [
        ("ab", "aabb", "a[removed]b"),
        ("^a", "aaab", "[removed][removed][removed]b"),
        ("e", "[removed] me", "[removed] m[removed]"),
        ("[0-9a-f]+", "hmac:" + "0" * 32, "hmac:" + "0" * 32),
        (".", "ab", "[removed][removed]"),
    ],
)
def test_an_expression_is_applied_until_it_matches_no_more_and_never_to_what_a_rule_left(database, matching, raw, left):
    only(database, "$.a", "remove", matching)
    assert after(database, {"a": raw}) == {"a": left}
    assert anonymise(database).changed == 0


def test_a_removed_key_that_the_kind_of_event_requires_gets_a_neutral_value_of_its_type(database):
    fields = {
        "text": {"type": "text", "required": True},
        "uuid": {"type": "uuid", "required": True},
        "number": {"type": "number", "required": True},
        "flag": {"type": "boolean", "required": True},
        "list": {"type": "array", "required": True},
        "object": {"type": "object", "required": True, "keys": ["x", "y"]},
        "word": {"type": "text", "required": True, "one_of": ["a", "b"]},
        "optional": {"type": "text"},
    }
    database.execute(
        "insert into ops.event_types (event_type, description, fields) values ('form', 'x', %s)", [Jsonb(fields)]
    )
    said = {"text": "t", "uuid": str(ANNA), "number": 5, "flag": True, "list": [1], "object": {"x": 1, "y": 2, "z": 3}}
    said |= {"word": "b", "optional": "o", "more": 1}
    event = {"event_type": "form", "payload": said | {"timestamp": NOON, "event_id": str(uuid4())}}
    for action in ("remove", "hmac", "generalise"):
        database.execute("delete from public.telemetry_events")
        only(database, "$.**", action)
        assert ingest(database, event)["accepted"] == 1
        refresh(database)
        anonymise(database)
        changed = scalar(database, "select metadata from public.telemetry_events")
        if action == "remove":
            assert changed == {
                "text": "[removed]",
                "uuid": str(NIL),
                "number": 0,
                "flag": False,
                "list": [],
                "object": {"x": "[removed]", "y": "[removed]"},
                "word": "b",
            }
        assert anonymise(database).changed == 0
        again = {"event_type": "form", "payload": changed | {"timestamp": NOON}}
        assert ingest(database, again) == {"accepted": 1, "duplicate": 0, "refused": []}


def test_metadata_of_any_form_is_taken(database):
    deep = "a@b.example"
    for _ in range(200):
        deep = {"x": deep} if isinstance(deep, list | str) else [deep]
    for said in (
        None,
        [],
        ["a@b.example", ["c@d.example"]],
        "a@b.example",
        5,
        True,
        {},
        {"x": None},
        {"": "a@b.example"},
        deep,
    ):
        add_event(database, "odd", metadata=Jsonb(said))
    add_event(database, "odd", metadata="null")
    add_event(database, "odd", metadata=Jsonb({"agent_id": ["a list"]}), agent_id=ANNA)
    refresh(database)
    anonymise(database)
    found = [row[0] for row in rows(database, "select metadata::text from public.telemetry_events")]
    assert [text for text in found if text and "@" in text] == []
    assert anonymise(database).changed == 0


@pytest.mark.parametrize("action", ["remove", "hmac", "generalise"])
def test_a_text_that_is_the_whole_of_the_metadata_is_a_value_too(database, action):
    only(database, "$.**", action)
    assert after(database, "Anna") == {"remove": {}, "hmac": token("Anna"), "generalise": "*"}[action]
    assert anonymise(database).changed == 0


# The rules that are there from the start


def test_reasons_files_addresses_and_agents_are_taken_out_from_the_start(database):
    fill_two_orgs(database)
    anonymise(database)
    entry = {"file": "*.py", "line": 7, "pattern": "aws-key", "reason": "[removed]", "date": "2026-03-01"}
    mine = str(pseudonym(ANNA, ORG_A))
    found = rows(
        database,
        "select event_type, agent_id::text, metadata - array['org_id', 'hook_type'] from public.telemetry_events"
        " where org_id = %s and agent_id = %s order by id",
        ORG_A,
        pseudonym(ANNA, ORG_A),
    )
    findings = {"total": 1, "pattern": "aws-key"}
    said = {"result": "blocked", "duration_ms": 12.5, "findings_summary": findings, "user_actions": ["asked [e-mail]"]}
    assert found == [
        ("hook_execution", mine, said | {"agent_id": mine}),
        ("hook_baseline", mine, {"agent_id": mine, "source": "manual", "reviewed": True, "baseline_entry": entry}),
        (
            "hook_override",
            mine,
            {"agent_id": mine, "override_reason": "[removed]", "findings_count": 2, "severity": "high"},
        ),
    ]
    run = rows(
        database, "select metadata from public.telemetry_events where event_type = 'slsa_provenance' order by id"
    )
    assert run[0][0] == {"outcome": "failure", "duration_ms": 7, "workflow": "path"}
    assert run[1][0] == {"outcome": "success", "duration_ms": 9, "workflow": "path", "path": "*.py"}


def test_kpis_slos_and_views_are_the_same_to_the_digit_before_after_and_rebuilt(at_one_instant):
    fill_two_orgs(at_one_instant)
    before = kept_and_shown(at_one_instant)
    report = anonymise(at_one_instant)
    assert report.changed == 18
    assert kept_and_shown(at_one_instant) == before
    rebuild(at_one_instant, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert kept_and_shown(at_one_instant) == before


def test_anonymised_twice_nothing_changes(database):
    fill_two_orgs(database)
    first = anonymise(database)
    stored = rows(database, "select * from public.telemetry_events order by id")
    second = anonymise(database, "another key, as long as it must be")
    assert (first.state, second.state, first.looked_at, second.looked_at) == ("done", "done", 20, 20)
    assert (second.changed, second.counts) == (0, {})
    assert rows(database, "select * from public.telemetry_events order by id") == stored


def test_a_dry_run_reports_what_the_run_then_reports_and_changes_nothing(database):
    fill_two_orgs(database)
    stored = rows(database, "select * from public.telemetry_events order by id")
    agents = rows(database, "select * from ops.agents order by 1, 2")
    expected = anonymise(database, dry_run=True)
    assert rows(database, "select * from public.telemetry_events order by id") == stored
    assert rows(database, "select * from ops.agents order by 1, 2") == agents
    assert anonymise(database) == expected
    assert expected.counts == {
        "agent-ids": 14, "e-mail-addresses": 4, "files": 6, "override-reasons": 4, "paths": 2, "reasons": 6
    }  # fmt: skip


def test_only_the_org_the_kind_and_the_time_named_change(database):
    fill_two_orgs(database)
    late = add_event(database, "hook_override", LATER, override_reason="later", org_id=ORG_A)
    refresh(database)
    assert anonymise(database, only_org_id=ORG_A, only_event_type="hook_override").changed == 2
    reasons = "select count(*) from public.telemetry_events where org_id = %s and metadata ->> 'override_reason' = %s"
    assert scalar(database, reasons, ORG_A, "[removed]") == 2
    assert scalar(database, reasons, ORG_B, "[removed]") == 0
    assert scalar(database, "select count(*) from public.telemetry_events where metadata::text like '%%Anna''s%%'") == 4
    assert metadata_of(database, late) == {"override_reason": "later"}


def test_what_is_not_counted_yet_waits(database):
    event = add_event(database, "hook_override", override_reason="new")
    assert anonymise(database).looked_at == 0
    refresh(database)
    assert anonymise(database).changed == 1
    assert metadata_of(database, event) == {"override_reason": "[removed]"}


def test_batches_go_by_id_and_leave_none_out(database):
    fill_two_orgs(database)
    add_event(database, "hook_override", override_reason="late", at="2024-01-01T00:00:00Z")
    refresh(database)
    last_id, looked_at, calls = 0, 0, 0
    while True:
        report = anonymise(database, after_id=last_id, max_events=4)
        looked_at, calls = looked_at + (report.looked_at or 0), calls + 1
        if report.state == "done":
            break
        last_id = report.last_id
    assert (looked_at, calls) == (21, 6)
    assert anonymise(database).changed == 0


def test_an_event_keeps_its_id_its_key_and_its_time_and_is_not_counted_again(database):
    fill_two_orgs(database)
    query = "select id, event_id, event_timestamp, created_at, run_id, tag, outcome, duration_ms from public.telemetry_events order by id"
    kept = rows(database, query)
    anonymise(database)
    assert rows(database, query) == kept
    assert refresh(database).events == 0


@pytest.mark.parametrize("arguments", [{"before": None}, {"max_events": 0}, {"max_events": None}])
def test_a_run_without_bounds_is_refused(database, arguments):
    with refused():
        anonymise(database, **arguments)


def test_without_a_key_a_rule_that_hashes_is_refused_and_nothing_changes(database):
    fill_two_orgs(database)
    stored = rows(database, "select * from public.telemetry_events order by id")
    for dry_run in (False, True):
        with refused("OP003"):
            anonymise(database, None, dry_run=dry_run)
    only(database, "$.**.reason", "hmac")
    with refused("OP003"):
        anonymise(database, None)
    assert rows(database, "select * from public.telemetry_events order by id") == stored
    only(database, "$.**.reason", "remove")
    assert anonymise(database, None).changed == 6


def test_a_rule_that_hashes_and_hits_nothing_needs_no_key(database):
    only(database, "$.nowhere", "hmac")
    assert after(database, {"a": "b"}) == {"a": "b"}
    assert anonymise(database, None).state == "done"


def test_a_rule_that_is_off_does_nothing(database):
    only(database, "$.**.reason", "remove")
    database.execute("update ops.anonymisation_rules set is_enabled = false")
    assert after(database, {"reason": "x"}) == {"reason": "x"}


# What counts is never touched


COUNTING = ["outcome", "duration_ms", "org_id", "policy_version", "agent_id"]


@pytest.mark.parametrize("action", ["remove", "hmac", "generalise"])
def test_a_rule_for_everything_leaves_what_counts(at_one_instant, action):
    fill_two_orgs(at_one_instant)
    before = kept_and_shown(at_one_instant)
    only(at_one_instant, "$.**", action)
    anonymise(at_one_instant)
    rebuild(at_one_instant, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert kept_and_shown(at_one_instant) == before
    assert (
        scalar(at_one_instant, "select count(*) from public.telemetry_events where metadata::text ~ 'Anna|secret|anna'")
        == 0
    )


@pytest.mark.parametrize(
    ("event_type", "path"),
    [
        ("", "$.outcome"),
        ("", "$.outcome.x"),
        ("", "$.duration_ms"),
        ("", "$.org_id"),
        ("", "$.policy_version"),
        ("", "$.workflow"),
        ("workflow_run", "$.workflow"),
        ("artifact", "$.size_bytes"),
        ("hook_execution", "$.findings_summary"),
        ("hook_execution", "$.findings_summary.pattern"),
        ("hook_execution", "$.findings_summary.patterns"),
        ("hook_execution", "$.findings_summary.patterns[*]"),
        ("hook_execution", "$.hook_type"),
        ("hook_override", "$.findings_count"),
    ],
)
def test_a_rule_that_names_what_counts_is_refused(database, event_type, path):
    for action in ("remove", "hmac", "generalise"):
        with refused():
            database.execute(
                "select ops.set_anonymisation_rule('it', %s, %s, event_type => %s)", [path, action, event_type]
            )
    assert scalar(database, "select count(*) from ops.anonymisation_rules where rule_name = 'it'") == 0


@pytest.mark.parametrize(
    ("event_type", "path"),
    [("artifact", "$.workflow"), ("hook_execution", "$.findings_summary.total"), ("", "$.**.workflow")],
)
def test_a_rule_beside_what_counts_is_taken(database, event_type, path):
    database.execute("select ops.set_anonymisation_rule('it', %s, 'remove', event_type => %s)", [path, event_type])
    database.execute(
        "select ops.set_anonymisation_rule('it', %s, 'hmac', event_type => %s, on_ingest => true)", [path, event_type]
    )
    assert rows(database, "select path, action, on_ingest from ops.anonymisation_rules where rule_name = 'it'") == [
        (path, "hmac", True)
    ]
    assert scalar(database, "select ops.remove_anonymisation_rule('it')") is True
    assert scalar(database, "select ops.remove_anonymisation_rule('it')") is False


@pytest.mark.parametrize(
    ("path", "action", "matching"),
    [
        ("$.agent_id", "remove", None),
        ("$.agent_id", "generalise", None),
        ("$.agent_id", "hmac", "a"),
        ('$."agent_id"', "hmac", None),
        ("$.agent_id.**", "hmac", None),
    ],
)
def test_agents_are_hashed_whole_or_not_at_all(database, path, action, matching):
    with refused():
        database.execute("select ops.set_anonymisation_rule('it', %s, %s, matching => %s)", [path, action, matching])


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


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(documents, min_size=1, max_size=3), rules=some_rules, erasing=st.booleans())
def test_twice_is_once_and_what_counts_stays_whatever_the_rules_and_the_documents(database, said, rules, erasing):
    with database.transaction(force_rollback=True):
        database.execute("select set_config('opskpi.anonymisation_key', %s, true)", [KEY])
        database.execute("delete from ops.anonymisation_rules where rule_name <> 'agent-ids'")
        for number, (path, action, matching) in enumerate(rules):
            database.execute(
                "insert into ops.anonymisation_rules (rule_name, path, action, matching) values (%s, %s, %s, %s)",
                [f"rule-{number}", path, action, matching],
            )
        for document in said:
            add_event(database, "hook_execution", metadata=Jsonb(document), agent_id=ANNA)
        refresh(database)
        before = sorted_states(database)
        query = "select id, metadata, agent_id from public.telemetry_events order by id"

        def step() -> int:
            call = "select changed from ops.anonymise_events(%s)"
            if erasing:
                call = "select changed from ops.erase_agent(%s, %s)"
                return scalar(database, call, NIL, ANNA)
            return scalar(database, call, LATER)

        try:
            step()
        except psycopg.errors.DatabaseError as error:
            # A document that names the agent where labels are read.
            assume(error.sqlstate != "OP001" or not erasing)
            raise
        once = rows(database, query)
        assert step() == 0
        assert rows(database, query) == once
        rebuild(database, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
        assert sorted_states(database) == before


# Agents


def test_a_pseudonym_has_the_team_of_its_agent_and_follows_it(database):
    fill_two_orgs(database)
    anonymise(database)
    team = "select team from ops.agents where org_id = %s and agent_id = %s"
    mine = pseudonym(ANNA, ORG_A)
    assert rows(
        database,
        "select team, last_event_at, is_pseudonym from ops.agents where org_id = %s and agent_id = %s",
        ORG_A,
        mine,
    ) == [("red", None, True)]
    with keyed(database):
        database.execute("select ops.assign_team(%s, %s, 'blue')", [ORG_A, ANNA])
    assert scalar(database, team, ORG_A, mine) == "blue"
    database.execute("select ops.assign_team(%s, %s, 'green')", [ORG_A, ANNA])
    assert scalar(database, team, ORG_A, mine) == "blue"
    ingest(database, override_of(ANNA))
    refresh(database)
    anonymise(database)
    assert scalar(database, team, ORG_A, mine) == "green"
    assert scalar(database, team, ORG_B, pseudonym(ANNA, ORG_B)) == "red"


def test_a_team_that_changes_later_gives_the_kpis_it_would_have_given(database, create_database, template):
    fill_two_orgs(database)
    twin = create_database(template)
    with psycopg.connect(twin.dsn, autocommit=True) as untouched:
        fill_two_orgs(untouched)
        anonymise(database)
        for connection in (database, untouched):
            with keyed(connection):
                connection.execute("select ops.assign_team(%s, %s, 'blue')", [ORG_A, ANNA])
            rebuild(connection, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
        assert sorted_states(database) == sorted_states(untouched)


def test_silent_agents_are_not_asked_for_under_their_pseudonyms(database):
    fill_two_orgs(database)
    anonymise(database)
    add_rule(database, "silent", "silent_agents", silent_for="1 hour")
    run_jobs(database, "2026-03-10T15:00:00Z")
    found = rows(database, "select org_id, subject from ops.alerts order by 1, 2")
    assert found == [(org, str(agent)) for org in (ORG_A, ORG_B) for agent in (ANNA, BEN)]


def test_an_agent_that_is_a_label_keeps_its_name_in_both_places(database):
    database.execute("update ops.event_types set label_keys = '{agent_id}' where event_type = 'artifact'")
    event = add_event(
        database, "artifact", size_bytes=1, agent_id=ANNA, metadata=Jsonb({"agent_id": str(ANNA), "size_bytes": 1})
    )
    refresh(database)
    before = sorted_states(database)
    anonymise(database)
    rebuild(database, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert sorted_states(database) == before
    assert metadata_of(database, event)["agent_id"] == str(ANNA)


# Interruptions and company


def test_a_run_that_is_busy_says_so_and_does_nothing(database, connect):
    fill_two_orgs(database)
    other = connect(autocommit=False)
    other.execute("select pg_advisory_xact_lock(hashtextextended('ops.refresh', 0))")
    assert anonymise(database) == Batch("busy", None, None, None, None)
    assert erase(database, ANNA) == Batch("busy", None, None, None, None)
    assert anonymise(database, dry_run=True).changed == 18
    other.rollback()
    other.execute("select pg_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0))")
    assert erase(database, ANNA).state == "busy"


def test_a_refresh_meanwhile_counts_nothing_twice(database, connect):
    fill_two_orgs(database)
    before = sorted_states(database)
    other = connect()
    with other.transaction():
        anonymise(other)
        assert refresh(database).state == "busy"
        add_event(database, "hook_override", override_reason="meanwhile", org_id=ORG_A)
    assert refresh(database).events == 1
    database.execute("delete from public.telemetry_events where metadata ->> 'override_reason' = 'meanwhile'")
    rebuild(database, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert sorted_states(database) == before


def test_the_log_tells_what_was_done_and_not_to_whom(database):
    fill_two_orgs(database)
    run = scalar(database, "select ops.begin_anonymisation('rules', %s, %s)", LATER, ORG_A)
    report = anonymise(database, only_org_id=ORG_A, max_events=4, anonymisation_id=run)
    unfinished = "select kind, only_org_id, finished_at is null, looked_at, changed, counts from ops.anonymisations"
    assert rows(database, unfinished) == [("rules", ORG_A, True, report.looked_at, report.changed, report.counts)]
    while report.state == "more":
        report = anonymise(database, only_org_id=ORG_A, max_events=4, after_id=report.last_id, anonymisation_id=run)
    counts = {"agent-ids": 7, "e-mail-addresses": 2, "files": 3, "override-reasons": 2, "paths": 1, "reasons": 3}
    assert rows(database, unfinished) == [("rules", ORG_A, False, 10, 9, counts)]


# On the way in


def switch_on(connection: Connection, *names: str) -> None:
    connection.execute("update ops.anonymisation_rules set on_ingest = true where rule_name = any (%s)", [list(names)])


ALL = ("agent-ids", "e-mail-addresses", "files", "override-reasons", "reasons")


@pytest.mark.parametrize("with_a_bad_one", [False, True])
def test_rules_apply_before_an_event_is_stored_and_a_repeated_one_is_a_duplicate(database, with_a_bad_one):
    switch_on(database, *ALL)
    database.execute("select ops.assign_team(%s, %s, 'red')", [ORG_A, ANNA])
    sent = [blocked_push_of(ANNA, user_actions=["a@b.example"]), baseline(ANNA), override_of(ANNA)]
    sent += [{"event_type": "nonsense"}] if with_a_bad_one else []
    with keyed(database):
        answer = ingest(database, *sent)
    assert (answer["accepted"], len(answer["refused"])) == (3, int(with_a_bad_one))
    text = scalar(database, "select string_agg(metadata::text || agent_id, ' ') from public.telemetry_events")
    assert not any(word in text for word in ("a@b.example", str(ANNA), "src/anna", "Anna's key", "secret reason"))
    assert rows(database, "select distinct agent_id from public.telemetry_events") == [(pseudonym(ANNA, ORG_A),)]
    with keyed(database):
        again = ingest(database, *sent)
    assert (again["accepted"], again["duplicate"]) == (0, 3)
    refresh(database)
    labels = "select distinct labels ->> 'team' from ops.series where event_type = 'hook_execution'"
    assert rows(database, labels) == [("red",)]
    assert anonymise(database).changed == 0


def test_rules_on_the_way_in_count_the_same_as_none(database, create_database, template):
    twin = create_database(template)
    sent = [blocked_push_of(agent, org) for agent in (ANNA, BEN) for org in (ORG_A, ORG_B)] + [
        baseline(ANNA),
        override_of(BEN),
    ]
    with psycopg.connect(twin.dsn, autocommit=True) as plain:
        switch_on(database, *ALL)
        for connection in (database, plain):
            connection.execute("select ops.assign_team(%s, %s, 'red')", [ORG_A, ANNA])
            with keyed(connection):
                ingest(connection, *sent)
            with keyed(connection):
                connection.execute("select ops.assign_team(%s, %s, 'blue')", [ORG_A, BEN])
            refresh(connection)
        assert sorted_states(database) == sorted_states(plain)


def test_an_export_of_anonymised_events_comes_in_again(database):
    fill_two_orgs(database)
    anonymise(database)
    exported = rows(
        database,
        "select jsonb_build_object('event_type', event_type, 'event_id', event_id, 'event_timestamp', event_timestamp,"
        " 'org_id', org_id, 'agent_id', agent_id, 'metadata', metadata) from public.telemetry_events"
        " where event_type <> 'never described' order by id",
    )
    switch_on(database, *ALL)
    documents: list[Mapping[str, object]] = [row[0] for row in exported]
    with keyed(database, "another key, as long as it must be"):
        assert ingest(database, *documents) == {"accepted": 0, "duplicate": 18, "refused": []}
    stored = "select event_id, agent_id, metadata from public.telemetry_events where event_type <> 'never described' order by 1"
    before = rows(database, stored)
    database.execute("delete from public.telemetry_events")
    with keyed(database, "another key, as long as it must be"):
        assert ingest(database, *documents) == {"accepted": 18, "duplicate": 0, "refused": []}
    assert rows(database, stored) == before


def test_without_the_key_an_event_that_would_be_hashed_is_refused_as_a_whole(database, acting_as):
    switch_on(database, "agent-ids")
    with refused("OP003"):
        ingest(database, blocked_push_of(ANNA))
    with refused("PT503"), acting_as(database, "authenticated", org=ORG_A) as caller:
        ingest(caller, blocked_push_of(ANNA))
    with refused("PT503"), acting_as(database, "service_role") as caller:
        ingest(caller, blocked_push_of(ANNA), {"event_type": "nonsense"})
    plain = {"event_type": "workflow_run", "payload": {"outcome": "success", "workflow": "ci"}}
    assert ingest(database, plain)["accepted"] == 1
    assert scalar(database, "select count(*) from public.telemetry_events") == 1


def test_a_caller_bound_to_an_org_leaves_no_trace_of_the_agent_anywhere(database, acting_as: ActingAs):
    switch_on(database, *ALL)
    with acting_as(database, "authenticated", org=ORG_A, commit=True, sub="key") as caller:
        caller.execute("select set_config('opskpi.anonymisation_key', %s, true)", [KEY])
        assert ingest(caller, blocked_push_of(ANNA), override_of(ANNA))["accepted"] == 2
    mine = pseudonym(ANNA, ORG_A)
    assert rows(database, "select agent_id from ops.request_counts") == [(mine,)]
    assert rows(database, "select org_id, agent_id, is_pseudonym from ops.agents") == [(ORG_A, mine, True)]


def test_a_caller_adds_pseudonyms_of_the_own_org_and_no_other_agents(database, acting_as):
    for org, agent in ((ORG_B, pseudonym(ANNA)), (ORG_A, ANNA)):
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege),
            acting_as(database, "authenticated", org=ORG_A) as caller,
        ):
            caller.execute("insert into ops.agents (org_id, agent_id) values (%s, %s)", [org, agent])
    with acting_as(database, "authenticated", org=ORG_A) as caller:
        caller.execute("insert into ops.agents (org_id, agent_id) values (%s, %s)", [ORG_A, pseudonym(ANNA)])


# Erasure


def dump(server: Server, database: Database) -> str:
    """All rows as pg_dump writes them, without the token that each dump has of its own."""
    text = subprocess.run(
        [server.bin_dir / "pg_dump", "--data-only", database.dsn], capture_output=True, encoding="utf-8", check=True
    ).stdout
    return "\n".join(line for line in text.lower().splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def leave_traces(connection: Connection) -> None:
    """Have the agent wherever it can be."""
    fill_two_orgs(connection)
    add_channel(connection)
    add_rule(connection, "silent", "silent_agents", silent_for="1 hour")
    add_rule(connection, "slow", "silent_agents", silent_for="90 minutes", alert_after="1 day")
    connection.execute("select ops.count_request(%s, %s)", [ORG_A, [ANNA]])
    run_jobs(connection, "2026-03-10T15:00:00Z")
    connection.execute(
        "select ops.silence_alerts(%s, '2100-01-01Z', %s, 'them', %s)", [str(ANNA), f"away: {ANNA}", ORG_A]
    )
    connection.execute("select ops.record_job_failure('refresh', %s)", [f"it was {ANNA}"])
    add_event(connection, "deploy", by=str(ANNA).upper(), note=f"with {ANNA}", org_id=ORG_A, more={f"of {ANNA}": 1})
    add_event(
        connection, "hook_override", override_reason="secret reason of an uncounted event", org_id=ORG_A, agent_id=ANNA
    )
    add_event(connection, "odd", metadata=Jsonb({"agent_id": f"agent {ANNA}", "reason": "secret reason"}), org_id=ORG_A)


@pytest.mark.parametrize("anonymised_before", [False, True])
def test_after_an_erasure_a_dump_has_neither_the_agent_nor_its_reasons(
    database, server, migrated_database, anonymised_before
):
    leave_traces(database)
    if anonymised_before:
        anonymise(database)
    database.execute("delete from public.telemetry_events where org_id = %s", [ORG_B])
    database.execute("delete from ops.agents where org_id = %s", [ORG_B])
    database.execute("delete from ops.alerts where org_id = %s", [ORG_B])
    database.execute("delete from ops.alert_deliveries where org_id = %s", [ORG_B])
    traced = dump(server, migrated_database)
    assert str(ANNA) in traced
    assert "secret reason" in traced
    expected = erase(database, ANNA, dry_run=True)
    assert dump(server, migrated_database) == traced
    assert erase(database, ANNA) == expected
    assert expected.counts is not None
    assert {
        "ops.agents",
        "ops.alerts",
        "ops.alert_deliveries",
        "ops.alert_silences",
        "ops.job_runs",
        "ops.request_counts",
    } <= set(expected.counts)
    text = dump(server, migrated_database)
    assert str(ANNA) not in text
    assert str(pseudonym(ANNA, ORG_A)) not in text
    erased = scalar(database, "select ops.erased_agent_id(%s, 'red')", ORG_A)
    mine = "select string_agg(metadata::text, ' ') from public.telemetry_events where coalesce(metadata ->> 'agent_id', agent_id::text) = %s"
    assert not any(word in scalar(database, mine, str(erased)).lower() for word in ("secret reason", "anna"))
    assert text.count("secret reason") == (0 if anonymised_before else 1), "Ben's own stays"
    assert erase(database, ANNA) == Batch("done", None, 0, 0, {})


def test_an_erasure_leaves_kpis_slos_and_views_the_same_and_other_agents_and_orgs_alone(at_one_instant):
    fill_two_orgs(at_one_instant)
    before = kept_and_shown(at_one_instant)
    others = "select * from public.telemetry_events where org_id = %s or agent_id is distinct from %s order by id"
    kept = rows(at_one_instant, others, ORG_B, ANNA)
    assert erase(at_one_instant, ANNA).changed == 3
    assert kept_and_shown(at_one_instant) == before
    rebuild(at_one_instant, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert kept_and_shown(at_one_instant) == before
    erased = scalar(at_one_instant, "select ops.erased_agent_id(%s, 'red')", ORG_A)
    assert rows(at_one_instant, others, ORG_B, erased) == kept
    assert rows(at_one_instant, "select team, last_event_at from ops.agents where agent_id = %s", erased) == [
        ("red", None)
    ]


def test_what_is_not_counted_yet_is_erased_and_counts_for_the_team_all_the_same(at_one_instant):
    at_one_instant.execute("select ops.assign_team(%s, %s, 'red')", [ORG_A, ANNA])
    ingest(at_one_instant, blocked_push_of(ANNA))
    refresh(at_one_instant)
    ingest(at_one_instant, blocked_push_of(ANNA))
    fresh = shown_by_views(at_one_instant)
    assert erase(at_one_instant, ANNA).changed == 2
    assert shown_by_views(at_one_instant) == fresh
    assert refresh(at_one_instant).events == 1
    erased = scalar(at_one_instant, "select ops.erased_agent_id(%s, 'red')", ORG_A)
    assert rows(at_one_instant, "select agent_id, last_event_at from ops.agents") == [(erased, None)]
    assert rows(
        at_one_instant, "select distinct labels ->> 'team' from ops.series where event_type = 'hook_execution'"
    ) == [("red",)]


def test_all_erased_agents_of_a_team_become_one(database):
    for agent in (ANNA, BEN):
        database.execute("select ops.assign_team(%s, %s, 'red')", [ORG_A, agent])
        ingest(database, blocked_push_of(agent))
    refresh(database)
    erase(database, ANNA)
    erase(database, BEN)
    erased = scalar(database, "select ops.erased_agent_id(%s, 'red')", ORG_A)
    assert rows(database, "select distinct agent_id, metadata ->> 'agent_id' from public.telemetry_events") == [
        (erased, str(erased))
    ]
    with refused():
        erase(database, erased)


def test_an_open_alert_about_an_erased_agent_is_over_and_that_is_said(database):
    leave_traces(database)
    add_event(database, org_id=ORG_A, at="2026-03-10T15:01:00Z", outcome="success")
    erase(database, ANNA)
    erase(database, BEN)
    states_of = "select rule_name, state, subject = %s from ops.alerts where org_id = %s order by alert_id"
    erased = scalar(database, "select ops.erased_agent_id(%s, 'red')", ORG_A)
    nobody = scalar(database, "select ops.erased_agent_id(%s, null)", ORG_A)
    assert sorted(rows(database, states_of, str(erased), ORG_A)) == [
        ("silent", "resolved", False),
        ("silent", "resolved", True),
    ]
    run_jobs(database, AS_OF)
    said = scalar(
        database, "select message from ops.alert_deliveries where org_id = %s order by delivery_id desc limit 1", ORG_A
    )
    assert {fact["subject"] for fact in said["resolved"]} == {str(erased), str(nobody)}


def test_an_erasure_needs_the_key_where_there_are_pseudonyms(database):
    fill_two_orgs(database)
    assert erase(database, BEN, None).changed == 4
    anonymise(database)
    with refused("OP003"):
        erase(database, ANNA, None)
    assert erase(database, ANNA, None, without_key=True).counts == {"ops.agents": 1}
    assert erase(database, ANNA).changed == 3
    assert erase(database, ANNA).changed == 0


def test_a_pseudonym_can_be_erased_by_itself_without_the_key(database):
    fill_two_orgs(database)
    anonymise(database)
    assert erase(database, pseudonym(ANNA, ORG_A), None).changed == 3


def test_an_erasure_removes_what_a_rule_would_hash_and_what_one_has_hashed(database):
    only(database, "$.note", "hmac")
    event = add_event(database, "deploy", note="Anna", org_id=ORG_A, agent_id=ANNA)
    refresh(database)
    anonymise(database)
    assert metadata_of(database, event) == {"note": token("Anna", ORG_A)}
    erase(database, ANNA)
    assert metadata_of(database, event) == {}


def test_an_agent_that_labels_name_is_erased_only_after_they_do_not(database):
    database.execute("update ops.event_types set label_keys = '{agent_id}' where event_type = 'artifact'")
    add_event(
        database, "artifact", metadata=Jsonb({"agent_id": str(ANNA), "size_bytes": 1}), agent_id=ANNA, org_id=ORG_A
    )
    refresh(database)
    with refused():
        erase(database, ANNA)
    database.execute("update ops.event_types set label_keys = '{}' where event_type = 'artifact'")
    rebuild(database, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert erase(database, ANNA).changed == 1
    assert scalar(database, "select count(*) from ops.series where labels::text like %s", f"%{ANNA}%") == 0


@pytest.mark.parametrize("arguments", [{"org_id": None}, {"max_events": 0}])
def test_an_erasure_without_bounds_is_refused(database, arguments):
    with refused():
        erase(database, ANNA, **arguments)


def test_batches_of_an_erasure_leave_none_out_and_an_interrupted_one_is_finished_by_the_next(database):
    leave_traces(database)
    refresh(database)
    before = sorted_states(database)
    assert erase(database, ANNA, max_events=3).state == "more"
    assert scalar(database, "select count(*) from ops.agents where org_id = %s and agent_id = %s", ORG_A, ANNA) == 1
    rebuild(database, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert sorted_states(database) == before
    report, calls = erase(database, ANNA, max_events=3), 1
    while report.state == "more":
        report, calls = erase(database, ANNA, max_events=3, after_id=report.last_id), calls + 1
    assert calls > 5
    rebuild(database, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert sorted_states(database) == before
    assert erase(database, ANNA) == Batch("done", None, 0, 0, {})

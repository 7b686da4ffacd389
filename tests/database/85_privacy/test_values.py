"""What a rule makes of a value: paths, expressions and actions."""

from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import (
    NIL,
    NOON,
    add_event,
    ingest,
    refresh,
    refused,
    rows,
    scalar,
)
from support.privacy import ANNA, ORG_A, ORG_B, after, anonymise, metadata_of, only, token

pytestmark = pytest.mark.database


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

"""The rows that describe kinds of events: rules that would check nothing, or refuse everything, are refused themselves."""

import psycopg
import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from support.events import rows

pytestmark = pytest.mark.database


def describe(database: Connection, fields: object) -> None:
    database.execute(
        "insert into ops.event_types (event_type, description, fields) values ('deployment', 'A deployment.', %s)",
        [Jsonb(fields)],
    )


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"type": "text"},
        {"type": "number", "required": True},
        {"type": "text", "one_of": ["a", "b"], "required": False},
        {"type": "object", "keys": ["file", "line"]},
        {"type": "uuid"},
        {"type": "boolean"},
        {"type": "array"},
    ],
    ids=str,
)
def test_a_rule_that_is_checked_is_taken(database: Connection, rule: object) -> None:
    describe(database, {"stage": rule})


@pytest.mark.parametrize(
    "rule",
    [
        5,
        None,
        "text",
        [],
        {"type": "integer"},
        {"type": "string"},
        {"type": None},
        {"type": 5},
        {"one-of": ["a"]},
        {"Type": "text"},
        {"type": "text", "required": "yes"},
        {"type": "text", "required": None},
        {"one_of": ["a"]},
        {"type": "array", "one_of": ["a"]},
        {"type": "text", "one_of": []},
        {"type": "text", "one_of": "a"},
        {"type": "text", "one_of": None},
        {"keys": ["a"]},
        {"type": "text", "keys": ["a"]},
        {"type": "object", "keys": "a"},
        {"type": "object", "keys": [1]},
        {"type": "object", "keys": None},
    ],
    ids=str,
)
def test_a_rule_that_would_check_something_else_is_refused(database: Connection, rule: object) -> None:
    # Some rules cannot even be read as such, before the constraint is asked.
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.DataError)):
        describe(database, {"known": {"type": "text"}, "stage": rule})


def test_every_kind_that_ships_has_rules_that_are_understood(database: Connection) -> None:
    assert rows(database, "select event_type from ops.event_types where not ops.are_fields_understood(fields)") == []

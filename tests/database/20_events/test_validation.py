"""What makes an event valid: one rule for every way in, and the same answer alone, in a batch and on each version of Postgres."""

import json
from collections.abc import Mapping
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from opskpi.postgres import migrations
from support.event_borders import ACCEPTED, ARABIC, COLUMNS, NEIGHBOUR, REFUSED, answer, answers, checked
from support.events import Connection, rows, scalar
from support.postgres import Server

pytestmark = pytest.mark.database


@pytest.mark.parametrize(("text", "stored"), ACCEPTED, ids=range(len(ACCEPTED)))
def test_an_event_at_the_border_is_stored_the_same_whatever_comes_with_it(
    undone: Connection, text: str, stored: Mapping[str, object]
) -> None:
    alone, *in_company = answers(undone, text)
    assert alone[0] is None
    assert in_company == [alone] * len(in_company)
    (row,) = alone[1]
    columns = dict(zip(COLUMNS, row, strict=True))
    assert columns | dict(stored) == columns


@pytest.mark.parametrize(("text", "field"), REFUSED, ids=range(len(REFUSED)))
def test_an_event_beyond_the_border_is_refused_with_the_same_words_whatever_comes_with_it(
    undone: Connection, text: str, field: str
) -> None:
    alone, *in_company = answers(undone, text)
    assert alone[0] is not None
    assert (alone[0][0], alone[1]) == (field, [])
    assert alone[0][1]
    assert in_company == [alone] * len(in_company)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("datestyle", "SQL, DMY"),
        ("datestyle", "Postgres, MDY"),
        ("datestyle", "German"),
        ("timezone", "Asia/Tokyo"),
        ("timezone", "America/St_Johns"),
        ("timezone", "Z5"),
        ("timezone_abbreviations", "Australia"),
        ("intervalstyle", "sql_standard"),
        ("search_path", "pg_temp"),
    ],
)
def test_no_setting_of_a_session_changes_an_answer(undone: Connection, name: str, value: str) -> None:
    usual = checked(undone)
    undone.execute("select set_config(%s, %s, true)", [name, value])
    assert checked(undone) == usual
    for text, stored in ACCEPTED:
        refused, found = answer(undone, text)
        assert (refused, len(found)) == ({}, 1)
        assert found[0][1] == stored.get("event_timestamp", found[0][1])


LOCALES: dict[str, LiteralString] = {
    "15": "locale_provider icu icu_locale 'en-US' locale 'C'",
    "17": "locale_provider builtin builtin_locale 'C.UTF-8' locale 'C'",
    "18": "locale_provider builtin builtin_locale 'PG_UNICODE_FAST' locale 'C'",
}


def test_no_locale_of_the_database_changes_an_answer(undone: Connection, server: Server) -> None:
    """In some of them the digits and blanks of all scripts are those of a regular expression."""
    usual = checked(undone)
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
        admin.execute(
            sql.SQL("create database other_locale template template0 encoding 'UTF8' {}").format(
                sql.SQL(LOCALES[server.version])
            )
        )
    try:
        with psycopg.connect(server.dsn("other_locale"), autocommit=True) as connection:
            migrations.migrate(connection)
            assert scalar(connection, r"select %s ~ '^\d$'", "2".translate(ARABIC)) is (server.version != "17")
            assert checked(connection) == usual
            for text, field in REFUSED:
                refused, found = answer(connection, text)
                assert (refused[0][0], found) == (field, [])
    finally:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
            admin.execute("drop database other_locale with (force)")


def test_the_stored_rules_of_every_kind_are_those_that_its_fields_say(undone: Connection) -> None:
    stale = rows(
        undone,
        "select event_type from ops.event_types"
        " where shape::text <> ops.metadata_shape(fields)::text or rules <> ops.field_rules(fields)",
    )
    assert stale == []


@pytest.mark.parametrize(
    ("event_type", "reason"), [("", "must have 1 to 100 characters"), ("x" * 101, "must have 1 to 100 characters")]
)
def test_a_kind_whose_name_the_table_does_not_take_refuses_its_events_and_no_other(
    undone: Connection, event_type: str, reason: str
) -> None:
    undone.execute(
        "insert into ops.event_types (event_type, description) values (%s, 'A name out of bounds.')", [event_type]
    )
    refused, stored = answer(undone, NEIGHBOUR, json.dumps({"event_type": event_type}))
    assert (refused, len(stored)) == ({1: ("event_type", reason)}, 1)

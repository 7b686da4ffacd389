"""Sessions that were ended: known as long as their cookie lasts, once, and to nobody but the hub."""

from hashlib import sha256

import psycopg
import pytest

from support.events import scalar
from support.fixtures import ActingAs

SESSION, OTHER = sha256(b"one").digest(), sha256(b"other").digest()
END = "select ops.end_session(session_sha256 => %s, cookie_lasts => %s)"
HAS_ENDED = "select ops.session_has_ended(session_sha256 => %s)"


def test_a_session_that_was_ended_has_ended_and_no_other(database: psycopg.Connection) -> None:
    for _ in range(2):
        database.execute(END, [SESSION, "12 hours"])
    assert scalar(database, HAS_ENDED, SESSION) is True
    assert scalar(database, HAS_ENDED, OTHER) is False
    assert scalar(database, "select count(*) from ops.ended_sessions") == 1


def test_sessions_whose_cookie_has_expired_are_forgotten(database: psycopg.Connection) -> None:
    database.execute(
        "insert into ops.ended_sessions (session_sha256, ended_at, expires_at)"
        " values (%s, now() - interval '2 days', now() - interval '1 day')",
        [OTHER],
    )
    database.execute(END, [SESSION, "12 hours"])
    assert scalar(database, "select array_agg(session_sha256) from ops.ended_sessions") == [SESSION]


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
@pytest.mark.parametrize("query", ["select ops.session_has_ended('')", "select ops.end_session('', '1 hour')"])
def test_no_role_of_an_api_ends_or_asks_for_sessions(
    database: psycopg.Connection, acting_as: ActingAs, role: str, query: str
) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), acting_as(database, role):
        database.execute(query.encode())


@pytest.mark.own_database
def test_a_read_only_transaction_finds_a_key_and_notes_no_use(database: psycopg.Connection) -> None:
    database.execute(
        "select ops.create_api_key(org_id => %s, name => 'x', key_id => %s, key_sha256 => %s, scopes => '{read}')",
        ["00000000-0000-0000-0000-000000000000", "0" * 12, SESSION],
    )
    with database.transaction():
        database.execute("set local transaction_read_only = on")
        assert scalar(database, "select count(*) from ops.find_api_key(key_id => %s)", "0" * 12) == 1
    assert scalar(database, "select last_used_at from ops.api_keys") is None

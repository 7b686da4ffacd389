"""API keys: what is found of a key, and what a transaction may require of it."""

from uuid import UUID

import psycopg
import pytest

from support.fixtures import CHECKOUT, ActingAs

ORG = UUID("00000000-0000-4000-8000-00000000000a")
REQUIRE = "select ops.require_api_key('0123456789ab', %s, sha256('secret'), '{ingest,read}')"
FIND = "select count(*) from ops.find_api_key('0123456789ab')"


@pytest.fixture(autouse=True)
def laptop_key(database: psycopg.Connection) -> None:
    database.execute(
        "select ops.create_api_key(%s, 'laptop', '0123456789ab', sha256('secret'), '{ingest,read}')", [ORG]
    )


def test_a_live_key_as_it_was_found_is_what_a_transaction_requires(database: psycopg.Connection) -> None:
    database.execute(REQUIRE, [ORG])


@pytest.mark.parametrize(
    ("change", "is_live"),
    [
        ("set revoked_at = now()", False),
        ("set created_at = '2026-01-01', expires_at = '2026-01-02'", False),
        ("set key_id = 'ba9876543210'", False),
        ("set org_id = gen_random_uuid()", True),
        ("set key_sha256 = sha256('another')", True),
        ("set scopes = '{ingest}'", True),
    ],
)
def test_a_key_that_is_not_live_or_another_now_ends_the_transaction(
    database: psycopg.Connection, change: str, *, is_live: bool
) -> None:
    database.execute(f"update ops.api_keys {change}".encode())
    assert database.execute(FIND).fetchone() == (int(is_live),)
    with pytest.raises(psycopg.Error) as refused, database.transaction():
        database.execute(REQUIRE, [ORG])
    assert (refused.value.sqlstate, refused.value.diag.message_hint) == ("PT401", "Look the key up again.")


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_no_role_of_an_api_asks_whether_a_key_is_live(
    database: psycopg.Connection, acting_as: ActingAs, role: str
) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), acting_as(database, role):
        database.execute(REQUIRE, [ORG])


def test_after_the_upgrade_a_login_that_looks_keys_up_may_require_them(database: psycopg.Connection) -> None:
    script = (CHECKOUT / "supabase/migrations/20261201000180_opskpi_load.sql").read_text("utf-8")
    database.execute("create role own_hub; grant execute on function ops.find_api_key(text) to own_hub")
    database.execute(script[script.rindex("do $$") :].encode())
    may = "select has_function_privilege(%s, 'ops.require_api_key(text, uuid, bytea, text[])', 'execute')"
    logins = ("own_hub", "anon", "authenticated", "service_role")
    assert [database.execute(may, [login]).fetchone() for login in logins] == [(True,), (False,), (False,), (False,)]

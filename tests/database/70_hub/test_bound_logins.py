"""Binding a login to an org, and taking that back."""

from collections.abc import Iterator
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from opskpi.postgres import migrations
from support.events import add_event, rows, scalar
from support.postgres import Database

ORG_A, ORG_B = uuid4(), uuid4()


@pytest.fixture
def login(database: psycopg.Connection) -> Iterator[str]:
    """Make a role that logs in, and remove it afterwards."""
    name = f"Grafana's {uuid4()}"
    database.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
    yield name
    database.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(name)))


def orgs_seen(database: Database, login: str) -> set[UUID]:
    with psycopg.connect(database.dsn, user=login, autocommit=True) as viewer:
        return {org for (org,) in viewer.execute("select org_id from public.telemetry_events")}


def test_a_login_reads_the_org_it_is_bound_to_and_after_that_another(
    migrated_database: Database, database: psycopg.Connection, login: str
) -> None:
    for org in (ORG_A, ORG_B):
        add_event(database, "workflow_run", "2026-01-05T10:00Z", org_id=org)
    for org in (ORG_A, ORG_B, ORG_B):
        database.execute("select ops.bind_login(%s, %s)", [login, org])
        assert orgs_seen(migrated_database, login) == {org}
    assert rows(database, "select login, only_org_id from ops.bound_logins") == [(login, ORG_B)]


def test_a_login_that_is_bound_no_more_reads_nothing(
    migrated_database: Database, database: psycopg.Connection, login: str
) -> None:
    add_event(database, "workflow_run", "2026-01-05T10:00Z")
    database.execute("select ops.bind_login(%s, %s)", [login, UUID(int=0)])
    assert orgs_seen(migrated_database, login) == {UUID(int=0)}
    assert scalar(database, "select ops.unbind_login(%s)", login) is True
    assert scalar(database, "select ops.unbind_login(%s)", login) is False
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        orgs_seen(migrated_database, login)
    assert rows(database, "select polname from pg_policy where right(polname, 6) = '_bound'") == []


def test_two_logins_of_two_orgs_see_one_each(
    migrated_database: Database, database: psycopg.Connection, login: str
) -> None:
    for org in (ORG_A, ORG_B):
        add_event(database, "workflow_run", "2026-01-05T10:00Z", org_id=org)
    other = sql.Identifier(f"other {uuid4()}")
    database.execute(sql.SQL("create role {} login").format(other))
    try:
        database.execute("select ops.bind_login(%s, %s)", [login, ORG_A])
        database.execute("select ops.bind_login(%s, %s)", [other.as_string().strip('"'), ORG_B])
        assert orgs_seen(migrated_database, login) == {ORG_A}
        assert orgs_seen(migrated_database, other.as_string().strip('"')) == {ORG_B}
    finally:
        database.execute(sql.SQL("drop owned by {0}; drop role {0}").format(other))


def test_the_policies_of_an_earlier_readme_are_named_by_the_doctor_and_go_when_the_login_is_bound(
    database: psycopg.Connection, login: str
) -> None:
    kinds: dict[str, LiteralString] = {"_sees": "permissive", "_only": "restrictive"}
    for name, kind in kinds.items():
        database.execute(
            sql.SQL("create policy {} on public.telemetry_events as {} for select to {} using (org_id = {})").format(
                sql.Identifier(login + name), sql.SQL(kind), sql.Identifier(login), sql.Literal(ORG_A)
            )
        )
    assert rows(database, "select passed from ops.doctor() where check_name = 'bound logins'") == [(False,)]
    database.execute("select ops.bind_login(%s, %s)", [login, ORG_B])
    assert rows(database, "select polname from pg_policy where polname like %s", f"{login}%") == []
    assert rows(database, "select passed from ops.doctor() where check_name = 'bound logins'") == [(True,)]


@pytest.mark.parametrize(
    "attributes", ["nologin", "login superuser", "login bypassrls", "login createrole", "login in role service_role"]
)
def test_a_role_that_row_level_security_does_not_bind_is_refused(database: psycopg.Connection, attributes: str) -> None:
    name = f"strong {uuid4()}"
    database.execute(f'create role "{name}" {attributes}')  # type: ignore[arg-type]
    try:
        with pytest.raises(psycopg.Error) as refusal:
            database.execute("select ops.bind_login(%s, %s)", [name, ORG_A])
        assert (refusal.value.sqlstate, bool(refusal.value.diag.message_hint)) == ("OP001", True)
    finally:
        database.execute(f'drop role "{name}"')  # type: ignore[arg-type]


@pytest.mark.parametrize("org", [ORG_A, None])
@pytest.mark.parametrize("name", ["nobody has that name", "authenticator", "authenticated", "postgres", None])
def test_what_is_no_login_of_its_own_is_refused(database: psycopg.Connection, name: str | None, org: object) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        database.execute("select ops.bind_login(%s, %s)", [name, org])
    assert refusal.value.sqlstate == "OP001"
    assert rows(database, "select from ops.bound_logins") == []


def test_the_doctor_names_a_bound_login_that_was_renamed_or_became_too_strong(
    database: psycopg.Connection, login: str
) -> None:
    def said() -> tuple[object, ...]:
        return rows(database, "select passed, detail from ops.doctor() where check_name = 'bound logins'")[0]

    assert said()[0] is True
    database.execute("select ops.bind_login(%s, %s)", [login, ORG_A])
    assert said()[0] is True
    database.execute(sql.SQL("grant service_role to {}").format(sql.Identifier(login)))
    assert said()[0] is False
    assert login in str(said()[1])
    database.execute(sql.SQL("revoke service_role from {}").format(sql.Identifier(login)))
    database.execute("update ops.bound_logins set login = 'another' where true")
    assert said() == (False, "another: there is no such role")


def test_migrate_guards_the_tables_that_were_made_since(database: psycopg.Connection, login: str) -> None:
    database.execute("select ops.bind_login(%s, %s)", [login, ORG_A])
    database.execute("create table ops.made_later (org_id uuid)")
    database.execute("create policy made_later_all on ops.made_later to authenticated using (true)")
    database.execute("create table ops.made_later_for_nobody (org_id uuid)")
    try:
        migrations.migrate(database)
        assert rows(database, "select polname from pg_policy where right(polname, 6) = '_bound'") == [
            ("made_later_org_id_bound",)
        ]
        assert scalar(database, "select ops.unbind_login(%s)", login)
        assert rows(database, "select polname from pg_policy where right(polname, 6) = '_bound'") == []
    finally:
        database.execute("drop table ops.made_later, ops.made_later_for_nobody")

"""What a login that is bound to an org reads and writes, whatever SQL it sends: against everything in the catalog."""

import json
from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from support.fixtures import ActingAs
from support.postgres import Database
from support.tenants import (
    MARKS,
    ORG_A,
    ORG_B,
    Relation,
    answers_or_codes,
    callable_by,
    changes_of,
    code_of,
    marks_in,
    readable,
    relations,
    rows_seen_in,
)

LOGIN = "reader_of_a"
FORGED = json.dumps(
    {"role": "service_role", "sub": "x", "app_metadata": {"org_id": ORG_B, "scopes": ["ingest", "read", "admin"]}}
)
FORGE = "select set_config('request.jwt.claims', %s, false)"
# What a viewer of Grafana may send before anything else.
PREPARED: dict[str, list[LiteralString]] = {
    "as it logs in": [],
    "with forged claims": [FORGE],
    "as authenticated": ["set role authenticated"],
    "as authenticated with forged claims": ["set role authenticated", FORGE],
    "as authenticated for the session with forged claims": [
        "set session authorization default",
        "set role authenticated",
        FORGE,
    ],
}


@pytest.fixture(scope="module")
def bound(tenants: Database) -> Iterator[Database]:
    """Bind a login to org A for the tests of this module."""
    with psycopg.connect(tenants.dsn, autocommit=True) as owner:
        owner.execute(sql.SQL("create role {} login").format(sql.Identifier(LOGIN)))
        owner.execute("select ops.bind_login(%s, %s)", [LOGIN, ORG_A])
        yield tenants
        owner.execute("select ops.unbind_login(%s)", [LOGIN])
        owner.execute(sql.SQL("drop role {}").format(sql.Identifier(LOGIN)))


@pytest.fixture(params=PREPARED)
def viewer(bound: Database, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """Connect as that login, which then has taken the role and the claims that it can."""
    with psycopg.connect(bound.dsn, user=LOGIN, autocommit=True) as connection:
        for statement in PREPARED[request.param]:
            connection.execute(statement, [FORGED] if "%s" in statement else [])
        yield connection


def test_it_reads_what_a_user_of_its_org_reads(
    owner: psycopg.Connection, viewer: psycopg.Connection, acting_as: ActingAs
) -> None:
    wrong: dict[str, object] = {}
    for relation in readable(owner, "authenticated"):
        with acting_as(owner, "authenticated", org=ORG_A):
            theirs = rows_seen_in(owner, relation)
        seen = rows_seen_in(viewer, relation)
        # Who is bound is told to whom it concerns.
        if relation.name == "ops.bound_logins":
            assert len(seen) == 1
        elif marks_in("\n".join(seen)) - {ORG_A} or len(seen) != len(theirs):
            wrong[relation.name] = (len(seen), len(theirs))
    # The requests that are counted are for the policies of those who send.
    assert set(wrong) == {"ops.request_counts", "ops.key_requests"}


def test_no_function_tells_it_of_another_org(owner: psycopg.Connection, viewer: psycopg.Connection) -> None:
    granted = [function for function in callable_by(owner, "authenticated") if function.volatility != "v"]
    told = answers_or_codes(viewer, granted)
    assert {name: marks for name, text in told.items() if (marks := marks_in(text)) - {ORG_A}} == {}
    assert len({name for name, text in told.items() if ORG_A in marks_in(text)}) > 20


def test_no_function_that_writes_writes_for_it(owner: psycopg.Connection, viewer: psycopg.Connection) -> None:
    event = Jsonb([{"event_type": "audit_complete"}])
    named: dict[str, tuple[LiteralString, list[object]]] = {
        "ingest": ("select public.ingest_events(%s::text::json)", [json.dumps(event.obj)]),
        "collect": ("select ops.collect_events(%s)", [event]),
        "silence": ("select public.silence_own_alerts('*', now() + interval '1 hour', 'quiet')", []),
        "silence of another org": ("select ops.silence_alerts('*', now() + interval '3 days', 'a', 'b', %s)", [ORG_B]),
        "silence of its own org": ("select ops.silence_alerts('*', now() + interval '3 days', 'a', 'b', %s)", [ORG_A]),
        "silence of all": ("select ops.silence_alerts('*', now() + interval '3 days', 'a', 'b')", []),
        "policy": ("select public.set_policy('{}')", []),
        "policy of another org": ("select public.set_policy('{}', null, %s)", [ORG_B]),
        "request": ("select ops.count_request(%s, array[gen_random_uuid()])", [ORG_B]),
        "request of a key": ("select ops.count_key_request(%s)", [ORG_B]),
    }
    for name, (statement, parameters) in named.items():
        with pytest.raises(psycopg.Error) as refusal, viewer.transaction(force_rollback=True):
            viewer.execute(statement, parameters)
        assert refusal.value.sqlstate in {"42501", "PT403"}, (name, refusal.value)
    # All others, with arguments that ask for nothing: no transaction of theirs got as far as writing a row.
    for function in callable_by(owner, "authenticated"):
        if function.volatility == "v":
            with viewer.transaction(force_rollback=True):
                code_of(viewer, sql.SQL(f"select {function.call}"))  # type: ignore[arg-type]
                assert viewer.execute("select pg_current_xact_id_if_assigned()").fetchone() == (None,), function.name


def test_it_writes_no_row_of_any_org_into_any_table(owner: psycopg.Connection, viewer: psycopg.Connection) -> None:
    tables = [relation for relation in relations(owner) if relation.kind in ("r", "p")]
    written: dict[str, list[str]] = {}
    for table in tables:
        for statement in [statement for _, statement in changes_of(table)] + list(insertions(owner, table)):
            try:
                with viewer.transaction(force_rollback=True):
                    if viewer.execute(statement).rowcount:
                        written.setdefault(table.name, []).append(statement.as_string(viewer))
            except psycopg.errors.InsufficientPrivilege:
                continue
            except psycopg.Error as error:
                # Refused for another reason, but not before the policies were asked.
                written.setdefault(table.name, []).append(str(error))
    assert written == {}


def insertions(owner: psycopg.Connection, table: Relation) -> Iterator[sql.Composed]:
    """Yield statements that add a copy of a row of each org in the columns that authenticated may give."""
    granted = owner.execute(
        "select attname::text, attname ~ '(^|_)org_id$' from pg_attribute where attrelid = %s::regclass and attnum > 0"
        " and not attisdropped and has_column_privilege('authenticated', attrelid, attnum, 'insert')",
        [table.name],
    ).fetchall()
    names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in granted)
    for column in [name for name, is_tenant in granted if is_tenant]:
        for org in MARKS:
            query = sql.SQL("select to_jsonb(kept) from {} as kept where {} = %s limit 1")
            [(row,)] = owner.execute(query.format(table.source, sql.Identifier(column)), [org]).fetchall()
            yield sql.SQL("insert into {0} ({1}) select {1} from jsonb_populate_record(null::{0}, {2})").format(
                table.source, names, sql.Literal(Jsonb(row))
            )


@pytest.mark.parametrize(
    "statement",
    [
        "set role service_role",
        "set role postgres",
        "set session authorization postgres",
        "select ops.unbind_login('reader_of_a')",
        "select ops.bind_login('reader_of_a', gen_random_uuid())",
        "select ops.guard_tenants()",
        "delete from ops.bound_logins where true",
        "update ops.bound_logins set only_org_id = gen_random_uuid() where true",
        "insert into ops.bound_logins (login, only_org_id) values ('x', gen_random_uuid())",
        "alter table ops.alert_silences disable row level security",
        "create schema mine",
    ],
)
def test_it_does_not_get_out(viewer: psycopg.Connection, statement: LiteralString) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        viewer.execute(statement)


def test_without_row_security_it_is_refused_and_not_shown_everything(viewer: psycopg.Connection) -> None:
    viewer.execute("set row_security = off")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        viewer.execute("select * from public.telemetry_events")


def test_what_it_sees_of_a_table_that_asks_nobody_is_of_its_org_once_migrate_has_run(
    owner: psycopg.Connection, viewer: psycopg.Connection
) -> None:
    owner.execute("create table ops.made_later (tenant_org_id uuid, note text)")
    try:
        owner.execute("insert into ops.made_later select unnest(%s::uuid[]), 'note'", [[*MARKS, None]])
        owner.execute("alter table ops.made_later enable row level security")
        owner.execute("create policy made_later_all on ops.made_later to authenticated using (true)")
        owner.execute("grant select, insert on ops.made_later to authenticated")
        assert owner.execute("select passed from ops.doctor() where check_name = 'bound logins'").fetchone() == (False,)
        assert owner.execute("select ops.guard_tenants(), ops.guard_tenants()").fetchone() == (1, 0)
        assert owner.execute("select passed from ops.doctor() where check_name = 'bound logins'").fetchone() == (True,)
        assert viewer.execute("select tenant_org_id::text from ops.made_later").fetchall() == [(ORG_A,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            viewer.execute("insert into ops.made_later values (%s, 'forged')", [ORG_A])
    finally:
        owner.execute("drop table ops.made_later")

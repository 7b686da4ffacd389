"""What each kind of caller is told and may write: users, keys with some scopes, anonymous sign-ins, against everything in the catalog."""

import json

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

from support.events import scalar
from support.fixtures import ActingAs
from support.identities import IDENTITIES, READ_BY_ALL, READ_WITH, WRITTEN_WITH, Identity
from support.tenants import (
    DENIED,
    MARKS,
    NIL_ORG,
    ORG_A,
    ORG_B,
    Relation,
    answers_or_codes,
    as_owner_within,
    callable_by,
    code_of,
    ingest_as_api,
    marks_in,
    readable,
    relations,
    rows_seen_in,
    tenant_columns,
)

each_identity = pytest.mark.parametrize("identity", IDENTITIES, ids=lambda identity: identity.name)


def test_every_column_that_names_a_tenant_is_recognised_by_its_name_and_has_rows_of_every_org(
    owner: psycopg.Connection,
) -> None:
    holding = {(found.table, found.column) for found in tenant_columns(owner)}
    recognised = set(owner.execute("select relation::text, column_name from ops.tenant_columns()").fetchall())
    assert holding == recognised
    for table, column in recognised:
        with owner.cursor(row_factory=scalar_row) as cursor:
            names = sql.Identifier(column), sql.Identifier(*table.split("."))
            orgs = cursor.execute(sql.SQL("select distinct {}::text from {}").format(*names)).fetchall()
        assert set(MARKS) <= set(orgs), (table, column)


@each_identity
def test_a_caller_sees_what_the_scopes_allow_of_the_own_org_and_nothing_of_others(
    owner: psycopg.Connection, acting_as: ActingAs, identity: Identity
) -> None:
    wrong: dict[str, object] = {}
    for relation in readable(owner, "authenticated"):
        with acting_as(owner, "authenticated", **identity.claims):
            seen = rows_seen_in(owner, relation)
            as_owner_within(owner)
            theirs = rows_that_the_scopes_allow(owner, relation, identity)
        if marks_in("\n".join(seen)) - {identity.org} or (theirs is not None and seen != theirs):
            wrong[relation.name] = (seen[:3], theirs and theirs[:3])
    assert wrong == {}


def rows_that_the_scopes_allow(owner: psycopg.Connection, relation: Relation, identity: Identity) -> list[str] | None:
    """Return the rows that a caller is to see; None where a view only must not tell of others."""
    if relation.name == "ops.bound_logins":
        return []
    if relation.kind == "v":
        # Some are of tables that a key without read may see: the alerts it may silence, the policy.
        allowed = {"read": rows_seen_in(owner, relation, identity.org)} if relation.has_org and identity.org else {}
        return allowed.get("read") if "read" in identity.scopes else None if identity.scopes else []
    if relation.name in READ_BY_ALL:
        return None
    if not identity.scopes & READ_WITH.get(relation.name, {"read"}):
        return []
    if relation.name == "ops.alert_silences":
        return None
    return rows_seen_in(owner, relation, identity.org if relation.has_org else None)


@each_identity
def test_a_function_tells_a_caller_what_the_scopes_allow_of_the_own_org_and_nothing_of_others(
    owner: psycopg.Connection, acting_as: ActingAs, identity: Identity
) -> None:
    granted = [function for function in callable_by(owner, "authenticated") if function.volatility != "v"]
    with acting_as(owner, "authenticated", **identity.claims):
        told = answers_or_codes(owner, granted)
    telling = {name: marks for name, text in told.items() if (marks := marks_in(text))}
    assert {name: marks for name, marks in telling.items() if marks - {identity.org}} == {}
    if not identity.scopes:
        assert telling == {}
    elif "read" not in identity.scopes:
        # Which org it is of itself is no secret; the hooks must know their policy.
        assert {name for name, text in told.items() if MARKS[ORG_A] in text} == {"current_policy(uuid)"}
    refused = {name: text for name, text in told.items() if text[:6] in {"PT403:", "42501:"}}
    assert "read" not in identity.scopes or refused == {}


@each_identity
def test_a_caller_adds_rows_only_to_the_own_org_and_only_with_the_scope(
    owner: psycopg.Connection, acting_as: ActingAs, identity: Identity
) -> None:
    tables = {relation.name: relation for relation in relations(owner) if relation.kind in ("r", "p")}
    added: set[tuple[str, str]] = set()
    for name, column in tenant_columns_of_tables(owner):
        for org in MARKS:
            query = sql.SQL("select to_jsonb(kept) from {} as kept where {} = %s limit 1")
            with owner.cursor(row_factory=scalar_row) as cursor:
                names = tables[name].source, sql.Identifier(column)
                [row] = cursor.execute(query.format(*names), [org]).fetchall()
            with acting_as(owner, "authenticated", **identity.claims):
                if code_of(owner, copy_of(owner, tables[name], row)) == "":
                    added.add((name, org))
    assert added == {
        (name, identity.org) for name, scope in WRITTEN_WITH.items() if scope in identity.scopes and identity.org
    }


def tenant_columns_of_tables(owner: psycopg.Connection) -> list[tuple[str, str]]:
    return owner.execute("select relation::text, column_name from ops.tenant_columns() order by 1, 2").fetchall()


def copy_of(owner: psycopg.Connection, table: Relation, row: dict[str, object]) -> sql.Composed:
    """Return the statement that adds a row like one that is there, under keys of its own, in the columns that may be given."""
    fresh = {
        "event_id": "dddddddd-0000-4000-8000-00000000000d",
        # A pseudonym: only such agents may be added.
        "agent_id": scalar(owner, "select ops.sealed_uuid(sha256('new'))::text")
        if table.name == "ops.agents"
        else None,
        "token_id": "dddddddd-0000-4000-8000-00000000000d",
        "version": 999,
        "workflow_name": "new",
    }
    if table.name == "ops.request_counts":
        fresh["agent_id"] = "dddddddd-0000-4000-8000-00000000000d"
    row = row | {key: value for key, value in fresh.items() if key in row and value is not None}
    columns = [
        column
        for column in table.columns
        if scalar(owner, "select has_column_privilege('authenticated', %s, %s, 'insert')", table.name, column)
    ] or table.columns
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    return sql.SQL("insert into {0} ({1}) select {1} from jsonb_populate_record(null::{0}, {2})").format(
        table.source, names, sql.Literal(Jsonb(row))
    )


@each_identity
def test_a_caller_changes_and_removes_no_row_of_another_org(
    owner: psycopg.Connection, acting_as: ActingAs, identity: Identity
) -> None:
    changed: dict[str, set[str]] = {}
    for name, column in tenant_columns_of_tables(owner):
        table = sql.SQL(name)  # type: ignore[arg-type]
        tenant = sql.Identifier(column)
        for statement in (
            "update {0} set {1} = {1} where true returning {1}::text",
            "delete from {0} where true returning {1}::text",
        ):
            with acting_as(owner, "authenticated", **identity.claims):
                try:
                    with owner.transaction(force_rollback=True), owner.cursor(row_factory=scalar_row) as cursor:
                        rows = cursor.execute(sql.SQL(statement).format(table, tenant)).fetchall()  # type: ignore[arg-type]
                        changed.setdefault(name, set()).update(rows)
                except psycopg.errors.InsufficientPrivilege:
                    continue
    expected = {"ops.request_counts": {identity.org} if "ingest" in identity.scopes else set[str]()}
    assert changed == expected


@each_identity
def test_a_function_that_writes_asks_for_the_scope(
    owner: psycopg.Connection, acting_as: ActingAs, identity: Identity
) -> None:
    event = {"tag": "made-by-a-caller"}
    silence = "select public.silence_own_alerts('*', now() + interval '1 hour', 'quiet')"
    with acting_as(owner, "authenticated", **identity.claims):
        may = {
            "ingest": code_of(owner, sql.SQL("select public.ingest_events('[]')")),
            "silence": code_of(owner, sql.SQL(silence)),
            "policy": code_of(owner, sql.SQL("select public.set_policy('{}')")),
            "collect": code_of(owner, sql.SQL("select ops.collect_events('[]')")),
        }
        everybody = "select ops.silence_alerts('*', now() + interval '1 hour', 'quiet', 'me'"
        # Those of another org, and those of all.
        assert code_of(owner, sql.SQL(f"{everybody}, '{ORG_B}')")) == DENIED
        assert code_of(owner, sql.SQL(f"{everybody})")) == DENIED
    admin, ingest = ("" if scope in identity.scopes else "PT403" for scope in ("admin", "ingest"))
    assert may == {"ingest": ingest, "collect": ingest, "silence": admin, "policy": admin}
    if "ingest" in identity.scopes:
        with acting_as(owner, "authenticated", **identity.claims):
            assert ingest_as_api(owner, **event)["accepted"] == 1
            assert ingest_as_api(owner, org_id=ORG_B, **event)["accepted"] == 0


def test_an_anonymous_sign_in_is_a_user_like_others_where_the_setting_allows_it(
    owner: psycopg.Connection, acting_as: ActingAs
) -> None:
    with owner.transaction(force_rollback=True):
        owner.execute("update ops.settings set value = 'allow' where name = 'anonymous_sign_ins'")
        for claims, org in (({}, NIL_ORG), ({"app_metadata": {"org_id": ORG_A}}, ORG_A)):
            owner.execute("set local role authenticated")
            owner.execute(
                "select set_config('request.jwt.claims', %s, true)", [json.dumps({"is_anonymous": True} | claims)]
            )
            assert scalar(owner, "select array_agg(distinct org_id::text) from telemetry_events") == [org]
            assert ingest_as_api(owner)["accepted"] == 1
            owner.execute("set local role none")


def test_a_setting_of_anonymous_sign_ins_that_means_nothing_is_refused(owner: psycopg.Connection) -> None:
    assert code_of(owner, sql.SQL("update ops.settings set value = 'yes' where name = 'anonymous_sign_ins'")) == "23514"

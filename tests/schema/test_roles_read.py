"""Who may see what: every role of the API against all that the catalog lists in `public` and `ops`."""

from typing import LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from support.fixtures import ActingAs
from support.tenants import (
    API_ROLES,
    DENIED,
    MALFORMED_CLAIMS,
    MARKS,
    NIL_ORG,
    ORG_A,
    ORG_B,
    as_owner_within,
    code_of,
    marks_in,
    orgs_in,
    readable,
    relations,
    rows_seen_in,
)


def test_every_org_has_rows_in_everything_that_is_kept_by_org(owner: psycopg.Connection) -> None:
    lacking = {
        relation.name: sorted(set(MARKS) - seen)
        for relation in readable(owner, "authenticated")
        if relation.has_org and (seen := set(map(str, orgs_in(owner, relation)))) < set(MARKS)
    }
    assert lacking == {}


def test_there_are_counted_and_uncounted_events_in_partitions_of_both_kinds(
    owner: psycopg.Connection,
) -> None:
    assert owner.execute(
        "select distinct id > ops.cursor_id(), tableoid::regclass::text from telemetry_events order by 1"
    ).fetchall() == [(False, "ops.telemetry_events_2026_01"), (True, "ops.telemetry_events_default")]


@pytest.mark.parametrize("role", ["anon", "authenticator"])
def test_anon_reads_nothing(owner: psycopg.Connection, acting_as: ActingAs, role: str) -> None:
    everything = relations(owner)
    with acting_as(owner, role, org=ORG_A):
        codes = {
            relation.name: code_of(owner, sql.SQL("select from {}").format(relation.source)) for relation in everything
        }
    assert set(codes.values()) == {DENIED}, codes


@pytest.mark.parametrize("role", API_ROLES)
def test_nobody_but_the_owner_reads_a_partition_or_what_is_not_granted(
    owner: psycopg.Connection, acting_as: ActingAs, role: str
) -> None:
    granted = {relation.name for relation in readable(owner, role)}
    closed = [relation for relation in relations(owner) if relation.name not in granted]
    assert {relation.name for relation in relations(owner) if relation.is_partition} <= {
        relation.name for relation in closed
    }
    with acting_as(owner, role, org=ORG_A):
        codes = {
            relation.name: code_of(owner, sql.SQL("select * from {}").format(relation.source)) for relation in closed
        }
    assert set(codes.values()) == {DENIED}, codes


@pytest.mark.parametrize(
    ("org", "claims"),
    [
        pytest.param(ORG_A, {"app_metadata": {"org_id": ORG_A}}, id="org A"),
        pytest.param(ORG_B, {"app_metadata": {"org_id": ORG_B}}, id="org B"),
        pytest.param(ORG_A, {"app_metadata": {"org_id": ORG_A.upper()}}, id="org A in upper case"),
        pytest.param(NIL_ORG, {}, id="no org"),
        pytest.param(NIL_ORG, {"app_metadata": {}}, id="no org in the app_metadata"),
        pytest.param(NIL_ORG, {"app_metadata": {"org_id": None}}, id="null for an org"),
        pytest.param(NIL_ORG, {"app_metadata": ORG_A}, id="app_metadata is no object"),
        pytest.param(NIL_ORG, {"user_metadata": {"org_id": ORG_A}}, id="org A in the user_metadata only"),
        pytest.param(NIL_ORG, {"org_id": ORG_A}, id="org A beside the app_metadata"),
        pytest.param(
            ORG_B,
            {"app_metadata": {"org_id": ORG_B}, "user_metadata": {"org_id": ORG_A}, "org_id": ORG_A},
            id="org B, org A in the user_metadata",
        ),
    ],
)
def test_a_user_sees_all_of_the_own_org_and_nothing_else(
    owner: psycopg.Connection, acting_as: ActingAs, org: str, claims: dict[str, object]
) -> None:
    wrong: dict[str, object] = {}
    for relation in readable(owner, "authenticated"):
        with acting_as(owner, "authenticated", **claims):
            seen = rows_seen_in(owner, relation)
            as_owner_within(owner)
            theirs = rows_seen_in(owner, relation, org) if relation.has_org else seen
        if seen != theirs or marks_in("\n".join(seen)) - {org}:
            wrong[relation.name] = (len(seen), len(theirs), seen[:3])
    assert wrong == {}


def test_after_a_transaction_of_the_api_a_user_without_claims_has_the_nil_org(
    owner: psycopg.Connection, acting_as: ActingAs
) -> None:
    with acting_as(owner, "authenticated"):
        owner.execute("select set_config('request.jwt.claims', '', true)")
        orgs = owner.execute("select distinct org_id from telemetry_events").fetchall()
    assert orgs == [(UUID(NIL_ORG),)]


@pytest.mark.parametrize("claim", MALFORMED_CLAIMS, ids=repr)
def test_a_user_with_a_malformed_org_sees_nothing_of_any_org(
    owner: psycopg.Connection, acting_as: ActingAs, claim: object
) -> None:
    tenants_own = [relation for relation in readable(owner, "authenticated") if relation.has_org]
    with acting_as(owner, "authenticated", app_metadata={"org_id": claim}):
        seen = {relation.name: rows for relation in tenants_own if (rows := rows_seen_in(owner, relation))}
    assert seen == {}


def test_what_is_not_kept_by_org_says_nothing_of_any_org(owner: psycopg.Connection) -> None:
    telling = {
        relation.name: marks
        for relation in readable(owner, "authenticated")
        # The policies of these tell of a tenant's silences and of the kinds of events that nobody described: see the identities.
        if not relation.has_org
        and relation.name not in {"ops.alert_silences", "ops.retention_rules", "ops.removed_events"}
        and (marks := marks_in("\n".join(rows_seen_in(owner, relation))))
    }
    assert telling == {}


def test_the_service_role_sees_what_the_owner_sees(owner: psycopg.Connection, acting_as: ActingAs) -> None:
    wrong: dict[str, tuple[int, int]] = {}
    granted = readable(owner, "service_role")
    names = {relation.name for relation in granted}
    assert {relation.name for relation in readable(owner, "authenticated")} <= names
    for relation in granted:
        with acting_as(owner, "service_role"):
            seen = rows_seen_in(owner, relation)
            as_owner_within(owner)
            everything = rows_seen_in(owner, relation)
        if seen != everything:
            wrong[relation.name] = (len(seen), len(everything))
    assert wrong == {}


@pytest.mark.parametrize("column", ["quiet_id", "quiet_writers", "*"])
def test_a_user_is_not_told_who_writes_now_nor_which_ids_were_drawn(
    owner: psycopg.Connection, acting_as: ActingAs, column: LiteralString
) -> None:
    with acting_as(owner, "authenticated", org=ORG_A):
        assert code_of(owner, sql.SQL(f"select {column} from ops.cursors")) == DENIED
        assert code_of(owner, sql.SQL("select moved_at from ops.cursors")) == ""
        assert code_of(owner, sql.SQL("select writers from ops.event_gaps")) == DENIED
        assert code_of(owner, sql.SQL("select ids from ops.event_gaps")) == ""

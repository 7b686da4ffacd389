"""Who may write what: rows, events and audits, by every role of the API."""

import json
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from support.fixtures import ActingAs
from support.tenants import (
    API_ROLES,
    DENIED,
    MALFORMED_CLAIMS,
    NIL_ORG,
    ORG_A,
    ORG_B,
    WRITES,
    as_owner_within,
    changes_of,
    code_of,
    ingest_as_api,
    relations,
)


@pytest.mark.parametrize("role", API_ROLES)
def test_a_role_may_write_what_is_listed_here_and_nothing_else(owner: psycopg.Connection, role: str) -> None:
    granted = owner.execute(
        """
        select granted.name, granted.privilege_type
        from (
          select class.oid::regclass::text as name, (aclexplode(class.relacl)).*
          from pg_class as class
          where class.relnamespace in ('public'::regnamespace, 'ops'::regnamespace)
          union all
          select class.oid::regclass::text, (aclexplode(attribute.attacl)).*
          from pg_attribute as attribute
          join pg_class as class on class.oid = attribute.attrelid
          where class.relnamespace in ('public'::regnamespace, 'ops'::regnamespace)
        ) as granted
        where granted.grantee = to_regrole(%s)
          and granted.privilege_type <> 'SELECT'
        """,
        [role],
    ).fetchall()
    assert set(granted) == WRITES[role]


@pytest.mark.parametrize("role", API_ROLES)
def test_a_role_that_may_not_change_or_remove_rows_is_refused_in_every_table(
    owner: psycopg.Connection, acting_as: ActingAs, role: str
) -> None:
    tables = [relation for relation in relations(owner) if relation.kind in ("r", "p")]
    with acting_as(owner, role, org=ORG_A):
        allowed = {
            (table.name, command)
            for table in tables
            for command, statement in changes_of(table)
            if code_of(owner, statement) != DENIED
        }
    assert allowed == {(name, command) for name, command in WRITES[role] if command == "UPDATE"}


@pytest.mark.parametrize("role", API_ROLES)
def test_a_role_that_may_not_add_rows_is_refused_in_every_table(
    owner: psycopg.Connection, acting_as: ActingAs, role: str
) -> None:
    tables = [relation for relation in relations(owner) if relation.kind in ("r", "p")]
    with acting_as(owner, role, org=ORG_A):
        allowed = {
            table.name
            for table in tables
            if code_of(owner, sql.SQL("insert into {} default values").format(table.source)) != DENIED
        }
    # Refused as well, but for the missing org.
    by_org = set[str]()
    if role == "authenticated":
        by_org = {
            "ops.policies",
            "ops.request_counts",
            "ops.key_requests",
            "ops.collected_events",
            "ops.workflows",
            "ops.alert_silences",
            "ops.agents",
        }
    assert allowed == {name for name, command in WRITES[role] if command == "INSERT"} - by_org


@pytest.mark.parametrize(("claims", "org"), [({"app_metadata": {"org_id": ORG_A}}, ORG_A), ({}, NIL_ORG)])
def test_an_event_that_a_user_inserts_belongs_to_the_own_org(
    owner: psycopg.Connection, acting_as: ActingAs, claims: dict[str, object], org: str
) -> None:
    with acting_as(owner, "authenticated", **claims):
        stored = owner.execute(
            "insert into telemetry_events (event_type, run_id, tag, metadata)"
            " values ('workflow_run', 1, 'v1', '{}') returning org_id"
        ).fetchall()
    assert stored == [(UUID(org),)]


@pytest.mark.parametrize(
    "claims",
    [
        {"app_metadata": {"org_id": ORG_A}},
        {},
        {"user_metadata": {"org_id": ORG_B}},
        {"app_metadata": {"org_id": "malformed"}},
    ],
    ids=repr,
)
def test_a_user_inserts_no_event_into_another_org(
    owner: psycopg.Connection, acting_as: ActingAs, claims: dict[str, object]
) -> None:
    insert = "insert into telemetry_events (event_type, org_id) values ('workflow_run', %s)"
    with (
        acting_as(owner, "authenticated", **claims),
        pytest.raises(psycopg.errors.InsufficientPrivilege) as refusal,
    ):
        owner.execute(insert, [ORG_B])
    assert "row-level security" in (refusal.value.diag.message_primary or "")


@pytest.mark.parametrize("claim", MALFORMED_CLAIMS, ids=repr)
def test_a_user_with_a_malformed_org_inserts_nothing(
    owner: psycopg.Connection, acting_as: ActingAs, claim: object
) -> None:
    with acting_as(owner, "authenticated", app_metadata={"org_id": claim}):
        code = code_of(owner, sql.SQL("insert into telemetry_events (event_type) values ('workflow_run')"))
    # Without a UUID to draw the default from, the cast is what refuses.
    assert code in (DENIED, "22P02")


def test_ingest_events_stores_for_the_own_org(owner: psycopg.Connection, acting_as: ActingAs) -> None:
    with acting_as(owner, "authenticated", org=ORG_A):
        assert ingest_as_api(owner, tag="new")["accepted"] == 1
        assert ingest_as_api(owner, tag="new", org_id=ORG_A)["accepted"] == 1
        as_owner_within(owner)
        orgs = owner.execute("select org_id from telemetry_events where tag = 'new'").fetchall()
    assert orgs == [(UUID(ORG_A),)] * 2


@pytest.mark.parametrize("place", ["beside the payload", "in the payload"])
@pytest.mark.parametrize(
    "claims", [{"app_metadata": {"org_id": ORG_A}}, {}, {"user_metadata": {"org_id": ORG_B}}], ids=repr
)
def test_ingest_events_refuses_an_event_of_another_org(
    owner: psycopg.Connection, acting_as: ActingAs, place: str, claims: dict[str, object]
) -> None:
    body: dict[str, object] = {"org_id": ORG_B}
    event = body if place == "beside the payload" else {"payload": body}
    with acting_as(owner, "authenticated", **claims):
        report = ingest_as_api(owner, **event)
    assert (report["accepted"], report["duplicate"]) == (0, 0)
    assert [refusal["field"] for refusal in report["refused"]] == ["org_id"]


@pytest.mark.parametrize("claim", MALFORMED_CLAIMS, ids=repr)
def test_ingest_events_refuses_a_user_with_a_malformed_org(
    owner: psycopg.Connection, acting_as: ActingAs, claim: object
) -> None:
    with acting_as(owner, "authenticated", app_metadata={"org_id": claim}):
        reports = [ingest_as_api(owner), ingest_as_api(owner, org_id=ORG_A), ingest_as_api(owner, org_id=NIL_ORG)]
    assert [report["accepted"] for report in reports] == [0, 0, 0]
    assert [report["refused"][0]["field"] for report in reports] == ["org_id"] * 3


def test_repeating_an_event_of_another_org_does_not_tell_that_it_is_there(
    owner: psycopg.Connection, acting_as: ActingAs
) -> None:
    known = {"event_id": "cccccccc-0000-4000-8000-00000000000c", "event_timestamp": "2026-01-05T10:00Z"}
    token = json.dumps({"app_metadata": {"org_id": ORG_A}})
    with acting_as(owner, "service_role"):
        assert ingest_as_api(owner, org_id=ORG_B, **known)["accepted"] == 1
        owner.execute("set local role authenticated")
        owner.execute("select set_config('request.jwt.claims', %s, true)", [token])
        told = {"refused": [], "policy_version": 1}
        assert ingest_as_api(owner, **known) == {"accepted": 1, "duplicate": 0} | told
        assert ingest_as_api(owner, **known) == {"accepted": 0, "duplicate": 1} | told


@pytest.mark.parametrize("org", [ORG_A, ORG_B, NIL_ORG])
def test_the_service_role_ingests_for_any_org(owner: psycopg.Connection, acting_as: ActingAs, org: str) -> None:
    with acting_as(owner, "service_role"):
        assert ingest_as_api(owner, org_id=org, tag="new")["accepted"] == 1
        owner.execute(
            "insert into telemetry_events (event_type, tag, org_id) values ('workflow_run', 'new', %s)", [org]
        )
        orgs = owner.execute("select org_id from telemetry_events where tag = 'new'").fetchall()
    assert orgs == [(UUID(org),)] * 2


def test_the_service_role_writes_and_corrects_audits(owner: psycopg.Connection, acting_as: ActingAs) -> None:
    with acting_as(owner, "service_role"):
        owner.execute(
            "insert into slsa_audit_metrics (audit_run_id, provenance_status, validation_status, org_id)"
            " values (999, 'success', 'unknown', %s)",
            [ORG_B],
        )
        corrected = owner.execute(
            "update slsa_audit_metrics set validation_status = 'success' where audit_run_id = 999 returning org_id"
        ).fetchall()
    assert corrected == [(UUID(ORG_B),)]


def test_the_service_role_records_an_audit_for_any_org_but_takes_none_from_another(
    owner: psycopg.Connection, acting_as: ActingAs
) -> None:
    with acting_as(owner, "service_role"):
        for org in (ORG_B, ORG_B):
            owner.execute("select record_audit(%s)", [Jsonb({"audit_run_id": 999, "org_id": org})])
        with pytest.raises(psycopg.Error) as refusal, owner.transaction():
            owner.execute("select record_audit(%s)", [Jsonb({"audit_run_id": 999, "org_id": ORG_A})])
        stored = owner.execute("select org_id from slsa_audit_metrics where audit_run_id = 999").fetchall()
    assert (refusal.value.sqlstate, refusal.value.diag.message_hint is not None) == ("OP001", True)
    assert stored == [(UUID(ORG_B),)]

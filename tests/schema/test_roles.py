"""Who may see and do what: every role of the API against all that the catalog lists in `public` and `ops`.

Tenants A and B and the nil org have events of every kind, some counted and some not, agents, audits and SLIs.
What a caller sees is compared with what the owner sees of that org: so an empty answer does not pass.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString, cast
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Json, Jsonb

from support.events import scalar
from support.fixtures import ActingAs
from support.postgres import Database, Server

ORG_A = "aaaaaaaa-0000-4000-8000-00000000000a"
ORG_B = "bbbbbbbb-0000-4000-8000-00000000000b"
NIL_ORG = "00000000-0000-0000-0000-000000000000"
# Marks that no other tenant may ever read; each tenant's rows are full of its own.
MARKS = {ORG_A: "canary-of-a", ORG_B: "canary-of-b", NIL_ORG: "canary-of-nobody"}

API_ROLES = ("anon", "authenticated", "service_role")
DENIED = "42501"
RUNS_OF_REFRESH = (("2026-01-05T10:00Z", 1), ("2026-02-06T11:00Z", 2))

MALFORMED_CLAIMS: list[object] = [
    "not-a-uuid",
    "",
    ORG_A + " ",
    ORG_A + "\n",
    "{" + ORG_A + "}",
    ORG_A.replace("-", ""),
    5,
    True,
    [ORG_A],
    {"id": ORG_A},
]

# What the callers of an API may do beyond reading.
WRITES = {
    "anon": set[tuple[str, str]](),
    "authenticated": {
        ("telemetry_events", "INSERT"),
        ("telemetry_events_id_seq", "USAGE"),
        # The policy of these asks for the scope admin.
        ("ops.policies", "INSERT"),
        # Only collect_events comes here, as the caller; ops is no exposed schema.
        ("ops.collected_events", "INSERT"),
        # The policy of this asks for the scope admin, too.
        ("ops.alert_silences", "INSERT"),
        # Only ingest_events comes here, likewise.
        ("ops.request_counts", "INSERT"),
        ("ops.request_counts", "UPDATE"),
        # Pseudonyms of the own org, on the way in, likewise.
        ("ops.agents", "INSERT"),
    },
    "service_role": {
        ("ops.agents", "INSERT"),
        ("telemetry_events", "INSERT"),
        ("telemetry_events_id_seq", "USAGE"),
        ("slsa_audit_metrics", "INSERT"),
        ("slsa_audit_metrics", "UPDATE"),
        ("slsa_audit_metrics_id_seq", "USAGE"),
        ("ops.collected_events", "INSERT"),
        # The trigger on the audits writes it as the caller.
        ("ops.audit_changes", "INSERT"),
        ("ops.policies", "INSERT"),
    },
}
WRITING_FUNCTIONS = {
    "anon": set[str](),
    "authenticated": {
        "ingest_events(json)",
        "ops.add_pseudonyms(ops.pseudonym[])",
        "ops.anonymise_incoming(ops.anonymisable[])",
        "ops.cast_anonymised(jsonb)",
        "ops.check_anonymised(jsonb)",
        "ops.collect_events(jsonb)",
        "ops.leave_to_check()",
        "ops.count_request(uuid,uuid[],timestamp with time zone)",
        # These two ask for the scope admin, as the policy of the silences does.
        "ops.silence_alerts(text,timestamp with time zone,text,text,uuid,timestamp with time zone)",
        "silence_own_alerts(text,timestamp with time zone,text)",
        "set_policy(jsonb,bigint,uuid)",
    },
    "service_role": {
        "ingest_events(json)",
        "ops.add_pseudonyms(ops.pseudonym[])",
        "ops.anonymise_incoming(ops.anonymisable[])",
        "ops.cast_anonymised(jsonb)",
        "ops.check_anonymised(jsonb)",
        "ops.collect_events(jsonb)",
        "ops.leave_to_check()",
        "record_audit(jsonb)",
        "ops.observe_audit(jsonb,jsonb)",
        "set_policy(jsonb,bigint,uuid)",
    },
}
UPKEEP: list[LiteralString] = [
    "select ops.run()",
    "select ops.refresh()",
    "select ops.rebuild('2026-01-01Z', '2026-02-01Z')",
    "select ops.maintain()",
    "select ops.create_partition('2030-01-01')",
    "select ops.schedule()",
    "select ops.unschedule()",
    "select ops.take_fence('0')",
    "select ops.forget_span('2026-01-01Z', '2026-02-01Z')",
    "select ops.add_rollups('{}')",
    "select ops.add_slis('{}')",
    "select ops.write_kpis('{}', now())",
    "select ops.close_periods(now())",
    "select ops.record_job_failure('refresh', 'made up')",
    "select ops.finish_import('key')",
    "select ops.evaluate_alerts()",
    "select ops.claim_deliveries()",
    "select ops.settle_delivery(1, 1, 'delivered')",
    "select ops.retry_deliveries()",
    "select ops.silence_alerts('*', '2100-01-01Z', 'why', 'who')",
    "select ops.exclude_from_slo('audit_observer_latency', now(), now() + interval '1 hour', 'why', 'who')",
    "select ops.fill_slis()",
    "select ops.find_api_key('0123456789ab')",
    "select ops.revoke_api_key('0123456789ab')",
    "select ops.create_api_key(gen_random_uuid(), 'name', '0123456789ab', sha256('x'), '{read}')",
    "select ops.forget_requests(now())",
    "select ops.retain()",
    "select ops.set_retention('events', '1 day')",
    "select ops.unset_retention('events')",
    "select * from ops.retention_plan()",
    "select * from ops.stored_months()",
    "select ops.note_removed_events('{x}', now(), now())",
    "select ops.write_units('{}')",
    "select ops.record_collection(gen_random_uuid(), 'github.com/them/theirs', now(), now(), null)",
    "select ops.queue_summary('{canary-of-nobody}', week => '2026-W02', as_of => '2026-02-01Z')",
    "select ops.anonymise_events('2000-01-01Z')",
    "select ops.erase_agent(gen_random_uuid(), gen_random_uuid())",
    "select ops.set_anonymisation_rule('mine', '$.**', 'remove')",
    "select ops.remove_anonymisation_rule('reasons')",
]


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, partition or view, and whether its rows say whose they are."""

    name: str
    kind: str
    is_partition: bool
    has_org: bool
    columns: list[str]

    @property
    def source(self) -> sql.SQL:
        """The name as Postgres itself quotes it."""
        return sql.SQL(cast("LiteralString", self.name))


@dataclass(frozen=True, slots=True)
class Function:
    """A function and a call of it whose arguments fit, so that a refusal is about the caller."""

    name: str
    call: str
    volatility: str
    is_trigger: bool


@pytest.fixture(scope="module")
def tenants(server: Server, template: Database) -> Iterator[Database]:
    """Create one database for this file, with the data of three orgs; every test rolls its changes back."""
    name = "opskpi_tenants"
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as postgres:
        names = sql.Identifier(name), sql.Identifier(template.name)
        postgres.execute(sql.SQL("create database {} template {}").format(*names))
        with psycopg.connect(server.dsn(name), autocommit=True) as connection:
            fill_both_orgs(connection)
        yield server.database(name)
        postgres.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def owner(tenants: Database) -> Iterator[psycopg.Connection]:
    """Connect to the database of this file as its owner, in autocommit mode."""
    with psycopg.connect(tenants.dsn, autocommit=True) as connection:
        yield connection


def fill_both_orgs(connection: psycopg.Connection) -> None:
    """Store everything twice, once counted by a refresh and once behind its cursor."""
    for org, mark in MARKS.items():
        connection.execute(
            "insert into ops.agents (org_id, agent_id, team) values (%s, %s, %s)",
            [org, agent_of(org), f"{mark}-team"],
        )
    # So that what happened is in the window whenever the tests run.
    connection.execute("update ops.slos set rolling_window = '10 years' where slo_name = 'audit_observer_error_rate'")
    for instant, number in RUNS_OF_REFRESH:
        for org in MARKS:
            batch = events_of(org, instant, number)
            report = scalar(connection, "select public.ingest_events(%s)", [Json(batch)])
            assert report == {"accepted": len(batch), "duplicate": 0, "refused": []}
            add_plain_rows(connection, org, instant, number)
        if number == 1:
            connection.execute("select ops.record_import_progress('key', 1, 1, 1, 0, 0, 0)")
            report = connection.execute("select state, events from ops.run()").fetchone()
            assert report == ("done", len(MARKS) * (len(events_of(ORG_A, instant, number)) + 1))
    for org, mark in MARKS.items():
        connection.execute(
            "select ops.exclude_from_slo('audit_observer_latency', '2020-01-01Z', '2020-01-02Z', %s, 'them', %s)",
            [f"{mark}-reason", org],
        )
        connection.execute(
            "insert into ops.alerts (org_id, rule_name, kind, severity, subject, state, pending_since, evaluated_at, channels,"
            " notify_resolved, description, detail) values (%s, 'made_up', 'kpi_threshold', 'page', %s, 'pending', now(), now(), '{}', true, '', '{}')",
            [org, f"{mark}-subject"],
        )
        connection.execute(
            "insert into ops.alert_channels (channel_name, kind, secret_env) values (%s, 'slack', 'NOWHERE')", [mark]
        )
        connection.execute("select ops.queue_delivery(%s, %s, 'group', 'dead', '{}', '{}', now())", [org, mark])
        connection.execute(
            "insert into ops.alert_groups (org_id, channel_name, group_key) values (%s, %s, 'group')", [org, mark]
        )
        connection.execute(
            "insert into ops.alert_silences (matcher, until, reason, author, only_org_id)"
            " values ('*', '2100-01-01Z', %s, 'them', %s)",
            [f"{mark}-reason", org],
        )
        connection.execute("select public.set_policy(%s, org_id => %s)", [Jsonb({"words": [mark]}), org])
        connection.execute("select ops.count_request(%s, %s::uuid[])", [org, [agent_of(org)]])
        connection.execute(
            "insert into ops.collected_events (org_id, event_id, event_timestamp) values (%s, gen_random_uuid(), now())",
            [org],
        )
        connection.execute("select ops.record_collection(%s, %s, now(), now(), null)", [org, f"github.com/{mark}/shop"])
        connection.execute(
            "insert into ops.summaries (org_id, channel_name, week, written_at) values (%s, %s, '2026-W01', now())",
            [org, mark],
        )
    connection.execute("analyze")


def agent_of(org: str) -> str:
    """Return the agent of an org; no other org may read it."""
    return org[:-4] + "00ff"


def events_of(org: str, instant: str, number: int) -> list[dict[str, Any]]:
    """Return an event of every kind, each word of it marked as the org's."""
    mark = MARKS[org]
    hook = {"agent_id": agent_of(org), "org_id": org, "hook_type": f"{mark}-hook"}
    run = {"outcome": "failure", "workflow": f"{mark}-workflow", "duration_ms": 1000 * number}
    entry = {key: f"{mark}-{key}" for key in ("file", "line", "pattern", "reason", "date")}
    payloads: dict[str, dict[str, Any]] = {
        "hook_execution": hook
        | {
            "result": "blocked",
            "findings_summary": {"pattern": f"{mark}-pattern"},
            "duration_ms": 12.5 * number,
        },
        "hook_baseline": hook | {"baseline_entry": entry, "source": f"{mark}-source", "reviewed": True},
        "hook_override": hook
        | {"override_reason": f"{mark}-reason", "findings_count": number, "severity": f"{mark}-severity"},
        "audit_complete": {"outcome": "success", "note": mark},
        "slsa_provenance": run,
        "provenance_validate": run,
        "audit_observer": run | {"outcome": "success"},
        "workflow_run": run,
        "artifact": {"size_bytes": 100 * number, "kind": f"{mark}-kind"},
        "api_request": {"outcome": "success", "duration_ms": number, "endpoint": f"{mark}-endpoint"},
    }
    return [
        {
            "event_type": kind,
            "payload": payload,
            "org_id": org,
            "agent_id": agent_of(org),
            "event_timestamp": instant,
            "run_id": number,
            "tag": f"{mark}-tag",
        }
        for kind, payload in payloads.items()
    ]


def add_plain_rows(connection: psycopg.Connection, org: str, instant: str, number: int) -> None:
    """Store an event of a kind that nobody described, and an audit that failed."""
    mark = MARKS[org]
    connection.execute(
        "insert into telemetry_events (event_type, event_timestamp, org_id) values (%s, %s, %s)",
        [f"{mark}-type", instant, org],
    )
    connection.execute(
        "insert into slsa_audit_metrics"
        " (audit_run_id, audit_timestamp, provenance_status, validation_status, tag, org_id)"
        " values (%s, %s, 'success', 'failure', %s, %s)",
        [list(MARKS).index(org) * 100 + number, instant, f"{mark}-tag", org],
    )


def relations(connection: psycopg.Connection) -> list[Relation]:
    """List every table, partition and view in `public` and `ops`."""
    with connection.cursor(row_factory=class_row(Relation)) as cursor:
        return cursor.execute(
            """
            select
              class.oid::regclass::text as name,
              class.relkind::text as kind,
              class.relispartition as is_partition,
              'org_id' = any (listed.columns) as has_org,
              listed.columns
            from pg_class as class
            cross join lateral (
              select array_agg(attribute.attname::text order by attribute.attnum) as columns
              from pg_attribute as attribute
              where attribute.attrelid = class.oid
                and attribute.attnum > 0
                and not attribute.attisdropped
                and attribute.attgenerated = ''
                and attribute.attidentity = ''
            ) as listed
            where class.relnamespace in ('public'::regnamespace, 'ops'::regnamespace)
              and class.relkind in ('r', 'p', 'v', 'm', 'f')
            order by 1
            """
        ).fetchall()


def functions(connection: psycopg.Connection) -> list[Function]:
    """List every function in `public` and `ops`, each with a call of it that asks for as much as it can."""
    with connection.cursor(row_factory=class_row(Function)) as cursor:
        return cursor.execute(
            """
            select
              proc.oid::regprocedure::text as name,
              format(
                '%%I.%%I(%%s)',
                proc.pronamespace::regnamespace,
                proc.proname,
                (
                  select string_agg(
                    case
                      when argument.type = 'text'::regtype and argument.name = 'period' then '''day'''
                      when argument.type = 'text'::regtype and argument.name = 'zone' then '''UTC'''
                      when argument.type = 'text'::regtype and argument.name = 'name' then '''time_zone'''
                      when argument.type = 'text'::regtype and argument.name = 'slo_name' then '''audit_observer_error_rate'''
                      when argument.type = 'bigint'::regtype and argument.name like 'after%%' then '0'
                      when argument.type = 'bigint'::regtype then '9223372036854775807'
                      -- A window of periods is bounded.
                      when argument.type = 'timestamptz'::regtype and 'period' = any (proc.proargnames) then
                        case when argument.name in ('since', 'previous_start') then '''2026-01-01Z''' else '''2026-03-01Z''' end
                      when argument.type = 'timestamptz'::regtype then
                        case argument.name
                          when 'since' then '''-infinity'''
                          when 'until' then '''infinity'''
                          else 'now()'
                        end
                      when argument.type = 'date'::regtype then
                        case argument.name when 'start_date' then '''2020-01-01''' else 'null' end
                      when argument.type = 'numeric'::regtype then '0.5'
                      when argument.type = 'interval'::regtype then 'interval ''1 hour'''
                      when argument.type = 'jsonb'::regtype and argument.name <> 'documents' then '''{}'''
                      when argument.type in ('json'::regtype, 'jsonb'::regtype) then '''[]'''
                      when argument.type = 'boolean'::regtype then 'true'
                      when argument.name in ('sli_ids', 'slo_names') then 'null'
                      when format_type(argument.type, null) like '%%[]' then '''{}'''
                      else 'null'
                    end || '::' || format_type(argument.type, null),
                    ', '
                    order by argument.place
                  )
                  from unnest(proc.proargtypes::oid[], proc.proargnames[1:proc.pronargs])
                    with ordinality as argument (type, name, place)
                )
              ) as call,
              proc.provolatile::text as volatility,
              proc.prorettype in ('trigger'::regtype, 'event_trigger'::regtype) as is_trigger
            from pg_proc as proc
            where proc.pronamespace in ('public'::regnamespace, 'ops'::regnamespace)
            order by 1
            """,
            [],
        ).fetchall()


def code_of(connection: psycopg.Connection, statement: sql.SQL | sql.Composed) -> str:
    """Return the SQLSTATE with which a statement is refused, or an empty text; what it did is rolled back."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate or str(error)
    return ""


def call_of(function: Function) -> sql.Composed:
    """Return the query whose answer is all that a function tells, as one text."""
    return sql.SQL("select coalesce(string_agg(answer::text, E'\\n'), '') from {} as answer").format(
        sql.SQL(cast("LiteralString", function.call))
    )


def bare_call_of(function: Function) -> sql.SQL:
    """Return a query that calls a function, trigger functions too."""
    return sql.SQL(cast("LiteralString", f"select {function.call}"))


def rows_seen_in(connection: psycopg.Connection, relation: Relation, org: str | None = None) -> list[str]:
    """Return the rows of a relation, or those of one org, as sorted texts."""
    query = sql.SQL("select record::text from {} as record {} order by 1").format(
        relation.source,
        sql.SQL("") if org is None else sql.SQL("where record.org_id = {}").format(sql.Literal(UUID(org))),
    )
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(query).fetchall()


def readable(connection: psycopg.Connection, role: str) -> list[Relation]:
    """List the relations that the grants let a role read."""
    return [
        relation
        for relation in relations(connection)
        if scalar(connection, "select has_table_privilege(%s, %s, 'select')", [role, relation.name])
    ]


def callable_by(connection: psycopg.Connection, role: str) -> list[Function]:
    """List the functions that the grants let a role call."""
    return [
        function
        for function in functions(connection)
        if scalar(connection, "select has_function_privilege(%s, %s, 'execute')", [role, function.name])
    ]


def marks_in(text: str) -> set[str]:
    """Return the orgs of which a text says something."""
    return {org for org, mark in MARKS.items() if (org != NIL_ORG and org in text) or mark in text}


def as_owner_within(connection: psycopg.Connection) -> None:
    """Be the owner again within the transaction of another role, so that both see the same now()."""
    connection.execute("set local role none")


def test_every_org_has_rows_in_everything_that_is_kept_by_org(owner: psycopg.Connection) -> None:
    lacking = {
        relation.name: sorted(set(MARKS) - seen)
        for relation in readable(owner, "authenticated")
        if relation.has_org and (seen := set(map(str, orgs_in(owner, relation)))) < set(MARKS)
    }
    assert lacking == {}


def orgs_in(connection: psycopg.Connection, relation: Relation) -> list[UUID]:
    """Return the orgs that own rows of a relation."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(sql.SQL("select distinct org_id from {}").format(relation.source)).fetchall()


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


@pytest.mark.parametrize("role", ["anon", "authenticator"])
def test_anon_calls_nothing(owner: psycopg.Connection, acting_as: ActingAs, role: str) -> None:
    everything = functions(owner)
    with acting_as(owner, role, org=ORG_A):
        codes = {function.name: code_of(owner, bare_call_of(function)) for function in everything}
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
        # Its only_org_id is what v_ops_alert_silences calls org_id.
        if not relation.has_org
        and relation.name != "ops.alert_silences"
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


def answers(
    connection: psycopg.Connection, acting_as: ActingAs, role: str, claims: Mapping[str, object]
) -> dict[str, str]:
    """Return what each reading function that a role may call tells it; a call that fails fails the test."""
    granted = [function for function in callable_by(connection, role) if function.volatility != "v"]
    with acting_as(connection, role, **claims), connection.cursor(row_factory=scalar_row) as cursor:
        return {function.name: cast("str", cursor.execute(call_of(function)).fetchone()) for function in granted}


@pytest.mark.parametrize("org", [ORG_A, ORG_B, NIL_ORG])
def test_a_function_tells_a_user_of_the_own_org_and_no_other(
    owner: psycopg.Connection, acting_as: ActingAs, org: str
) -> None:
    told = answers(owner, acting_as, "authenticated", {"app_metadata": {"org_id": org}})
    told_to_all = answers(owner, acting_as, "service_role", {})
    of_tenants = {name for name, text in told_to_all.items() if {ORG_A, ORG_B} <= marks_in(text)}
    assert {
        "ops.count_events(bigint,bigint,timestamp with time zone,timestamp with time zone)",
        "ops.count_units(bigint,bigint,timestamp with time zone,timestamp with time zone,bigint[])",
        "ops.count_audit_changes()",
        "ops.kpi_groups(ops.rollup_delta[])",
        "ops.evaluate_slos(timestamp with time zone,boolean,text[])",
    } <= of_tenants
    assert {name: marks for name, text in told.items() if (marks := marks_in(text)) - {org}} == {}
    if org != NIL_ORG:
        assert of_tenants <= {name for name, text in told.items() if marks_in(text)}


def test_a_function_tells_a_user_with_a_malformed_org_of_none(owner: psycopg.Connection, acting_as: ActingAs) -> None:
    told = answers(owner, acting_as, "authenticated", {"app_metadata": {"org_id": "not-a-uuid"}})
    assert {name: marks for name, text in told.items() if (marks := marks_in(text))} == {}


@pytest.mark.parametrize(
    ("function", "deltas"),
    [
        (
            "select sum(sample_count) from ops.changed_ratios(%s::text::ops.rollup_delta[])",
            "select array_agg(row(rollup.org_id, series.event_type, series.labels, rollup.period,"
            " rollup.period_start, 0, 0, 0, null, null)::ops.rollup_delta)::text"
            " from ops.rollups as rollup join ops.series using (org_id, series_id) where rollup.org_id = %s",
        ),
        (
            "select sum(bin.counted) from ops.merged_histograms(%s::text::ops.histogram_delta[]) as merged"
            " cross join unnest(merged.counts) as bin (counted)",
            "select array_agg(row(org_id, event_type, labels, period, period_start, '{}', '{}')"
            "::ops.histogram_delta)::text from ops.histograms where org_id = %s",
        ),
        (
            # Units that are known change nothing; to one who cannot see them they are new.
            "select count(*) from ops.changed_units(%s::text::ops.unit_delta[])",
            "select array_agg(row(org_id, event_type, unit, first_attempt_at, false)::ops.unit_delta)::text"
            " from ops.work_units where org_id = %s",
        ),
    ],
)
def test_a_user_learns_nothing_by_adding_nothing_to_the_numbers_of_another_org(
    owner: psycopg.Connection, acting_as: ActingAs, function: LiteralString, deltas: LiteralString
) -> None:
    nothing_for_b = scalar(owner, deltas, [ORG_B])

    def sees(**claims: object) -> object:
        with acting_as(owner, "authenticated", **claims):
            return scalar(owner, function, [nothing_for_b])

    assert sees(org=ORG_A) == sees(app_metadata={"org_id": "malformed"})
    assert sees(org=ORG_A) != sees(org=ORG_B)


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


def changes_of(table: Relation) -> list[tuple[str, sql.Composed]]:
    """Return the statements that would change or remove rows and show them."""
    column = sql.Identifier(table.columns[-1])
    return [
        ("UPDATE", sql.SQL("update {0} set {1} = {1} where true returning *").format(table.source, column)),
        ("DELETE", sql.SQL("delete from {} where true returning *").format(table.source)),
        ("TRUNCATE", sql.SQL("truncate {}").format(table.source)),
    ]


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
        by_org = {"ops.policies", "ops.request_counts", "ops.collected_events", "ops.alert_silences", "ops.agents"}
    assert allowed == {name for name, command in WRITES[role] if command == "INSERT"} - by_org


@pytest.mark.parametrize("role", API_ROLES)
def test_a_role_calls_no_function_that_writes_but_the_listed_ones(owner: psycopg.Connection, role: str) -> None:
    writing = {function.name for function in callable_by(owner, role) if function.volatility == "v"}
    assert writing == WRITING_FUNCTIONS[role]


@pytest.mark.parametrize("role", API_ROLES)
def test_a_role_is_refused_every_function_that_is_not_granted(
    owner: psycopg.Connection, acting_as: ActingAs, role: str
) -> None:
    granted = {function.name for function in callable_by(owner, role)}
    closed = [function for function in functions(owner) if function.name not in granted]
    with acting_as(owner, role, org=ORG_A):
        codes = {function.name: code_of(owner, bare_call_of(function)) for function in closed}
    assert set(codes.values()) == {DENIED}, codes


@pytest.mark.parametrize("role", API_ROLES)
@pytest.mark.parametrize("statement", UPKEEP)
def test_nobody_but_the_owner_does_the_upkeep(
    owner: psycopg.Connection, acting_as: ActingAs, role: str, statement: LiteralString
) -> None:
    with acting_as(owner, role, org=ORG_A):
        assert code_of(owner, sql.SQL(statement)) == DENIED


@pytest.mark.parametrize("statement", UPKEEP)
def test_the_owner_does_the_upkeep(owner: psycopg.Connection, statement: LiteralString) -> None:
    assert code_of(owner, sql.SQL(statement)) == ""


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


def ingest_as_api(connection: psycopg.Connection, **event: object) -> dict[str, Any]:
    """Send one event through the function of the API."""
    document = [{"event_type": "audit_complete", **event}]
    return scalar(connection, "select public.ingest_events(%s)", [Json(document)])


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

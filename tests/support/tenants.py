"""Tenants whose rows are full of marks, and all that the catalog lists for the roles of the API."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString, cast
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Json, Jsonb

from .events import scalar
from .fixtures import ActingAs

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
        ("ops.workflows", "INSERT"),
        # The policy of this asks for the scope admin, too.
        ("ops.alert_silences", "INSERT"),
        # Only ingest_events comes here, likewise.
        ("ops.request_counts", "INSERT"),
        ("ops.request_counts", "UPDATE"),
        ("ops.key_requests", "INSERT"),
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
        ("ops.workflows", "INSERT"),
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
        "ops.admit_batch(json,boolean)",
        "ops.store_valid_events(jsonb,jsonb,boolean)",
        "ops.anonymise_incoming(ops.anonymisable[])",
        "ops.cast_anonymised(jsonb)",
        "ops.check_anonymised(jsonb)",
        "ops.collect_events(jsonb)",
        "ops.note_workflows(uuid,jsonb)",
        "ops.label_workflows(jsonb)",
        "ops.leave_to_check()",
        "ops.count_request(uuid,uuid[],timestamp with time zone)",
        "ops.count_key_request(uuid,timestamp with time zone,integer)",
        "ops.refuse_request(integer,text,integer)",
        # These two ask for the scope admin, as the policy of the silences does.
        "ops.silence_alerts(text,timestamp with time zone,text,text,uuid,timestamp with time zone)",
        "silence_own_alerts(text,timestamp with time zone,text)",
        "set_policy(jsonb,bigint,uuid)",
    },
    "service_role": {
        "ingest_events(json)",
        "ops.add_pseudonyms(ops.pseudonym[])",
        "ops.admit_batch(json,boolean)",
        "ops.store_valid_events(jsonb,jsonb,boolean)",
        "ops.anonymise_incoming(ops.anonymisable[])",
        "ops.cast_anonymised(jsonb)",
        "ops.check_anonymised(jsonb)",
        "ops.collect_events(jsonb)",
        "ops.note_workflows(uuid,jsonb)",
        "ops.label_workflows(jsonb)",
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
class TenantColumn:
    """A column of a table whose value is a tenant."""

    table: str
    column: str

    @property
    def source(self) -> sql.SQL:
        """The table as Postgres itself quotes it."""
        return sql.SQL(cast("LiteralString", self.table))


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


def fill_both_orgs(connection: psycopg.Connection) -> None:
    """Store everything twice, once counted by a refresh and once behind its cursor."""
    for org, mark in MARKS.items():
        connection.execute(
            "insert into ops.agents (org_id, agent_id, team) values (%s, %s, %s)",
            [org, agent_of(org), f"{mark}-team"],
        )
    # So that what happened is in the window whenever the tests run.
    connection.execute("update ops.slos set rolling_window = '10 years' where slo_name = 'audit_observer_error_rate'")
    connection.execute(
        "insert into ops.slos (slo_name, service, objective, description, event_type, target, group_by)"
        " values ('grouped', 'shop', 'error_rate', 'a promise', 'workflow_run', 0.5, '{workflow}')"
    )
    for instant, number in RUNS_OF_REFRESH:
        for org in MARKS:
            batch = events_of(org, instant, number)
            report = scalar(connection, "select public.ingest_events(%s)", Json(batch))
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
            "insert into ops.alert_channels (channel_name, kind, secret_env, only_org_id) values (%s, 'slack', 'NOWHERE', %s)",
            [mark, org],
        )
        connection.execute(
            "insert into ops.anonymisations (kind, only_org_id, finished_at) values ('rules', %s, now())", [org]
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
        connection.execute(
            "select ops.create_api_key(%s, %s, encode(substr(sha256(%s), 1, 6), 'hex'), sha256(%s), '{read}')",
            [org, mark, mark.encode(), mark.encode()],
        )
        connection.execute("select ops.count_request(%s, %s::uuid[])", [org, [agent_of(org)]])
        connection.execute("select ops.count_key_request(%s)", [org])
        # Kinds that nobody described are a tenant's own words.
        connection.execute("select ops.set_retention('events', '100 years', %s)", [f"{mark}-type"])
        connection.execute("select ops.note_removed_events(array[%s], '1990-01-01Z', '1990-02-01Z')", [f"{mark}-type"])
        connection.execute(
            "insert into ops.collected_events (org_id, event_id, event_timestamp) values (%s, gen_random_uuid(), now())",
            [org],
        )
        connection.execute(
            "select ops.note_workflows(%s, jsonb_build_array(jsonb_build_object("
            "'repository', %s::text, 'workflow', %s::text, 'workflow_path', %s::text)))",
            [org, f"{mark}/shop", f"{mark}-workflow", f".github/workflows/{mark}.yml"],
        )
        # An id that no event has, so that nothing of the counts changes.
        connection.execute(
            "insert into ops.uncountable_events (org_id, id, event_id, event_type, event_timestamp, reason)"
            " values (%s, -1, gen_random_uuid(), %s, '2026-01-01Z', %s)",
            [org, f"{mark}-type", f"{mark}-reason"],
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


def functions(connection: psycopg.Connection, given: Mapping[str, str] | None = None) -> list[Function]:
    """List every function in `public` and `ops`, each with a call of it that asks for as much as it can.

    `given` are literals for arguments of those names.
    """
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
                      when %(given)s::jsonb ? argument.name then quote_literal(%(given)s::jsonb ->> argument.name)
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
                      when argument.type = 'jsonb'::regtype and argument.name not in ('documents', 'rules') then '''{}'''
                      when argument.type in ('json'::regtype, 'jsonb'::regtype) then '''[]'''
                      when argument.type = 'boolean'::regtype then 'true'
                      when format_type(argument.type, null) = 'ops.event_ids' then '''(0,9223372036854775807,{},)'''
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
            {"given": Jsonb(given or {})},
        ).fetchall()


def tenant_columns(connection: psycopg.Connection) -> list[TenantColumn]:
    """List the columns of `public` and `ops` that hold the UUID of one of the orgs, found by looking into each."""
    with connection.cursor(row_factory=class_row(TenantColumn)) as cursor:
        uuids = cursor.execute(
            """
            select class.oid::regclass::text as table, attribute.attname::text as column
            from pg_class as class
            join pg_attribute as attribute on attribute.attrelid = class.oid
            where class.relnamespace in ('public'::regnamespace, 'ops'::regnamespace)
              and class.relkind in ('r', 'p')
              and not class.relispartition
              and attribute.attnum > 0
              and attribute.atttypid = 'uuid'::regtype
            order by 1, 2
            """
        ).fetchall()
    query = sql.SQL("select exists (select from {} where {} = any (%s))")
    orgs = [UUID(org) for org in MARKS]
    return [
        found
        for found in uuids
        if connection.execute(query.format(found.source, sql.Identifier(found.column)), [orgs]).fetchone() == (True,)
    ]


def answers_or_codes(connection: psycopg.Connection, granted: list[Function]) -> dict[str, str]:
    """Return what each function tells whoever is acting, or with what it refuses; what it does is rolled back."""
    told: dict[str, str] = {}
    for function in granted:
        try:
            with connection.transaction(force_rollback=True), connection.cursor(row_factory=scalar_row) as cursor:
                told[function.name] = cast("str", cursor.execute(call_of(function)).fetchone())
        except psycopg.Error as error:
            told[function.name] = f"{error.sqlstate}: {error}"
    return told


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
        if scalar(connection, "select has_table_privilege(%s, %s, 'select')", role, relation.name)
    ]


def callable_by(connection: psycopg.Connection, role: str, given: Mapping[str, str] | None = None) -> list[Function]:
    """List the functions that the grants let a role call, as `functions` does."""
    return [
        function
        for function in functions(connection, given)
        if scalar(connection, "select has_function_privilege(%s, %s, 'execute')", role, function.name)
    ]


def marks_in(text: str) -> set[str]:
    """Return the orgs of which a text says something."""
    return {org for org, mark in MARKS.items() if (org != NIL_ORG and org in text) or mark in text}


def as_owner_within(connection: psycopg.Connection) -> None:
    """Be the owner again within the transaction of another role, so that both see the same now()."""
    connection.execute("set local role none")


def orgs_in(connection: psycopg.Connection, relation: Relation) -> list[UUID]:
    """Return the orgs that own rows of a relation."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(sql.SQL("select distinct org_id from {}").format(relation.source)).fetchall()


def changes_of(table: Relation) -> list[tuple[str, sql.Composed]]:
    """Return the statements that would change or remove rows and show them."""
    column = sql.Identifier(table.columns[-1])
    return [
        ("UPDATE", sql.SQL("update {0} set {1} = {1} where true returning *").format(table.source, column)),
        ("DELETE", sql.SQL("delete from {} where true returning *").format(table.source)),
        ("TRUNCATE", sql.SQL("truncate {}").format(table.source)),
    ]


def answers_of_functions(
    connection: psycopg.Connection, acting_as: ActingAs, role: str, claims: Mapping[str, object]
) -> dict[str, str]:
    """Return what each reading function that a role may call tells it; a call that fails fails the test."""
    granted = [function for function in callable_by(connection, role) if function.volatility != "v"]
    with acting_as(connection, role, **claims), connection.cursor(row_factory=scalar_row) as cursor:
        return {function.name: cast("str", cursor.execute(call_of(function)).fetchone()) for function in granted}


def ingest_as_api(connection: psycopg.Connection, **event: object) -> dict[str, Any]:
    """Send one event through the function of the API."""
    document = [{"event_type": "audit_complete", **event}]
    return scalar(connection, "select public.ingest_events(%s)", Json(document))

"""`sql/` says what the database is, `supabase/migrations` how it gets there: both end at the same schema."""

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.drift import build_from_migrations, build_from_sql, differences, rows_of, schema_of
from support.fixtures import CreateDatabase
from support.postgres import Database, Server, create_on, running_server

HEADING = re.compile(r"^--\n-- Name: .*; Type: (.*); Schema: .*\n--$", re.MULTILINE)
GRANT = re.compile(r"GRANT .* TO (anon|authenticated|service_role);")


@pytest.fixture(scope="module")
def roleless_server(server: Server) -> Iterator[Server]:
    """Run a second server of the same version that has none of Supabase's roles."""
    with running_server(server.version) as running:
        yield running


def without_roles(dump: list[str]) -> list[str]:
    """Leave out the policies and the grants to the roles of Supabase, and the headings, some of which stand above nothing then."""
    sections = HEADING.split("\n".join(dump))
    # What a heading says of its section follows it in the list: the kind, then the statements.
    kept = [sections[0], *(body for kind, body in zip(sections[1::2], sections[2::2], strict=True) if kind != "POLICY")]
    return [line for body in kept for line in body.splitlines() if line and not GRANT.fullmatch(line)]


@pytest.fixture
def described(create_database: CreateDatabase) -> Database:
    """Create a database from `sql/`."""
    created = create_database()
    build_from_sql(created)
    return created


def test_the_migrations_end_at_the_schema_that_sql_describes(
    server: Server, template: Database, described: Database
) -> None:
    dump = schema_of(server, described)
    assert "CREATE TABLE public.telemetry_events (" in dump
    assert any("TO authenticated USING" in line for line in dump)
    patch = differences(dump, schema_of(server, template))
    assert not patch, patch


def test_the_migrations_deliver_the_rows_that_the_seeds_describe(template: Database, described: Database) -> None:
    rows = rows_of(described)
    assert len(rows["slos"]) == 9
    assert rows == rows_of(template)


def test_without_the_roles_of_supabase_the_migrations_end_at_the_same_schema_but_for_policies_and_grants(
    server: Server, roleless_server: Server, described: Database
) -> None:
    delivered = create_on(roleless_server, "delivered")
    build_from_migrations(delivered)
    dump = schema_of(roleless_server, delivered)
    assert "CREATE TABLE public.telemetry_events (" in dump
    assert not any(line.startswith(("CREATE POLICY", "GRANT")) for line in dump)
    patch = differences(without_roles(schema_of(server, described)), without_roles(dump))
    assert not patch, patch


def test_without_the_roles_of_supabase_events_are_stored_and_counted(roleless_server: Server) -> None:
    delivered = create_on(roleless_server, "counted")
    build_from_migrations(delivered)
    with psycopg.connect(delivered.dsn, autocommit=True) as connection:
        roles = connection.execute(
            "select from pg_catalog.pg_roles where rolname = any (%s)",
            [["anon", "authenticated", "service_role"]],
        ).fetchall()
        assert roles == []
        connection.execute(
            "insert into telemetry_events (event_type, event_timestamp, metadata)"
            " values ('slsa_provenance', '2026-01-05T10:00Z', %s)",
            [Jsonb({"outcome": "success", "duration_ms": 1000})],
        )
        assert connection.execute("select state, events from ops.run()").fetchone() == ("done", 1)
        assert connection.execute(
            "select metric_value from v_ops_kpi_latest"
            " where metric_name = 'provenance_success_rate' and aggregation_period = 'day'"
        ).fetchall() == [(100,)]

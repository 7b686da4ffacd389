"""`sql/` says what the database is, `supabase/migrations` how it gets there: both end at the same schema."""

import difflib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from conftest import CreateDatabase
from opskpi.postgres import migrations
from postgres import Database, Server, running_server

CHECKOUT = Path(__file__).resolve().parents[2]
PRELUDE = CHECKOUT / "jobs" / "opskpi" / "postgres" / "prelude.sql"
# Each dump has its own token, so that psql refuses what was slipped into it.
TOKEN = re.compile(r"^\\(un)?restrict .*$", re.MULTILINE)


@pytest.fixture(scope="module")
def roleless_server(server: Server) -> Iterator[Server]:
    """Run a second server of the same version that has none of Supabase's roles."""
    with running_server(server.version) as running:
        yield running


def build_from_sql(database: Database, *scripts_before: Path) -> None:
    """Create everything in `sql/` from top to bottom, and the partitions that the seeds would have made."""
    with psycopg.connect(database.dsn) as connection:
        for script in (*scripts_before, *sorted((CHECKOUT / "sql").glob("*.sql"))):
            connection.execute(script.read_bytes())
        connection.execute("select ops.maintain()")


def build_from_migrations(database: Database) -> None:
    """Apply the migrations as they are, without the prelude that `opskpi migrate` adds."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for migration in migrations.shipped():
            with connection.transaction():
                connection.execute(migration.script.encode())


def schema_of(server: Server, database: Database) -> list[str]:
    """Return what pg_dump says of the schema, without the history of the migrations."""
    dump = subprocess.run(
        [server.bin_dir / "pg_dump", "--schema-only", "--exclude-schema=supabase_migrations", database.dsn],
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    return TOKEN.sub("", dump).splitlines()


def differences(ours: list[str], theirs: list[str]) -> str:
    """Return the lines in which two dumps differ, as a patch from the first to the second."""
    return "\n".join(difflib.unified_diff(ours, theirs, "sql", "migrations", lineterm="", n=1))


def create_on(server: Server, name: str) -> Database:
    """Create a database on a server that is thrown away, so it needs no dropping."""
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return server.database(name)


def test_the_migrations_end_at_the_schema_that_sql_describes(
    server: Server, template: Database, create_database: CreateDatabase
) -> None:
    described = create_database()
    build_from_sql(described, PRELUDE)
    dump = schema_of(server, described)
    assert "CREATE TABLE public.telemetry_events (" in dump
    assert any("TO authenticated USING" in line for line in dump)
    patch = differences(dump, schema_of(server, template))
    assert not patch, patch


def test_the_migrations_end_at_the_schema_that_sql_describes_without_the_roles_of_supabase(
    roleless_server: Server,
) -> None:
    described = create_on(roleless_server, "described")
    build_from_sql(described)
    delivered = create_on(roleless_server, "delivered")
    build_from_migrations(delivered)
    dump = schema_of(roleless_server, described)
    assert "CREATE TABLE public.telemetry_events (" in dump
    assert not any(line.startswith(("CREATE POLICY", "GRANT")) for line in dump)
    patch = differences(dump, schema_of(roleless_server, delivered))
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

"""Databases built from `sql/` and from the migrations, and what pg_dump and their rows say of them."""

import difflib
import re
import subprocess
from itertools import groupby
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.rows import scalar_row

from .fixtures import CHECKOUT
from .postgres import Database, Server

SQL = CHECKOUT / "sql"
MIGRATIONS = CHECKOUT / "supabase" / "migrations"
# It creates Supabase's roles on a plain Postgres.
PRELUDE = CHECKOUT / "jobs" / "opskpi" / "postgres" / "prelude.sql"
# Each dump has its own token, so that psql refuses what was slipped into it.
TOKEN = re.compile(r"^\\(un)?restrict .*$", re.MULTILINE)


def build_from_sql(database: Database, folder: Path = SQL) -> None:
    """Create everything in `sql/` from top to bottom with the roles of Supabase, and the first partitions."""
    with psycopg.connect(database.dsn) as connection:
        for script in (PRELUDE, *sorted(folder.rglob("*.sql"))):
            run_script(connection, script)
        connection.execute("select ops.maintain()")


def build_from_migrations(database: Database) -> None:
    """Apply the migrations as they are, without the prelude that `opskpi migrate` adds."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for migration in migrations():
            with connection.transaction():
                run_script(connection, migration)


def run_script(connection: psycopg.Connection, script: Path) -> None:
    """Run a script; an error notes its name."""
    try:
        connection.execute(script.read_bytes())
    except psycopg.Error as error:
        error.add_note(f"{script.name}:")
        raise


def migrations() -> list[Path]:
    """Return the files of the migrations, oldest first."""
    return sorted(MIGRATIONS.glob("*.sql"))


def schema_of(server: Server, database: Database) -> list[str]:
    """Return what pg_dump says of the schema, without the history of the migrations and the order in which rights were granted."""
    dump = subprocess.run(
        [server.bin_dir / "pg_dump", "--schema-only", "--exclude-schema=supabase_migrations", database.dsn],
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    grouped = groupby(TOKEN.sub("", dump).splitlines(), key=lambda line: line.startswith("GRANT "))
    return [line for is_grant, lines in grouped for line in (sorted(lines) if is_grant else lines)]


def rows_of(database: Database) -> dict[str, list[str]]:
    """Return the rows of each table of `ops` but the journal, without drawn numbers and times of writing."""
    with psycopg.connect(database.dsn) as connection, connection.cursor(row_factory=scalar_row) as cursor:
        tables: list[str] = cursor.execute(
            "select table_name from information_schema.tables"
            " where table_schema = 'ops' and table_type = 'BASE TABLE' and table_name <> 'job_runs'"
        ).fetchall()
        return {
            table: cursor.execute(
                sql.SQL(
                    "select (to_jsonb(stored) - array['sli_id', 'moved_at', 'updated_at'])::text from ops.{} as stored order by 1"
                ).format(sql.Identifier(table))
            ).fetchall()
            for table in tables
        }


def differences(ours: list[str], theirs: list[str]) -> str:
    """Return the lines in which two dumps differ, as a patch from the first to the second."""
    return "\n".join(difflib.unified_diff(ours, theirs, "sql", "migrations", lineterm="", n=1))

"""Applies `supabase/migrations` as `supabase db push` does, into the same history, on any Postgres 15 to 18."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import LiteralString, cast

import psycopg
from psycopg.rows import scalar_row

from opskpi.errors import ExitCode, OpsKpiError

FILE_NAME = re.compile(r"(?P<version>\d+)_(?P<name>\w+)\.sql")
OLDEST_SERVER = 15

HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text not null primary key,
  statements text[],
  name text
);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `supabase/migrations`: its version, name and SQL."""

    version: str
    name: str
    script: str


def shipped() -> list[Migration]:
    """The migrations that came with this program, oldest first."""
    return [
        Migration(match["version"], match["name"], file.read_text("utf-8"))
        for file in sorted(_folder().iterdir(), key=lambda file: file.name)
        if (match := FILE_NAME.fullmatch(file.name))
    ]


def applied(connection: psycopg.Connection) -> set[str]:
    """The versions in the history of this database; empty when it has none."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        # Not to_regclass, which may remember that the table was not there before another run made it.
        known = cursor.execute(
            "select exists (select from pg_catalog.pg_tables as known"
            " where known.schemaname = 'supabase_migrations' and known.tablename = 'schema_migrations')"
        ).fetchone()
        if not known:
            return set()
        return set(cursor.execute("select version from supabase_migrations.schema_migrations").fetchall())


def pending(connection: psycopg.Connection) -> list[Migration]:
    """The shipped migrations that this database lacks, oldest first."""
    done = applied(connection)
    return [migration for migration in shipped() if migration.version not in done]


def migrate(connection: psycopg.Connection, notify: Callable[[str], None] = lambda _: None) -> list[Migration]:
    """Bring the database up to date, one transaction a file, and return what was applied.

    `notify` gets the name of each migration as it begins. Two runs at once do the work once. Raises OpsKpiError when
    the server is older than Postgres 15 or the database has migrations that this program does not know.
    """
    if connection.info.server_version < OLDEST_SERVER * 10_000:
        raise OpsKpiError(
            f"the server is Postgres {connection.info.server_version // 10_000}",
            f"opskpi needs Postgres {OLDEST_SERVER} or newer.",
            ExitCode.CONFIGURATION,
        )
    _refuse_newer(connection)
    done: list[Migration] = []
    for migration in pending(connection):
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(hashtextextended('opskpi.migrate', 0))")
            if migration.version in applied(connection):
                continue
            if not done:
                _prepare(connection)
            notify(f"{migration.version}_{migration.name}")
            # The files are ours, so they are as literal as SQL in this module would be.
            connection.execute(cast("LiteralString", migration.script))
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version, statements, name) values (%s, %s, %s)",
                [migration.version, [migration.script], migration.name],
            )
            done.append(migration)
    _guard_tenants(connection)
    return done


def require_current(connection: psycopg.Connection) -> None:
    """Raise OpsKpiError unless the database is at the very migration that this program was made for.

    A role that may read the views but not the history is not held up: its queries will tell.
    """
    try:
        _refuse_newer(connection)
        missing = pending(connection)
    except psycopg.errors.InsufficientPrivilege:
        return
    if missing:
        raise OpsKpiError(
            f"the database lacks {len(missing)} migration(s), the first is {missing[0].version}_{missing[0].name}",
            "Run `opskpi migrate`, or `supabase db push`.",
            ExitCode.CONFIGURATION,
        )


def _refuse_newer(connection: psycopg.Connection) -> None:
    ours = [migration.version for migration in shipped()]
    # A user's own migrations live in the same history; only ones after our newest that name us are ours.
    with connection.cursor(row_factory=scalar_row) as cursor:
        if not applied(connection) & set(ours):
            return
        newer = cursor.execute(
            "select version || '_' || name from supabase_migrations.schema_migrations"
            " where name like 'opskpi%%' and version > %s and version <> all(%s) order by version limit 1",
            [max(ours), ours],
        ).fetchone()
    if newer:
        raise OpsKpiError(
            f"the database has the migration {newer}, which is newer than this program",
            "Upgrade opskpi: pip install --upgrade opskpi.",
            ExitCode.CONFIGURATION,
        )


def _prepare(connection: psycopg.Connection) -> None:
    """Make the history and, on a plain Postgres, the roles that Supabase would have."""
    connection.execute(cast("LiteralString", HISTORY))
    with connection.cursor(row_factory=scalar_row) as cursor:
        on_supabase = cursor.execute(
            "select to_regclass('auth.users') is not null or to_regrole('supabase_admin') is not null"
        ).fetchone()
    if not on_supabase:
        prelude = resources.files("opskpi.postgres").joinpath("prelude.sql").read_text("utf-8")
        connection.execute(cast("LiteralString", prelude))


def _guard_tenants(connection: psycopg.Connection) -> None:
    """Let tables hold back bound logins that were made since one was bound, by us or by somebody else."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        # A database that stops at an older migration has no such function.
        if cursor.execute("select to_regprocedure('ops.guard_tenants()') is not null").fetchone():
            cursor.execute("select ops.guard_tenants()")


def _folder() -> Traversable:
    packaged = resources.files("opskpi.postgres").joinpath("supabase_migrations")
    # An editable install reads the checkout itself.
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "supabase" / "migrations"

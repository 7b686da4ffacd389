"""The history of migrations: which ones came with this program, and which of them a database has."""

import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import psycopg
from psycopg.rows import scalar_row

from opskpi.errors import ExitCode, OpsKpiError

FILE_NAME = re.compile(r"(?P<version>\d+)_(?P<name>\w+)\.sql")
READ_WAIT_S = 5


@dataclass(frozen=True, slots=True)
class Migration:
    """A file of `supabase/migrations`: its version, its name, and the file or its SQL."""

    version: str
    name: str
    source: Traversable | str

    @property
    def file_name(self) -> str:
        """The name of the file without its ending."""
        return f"{self.version}_{self.name}"

    @property
    def script(self) -> str:
        """The SQL; read when it is asked for, since most commands only look which migrations there are."""
        return self.source if isinstance(self.source, str) else self.source.read_text("utf-8")


def shipped() -> list[Migration]:
    """The migrations that came with this program, oldest first."""
    return [
        Migration(match["version"], match["name"], file)
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
    """The shipped migrations that this database lacks, oldest first. Raises OpsKpiError when it has newer ones."""
    ours, done = shipped(), applied(connection)
    _refuse_newer(connection, {migration.version for migration in ours}, done)
    return [migration for migration in ours if migration.version not in done]


def require_current(connection: psycopg.Connection) -> None:
    """Raise OpsKpiError unless the database is at the very migration that this program was made for.

    A role that may read the views but not the history is not held up: its queries will tell.
    """
    try:
        with connection.transaction():
            connection.execute("select set_config('lock_timeout', %s, true)", [f"{READ_WAIT_S}s"])
            missing = pending(connection)
    except psycopg.errors.InsufficientPrivilege:
        return
    if missing:
        raise OpsKpiError(
            f"the database lacks {len(missing)} migration(s), the first is {missing[0].file_name}",
            "Run `opskpi migrate`, or `supabase db push`.",
            ExitCode.CONFIGURATION,
        )


def _refuse_newer(connection: psycopg.Connection, ours: set[str], done: set[str]) -> None:
    if not ours & done or done <= ours:
        return
    # A user's own migrations live in the same history; only ones after our newest that name us are ours.
    with connection.cursor(row_factory=scalar_row) as cursor:
        newer = cursor.execute(
            "select version || '_' || name from supabase_migrations.schema_migrations"
            " where name like 'opskpi%%' and version > %s and version <> all(%s) order by version limit 1",
            [max(ours), list(ours)],
        ).fetchone()
    if newer:
        raise OpsKpiError(
            f"the database has the migration {newer}, which is newer than this program",
            "Upgrade opskpi: pip install --upgrade opskpi.",
            ExitCode.CONFIGURATION,
        )


def _folder() -> Traversable:
    packaged = resources.files("opskpi.postgres").joinpath("supabase_migrations")
    # An editable install reads the checkout itself.
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "supabase" / "migrations"

"""Applies `supabase/migrations` as `supabase db push` does, into the same history, on any Postgres 15 to 18."""

from collections.abc import Callable
from functools import partial
from importlib import resources
from typing import LiteralString, cast

import psycopg
from psycopg.rows import scalar_row

from opskpi.errors import ExitCode, OpsKpiError, explain
from opskpi.postgres import history, locks, permissions
from opskpi.postgres.history import Migration

OLDEST_SERVER = 15
PATIENCE_S = 60.0
_DONE_BY_ANOTHER = (
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
    psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateSchema,
    psycopg.errors.DuplicateColumn,
    psycopg.errors.UniqueViolation,
    psycopg.errors.InternalError_,
)

HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text not null primary key,
  statements text[],
  name text
);
"""


def migrate(
    connection: psycopg.Connection, notify: Callable[[str], None] = lambda _: None, patience_s: float = PATIENCE_S
) -> list[Migration]:
    """Bring the database up to date, one transaction per file, and return what was applied.

    `notify` gets the name of each migration as it begins, and who holds a lock that it waits for. Two runs at once do
    the work once. A lock is waited for in turns of a second, because reads and writes queue behind the one who waits.
    Raises OpsKpiError: CONFIGURATION when the server is older than Postgres 15, the database is not in UTF-8 or has
    migrations that this program does not know; TRY_LATER when a lock is not free for `patience_s`; else FAILED. The
    message then names the migration; those before it stay.
    """
    _refuse_unfit(connection)
    patiently = partial(locks.patiently, connection, notify=notify, patience_s=patience_s)
    try:
        missing = patiently(partial(_known_missing, connection))
    except locks.NotFreeError as error:
        raise _not_free("the history of migrations", error, "") from error
    done: list[Migration] = []
    announced = set[str]()

    def announce(name: str) -> None:
        if name not in announced:
            announced.add(name)
            notify(name)

    for migration in missing:
        try:
            if patiently(partial(_apply, connection, migration, announce, is_first=not done)):
                done.append(migration)
        except locks.NotFreeError as error:
            raise _not_free(f"the migration {migration.file_name}", error, _state_of(migration, missing)) from error
        except psycopg.Error as error:
            failure = explain(error)
            raise OpsKpiError(
                f"the migration {migration.file_name} failed: {failure.message}",
                f"{failure.hint} {_state_of(migration, missing)}".lstrip(),
                failure.exit_code,
            ) from error
    _guard_tenants(connection)
    return done


def repair_grants(
    connection: psycopg.Connection, notify: Callable[[str], None] = lambda _: None, patience_s: float = PATIENCE_S
) -> list[permissions.Fault]:
    """Bring back the roles, policies and grants that a database lacks, in one transaction, and return what was amiss.

    The database must be at this program's migration. `notify`, `patience_s` and the errors are those of `migrate`.
    """
    history.require_current(connection)
    try:
        found = locks.patiently(connection, partial(_repair_grants, connection), notify=notify, patience_s=patience_s)
    except locks.NotFreeError as error:
        raise _not_free("the repair of the grants", error, "Nothing is changed.") from error
    _guard_tenants(connection)
    return found


def _repair_grants(connection: psycopg.Connection, watch: locks.Watch) -> list[permissions.Fault]:
    with connection.transaction():
        watch.begin()
        before = permissions.faults(connection)
        if any(fault.kind == "role" for fault in before):
            _make_roles(connection)
        permissions.repair(connection)
        return before


def require_grants(connection: psycopg.Connection) -> None:
    """Raise OpsKpiError when policies or grants of the schema are missing, as after a restore without their roles."""
    if found := permissions.faults(connection):
        raise OpsKpiError(
            f"the database is at the schema, but {permissions.in_words(found)}",
            "Run `opskpi migrate --repair-grants`.",
        )


def _known_missing(connection: psycopg.Connection, watch: locks.Watch) -> list[Migration]:
    with connection.transaction():
        watch.begin()
        return history.pending(connection)


def _apply(
    connection: psycopg.Connection,
    migration: Migration,
    announce: Callable[[str], None],
    watch: locks.Watch,
    *,
    is_first: bool,
) -> bool:
    """Apply a migration as a whole; False when another run, or `supabase db push`, has done it."""
    try:
        with connection.transaction():
            watch.begin()
            _exclude_jobs(connection)
            if migration.version in history.applied(connection):
                return False
            if is_first:
                _prepare(connection)
            announce(migration.file_name)
            # The files are ours, so they are as literal as SQL in this module would be.
            connection.execute(cast("LiteralString", migration.script))
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version, statements, name) values (%s, %s, %s)",
                [migration.version, [migration.script], migration.name],
            )
    except _DONE_BY_ANOTHER as error:
        if migration.version in history.applied(connection):
            return False
        if _is_of_two_at_once(error):
            raise psycopg.errors.LockNotAvailable(str(error)) from error
        raise
    return True


def _is_of_two_at_once(error: psycopg.Error) -> bool:
    """Whether another session changed the same object meanwhile, for which Postgres has no SQLSTATE of its own."""
    return error.diag.schema_name in {"pg_catalog", "supabase_migrations"} or "concurrently updated" in str(error)


def _exclude_jobs(connection: psycopg.Connection) -> None:
    """Keep other migrations, counting and alerting out while this transaction lasts.

    A pass that began with the functions of before would go on with those of afterwards.
    """
    for name in ("opskpi.migrate", "ops.refresh", "ops.evaluate_alerts"):
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])


def _not_free(what: str, error: locks.NotFreeError, state: str) -> OpsKpiError:
    remedy = f"`{error.remedy}` ends the oldest of them." if error.remedy else "Run it again."
    return OpsKpiError(f"{what} waited in vain for {error}", f"{remedy} {state}".rstrip(), ExitCode.TRY_LATER)


def _state_of(migration: Migration, missing: list[Migration]) -> str:
    """Say what is applied and what is not, for whoever reads that a migration was not."""
    place = missing.index(migration)
    before = f"Applied: {place} of {len(missing)}, the last is {missing[place - 1].file_name}. " if place else ""
    return (
        f"{before}Not applied: {len(missing) - place}; nothing of {migration.file_name} is left behind."
        " `opskpi run` refuses to work until `opskpi migrate` has applied all."
    )


def _refuse_unfit(connection: psycopg.Connection) -> None:
    if connection.info.server_version < OLDEST_SERVER * 10_000:
        raise OpsKpiError(
            f"the server is Postgres {connection.info.server_version // 10_000}",
            f"opskpi needs Postgres {OLDEST_SERVER} or newer.",
            ExitCode.CONFIGURATION,
        )
    if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
        raise OpsKpiError(
            f"the encoding of the database is {encoding}, and events hold any Unicode text",
            "Create a database with: create database NAME encoding 'UTF8' template template0 locale 'C.UTF-8';",
            ExitCode.CONFIGURATION,
        )


def _prepare(connection: psycopg.Connection) -> None:
    """Make the history and, on a plain Postgres, the roles that Supabase would have."""
    connection.execute(cast("LiteralString", HISTORY))
    _make_roles(connection)


def _make_roles(connection: psycopg.Connection) -> None:
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

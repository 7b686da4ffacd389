"""Where the database is, and the only place that connects to it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import conninfo

from opskpi.errors import ExitCode, OpsKpiError

DSN_VARIABLES = ("OPSKPI_DSN", "SUPABASE_DB_URL", "DATABASE_URL")
CONNECT_TIMEOUT_S = 10


def resolve_dsn(dsn: str | None, notify: Callable[[str], None]) -> str:
    """The DSN to use: the argument, else the first variable that is set, else the embedded server, started on demand.

    `notify` gets one line when the embedded server is used. Raises OpsKpiError when that cannot run.
    """
    for candidate in (dsn, *(os.environ.get(name) for name in DSN_VARIABLES)):
        if candidate:
            return candidate
    from opskpi.postgres import embedded  # noqa: PLC0415 - most servers are not ours to start

    notify("no DSN given, using the embedded Postgres")
    return embedded.ensure_running(notify)


def describe(dsn: str) -> str:
    """The host and database of a DSN, without its user and password; nothing of it when they cannot be told apart."""
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "the given DSN"
    host, name = str(parts.get("host") or "localhost"), str(parts.get("dbname") or parts.get("user") or "default")
    # A password with an unquoted @ or / spills into the host or the name.
    if "@" in host + name or (not host.startswith("/") and "/" in host + name):
        return "the given DSN"
    return f"database {name} at {host}"


@contextmanager
def unfiltered(connection: psycopg.Connection) -> Iterator[None]:
    """A transaction in which a role that would see only some rows is refused (42501), not shown a part as the whole."""
    with connection.transaction():
        connection.execute("set local row_security = off")
        yield


def connect(dsn: str) -> psycopg.Connection:
    """A connection in autocommit mode; a transaction is `with connection.transaction()`.

    Prepared statements stay off, since a transaction pooler hands each transaction another session. Raises
    OpsKpiError: exit code 75 when the server cannot be reached, 78 when the DSN or the password is wrong.
    """
    try:
        return psycopg.connect(
            dsn,
            autocommit=True,
            application_name="opskpi",
            # Whatever PGCLIENTENCODING or the database's own setting say, texts are sent and read as UTF-8.
            client_encoding="utf8",
            connect_timeout=CONNECT_TIMEOUT_S,
            prepare_threshold=None,
        )
    except psycopg.ProgrammingError as error:
        raise OpsKpiError(
            "the DSN cannot be read",
            "Write postgresql://user:password@host:5432/database, or key=value pairs.",
            ExitCode.CONFIGURATION,
        ) from error
    except psycopg.OperationalError as error:
        target = describe(dsn)
        if target == "the given DSN":
            raise OpsKpiError(
                "no connection: the DSN names no host that can be reached",
                "Percent-encode @, / and : in the user and the password of a postgresql:// URL.",
                ExitCode.CONFIGURATION,
            ) from None
        reason = str(error).strip().splitlines()[-1]
        wrong = any(word in reason for word in ("authentication failed", "does not exist"))
        raise OpsKpiError(
            f"no connection to {target}: {reason}",
            "Check the DSN, its user and password." if wrong else "Check that the server runs and is reachable.",
            ExitCode.CONFIGURATION if wrong else ExitCode.TRY_LATER,
        ) from error

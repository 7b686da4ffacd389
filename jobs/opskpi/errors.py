"""What can go wrong, as one sentence, one hint and one exit code."""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg


class ExitCode(IntEnum):
    """The exit codes of every command; 0 also means that another run already does the work."""

    DONE = 0
    FAILED = 1
    BREACH = 3
    BAD_ARGUMENT = 64
    TRY_LATER = 75
    CONFIGURATION = 78


class OpsKpiError(Exception):
    """A failure that a user can understand and act upon.

    `message` says what happened and where, `hint` what to do about it, `exit_code` what the process returns.
    """

    def __init__(self, message: str, hint: str = "", exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


BY_SQLSTATE: dict[str, tuple[ExitCode, str]] = {
    "OP001": (ExitCode.BAD_ARGUMENT, ""),
    "OP002": (ExitCode.FAILED, ""),
    "OP003": (ExitCode.CONFIGURATION, ""),
    "22008": (ExitCode.BAD_ARGUMENT, "Write instants such as 2026-01-31 or 2026-01-31T12:00:00Z."),
    "22007": (ExitCode.BAD_ARGUMENT, "Write instants such as 2026-01-31 or 2026-01-31T12:00:00Z."),
    "25006": (ExitCode.CONFIGURATION, "The database is read-only here; point --dsn at the primary."),
    "28P01": (ExitCode.CONFIGURATION, "Check the password in the DSN."),
    "3D000": (ExitCode.CONFIGURATION, "Create the database, or correct its name in the DSN."),
    "40001": (ExitCode.TRY_LATER, "Run it again."),
    "40P01": (ExitCode.TRY_LATER, "Run it again."),
    "42501": (ExitCode.CONFIGURATION, "Use the role that owns the tables: the one that ran the migrations."),
    "42P01": (ExitCode.CONFIGURATION, "Run `opskpi migrate`."),
    "42883": (ExitCode.CONFIGURATION, "Run `opskpi migrate`."),
    "3F000": (ExitCode.CONFIGURATION, "Run `opskpi migrate`."),
    "53100": (ExitCode.TRY_LATER, "The server's disk is full."),
    "53300": (ExitCode.TRY_LATER, "The server has no free connections."),
    "55P03": (ExitCode.TRY_LATER, "Another session holds a lock that is needed; run it again."),
    "57014": (
        ExitCode.TRY_LATER,
        "The statement timeout of this role is too short for it, or it was cancelled.",
    ),
    "57P01": (ExitCode.TRY_LATER, "The server closed the connection; run it again."),
    "57P03": (ExitCode.TRY_LATER, "The server is starting or stopping; run it again."),
}


def of_database() -> "type[psycopg.Error]":
    """The class of all failures of the database, for an `except` clause around code that may use no database.

    The clause is evaluated only when something was raised, so commands without a database do not import the driver.
    """
    import psycopg  # noqa: PLC0415 - the driver takes longer to import than all else

    return psycopg.Error


def explain(error: "psycopg.Error") -> OpsKpiError:
    """The failure of a database call as a user should read it; a lost or refused connection is worth a retry."""
    import psycopg  # noqa: PLC0415 - as above

    diagnosis = error.diag
    message = diagnosis.message_primary or str(error).strip().splitlines()[0]
    exit_code, hint = BY_SQLSTATE.get(error.sqlstate or "", (ExitCode.FAILED, ""))
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        exit_code, hint = ExitCode.TRY_LATER, "The connection was lost; run it again."
    return OpsKpiError(message, diagnosis.message_hint or hint, exit_code)

"""What every command shares: --dsn, --json, instants on the command line, and the connection that follows."""

import getpass
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import psycopg

from opskpi import console, db, migrations
from opskpi.errors import ExitCode, OpsKpiError

PERIODS = ("hour", "day", "week", "month")
INSTANT = click.DateTime(
    ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S%z"]
)


@dataclass(frozen=True, slots=True)
class Options:
    """What every command takes: the DSN, if given, and whether to print JSON."""

    dsn: str | None
    as_json: bool

    def connect(self, *, current: bool = True) -> psycopg.Connection:
        """A connection to the chosen database; `current` refuses one whose migrations differ from this program's."""
        connection = db.connect(db.resolve_dsn(self.dsn, console.notice))
        if current:
            migrations.require_current(connection)
        return connection


def add_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a function that takes Options the options --dsn and --json; those before a subcommand count for it too."""

    def with_options(dsn: str | None, as_json: bool, **arguments: Any) -> None:
        before = click.get_current_context().parent
        inherited = before.params if before else {}
        function(Options(dsn or inherited.get("dsn"), as_json or bool(inherited.get("as_json"))), **arguments)

    with_options.__doc__ = function.__doc__
    with_options.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document for machines.")
    dsn = click.option(
        "--dsn",
        metavar="DSN",
        help="The database; else OPSKPI_DSN, SUPABASE_DB_URL, DATABASE_URL, else the embedded server.",
    )
    return dsn(as_json(with_options))


def command(group: click.Group, **attributes: Any) -> Callable[[Callable[..., None]], click.Command]:
    """A command of a group with --dsn and --json, whose function gets them as Options."""

    def decorate(function: Callable[..., None]) -> click.Command:
        name = attributes.pop("name", function.__name__.replace("_", "-"))
        return group.command(name=name, **attributes)(add_options(function))

    return decorate


def with_zone(instant: datetime) -> datetime:
    """The instant in UTC where it names no zone."""
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def days_before(until: datetime, days: int) -> datetime:
    """The instant so many days earlier. Raises OpsKpiError where the calendar ends."""
    try:
        return until - timedelta(days=days)
    except OverflowError:
        raise OpsKpiError(
            f"there is no day {days} days before {until}", "Pass a later --until.", ExitCode.BAD_ARGUMENT
        ) from None


def user_name() -> str:
    """Who runs this; the number where the system knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def parse_range(since: datetime, until: datetime) -> tuple[datetime, datetime]:
    """Both ends with a zone. Raises OpsKpiError when nothing lies between them."""
    since, until = with_zone(since), with_zone(until)
    if since >= until:
        raise OpsKpiError(
            f"the range is empty: {since} to {until}", "Pass --since before --until.", ExitCode.BAD_ARGUMENT
        )
    return since, until

"""Options that commands share: --dsn and --json with the connection that follows, --org, and --author."""

import getpass
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from opskpi import console
from opskpi.orgs import NIL_ORG

if TYPE_CHECKING:
    import psycopg

PERIODS = ("hour", "day", "week", "month")

org_option = click.option(
    "--org",
    "org_id",
    type=click.UUID,
    default=NIL_ORG,
    show_default="the nil UUID, for single-tenant use",
    help="The organisation.",
)


@dataclass(frozen=True, slots=True)
class Options:
    """What every command takes: the DSN, if given, and whether to print JSON."""

    dsn: str | None
    as_json: bool

    def connect(self, *, current: bool = True) -> "psycopg.Connection":
        """A connection to the chosen database; `current` refuses one whose migrations differ from this program's."""
        from opskpi.postgres import connecting, history  # noqa: PLC0415 - some commands need no database

        connection = connecting.connect(connecting.resolve_dsn(self.dsn, console.notice))
        if current:
            history.require_current(connection)
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


def user_name() -> str:
    """The name of who runs this; the number where the system knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


author_option = click.option(
    "--author", default=user_name, show_default="your user name", help="The person who is kept with the change."
)

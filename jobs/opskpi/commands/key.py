"""`opskpi key …`: who may call the hub."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import click

from opskpi import console
from opskpi.access import keys
from opskpi.commands.options import Options, add_options, command, org_option
from opskpi.commands.types import Duration
from opskpi.errors import ExitCode, OpsKpiError


@click.group(name="key", invoke_without_command=True)
@add_options
def key(options: Options) -> None:
    """Show the API keys of the hub that are live; the commands below make and revoke them.

    \b
    Example:
      opskpi key
    """
    if click.get_current_context().invoked_subcommand is None:
        _list_keys(options, everything=False)


@command(key, name="create")
@click.argument("name")
@org_option
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(keys.SCOPES),
    multiple=True,
    required=True,
    help="What it may do; may be given more than once.",
)
@click.option("--expires-in", type=Duration(), help="12h, 90d, 4w; never unless given.")
def create_command(
    options: Options, name: str, org_id: UUID, scopes: tuple[str, ...], expires_in: timedelta | None
) -> None:
    """Make an API key called NAME, and print it: this once, since only its digest is kept.

    \b
    Example:
      opskpi key create laptops --org 6b1f0c9e-5a0d-4c53-8b1e-2f3a4c5d6e7f --scope ingest --expires-in 90d
    """
    expires_at = datetime.now(UTC) + expires_in if expires_in else None
    with options.connect() as connection:
        made = keys.create(connection, name, org_id, scopes, expires_at)
    if options.as_json:
        console.show_json(
            {
                "key": made.text,
                "key_id": made.key_id,
                "org_id": org_id,
                "name": name,
                "scopes": scopes,
                "expires_at": expires_at,
            }
        )
    else:
        console.show(made.text)
        console.notice("This is shown once; keep it where secrets are kept.")


@command(key, name="list")
@click.option("--all", "everything", is_flag=True, help="Those that are revoked or expired, too.")
def list_keys_command(options: Options, everything: bool) -> None:
    """Show the API keys: whose, for what, and when last used.

    \b
    Example:
      opskpi key list --all
    """
    _list_keys(options, everything=everything)


@command(key)
@click.argument("key_id")
def revoke(options: Options, key_id: str) -> None:
    """End the API key KEY_ID (the part after opskpi_; the whole key does, too) with the next request.

    \b
    Example:
      opskpi key revoke 3f9a0c1d2e4b
    """
    whole = keys.parse(key_id)
    key_id = whole.key_id if whole else key_id
    with options.connect() as connection:
        revoked = keys.revoke(connection, key_id)
    if not revoked:
        raise OpsKpiError(f"no live key has the id {key_id}", "See `opskpi key list --all`.", ExitCode.BAD_ARGUMENT)
    if options.as_json:
        console.show_json({"revoked": key_id})
    else:
        console.show(f"{key_id} is revoked")


def _list_keys(options: Options, *, everything: bool) -> None:
    with options.connect() as connection:
        found = keys.stored(connection, everything=everything)
    if options.as_json:
        console.show_json(found)
    else:
        console.show_rows("API keys", found, "no key yet; `opskpi key create` makes one")

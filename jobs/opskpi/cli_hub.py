"""`opskpi serve`, `opskpi key …` and `opskpi agent …`: the hub, who may call it, and which team an agent is in."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import click

from opskpi import anonymisation, console, db
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.hub import agents, keys
from opskpi.options import Options, add_options, command

UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class Duration(click.ParamType):
    """A whole number of hours, days or weeks: 12h, 90d, 4w."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The length of time that a text names."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([1-9]\d{0,4})([hdw])", str(value))
        if found is None:
            self.fail(f"{value!r} is no length of time; write 12h, 90d or 4w", param, ctx)
        return int(found[1]) * UNITS[found[2]]


org_option = click.option(
    "--org",
    "org_id",
    type=click.UUID,
    default=console.NIL_ORG,
    show_default="the nil UUID, for single-tenant use",
    help="The organisation.",
)


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


@click.group(name="agent", invoke_without_command=True)
@add_options
def agent(options: Options) -> None:
    """Show the agents, their teams and when they were last heard of.

    \b
    Example:
      opskpi agent
    """
    if click.get_current_context().invoked_subcommand is None:
        _list_agents(options, None)


@command(agent, name="list")
@click.option("--org", "org_id", type=click.UUID, help="Only agents of this organisation.")
def list_agents_command(options: Options, org_id: UUID | None) -> None:
    """Show the agents, their teams and when they were last heard of.

    \b
    Example:
      opskpi agent list --json
    """
    _list_agents(options, org_id)


@command(agent)
@click.argument("agent_id", type=click.UUID, metavar="AGENT")
@click.argument("team", required=False, default="")
@org_option
@click.option("--none", "to_none", is_flag=True, help="Into no team.")
def assign(options: Options, agent_id: UUID, team: str, org_id: UUID, to_none: bool) -> None:
    """Put AGENT into TEAM, from the next refresh on; an empty TEAM, or --none, into none.

    The past follows with `opskpi rebuild`.

    \b
    Example:
      opskpi agent assign 5d0c1a7e-9f4b-4a55-8f0e-3c2b1a09f8e7 payments
    """
    if bool(team) == to_none:
        raise OpsKpiError("name a TEAM or pass --none, one of both", exit_code=ExitCode.BAD_ARGUMENT)
    with options.connect() as connection:
        agents.assign(connection, org_id, agent_id, team or None)
        lags = anonymisation.key() is None and agents.has_pseudonyms(connection, org_id)
    if options.as_json:
        console.show_json({"org_id": org_id, "agent_id": agent_id, "team": team or None})
    else:
        console.show(f"{agent_id} is in {'team ' + team if team else 'no team'} from the next refresh on")
    if lags:
        console.notice(f"its pseudonym, if it has one, stays where it is: {anonymisation.KEY_VARIABLE} is not set")


@click.command(name="serve")
@add_options
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="0 takes a free one.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that serve.")
@click.option(
    "--connections",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="Connections to the database, at most, of each process.",
)
@click.option("--access-log", is_flag=True, help="Log each request on stderr, without its query.")
@click.option(
    "--github-secret-env", metavar="NAME", help="Take GitHub's webhooks, signed with the secret in this variable."
)
@click.option(
    "--github-org",
    type=click.UUID,
    default=console.NIL_ORG,
    show_default="the nil UUID, for single-tenant use",
    help="Whose events the webhooks are.",
)
@click.option("--no-auth", is_flag=True, help="Show the dashboard without a login, on this machine only.")
@org_option
@click.option(
    "--token-secret-env",
    metavar="NAME",
    help="Take Supabase tokens at the login, signed (HS256) with this variable's secret.",
)
@click.option(
    "--token-keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The same, signed by a key of this file, a JSON Web Key Set.",
)
def serve(
    options: Options,
    *,
    host: str,
    port: int,
    workers: int,
    connections: int,
    access_log: bool,
    github_secret_env: str | None,
    github_org: UUID,
    no_auth: bool,
    org_id: UUID,
    token_secret_env: str | None,
    token_keys: Path | None,
) -> None:
    """Serve the HTTP API and the dashboard until told to stop (SIGTERM), answering what has been asked by then.

    The dashboard asks for an API key of scope read; --no-auth shows --org to whoever sits at this machine.

    \b
    Example:
      opskpi serve --host 127.0.0.1 --port 8787
    """
    from opskpi.hub import serving  # noqa: PLC0415 - what it imports would slow every other command down

    def announce(url: str) -> None:
        if options.as_json:
            console.show_json({"url": url})
        else:
            console.show(f"the dashboard and the hub are on {url}; {url}/docs says what the hub answers")

    dsn = db.resolve_dsn(options.dsn, console.notice)
    settings = serving.Settings(
        dsn,
        connections,
        access_log,
        github_org,
        github_secret_env,
        open_to=org_id if no_auth else None,
        token_secret_env=token_secret_env,
        token_keys=token_keys,
    )
    serving.serve(settings, host, port, workers, announce)


def serve_locally(dsn: str, port: int = 8787) -> None:
    """Serve the dashboard of the nil org on this machine, without a login, until Ctrl-C."""
    from opskpi.hub import serving  # noqa: PLC0415 - what it imports would slow every other command down

    settings = serving.Settings(dsn, 10, False, console.NIL_ORG, None, open_to=console.NIL_ORG)
    serving.serve(
        settings, "127.0.0.1", port, 1, lambda url: console.show(f"the dashboard is on {url}; Ctrl-C ends it")
    )


def _list_keys(options: Options, *, everything: bool) -> None:
    with options.connect() as connection:
        found = keys.stored(connection, everything=everything)
    if options.as_json:
        console.show_json(found)
    else:
        console.show_rows("API keys", found, "no key yet; `opskpi key create` makes one")


def _list_agents(options: Options, org_id: UUID | None) -> None:
    with options.connect() as connection:
        found = agents.known(connection, org_id)
    if options.as_json:
        console.show_json(found)
    else:
        console.show_rows("Agents", found, "no agent has sent an event that was counted, and none has a team")

"""`opskpi serve`: the hub and its dashboard."""

from pathlib import Path
from uuid import UUID

import click

from opskpi import console
from opskpi.commands.options import Options, add_options, org_option
from opskpi.orgs import NIL_ORG
from opskpi.postgres import connecting


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
    default=NIL_ORG,
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

    dsn = connecting.resolve_dsn(options.dsn, console.notice)
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

    settings = serving.Settings(dsn, 10, False, NIL_ORG, None, open_to=NIL_ORG)
    serving.serve(
        settings, "127.0.0.1", port, 1, lambda url: console.show(f"the dashboard is on {url}; Ctrl-C ends it")
    )

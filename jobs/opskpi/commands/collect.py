"""`opskpi collect …`: runs, jobs and artifacts of GitHub Actions become events."""

import os
from datetime import datetime
from uuid import UUID

import click

from opskpi import console
from opskpi.clocks import with_zone
from opskpi.commands.options import Options, add_options, command
from opskpi.commands.types import INSTANT
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github import own_job, reading, resuming, storing
from opskpi.github.access import PUBLIC_API
from opskpi.github.payloads import Collected
from opskpi.github.rules import read_rules
from opskpi.github.storing import Summary
from opskpi.orgs import NIL_ORG

ORG = click.option("--org", type=click.UUID, default=NIL_ORG, help="The tenant; else the nil one.")


@click.group(name="collect", invoke_without_command=True)
@add_options
def collect(options: Options) -> None:
    """Show which repositories are polled and how far; the commands below collect runs, jobs and artifacts.

    \b
    Example:
      opskpi collect
    """
    if click.get_current_context().invoked_subcommand is None:
        with options.connect() as connection:
            found = resuming.collections(connection)
        if options.as_json:
            console.show_json(found)
        else:
            nothing = "nothing is polled yet; try `opskpi collect github --repo owner/name`"
            console.show_rows("Collections", found, nothing, without=["entity_tag"])


@command(collect)
@click.argument("files", nargs=-1, metavar="[FILE|-]...")
@click.option("--repo", "repositories", multiple=True, metavar="OWNER/NAME", help="Poll the runs of this repository.")
@click.option("--api-url", envvar="GITHUB_API_URL", default=PUBLIC_API, show_default=True, help="The REST API to poll.")
@click.option("--since", type=INSTANT, help="Poll runs created from then on, not since the last poll.")
@click.option("--signature", metavar="sha256=HEX", help="X-Hub-Signature-256 of the payload.")
@click.option("--secret-env", metavar="NAME", help="Environment variable with the webhook's secret.")
@ORG
def github(
    options: Options,
    *,
    files: tuple[str, ...],
    repositories: tuple[str, ...],
    api_url: str,
    since: datetime | None,
    signature: str | None,
    secret_env: str | None,
    org: UUID,
) -> None:
    """Store the finished runs, jobs and artifacts of GitHub Actions, each once.

    Reads webhook payloads and lists of runs from each FILE (- for standard input), or polls --repo with the token in
    GITHUB_TOKEN or GH_TOKEN; with neither it reads the payload that GITHUB_EVENT_PATH names.

    \b
    Example:
      opskpi collect github payload.json
      opskpi collect github --repo octo-org/octo-repo
    """
    if repositories and (files or signature is not None or secret_env is not None):
        raise OpsKpiError("--repo polls and reads no FILE", "Call it once for each.", ExitCode.BAD_ARGUMENT)
    if since is not None and not repositories:
        raise OpsKpiError("--since is for polling", "Pass --repo owner/name as well.", ExitCode.BAD_ARGUMENT)
    if repositories:
        summaries = _poll(options, repositories, api_url, with_zone(since) if since else None, org)
    else:
        summaries = _read(options, reading.sources(files, os.environ), signature, secret_env, org)
    if options.as_json:
        console.show_json(summaries)
    if any(summary.unlisted for summary in summaries):
        raise OpsKpiError(
            "runs are missing that GitHub does not list; all others are stored",
            'Read them by their states: gh api --paginate "repos/OWNER/NAME/actions/runs?created=SECOND..SECOND'
            '&status=failure" | opskpi collect github -, and take webhooks from now on.',
        )
    refused = sum(summary.refused for summary in summaries)
    if refused and not any(summary.accepted or summary.duplicate or summary.still_running for summary in summaries):
        raise OpsKpiError("everything was refused", "Is this a payload of GitHub Actions? See the reasons above.")


@command(collect)
@click.option("--outcome", type=click.Choice(own_job.JOB_STATUSES), required=True, help="How the job ended.")
@click.option("--started-at", type=INSTANT, help="When it began (UTC without an offset); else it has no duration.")
@click.option("--event-type", default="workflow_job", show_default=True, help="What the job is: slsa_provenance, …")
@ORG
def job(options: Options, outcome: str, started_at: datetime | None, event_type: str, org: UUID) -> None:
    """Store how the job of GitHub Actions ended in which this runs. The composite action calls it.

    \b
    Example:
      opskpi collect job --outcome success --event-type slsa_provenance
    """
    begun = with_zone(started_at) if started_at else None
    event = own_job.event_of_own_job(os.environ, outcome, event_type=event_type, started_at=begun)
    summary = Summary("this job")
    with options.connect() as connection:
        storing.store(connection, [Collected("this job", event)], summary, org)
    if options.as_json:
        console.show_json(summary)
    else:
        _show(summary)
    if summary.refused:
        raise OpsKpiError("the job was refused", "See the reason above.", ExitCode.BAD_ARGUMENT)


def _read(
    options: Options, files: tuple[str, ...], signature: str | None, secret_env: str | None, org: UUID
) -> list[Summary]:
    if signature is not None and len(files) > 1:
        raise OpsKpiError("a signature is of one payload", "Pass one FILE.", ExitCode.BAD_ARGUMENT)
    contents = [(file, reading.read_bytes(file)) for file in files]
    for _, raw in contents:
        reading.require_signed(raw, signature, secret_env, os.environ)
    summaries: list[Summary] = []
    with options.connect() as connection:
        for file, raw in contents:
            summaries.append(reading.collect(connection, file, raw, os.environ, org_id=org))
            if not options.as_json:
                _show(summaries[-1])
    return summaries


def _poll(
    options: Options, repositories: tuple[str, ...], api_url: str, since: datetime | None, org: UUID
) -> list[Summary]:
    from opskpi.github import polling  # noqa: PLC0415 - only polling needs HTTP
    from opskpi.github.api import GitHub  # noqa: PLC0415

    summaries: list[Summary] = []
    with options.connect() as connection, GitHub(api_url, os.environ) as api:
        rules = read_rules(connection)
        for repository in repositories:
            with console.progress(f"polling {repository}", None, quiet=options.as_json) as bar:
                summaries.append(
                    polling.poll(connection, api, repository, rules, org_id=org, since=since, on_progress=bar.update)
                )
            if not options.as_json:
                _show(summaries[-1])
    return summaries


def _show(summary: Summary) -> None:
    requests = f", {summary.api_requests:,} requests" if summary.api_requests else ""
    console.show(
        f"{summary.source}: {summary.accepted:,} accepted, {summary.duplicate:,} duplicate,"
        f" {summary.refused:,} refused, {summary.still_running:,} still running{requests}"
    )
    for sentence in [*summary.unlisted, *summary.notes]:
        console.show(f"  {sentence}")
    for refusal in summary.refusals:
        console.show(f"  {refusal.place}: {refusal.field + ' ' if refusal.field else ''}{refusal.reason}")

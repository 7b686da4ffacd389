"""`opskpi report …`: the dashboard as one file, and the summary of a week for the channels of alerts."""

import os
import sys
from pathlib import Path
from types import ModuleType
from uuid import UUID

import click

from opskpi import console
from opskpi.alerting import weekly
from opskpi.commands.options import Options, add_options, command, org_option
from opskpi.dashboard import layout, view
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.files import write_whole

STDOUT = Path("-")
EXTRA = ("jinja2", "markupsafe")


@click.group(name="report", invoke_without_command=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=STDOUT,
    help="Write to this file, whole or not at all; else stdout.",
)
@click.option(
    "--range", default="", help=f"{', '.join(view.RANGES)} or custom; 7d unless --since and --until are given."
)
@click.option("--since", default="", help="First instant, on the clocks of --tz: 2026-01-31 or 2026-01-31T12:00.")
@click.option("--until", default="", help="First instant after the range.")
@click.option("--period", default="", help=f"By {', '.join(view.PERIODS)}; else as suits the range.")
@click.option("--team", default="", help="Only this team's hooks.")
@click.option("--hook-type", default="", help="Only this hook.")
@click.option("--workflow", default="", help="Only this workflow.")
@click.option("--event-type", default="", help="Only this kind of event, in the overview.")
@click.option("--tz", default="", help="The clock, such as Europe/Berlin; else UTC.")
@click.option("--theme", default="", help=f"{', '.join(view.THEMES)}; auto follows the reader's system.")
@org_option
@add_options
def report(options: Options, *, out: Path, org_id: UUID, **said: str) -> None:
    """Write the pages of the dashboard as one HTML file that needs no server; the command below sends a summary.

    The options are those of the dashboard's address. The file holds its style, no script, and asks for nothing.

    \b
    Example:
      opskpi report --out report.html --range 30d --tz Europe/Berlin
    """
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        _refuse_misplaced(context)
        return
    chosen = view.parse("overview", _as_url(said))
    to_stdout = out == STDOUT
    if to_stdout and options.as_json:
        raise OpsKpiError(
            "--json says what was written, which would be mixed into the report",
            "Pass --out FILE, or leave --json away.",
            ExitCode.BAD_ARGUMENT,
        )
    reporting = _reporting()
    with options.connect() as connection:
        answers = reporting.read(connection, chosen, org_id)
    text = reporting.render(chosen, answers, org_id)
    if to_stdout:
        # As the file says of itself, whatever the terminal takes.
        sys.stdout.buffer.write(text.encode())
        return
    write_whole(out, text)
    since, until = answers.window
    if options.as_json:
        console.show_json(
            {
                "file": out,
                "bytes": len(text.encode()),
                "org_id": org_id,
                "made_at": answers.at,
                "since": since,
                "until": until,
                "period": chosen.effective_period(),
                "filters": chosen.labels("team", "hook_type", "workflow", "event_type"),
                "pages": list(layout.PAGES),
                "burndowns": [" ".join(filter(None, promise)) for promise in answers.burndowns],
            }
        )
    else:
        console.show(f"{out}: {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC, by {chosen.effective_period()}")


@command(report, name="weekly")
@click.option(
    "--to", "channels", multiple=True, required=True, metavar="CHANNEL", help="Where to; may be given more than once."
)
@click.option("--week", help="An ISO week that is over, such as 2026-W47; else the last one.")
@click.option("--again", is_flag=True, help="Write it again where it was written already.")
@org_option
def weekly_command(options: Options, *, channels: tuple[str, ...], week: str | None, again: bool, org_id: UUID) -> None:
    """Send the summary of a week to alert channels, once each however often this is called.

    \b
    Example (crontab):
      0 7 * * 1 OPSKPI_DSN=... opskpi report weekly --to on-call
    """
    with options.connect() as connection:
        told = weekly.tell(
            connection, channels, org_id=org_id, week=week, again=again, environ=os.environ, notify=console.notice
        )
    if options.as_json:
        console.show_json(told)
    else:
        for one in told:
            console.show(weekly.in_words(one))
    dead = [one.channel for one in told if one.is_new and one.state == "dead"]
    if dead:
        raise OpsKpiError(f"not sent: {', '.join(dead)}", "Mend it and run `opskpi alert retry`.")


def _as_url(said: dict[str, str]) -> dict[str, str]:
    """The options as the address of a page would have them: both ends make a range of their own."""
    given = {name: text for name, text in said.items() if text}
    if ("since" in given or "until" in given) and given.setdefault("range", "custom") != "custom":
        raise OpsKpiError(
            f"range {given['range']} has its own beginning and end",
            "Leave --range away, or --since and --until.",
            ExitCode.BAD_ARGUMENT,
        )
    return given


def _reporting() -> ModuleType:
    """The module that makes reports. Raises OpsKpiError (78) where what it needs is not installed."""
    try:
        from opskpi.dashboard import report as reporting  # noqa: PLC0415 - what it needs is an extra
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise OpsKpiError(
            f"a report needs the library {error.name}", "pip install 'opskpi[hub]'", ExitCode.CONFIGURATION
        ) from error
    return reporting


def _refuse_misplaced(context: click.Context) -> None:
    """Refuse options of the report before the name of another command, where they would be of no effect."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in ("dsn", "as_json") and source is click.core.ParameterSource.COMMANDLINE:
            raise OpsKpiError(
                f"--{name.removesuffix('_id').replace('_', '-')} is of no effect before {context.invoked_subcommand}",
                "Write it after the name of the command.",
                ExitCode.BAD_ARGUMENT,
            )

"""`opskpi export …`: events, KPIs, audits and SLOs as CSV, JSON lines or Parquet."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from opskpi import console
from opskpi.commands.options import Options, add_options, command
from opskpi.commands.types import INSTANT
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.exporting import formats, subjects, writing
from opskpi.exporting.formats import Format
from opskpi.exporting.subjects import AUDITS, EVENTS, KPIS, SLO, Given, Subject
from opskpi.exporting.writing import Selection

FILTERS = {
    "since": click.option("--since", type=INSTANT, help="First instant (UTC without an offset)."),
    "until": click.option("--until", type=INSTANT, help="First instant after the range."),
    "org": click.option("--org", type=click.UUID, help="Only this tenant."),
    "event_type": click.option("--event-type", multiple=True, help="Only this kind; may be given more than once."),
    "tag": click.option("--tag", help="Only of this release tag."),
    "run_id": click.option("--run-id", type=click.IntRange(-(2**63), 2**63 - 1), help="Only of this CI run."),
    "metric": click.option("--metric", multiple=True, help="Only this KPI; may be given more than once."),
    "period": click.option(
        "--period", type=click.Choice(subjects.PERIODS), multiple=True, help="Only these; may be given more than once."
    ),
    "breakdowns": click.option("--breakdowns", is_flag=True, help="Also by team, hook type and so on."),
    "label": click.option(
        "--label", multiple=True, metavar="KEY=VALUE", help="Only this breakdown; may be given more than once."
    ),
    "status": click.option(
        "--status",
        type=click.Choice(subjects.AUDIT_STATUSES),
        help="Only audits whose provenance or validation has this status.",
    ),
    "slo": click.option("--slo", multiple=True, help="Only this objective; may be given more than once."),
}


@click.group(name="export")
@add_options
def export(_options: Options) -> None:
    """Write events, KPIs, audits or SLO days to a file or to standard output, as the database has them at one moment.

    \b
    Example:
      opskpi export events --since 2026-01-01 --out events.jsonl.gz
    """


def _subject(subject: Subject) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of an export: those of its filters, and where it goes."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        form = click.option(
            "--format",
            "form",
            type=click.Choice([each.value for each in Format]),
            help="Else by the ending of --out (.jsonl, .ndjson, .csv, .parquet; .gz for the text ones), else jsonl.",
        )
        out = click.option(
            "--out",
            type=click.Path(path_type=Path),
            help="Write to this file, whole or not at all; else standard output.",
        )
        safe = click.option(
            "--spreadsheet-safe",
            is_flag=True,
            help="For people: put an apostrophe before text that a spreadsheet would run as a formula (CSV only).",
        )
        decorated = form(out(safe(function)))
        for name in reversed(["since", "until", "org", *subject.filters]):
            decorated = FILTERS[name](decorated)
        return decorated

    return decorate


@command(export)
@_subject(EVENTS)
def events(options: Options, **arguments: Any) -> None:
    """Export events; `opskpi ingest` takes the JSON lines back.

    \b
    Example:
      opskpi export events --event-type workflow_run --since 2026-01-01 --until 2026-02-01 --out january.parquet
    """
    _export(options, EVENTS, **arguments)


@command(export)
@_subject(KPIS)
def kpis(options: Options, **arguments: Any) -> None:
    """Export KPI values of hours, days, weeks and months, events not yet counted included.

    \b
    Example:
      opskpi export kpis --period day --metric hook_block_rate --breakdowns --out kpis.csv
    """
    _export(options, KPIS, **arguments)


@command(export)
@_subject(AUDITS)
def audits(options: Options, **arguments: Any) -> None:
    """Export audits of provenance.

    \b
    Example:
      opskpi export audits --status failure --format csv
    """
    _export(options, AUDITS, **arguments)


@command(export)
@_subject(SLO)
def slo(options: Options, **arguments: Any) -> None:
    """Export good and total of each objective and day, by the version that held then.

    \b
    Example:
      opskpi export slo --slo audit_observer_latency --out slo.csv
    """
    _export(options, SLO, **arguments)


def _export(
    options: Options, subject: Subject, *, form: str | None, out: Path | None, spreadsheet_safe: bool, **given: Given
) -> None:
    file = None if out == Path("-") else out
    wanted, zipped = formats.choose(form, file)
    formats.require(wanted, is_spreadsheet_safe=spreadsheet_safe)
    selection = Selection(subject, subjects.understand(given), wanted, spreadsheet_safe)
    if file is None:
        _require_room(options, wanted)
    # A terminal that shows the rows has no place for a bar.
    quiet = options.as_json or (file is None and sys.stdout.isatty())
    with (
        options.connect() as connection,
        console.progress(f"exporting {subject.name}", None, quiet=quiet) as bar,
    ):
        if file is None:
            writing.to_standard_output(connection, selection, bar.update)
            return
        summary = writing.to_file(connection, selection, file, zipped=zipped, on_progress=bar.update)
    if options.as_json:
        console.show_json(summary)
    else:
        console.show(f"{summary.rows:,} rows of {subject.name} are in {file} ({summary.bytes:,} bytes)")


def _require_room(options: Options, wanted: Format) -> None:
    """Refuse what would be mixed into an export to standard output, and what a terminal cannot show."""
    if options.as_json:
        raise OpsKpiError(
            "--json prints a summary, which would be mixed into the export",
            "Pass --out FILE, or leave --json away.",
            ExitCode.BAD_ARGUMENT,
        )
    if wanted is Format.PARQUET and sys.stdout.isatty():
        raise OpsKpiError("Parquet is nothing for a terminal", "Pass --out FILE.", ExitCode.BAD_ARGUMENT)

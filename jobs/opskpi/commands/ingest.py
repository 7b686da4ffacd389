"""Events from files."""

import click

from opskpi import console
from opskpi.commands.options import Options, add_options
from opskpi.errors import OpsKpiError
from opskpi.ingestion.files import Summary
from opskpi.ingestion.files import ingest as store
from opskpi.postgres import connecting


@click.command(name="ingest")
@add_options
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def ingest(options: Options, files: tuple[str, ...]) -> None:
    """Store the events of each FILE: JSON lines or one JSON array, gzipped or not, - for standard input.

    What is refused goes to FILE.refused.jsonl with the reason. A re-run adds nothing; a killed run resumes.

    \b
    Example:
      opskpi ingest events.jsonl history.jsonl.gz
    """
    summaries: list[Summary] = []
    with options.connect() as connection:
        for file in files:
            with console.progress(f"reading {file}", None, quiet=options.as_json) as bar:
                summaries.append(
                    store(
                        connection,
                        file,
                        on_progress=lambda done, total, _, bar=bar: bar.update(done, total),
                        open_another=lambda: connecting.connect(connecting.resolve_dsn(options.dsn, lambda _: None)),
                    )
                )
            if not options.as_json:
                _show_summary(summaries[-1])
    if options.as_json:
        console.show_json(summaries)
    if any(summary.refused for summary in summaries) and not any(s.accepted or s.duplicate for s in summaries):
        raise OpsKpiError("every line was refused", "Is this a file of events? See the reasons above.")


def _show_summary(summary: Summary) -> None:
    resumed = f", resumed after line {summary.resumed_at:,}" if summary.resumed_at else ""
    console.show(
        f"{summary.source}: {summary.accepted:,} accepted, {summary.duplicate:,} duplicate,"
        f" {summary.refused:,} refused{resumed}"
    )
    for refusal in summary.refusals:
        console.show(f"  line {refusal.line}: {refusal.field + ' ' if refusal.field else ''}{refusal.reason}")
    if summary.refused_file is not None:
        console.show(f"  the refused lines are in {summary.refused_file}")

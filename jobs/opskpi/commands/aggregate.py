"""`opskpi aggregate`: counting."""

from collections.abc import Callable

import click
import psycopg

from opskpi import console
from opskpi.commands.options import PERIODS, Options, add_options
from opskpi.counting import refresh


@click.command(name="aggregate")
@add_options
@click.option(
    "--period",
    type=click.Choice([*PERIODS, "all"]),
    default="all",
    show_default=True,
    help="Whose KPI rows to report.",
)
def aggregate(options: Options, period: str) -> None:
    """Count new events and rewrite the KPIs they touch.

    One pass keeps hours, days, weeks and months, so that each event is counted once; PERIOD says which to report.

    \b
    Example:
      opskpi aggregate --period hour
    """
    with options.connect() as connection:
        totals = count(connection, quiet=options.as_json)
    shown = {name: rows for name, rows in totals.rows.items() if period in {name, "all"}}
    if options.as_json:
        console.show_json(
            {"state": totals.state, "events": totals.events, "kpi_rows": shown, "message": totals.message}
        )
    else:
        console.show(refresh.in_words(totals, shown))


def count(
    connection: psycopg.Connection, *, quiet: bool, on_full: Callable[[], bool] = lambda: False
) -> refresh.Totals:
    """Count what is new, behind a progress bar; `on_full` is called while the disk is full."""
    with console.progress("counting events", None, quiet=quiet) as bar:
        return refresh.refresh(connection, lambda done, left: bar.update(done, done + left), on_full)

"""`opskpi rebuild`: a range counted again."""

from datetime import datetime

import click

from opskpi import console
from opskpi.clocks import parse_range
from opskpi.commands.options import Options, add_options
from opskpi.commands.types import INSTANT
from opskpi.counting import refresh


@click.command(name="rebuild")
@add_options
@click.option("--since", type=INSTANT, required=True, help="First instant of the range (UTC without an offset).")
@click.option("--until", type=INSTANT, required=True, help="First instant after the range.")
def rebuild(options: Options, since: datetime, until: datetime) -> None:
    """Recompute the hours, days, weeks and months that a range touches from the events.

    \b
    Example:
      opskpi rebuild --since 2026-01-01 --until 2026-02-01
    """
    since, until = parse_range(since, until)
    days = max((until - since).days, 1)
    with (
        options.connect() as connection,
        console.progress("rebuilding days", days, quiet=options.as_json) as bar,
    ):
        read = refresh.rebuild(connection, since, until, lambda done: bar.update((done - since).days))
    if options.as_json:
        console.show_json({"since": since, "until": until, "read": read})
    else:
        console.show(f"rebuilt from {read:,} events and audits")

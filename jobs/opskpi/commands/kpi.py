"""The newest KPIs."""

import click

from opskpi import console
from opskpi.commands.options import PERIODS, Options, add_options
from opskpi.status import reading, showing


@click.command(name="kpi")
@add_options
@click.option(
    "--period",
    type=click.Choice(PERIODS),
    default="day",
    show_default=True,
    help="The period whose newest values to show.",
)
@click.option("--metric", help="Only this KPI.")
@click.option("--breakdowns", is_flag=True, help="Also by team, hook type and so on.")
def kpi(options: Options, period: str, metric: str | None, breakdowns: bool) -> None:
    """Show the newest value of each KPI, events not yet counted included.

    \b
    Example:
      opskpi kpi --period week --metric hook_block_rate
    """
    with options.connect() as connection:
        kpis = reading.kpis(connection, period, metric, breakdowns=breakdowns)
    if options.as_json:
        console.show_json(kpis)
    elif kpis:
        showing.show_kpis(kpis)
    else:
        console.show("no KPI has a value yet; send events, or try `opskpi demo`")

"""The demo: a month of sample events, what becomes of it, and the dashboard."""

import click

from opskpi import console
from opskpi.commands.options import Options, add_options
from opskpi.commands.serve import serve_locally
from opskpi.demo import story
from opskpi.postgres import embedded
from opskpi.status import showing


@click.command(name="demo")
@add_options
@click.option("--serve", "serving", is_flag=True, help="Show the dashboard afterwards, on this machine, until Ctrl-C.")
def demo(options: Options, serving: bool) -> None:
    """Load a realistic month of events, show what becomes of it, and offer the dashboard.

    Uses the embedded server unless --dsn names a database. A second run changes nothing.

    \b
    Example:
      opskpi demo
    """
    result = story.run(options.dsn, quiet=options.as_json)
    if options.as_json:
        console.show_json(result)
    else:
        showing.show_kpis(result.kpis)
        showing.show_slos(result.slos)
        console.show("\nWhat went wrong in this month:")
        for episode in result.episodes:
            console.show(f"  {episode.what}, {episode.since:%Y-%m-%d %H:%M} to {episode.until:%H:%M} UTC:")
            console.show(f"    {episode.events} events burned the budget of {episode.slo_name}")
            console.show(f"    {episode.command}")
        console.show(result.next_steps)
        serving = serving or (console.is_interactive() and click.confirm("Show the dashboard now?", default=True))
    if serving:
        serve_locally(options.dsn or embedded.ensure_running(console.notice))

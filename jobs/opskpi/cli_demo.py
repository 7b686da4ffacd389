"""The demo: a month of sample events, what becomes of it, and the dashboard."""

import click

from opskpi import console, demo, server
from opskpi.cli_hub import serve_locally
from opskpi.options import Options, add_options


@click.command(name="demo")
@add_options
@click.option("--serve", "serving", is_flag=True, help="Show the dashboard afterwards, on this machine, until Ctrl-C.")
def demo_command(options: Options, serving: bool) -> None:
    """Load a realistic month of events, show what becomes of it, and offer the dashboard.

    Uses the embedded server unless --dsn names a database. A second run changes nothing.

    \b
    Example:
      opskpi demo
    """
    result = demo.run(options.dsn, quiet=options.as_json)
    if options.as_json:
        console.show_json(result)
    else:
        console.show_kpis(result.kpis)
        console.show_slos(result.slos)
        console.show(result.next_steps)
        serving = serving or (console.is_interactive() and click.confirm("Show the dashboard now?", default=True))
    if serving:
        serve_locally(options.dsn or server.ensure_running(console.notice))

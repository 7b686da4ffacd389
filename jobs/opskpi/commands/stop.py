"""`opskpi stop`: the end of the embedded server."""

import click

from opskpi import console
from opskpi.commands.options import Options, add_options
from opskpi.postgres import embedded


@click.command(name="stop")
@add_options
def stop(options: Options) -> None:
    """Stop the embedded server; its data stays.

    \b
    Example:
      opskpi stop
    """
    stopped = embedded.stop()
    if options.as_json:
        console.show_json({"stopped": stopped})
    else:
        console.show("the embedded server is stopped" if stopped else "the embedded server was not running")

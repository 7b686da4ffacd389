"""`opskpi migrate`: the schema."""

import click

from opskpi import console
from opskpi.commands.options import Options, add_options
from opskpi.postgres import migrations


@click.command(name="migrate")
@add_options
def migrate(options: Options) -> None:
    """Bring the database to this program's schema, as `supabase db push` would.

    \b
    Example:
      opskpi migrate --dsn postgresql://postgres@localhost/postgres
    """
    with options.connect(current=False) as connection:
        applied = migrations.migrate(connection, console.notice)
    if options.as_json:
        console.show_json({"applied": [migration.file_name for migration in applied]})
    else:
        console.show(f"{len(applied)} migrations applied" if applied else "nothing to apply, the schema is current")

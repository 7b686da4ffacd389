"""`opskpi migrate`: the schema."""

from dataclasses import asdict

import click

from opskpi import console
from opskpi.commands.options import Options, add_options
from opskpi.postgres import migrations, permissions


@click.command(name="migrate")
@add_options
@click.option(
    "--repair-grants", is_flag=True, help="Bring back roles, policies and grants that a restore has lost, too."
)
def migrate(options: Options, *, repair_grants: bool) -> None:
    """Bring the database to this program's schema, as `supabase db push` would.

    Exits with 1 when policies or grants of the schema are missing, as after a restore into a cluster without the roles
    that they name.

    \b
    Examples:
      opskpi migrate --dsn postgresql://postgres@localhost/postgres
      opskpi migrate --repair-grants
    """
    with options.connect(current=False) as connection:
        applied = migrations.migrate(connection, console.notice)
        repaired = migrations.repair_grants(connection, console.notice) if repair_grants else None
        if options.as_json:
            names = {"applied": [migration.file_name for migration in applied]}
            console.show_json(
                names if repaired is None else names | {"repaired": [asdict(fault) for fault in repaired]}
            )
        else:
            console.show(f"{len(applied)} migrations applied" if applied else "nothing to apply, the schema is current")
            if repaired is not None:
                console.show(f"repaired: {permissions.in_words(repaired)}" if repaired else "no grant is missing")
        migrations.require_grants(connection)

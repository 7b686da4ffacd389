"""The database itself: its schema, its health, and the embedded server."""

import click

from opskpi import console, doctor, migrations, server
from opskpi.errors import OpsKpiError
from opskpi.options import Options, add_options


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
        console.show_json({"applied": [f"{migration.version}_{migration.name}" for migration in applied]})
    else:
        console.show(f"{len(applied)} migrations applied" if applied else "nothing to apply, the schema is current")


@click.command(name="doctor")
@add_options
def doctor_command(options: Options) -> None:
    """Check that all is well, one line each; exit 1 if one check fails.

    \b
    Example:
      opskpi doctor
    """
    with options.connect(current=False) as connection:
        checks = doctor.examine(connection)
    if options.as_json:
        console.show_json(checks)
    else:
        console.show_checks(checks)
    failed = [check.check_name for check in checks if not check.passed]
    if failed:
        raise OpsKpiError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")


@click.command(name="stop")
@add_options
def stop(options: Options) -> None:
    """Stop the embedded server; its data stays.

    \b
    Example:
      opskpi stop
    """
    stopped = server.stop()
    if options.as_json:
        console.show_json({"stopped": stopped})
    else:
        console.show("the embedded server is stopped" if stopped else "the embedded server was not running")

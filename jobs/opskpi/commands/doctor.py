"""`opskpi doctor`: is all well?"""

import click

from opskpi import console
from opskpi.alerting.channels import registry
from opskpi.commands.options import Options, add_options
from opskpi.errors import OpsKpiError
from opskpi.status import showing
from opskpi.status.doctor import examine


@click.command(name="doctor")
@add_options
def doctor(options: Options) -> None:
    """Check that all is well, one line each; exit 1 if one check fails.

    \b
    Example:
      opskpi doctor
    """
    with options.connect(current=False) as connection:
        checks = examine(connection, registry.KINDS)
    if options.as_json:
        console.show_json(checks)
    else:
        showing.show_checks(checks)
    failed = [check.check_name for check in checks if not check.passed]
    if failed:
        raise OpsKpiError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")

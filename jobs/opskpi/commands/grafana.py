"""`opskpi grafana`: dashboards for those who live in Grafana."""

from pathlib import Path

import click

from opskpi import console
from opskpi.commands.options import Options, add_options


@click.command(name="grafana")
@add_options
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder to write to.")
@click.option("--provisioning", is_flag=True, help="Also the YAML that provisions dashboards and data source.")
@click.option("--source", default="opskpi", show_default=True, help="The uid of the provisioned data source.")
@click.option("--show-org", is_flag=True, help="Let people choose the organisation, for a login that sees several.")
@click.option("--force", is_flag=True, help="Overwrite files that somebody changed.")
def grafana(options: Options, *, out: Path, provisioning: bool, source: str, show_org: bool, force: bool) -> None:
    """Write Grafana dashboards over the v_ops_* views, to import or to provision; no database is asked.

    Files that are as this command once wrote them are brought up to date; changed ones stay unless --force is given.

    \b
    Example:
      opskpi grafana --out dashboards --provisioning
    """
    from opskpi.grafana import files, write  # noqa: PLC0415 - what no other command needs

    written = write(files(out, source, show_org=show_org, provisioning=provisioning), force=force)
    if options.as_json:
        console.show_json(written)
    else:
        for entry in written:
            console.show(f"{entry.change:<11} {entry.file}")

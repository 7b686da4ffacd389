"""`opskpi agent …`: who reports, and in which team."""

from uuid import UUID

import click

from opskpi import console
from opskpi.access import agents, pseudonyms
from opskpi.commands.options import Options, add_options, command, org_option
from opskpi.errors import ExitCode, OpsKpiError


@click.group(name="agent", invoke_without_command=True)
@add_options
def agent(options: Options) -> None:
    """Show the agents, their teams and when they were last heard of.

    \b
    Example:
      opskpi agent
    """
    if click.get_current_context().invoked_subcommand is None:
        _list_agents(options, None)


@command(agent, name="list")
@click.option("--org", "org_id", type=click.UUID, help="Only agents of this organisation.")
def list_agents_command(options: Options, org_id: UUID | None) -> None:
    """Show the agents, their teams and when they were last heard of.

    \b
    Example:
      opskpi agent list --json
    """
    _list_agents(options, org_id)


@command(agent)
@click.argument("agent_id", type=click.UUID, metavar="AGENT")
@click.argument("team", required=False, default="")
@org_option
@click.option("--none", "to_none", is_flag=True, help="Into no team.")
def assign(options: Options, agent_id: UUID, team: str, org_id: UUID, to_none: bool) -> None:
    """Put AGENT into TEAM, from the next refresh on; an empty TEAM, or --none, into none.

    The past follows with `opskpi rebuild`.

    \b
    Example:
      opskpi agent assign 5d0c1a7e-9f4b-4a55-8f0e-3c2b1a09f8e7 payments
    """
    if bool(team) == to_none:
        raise OpsKpiError("name a TEAM or pass --none, one of both", exit_code=ExitCode.BAD_ARGUMENT)
    with options.connect() as connection:
        agents.assign(connection, org_id, agent_id, team or None)
        lags = pseudonyms.key() is None and agents.has_pseudonyms(connection, org_id)
    if options.as_json:
        console.show_json({"org_id": org_id, "agent_id": agent_id, "team": team or None})
    else:
        console.show(f"{agent_id} is in {'team ' + team if team else 'no team'} from the next refresh on")
    if lags:
        console.notice(f"its pseudonym, if it has one, stays where it is: {pseudonyms.KEY_VARIABLE} is not set")


def _list_agents(options: Options, org_id: UUID | None) -> None:
    with options.connect() as connection:
        found = agents.known(connection, org_id)
    if options.as_json:
        console.show_json(found)
    else:
        console.show_rows(
            "Agents", found, "no agent has sent an event that was counted, and none has a team", keys=["agent_id"]
        )

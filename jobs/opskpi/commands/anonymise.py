"""`opskpi anonymise …`: personal data out of stored events, one agent out of everything, the rules, and the log."""

from datetime import datetime
from uuid import UUID

import click

from opskpi import console
from opskpi.access import pseudonyms
from opskpi.commands.options import Options, add_options, command
from opskpi.commands.types import InstantOrAge
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.orgs import NIL_ORG
from opskpi.upkeep import anonymisation

ACTIONS = ("remove", "hmac", "generalise")


@click.group(name="anonymise", invoke_without_command=True)
@add_options
@click.option("--before", type=InstantOrAge(), help="Apply the rules to events before it: 2026-01-01, 90d.")
@click.option("--event-type", help="With --before: only events of this type.")
@click.option("--agent", "agent_id", type=click.UUID, help="Erase this agent: its events, and wherever else it is.")
@click.option("--org", "org_id", type=click.UUID, help="The organisation; all for --before, the nil UUID for --agent.")
@click.option("--dry-run", is_flag=True, help="Count what would change, and change nothing.")
@click.option("--also", multiple=True, help="With --agent: another name of it to erase, such as an e-mail address.")
@click.option("--without-key", is_flag=True, help="With --agent: the key is gone, leave its pseudonym alone.")
def anonymise(
    options: Options,
    *,
    before: datetime | None,
    event_type: str | None,
    agent_id: UUID | None,
    org_id: UUID | None,
    dry_run: bool,
    also: tuple[str, ...],
    without_key: bool,
) -> None:
    """Take personal data out of stored events, or erase one agent; KPIs and SLOs stay the same.

    Pseudonyms are made with the key in OPSKPI_ANONYMISATION_KEY. Killed, it is finished by the next run.

    \b
    Example:
      opskpi anonymise --before 90d --dry-run
      opskpi anonymise --agent 5d0c1a7e-9f4b-4a55-8f0e-3c2b1a09f8e7 --also anna@example.com
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    if (before is None) == (agent_id is None):
        raise OpsKpiError("name --before or --agent, one of both", exit_code=ExitCode.BAD_ARGUMENT)
    if (event_type is not None and agent_id) or ((without_key or also) and before):
        raise OpsKpiError(
            "--event-type goes with --before, --also and --without-key with --agent", exit_code=ExitCode.BAD_ARGUMENT
        )
    with options.connect() as connection, console.progress("anonymising", None, quiet=options.as_json) as bar:
        if before is not None:
            scope = anonymisation.Scope(before, org_id, event_type)
            totals = anonymisation.anonymise(connection, scope, dry_run=dry_run, on_progress=bar.update)
        else:
            assert agent_id is not None  # noqa: S101 - one of both
            totals = anonymisation.erase(
                connection,
                org_id or NIL_ORG,
                agent_id,
                dry_run=dry_run,
                without_key=without_key,
                also=also,
                on_progress=bar.update,
            )
    if options.as_json:
        console.show_json(totals)
    else:
        console.show(_in_words(totals, erasing=agent_id is not None))
        for column, rows in sorted(totals.kept.items()):
            console.show(f"stays in {rows:,} row(s) of {column}, which is part of a definition: change that by hand")


@anonymise.group(name="rule", invoke_without_command=True)
@add_options
def rule(options: Options) -> None:
    """Show the rules, in the order in which they apply; the commands below set and remove them.

    \b
    Example:
      opskpi anonymise rule
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    with options.connect() as connection:
        found = anonymisation.rules(connection)
    if options.as_json:
        console.show_json(found)
    else:
        console.show_rows("Rules", found, "no rule; `opskpi anonymise rule set` adds one")


@command(rule, name="set")
@click.argument("rule_name", metavar="NAME")
@click.option("--path", required=True, help="Where: $.key, $.files[*], $.**.file at any depth, $.** everywhere.")
@click.option("--action", required=True, type=click.Choice(ACTIONS), help="What is done to it.")
@click.option("--event-type", default="", help="Only events of this type.")
@click.option("--matching", help="Only the parts of a text that this regular expression matches.")
@click.option("--on-ingest", is_flag=True, help="Also before an event is stored.")
@click.option("--disabled", is_flag=True, help="Keep it, and do not apply it.")
def set_command(
    options: Options,
    *,
    rule_name: str,
    path: str,
    action: str,
    event_type: str,
    matching: str | None,
    on_ingest: bool,
    disabled: bool,
) -> None:
    """Add the rule NAME, or change it whole. What labels, KPIs and SLOs are counted from is never touched.

    \b
    Example:
      opskpi anonymise rule set tickets --path '$.**' --matching 'JIRA-[0-9]+' --action hmac --on-ingest
    """
    has_key = pseudonyms.key() is not None
    wanted = anonymisation.Rule(rule_name, event_type, path, matching, action, on_ingest, not disabled)
    with options.connect() as connection:
        anonymisation.set_rule(connection, wanted)
    if options.as_json:
        console.show_json(wanted)
    else:
        console.show(f"{rule_name} is set" + (", for events that come in, too" if on_ingest else ""))
    if on_ingest and action == "hmac" and not has_key:
        console.notice(f"whatever stores events needs {pseudonyms.KEY_VARIABLE} now; without it none of these")


@command(rule, name="remove")
@click.argument("rule_name", metavar="NAME")
def remove_command(options: Options, rule_name: str) -> None:
    """Take the rule NAME away; what it did stays done.

    \b
    Example:
      opskpi anonymise rule remove tickets
    """
    with options.connect() as connection:
        removed = anonymisation.remove_rule(connection, rule_name)
    if not removed:
        raise OpsKpiError(f"there is no rule {rule_name}", "See `opskpi anonymise rule`.", ExitCode.BAD_ARGUMENT)
    if options.as_json:
        console.show_json({"removed": rule_name})
    else:
        console.show(f"{rule_name} is removed")


@command(anonymise)
def log(options: Options) -> None:
    """Show what was anonymised when, and how much; never whose it was.

    \b
    Example:
      opskpi anonymise log
    """
    with options.connect() as connection:
        found = anonymisation.runs(connection)
    if options.as_json:
        console.show_json(found)
    else:
        console.show_rows("Anonymisations", found, "nothing was anonymised yet")


def _in_words(totals: anonymisation.Totals, *, erasing: bool) -> str:
    if erasing and not totals.changed and not totals.counts:
        return "nothing of this agent is left"
    would = "would be " if totals.dry_run else ""
    counted = "".join(f"; {name}: {count:,}" for name, count in sorted(totals.counts.items()))
    return f"{totals.changed:,} of {totals.looked_at:,} events {would}changed{counted}"

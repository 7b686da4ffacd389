"""`opskpi retention …`: how old the data gets."""

import click

from opskpi import console
from opskpi.commands.options import Options, add_options, command
from opskpi.upkeep import retention as upkeep


@click.group(name="retention", invoke_without_command=True)
@add_options
def retention(options: Options) -> None:
    """Show how long each kind of data is kept, and what is stored; the commands below change it and apply it.

    \b
    Example:
      opskpi retention
    """
    if click.get_current_context().invoked_subcommand is None:
        _show(options)


@command(retention)
def show(options: Options) -> None:
    """Show the rules and the stored months, as `opskpi retention` alone does.

    \b
    Example:
      opskpi retention show --json
    """
    _show(options)


@command(retention, name="set")
@click.argument("kept", type=click.Choice(upkeep.KINDS))
@click.argument("age")
@click.option("--event-type", default="", help="Only events of this type; else of each that has no rule of its own.")
def set_command(options: Options, kept: str, age: str, event_type: str) -> None:
    """Say how old the raw events, the hours, the kpis (of days and longer) or the alerts get; the next run applies it.

    AGE is 90d, 8w, 13mo or 2y; forever; or default, which takes the rule back.

    \b
    Examples:
      opskpi retention set events 13mo
      opskpi retention set events 90d --event-type hook_execution
      opskpi retention set hours forever
    """
    with options.connect() as connection:
        upkeep.set_rule(connection, kept, age, event_type)
        rules = upkeep.rules(connection)
    if options.as_json:
        console.show_json(rules)
    else:
        _show_rules(rules)


@command(retention)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and change nothing.")
def run(options: Options, dry_run: bool) -> None:
    """Remove what is older than its rule allows, and say what that freed. Also part of `opskpi run`.

    Whole months of events are dropped as partitions. Events that are not counted yet are never removed.

    \b
    Example:
      opskpi retention run --dry-run
    """
    with options.connect() as connection:
        if dry_run:
            planned = upkeep.plan(connection)
            outcome = upkeep.Outcome(planned)
        else:
            with console.progress("removing rows", None, quiet=options.as_json) as bar:
                outcome = upkeep.run(connection, bar.update)
    if options.as_json:
        console.show_json(outcome)
        return
    for line in upkeep.outcome_in_words(outcome) or ["nothing is older than its rule allows"]:
        console.show(line)
    if dry_run:
        console.show("nothing was changed: this was a dry run")


def _show(options: Options) -> None:
    with options.connect() as connection:
        rules, months = upkeep.rules(connection), upkeep.months(connection)
    if options.as_json:
        console.show_json({"rules": rules, "months": months})
        return
    _show_rules(rules)
    console.show_rows("Stored events", months, "no event is stored", without=["month_start", "month_end"])


def _show_rules(rules: list[upkeep.Rule]) -> None:
    shown = [upkeep.Rule(rule.kept, rule.event_type or "every other", rule.age or "for ever") for rule in rules]
    console.show_rows("Retention", shown, "no rule: everything is kept for ever; `opskpi retention set` makes one")

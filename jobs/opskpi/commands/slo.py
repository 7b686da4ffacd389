"""`opskpi slo …`: how the objectives stand, and objectives as code."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import click

from opskpi import console, openslo
from opskpi.clocks import days_before, parse_range
from opskpi.commands.options import Options, add_options, author_option, command
from opskpi.commands.types import INSTANT
from opskpi.counting import history
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.files import write_whole
from opskpi.groups import COLUMN, from_words, name_of, shown
from opskpi.objectives import reporting
from opskpi.openslo import applying, lifecycle, simulating
from opskpi.orgs import NIL_ORG
from opskpi.postgres import scratch
from opskpi.status import reading, showing

group_option = click.option(
    "--group",
    "words",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only this group: a label and its value, none for events without it; once per label. Or as tables show it.",
)
UNCHANGED = "nothing was changed: this was a dry run"
# On what the budget rests that an explanation shares out, by `budget_basis`.
BUDGETS = {
    "counted": "that of all that was counted since {since}",
    "expected": "that of the whole period since {since}, as expected at the pace so far",
    "slices": "that of the time slices of the whole period since {since}",
}


@click.group(name="slo", invoke_without_command=True)
@click.option("--fail-on-breach", is_flag=True, help="Exit with 3 when an objective is breached.")
@add_options
def slo(options: Options, fail_on_breach: bool) -> None:
    """Show each objective: status, SLI, target, budget left and burn rates; the commands below define and explain them.

    \b
    Example:
      opskpi slo --fail-on-breach
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    with options.connect() as connection:
        slos = reading.slos(connection)
    if options.as_json:
        console.show_json(slos)
    else:
        showing.show_slos(slos)
    breached = [_named(row.slo_name, name_of(row.slo_group)) for row in slos if row.status == "breached"]
    if fail_on_breach and breached:
        raise OpsKpiError(f"breached: {', '.join(breached)}", exit_code=ExitCode.BREACH)


@command(slo)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--bundle", default="default", show_default=True, help="Name of these files; what they make is theirs.")
@click.option("--prune", is_flag=True, help="Remove what the bundle made and the files no longer define.")
@click.option("--adopt", is_flag=True, help="Make all that the files define the bundle's, whatever made it.")
@author_option
def apply(
    options: Options, *, files: tuple[str, ...], dry_run: bool, bundle: str, prune: bool, adopt: bool, author: str
) -> None:
    """Make objectives, alert rules and channels what OpenSLO v1 FILEs say, all or nothing; - is standard input.

    What another bundle made may be named and not changed. Only --prune removes, and only what the same bundle made.

    \b
    Example:
      opskpi slo apply --prune --dry-run slos.yaml
    """
    owner = applying.Bundle(bundle, adopt, prune, author)
    left_out: list[applying.LeftOut] = []
    notes: list[str] = []
    with options.connect() as connection:
        definitions = openslo.read(
            _paths(files), known_channels=applying.channel_names(connection), on_note=console.notice
        )
        if dry_run:
            with scratch.writable(connection, console.notice) as tried:
                changes = applying.apply(
                    tried,
                    definitions,
                    owner,
                    dry_run=True,
                    on_left_out=left_out.append,
                    on_note=notes.append,
                )
        else:
            changes = applying.apply(connection, definitions, owner, on_note=notes.append)
            with console.progress("counting the past of new objectives, days", None, quiet=options.as_json) as bar:
                history.fill(connection, bar.update)
    if options.as_json:
        console.show_json(changes)
    else:
        _show_changes(changes)
    for each in left_out:
        # Nobody misses a rule that cannot fire.
        say = console.notice if options.as_json or each.never_fires else console.show
        say(f"left out  rule {each.rule_name} for {each.slo_name}: {each.because}")
    for note in notes:
        console.notice(note)
    if dry_run and not options.as_json:
        console.show(UNCHANGED)


@command(slo)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def validate(options: Options, files: tuple[str, ...]) -> None:
    """Say what is wrong with OpenSLO v1 FILEs, or that nothing is; - is standard input. No database is needed.

    Whether a notification target that the files do not define stands in the database is left to `slo apply --dry-run`.

    \b
    Example:
      opskpi slo validate slos.yaml
    """
    found = openslo.read(_paths(files), known_channels=None, on_note=console.notice)
    if options.as_json:
        console.show_json(openslo.as_json(found))
    else:
        console.show(f"valid: {len(found.slos)} objectives, {len(found.rules)} rules, {len(found.channels)} channels")


@command(slo, name="list")
@click.option("--all", "everything", is_flag=True, help="Disabled and removed objectives, too.")
def list_command(options: Options, everything: bool) -> None:
    """List the objectives: state, since when and by whom, the bundle that made each, from when on it has data.

    \b
    Example:
      opskpi slo list --all
    """
    with options.connect() as connection:
        found = lifecycle.listed(connection, everything=everything)
    if options.as_json:
        console.show_json(found)
    else:
        optional = ("since", "author", "bundle", "counted_since")
        empty = {column for column in optional if all(getattr(row, column) is None for row in found)}
        console.show_rows("Objectives", found, "there is no objective", without={"service", "version"} | empty)


@command(slo)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@author_option
def delete(options: Options, names: tuple[str, ...], dry_run: bool, author: str) -> None:
    """Remove the objectives NAME with their own rules, all or none, without asking. Their history stays readable.

    \b
    Example:
      opskpi slo delete --dry-run audit_observer_latency
    """
    with options.connect() as connection:
        if dry_run:
            with scratch.writable(connection, console.notice) as tried:
                gone = lifecycle.delete(tried, names, author, dry_run=True)
        else:
            gone = lifecycle.delete(connection, names, author)
    if options.as_json:
        console.show_json(gone)
        return
    for each in gone:
        console.show(f"removed   slo {each.slo_name}")
        for rule in each.rules:
            console.show(f"removed   rule {rule}")
        console.show(f"kept      {each.versions} versions with their days, {each.exclusions} exclusions")
        if each.open_alerts:
            console.show(f"          {each.open_alerts} open alerts end with the next evaluation, with this reason")
        if each.bundle:
            console.show(f"          files of the bundle {each.bundle} make it again as long as they define it")
    if dry_run:
        console.show(UNCHANGED)


@command(slo)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@author_option
def disable(options: Options, names: tuple[str, ...], author: str) -> None:
    """Disable the objectives NAME: no status, no alerts; their events are counted all the same.

    \b
    Example:
      opskpi slo disable audit_observer_latency
    """
    _enable(options, names, author, is_enabled=False)


@command(slo)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@author_option
def enable(options: Options, names: tuple[str, ...], author: str) -> None:
    """Enable the objectives NAME again; their windows hold what happened meanwhile.

    \b
    Example:
      opskpi slo enable audit_observer_latency
    """
    _enable(options, names, author, is_enabled=True)


@command(slo)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead.")
def export(options: Options, out: Path | None) -> None:
    """Write what stands as OpenSLO v1 YAML; applying it again changes nothing.

    \b
    Example:
      opskpi slo export --out slos.yaml
    """
    with options.connect() as connection:
        definitions = applying.stored(connection)
    if options.as_json:
        console.show_json(openslo.as_json(definitions))
    elif out:
        write_whole(out, openslo.write(definitions))
        console.show(f"{len(definitions.slos)} objectives, {len(definitions.rules)} rules are in {out}")
    else:
        console.show(openslo.write(definitions).rstrip("\n"))


@command(slo)
@click.argument("name")
@click.option(
    "--since", type=INSTANT, help="First instant (UTC without an offset); else that of its window at --until."
)
@click.option("--until", type=INSTANT, help="First instant after the range; else now.")
@click.option("--org", type=click.UUID, help="Only this tenant.")
@group_option
def explain(
    options: Options,
    *,
    name: str,
    since: datetime | None,
    until: datetime | None,
    org: UUID | None,
    words: tuple[str, ...],
) -> None:
    """List the events that burned the budget of NAME, or of each of its groups; costs add up to what was consumed.

    They are shares of the budget that `opskpi slo` shows, for a range of a calendar period as well; for a part of a
    rolling window they are shares of the budget of that part. A stretch before a change is judged as it was then.

    \b
    Example:
      opskpi slo explain audit_observer_latency --since 2026-03-01 --until 2026-03-08
    """
    until = until or datetime.now(UTC)
    first, until = parse_range(since or days_before(until, 1), until)
    with options.connect() as connection:
        costs = reporting.explain(connection, name, since and first, until, org, group=from_words(words))
    if options.as_json:
        console.show_json(costs)
        return
    accounts: dict[str, list[reporting.Cost]] = {} if costs else {"": []}
    for cost in costs:
        accounts.setdefault(name_of(cost.slo_group), []).append(cost)
    for group, of_group in accounts.items():
        console.show_rows(
            f"What burned the budget of {_named(name, group)}",
            of_group,
            "nothing burned the budget in this range",
            keys=["event_id"],
            without=["slo_group", "version", "budget_basis", "budget_since"],
            dispensable=["event_type", "tag", "run_id", "reason"],
        )
        for tenant in sorted({cost.org_id for cost in of_group}, key=str):
            own = [cost for cost in of_group if cost.org_id == tenant]
            whose = "" if tenant == NIL_ORG else f" of {tenant}"
            share = f"{sum(cost.cost for cost in own) * 100:.2f} % of the budget{whose}{group and f' of {group}'}"
            basis = BUDGETS[own[0].budget_basis].format(
                since=f"{own[0].budget_since.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            )
            console.show(f"{len(own)} events consumed {share}, {basis}")
            if len(versions := sorted({cost.version for cost in own})) > 1:
                console.show(f"each was judged by the version that held then: {', '.join(map(str, versions))}")


@command(slo)
@click.argument("name")
@click.option("--since", type=INSTANT, required=True, help="First instant (UTC without an offset).")
@click.option("--until", type=INSTANT, required=True, help="First instant after it.")
@click.option("--reason", required=True, help="Why; it is kept.")
@author_option
@click.option("--org", type=click.UUID, default=UUID(int=0), help="The tenant; else the nil org.")
@group_option
def exclude(
    options: Options,
    *,
    name: str,
    since: datetime,
    until: datetime,
    reason: str,
    author: str,
    org: UUID,
    words: tuple[str, ...],
) -> None:
    """Leave a time out of the account of NAME, such as maintenance, also afterwards; both figures stay visible.

    \b
    Example:
      opskpi slo exclude audit_observer_latency --since 2026-03-01T02:00 --until 2026-03-01T04:00 --reason "upgrade"
    """
    since, until = parse_range(since, until)
    group = from_words(words) or {}
    with options.connect() as connection:
        number = reporting.exclude(connection, reporting.Exclusion(name, since, until, reason, author, org, group))
        unknown = reporting.unknown(connection, name, org, group)
    if options.as_json:
        console.show_json({"exclusion": number})
    else:
        console.show(
            f"exclusion {number}: {_named(name, name_of(group))} from {since.isoformat()} to {until.isoformat()}"
        )
    if unknown:
        console.notice(reporting.unknown_in_words(shown(group), unknown))


@command(slo)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--days", type=click.IntRange(1, 400), default=7, show_default=True, help="How far back.")
@click.option("--until", type=INSTANT, help="Where to end (UTC without an offset); else now.")
def simulate(options: Options, files: tuple[str, ...], days: int, until: datetime | None) -> None:
    """Say what the objectives of OpenSLO v1 FILEs would have fired over the last days, and change nothing.

    \b
    Example:
      opskpi slo simulate slos.yaml --days 30
    """
    until = until or datetime.now(UTC)
    since, until = parse_range(days_before(until, days), until)
    with options.connect() as connection:
        definitions = openslo.read(
            _paths(files), known_channels=applying.channel_names(connection), on_note=console.notice
        )
        with console.progress("trying objectives", len(definitions.slos), quiet=options.as_json) as bar:
            fired = simulating.simulate(connection, definitions, since, until, bar.update)
    untried = [rule.rule_name for rule in definitions.rules if rule.kind in simulating.UNTRIED or rule.event_type]
    if untried:
        console.notice(f"not tried, since they are about no objective: {', '.join(untried)}")
    if options.as_json:
        console.show_json(fired)
    else:
        console.show_rows(
            f"What would have fired in {days} days",
            fired,
            "nothing would have fired",
            keys=["rule_name", "subject", "slo_group"],
            dispensable=["severity", "resolved_at"],
            written=COLUMN,
        )


def _named(name: str, group: str) -> str:
    """An objective, with its group where it has one, as `alert silence` takes it."""
    return f"{name} {group}" if group else name


def _show_changes(changes: Sequence[applying.Change]) -> None:
    for change in changes:
        console.show(f"{change.change:<9} {change.kind} {change.name}")
        for field, (before, after) in (change.differences or {}).items():
            console.show(f"            {field}: {before} -> {after}")


def _enable(options: Options, names: tuple[str, ...], author: str, *, is_enabled: bool) -> None:
    with options.connect() as connection:
        changes = lifecycle.enable(connection, names, author, is_enabled=is_enabled)
    if options.as_json:
        console.show_json(changes)
    else:
        _show_changes(changes)


def _paths(files: tuple[str, ...]) -> list[Path | str]:
    return [file if file == "-" else Path(file) for file in files]

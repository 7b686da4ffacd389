"""The commands. Each parses, calls one function and prints; `main` alone turns errors into text and exit codes."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click
import psycopg

from opskpi import console, db, demo, doctor, ingest, migrations, reading, refresh, server
from opskpi.errors import ExitCode, OpsKpiError, explain

INSTANT = click.DateTime(
    ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S%z"]
)
PERIODS = ("hour", "day", "week", "month")


@dataclass(frozen=True, slots=True)
class Options:
    """What every command takes: the DSN, if given, and whether to print JSON."""

    dsn: str | None
    as_json: bool

    def connect(self, *, current: bool = True) -> psycopg.Connection:
        """A connection to the chosen database; `current` refuses one whose migrations differ from this program's."""
        connection = db.connect(db.resolve_dsn(self.dsn, console.notice))
        if current:
            migrations.require_current(connection)
        return connection


def command(**attributes: Any) -> Callable[[Callable[..., None]], click.Command]:
    """A command with --dsn and --json, whose function gets them as Options."""

    def decorate(function: Callable[..., None]) -> click.Command:
        def with_options(dsn: str | None, as_json: bool, **arguments: Any) -> None:
            function(Options(dsn, as_json), **arguments)

        with_options.__doc__ = function.__doc__
        with_options.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document for machines.")
        dsn = click.option(
            "--dsn",
            metavar="DSN",
            help="The database; else OPSKPI_DSN, SUPABASE_DB_URL, DATABASE_URL, else the embedded server.",
        )
        name = attributes.pop("name", function.__name__.replace("_", "-"))
        return cli.command(name=name, **attributes)(dsn(as_json(with_options)))

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="opskpi")
def cli() -> None:
    """Telemetry KPIs and SLOs for software delivery, inside Postgres.

    \b
    Exit codes: 0 done or already running, 1 failed, 3 breach (--fail-on-breach),
    64 bad argument, 75 try later, 78 configuration.
    """


@command(name="demo")
def demo_command(options: Options) -> None:
    """Load a realistic month of events and show what becomes of it.

    Uses the embedded server unless --dsn names a database. A second run changes nothing.

    \b
    Example:
      opskpi demo
    """
    result = demo.run(options.dsn, quiet=options.as_json)
    if options.as_json:
        console.show_json(result)
        return
    console.show_kpis(result.kpis)
    console.show_slos(result.slos)
    console.show(result.next_steps)


@command()
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


@command(name="ingest")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def ingest_command(options: Options, files: tuple[str, ...]) -> None:
    """Store the events of each FILE: JSON lines or one JSON array, gzipped or not, - for standard input.

    What is refused goes to FILE.refused.jsonl with the reason. A re-run adds nothing; a killed run resumes.

    \b
    Example:
      opskpi ingest events.jsonl history.jsonl.gz
    """
    summaries: list[ingest.Summary] = []
    with options.connect() as connection:
        for file in files:
            with console.progress(f"reading {file}", None, quiet=options.as_json) as bar:
                summaries.append(
                    ingest.ingest(connection, file, on_progress=lambda done, total, _, bar=bar: bar.update(done, total))
                )
            if not options.as_json:
                _show_summary(summaries[-1])
    if options.as_json:
        console.show_json(summaries)
    if any(summary.refused for summary in summaries) and not any(s.accepted or s.duplicate for s in summaries):
        raise OpsKpiError("every line was refused", "Is this a file of events? See the reasons above.")


@command()
@click.option(
    "--period",
    type=click.Choice([*PERIODS, "all"]),
    default="all",
    show_default=True,
    help="Whose KPI rows to report.",
)
def aggregate(options: Options, period: str) -> None:
    """Count new events and rewrite the KPIs they touch.

    One pass keeps hours, days, weeks and months, so that each event is counted once; PERIOD says which to report.

    \b
    Example:
      opskpi aggregate --period hour
    """
    totals = _refresh(options)
    shown = {name: rows for name, rows in totals.rows.items() if period in {name, "all"}}
    if options.as_json:
        console.show_json(
            {"state": totals.state, "events": totals.events, "kpi_rows": shown, "message": totals.message}
        )
    else:
        console.show(_refreshed(totals, shown))


@command()
def run(options: Options) -> None:
    """Do everything that is due: counting, then upkeep. This is what cron calls.

    \b
    Example (crontab):
      */5 * * * * OPSKPI_DSN=... opskpi run
    """
    # Counting comes first: it must go on whatever keeps the upkeep from its work.
    totals = _refresh(options)
    with options.connect() as connection:
        made = refresh.maintain(connection)
    if options.as_json:
        console.show_json(
            {
                "partitions": made,
                "state": totals.state,
                "events": totals.events,
                "kpi_rows": totals.rows,
                "message": totals.message,
            }
        )
    else:
        console.show(_refreshed(totals, totals.rows))


@command()
@click.option("--since", type=INSTANT, required=True, help="First instant of the range (UTC without an offset).")
@click.option("--until", type=INSTANT, required=True, help="First instant after the range.")
def rebuild(options: Options, since: datetime, until: datetime) -> None:
    """Recompute the hours, days, weeks and months that a range touches from the events.

    \b
    Example:
      opskpi rebuild --since 2026-01-01 --until 2026-02-01
    """
    since, until = _with_zone(since), _with_zone(until)
    if since >= until:
        raise OpsKpiError(
            f"the range is empty: {since} to {until}", "Pass --since before --until.", ExitCode.BAD_ARGUMENT
        )
    days = max((until - since).days, 1)
    with (
        options.connect() as connection,
        console.progress("rebuilding days", days, quiet=options.as_json) as bar,
    ):
        read = refresh.rebuild(connection, since, until, lambda done: bar.update((done - since).days))
    if options.as_json:
        console.show_json({"since": since, "until": until, "read": read})
    else:
        console.show(f"rebuilt from {read:,} events and audits")


@command()
@click.option(
    "--period",
    type=click.Choice(PERIODS),
    default="day",
    show_default=True,
    help="The period whose newest values to show.",
)
@click.option("--metric", help="Only this KPI.")
@click.option("--breakdowns", is_flag=True, help="Also by team, hook type and so on.")
def kpi(options: Options, period: str, metric: str | None, breakdowns: bool) -> None:
    """Show the newest value of each KPI, events not yet counted included.

    \b
    Example:
      opskpi kpi --period week --metric hook_block_rate
    """
    with options.connect() as connection:
        kpis = reading.kpis(connection, period, metric, breakdowns=breakdowns)
    if options.as_json:
        console.show_json(kpis)
    elif kpis:
        console.show_kpis(kpis)
    else:
        console.show("no KPI has a value yet; send events, or try `opskpi demo`")


@command()
@click.option("--fail-on-breach", is_flag=True, help="Exit with 3 when an objective is breached.")
def slo(options: Options, fail_on_breach: bool) -> None:
    """Show each objective: status, SLI, target, budget left and burn rates.

    \b
    Example:
      opskpi slo --fail-on-breach
    """
    with options.connect() as connection:
        slos = reading.slos(connection)
    if options.as_json:
        console.show_json(slos)
    else:
        console.show_slos(slos)
    breached = [row.slo_name for row in slos if row.status == "breached"]
    if fail_on_breach and breached:
        raise OpsKpiError(f"breached: {', '.join(breached)}", exit_code=ExitCode.BREACH)


@command(name="doctor")
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


@command()
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


def main() -> NoReturn:
    """Run the command line and end the process with one of the exit codes of `errors.ExitCode`."""
    # A closed stream is None; what is printed to it goes nowhere, as with any other program.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    try:
        result = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.BAD_ARGUMENT)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except OpsKpiError as error:
        _fail(error)
    except psycopg.Error as error:
        _fail(explain(error))
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.DONE)
    except OSError as error:
        _fail(OpsKpiError(f"the output cannot be written: {error.strerror or error}", exit_code=ExitCode.TRY_LATER))
    sys.exit(result if isinstance(result, int) else ExitCode.DONE)


def _fail(error: OpsKpiError) -> NoReturn:
    console.notice(f"opskpi: {error.message}")
    if error.hint:
        console.notice(error.hint)
    sys.exit(error.exit_code)


def _refresh(options: Options) -> refresh.Totals:
    with (
        options.connect() as connection,
        console.progress("counting events", None, quiet=options.as_json) as bar,
    ):
        return refresh.refresh(connection, lambda done, left: bar.update(done, done + left))


def _refreshed(totals: refresh.Totals, rows: dict[str, int]) -> str:
    if totals.state == "busy":
        return "another refresh is running, nothing to do"
    written = ", ".join(f"{count:,} {period}" for period, count in rows.items())
    return f"{totals.events:,} events counted, KPI rows written: {written}" + (
        f"; {totals.message}" if totals.message else ""
    )


def _show_summary(summary: ingest.Summary) -> None:
    resumed = f", resumed after line {summary.resumed_at:,}" if summary.resumed_at else ""
    console.show(
        f"{summary.source}: {summary.accepted:,} accepted, {summary.duplicate:,} duplicate,"
        f" {summary.refused:,} refused{resumed}"
    )
    for refusal in summary.refusals:
        console.show(f"  line {refusal.line}: {refusal.field + ' ' if refusal.field else ''}{refusal.reason}")
    if summary.refused_file is not None:
        console.show(f"  the refused lines are in {summary.refused_file}")


def _with_zone(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)

"""The commands. Each parses, calls one function and prints; `main` alone turns errors into text and exit codes."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import click
import psycopg

from opskpi import console, db, demo, doctor, ingest, migrations, reading, refresh, retention, server
from opskpi.alerting import evaluation
from opskpi.cli_alert import alert
from opskpi.cli_anonymise import anonymise
from opskpi.cli_audit import audit
from opskpi.cli_collect import collect
from opskpi.cli_export import export
from opskpi.cli_grafana import grafana
from opskpi.cli_hook import hook
from opskpi.cli_hub import agent, key, serve, serve_locally
from opskpi.cli_report import report
from opskpi.cli_retention import outcome_in_words, retention_group
from opskpi.cli_slo import slo
from opskpi.errors import ExitCode, OpsKpiError, explain
from opskpi.options import INSTANT, Options, command, parse_range

PERIODS = ("hour", "day", "week", "month")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="opskpi")
def cli() -> None:
    """Telemetry KPIs and SLOs for software delivery, inside Postgres.

    \b
    Exit codes: 0 done or already running, 1 failed, 3 breach (--fail-on-breach) or failed audit,
    64 bad argument, 75 try later, 78 configuration.
    """


cli.add_command(slo)
cli.add_command(alert)
cli.add_command(audit)
cli.add_command(collect)
cli.add_command(export)
cli.add_command(hook)
cli.add_command(grafana)
cli.add_command(report)
cli.add_command(serve)
cli.add_command(key)
cli.add_command(agent)
cli.add_command(retention_group)
cli.add_command(anonymise)


@command(cli, name="demo")
@click.option("--serve", "serving", is_flag=True, help="Show the dashboard afterwards, on this machine, until Ctrl-C.")
def demo_command(options: Options, serving: bool) -> None:
    """Load a realistic month of events, show what becomes of it, and offer the dashboard.

    Uses the embedded server unless --dsn names a database. A second run changes nothing.

    \b
    Example:
      opskpi demo
    """
    result = demo.run(options.dsn, quiet=options.as_json)
    if options.as_json:
        console.show_json(result)
    else:
        console.show_kpis(result.kpis)
        console.show_slos(result.slos)
        console.show(result.next_steps)
        serving = serving or (console.is_interactive() and click.confirm("Show the dashboard now?", default=True))
    if serving:
        serve_locally(options.dsn or server.ensure_running(console.notice))


@command(cli)
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


@command(cli, name="ingest")
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
                    ingest.ingest(
                        connection,
                        file,
                        on_progress=lambda done, total, _, bar=bar: bar.update(done, total),
                        open_another=lambda: db.connect(db.resolve_dsn(options.dsn, lambda _: None)),
                    )
                )
            if not options.as_json:
                _show_summary(summaries[-1])
    if options.as_json:
        console.show_json(summaries)
    if any(summary.refused for summary in summaries) and not any(s.accepted or s.duplicate for s in summaries):
        raise OpsKpiError("every line was refused", "Is this a file of events? See the reasons above.")


@command(cli)
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


@command(cli)
def run(options: Options) -> None:
    """Do everything that is due: counting, alerts, upkeep, sending, retention. This is what cron calls.

    \b
    Example (crontab):
      */5 * * * * OPSKPI_DSN=... opskpi run
    """
    # Counting comes first: it must go on whatever keeps the rest from its work.
    totals = _refresh(options)
    with options.connect() as connection:
        alerts = evaluation.evaluate(connection)
        sent = evaluation.send(connection, os.environ, console.notice)
        made = refresh.maintain(connection)
        outcome = retention.run(connection)
    if options.as_json:
        console.show_json(
            {
                "partitions": made,
                "state": totals.state,
                "events": totals.events,
                "kpi_rows": totals.rows,
                "message": totals.message,
                "alerts": alerts,
                "deliveries": sent,
                "retention": outcome,
            }
        )
    else:
        console.show(_refreshed(totals, totals.rows))
        console.show(evaluation.in_words(alerts, sent))
        for line in outcome_in_words(outcome):
            console.show(line)


@command(cli)
@click.option("--since", type=INSTANT, required=True, help="First instant of the range (UTC without an offset).")
@click.option("--until", type=INSTANT, required=True, help="First instant after the range.")
def rebuild(options: Options, since: datetime, until: datetime) -> None:
    """Recompute the hours, days, weeks and months that a range touches from the events.

    \b
    Example:
      opskpi rebuild --since 2026-01-01 --until 2026-02-01
    """
    since, until = parse_range(since, until)
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


@command(cli)
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


@command(cli, name="doctor")
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


@command(cli)
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
    except UnicodeEncodeError:
        # Not what it is: it may be a password or a key.
        _fail(OpsKpiError("an argument or a variable is no text in UTF-8", exit_code=ExitCode.BAD_ARGUMENT))
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

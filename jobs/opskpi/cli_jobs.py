"""What cron calls: counting, alerts, upkeep, sending, retention; and repairs."""

import os
from datetime import datetime

import click

from opskpi import console, refresh, retention
from opskpi.alerting import evaluation
from opskpi.cli_retention import outcome_in_words
from opskpi.options import INSTANT, PERIODS, Options, add_options, parse_range


@click.command(name="aggregate")
@add_options
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


@click.command(name="run")
@add_options
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


@click.command(name="rebuild")
@add_options
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

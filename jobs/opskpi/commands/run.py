"""`opskpi run`: what cron calls."""

import os

import click
import psycopg

from opskpi import console
from opskpi.alerting import evaluation
from opskpi.commands.aggregate import count
from opskpi.commands.options import Options, add_options
from opskpi.counting import refresh
from opskpi.upkeep import retention
from opskpi.upkeep.steps import Steps


@click.command(name="run")
@add_options
def run(options: Options) -> None:
    """Do everything that is due: counting, alerts, sending, upkeep, retention. This is what cron calls.

    Each step runs by itself, whatever becomes of the others. Each failure is one line on standard error, and the exit
    code is that of the worst step.

    \b
    Example (crontab):
      */5 * * * * OPSKPI_DSN=... opskpi run
    """
    steps = Steps(options.connect(), options.connect, console.notice)
    # First, since what has kept the jobs from their work may end this run as well.
    steps.take("watchdog", lambda connection: evaluation.warn(connection, os.environ, console.notice))
    made_room = retention.Outcome()

    def make_room(connection: psycopg.Connection) -> bool:
        dropped = retention.drop_counted(connection)
        made_room.freed += dropped.freed
        return dropped.has_dropped()

    def count_new(connection: psycopg.Connection) -> refresh.Totals:
        return count(connection, quiet=options.as_json, on_full=lambda: make_room(connection))

    totals = steps.take("counting", count_new)
    alerts = steps.take("alerts", evaluation.evaluate)
    sent = steps.take("sending", lambda connection: evaluation.send(connection, os.environ, console.notice))
    made = steps.take("upkeep", refresh.maintain)
    outcome = steps.take("retention", retention.run)
    if outcome and outcome.has_dropped() and steps.may_pass("counting"):
        # The month that is gone may be the room that counting lacked.
        totals = steps.take("counting", count_new)
    if outcome:
        outcome.freed[:0] = made_room.freed
    if options.as_json:
        console.show_json(
            {
                "partitions": made,
                "state": totals and totals.state,
                "events": totals and totals.events,
                "kpi_rows": totals and totals.rows,
                "message": totals and totals.message,
                "alerts": alerts,
                "deliveries": sent,
                "retention": outcome,
                "failures": steps.failures,
            }
        )
    else:
        if totals:
            console.show(refresh.in_words(totals, totals.rows))
        if alerts or sent:
            console.show(evaluation.in_words(alerts, sent))
        for line in retention.outcome_in_words(outcome) if outcome else ():
            console.show(line)
    steps.end()

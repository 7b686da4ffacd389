"""`opskpi run`: what cron calls."""

import os

import click

from opskpi import console
from opskpi.alerting import evaluation
from opskpi.commands.aggregate import count
from opskpi.commands.options import Options, add_options
from opskpi.counting import refresh
from opskpi.upkeep import retention


@click.command(name="run")
@add_options
def run(options: Options) -> None:
    """Do everything that is due: counting, alerts, upkeep, sending, retention. This is what cron calls.

    \b
    Example (crontab):
      */5 * * * * OPSKPI_DSN=... opskpi run
    """
    # Counting comes first: it must go on whatever keeps the rest from its work.
    totals = count(options)
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
        console.show(refresh.in_words(totals, totals.rows))
        console.show(evaluation.in_words(alerts, sent))
        for line in retention.outcome_in_words(outcome):
            console.show(line)

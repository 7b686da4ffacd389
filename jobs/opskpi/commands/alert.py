"""`opskpi alert …`: what fires, what was sent, and sending it."""

import os
from collections.abc import Sequence
from datetime import datetime

import click

from opskpi import console
from opskpi.alerting import evaluation
from opskpi.alerting.channels import registry
from opskpi.clocks import with_zone
from opskpi.commands.options import Options, add_options, author_option, command
from opskpi.commands.types import INSTANT
from opskpi.errors import OpsKpiError
from opskpi.groups import COLUMN, with_group_as_stored
from opskpi.upkeep.steps import Steps


@click.group(name="alert", invoke_without_command=True)
@add_options
def alert(options: Options) -> None:
    """Show the alerts that are pending or firing; the commands below send, silence and test them.

    \b
    Example:
      opskpi alert
    """
    if click.get_current_context().invoked_subcommand is None:
        _list(options, resolved=False)


@command(alert, name="list")
@click.option("--all", "everything", is_flag=True, help="Those that are over, too.")
@click.option("--channels", is_flag=True, help="The channels instead.")
@click.option("--kinds", is_flag=True, help="The kinds that a channel can be of, and what each needs, instead.")
def list_command(options: Options, everything: bool, channels: bool, kinds: bool) -> None:
    """Show the alerts, the channels they go to, or the kinds of channels.

    \b
    Example:
      opskpi alert list --all
    """
    if kinds:
        _show(options, "Kinds of channels", registry.needs(), "")
        return
    if not channels:
        _list(options, resolved=everything)
        return
    with options.connect() as connection:
        found = evaluation.channels(connection)
    _show(options, "Channels", found, "no channel yet; `opskpi slo apply` adds one from an OpenSLO file")


@command(alert)
def deliver(options: Options) -> None:
    """Send what waits in the outbox, and say when the jobs stand still. Also part of `opskpi run`.

    \b
    Example:
      opskpi alert deliver
    """
    steps = Steps(options.connect(), options.connect, console.notice)
    steps.take("watchdog", evaluation.watch)
    sent = steps.take("sending", lambda connection: evaluation.send(connection, os.environ, console.notice))
    if options.as_json:
        console.show_json(sent)
    elif sent:
        console.show(evaluation.sent_in_words(sent))
    steps.end()


@command(alert, name="test")
@click.argument("channel")
def test_command(options: Options, channel: str) -> None:
    """Send one message to CHANNEL and say whether it got through.

    \b
    Example:
      opskpi alert test on-call
    """
    with options.connect() as connection:
        state, reason = evaluation.send_test(connection, channel, os.environ)
    if options.as_json:
        console.show_json({"channel": channel, "state": state, "reason": reason})
    elif state == "delivered":
        console.show(f"{channel}: delivered")
    if state != "delivered":
        raise OpsKpiError(f"{channel}: {reason or 'not sent yet'} (the message is {state})", "Mend it and try again.")


@command(alert)
@click.argument("matcher")
@click.option("--until", type=INSTANT, required=True, help="First instant after the silence (UTC without an offset).")
@click.option("--reason", required=True, help="Why; it is kept.")
@author_option
def silence(options: Options, matcher: str, until: datetime, reason: str, author: str) -> None:
    """Log the alerts of MATCHER and do not send them: a rule, objective, KPI, agent or service, or * for all.

    Groups of an objective are named as the lists show them: 'NAME workflow=release' is every group with this label.

    \b
    Example:
      opskpi alert silence audit_observer --until 2026-03-01T06:00 --reason "move of the runners"
    """
    matcher = with_group_as_stored(matcher)
    with options.connect() as connection:
        number = evaluation.silence(connection, matcher, with_zone(until), reason, author)
    if options.as_json:
        console.show_json({"silence": number})
    else:
        console.show(f"silence {number}: {matcher} until {with_zone(until).isoformat()}")


@command(alert)
@click.option("--channel", help="Only messages for this channel.")
def retry(options: Options, channel: str | None) -> None:
    """Queue dead messages again; one that a later message has overtaken stays unsent.

    \b
    Example:
      opskpi alert retry --channel on-call
    """
    with options.connect() as connection:
        queued = evaluation.retry(connection, channel)
    if options.as_json:
        console.show_json({"queued": queued})
    else:
        console.show(f"{queued} messages queued again")


def _list(options: Options, *, resolved: bool) -> None:
    with options.connect() as connection:
        found = evaluation.alerts(connection, resolved=resolved)
    if options.as_json:
        console.show_json(found)
    else:
        console.show_rows(
            "Alerts",
            found,
            "nothing is pending or firing",
            keys=["rule_name", "subject", "slo_group"],
            without=["pending_since", "detail"],
            dispensable=["is_frozen", "resolved_at", "alert_id"],
            written=COLUMN,
        )


def _show(options: Options, title: str, rows: Sequence[object], nothing: str) -> None:
    if options.as_json:
        console.show_json(rows)
    else:
        console.show_rows(title, rows, nothing)

"""`opskpi hook …`: reporting around git hooks, the queue, and sending it."""

import json
import sys
from dataclasses import asdict
from datetime import date

import click

from opskpi import console
from opskpi.commands.options import Options, add_options, command
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.hooks import configuring, installing, overview, recording, switch, wrapping
from opskpi.hooks.reports import Report


@click.group(name="hook", invoke_without_command=True)
@add_options
def hook(options: Options) -> None:
    """Let git hooks report what they do; without a command: what is queued and how sending goes.

    DO_NOT_TRACK=1 or OPSKPI_TELEMETRY=0 switches recording and sending off. None of these commands needs a database.

    \b
    Example:
      opskpi hook
    """
    below = click.get_current_context().invoked_subcommand
    if below is None:
        _status(options)
    elif below != "status" and sys.stderr.isatty() and (warning := overview.warning("command")):
        console.notice(warning)


@command(hook)
@click.option("--hub", metavar="URL", help="The hub to send to.")
@click.option("--supabase", metavar="URL", help="The Supabase project to send to instead; needs the extra supabase.")
@click.option("--org", metavar="UUID", help="The org that the events belong to, those queued before included.")
@click.option("--key-file", metavar="PATH", help="A file with the API key; OPSKPI_API_KEY comes first.")
@click.option("--force-shared", is_flag=True, help="Also where core.hooksPath is a folder outside of the repository.")
def install(
    options: Options,
    *,
    hub: str | None,
    supabase: str | None,
    org: str | None,
    key_file: str | None,
    force_shared: bool,
) -> None:
    """Put reporting around the pre-commit and pre-push hooks of the repository here; the hooks stay as they are.

    A second time it changes the settings that are named, and wraps what another tool has put there since.

    \b
    Example:
      opskpi hook install --hub https://opskpi.example.com --org 2b0a… --key-file ~/.config/opskpi/key
    """
    if hub is not None and supabase is not None:
        raise OpsKpiError("--hub and --supabase are two targets", "Pass one of them.", ExitCode.BAD_ARGUMENT)
    configuring.refuse_distrusted()
    with installing.alone():
        hooks = installing.install(force_shared=force_shared)
        configuring.configure(hub, supabase, org, key_file)
    _show_hooks(options, hooks)
    if not options.as_json and overview.status()["target"] is None:
        console.show(
            "events are kept here until a target is named: opskpi hook install --hub URL --org UUID --key-file PATH"
        )


@command(hook)
@click.option("--purge", is_flag=True, help="Also delete events that were not sent.")
@click.option("--force-shared", is_flag=True, help="Also where core.hooksPath is a folder outside of the repository.")
def uninstall(options: Options, purge: bool, force_shared: bool) -> None:
    """Put the hooks of the repository here back as they were, byte for byte.

    \b
    Example:
      opskpi hook uninstall
    """
    with installing.alone():
        hooks = installing.uninstall(force_shared=force_shared)
        left = overview.clear(purge=purge)
    _show_hooks(options, hooks)
    if left:
        console.notice(f"{left} events were not sent and stay: `opskpi hook flush` sends, --purge deletes them")


@command(hook, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--hook-type", required=True, metavar="TYPE", help="The git hook it stands for: pre-commit, pre-push, …")
@click.argument("run", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
def wrap(_options: Options, hook_type: str, run: tuple[str, ...]) -> None:
    """Run CMD untouched, with its exit code, and record what became of it. For hooks that you write yourself.

    CMD may write a report to the file that OPSKPI_HOOK_REPORT names; see the README.

    \b
    Example:
      opskpi hook wrap --hook-type pre-commit -- ruff check .
    """
    wrapping.run_and_exit(hook_type, list(run))


@command(hook)
@click.option("--file", required=True, help="Where the finding is; a path within the repository.")
@click.option("--line", required=True, type=click.IntRange(0), help="On which line.")
@click.option("--pattern", required=True, help="Which rule found it.")
@click.option("--reason", required=True, help="Why it is accepted.")
@click.option("--date", "on", default=None, metavar="DATE", help="Since when.  [default: today]")
@click.option("--hook-type", default="pre-commit", show_default=True, help="Whose baseline it is.")
@click.option("--source", default="manual", show_default=True, help="Who wrote the entry: manual, tool, …")
@click.option("--reviewed", is_flag=True, help="A second person has agreed.")
def baseline(
    options: Options,
    *,
    file: str,
    line: int,
    pattern: str,
    reason: str,
    on: str | None,
    hook_type: str,
    source: str,
    reviewed: bool,
) -> None:
    """Record that a finding was accepted into the baseline.

    \b
    Example:
      opskpi hook baseline --file src/a.py --line 7 --pattern AWS_KEY --reason "a test key" --reviewed
    """
    entry = {"file": file, "line": line, "pattern": pattern, "reason": reason, "date": on or date.today().isoformat()}
    metrics = {"baseline_entry": entry, "hook_type": hook_type, "source": source, "reviewed": reviewed}
    _record(options, "hook_baseline", metrics)


@command(hook)
@click.option("--reason", required=True, help="Why the hook was overridden.")
@click.option("--hook-type", default="pre-commit", show_default=True, help="Which hook.")
@click.option("--findings", default=0, show_default=True, type=click.IntRange(0), help="How many findings it had.")
@click.option("--severity", default="unknown", show_default=True, help="The worst severity among them.")
def override(options: Options, reason: str, hook_type: str, findings: int, severity: str) -> None:
    """Record that someone went on in spite of findings.

    \b
    Example:
      opskpi hook override --reason "hotfix, ticket 12" --findings 2 --severity high
    """
    metrics = {"hook_type": hook_type, "override_reason": reason, "findings_count": findings, "severity": severity}
    _record(options, "hook_override", metrics)


@command(hook)
def status(options: Options) -> None:
    """Show the hooks, the queue, what was dropped and why, the last success and error, and the policy.

    The exit code is 78 where the hooks are installed and no target is set, because nothing is sent then.

    \b
    Example:
      opskpi hook status
    """
    _status(options)


@command(hook)
def show(options: Options) -> None:
    """Print exactly the bodies of the requests that would be made next, one a line.

    \b
    Example:
      opskpi hook show
    """
    requests = overview.upcoming()
    if options.as_json:
        console.show_json(requests)
        return
    for request in requests:
        console.show(request["body"])
    if not requests:
        console.notice("nothing is queued")


@command(hook)
def flush(options: Options) -> None:
    """Send what is queued now, in the foreground; exit 75 when it has to be tried again.

    \b
    Example:
      opskpi hook flush
    """
    report = overview.flush()
    if options.as_json:
        console.show_json(report)
    elif report.stopped:
        console.show(report.reason)
    else:
        console.show(_sent(report))
    for warning in report.warnings:
        console.notice(f"opskpi: {warning}")


@command(hook)
def resend(options: Options) -> None:
    """Send again what was refused because a clock was wrong, with its time corrected; then all that is queued.

    The clock must be set first. What is refused for good is listed with its reason.

    \b
    Example:
      opskpi hook resend
    """
    report = overview.flush(resend=True)
    for_good = overview.refused_for_good()
    if options.as_json:
        console.show_json(asdict(report) | {"refused_for_good": for_good})
        return
    console.show(f"{report.resent} events queued again; {_sent(report)}")
    for line in for_good:
        console.show(f"refused for good: {line}")


@command(hook)
def policy(options: Options) -> None:
    """Show the org's policy as it was last fetched, else the built-in one.

    \b
    Example:
      opskpi hook policy
    """
    kept = overview.status()["policy"]
    console.show(json.dumps(kept) if not options.as_json else json.dumps(kept, indent=2))


def _sent(report: Report) -> str:
    return f"{report.sent} events sent, {report.duplicate} were there already, {report.refused} refused"


def _record(options: Options, kind: str, metrics: dict[str, object]) -> None:
    kept = recording.record(kind, metrics)
    if not kept and not switch.is_off():
        raise OpsKpiError(
            "the event was not recorded",
            "`opskpi hook status` says whether the queue can be used and what the policy is.",
        )
    if options.as_json:
        console.show_json({"recorded": kept})
    else:
        console.show("recorded" if kept else "not recorded: DO_NOT_TRACK or OPSKPI_TELEMETRY=0 is set")


def _show_hooks(options: Options, hooks: list[installing.Hook]) -> None:
    if options.as_json:
        console.show_json(hooks)
        return
    for one in hooks:
        console.show(f"{one.name}: {one.state}")


def _status(options: Options) -> None:
    found = overview.status()
    if options.as_json:
        console.show_json(found)
    else:
        for line in overview_lines(found):
            console.show(line)
    if warning := overview.warning("status"):
        console.notice(warning)
    if found["target"] is None and found["recording"] and overview.has_hooks():
        raise OpsKpiError(
            "the hooks report, but no target is set: nothing is sent",
            "Name one: opskpi hook install --hub URL --org UUID --key-file PATH",
            ExitCode.CONFIGURATION,
        )


def overview_lines(found: dict) -> list[str]:
    """The status as a person reads it, one line each."""
    queue, target, error, paused = found["queue"], found["target"], found["last_error"], found["paused"]
    dropped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in queue["dropped"].items())
    lines = [f"{name}: {state}" for name, state in found["hooks"].items()]
    lines += [
        f"recording: {'on' if found['recording'] else 'off, by DO_NOT_TRACK or OPSKPI_TELEMETRY'}",
        f"queue: {queue['events']} events, {queue['bytes']:,} bytes, in {found['folder']}",
        f"dropped: {dropped or 'nothing'}",
        _refused(found["refused"], found["resendable"]),
        f"target: {target['kind']} {target['url']}, key {target['key']}" if target else "target: none",
        f"sent: {found['sent']} events, last {found['last_success'] or 'never'}",
        f"last error: {error['at']} {error['reason']}" if error else "last error: none",
        f"policy: version {found['policy'].get('version')}",
    ]
    if found["distrust"]:
        lines.append(f"not trusted, so its settings are not used: {found['distrust']}")
    if old := found["earlier"]:
        lines += _earlier_lines(old)
    if paused:
        lines.append(f"paused until {paused['until']}: {paused['reason']}")
    elif found["next_try"]:
        lines.append(f"next try: {found['next_try']}")
    return lines


def _refused(count: int, resendable: int) -> str:
    if not count:
        return "refused: nothing"
    again = f"; {resendable} of them because of a wrong clock: set it, then `opskpi hook resend`" if resendable else ""
    return f"refused: {count} events, in telemetry-refused.json, {count - resendable} of them for good{again}"


def _earlier_lines(old: dict) -> list[str]:
    """State that an earlier version, or another program, left in the working tree."""
    lines = []
    if old["events"]:
        fate = f"left alone: {old['distrust']}" if old["distrust"] else "sent with the others"
        lines.append(f"earlier queue: {old['events']} events, in {old['folder']}, {fate}")
    if old["settings"]:
        lines.append(f"settings in {old['folder']} are not used: run `opskpi hook install --hub URL …` again")
    return lines

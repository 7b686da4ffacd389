"""The command line. Each command parses, calls one function and prints; `main` alone turns errors into exit codes."""

import gc
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from opskpi import console
from opskpi.errors import ExitCode, OpsKpiError, explain, of_database

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Each is what the module of its name has under that name, with the first sentence of its help, so that the list of all
# commands imports none.
COMMANDS = {
    "agent": "Show the agents, their teams and when they were last heard of.",
    "aggregate": "Count new events and rewrite the KPIs they touch.",
    "alert": "Show the alerts that are pending or firing; the commands below send, silence and test them.",
    "anonymise": "Take personal data out of stored events, or erase one agent; KPIs and SLOs stay the same.",
    "audit": "Check the SLSA provenance in each FILE (- for standard input) against artifacts and expectations.",
    "collect": "Show which repositories are polled and how far; the commands below collect runs, jobs and artifacts.",
    "demo": "Load a realistic month of events, show what becomes of it, and offer the dashboard.",
    "doctor": "Check that all is well, one line each; exit 1 if one check fails.",
    "export": "Write events, KPIs, audits or SLO days to a file or to standard output, as the database has them at one"
    " moment.",
    "grafana": "Write Grafana dashboards over the v_ops_* views, to import or to provision; no database is asked.",
    "hook": "Let git hooks report what they do; without a command: what is queued and how sending goes.",
    "ingest": "Store the events of each FILE: JSON lines or one JSON array, gzipped or not, - for standard input.",
    "key": "Show the API keys of the hub that are live; the commands below make and revoke them.",
    "kpi": "Show the newest value of each KPI, events not yet counted included.",
    "migrate": "Bring the database to this program's schema, as `supabase db push` would.",
    "rebuild": "Recompute the hours, days, weeks and months that a range touches from the events.",
    "report": "Write the pages of the dashboard as one HTML file that needs no server; the command below sends a"
    " summary.",
    "retention": "Show how long each kind of data is kept, and what is stored; the commands below change it and apply"
    " it.",
    "run": "Do everything that is due: counting, alerts, sending, upkeep, retention.",
    "serve": "Serve the HTTP API and the dashboard until told to stop (SIGTERM), answering what has been asked by"
    " then.",
    "slo": "Show each objective: status, SLI, target, budget left and burn rates; the commands below define and explain"
    " them.",
    "stop": "Stop the embedded server; its data stays.",
}


class Commands(click.Group):
    """The commands, each imported when it is asked for: all imports take longer than most commands run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click has it
        """The names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """A command by its name, None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"opskpi.commands.{cmd_name}"), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of all commands."""
        self._listed().format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem"]:
        """The commands and options that begin so."""
        listed = self._listed()
        return listed.shell_complete(listed.make_context(ctx.info_name, [], resilient_parsing=True), incomplete)

    def _listed(self) -> click.Group:
        """The same names and options with commands that have their line of help and nothing else."""
        commands = {name: click.Command(name, help=line) for name, line in COMMANDS.items()}
        return click.Group(self.name, commands, params=self.params, context_settings=self.context_settings)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="opskpi")
def cli() -> None:
    """Telemetry KPIs and SLOs for software delivery, inside Postgres.

    \b
    Exit codes: 0 done or already running, 1 failed, 3 breach (--fail-on-breach) or failed audit,
    64 bad argument, 75 try later, 78 configuration.
    """
    # The command is imported by now, for which `__main__` disabled the collector.
    gc.freeze()
    gc.enable()


class Ended(KeyboardInterrupt):
    """A signal asks the process to end; the driver then cancels the statement that runs, as it does for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def end(number: int, _: object) -> NoReturn:
    """Let a signal end the command where it stands, and a second one at once."""
    signal.signal(number, signal.SIG_DFL)
    raise Ended(number)


def main() -> NoReturn:
    """Run the command line and end the process with one of the exit codes of `errors.ExitCode`.

    A process that SIGTERM or SIGHUP ends leaves no statement behind that would wait on in the server.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        # A signal that is ignored, as under nohup, stays ignored.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
    # A closed stream is None; what is printed to it goes nowhere, as with any other program.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        result = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.BAD_ARGUMENT)
    except (click.Abort, KeyboardInterrupt) as interruption:
        # click says Abort for it; the caller shall see which signal it was.
        ended = interruption.__cause__ or interruption
        if isinstance(ended, Ended):
            os.kill(os.getpid(), ended.number)
        sys.exit(130)
    except OpsKpiError as error:
        _fail(error)
    except UnicodeEncodeError:
        # Not what it is: it may be a password or a key.
        _fail(OpsKpiError("an argument or a variable is no text in UTF-8", exit_code=ExitCode.BAD_ARGUMENT))
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.DONE)
    except OSError as error:
        _fail(OpsKpiError(f"the output cannot be written: {error.strerror or error}", exit_code=ExitCode.TRY_LATER))
    except of_database() as error:
        _fail(explain(error))
    sys.exit(result if isinstance(result, int) else ExitCode.DONE)


def _fail(error: OpsKpiError) -> NoReturn:
    console.notice(f"opskpi: {error.message}")
    if error.hint:
        console.notice(error.hint)
    sys.exit(error.exit_code)

"""The command line. Each command parses, calls one function and prints; `main` alone turns errors into exit codes."""

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click
import psycopg

from opskpi import console
from opskpi.errors import ExitCode, OpsKpiError, explain

# Each is what the module of its name has under that name.
COMMANDS = (
    "agent",
    "aggregate",
    "alert",
    "anonymise",
    "audit",
    "collect",
    "demo",
    "doctor",
    "export",
    "grafana",
    "hook",
    "ingest",
    "key",
    "kpi",
    "migrate",
    "rebuild",
    "report",
    "retention",
    "run",
    "serve",
    "slo",
    "stop",
)


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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="opskpi")
def cli() -> None:
    """Telemetry KPIs and SLOs for software delivery, inside Postgres.

    \b
    Exit codes: 0 done or already running, 1 failed, 3 breach (--fail-on-breach) or failed audit,
    64 bad argument, 75 try later, 78 configuration.
    """


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
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
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

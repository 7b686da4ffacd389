"""What a command imports: what it uses, since the rest takes longer than most commands run."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from opskpi.commands.main import COMMANDS, cli
from support.events import Connection, add_events, refresh
from support.postgres import Database

JOBS = Path(__file__).resolve().parents[2] / "jobs"
# Runs the entry point and names, as its last line, what was imported for it.
NAMING = """
import atexit, sys
before = set(sys.modules)
atexit.register(lambda: print(*(sys.modules.keys() - before), file=sys.stderr))
from opskpi.__main__ import main
sys.argv[0] = "opskpi"
main()
"""
DRAWING = {"rich"}
SENDING = {"apprise", "certifi", "httpx"}
MESSAGES = {"opskpi.alerting.channels.registry", "opskpi.alerting.messages"}
SERVING = {"fastapi", "starlette", "uvicorn", "jinja2"}
OF_THE_EMBEDDED_SERVER = {"filelock", "platformdirs", "opskpi.postgres.embedded"}
FILES = {"yaml", "opskpi.postgres.migrations"}
# The driver has a module for asyncio, so it imports that and TLS.
DRIVER = {"asyncio", "psycopg", "psycopg_binary", "ssl"}


def imports_of(*arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> set[str]:
    """Return what a command line imports, in a process of its own."""
    return set(last_line_of(NAMING, *arguments, env=env, cwd=cwd).split())


def last_line_of(code: str, *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Return the last line that code which runs a command line says on standard error."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(JOBS)} | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("argument", ["--help", "-h", "--version", "no-such-command", "--no-such-option"])
def test_help_the_version_and_a_mistyped_command_import_no_driver_and_no_command(argument: str) -> None:
    imported = imports_of(argument)
    assert imported & (DRAWING | SENDING | SERVING | OF_THE_EMBEDDED_SERVER | FILES | DRIVER) == set()
    assert {name for name in imported if name.startswith("opskpi.commands.")} == {"opskpi.commands.main"}


def test_completing_the_name_of_a_command_imports_none() -> None:
    imported = imports_of(env={"_OPSKPI_COMPLETE": "bash_complete", "COMP_WORDS": "opskpi a", "COMP_CWORD": "1"})
    assert "click.shell_completion" in imported
    assert {name for name in imported if name.startswith("opskpi.commands.")} == {"opskpi.commands.main"}


@pytest.mark.parametrize("arguments", [("kpi",), ("run",), ("run", "--json"), ("aggregate",)], ids=" ".join)
def test_a_command_with_nothing_to_show_and_nothing_to_send_imports_only_the_driver(
    migrated_database: Database, arguments: tuple[str, ...]
) -> None:
    imported = imports_of(*arguments, env={"OPSKPI_DSN": migrated_database.dsn})
    assert imported & (DRAWING | SENDING | MESSAGES | SERVING | OF_THE_EMBEDDED_SERVER | FILES) == set()
    assert imported >= DRIVER


def test_a_command_that_shows_a_table_imports_what_draws_and_nothing_that_sends(
    migrated_database: Database, database: Connection
) -> None:
    add_events(database, 1, "slsa_provenance", "2026-01-15T10:00Z", outcome="success")
    refresh(database)
    imported = imports_of("kpi", env={"OPSKPI_DSN": migrated_database.dsn})
    assert imported & (SENDING | SERVING | OF_THE_EMBEDDED_SERVER | FILES) == set()
    assert imported >= {"rich.table"}
    assert "rich.progress" not in imported


@pytest.mark.parametrize("arguments", [("hook",), ("hook", "--help"), ("grafana", "--help")], ids=" ".join)
def test_a_command_that_needs_no_database_imports_no_driver(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    imported = imports_of(*arguments, env={"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}, cwd=tmp_path)
    assert imported & (DRAWING | SENDING | SERVING | OF_THE_EMBEDDED_SERVER | FILES | DRIVER) == set()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_no_command_imports_what_draws_sends_or_serves_for_its_help(name: str) -> None:
    assert imports_of(name, "--help") & (DRAWING | SENDING | SERVING) == set()


def test_garbage_is_collected_while_a_command_runs(tmp_path: Path) -> None:
    code = "import atexit, gc, sys; atexit.register(lambda: print(gc.isenabled(), file=sys.stderr));" + (
        "from opskpi.__main__ import main; main()"
    )
    assert last_line_of(code, "grafana", "--out", str(tmp_path)) == "True"


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_the_list_of_commands_says_what_the_help_of_each_says(width: int) -> None:
    context = click.Context(cli, terminal_width=width, max_content_width=width)
    listed, written = context.make_formatter(), context.make_formatter()
    cli.format_commands(context, listed)
    # As click does without the table, from the commands themselves.
    click.Group.format_commands(cli, context, written)
    assert listed.getvalue() == written.getvalue()
    assert all(name in listed.getvalue() for name in COMMANDS)

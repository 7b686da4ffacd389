"""Exclusions and silences of groups, when the objective is grouped otherwise: `slo apply` says which hold no more."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from opskpi.errors import ExitCode
from support.events import rows
from support.grouped import RELEASES, add_runs

Cli = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.database
UNTIL = ("--until", "2099-01-01T00:00", "--reason", "known")


def ago(days: float) -> str:
    return f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%dT%H:%M}"


@pytest.fixture
def held(connect: Callable[..., psycopg.Connection], cli: Cli, tmp_path: Path) -> psycopg.Connection:
    """Runs by workflow, with exclusions of the last days, of long ago and of all groups, and with a silence."""
    database = connect()
    for name, keys in (("one", "workflow"), ("two", "team, workflow"), ("other", "team")):
        (tmp_path / f"{name}.yaml").write_text(RELEASES.replace("[workflow]", f"[{keys}]"))
    (tmp_path / "none.yaml").write_text(RELEASES.replace(", groupBy: [workflow]", ""))
    assert cli("slo", "apply", "one.yaml").returncode == 0
    add_runs(database, "nightly $1", datetime.now(UTC).isoformat(), bad=20)
    assert cli("run").returncode == 0
    named = ("--group", 'workflow="nightly $1"', "--reason", "fuzzing")
    for begin, end in ((2, -1), (100, 90)):
        assert cli("slo", "exclude", "runs", *named, "--since", ago(begin), "--until", ago(end)).returncode == 0
    assert cli("slo", "exclude", "runs", "--since", ago(2), "--until", ago(1), "--reason", "all").returncode == 0
    assert cli("alert", "silence", 'runs workflow="nightly $1"', *UNTIL).returncode == 0
    assert cli("alert", "silence", "runs", *UNTIL).returncode == 0
    return database


def totals_of_runs(cli: Cli) -> list[tuple[dict[str, str], int]]:
    shown = json.loads(cli("slo", "--json").stdout)
    return [(row["slo_group"], row["total"]) for row in shown if row["slo_name"] == "runs"]


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--json",)])
def test_more_keys_lose_no_exclusion_and_no_silence(held: psycopg.Connection, cli: Cli, words: tuple[str, ...]) -> None:
    applied = cli("slo", "apply", "two.yaml", *words)
    assert (applied.returncode, "holds no more" in applied.stderr) == (0, False)
    if words != ("--dry-run",):
        assert totals_of_runs(cli) == [({"team": None, "workflow": "nightly $1"}, 0)]
        silenced = "select ops.is_silenced(%s, 'r', 'runs', 'ci', now(), %s)"
        held.execute("delete from ops.alert_silences where matcher = 'runs'")
        for group, expected in (("nightly $1", True), ("release", False)):
            of_group = json.dumps({"team": None, "workflow": group})
            assert rows(held, silenced, "00000000-0000-0000-0000-000000000000", of_group) == [(expected,)]


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--json",)])
@pytest.mark.parametrize(("file", "now"), [("other", "is grouped by team"), ("none", "is not grouped any more")])
def test_other_keys_say_each_exclusion_and_silence_that_holds_no_more_and_how_to_say_it_anew(
    held: psycopg.Connection, cli: Cli, file: str, now: str, words: tuple[str, ...]
) -> None:
    applied = cli("slo", "apply", f"{file}.yaml", *words)
    said = [line for line in applied.stderr.splitlines() if "holds no more" in line]
    assert (applied.returncode, len(said)) == (0, 2)
    # Exclusions of all groups hold on, and one that ended before the window is of no account.
    assert [re.findall("exclusion 1 |silence 1 ", line) for line in said] == [["exclusion 1 "], ["silence 1 "]]
    assert ['of runs workflow="nightly $1" (' in line and now in line for line in said] == [True, True]
    if not words:
        for line in said:
            _, command, _ = re.split(": (?=opskpi )| --reason …", line)
            again = shlex.split(command.replace("VALUE", ""))[1:]
            done = cli(*again, "--reason", "said anew")
            assert done.returncode == 0, done.stderr
        assert [total for _, total in totals_of_runs(cli)] == [0]
    # A notice that was given once is not given again.
    assert ("holds no more" in cli("slo", "apply", f"{file}.yaml").stderr) == (words == ("--dry-run",))


def test_an_objective_that_is_removed_and_made_again_by_other_keys_says_so_too(
    held: psycopg.Connection, cli: Cli
) -> None:
    assert cli("slo", "delete", "runs").returncode == 0
    assert "exclusion 1 of runs" in cli("slo", "apply", "other.yaml").stderr


def test_a_group_by_former_keys_is_not_silenced_and_the_refusal_says_the_keys(
    held: psycopg.Connection, cli: Cli
) -> None:
    assert cli("slo", "apply", "other.yaml").returncode == 0
    refused = cli("alert", "silence", 'runs workflow="nightly $1"', *UNTIL)
    assert (refused.returncode, "runs is grouped by team." in refused.stderr) == (ExitCode.BAD_ARGUMENT, True)
    assert cli("slo", "apply", "two.yaml").returncode == 0
    for group in ('workflow="nightly $1"', "team=", 'team= workflow="nightly $1"'):
        assert cli("alert", "silence", f"runs {group}", *UNTIL).returncode == 0

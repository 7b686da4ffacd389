"""An SLO that gets more or fewer objectives: the one that promises the same goes on under its new name."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from support.events import rows, scalar
from support.grouped import RELEASES, add_runs

Cli = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.database
ONE = "objectives: [{target: 0.9}]"
STRICT, LOOSE = "{displayName: strict, target: 0.99}", "{displayName: loose, target: 0.9}"
VERSIONS = (
    "select slo_name, version, target::float from ops.slo_versions where starts_with(slo_name, 'runs') order by 1, 2"
)
SPAN = ("--since", "2026-03-01T00:00", "--until", "2026-03-02T00:00", "--reason", "why")
UNTIL = ("--until", "2099-01-01", "--reason", "known")


def several(folder: Path, *objectives: str, **others: str) -> None:
    text = RELEASES.replace(ONE, f"objectives: [{', '.join(objectives)}]")
    for before, after in others.items():
        assert before in text
        text = text.replace(before, after)
    (folder / "runs.yaml").write_text(text)


@pytest.fixture
def applied_runs(connect: Callable[..., psycopg.Connection], cli: Cli, tmp_path: Path) -> psycopg.Connection:
    database = connect()
    (tmp_path / "runs.yaml").write_text(RELEASES)
    assert cli("slo", "apply", "runs.yaml").returncode == 0
    add_runs(database, "a", "2026-03-01T12:00Z", bad=1)
    assert cli("aggregate").returncode == 0
    assert cli("slo", "exclude", "runs", *SPAN).returncode == 0
    for matcher in ("runs", "runs/spent", "runs workflow=a"):
        assert cli("alert", "silence", matcher, *UNTIL).returncode == 0
    return database


@pytest.mark.parametrize("words", [(), ("--prune",)])
def test_the_objective_that_promises_the_same_goes_on_with_all_it_has(
    applied_runs: psycopg.Connection, cli: Cli, tmp_path: Path, words: tuple[str, ...]
) -> None:
    several(tmp_path, STRICT, LOOSE)
    tried = cli("slo", "apply", "--dry-run", *words, "runs.yaml").stdout
    applied = cli("slo", "apply", *words, "runs.yaml")
    assert "renamed   slo runs.loose\n            slo_name: runs -> runs.loose\n" in tried
    assert "created   slo runs.strict\n" in tried
    assert ("removed" in tried, applied.stderr) == (False, "")
    assert rows(applied_runs, VERSIONS) == [("runs.loose", 1, 0.9), ("runs.strict", 1, 0.99)]
    assert rows(applied_runs, "select slo_name from ops.slo_exclusions") == [("runs.loose",)]
    assert rows(applied_runs, "select matcher from ops.alert_silences order by 1") == [
        (f"runs.loose{rest}",) for rest in ("", " workflow=a", "/spent")
    ]
    again = json.loads(cli("slo", "apply", *words, "--json", "runs.yaml").stdout)
    assert {change["change"] for change in again} == {"unchanged"}


def test_where_none_promises_the_same_the_apply_says_how_its_history_goes_on(
    applied_runs: psycopg.Connection, cli: Cli, tmp_path: Path
) -> None:
    several(tmp_path, STRICT, "{target: 0.5}")
    for words in (("--dry-run",), ("--dry-run", "--json"), ("--dry-run", "--prune")):
        tried = cli("slo", "apply", *words, "runs.yaml")
        assert "runs does not go on: no new objective of its SLO" in tried.stderr
        assert "renamed" not in tried.stdout
    # The way that it says.
    several(tmp_path, STRICT, LOOSE)
    assert cli("slo", "apply", "runs.yaml").returncode == 0
    several(tmp_path, STRICT, LOOSE.replace("0.9", "0.5"))
    changed = cli("slo", "apply", "runs.yaml")
    assert (changed.returncode, changed.stderr) == (0, "")
    assert rows(applied_runs, VERSIONS) == [("runs.loose", 1, 0.9), ("runs.loose", 2, 0.5), ("runs.strict", 1, 0.99)]


@pytest.mark.parametrize(
    "duration", ["duration: 7d", "duration: 1M, calendar: {startTime: 2026-01-01 00:00:00, timeZone: UTC}"]
)
def test_another_window_is_another_promise_and_a_calendar_of_the_default_zone_is_the_same(
    applied_runs: psycopg.Connection, cli: Cli, tmp_path: Path, duration: str
) -> None:
    window = {"duration: 30d, isRolling: true": duration if "calendar" in duration else f"{duration}, isRolling: true"}
    several(tmp_path, STRICT, LOOSE, **window)
    assert "runs does not go on" in cli("slo", "apply", "--dry-run", "runs.yaml").stderr
    several(tmp_path, "{target: 0.9}", **window)
    assert cli("slo", "apply", "runs.yaml").returncode == 0
    applied_runs.execute("update ops.slos set time_zone = null where slo_name = 'runs'")
    several(tmp_path, STRICT, LOOSE, **window)
    assert "slo_name: runs -> runs.loose" in cli("slo", "apply", "--dry-run", "runs.yaml").stdout


def test_of_two_that_promise_the_same_one_goes_on(applied_runs: psycopg.Connection, cli: Cli, tmp_path: Path) -> None:
    several(tmp_path, LOOSE, "{displayName: again, target: 0.9}")
    assert cli("slo", "apply", "runs.yaml").returncode == 0
    assert scalar(applied_runs, "select count(*) from ops.slo_changes where change = 'renamed'") == 1
    assert rows(applied_runs, VERSIONS) == [("runs.again", 1, 0.9), ("runs.loose", 1, 0.9)]


@pytest.mark.parametrize("bundle", [("--bundle", "others"), ("--bundle", "others", "--adopt")])
def test_only_an_objective_of_the_same_bundle_goes_on_unless_it_is_adopted(
    applied_runs: psycopg.Connection, cli: Cli, tmp_path: Path, bundle: tuple[str, ...]
) -> None:
    several(tmp_path, STRICT, LOOSE)
    applied = cli("slo", "apply", *bundle, "runs.yaml")
    assert (applied.returncode, applied.stderr) == (0, "")
    assert ("slo_name: runs -> runs.loose" in applied.stdout) == ("--adopt" in bundle)


def test_an_slo_whose_name_begins_like_that_of_another_is_another_one(
    applied_runs: psycopg.Connection, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "runs.yaml").write_text(RELEASES.replace("metadata: {name: runs}", "metadata: {name: runs.loose}"))
    assert "created   slo runs.loose" in cli("slo", "apply", "runs.yaml").stdout
    # Its name is taken from then on, so that nothing of both is mixed.
    several(tmp_path, STRICT, LOOSE)
    assert "renamed" not in cli("slo", "apply", "runs.yaml").stdout


def test_an_slo_of_one_objective_again_goes_on_with_the_one_that_is_left(
    applied_runs: psycopg.Connection, cli: Cli, tmp_path: Path
) -> None:
    several(tmp_path, STRICT, LOOSE)
    assert cli("slo", "apply", "runs.yaml").returncode == 0
    several(tmp_path, "{displayName: loose, target: 0.9}")
    applied = cli("slo", "apply", "--prune", "runs.yaml")
    assert (applied.returncode, applied.stderr) == (0, "")
    assert "slo_name: runs.loose -> runs\n" in applied.stdout
    assert "removed   slo runs.strict\n" in applied.stdout
    assert rows(applied_runs, VERSIONS) == [("runs", 1, 0.9), ("runs.strict", 1, 0.99)]
    assert rows(applied_runs, "select slo_name from ops.slo_exclusions") == [("runs",)]


def test_an_objective_of_several_that_is_titled_otherwise_goes_on(
    applied_runs: psycopg.Connection, cli: Cli, tmp_path: Path
) -> None:
    several(tmp_path, STRICT, LOOSE)
    assert cli("slo", "apply", "runs.yaml").returncode == 0
    several(tmp_path, STRICT, LOOSE.replace("loose", "relaxed"))
    applied = cli("slo", "apply", "--prune", "runs.yaml")
    assert ("slo_name: runs.loose -> runs.relaxed" in applied.stdout, "removed" in applied.stdout) == (True, False)
    # An objective with another promise as well is another one.
    several(tmp_path, STRICT, "{displayName: lax, target: 0.5}")
    assert "runs.relaxed does not go on" in cli("slo", "apply", "--dry-run", "runs.yaml").stderr
    assert "removed   slo runs.relaxed" in cli("slo", "apply", "--prune", "runs.yaml").stdout


def test_objectives_that_swap_their_titles_swap_their_promises_and_not_their_histories(
    applied_runs: psycopg.Connection, cli: Cli, tmp_path: Path
) -> None:
    several(tmp_path, STRICT, LOOSE)
    assert cli("slo", "apply", "runs.yaml").returncode == 0
    several(tmp_path, STRICT.replace("0.99", "0.9"), LOOSE.replace("0.9", "0.99"))
    swapped = cli("slo", "apply", "--dry-run", "runs.yaml")
    assert ("does not go on" in swapped.stderr, "renamed" in swapped.stdout) == (False, False)
    assert swapped.stdout.count("changed   slo") == 2

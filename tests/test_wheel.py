"""The wheel holds what the program needs, and only that; the action installs exact versions."""

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from support.postgres import Database

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONSTRAINTS = ROOT / ".github/action-constraints.txt"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as pip does, without its network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert built.returncode == 0, built.stderr
    [file] = folder.glob("*.whl")
    return file


def test_the_wheel_holds_each_file_of_the_package_of_the_schema_and_each_migration_and_nothing_else(
    wheel: Path,
) -> None:
    package = {
        str(file.relative_to(ROOT / "jobs"))
        for file in (ROOT / "jobs/opskpi").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    migrations = {
        f"opskpi/postgres/supabase_migrations/{file.name}" for file in (ROOT / "supabase/migrations").glob("*.sql")
    }
    schema = {f"opskpi/postgres/schema/{file.relative_to(ROOT / 'sql')}" for file in (ROOT / "sql").rglob("*.sql")}
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
        described = {name.partition(".dist-info/")[2] for name in opened.namelist()} - {""}
    assert len(migrations) >= 33
    # What a developer left there must not ship.
    assert {Path(name).suffix for name in package} <= {".py", ".sql", ".html", ".css", ".js", ".svg"}
    assert held == package | migrations | schema
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= described


def test_a_database_is_migrated_from_the_wheel_alone(wheel: Path, empty_database: Database, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OPSKPI_DSN": empty_database.dsn}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "opskpi", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    for arguments in (("migrate",), ("run",), ("report", "--out", "report.html"), ("grafana", "--out", "grafana")):
        answer = run(*arguments)
        assert answer.returncode == 0, answer.stderr


def needed() -> Iterator[Requirement]:
    """What the program and its extras ask for, but for developers."""
    project = PROJECT["project"]
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name != "dev"}
    for text in chain(PROJECT["build-system"]["requires"], project["dependencies"], *extras.values()):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"sys_platform": "linux"}):
            yield requirement


def test_the_action_installs_one_version_of_each_dependency() -> None:
    lines = [line for line in CONSTRAINTS.read_text("utf-8").splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    assert len(pinned) == len(lines)
    unfit = [str(one) for one in needed() if not one.specifier.contains(pinned.get(one.name, "0"))]
    assert unfit == []
    steps = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))["runs"]["steps"]
    [installing] = [step for step in steps if step["name"] == "Install opskpi"]
    for variable in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):
        assert installing["env"][variable] == "${{ github.action_path }}/.github/action-constraints.txt"

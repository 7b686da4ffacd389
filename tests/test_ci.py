"""What CI runs: every version that is supported, with the least of rights, by pinned actions, and coverage by folder."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.coverage_by_folder import folder_of, table
from support.postgres import VERSIONS

ROOT = Path(__file__).resolve().parents[1]
CI = ROOT / ".github/workflows/ci.yml"


@pytest.fixture
def jobs() -> dict[str, Any]:
    return yaml.safe_load(CI.read_text("utf-8"))["jobs"]


def test_every_postgres_version_and_every_python_is_tested(jobs: dict[str, Any]) -> None:
    assert tuple(jobs["postgres"]["strategy"]["matrix"]["postgres"]) == VERSIONS
    pythons = jobs["python"]["strategy"]["matrix"]["python"]
    oldest = re.search(r'requires-python = ">=(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert oldest is not None
    assert (oldest[1], pythons) == (pythons[0], ["3.11", "3.12", "3.13", "3.14"])


def test_one_job_runs_the_script_that_a_person_runs(jobs: dict[str, Any]) -> None:
    assert {"run": "bash .ci/run"} in jobs["run"]["steps"]


def test_the_jobs_may_only_read(jobs: dict[str, Any]) -> None:
    assert yaml.safe_load(CI.read_text("utf-8"))["permissions"] == {"contents": "read"}
    assert [name for name, job in jobs.items() if "permissions" in job] == []
    checkouts = [step for job in jobs.values() for step in job["steps"] if "checkout" in step.get("uses", "")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False] * len(jobs)


def test_coverage_is_summed_up_by_folder(tmp_path: Path) -> None:
    summary = {"num_statements": 3, "covered_lines": 2}
    modules = ["errors.py", "hub/app.py", "hub/keys.py", "alerting/channels/slack.py", "empty/__init__.py"]
    report = {"files": {f"jobs/opskpi/{module}": {"summary": summary} for module in modules[:-1]}}
    report["files"][f"jobs/opskpi/{modules[-1]}"] = {"summary": {"num_statements": 0, "covered_lines": 0}}
    (tmp_path / "coverage.json").write_text(json.dumps(report), "utf-8")
    assert table(report).splitlines()[2:] == [
        "| alerting/channels | 1 | 3 | 66 % |",
        "| empty | 1 | 0 | - |",
        "| hub | 2 | 6 | 66 % |",
        "| opskpi | 1 | 3 | 66 % |",
        "| all | 5 | 12 | 66 % |",
    ]
    command = [sys.executable, "-m", "tests.support.coverage_by_folder", str(tmp_path / "coverage.json")]
    assert subprocess.check_output(command, cwd=ROOT, encoding="utf-8") == table(report) + "\n"


def test_a_file_of_an_installed_package_lies_in_the_same_folder() -> None:
    assert folder_of("/venv/opskpi/lib/site-packages/opskpi/hub/app.py") == "hub"

"""The composite action and the workflows: valid by their schemas, pinned, and their steps run in a made-up runner."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from support.events import rows
from support.postgres import Database
from support.rest_api import REPOSITORY, TOKEN, Rest, rest_api, workflow_run

ROOT = Path(__file__).resolve().parents[1]
ACTION = ROOT / "action.yml"
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SCHEDULED = ROOT / ".github/workflows/opskpi.yml"
HOSTILE = "$(touch hacked) `touch hacked`; touch hacked\n\"' && touch hacked"
Steps = dict[str, dict[str, Any]]


@dataclass
class Runner:
    """A runner made up of files: what the steps of a job write and read."""

    temp: Path
    dsn: str

    @property
    def summary(self) -> str:
        return (self.temp / "summary").read_text("utf-8")

    def noted(self) -> dict[str, str]:
        """Return what earlier steps wrote for the environment of later ones."""
        return dict(line.split("=", 1) for line in (self.temp / "env").read_text("utf-8").splitlines())

    def step(self, name: str, inputs: Mapping[str, str] | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """Run one step with these inputs; the other inputs have their defaults."""
        action = yaml.safe_load(ACTION.read_text("utf-8"))
        given = {key: str(spec.get("default", "")) for key, spec in action["inputs"].items()} | dict(inputs or {})
        step = steps()[name]
        context = {f"inputs.{key}": value for key, value in given.items()}
        context |= {"runner.temp": str(self.temp), "github.action_path": str(ROOT), "github.repository": REPOSITORY}
        context |= {"github.token": TOKEN, "steps.python.outputs.python-path": sys.executable}
        environment = {key: expanded(value, context) for key, value in step.get("env", {}).items()}
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
            env=self.environment() | environment | self.noted() | env,
            cwd=self.temp,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    def environment(self) -> dict[str, str]:
        files = {
            f"GITHUB_{name}": str(self.temp / file)
            for name, file in (("OUTPUT", "output"), ("ENV", "env"), ("STEP_SUMMARY", "summary"))
        }
        github = {"GITHUB_RUN_ID": "42", "GITHUB_RUN_ATTEMPT": "2", "GITHUB_JOB": "build", "GITHUB_WORKFLOW": "release"}
        github |= {"GITHUB_REPOSITORY": REPOSITORY, "GITHUB_SERVER_URL": "https://github.com", "GITHUB_ACTIONS": "true"}
        own = {"OPSKPI_DSN": self.dsn, "OPSKPI_HOME": str(self.temp), "COLUMNS": "200", "HOME": str(self.temp)}
        return {"PATH": os.environ["PATH"]} | files | github | own


def expanded(value: str, context: Mapping[str, str]) -> str:
    """Return a value with its expressions replaced, again and again, since defaults hold expressions, too."""
    for _ in range(2):
        value = re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: context[found[1]], value)
    return value


def steps() -> Steps:
    return {step["name"]: step for step in yaml.safe_load(ACTION.read_text("utf-8"))["runs"]["steps"]}


@pytest.fixture
def runner(migrated_database: Database, tmp_path: Path) -> Runner:
    """Make a runner on which opskpi is installed already."""
    for file in ("output", "env", "summary"):
        (tmp_path / file).touch()
    binary = tmp_path / "opskpi/bin/opskpi"
    binary.parent.mkdir(parents=True)
    path = shlex.quote(str(ROOT / "jobs"))
    binary.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {shlex.quote(sys.executable)} -m opskpi "$@"\n')
    binary.chmod(0o755)
    return Runner(tmp_path, migrated_database.dsn)


@pytest.fixture
def github_rest() -> Iterator[Rest]:
    with rest_api() as serving:
        yield serving


@pytest.mark.parametrize(
    ("schema", "files"), [("vendor.github-actions", [ACTION]), ("vendor.github-workflows", WORKFLOWS)]
)
def test_it_is_valid_by_the_schema_of_github(schema: str, files: list[Path]) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    answer = subprocess.run(check, capture_output=True, encoding="utf-8", check=False)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("file", [ACTION, *WORKFLOWS], ids=lambda file: file.name)
def test_what_others_wrote_is_pinned_to_a_commit(file: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", file.read_text("utf-8"))
    assert used
    unpinned = [
        name
        for name, comment in used
        if not (name.startswith("./") or (re.search(r"@[0-9a-f]{40}$", name) and "# v" in comment))
    ]
    assert unpinned == []


def test_no_script_holds_an_expression_so_no_input_is_ever_code() -> None:
    documents = [yaml.safe_load(file.read_text("utf-8")) for file in (ACTION, SCHEDULED)]
    scripts = [found for document in documents for found in runs_in(document)]
    assert len(scripts) >= 4
    assert [script for script in scripts if "${{" in script] == []
    assert [script for script in scripts if not script.startswith("set -euo pipefail\n")] == []


def runs_in(document: object) -> Iterator[str]:
    if isinstance(document, dict):
        if isinstance(document.get("run"), str):
            yield document["run"]
        for value in document.values():
            yield from runs_in(value)
    elif isinstance(document, list):
        for value in document:
            yield from runs_in(value)


def test_every_input_is_used_and_in_the_readme() -> None:
    text, readme = ACTION.read_text("utf-8"), (ROOT / "README.md").read_text("utf-8")
    inputs = yaml.safe_load(text)["inputs"]
    assert [name for name in inputs if f"inputs.{name}" not in text] == []
    assert [name for name in inputs if f"`{name}`" not in readme] == []


def test_the_scheduled_workflow_runs_what_is_due_with_the_least_of_rights() -> None:
    workflow = yaml.safe_load(SCHEDULED.read_text("utf-8"))
    [job] = workflow["jobs"].values()
    action = job["steps"][-1]
    # YAML 1.1 reads the key `on` as true.
    assert workflow[True]["schedule"]
    assert (action["uses"], action["with"]["tasks"]) == ("./.opskpi", "collect run")
    assert set(action["with"]) <= set(yaml.safe_load(ACTION.read_text("utf-8"))["inputs"])
    assert set(workflow["permissions"].values()) == {"read"}
    assert job["timeout-minutes"] <= 60


def test_opskpi_is_installed_once_from_where_the_action_is(runner: Runner) -> None:
    (runner.temp / "opskpi/extras").write_text("audit")
    assert runner.step("Look for opskpi").returncode == 0
    assert (runner.temp / "output").read_text() == "found=true\n"
    runner.step("Look for opskpi", {"extras": "audit,local"})
    assert (runner.temp / "output").read_text() == "found=true\nfound=false\n"
    (runner.temp / "output").write_text("found=true\n")
    (runner.temp / "opskpi").rename(runner.temp / "gone")
    runner.step("Look for opskpi")
    assert (runner.temp / "output").read_text() == "found=true\nfound=false\n"
    # A Python that makes an environment whose own Python writes down what it was called with.
    python = runner.temp / "python"
    python.write_text(
        '#!/bin/sh\nmkdir -p "$3/bin"\nprintf \'#!/bin/sh\\nprintf "%%s\\\\n" "$@" >%s/called\\n\' "$3" >"$3/bin/python"\nchmod +x "$3/bin/python"\n'
    )
    python.chmod(0o755)
    answer = runner.step("Install opskpi", PYTHON=str(python))
    assert answer.returncode == 0, answer.stderr
    called = (runner.temp / "opskpi/called").read_text().splitlines()
    assert (called[:3], called[-1]) == (["-m", "pip", "install"], f"{ROOT}[audit]")
    assert runner.step("Install opskpi", {"extras": "audit] --index-url=x"}).returncode == 64


def test_the_start_and_the_end_of_a_job_are_one_event(runner: Runner, database: psycopg.Connection) -> None:
    assert runner.step("Note the start").returncode == 0
    started = runner.noted()["OPSKPI_STARTED_AT"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", started)
    end = {"record": "end", "outcome": "failure", "event-type": "provenance_validate"}
    answer = runner.step("Record, collect, audit", end)
    assert (answer.returncode, "1 accepted" in answer.stdout) == (0, True), answer.stderr
    stored = rows(
        database,
        "select event_type, run_id, outcome, metadata ->> 'job', (metadata -> 'run_attempt')::integer,"
        " (metadata ->> 'started_at')::timestamptz = %s, duration_ms >= 0 from telemetry_events",
        started,
    )
    assert stored == [("provenance_validate", 42, "failure", "build", 2, True, True)]


def test_runs_are_collected_and_counted(runner: Runner, github_rest: Rest, database: psycopg.Connection) -> None:
    began = datetime.now(UTC)
    github_rest.runs = [workflow_run(1, at=began.strftime("%Y-%m-%dT%H:%M:%S%z"), seconds=0)]
    org = "aaaaaaaa-0000-4000-8000-00000000000a"
    answer = runner.step("Record, collect, audit", {"tasks": "collect run", "org": org}, GITHUB_API_URL=github_rest.url)
    assert answer.returncode == 0, answer.stderr
    assert "1 accepted" in answer.stdout
    assert {headers["authorization"] for headers in github_rest.headers} == {f"Bearer {TOKEN}"}
    assert TOKEN not in answer.stdout + answer.stderr
    counted = rows(
        database,
        "select org_id::text from kpi_aggregations where metric_name = 'workflow_run_avg_duration_ms' and aggregation_period = 'day'",
    )
    assert counted == [(org,)]


def test_an_audit_is_called_with_files_as_files_and_its_verdict_fails_the_job(runner: Runner) -> None:
    stub(runner, 'printf "%s\\n" "$@" >called; echo "# Audit"; exit 3')
    inputs = {
        "tasks": "audit",
        "provenance": "a b.jsonl\n--no-record\n",
        "artifact": "app 1.tar.gz",
        "tag": "v1",
        "source": "github.com/a/b",
    }
    answer = runner.step("Record, collect, audit", inputs)
    assert (answer.returncode, runner.summary) == (3, "# Audit\n")
    assert "::error::the provenance did not pass its audit" in answer.stderr

    called = (runner.temp / "called").read_text().splitlines()
    assert called == [
        *("audit", "--markdown", "--source", "github.com/a/b", "--artifact", "app 1.tar.gz", "--tag", "v1"),
        *("--", "a b.jsonl", "--no-record"),
    ]


@pytest.mark.parametrize("fail_on_error", ["true", "false"])
def test_provenance_that_cannot_be_read_fails_the_job(runner: Runner, fail_on_error: str) -> None:
    stub(runner, "exit 64")
    inputs = {"tasks": "audit", "provenance": "x", "fail-on-error": fail_on_error}
    answer = runner.step("Record, collect, audit", inputs)
    assert answer.returncode == 64
    assert "could not be read" in answer.stderr


def test_without_files_the_newest_runs_are_audited(runner: Runner) -> None:
    stub(runner, 'printf "%s\\n" "$@" >called')
    assert runner.step("Record, collect, audit", {"tasks": "audit"}).returncode == 0
    assert (runner.temp / "called").read_text().split() == ["audit", "--markdown", "--latest"]


@pytest.mark.parametrize(("strict", "code"), [("false", 0), ("true", 75)])
def test_telemetry_that_fails_fails_the_job_only_where_that_is_asked_for(
    runner: Runner, strict: str, code: int
) -> None:
    stub(runner, "exit 75")
    answer = runner.step("Record, collect, audit", {"tasks": "collect run", "fail-on-error": strict})
    assert answer.returncode == code
    assert ("::warning::opskpi run ended with 75" in answer.stderr) is (strict == "false")


@pytest.mark.parametrize(("strict", "code"), [("false", 0), ("true", 78)])
def test_without_a_database_nothing_is_done_and_that_is_said(runner: Runner, strict: str, code: int) -> None:
    stub(runner, "touch called")
    answer = runner.step("Record, collect, audit", {"tasks": "run", "dsn-env": "MY_DSN", "fail-on-error": strict})
    assert (answer.returncode, (runner.temp / "called").exists()) == (code, False)
    assert f"::{'error' if code else 'warning'}::MY_DSN is empty" in answer.stdout


def test_without_a_database_files_are_audited_all_the_same(runner: Runner) -> None:
    stub(runner, 'printf "%s\\n" "$@" >>called; exit 3')
    inputs = {
        "tasks": "collect audit run",
        "dsn-env": "MY_DSN",
        "provenance": "a.jsonl",
        "signer": "me",
        "require-signature": "true",
    }
    answer = runner.step("Record, collect, audit", inputs)
    assert answer.returncode == 3
    called = (runner.temp / "called").read_text().splitlines()
    assert called == ["audit", "--markdown", "--no-record", "--require-signature", "--signer", "me", "--", "a.jsonl"]


@pytest.mark.parametrize(("code", "failed"), [(0, False), (1, True), (3, True), (64, True), (75, False), (137, True)])
def test_only_an_audit_that_passed_lets_the_job_pass(runner: Runner, code: int, failed: bool) -> None:
    stub(runner, f"exit {code}")
    answer = runner.step("Record, collect, audit", {"tasks": "audit", "provenance": "a.jsonl"})
    assert (answer.returncode != 0) is failed


def test_an_artifact_without_provenance_is_refused_and_not_passed_over(runner: Runner) -> None:
    stub(runner, "exit 0")
    answer = runner.step("Record, collect, audit", {"tasks": "audit", "artifact": "app.tar.gz"})
    assert (answer.returncode, "provenance is empty" in answer.stdout) == (64, True)


def test_the_dsn_comes_from_the_variable_that_is_named(runner: Runner) -> None:
    stub(runner, 'printf %s "$OPSKPI_DSN" >called')
    runner.step("Record, collect, audit", {"tasks": "run", "dsn-env": "MY_DSN"}, MY_DSN="postgresql://there")
    assert (runner.temp / "called").read_text() == "postgresql://there"


@pytest.mark.parametrize(
    "name", ["dsn-env", "org", "record", "outcome", "event-type", "tasks", "repository", "provenance", "artifact", "source", "tag", "fail-on-error"]
)  # fmt: skip
def test_no_input_is_ever_run(runner: Runner, name: str) -> None:
    stub(runner, 'printf "<%s>\\n" "$@" >>called')
    harmless = {"record": "end", "outcome": "success", "tasks": "collect audit run", "provenance": "file", "tag": "v1"}
    answer = runner.step("Record, collect, audit", harmless | {name: HOSTILE})
    assert not (runner.temp / "hacked").exists()
    assert answer.returncode in {0, 64}
    if answer.returncode == 64:
        assert not (runner.temp / "called").exists()


def stub(runner: Runner, script: str) -> None:
    """Put a script in the place of opskpi."""
    (runner.temp / "opskpi/bin/opskpi").write_text(f"#!/bin/bash\n{script}\n")


def test_the_defaults_of_the_inputs_are_texts() -> None:
    inputs = yaml.safe_load(ACTION.read_text("utf-8"))["inputs"]
    assert json.dumps({name: type(spec["default"]).__name__ for name, spec in inputs.items()}).count('"str"') == len(
        inputs
    )

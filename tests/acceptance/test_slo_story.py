"""The story of an alert, as a new user would live it: YAML in, events go wrong, a page and a mail come, it is resolved."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from support.receivers import http_target, smtp_server

Cli = Callable[..., subprocess.CompletedProcess[str]]
SLO = """
apiVersion: openslo/v1
kind: AlertNotificationTarget
metadata:
  name: on-call
  annotations: {opskpi.dev/secret-env: ON_CALL_URL, opskpi.dev/signing-env: ON_CALL_KEY, opskpi.dev/severities: page}
spec: {target: webhook, description: Whoever is on call.}
---
apiVersion: openslo/v1
kind: AlertNotificationTarget
metadata:
  name: team
  annotations: {opskpi.dev/secret-env: TEAM_SMTP, opskpi.dev/to: team@example.com, opskpi.dev/from: ops@example.com}
spec: {target: email, description: The team.}
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: release-error-rate}
spec:
  service: release
  description: Under 1 % of releases fail.
  indicator:
    metadata: {name: failed-releases}
    spec:
      ratioMetric:
        counter: true
        good: {metricSource: {type: opskpi, spec: {eventType: workflow_run, count: succeeded}}}
        total: {metricSource: {type: opskpi, spec: {eventType: workflow_run, count: attempts}}}
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.99}]
  alertPolicies:
    - kind: AlertPolicy
      metadata: {name: fast-burn}
      spec:
        description: Releases fail fast.
        conditions:
          - kind: AlertCondition
            metadata: {name: burns, annotations: {opskpi.dev/short-window: 5m, opskpi.dev/budget-share: "0.02"}}
            spec: {severity: page, condition: {kind: burnrate, op: gt, threshold: 14.4, lookbackWindow: 1h, alertAfter: 0m}}
        notificationTargets: [{targetRef: on-call}, {targetRef: team}]
"""


def write_runs(path: Path, outcome: str, count: int, at: datetime, workflow: str = "release") -> str:
    """Write runs of a workflow that ended at an instant."""
    event = {
        "event_type": "workflow_run",
        "payload": {"outcome": outcome, "workflow": workflow, "timestamp": at.isoformat()},
    }
    path.write_text("".join(json.dumps(event) + "\n" for _ in range(count)), "utf-8")
    return str(path)


@pytest.fixture
def told_by(cli: Cli) -> Callable[..., str]:
    """Run a command that must do well and return what it says."""

    def run(*arguments: str, **kwargs: object) -> str:
        answer = cli(*arguments, **kwargs)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    return run


def test_an_objective_in_yaml_breaks_pages_mails_and_is_resolved(
    told_by: Callable[..., str], migrated_database, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    definition = tmp_path / "slo.yaml"
    definition.write_text(SLO, "utf-8")
    with http_target() as on_call, smtp_server() as team:
        environ = {
            "ON_CALL_URL": on_call.url,
            "ON_CALL_KEY": "a signing key of some length",
            "TEAM_SMTP": f"smtp://127.0.0.1:{team.port}?starttls=no",
            "NO_PROXY": "127.0.0.1",
        }
        told_by("ingest", write_runs(tmp_path / "past.jsonl", "success", 3000, now - timedelta(days=3)))
        told_by("run", env=environ)
        assert "created   slo release-error-rate" in told_by("slo", "apply", "--dry-run", str(definition))
        assert "release-error-rate" not in told_by("slo")
        told_by("slo", "apply", str(definition))
        assert "created" not in told_by("slo", "apply", str(definition))
        told_by("slo", "export", "--out", str(tmp_path / "all.yaml"))
        again = told_by("slo", "apply", str(tmp_path / "all.yaml")).splitlines()
        assert {line.split()[0] for line in again} == {"unchanged"}
        assert len(again) == 10 + 2 + 8
        assert (on_call.requests, team.mails) == ([], [])

        told_by("ingest", write_runs(tmp_path / "broken.jsonl", "failure", 20, now - timedelta(minutes=1)))
        told_by("run", env=environ)
        told_by("run", env=environ)
        [(headers, body)] = on_call.requests
        assert headers["webhook-signature"].startswith("v1,")
        page = json.loads(body)
        assert (page["status"], page["firing"][0]["rule"]) == ("firing", "release-error-rate/fast-burn")
        [mail] = team.mails
        text = mail.get_content()
        for said in ("release-error-rate", "1 hour", "5 min", "budget", "opskpi slo explain"):
            assert said in text
        assert "release-error-rate/fast-burn" in told_by("alert")
        explained = json.loads(told_by("slo", "explain", "release-error-rate", "--json"))
        assert len(explained) == 20

        told_by("ingest", write_runs(tmp_path / "mended.jsonl", "success", 2000, now))
        told_by("run", env=environ)
        assert [json.loads(sent)["status"] for _, sent in on_call.requests] == ["firing", "resolved"]
        assert len(team.mails) == 2
        assert "nothing is pending or firing" in told_by("alert")
        with psycopg.connect(migrated_database.dsn) as connection:
            states = connection.execute("select distinct state from v_ops_alert_deliveries").fetchall()
        assert states == [("delivered",)]


def test_a_simulation_says_what_would_have_fired_and_changes_nothing(
    told_by: Callable[..., str], tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    definition = tmp_path / "slo.yaml"
    definition.write_text(SLO, "utf-8")
    told_by("ingest", write_runs(tmp_path / "past.jsonl", "success", 3000, now - timedelta(days=3)))
    told_by("ingest", write_runs(tmp_path / "broken.jsonl", "failure", 20, now - timedelta(hours=5)))
    told_by("ingest", write_runs(tmp_path / "mended.jsonl", "success", 2000, now - timedelta(hours=4, minutes=40)))
    told_by("run")
    fired = json.loads(told_by("slo", "simulate", str(definition), "--days", "1", "--json"))
    assert [(alert["rule_name"], alert["severity"]) for alert in fired] == [("release-error-rate/fast-burn", "page")]
    assert fired[0]["fired_at"] < fired[0]["resolved_at"]
    assert "release-error-rate" not in told_by("slo")
    assert "nothing is pending or firing" in told_by("alert")


def test_the_objectives_of_the_readme_are_applied_and_one_is_shown_for_each_workflow(
    told_by: Callable[..., str], tmp_path: Path
) -> None:
    """As the README says it, block by block."""
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    _, _, section = readme.partition("\n## SLOs\n")
    section, _, _ = section.partition("\n## ")
    blocks = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert ["groupBy: [workflow]" in block for block in blocks] == [False, True]
    now = datetime.now(UTC)
    runs = {"release": 40, "docs": 30, "nightly build": 20}
    for workflow, count in runs.items():
        outcome = "failure" if workflow == "nightly build" else "success"
        told_by("ingest", write_runs(tmp_path / "runs.jsonl", outcome, count, now, workflow))
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.yaml").write_text(block, "utf-8")
        told_by("slo", "validate", f"{number}.yaml")
        assert "created   slo" in told_by("slo", "apply", f"{number}.yaml")
    told_by("run")
    shown = [row for row in json.loads(told_by("slo", "--json")) if row["slo_name"] == "runs"]
    assert [(row["slo_group"]["workflow"], row["status"], row["total"]) for row in shown] == [
        ("nightly build", "breached", 20),
        ("docs", "ok", 30),
        ("release", "ok", 40),
    ]
    [commands] = [block for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) if "--group" in block]
    for command in commands.splitlines():
        words = shlex.split(command, comments=True)
        assert words[0] == "opskpi"
        told_by(*words[1:])

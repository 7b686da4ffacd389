"""The story of a transaction that somebody forgot: an outage behind it is counted, and the alert fires all the same."""

import json
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from support.fixtures import Cli, Connect

pytestmark = pytest.mark.database

SLO = """
apiVersion: openslo/v1
kind: SLO
metadata: {name: release-error-rate}
spec:
  service: release
  description: Under 1 % of release runs fail.
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
"""


def write_runs_of_today(path: Path, outcome: str, count: int) -> str:
    said = {"outcome": outcome, "workflow": "w", "duration_ms": 1, "timestamp": datetime.now(UTC).isoformat()}
    run = {"event_type": "workflow_run", "payload": said}
    path.write_text(f"{json.dumps(run)}\n" * count, "utf-8")
    return str(path)


def test_one_insert_that_stays_prepared_does_not_silence_the_alert_of_an_outage(
    cli: Cli, database: psycopg.Connection, connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "release.yaml").write_text(SLO, "utf-8")
    assert cli("slo", "apply", str(tmp_path / "release.yaml")).returncode == 0
    assert cli("ingest", write_runs_of_today(tmp_path / "good.jsonl", "success", 1000)).returncode == 0
    assert "1,000 events counted" in cli("run").stdout
    writer = connect(autocommit=False)
    writer.execute("insert into telemetry_events (event_type, metadata) values ('workflow_run', '{}')")
    writer.execute("prepare transaction 'forgotten'")
    try:
        assert cli("ingest", write_runs_of_today(tmp_path / "bad.jsonl", "failure", 300)).returncode == 0
        assert "300 events counted" in cli("run").stdout
        assert "release-error-rate" in cli("alert", "list").stdout
        assert cli("doctor").stdout.count("no event waits") == 1
    finally:
        database.execute("rollback prepared 'forgotten'")

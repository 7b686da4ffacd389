"""The README's first line, without the installation: the demo on an embedded server of its own."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from opskpi.postgres import connecting, embedded
from support import forks
from support.patience import PATIENCE_S

STATES = """
  select md5(string_agg(md5(t::text), '' order by md5(t::text))) from (
    select to_jsonb(e) as t from telemetry_events e
    union all select to_jsonb(r) from ops.rollups r
    union all select to_jsonb(h) from ops.histograms h
    union all select to_jsonb(k) - 'id' - 'created_at' - 'metadata' - 'complete' from kpi_aggregations k
    union all select to_jsonb(s) from ops.slo_counts s
  ) as everything
"""


@pytest.fixture
def demo_home() -> Iterator[Path]:
    # Where any user may enter: root drops its privileges to run the server.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        try:
            yield path
        finally:
            opskpi(path, "stop")


def opskpi(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forks.run(*arguments, env=environment_of(home), timeout=2 * PATIENCE_S)


def environment_of(home: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("_DSN", "_URL"))}
    return environment | {"OPSKPI_HOME": str(home)}


def ask_embedded(home: Path, query: LiteralString) -> object:
    """The single value of a query to the embedded server of `home`; None while it has no schema yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPSKPI_HOME", str(home))
        dsn = embedded.ensure_running(lambda _: None)
    with connecting.connect(dsn) as connection:
        try:
            return connection.execute(query).fetchall()[0][0]
        except psycopg.errors.UndefinedTable:
            return None


def test_the_demo_shows_a_month_and_a_second_run_changes_nothing(demo_home: Path) -> None:
    first = opskpi(demo_home, "demo")
    assert first.returncode == 0, first.stderr
    assert "hook_override_rate" in first.stdout
    assert "provenance_generation_availability" in first.stdout
    assert "What to try next" in first.stdout
    shown = [line.strip() for line in first.stdout.splitlines() if "opskpi slo explain" in line]
    for command, what, name in zip(
        shown,
        ("a latency incident", "an outage"),
        ("provenance_generation_latency", "provenance_validation_error_rate"),
        strict=True,
    ):
        assert what in first.stdout
        assert name in command
        explained = opskpi(demo_home, *command.split()[1:])
        assert explained.returncode == 0, explained.stderr
        assert f"What burned the budget of {name}" in explained.stdout
    before = ask_embedded(demo_home, STATES)

    second = json.loads(opskpi(demo_home, "demo", "--json").stdout)
    assert second["loaded"] == 0
    assert len(second["kpis"]) == 20
    assert len(second["slos"]) == 9
    statuses = {slo["status"] for slo in second["slos"]}
    assert {"ok", "breached"} < statuses
    assert not statuses & {"stale", "no_data"}
    assert ask_embedded(demo_home, STATES) == before

    healthy = opskpi(demo_home, "doctor")
    assert healthy.returncode == 0, healthy.stdout
    assert "no DSN given, using the embedded Postgres" in healthy.stderr
    assert opskpi(demo_home, "stop").stdout == "the embedded server is stopped\n"


def test_a_killed_demo_is_finished_by_the_next(demo_home: Path) -> None:
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123
        first = forks.Process(["demo"], cwd=demo_home, env=environment_of(demo_home), stdout=nothing, stderr=nothing)
        while not ask_embedded(demo_home, "select exists (select from telemetry_events)") and first.poll() is None:
            time.sleep(0.05)
        first.kill()
        first.wait()
    assert ask_embedded(
        demo_home, "select value is null from ops.settings where name = 'demo_loaded' union all select true limit 1"
    )
    second = opskpi(demo_home, "demo", "--json")
    assert second.returncode == 0, second.stderr
    stored = ask_embedded(demo_home, "select count(*) from telemetry_events")
    assert stored == ask_embedded(
        demo_home,
        "select sum(event_count) from ops.rollups join ops.series using (org_id, series_id)"
        " where period = 'day' and event_type <> 'slsa_audit_metrics'",
    )
    assert stored == int(str(ask_embedded(demo_home, "select ops.setting('demo_loaded')")))
    assert opskpi(demo_home, "doctor").returncode == 0

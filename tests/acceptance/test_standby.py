"""A standby: it streams from its primary and takes no writes, and whatever only reads works there."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from opskpi.postgres import migrations
from support import forks
from support.hubs import METRICS, POLICY, TELEMETRY, TODAY, hook_event, make_key, problem, running_hub
from support.patience import eventually
from support.postgres import Server, running_server, temporary_folder, unavailable
from support.standbys import follow, streaming_standby

OnStandby = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def primary(pytestconfig: pytest.Config) -> Iterator[Server]:
    """Run a server with some counted events."""
    with running_server(str(pytestconfig.getoption("--postgres"))) as server:
        if not (server.bin_dir / "pg_basebackup").is_file():
            unavailable(f"Postgres {server.version} has no pg_basebackup here")
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            migrations.migrate(connection)
            connection.execute(
                "insert into public.telemetry_events (event_type, event_timestamp, metadata)"
                """ select 'slsa_provenance', now() - interval '1 day' - number * interval '1 minute',"""
                " jsonb_build_object('outcome', case when number < 30 then 'failure' else 'success' end, 'duration_ms', 5)"
                " from generate_series(1, 60) as number"
            )
        forks.run("run", "--dsn", server.dsn("postgres"), cwd=Path.cwd(), env={}, stdin="")
        yield server


@pytest.fixture(scope="module")
def standby(primary: Server) -> Iterator[Server]:
    """Run its standby."""
    with streaming_standby(primary) as server:
        yield server


@pytest.fixture
def on_standby(standby: Server, tmp_path: Path) -> OnStandby:
    """Run a command on the standby."""

    def command(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return forks.run(
            *arguments, "--dsn", standby.dsn("postgres"), cwd=tmp_path, env={"COLUMNS": "200"}, stdin=stdin
        )

    return command


@pytest.mark.parametrize(
    "command",
    [
        *("kpi", "slo", "slo export", "slo explain provenance_generation_availability", "report --out report.html"),
        *("export events", "export kpis", "export audits", "export slo", "alert", "alert list --channels", "key"),
        *("agent", "retention", "migrate"),
    ],
)
def test_what_reads_works_on_a_standby(on_standby: OnStandby, command: str) -> None:
    finished = on_standby(*command.split())
    assert finished.returncode == 0, finished.stderr


def test_a_standby_says_what_would_have_fired_without_a_copy_of_it(
    primary: Server, standby: Server, on_standby: OnStandby, tmp_path: Path
) -> None:
    follow(primary, standby)
    exported = on_standby("slo", "export").stdout
    # Of these runs all are slow, and nothing on the standby has counted them so.
    slower = re.sub(r"fasterThanMs: \d+", "fasterThanMs: 4", exported)
    assert slower != exported
    (tmp_path / "slos.yaml").write_text(slower)
    asked = (
        "slo",
        "simulate",
        "slos.yaml",
        "--days",
        "2",
        "--until",
        f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "--json",
    )
    tried = on_standby(*asked)
    assert tried.returncode == 0, tried.stderr
    assert "copy" not in tried.stderr
    on_primary = forks.run(*asked, "--dsn", primary.dsn("postgres"), cwd=tmp_path, env={"COLUMNS": "200"}, stdin="")
    assert json.loads(tried.stdout) == json.loads(on_primary.stdout) != []


def test_definitions_are_tried_on_a_standby_as_on_its_primary(primary: Server, standby: Server, tmp_path: Path) -> None:
    follow(primary, standby)
    with temporary_folder(None) as home:
        env = {"COLUMNS": "200", "OPSKPI_HOME": str(home / "data")}

        def answers(server: Server, *arguments: str) -> str:
            asked = (*arguments, "--dsn", server.dsn("postgres"))
            finished = forks.run(*asked, cwd=tmp_path, env=env, stdin="")
            assert finished.returncode == 0, finished.stderr
            return finished.stdout

        (tmp_path / "slos.yaml").write_text(answers(standby, "slo", "export"))
        try:
            command = ["slo", "apply", "--dry-run", "slos.yaml", "--json"]
            there = json.loads(answers(standby, *command))
            assert there
            assert there == json.loads(answers(primary, *command))
            left = forks.run("slo", "--json", cwd=tmp_path, env=env, stdin="")
            assert left.returncode == 78, "the copy is gone, and nothing else was made"
        finally:
            forks.run("stop", cwd=tmp_path, env=env, stdin="")


@pytest.mark.parametrize("command", ["run", "aggregate", "key create wall --scope read"])
def test_what_writes_says_on_a_standby_that_it_needs_the_primary(on_standby: OnStandby, command: str) -> None:
    finished = on_standby(*command.split())
    assert finished.returncode == 78, finished.stdout + finished.stderr
    assert "point --dsn at the primary" in finished.stderr


def test_a_hub_over_a_standby_shows_what_is_there_and_stores_nothing(
    primary: Server, standby: Server, tmp_path: Path
) -> None:
    org = uuid4()
    with psycopg.connect(primary.dsn("postgres"), autocommit=True) as connection:
        key = make_key(connection, org)
    follow(primary, standby)
    with (
        running_hub(standby.dsn("postgres"), tmp_path, forked=False) as hub,
        hub.client(key) as client,
        hub.client() as browser,
    ):
        assert client.get("/readyz").status_code == 200
        for path in ("/metrics", POLICY, "/api/v1/export/events", "/api/v1/export/kpis"):
            assert client.get(path).status_code == 200, path
        assert client.get(METRICS, params={"org_id": str(org), "start_date": TODAY}).json()["total_executions"] == 0
        refused = client.post(TELEMETRY, json=[hook_event(org)])
        assert refused.status_code == 503
        assert "replica" in problem(refused)["detail"]
        assert browser.post("/login", data={"key": key}).status_code == 303
        assert browser.get("/").status_code == 200
        with running_hub(primary.dsn("postgres"), tmp_path) as writer, writer.client(key) as sender:
            assert sender.post(TELEMETRY, json=[hook_event(org)]).json()["accepted"] == 1
        eventually(lambda: "n = 1 " in browser.get("/hooks?range=24h").text)
        stolen = {"opskpi_session": browser.cookies["opskpi_session"]}
        token = browser.get("/").text.partition('name="token" value="')[2].partition('"')[0]
        assert browser.post("/logout", data={"token": token}).status_code == 303
        with hub.client(cookies=stolen) as thief:
            assert thief.get("/").status_code == 303
    assert "Traceback" not in hub.log.read_text("utf-8")

"""The hub as a process: how it starts, waits out a database that is away, and stops."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from opskpi.postgres.cluster import Cluster
from support.hubs import JOBS, POLICY, TELEMETRY, Hub, hook_event, make_key, problem, running_hub, stored
from support.patience import PATIENCE_S, eventually
from support.postgres import Database


def refused_start(dsn: str, *options: str, path: Path = JOBS, env: Mapping[str, str] | None = None) -> str:
    """Start a hub that cannot be, and return what it says."""
    answer = subprocess.run(
        [sys.executable, "-m", "opskpi", "serve", "--port", "0", "--dsn", dsn, *options],
        env=os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{JOBS}"} | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (answer.returncode, answer.stdout, "Traceback" in answer.stderr) == (78, "", False), answer.stderr
    return answer.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_hub_told_to_stop_takes_nothing_new_and_answers_what_was_asked(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path, workers: str
) -> None:
    key = make_key(database, org)
    answers: list[httpx.Response] = []

    with (
        running_hub(migrated_database.dsn, folder, "--workers", workers, forked=False) as hub,
        hub.client(key) as client,
    ):

        def ask() -> None:
            answers.append(client.post(TELEMETRY, json=[hook_event(org)]))

        def waits() -> bool:
            query = "select from pg_stat_activity where application_name = 'opskpi hub' and wait_event_type = 'Lock'"
            with psycopg.connect(migrated_database.dsn) as other:
                return other.execute(query).fetchone() is not None

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", httpx.URL(hub.url).port)) == 0

        asking = threading.Thread(target=ask)
        with database.transaction():
            database.execute("lock table public.telemetry_events in exclusive mode")
            asking.start()
            eventually(waits)
            hub.process.send_signal(signal.SIGTERM)
            if workers == "1":
                eventually(lambda: not listens())
            assert hub.process.poll() is None
        asking.join()
        assert [answer.status_code for answer in answers] == [200]
        assert hub.process.wait(PATIENCE_S) == 0
        assert not listens()
    assert stored(database, org) == 1
    assert "Traceback" not in hub.log.read_text("utf-8")


def test_a_process_of_the_hub_that_dies_is_replaced_and_none_outlives_the_hub(
    migrated_database: Database, folder: Path
) -> None:
    def children(hub: Hub) -> list[int]:
        listed = Path(f"/proc/{hub.process.pid}/task/{hub.process.pid}/children").read_text("utf-8").split()
        return [pid for pid in map(int, listed) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs /proc")
    with running_hub(migrated_database.dsn, folder, "--workers", "2", forked=False) as hub, hub.client() as client:
        assert client.get("/healthz").status_code == 200
        first, second = children(hub)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: len(set(children(hub)) - {first}) == 2)
        assert client.get("/healthz").status_code == 200
        hub.process.kill()
        eventually(lambda: not Path(f"/proc/{second}").exists())


def test_without_the_database_requests_are_503_until_it_is_back(
    mortal_server: tuple[str, Cluster, int], org: UUID, folder: Path
) -> None:
    dsn, cluster, port = mortal_server
    with psycopg.connect(dsn, autocommit=True) as connection:
        key = make_key(connection, org)
    with running_hub(dsn, folder, forked=False) as hub, hub.client(key) as client:
        assert client.get(POLICY).status_code == 200
        assert client.get("/readyz").status_code == 200
        cluster.stop()
        away = client.post(TELEMETRY, json=[hook_event(org)])
        assert away.status_code == 503
        assert int(away.headers["retry-after"]) > 0
        said = problem(away)["detail"]
        assert said == "the database cannot answer now"
        eventually(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/healthz").status_code == 200
        cluster.start(port)
        eventually(lambda: client.get(POLICY).status_code == 200)
        eventually(lambda: client.get("/readyz").status_code == 200)
        cluster.stop()
        cluster.start(port)
        # Connections that died unseen cost no request.
        assert client.post(TELEMETRY, json=[hook_event(org)]).status_code == 200


def test_readiness_names_the_migration_that_the_program_does_not_know(
    migrated_database: Database, database: psycopg.Connection, folder: Path
) -> None:
    with running_hub(migrated_database.dsn, folder, forked=False) as hub, hub.client() as client:
        assert client.get("/readyz").json() == {"status": "ok"}
        database.execute(
            "insert into supabase_migrations.schema_migrations (version, name) values ('29990101000000', 'opskpi_future')"
        )
        eventually(lambda: client.get("/readyz").status_code == 503)
        answer = client.get("/readyz")
        assert "29990101000000_opskpi_future" in problem(answer)["detail"]
        assert client.get("/healthz").json() == {"status": "ok"}


def test_a_hub_does_not_start_where_migrations_are_missing(empty_database: Database) -> None:
    assert "opskpi migrate" in refused_start(empty_database.dsn)


@pytest.mark.parametrize("secret", ["x", "0123456789abcdef0123456789abcde", "a" * 64])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("OPSKPI_COOKIE_SECRET", ()),
        ("SUPABASE_JWT_SECRET", ("--token-secret-env", "SUPABASE_JWT_SECRET")),
        ("WEBHOOK_SECRET", ("--github-secret-env", "WEBHOOK_SECRET")),
    ],
)
def test_a_hub_does_not_start_with_a_secret_that_can_be_guessed(
    empty_database: Database, name: str, options: tuple[str, ...], secret: str
) -> None:
    said = refused_start(empty_database.dsn, *options, env={name: secret})
    assert f"environment variable {name} holds a secret of " in said
    assert "`openssl rand -hex 32`" in said
    assert len(secret) == 1 or secret not in said


def test_a_port_that_is_taken_is_one_sentence(migrated_database: Database) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = refused_start(migrated_database.dsn, "--port", port)
        assert f"port {port}" in said
        assert "another --host or --port" in said


def test_without_the_extra_the_line_that_installs_it_is_said(migrated_database: Database, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as finder\n"
        "found = finder.find_spec\n"
        "finder.find_spec = lambda name, package=None: None if name == 'fastapi' else found(name, package)\n"
    )
    said = refused_start(migrated_database.dsn, path=tmp_path)
    assert "fastapi" in said
    assert "pip install 'opskpi[hub]'" in said


def test_a_login_of_its_own_needs_the_grants_that_the_hub_names(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    login = f"hub_of_{migrated_database.name}"
    database.execute(sql.SQL("create role {} login").format(sql.Identifier(login)))
    try:
        dsn = make_conninfo(migrated_database.dsn, user=login)
        said = refused_start(dsn)
        grants = said[said.index("grant authenticated") :].strip()
        readme = (JOBS.parent / "README.md").read_text("utf-8")
        assert all(
            f"{grant.strip()};" in readme.replace("opskpi_hub", login)
            for grant in grants.replace('"', "").split(";")
            if grant
        )
        database.execute(grants.encode())
        key = make_key(database, org)
        with running_hub(dsn, folder, forked=False) as hub, hub.client(key) as client:
            assert client.post(TELEMETRY, json=[hook_event(org)]).json()["accepted"] == 1
            assert client.put(POLICY, json={}).json()["version"] == 1
            assert client.get("/readyz").status_code == 200
        assert database.execute("select last_used_at is not null from ops.api_keys").fetchone() == (True,)
    finally:
        database.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(login)))


def test_the_unit_in_the_readme_runs_the_hub(migrated_database: Database, folder: Path) -> None:
    readme = (JOBS.parent / "README.md").read_text("utf-8")
    [command] = re.findall(r"^ExecStart=\S+/opskpi serve (.+)$", readme, re.MULTILINE)
    with running_hub(migrated_database.dsn, folder, *command.replace("--port 8787", "").split(), forked=False) as hub:
        with hub.client() as client:
            assert client.get("/readyz").status_code == 200
        hub.process.terminate()
        assert hub.process.wait(PATIENCE_S) == 0

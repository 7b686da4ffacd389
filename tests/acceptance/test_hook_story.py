"""The story of a hook, as a new user would live it: install, commit, block, override, push, see the numbers; the hub goes and comes back."""

from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from support.events import rows, scalar
from support.fixtures import Cli
from support.hook_world import World, world_in
from support.hubs import metrics, running_hub
from support.patience import eventually
from support.postgres import free_port

HOOK = """#!/bin/sh
if git diff --cached | grep -q SECRET; then
  echo 'a secret: not committed'
  printf '{"findings_summary": {"total": 1, "pattern": "SECRET"}}' >"$OPSKPI_HOOK_REPORT"
  exit 1
fi
"""


@pytest.fixture
def world_with_remote(tmp_path: Path) -> World:
    """Create a repository with a hook of its own and a remote to push to."""
    place = tmp_path / "user"
    place.mkdir()
    world = world_in(place)
    world.git("init", "-q", "--bare", place / "remote.git", cwd=place)
    world.git("remote", "add", "origin", place / "remote.git")
    world.add_hook("pre-commit", HOOK)
    world.add_hook("pre-push", "#!/bin/sh\nexit 0\n")
    return world


def write(world: World, name: str, text: str) -> None:
    (world.repo / name).write_text(text)
    world.git("add", name)


def await_events(world: World, database: psycopg.Connection, count: int) -> None:
    """Send until so many events are stored: an override is recorded in the background, and a sender may be at it already."""

    def stored() -> int:
        sent = world.opskpi("hook", "flush")
        assert sent.returncode in {0, 75}, sent.stderr
        return int(scalar(database, "select count(*) from public.telemetry_events"))

    eventually(lambda: stored() >= count)
    assert stored() == count, rows(database, "select event_type, metadata from public.telemetry_events")


def test_what_happens_in_a_repository_is_in_the_metrics_and_survives_a_hub_that_is_away(
    world_with_remote: World, cli: Cli, database: psycopg.Connection, migrated_database, tmp_path: Path
) -> None:
    org = uuid4()
    made = cli("key", "create", "laptop", "--org", str(org), "--scope", "ingest", "--scope", "read")
    assert made.returncode == 0, made.stderr
    key = next(word for word in made.stdout.split() if word.startswith("opskpi_"))
    key_file = world_with_remote.home / "key"
    key_file.write_text(key)
    port = str(free_port())
    del world_with_remote.env["OPSKPI_API_KEY"]

    with running_hub(migrated_database.dsn, tmp_path, "--port", port) as hub, hub.client(key) as client:
        installed = world_with_remote.opskpi("hook", "install", "--hub", hub.url, "--org", org, "--key-file", key_file)
        assert installed.returncode == 0, installed.stderr

        write(world_with_remote, "a.txt", "hello")
        assert world_with_remote.commit().returncode == 0
        write(world_with_remote, "b.txt", "SECRET")
        blocked = world_with_remote.commit()
        assert (blocked.returncode, blocked.stderr) == (1, "a secret: not committed\n")
        assert world_with_remote.commit("--no-verify").returncode == 0
        assert world_with_remote.run("git", "push", "-q", "origin", "main").returncode == 0
        await_events(world_with_remote, database, 4)
        found = metrics(client, org)
        counts = ("total_executions", "allowed_count", "blocked_count", "overridden_count")
        assert [found[name] for name in counts] == [3, 2, 1, 0]
        assert found["most_blocked_patterns"] == [{"pattern": "SECRET", "count": 1}]
        assert metrics(client, org, hook_type="pre-push")["total_executions"] == 1
        overrides = database.execute(
            "select metadata ->> 'override_reason' from public.telemetry_events where event_type = 'hook_override'"
        ).fetchall()
        assert overrides == [("--no-verify",)]

    write(world_with_remote, "c.txt", "the hub is away")
    answer = world_with_remote.commit()
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert world_with_remote.opskpi("hook", "flush").returncode == 75
    assert len(world_with_remote.queued()) == 1

    with running_hub(migrated_database.dsn, tmp_path, "--port", port) as hub, hub.client(key) as client:
        await_events(world_with_remote, database, 5)
        assert world_with_remote.queued() == []
        assert metrics(client, org)["total_executions"] == 4
        uninstalled = world_with_remote.opskpi("hook", "uninstall")
        assert uninstalled.returncode == 0, uninstalled.stderr
    assert (world_with_remote.hooks / "pre-commit").read_text() == HOOK

"""The whole way: real git, real hooks, a real hub over a real Postgres, and its metrics."""

import json
from pathlib import Path
from uuid import uuid4

import psycopg

from support.hook_world import World
from support.hubs import POLICY, make_key, metrics, running_hub
from support.postgres import Database

SCAN = """\
#!/bin/sh
if git diff --cached | grep -q ^+AKIA; then
  echo '{"findings_summary": {"total": 1, "by_severity": {"high": 1}, "pattern": "aws-key"}}' >"$OPSKPI_HOOK_REPORT"
  exit 1
fi
"""


def test_commits_that_pass_block_and_bypass_and_a_push_are_in_the_metrics_of_the_org(
    world: World, migrated_database: Database, database: psycopg.Connection, tmp_path: Path
) -> None:
    org = uuid4()
    key = tmp_path / "key"
    key.write_text(make_key(database, org) + "\n")
    del world.env["OPSKPI_API_KEY"]
    world.add_hook("pre-commit", SCAN)
    world.add_hook("pre-push", "#!/bin/sh\nexit 0\n")
    world.git("init", "-q", "--bare", tmp_path / "remote.git")
    with running_hub(migrated_database.dsn, tmp_path) as hub, hub.client(key.read_text().strip()) as client:
        installed = world.opskpi("hook", "install", "--hub", hub.url, "--org", org, "--key-file", key)
        assert installed.returncode == 0, installed.stderr
        assert client.put(POLICY, json={"telemetry": {"enabled": True}}).is_success
        assert world.commit().returncode == 0
        (world.repo / "a").write_text("AKIAIOSFODNN7EXAMPLE")
        world.git("add", "a")
        assert world.commit().returncode == 1
        assert world.commit("--no-verify").returncode == 0
        world.git("push", "-q", tmp_path / "remote.git", "main")
        settle_sending(world)
        counted = metrics(client, org)
        assert (counted["total_executions"], counted["allowed_count"], counted["blocked_count"]) == (3, 2, 1)
        assert counted["most_blocked_patterns"] == [{"pattern": "aws-key", "count": 1}]
        assert types(database, org) == {"hook_execution": 3, "hook_override": 1}
        assert json.loads(world.opskpi("hook", "policy").stdout)["version"] == 1
    # The hub is unplugged; work goes on.
    for _ in range(3):
        assert world.commit("--allow-empty").returncode == 0
    world.await_quiet()
    unsent = len(world.queued())
    assert unsent >= 3
    world.let_time_pass(400)
    assert world.opskpi("hook", "flush").returncode == 75
    assert len(world.queued()) == unsent
    with running_hub(migrated_database.dsn, tmp_path) as hub, hub.client(key.read_text().strip()) as client:
        assert world.opskpi("hook", "install", "--hub", hub.url).returncode == 0
        settle_sending(world)
        assert metrics(client, org)["total_executions"] == 6
    assert types(database, org) == {"hook_execution": 6, "hook_override": 1}


def test_a_wrong_key_keeps_the_events_until_there_is_a_right_one(
    world: World, migrated_database: Database, database: psycopg.Connection, tmp_path: Path
) -> None:
    org = uuid4()
    with running_hub(migrated_database.dsn, tmp_path) as hub:
        world.target(hub.url)
        world.wrap("true")
        world.await_quiet()
        refused = world.opskpi("hook", "flush")
        assert refused.returncode == 78
        assert "answered 401" in refused.stderr
        assert len(world.queued()) == 1
        world.env["OPSKPI_API_KEY"] = make_key(database, org)
        settings = json.loads((world.folder / "settings.json").read_text())
        (world.folder / "settings.json").write_text(json.dumps(settings | {"org_id": str(org)}))
        world.wrap("true")
        settle_sending(world)
    # The first event names another org than the key, and the hub says so.
    assert types(database, org) == {"hook_execution": 1}
    [event] = json.loads((world.folder / "telemetry-refused.json").read_text())["events"]
    assert "org" in event["refused"]["field"] + event["refused"]["reason"]


def test_an_event_of_a_clock_that_was_ahead_arrives_once_it_is_sent_again(
    world: World, migrated_database: Database, database: psycopg.Connection, tmp_path: Path
) -> None:
    org = uuid4()
    world.env["OPSKPI_API_KEY"] = make_key(database, org)
    ahead = (
        "import time; real = time.time; time.time = lambda: real() + 3 * 86400; from opskpi.hooks import record;"
        "assert record('hook_execution', hook_type='pre-commit', result='allowed', duration_ms=1)"
    )
    assert world.python(ahead).returncode == 0
    assert not world.python("from opskpi.hooks import record; assert not record('nonsense')").stderr
    with running_hub(migrated_database.dsn, tmp_path) as hub:
        assert world.opskpi("hook", "install", "--hub", hub.url, "--org", org).returncode == 0
        assert "1 refused" in world.opskpi("hook", "flush").stdout
        assert types(database, org) == {}
        resent = world.opskpi("hook", "resend")
        assert resent.stdout.startswith("1 events queued again; 1 events sent"), resent.stderr
        world.wrap("true")
        settle_sending(world)
    query = "select count(*), sum((metadata #>> '{dropped,malformed_event}')::int) from public.telemetry_events where org_id = %s and event_timestamp < now()"
    assert database.execute(query, [org]).fetchone() == (2, 1)


def settle_sending(world: World) -> None:
    """Send what is left once a sender that a hook may have started has ended."""
    world.await_quiet()
    flushed = world.opskpi("hook", "flush")
    assert flushed.returncode == 0, flushed.stderr
    assert world.queued() == []


def types(database: psycopg.Connection, org: object) -> dict[str, int]:
    query = "select event_type, count(*) from public.telemetry_events where org_id = %s group by 1"
    return dict(database.execute(query, [org]).fetchall())

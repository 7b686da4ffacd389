"""Who may call the hub: keys that are live, for what they are for, in the org that they speak for."""

import hashlib
import json
import os
import re
import subprocess
from uuid import UUID, uuid4

import psycopg
import pytest

from opskpi.access import keys
from support import forks
from support.hubs import (
    METRICS,
    POLICY,
    TELEMETRY,
    TODAY,
    Hub,
    hook_event,
    make_key,
    metrics,
    post,
    problem,
    stored,
)


def run_on_hub(hub: Hub, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forks.run(*arguments, env=os.environ | {"OPSKPI_DSN": hub.dsn, "COLUMNS": "200"})


UNKNOWN = f"opskpi_{'0' * 12}_{'x' * 43}"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        "Basic b3Bza3BpOm9wc2twaQ==",
        f"Bearer {UNKNOWN}",
        f"Bearer {UNKNOWN}x",
    ],
)
def test_a_missing_malformed_or_unknown_key_is_401(hub: Hub, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    with hub.client() as client:
        answer = client.get(POLICY, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "API key" in problem(answer)["detail"]
        assert client.post(TELEMETRY, json=[], headers=headers).status_code == 401


def test_the_right_key_id_with_another_secret_is_401(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    right, other = make_key(hub_database, org), keys.draw().text
    forged = "_".join([*right.split("_", 2)[:2], other.split("_", 2)[2]])
    with hub.client(forged) as client:
        assert client.get(POLICY).status_code == 401
        assert client.post(TELEMETRY, json=[hook_event(org)]).status_code == 401
    assert stored(hub_database, org) == 0


def test_a_revoked_key_is_401_with_the_next_request(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    key = make_key(hub_database, org)
    with hub.client(key) as client:
        assert client.get(POLICY).status_code == 200
        assert keys.revoke(hub_database, key.split("_")[1])
        assert client.get(POLICY).status_code == 401
        assert client.post(TELEMETRY, json=[hook_event(org)]).status_code == 401
    assert stored(hub_database, org) == 0


def test_an_expired_key_is_401(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    key = make_key(hub_database, org)
    hub_database.execute(
        "update ops.api_keys set created_at = '2026-01-01', expires_at = '2026-01-02' where org_id = %s", [org]
    )
    with hub.client(key) as client:
        assert client.get(POLICY).status_code == 401


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [("ingest", ["POST", "GET policy"]), ("read", ["GET metrics", "GET policy"]), ("admin", ["PUT"])],
)
def test_a_key_does_what_its_scope_says_and_no_more(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, scope: str, allowed: list[str]
) -> None:
    with hub.client(make_key(hub_database, org, scope)) as client:
        answers = {
            "POST": client.post(TELEMETRY, json=[hook_event(org)]),
            "GET metrics": client.get(METRICS, params={"org_id": str(org), "start_date": TODAY}),
            "GET policy": client.get(POLICY),
            "PUT": client.put(POLICY, json={"telemetry": {"enabled": False}}),
        }
    for name, answer in answers.items():
        assert answer.status_code == (200 if name in allowed else 403), name
        if name not in allowed:
            assert "scope" in problem(answer)["detail"]
    assert stored(hub_database, org) == (1 if "POST" in allowed else 0)


def test_an_org_neither_reads_nor_writes_another_through_the_hub(hub: Hub, hub_database: psycopg.Connection) -> None:
    ours, theirs = uuid4(), uuid4()
    with hub.client(make_key(hub_database, ours)) as us, hub.client(make_key(hub_database, theirs)) as them:
        post(them, [hook_event(theirs, result="blocked")])
        answer = us.get(METRICS, params={"org_id": str(theirs), "start_date": TODAY})
        assert answer.status_code == 403
        assert "organisation" in problem(answer)["detail"]
        refused = post(us, [hook_event(theirs), hook_event(ours)])
        assert (refused["accepted"], [fault["field"] for fault in refused["refused"]]) == (1, ["org_id"])
        us.put(POLICY, json={"telemetry": {"enabled": False}})
        assert them.get(POLICY).json()["version"] == 0
        assert metrics(us, ours)["total_executions"] == 1
        assert metrics(them, theirs)["total_executions"] == 1
    assert (stored(hub_database, ours), stored(hub_database, theirs)) == (1, 1)


def test_the_key_is_shown_once_and_only_the_digest_of_its_secret_is_stored(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    made = run_on_hub(hub, "key", "create", "laptops", "--org", str(org), "--scope", "ingest", "--expires-in", "90d")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    found = re.fullmatch(r"opskpi_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", key)
    assert found
    row = hub_database.execute("select * from ops.api_keys where key_id = %s", [found[1]]).fetchone()
    assert row is not None
    assert hashlib.sha256(found[2].encode()).digest() in row
    assert found[2] not in str(row)
    listed = run_on_hub(hub, "key", "list")
    assert found[1] in listed.stdout
    assert found[2] not in listed.stdout
    with hub.client(key) as client:
        assert post(client, [hook_event(org)])["accepted"] == 1


def test_a_key_is_made_listed_and_revoked_by_machines_too(hub: Hub, org: UUID) -> None:
    arguments = ("key", "create", "ci", "--org", str(org), "--scope", "read", "--scope", "ingest", "--json")
    made = json.loads(run_on_hub(hub, *arguments).stdout)
    assert (made["name"], made["scopes"], made["expires_at"]) == ("ci", ["read", "ingest"], None)

    def listed(*options: str) -> dict[str, dict[str, object]]:
        return {row["key_id"]: row for row in json.loads(run_on_hub(hub, "key", "list", "--json", *options).stdout)}

    assert listed()[made["key_id"]]["revoked_at"] is None
    # Whoever finds a key in the open has the whole of it.
    assert json.loads(run_on_hub(hub, "key", "revoke", made["key"], "--json").stdout) == {"revoked": made["key_id"]}
    assert made["key_id"] not in listed()
    assert listed("--all")[made["key_id"]]["revoked_at"]
    again = run_on_hub(hub, "key", "revoke", made["key_id"])
    assert (again.returncode, "no live key" in again.stderr) == (64, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("key", "create", "x", "--scope", "everything"),
        ("key", "create", "x", "--scope", "read", "--expires-in", "soon"),
        ("agent", "assign", "5d0c1a7e-9f4b-4a55-8f0e-3c2b1a09f8e7"),
    ],
    ids=" ".join,
)
def test_a_bad_argument_is_exit_64(hub: Hub, arguments: tuple[str, ...]) -> None:
    answer = run_on_hub(hub, *arguments)
    assert (answer.returncode, "Traceback" in answer.stderr) == (64, False)


def test_no_key_is_in_an_answer_or_in_the_log(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    key = make_key(hub_database, org, "read")
    secret = key.split("_", 2)[2]
    with hub.client(key) as client:
        answers = [
            client.get(f"/{key}"),
            client.get(f"/{key}", params={"key": key}),
            client.get(METRICS, params={key: key}),
            client.post(TELEMETRY, json=[]),
            client.get(POLICY),
        ]
    assert [answer.status_code for answer in answers] == [404, 404, 422, 403, 200]
    assert all(secret not in answer.text + str(answer.headers) for answer in answers)
    log = hub.log.read_text("utf-8")
    assert f"/opskpi_{key.split('_')[1]}_…" in log
    assert secret not in log


def test_an_agent_is_put_into_a_team_and_out_of_it(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    agent = uuid4()
    put = run_on_hub(hub, "agent", "assign", str(agent), "payments", "--org", str(org))
    assert "team payments" in put.stdout, put.stderr
    with hub.client(make_key(hub_database, org)) as client:
        post(client, [hook_event(org, agent), hook_event(org)])
        assert metrics(client, org, team="payments")["total_executions"] == 1
        [row] = json.loads(run_on_hub(hub, "agent", "list", "--org", str(org), "--json").stdout)
        assert (row["agent_id"], row["team"]) == (str(agent), "payments")
        assert "payments" in run_on_hub(hub, "agent").stdout
        assert run_on_hub(hub, "agent", "assign", str(agent), "--none", "--org", str(org)).returncode == 0
        assert metrics(client, org, team="payments")["total_executions"] == 0

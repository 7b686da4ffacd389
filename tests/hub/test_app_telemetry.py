"""Telemetry over HTTP: what is taken, what is refused, and how much."""

import asyncio
import gzip
import json
from collections import Counter
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from support.hubs import TELEMETRY, Hub, hook_event, make_key, metrics, post, problem, running_hub, stored
from support.patience import PATIENCE_S
from support.postgres import Database

LIMIT = 1024 * 1024


def post_raw(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    return client.post(TELEMETRY, content=body, headers={"content-type": "application/json"} | headers)


def test_what_is_posted_is_in_the_next_answer(client: httpx.Client, org: UUID) -> None:
    assert metrics(client, org) == {
        "total_executions": 0,
        "blocked_count": 0,
        "allowed_count": 0,
        "overridden_count": 0,
        "override_rate": None,
        "avg_duration_ms": None,
        "most_blocked_patterns": [],
    }
    batch = [
        hook_event(org, result="blocked", duration_ms=10, findings_summary={"patterns": ["aws-key"]}),
        hook_event(org, result="overridden", duration_ms=20),
        hook_event(org, hook_type="pre-push", duration_ms=60),
        hook_event(org, duration_ms=70),
    ]
    assert post(client, batch) == {"accepted": 4, "duplicate": 0, "refused": [], "policy_version": 0}
    answer = metrics(client, org)
    assert answer.pop("most_blocked_patterns") in ([], [{"pattern": "aws-key", "count": 1}])
    assert answer == {
        "total_executions": 4,
        "blocked_count": 1,
        "allowed_count": 2,
        "overridden_count": 1,
        "override_rate": 25,
        "avg_duration_ms": 40,
    }
    assert metrics(client, org, hook_type="pre-push")["total_executions"] == 1
    assert metrics(client, org, end_date="2199-12-31")["total_executions"] == 4


def test_a_batch_sent_again_is_no_new_events(client: httpx.Client, org: UUID) -> None:
    batch = [hook_event(org), hook_event(org)]
    assert post(client, batch)["accepted"] == 2
    again = post(client, [*batch, hook_event(org)])
    assert (again["accepted"], again["duplicate"]) == (1, 2)


def test_refused_events_are_listed_with_the_reason_and_the_others_kept(
    client: httpx.Client, hub_database: psycopg.Connection, org: UUID
) -> None:
    answer = post(client, [hook_event(org), {"event_type": "nonsense"}, hook_event(org, duration_ms="long"), 7])
    assert answer["accepted"] == 1
    assert [(fault["index"], fault["field"]) for fault in answer["refused"]] == [
        (1, "event_type"),
        (2, "duration_ms"),
        (3, ""),
    ]
    assert all(fault["reason"] for fault in answer["refused"])
    assert stored(hub_database, org) == 1


def test_a_nul_in_an_event_refuses_that_event_alone(client: httpx.Client, org: UUID) -> None:
    answer = post_raw(client, json.dumps([hook_event(org), hook_event(org, tag="\0")]).encode())
    assert answer.json()["accepted"] == 1
    assert [fault["index"] for fault in answer.json()["refused"]] == [1]


def test_a_body_of_1_mib_is_taken_and_one_byte_more_is_not(client: httpx.Client) -> None:
    assert post_raw(client, b"[" + b" " * (LIMIT - 2) + b"]").status_code == 200
    too_large = b"[" + b" " * (LIMIT - 1) + b"]"
    by_length = post_raw(client, too_large)
    assert by_length.status_code == 413
    assert "1,048,576" in problem(by_length)["detail"]
    chunked = client.post(
        TELEMETRY,
        content=(too_large[start : start + 60_000] for start in range(0, LIMIT + 1, 60_000)),
        headers={"content-type": "application/json"},
    )
    assert "transfer-encoding" in chunked.request.headers
    assert chunked.status_code == 413
    assert post_raw(client, b"[]").status_code == 200


def test_a_body_too_large_is_refused_before_it_is_sent_where_the_client_asks_first(
    hub: Hub, client: httpx.Client
) -> None:
    key = client.headers["authorization"]
    request = (
        f"POST {TELEMETRY} HTTP/1.1\r\nHost: hub\r\nAuthorization: {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {10**12}\r\nExpect: 100-continue\r\n\r\n"
    )

    async def ask() -> bytes:
        url = httpx.URL(hub.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(request.encode())
        answer = await reader.readline()
        writer.close()
        return answer

    assert b" 413 " in asyncio.run(ask())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[", 400),
        (b"[{}] trailing", 400),
        (b"[nan]", 400),
        (b"[\0]", 400),
        (b'["\xff"]', 400),
        (b"{}", 422),
        (b"null", 422),
        (b'"text"', 422),
        (b"[" * 400_000, 422),
    ],
    ids=["empty", "cut", "trailing", "nan", "nul", "latin-1", "object", "null", "string", "deep"],
)
def test_a_body_that_is_no_json_array_is_a_problem_of_the_caller(
    client: httpx.Client, body: bytes, status: int
) -> None:
    answer = post_raw(client, body)
    assert answer.status_code == status
    problem(answer)
    for internal in ("stack", "configuration", "json_", "function", "syntax"):
        assert internal not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": ""},
        {"content-type": "application/json; charset=latin-1"},
        {"content-encoding": "gzip"},
        {"content-encoding": "br"},
    ],
    ids=str,
)
def test_what_is_not_plain_json_is_415(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = post_raw(client, gzip.compress(b"[]"), **headers)
    assert answer.status_code == 415
    problem(answer)


@pytest.mark.parametrize("kind", ["application/json; charset=UTF-8", "application/cloudevents-batch+json"])
def test_json_by_another_name_is_json(client: httpx.Client, kind: str) -> None:
    assert post_raw(client, b"[]", **{"content-type": kind}).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"start_date": "2026-11-22"},
        {"org_id": "ours", "start_date": "2026-11-22"},
        {"org_id": "{org}", "start_date": "1763769600"},
        {"org_id": "{org}", "start_date": "2026-02-30"},
        {"org_id": "{org}", "start_date": "2026-11-22", "end_date": "2026-11-21"},
        {"org_id": "{org}", "start_date": "0001-01-01"},
        {"org_id": "{org}", "start_date": "2026-11-22", "team": ""},
        {"org_id": "{org}", "start_date": "2026-11-22", "team": "a\0b"},
        {"org_id": "{org}", "start_date": "2026-11-22", "from": "2026-11-22"},
    ],
    ids=str,
)
def test_a_malformed_query_is_422_and_names_the_parameter(
    client: httpx.Client, org: UUID, query: dict[str, str]
) -> None:
    params = {name: value.format(org=org) for name, value in query.items()}
    answer = client.get("/api/v1/hooks/metrics", params=params)
    assert answer.status_code == 422
    said = problem(answer)
    assert said.get("errors") or said.get("hint")


def test_a_hundred_requests_a_minute_of_one_agent_are_taken_by_two_hubs_together(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    agent, key = uuid4(), make_key(hub_database, org)

    async def send_all(urls: list[str]) -> list[httpx.Response]:
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(headers=headers, timeout=PATIENCE_S) as client:
            return await asyncio.gather(
                *(client.post(f"{urls[n % 2]}{TELEMETRY}", json=[hook_event(org, agent)]) for n in range(104))
            )

    with running_hub(hub.dsn, folder) as other:
        answers = asyncio.run(send_all([hub.url, other.url]))
        assert Counter(answer.status_code for answer in answers) == {200: 100, 429: 4}
        refused = [answer for answer in answers if answer.status_code == 429]
        assert all(0 < int(answer.headers["retry-after"]) <= 60 for answer in refused)
        assert "requests a minute" in problem(refused[0])["detail"]
        assert stored(hub_database, org) == 100
        with other.client(key) as client:
            assert post(client, [hook_event(org, uuid4())])["accepted"] == 1


def test_a_key_that_names_another_agent_in_each_request_is_told_to_wait_all_the_same(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    with hub.client(make_key(hub_database, org)) as client:
        answers = [client.post(TELEMETRY, json=[hook_event(org, uuid4())]) for _ in range(320)]
        assert Counter(answer.status_code for answer in answers) == {200: 300, 429: 20}
        assert all(0 < int(answer.headers["retry-after"]) <= 60 for answer in answers[300:])
    with hub.client(make_key(hub_database, org)) as client:
        assert post(client, [hook_event(org, uuid4())])["accepted"] == 1


def test_200_clients_at_once_lose_nothing(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    key = make_key(hub_database, org)

    async def send_all() -> int:
        limits = httpx.Limits(max_connections=None)
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=hub.url, headers=headers, timeout=PATIENCE_S, limits=limits) as client:
            batches = ([hook_event(org) for _ in range(5)] for _ in range(200))
            answers = await asyncio.gather(*(client.post(TELEMETRY, json=batch) for batch in batches))
        return sum(answer.json()["accepted"] for answer in answers)

    assert asyncio.run(send_all()) == 1000
    assert stored(hub_database, org) == 1000


def test_a_hub_with_rules_on_the_way_in_stores_pseudonyms_with_the_key_and_without_it_nothing(
    migrated_database: Database, database: psycopg.Connection, tmp_path: Path, org: UUID
) -> None:
    database.execute("update ops.anonymisation_rules set on_ingest = true where rule_name in ('agent-ids', 'files')")
    agent = uuid4()
    batch = [hook_event(org, agent, file="src/anna.py")]
    key = make_key(database, org)
    hidden = "a key of the tests, long enough"
    with (
        running_hub(migrated_database.dsn, tmp_path, env={"OPSKPI_ANONYMISATION_KEY": ""}) as hub,
        hub.client(key) as client,
    ):
        assert problem(client.post(TELEMETRY, json=batch))["status"] == 503
        assert stored(database, org) == 0
    with (
        running_hub(migrated_database.dsn, tmp_path, env={"OPSKPI_ANONYMISATION_KEY": hidden}) as hub,
        hub.client(key) as client,
    ):
        assert post(client, batch)["accepted"] == 1
        assert post(client, batch)["duplicate"] == 1
        assert metrics(client, org)["total_executions"] == 1
        assert hidden not in hub.log.read_text("utf-8")
    kept = database.execute("select metadata ->> 'file', metadata::text || agent_id from telemetry_events").fetchall()
    assert [file for file, _ in kept] == ["*.py"]
    assert str(agent) not in kept[0][1]
    assert database.execute("select count(*) from ops.request_counts where agent_id = %s", [agent]).fetchone() == (0,)


def test_a_hub_does_not_start_with_a_key_that_can_be_guessed(migrated_database: Database, tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="OPSKPI_ANONYMISATION_KEY"),
        running_hub(migrated_database.dsn, tmp_path, env={"OPSKPI_ANONYMISATION_KEY": "too short"}),
    ):
        pass

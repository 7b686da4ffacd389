"""The hook policy over HTTP: its versions, its entity tags, and what a condition refuses."""

from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from support.hubs import POLICY, Hub, hook_event, make_key, post, problem

STRICT = {"telemetry": {"enabled": True}, "block": ["aws-key"]}


def test_the_default_holds_until_a_policy_is_set_and_ingest_announces_the_version(
    client: httpx.Client, org: UUID
) -> None:
    before = client.get(POLICY).json()
    assert (before["version"], before["updated_at"]) == (0, None)
    assert before["policy"]["telemetry"] == {"enabled": True}
    after = client.put(POLICY, json=STRICT)
    assert after.status_code == 200
    assert (after.json()["version"], after.json()["policy"]) == (1, STRICT)
    assert client.get(POLICY).json() == after.json()
    assert client.get(POLICY).headers["etag"] == after.headers["etag"]
    assert post(client, [hook_event(org)])["policy_version"] == 1


def test_a_known_etag_is_304_until_the_policy_changes(client: httpx.Client) -> None:
    tag = client.get(POLICY).headers["etag"]
    for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = client.get(POLICY, headers={"if-none-match": condition})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    client.put(POLICY, json=STRICT)
    changed = client.get(POLICY, headers={"if-none-match": tag})
    assert (changed.status_code, changed.json()["version"]) == (200, 1)
    assert changed.headers["etag"] != tag


def test_the_same_policy_of_another_org_has_another_etag(
    hub: Hub, hub_database: psycopg.Connection, client: httpx.Client
) -> None:
    with hub.client(make_key(hub_database, uuid4())) as other:
        assert other.get(POLICY).headers["etag"] != client.get(POLICY).headers["etag"]


def test_a_policy_is_replaced_only_over_the_one_that_if_match_names(client: httpx.Client) -> None:
    first = client.put(POLICY, json=STRICT, headers={"if-match": client.get(POLICY).headers["etag"]})
    assert first.json()["version"] == 1
    second = client.put(POLICY, json={"block": []}, headers={"if-match": first.headers["etag"]})
    assert second.json()["version"] == 2
    for condition in (first.headers["etag"], f"W/{second.headers['etag']}", '"nonsense"', "nonsense"):
        late = client.put(POLICY, json=STRICT, headers={"if-match": condition})
        assert late.status_code == 412
        problem(late)
    assert client.get(POLICY).json() == second.json()
    assert client.put(POLICY, json=STRICT, headers={"if-match": "*"}).json()["version"] == 3


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[]", 422),
        (b"7", 422),
        (b"{", 400),
        (b'{"a": "\\u0000"}', 422),
        (b'{"a": 1e999999}', 422),
        (b'{"a": "' + b"x" * 65536 + b'"}', 413),
        (b'{"a": [' + b"1," * 32000 + b"1]}", 422),
    ],
    ids=["array", "number", "cut", "nul", "huge number", "too large", "too large when stored"],
)
def test_a_policy_is_a_small_json_object(client: httpx.Client, body: bytes, status: int) -> None:
    answer = client.put(POLICY, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    problem(answer)
    assert client.get(POLICY).json()["version"] == 0

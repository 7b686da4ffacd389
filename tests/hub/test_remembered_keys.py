"""Keys that the hub remembers: nothing that was remembered lets anybody in, and nothing has to reach the hub for that."""

from uuid import UUID, uuid4

import psycopg
import pytest

from opskpi.access import keys
from opskpi.hub.remembered_keys import MOST, REMEMBERED_S, KnownKey, RememberedKeys
from support.hubs import METRICS, POLICY, TELEMETRY, TODAY, Hub, hook_event, make_key, post, stored

# No notification crosses this: neither those who listen nor those who wait in the pool hear of it.
CUT_OFF = (
    "select pg_terminate_backend(pid, 60000) from pg_stat_activity"
    " where application_name like 'opskpi hub%' and datname = current_database()"
)
REVOKE, EXPIRE, NARROW, REPLACE, REMOVE = (
    "select ops.revoke_api_key(key_id) from ops.api_keys where org_id = %s",
    "update ops.api_keys set created_at = '2026-01-01', expires_at = '2026-01-02' where org_id = %s",
    "update ops.api_keys set scopes = '{admin}' where org_id = %s",
    "update ops.api_keys set key_sha256 = sha256('another') where org_id = %s",
    "delete from ops.api_keys where org_id = %s",
)


@pytest.mark.parametrize("is_cut_off", [False, True], ids=["heard", "cut off"])
@pytest.mark.parametrize(
    ("change", "status"),
    [(REVOKE, 401), (EXPIRE, 401), (REPLACE, 401), (REMOVE, 401), (NARROW, 403)],
    ids=["revoked", "expired", "replaced", "removed", "narrowed"],
)
def test_a_key_that_has_just_been_used_is_refused_with_the_next_request(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, change: str, status: int, *, is_cut_off: bool
) -> None:
    with hub.client(make_key(hub_database, org, "ingest", "read")) as client:
        for _ in range(2):
            assert post(client, [hook_event(org)])["accepted"] == 1
        if is_cut_off:
            hub_database.execute(CUT_OFF)
        hub_database.execute(change.encode(), [org])
        assert client.post(TELEMETRY, json=[hook_event(org)]).status_code == status
        assert client.get(METRICS, params={"org_id": str(org), "start_date": TODAY}).status_code == status
        assert client.get(POLICY).status_code == status
    assert stored(hub_database, org) == 2


def test_a_request_that_is_refused_for_its_key_is_not_counted(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    counted = "select count(*) from ops.key_requests where org_id = %s"
    with hub.client(make_key(hub_database, org)) as client:
        post(client, [hook_event(org)])
        hub_database.execute(REVOKE, [org])
        assert client.post(TELEMETRY, json=[hook_event(org)]).status_code == 401
    assert hub_database.execute(counted, [org]).fetchone() == (1,)


def test_a_key_that_was_given_to_another_org_stores_for_that_one(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    other = uuid4()
    with hub.client(make_key(hub_database, org)) as client:
        assert post(client, [hook_event(org)])["accepted"] == 1
        hub_database.execute("update ops.api_keys set org_id = %s where org_id = %s", [other, org])
        assert [fault["field"] for fault in post(client, [hook_event(org)])["refused"]] == ["org_id"]
        assert post(client, [hook_event(other)])["accepted"] == 1
    assert (stored(hub_database, org), stored(hub_database, other)) == (1, 1)


def test_a_scope_that_a_key_has_just_got_is_used_at_once(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    with hub.client(make_key(hub_database, org, "read")) as client:
        assert client.get(POLICY).status_code == 200
        assert client.post(TELEMETRY, json=[hook_event(org)]).status_code == 403
        hub_database.execute("update ops.api_keys set scopes = '{read,ingest}' where org_id = %s", [org])
        assert post(client, [hook_event(org)])["accepted"] == 1


def test_another_secret_beside_the_id_of_a_remembered_key_is_401(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    right = make_key(hub_database, org)
    forged = "_".join([*right.split("_", 2)[:2], keys.draw().secret])
    with hub.client(right) as owner, hub.client(forged) as stranger:
        for _ in range(2):
            assert post(owner, [hook_event(org)])["accepted"] == 1
            assert stranger.post(TELEMETRY, json=[hook_event(org)]).status_code == 401
    assert stored(hub_database, org) == 2


def test_connections_that_the_server_ended_cost_no_batch_of_a_remembered_key(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    with hub.client(make_key(hub_database, org)) as client:
        for _ in range(3):
            assert post(client, [hook_event(org)])["accepted"] == 1
            hub_database.execute(CUT_OFF)
    assert stored(hub_database, org) == 3


def known(key: keys.ApiKey, *scopes: str) -> KnownKey:
    return KnownKey(UUID(int=1), key.digest, list(scopes))


def test_a_key_is_looked_up_again_once_a_minute_which_notes_its_use() -> None:
    now = 1000.0
    remembered, key = RememberedKeys(lambda: now), keys.draw()
    remembered.keep(key.key_id, known(key, "read"), since=now)
    now += REMEMBERED_S - 1
    assert remembered.find(key, ["read"]) == known(key, "read")
    now += 1
    assert remembered.find(key, ["read"]) is None


def test_what_would_be_refused_is_looked_up_again() -> None:
    remembered, key = RememberedKeys(), keys.draw()
    remembered.keep(key.key_id, known(key, "read"), since=float("inf"))
    assert remembered.find(key, ["ingest"]) is None
    assert remembered.find(keys.ApiKey(key.key_id, keys.draw().secret), ["read"]) is None


def test_the_keys_that_are_remembered_are_bounded() -> None:
    remembered, drawn = RememberedKeys(), [keys.draw() for _ in range(2)]
    for number in range(MOST):
        remembered.keep(f"{number:012x}", known(drawn[0], "read"), since=float("inf"))
    for key in drawn:
        remembered.keep(key.key_id, known(key, "read"), since=float("inf"))
    assert remembered.find(keys.ApiKey("0" * 12, drawn[0].secret), ["read"]) is None
    assert all(remembered.find(key, ["read"]) for key in drawn)

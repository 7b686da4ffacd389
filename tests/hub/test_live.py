"""Open pages are kept up to date over a WebSocket: fast, for their own org, by notifications or without, at the cost of one."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import scalar_row
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.connection import Connection
from websockets.typing import Origin

from opskpi.access import keys
from support.hubs import Hub, hook_event, make_key, post, running_hub
from support.patience import PATIENCE_S, eventually
from support.postgres import Database


def cookie_of_session(hub: Hub, key: str) -> str:
    """The cookie of a session."""
    with hub.client() as browser:
        browser.post("/login", data={"key": key})
        return f"opskpi_session={browser.cookies['opskpi_session']}"


@contextmanager
def opened_page(hub: Hub, cookie: str, path: str = "hooks?range=24h", **options: Any) -> Iterator[Connection]:
    """A page's WebSocket, after what it sends at first."""
    url = hub.url.replace("http", "ws")
    # Without pings, because their thread and ours would join the same thread, and Python 3.11 then releases its lock twice.
    with connect(
        f"{url}/live/{path}",
        additional_headers={"Cookie": cookie},
        origin=Origin(hub.url),
        ping_interval=None,
        **options,
    ) as socket:
        first = json.loads(socket.recv(timeout=PATIENCE_S))
        assert "hook-tiles" in first["sections"]
        yield socket


def next_tile(socket: Connection) -> str:
    """The section of the tiles, as soon as one is pushed; what the clock alone changes may come before."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        pushed = json.loads(socket.recv(timeout=max(0.01, deadline - time.monotonic())))
        if "hook-tiles" in pushed["sections"]:
            return pushed["sections"]["hook-tiles"]


def test_an_event_posted_to_the_hub_is_on_the_open_page(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    with (
        opened_page(hub, cookie_of_session(hub, make_key(hub_database, org, "read"))) as socket,
        hub.client(make_key(hub_database, org)) as client,
    ):
        for number in (1, 2):
            post(client, [hook_event(org)])
            assert f"n = {number} " in next_tile(socket)


def test_an_event_posted_to_one_process_is_on_a_page_of_another(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    secret = {"OPSKPI_COOKIE_SECRET": "shared by both and as long as it must be"}
    with (
        running_hub(hub.dsn, folder, env=secret) as one,
        running_hub(hub.dsn, folder, "--workers", "2", env=secret) as other,
        opened_page(one, cookie_of_session(other, make_key(hub_database, org, "read"))) as socket,
        other.client(make_key(hub_database, org)) as client,
    ):
        post(client, [hook_event(org)])
        assert "n = 1 " in next_tile(socket)


def test_where_no_notification_arrives_the_page_is_kept_fresh_by_looking(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    with opened_page(hub, cookie_of_session(hub, make_key(hub_database, org, "read"))) as socket:
        insert_hook(hub_database, org)
        assert "n = 1 " in next_tile(socket)


def test_a_page_that_is_opened_again_is_kept_fresh_as_before(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    with running_hub(hub.dsn, folder) as own:
        cookie = cookie_of_session(own, make_key(hub_database, org, "read"))
        with opened_page(own, cookie):
            pass
        with opened_page(own, cookie) as socket:
            # By looking: nobody tells of a plain insert.
            insert_hook(hub_database, org)
            assert "n = 1 " in next_tile(socket)


def test_an_event_that_commits_after_a_later_one_is_shown(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    with (
        psycopg.connect(hub.dsn) as slow,
        opened_page(hub, cookie_of_session(hub, make_key(hub_database, org, "read"))) as socket,
    ):
        insert_hook(slow, org)
        insert_hook(hub_database, org)
        assert "n = 1 " in next_tile(socket)
        slow.commit()
        assert "n = 2 " in next_tile(socket)


def test_a_page_of_another_hub_is_no_older_than_a_moment(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    secret = {"OPSKPI_COOKIE_SECRET": "shared by both and as long as it must be"}
    with running_hub(hub.dsn, folder, env=secret) as other, other.client(make_key(hub_database, org)) as reader:
        reader.cookies.set(
            "opskpi_session", cookie_of_session(other, make_key(hub_database, org, "read")).partition("=")[2]
        )
        assert "n = 1 " not in reader.get("/hooks?range=24h").text
        with hub.client(make_key(hub_database, org)) as client:
            post(client, [hook_event(org)])
        eventually(lambda: "n = 1 " in reader.get("/hooks?range=24h").text)


def insert_hook(connection: psycopg.Connection, org: UUID) -> None:
    connection.execute(
        "insert into telemetry_events (event_type, org_id, metadata) values ('hook_execution', %s, %s)",
        [org, json.dumps({"hook_type": "pre-commit", "result": "allowed", "duration_ms": 5})],
    )


def test_a_page_hears_nothing_of_another_org(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    other = uuid4()
    with (
        opened_page(hub, cookie_of_session(hub, make_key(hub_database, org, "read"))) as socket,
        hub.client(make_key(hub_database, other)) as client,
    ):
        post(client, [hook_event(other)])
        with pytest.raises(TimeoutError):
            socket.recv(timeout=3)
        with hub.client(make_key(hub_database, org)) as own:
            post(own, [hook_event(org)])
        assert str(other) not in next_tile(socket)


def test_a_revoked_key_is_told_nothing_more(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    key = make_key(hub_database, org, "read")
    with opened_page(hub, cookie_of_session(hub, key)) as socket, hub.client(make_key(hub_database, org)) as client:
        known = keys.parse(key)
        assert known is not None
        assert keys.revoke(hub_database, known.key_id)
        # A moment longer than a look-up may be shared by the pages of one key.
        time.sleep(1.1)
        post(client, [hook_event(org)])
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                assert "n = 1 " not in str(socket.recv(timeout=PATIENCE_S))
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


def test_without_a_session_nothing_is_pushed(hub: Hub) -> None:
    url = hub.url.replace("http", "ws")
    with connect(f"{url}/live/hooks", origin=Origin(hub.url)) as socket, pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


@pytest.mark.parametrize("path", ["hooks?range=bogus", "nowhere"])
def test_a_link_that_is_no_view_is_refused(hub: Hub, hub_database: psycopg.Connection, org: UUID, path: str) -> None:
    cookie = cookie_of_session(hub, make_key(hub_database, org, "read"))
    with pytest.raises((ConnectionClosed, InvalidStatus)), opened_page(hub, cookie, path):
        pass


def test_a_page_of_another_site_gets_no_socket(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    cookie = cookie_of_session(hub, make_key(hub_database, org, "read"))
    url = hub.url.replace("http", "ws")
    with pytest.raises(InvalidStatus) as refused:
        connect(
            f"{url}/live/hooks", additional_headers={"Cookie": cookie}, origin=Origin("https://evil.example")
        ).__enter__()
    assert refused.value.response.status_code == 403


COUNTED: LiteralString = """
  create sequence ops.window_calls;
  grant usage on sequence ops.window_calls to authenticated;
  create schema counted;
  grant usage on schema counted to authenticated;
  alter function ops.kpi_window set schema counted;
  create function ops.kpi_window(
    period text, since timestamptz, until timestamptz, as_of timestamptz, filters jsonb, only_event_type text, org_id uuid
  )
  returns table (
    metric_name text, description text, unit text, measure text, part text, period_start timestamptz, value numeric,
    sample_count bigint
  )
  language plpgsql as $$
  begin
    perform nextval('ops.window_calls');
    return query select * from counted.kpi_window(period, since, until, as_of, filters, only_event_type, org_id);
  end;
  $$;
  grant execute on function ops.kpi_window to authenticated;
"""


def test_ten_open_pages_cost_the_database_no_more_than_one(
    migrated_database: Database, database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    database.execute(COUNTED)
    costs: dict[int, int] = {}
    with running_hub(migrated_database.dsn, folder) as own, own.client(make_key(database, org)) as client:
        cookie = cookie_of_session(own, make_key(database, org, "read"))
        for pages in (1, 10):
            with ExitStack() as stack:
                sockets = [stack.enter_context(opened_page(own, cookie)) for _ in range(pages)]
                before = calls(database)
                for number in range(3):
                    post(client, [hook_event(org)])
                    for socket in sockets:
                        while f"n = {number + 1 + (3 if pages == 10 else 0)} " not in next_tile(socket):
                            pass
                costs[pages] = calls(database) - before
    # An answer is asked for again where the clock moves on in between, which on a busy machine it does for each event.
    assert costs[1] >= 3
    assert costs[10] <= 2 * costs[1] + 1


def calls(database: psycopg.Connection) -> int:
    with database.cursor(row_factory=scalar_row) as cursor:
        return int(cursor.execute("select last_value from ops.window_calls").fetchone() or 0)

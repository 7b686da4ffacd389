"""A stranger who sends much, slowly or nothing keeps nobody else waiting, and is given up."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
import pytest

from support.hubs import TELEMETRY, Hub, hook_event, make_key, post, running_hub
from support.patience import PATIENCE_S

# What the hub promises is 10 s for a head and 30 s for a body.
CHUNK = b"a" * 65536


@contextmanager
def connected(hub: Hub, sent: bytes = b"") -> Iterator[socket.socket]:
    """A connection that has sent something."""
    url = httpx.URL(hub.url)
    with socket.create_connection((url.host, url.port or 80), timeout=PATIENCE_S) as stranger:
        stranger.sendall(sent)
        yield stranger


def head(line: str = "GET /healthz HTTP/1.1", *headers: str) -> bytes:
    """The beginning of a request."""
    return "\r\n".join([line, "Host: hub", *headers, ""]).encode()


def whole_answer(stranger: socket.socket) -> str:
    """All that comes until the connection ends."""
    parts: list[bytes] = []
    try:
        while part := stranger.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts).decode()


def pieces_taken(stranger: socket.socket, piece: bytes, times: int) -> int:
    """How many pieces could be sent until the connection was cut."""
    for number in range(times):
        try:
            stranger.sendall(piece)
        except ConnectionError:
            return number
    return times


@pytest.mark.parametrize(
    ("begun", "piece", "times"),
    [
        (head() + b"X: ", CHUNK, 640),
        (b"GET /", CHUNK, 640),
        (head(), b"X: 1\r\n" * 5000, 1400),
        (b"", b"\r\n" * 30000, 640),
        (b"", b"\x16\x03\x01\xff\x00" * 10000, 640),
    ],
    ids=["a header of 40 MB", "a request line of 40 MB", "7 million headers", "40 MB of empty lines", "no HTTP at all"],
)
def test_a_head_of_any_size_is_cut_off_and_the_hub_goes_on(hub: Hub, begun: bytes, piece: bytes, times: int) -> None:
    with connected(hub, begun) as stranger, hub.client() as other:
        assert pieces_taken(stranger, piece, times) < times
        assert other.get("/healthz").status_code == 200


@pytest.mark.parametrize("size", [20_000, 100_000])
def test_a_head_that_is_too_large_is_refused_even_when_it_comes_at_once(hub: Hub, size: int) -> None:
    with connected(hub, head("GET /healthz HTTP/1.1", f"X: {'a' * size}") + b"\r\n") as stranger:
        assert whole_answer(stranger).startswith(("HTTP/1.1 400", ""))
    with connected(hub, head("GET /healthz HTTP/1.1", f"X: {'a' * 8000}", "Connection: close") + b"\r\n") as caller:
        assert whole_answer(caller).startswith("HTTP/1.1 200")


def test_more_than_a_hundred_headers_are_refused(hub: Hub) -> None:
    with hub.client() as client:
        answered = client.get("/healthz", headers=[(f"x-{number}", "1") for number in range(101)])
    assert answered.status_code == 431
    assert answered.headers["content-type"] == "application/problem+json"


def test_who_goes_on_sending_byte_by_byte_without_a_whole_request_is_given_up(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    batch = (f"POST {TELEMETRY} HTTP/1.1", f"Authorization: Bearer {make_key(hub_database, org)}")
    length = "Content-Length: 1000000"
    strangers = {
        "nothing": b"",
        "half a line": b"GET /healthz HT",
        "half a header": head() + b"X: ",
        "a body that no route takes": head("POST /api/v1/policy HTTP/1.1", length) + b"\r\n",
        "a body that the route leaves unread": head("GET /healthz HTTP/1.1", length) + b"\r\n",
        "a batch": head(*batch, "Content-Type: application/json", length) + b"\r\n[",
        "a form": head("POST /login HTTP/1.1", "Content-Length: 1000") + b"\r\nkey=",
    }
    with ExitStack() as held:
        waiting = {name: held.enter_context(connected(hub, begun)) for name, begun in strangers.items()}
        said = dict.fromkeys(strangers, "")
        deadline = time.monotonic() + PATIENCE_S
        while waiting:
            assert time.monotonic() < deadline, waiting.keys()
            for name, stranger in list(waiting.items()):
                stranger.settimeout(0.05)
                try:
                    if strangers[name]:
                        stranger.send(b"a")
                    part = stranger.recv(4096).decode()
                except TimeoutError:
                    continue
                except ConnectionError:
                    part = ""
                said[name] += part
                if not part:
                    del waiting[name]
    assert "408 Request Timeout" in said["a batch"]
    assert "408 Request Timeout" in said["a form"]


def test_large_bodies_of_strangers_take_a_bounded_share_of_memory_and_small_ones_pass(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    stranger_key = f"opskpi_{'0' * 12}_{'a' * 43}"
    begun = head(
        f"POST {TELEMETRY} HTTP/1.1",
        f"Authorization: Bearer {stranger_key}",
        "Content-Type: application/json",
        f"Content-Length: {1024 * 1024}",
    )
    with running_hub(hub.dsn, folder) as own, ExitStack() as held, own.client(make_key(hub_database, org)) as client:
        strangers = [held.enter_context(connected(own, begun + b"\r\n" + b" " * (1024 * 1024 - 1))) for _ in range(160)]
        assert post(client, [hook_event(org)])["accepted"] == 1
        [refused, *_], _, _ = select.select(strangers, [], [], PATIENCE_S)
        assert "503 Service Unavailable" in whole_answer(refused)
        with open(f"/proc/{own.process.pid}/statm", encoding="ascii") as pages:  # noqa: PTH123
            assert int(pages.read().split()[1]) * 4096 < 512 * 1024 * 1024


def test_two_hundred_connections_that_send_nothing_keep_nobody_waiting(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    with ExitStack() as silent, hub.client(make_key(hub_database, org)) as client:
        for _ in range(200):
            silent.enter_context(connected(hub))
        with hub.client() as other:
            assert other.get("/healthz").status_code == 200
        assert post(client, [hook_event(org)])["accepted"] == 1


def test_above_the_most_connections_the_silent_make_room(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, folder: Path
) -> None:
    key = make_key(hub_database, org)
    with running_hub(hub.dsn, folder, forked=False, files=256) as own, ExitStack() as silent, own.client(key) as client:
        for _ in range(400):
            silent.enter_context(connected(own))
        assert post(client, [hook_event(org)])["accepted"] == 1
        assert client.get("/readyz").status_code == 200


def test_requests_sent_in_one_go_are_answered_in_order(hub: Hub) -> None:
    requests = [head() + b"\r\n"] * 500 + [head("GET /healthz HTTP/1.1", "Connection: close") + b"\r\n"]
    with connected(hub, b"".join(requests)) as caller:
        assert whole_answer(caller).count("HTTP/1.1 200 OK") == 501


def test_who_asks_for_much_and_takes_nothing_is_given_up(hub: Hub) -> None:
    with connected(hub) as stranger, hub.client() as other:
        stranger.settimeout(5)
        request = head("GET /docs HTTP/1.1") + b"\r\n"
        began = time.monotonic()
        while time.monotonic() < began + PATIENCE_S:
            try:
                stranger.sendall(request * 20)
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            raise AssertionError("the hub still holds what nobody takes")
        assert other.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /live/hooks HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_without_a_host_or_with_two_nothing_is_answered(hub: Hub, request_: bytes) -> None:
    with connected(hub, request_) as stranger:
        refused = whole_answer(stranger)
    assert refused.startswith("HTTP/1.1 400"), refused
    assert "application/problem+json" in refused
    assert "x-content-type-options: nosniff" in refused.lower()
    assert "content-security-policy: default-src 'none'" in refused.lower()


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("GET /healthz HTTP/1.1", (), 200),
        ("GET /nowhere HTTP/1.1", (), 404),
        ("TRACE /healthz HTTP/1.1", (), 405),
        ("GET /metrics HTTP/1.1", (), 401),
        ("GET /api/v1/hooks/metrics HTTP/1.1", (), 401),
        ("GET /api/v1/export/events HTTP/1.1", (), 401),
        ("POST /api/v1/telemetry HTTP/1.1", ("Content-Length: 0",), 401),
        ("POST /api/v1/github HTTP/1.1", ("Content-Length: 0",), 404),
        ("GET /docs HTTP/1.1", (), 200),
        ("GET /openapi.json HTTP/1.1", (), 200),
        ("GET / HTTP/1.1", (), 303),
        ("GET /login HTTP/1.1", (), 200),
        ("POST /logout HTTP/1.1", ("Content-Length: 0",), 401),
        ("GET /static/live.js HTTP/1.1", (), 200),
        ("GET /static/nothing HTTP/1.1", (), 404),
        ("GET /healthz HTTP/one", (), 400),
        ("NO HTTP AT ALL", (), 400),
        ("GET /live/hooks HTTP/1.1", ("Upgrade: websocket", "Connection: Upgrade"), 404),
        (
            "GET /live/hooks HTTP/1.1",
            (
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Version: 13",
                f"Sec-WebSocket-Key: {'a' * 22}==",
            ),
            101,
        ),
        (
            "GET /live/hooks HTTP/1.1",
            (
                *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
                *(f"Sec-WebSocket-Key: {'a' * 22}==", "Origin: https://evil.example"),
            ),
            403,
        ),
    ],
)
def test_every_answer_has_a_policy_and_is_what_it_says_it_is(
    hub: Hub, line: str, headers: tuple[str, ...], status: int
) -> None:
    extra = headers if "Upgrade: websocket" in headers else (*headers, "Connection: close")
    with connected(hub, head(line, *extra) + b"\r\n") as caller:
        answered = b""
        while b"\r\n\r\n" not in answered:
            answered += caller.recv(65536)
    said = answered.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
    assert said[0].startswith(f"http/1.1 {status} ")
    assert said.count("x-content-type-options: nosniff") == 1
    [policy] = [line for line in said if line.startswith("content-security-policy: ")]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy

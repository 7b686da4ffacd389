"""Bounds of a connection: how long a head may take, how many connections there are, and what malformed HTTP is told.

h11 bounds the bytes of a head, requires one Host and knows where a request ends. No server in Python measures the time
that a head takes (uvicorn starts its clock after the first answer), so this protocol of uvicorn does.
"""

import json
import re
from asyncio import TimerHandle, Transport
from contextlib import suppress
from http import HTTPStatus
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from opskpi.hub.boundary import HEADERS
from opskpi.hub.problems import MEDIA_TYPE

HEAD_BYTES = 16 * 1024
# From the connection or the last answer until the next head is whole, and until a peer has taken some of an answer.
# uvicorn ends a connection that is idle after an answer in 5 s.
PATIENCE_S = 10
MOST_CONNECTIONS = 4096
# Beside connections: standard streams, the event loop's own, files that are read.
FILES_OF_OURS = 100
WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
MALFORMED = (
    f"the request is not valid HTTP/1.1 with exactly one Host and a head of at most {HEAD_BYTES:,} bytes",
    "Send it again as such.",
)


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 of one connection, ended when the next head is not whole in time.

    Above `most` connections the one that has owed a head for longest makes room, so that a client that asks at once is
    answered, however many connect and send nothing.
    """

    most: ClassVar[int] = MOST_CONNECTIONS
    # Connections that owe a head, the longest waiting first.
    _owing: ClassVar[dict["BoundedProtocol", None]] = {}
    _deadline: TimerHandle | None = None
    _unsent = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head, in the place of another connection if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            next(iter(self._owing), self).transport.abort()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Let h11 measure a head before it has all of it: it takes one of any size that is whole at once."""
        if self._deadline is not None and len(data) > HEAD_BYTES:
            super().data_received(data[: HEAD_BYTES + 1])
            data = data[HEAD_BYTES + 1 :]
            if self.transport.is_closing():
                return
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Begin to wait for the next head."""
        self._expect_head()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Begin to watch whether the peer takes the answer, which waits for it from here on."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Let the answer go on."""
        super().resume_writing()
        if self not in self._owing:
            self._expect_nothing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - as uvicorn has it
        """Answer what h11 refuses as the problem that it is, unless an answer has begun."""
        detail, hint = MALFORMED
        status = HTTPStatus.BAD_REQUEST
        said = {"type": "about:blank", "title": status.phrase, "status": status, "detail": detail, "hint": hint}
        body = json.dumps(said).encode()
        headers = [*HEADERS.items(), ("Content-Type", MEDIA_TYPE), ("Cache-Control", "no-store")]
        headers += [("Content-Length", str(len(body))), ("Connection", "close")]
        with suppress(h11.LocalProtocolError):
            response = h11.Response(status_code=status, headers=headers, reason=status.phrase)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        # A peer that takes no answer is not waited for.
        self._expect_head()

    def _should_upgrade(self) -> bool:
        # uvicorn asks this of each whole head, and of nothing else.
        self._expect_nothing()
        if self.flow.write_paused:
            self._watch()
        return self._is_handshake() and super()._should_upgrade()

    def _is_handshake(self) -> bool:
        """Whether the head opens a WebSocket; any other upgrade is answered as HTTP, with every header."""
        named: dict[bytes, bytes] = dict(self.headers)
        key, version = named.get(b"sec-websocket-key", b""), named.get(b"sec-websocket-version")
        return self.scope["method"] == "GET" and version == b"13" and WEBSOCKET_KEY.fullmatch(key) is not None

    def _expect_head(self) -> None:
        self._watch()
        self._owing[self] = None

    def _watch(self) -> None:
        self._expect_nothing()
        self._unsent = self.transport.get_write_buffer_size()
        self._deadline = self.loop.call_later(PATIENCE_S, self._give_up)

    def _expect_nothing(self) -> None:
        self._owing.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        # A peer that is still taking the last answer has time as long as it takes some of it.
        if 0 < self.transport.get_write_buffer_size() < self._unsent:
            self._watch()
        else:
            self.transport.abort()


def bounds(connections: int) -> dict[str, Any]:
    """What uvicorn is to be told, with so many connections to the database beside those of the callers."""
    BoundedProtocol.most = max(1, min(BoundedProtocol.most, _files() - 2 * connections - FILES_OF_OURS))
    return {"http": BoundedProtocol, "h11_max_incomplete_event_size": HEAD_BYTES}


def _files() -> int:
    """How many files this process may open, after it has asked for as many as it may ask for."""
    try:
        import resource  # noqa: PLC0415 - absent on Windows
    except ImportError:
        return 2 * MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > 2 * MOST_CONNECTIONS:
        hard = 2 * MOST_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            soft = hard
    return 2 * MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else soft

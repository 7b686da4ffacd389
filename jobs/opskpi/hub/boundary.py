"""Rules for every request and answer, whichever part of the hub gives it: one Host, few headers, a policy."""

from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opskpi.hub.problems import Problem, render

MOST_HEADERS = 100
# An answer other than a page needs nothing; another site may not frame it, nor a browser guess its type.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

ENCODED = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Boundary:
    """The app within its bounds. A header of these that an answer sets itself stays as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it before the app sees it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        fault = _fault(scope["headers"])
        answer = self._app if fault is None else render(scope["path"], fault)
        sending = _Refusing(scope["path"], send) if scope["type"] == "websocket" else _with_headers(send)
        await answer(scope, receive, sending)


def _fault(headers: list[tuple[bytes, bytes]]) -> Problem | None:
    """Why no request with these headers is answered, None when it is."""
    if len(headers) > MOST_HEADERS:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return Problem(status, f"the request has more than {MOST_HEADERS} headers", headers={"Connection": "close"})
    # h11 refuses it for HTTP/1.1; which of two is meant, or what an older client asks for, is not guessed.
    if sum(name == b"host" for name, _ in headers) != 1:
        return Problem(HTTPStatus.BAD_REQUEST, "the request must have one Host header", headers={"Connection": "close"})
    return None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            _add(message)
        await send(message)

    return sending


class _Refusing:
    """Sends what a WebSocket sends; a close before it was accepted is a problem as of any request."""

    def __init__(self, path: str, send: Send) -> None:
        self._path = path
        self._send = send
        self._is_open = False

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.close" and not self._is_open:
            refusal = render(self._path, Problem(HTTPStatus.FORBIDDEN, "the hub opens no WebSocket here for this page"))
            start = {"type": "websocket.http.response.start", "status": refusal.status_code}
            await self(start | {"headers": refusal.raw_headers})
            await self({"type": "websocket.http.response.body", "body": bytes(refusal.body)})
            return
        if kind in {"websocket.accept", "websocket.http.response.start"}:
            self._is_open = True
            _add(message)
        await self._send(message)


def _add(message: Message) -> None:
    headers = list(message.get("headers", ()))
    said = {name for name, _ in headers}
    message["headers"] = headers + [header for header in ENCODED if header[0] not in said]

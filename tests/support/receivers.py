"""Servers on this machine that take what opskpi sends: HTTP and SMTP, with and without TLS."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from .patience import PATIENCE_S
from .postgres import free_port

TOKEN = "T0KENsecret"  # noqa: S105


@dataclass
class HttpTarget:
    """A local HTTP server that answers as told and remembers what it got."""

    url: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answering: threading.Event = field(default_factory=threading.Event)


@dataclass
class Inbox:
    """What a local SMTP server took, and the replies it gives instead of taking it."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    replies: dict[str, str] = field(default_factory=dict)

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.replies:
            return self.replies[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        if "DATA" in self.replies:
            return self.replies["DATA"]
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"


@contextmanager
def http_target(tls: ssl.SSLContext | None = None) -> Iterator[HttpTarget]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            target.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
            target.answering.wait(timeout=PATIENCE_S)
            self.send_response(target.status)
            for name, value in target.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "https" if tls else "http"
    target = HttpTarget(f"{scheme}://127.0.0.1:{server.server_port}/services/{TOKEN}?key={TOKEN}")
    target.answering.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield target
    finally:
        target.answering.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def smtp_server(
    *, tls: ssl.SSLContext | None = None, login: Callable[..., AuthResult] | None = None
) -> Iterator[Inbox]:
    inbox = Inbox(port=free_port())
    controller = Controller(
        inbox,
        hostname="127.0.0.1",
        port=inbox.port,
        tls_context=tls,
        require_starttls=tls is not None,
        authenticator=login,
        auth_required=login is not None,
        loop=None,
    )
    controller.start()
    try:
        yield inbox
    finally:
        controller.stop()


def slack_texts(payload: Any) -> list[str]:
    """Return the texts of the blocks of a message to Slack."""
    return [block["text"]["text"] for block in payload["blocks"]]

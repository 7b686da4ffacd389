"""A delivery, what can become of it, and what every channel needs: secrets, trust, reasons without secrets."""

import base64
import os
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from http import HTTPStatus
from urllib.parse import quote
from uuid import UUID

import certifi

from opskpi.alerting import wording
from opskpi.alerting.messages import Message

REASON_LIMIT = 300


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of `ops.claim_deliveries`; `attempt` counts from 1, `secret_env` names an environment variable."""

    delivery_id: int
    attempt: int
    org_id: UUID
    channel_name: str
    channel_kind: str
    secret_env: str | None
    settings: Mapping[str, object] | None
    group_key: str
    created_at: datetime
    message: Message

    @property
    def stable_id(self) -> str:
        """What receivers deduplicate by: the same for each attempt, another for a delivery of another database."""
        return f"opskpi-{self.delivery_id}-{self.created_at.astimezone(UTC):%Y%m%dT%H%M%S%f}"

    def setting(self, name: str) -> object:
        """A setting of the channel; None when it is not set."""
        return self.settings.get(name) if isinstance(self.settings, Mapping) else None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds: `connect` for an HTTP connection, `total` for a whole HTTP request or one step of SMTP."""

    connect: float = 5
    total: float = 10


@dataclass(frozen=True, slots=True)
class Sent:
    """The channel took the message; `note` says what is odd about it."""

    note: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """The message may go through later, `after` at the earliest.

    `channel_wide` says that the channel as a whole takes nothing now, whatever the message.
    """

    after: timedelta | None
    reason: str
    channel_wide: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The message will never go through as it is."""

    reason: str


Outcome = Sent | Retry | Refused


class Misconfigured(Exception):  # noqa: N818
    """The environment of the jobs does not hold what the channel needs; its text carries no secret."""


def secret(environ: Mapping[str, str], name: object) -> str:
    """The value of an environment variable. Raises Misconfigured when it is not set or empty."""
    variable = wording.line(name, 100)
    if variable is None:
        raise Misconfigured("the channel names no environment variable that holds its secret")
    value = environ.get(variable, "").strip()
    if not value:
        raise Misconfigured(f"environment variable {variable} is not set")
    return value


def scrub(text: str, secrets: Iterable[str]) -> str:
    """One line of the text in which no secret is left, whichever way a protocol encodes it."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode(errors="replace")).decode("ascii")):
            text = text.replace(form, "***")
    return wording.line(text, REASON_LIMIT) or "no reason given"


def by_status(status: int, after: timedelta | None) -> Outcome:
    """What an HTTP status means: 2xx is sent; 408, 425, 429 and 5xx are worth a retry; all else is refused."""
    if 200 <= status < 300:
        return Sent()
    try:
        answer = f"answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        answer = f"answered {status}"
    if status in {408, 425, 429} or status >= 500:
        return Retry(after, answer, channel_wide=status in {429, 503})
    return Refused(f"{answer}; redirects are not followed" if 300 <= status < 400 else answer)


def by_network(error: BaseException) -> Retry:
    """What a failed connection means, in words of the operating system or of TLS, which name no address."""
    reason = f"no connection: {type(error).__name__}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            reason = "no answer in time"
        elif isinstance(cause, ssl.SSLCertVerificationError):
            # What follows the comma is the host.
            reason = f"its certificate is not trusted: {cause.verify_message.partition(',')[0]}"
        elif isinstance(cause, OSError) and cause.strerror:
            # The loop of asyncio writes the address into the text of its own errors; those of DNS and TLS name none.
            known = None if isinstance(cause, ssl.SSLError | socket.gaierror) else cause.errno
            reason = f"no connection: {os.strerror(known) if known else cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    return Retry(None, reason, channel_wide=True)


def trusted(environ: Mapping[str, str]) -> ssl.SSLContext:
    """TLS that trusts SSL_CERT_FILE and SSL_CERT_DIR, else the roots of the system and of certifi."""
    try:
        return _context(environ.get("SSL_CERT_FILE") or None, environ.get("SSL_CERT_DIR") or None)
    except OSError:
        raise Misconfigured("the file that SSL_CERT_FILE names cannot be read as certificates") from None


@cache  # reading the roots takes as long as a request
def _context(file: str | None, folder: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=file, capath=folder)
    if file is None and folder is None:
        context.load_verify_locations(certifi.where())
    return context

"""One HTTP exchange within one deadline, and what its end means in words that name no address."""

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx

from opskpi.outbound.secrets import Misconfigured

LONGEST_WAIT = timedelta(days=1)
# What an exchange raises when no whole answer came, besides ValueError for what cannot be sent at all.
FAILURES = (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError)
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds: `connect` for an HTTP connection, `total` for a whole HTTP request or one step of SMTP."""

    connect: float = 5
    total: float = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: its status, its headers, and as much of its body as was asked for, as it came."""

    status: int
    headers: httpx.Headers
    body: bytes


def http_url(address: str, *, unreadable: str, unusable: str) -> httpx.URL:
    """The URL that an address is. Raises Misconfigured with one of the two texts, which do not quote the address."""
    try:
        url = httpx.URL(urlsplit(address).geturl())
    except (httpx.InvalidURL, ValueError):
        raise Misconfigured(unreadable) from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise Misconfigured(unusable)
    return url


async def exchange(
    method: str,
    url: httpx.URL,
    *,
    headers: Mapping[str, str],
    content: bytes | None,
    timeouts: Timeouts,
    verify: ssl.SSLContext | bool,
    longest_answer: int = 0,
) -> Answer:
    """Name look-up, connection and the whole answer within one deadline; only a coroutine can be limited as a whole.

    Redirects are not followed. The body is read until it is longer than `longest_answer` bytes; with 0 it is not read.
    """
    limits = httpx.Timeout(timeouts.total, connect=timeouts.connect)
    async with (
        asyncio.timeout(timeouts.total),
        httpx.AsyncClient(timeout=limits, verify=verify, follow_redirects=False) as client,
        client.stream(method, url, content=content, headers=headers) as response,
    ):
        received = bytearray()
        if longest_answer:
            async for piece in response.aiter_raw():
                received += piece
                if len(received) > longest_answer:
                    break
        return Answer(response.status_code, response.headers, bytes(received))


def retry_after(header: str | None, now: datetime) -> timedelta | None:
    """The wait that a Retry-After header asks for, in seconds or as HTTP date, at least 0 and at most a day."""
    value = (header or "").strip()
    if value.isascii() and value.isdigit():
        return timedelta(seconds=int(value)) if len(value) < 6 else LONGEST_WAIT
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    wait = until.replace(tzinfo=until.tzinfo or UTC) - now
    return min(max(wait, timedelta()), LONGEST_WAIT)


def phrase(status: int) -> str:
    """A status with its name where it has one: 404 Not Found."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def may_pass(status: int) -> bool:
    """Whether the same request may succeed later: 408, 425, 429 and 5xx."""
    return status in _PASSING or status >= 500


def reason_of(error: Exception) -> str:
    """Why an exchange failed; the texts of other errors may quote the URL, so only their kind is named."""
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "no answer in time"
    if isinstance(error, httpx.TransportError | OSError):
        return network_reason(error)
    return f"the request failed: {type(error).__name__}"


def network_reason(error: BaseException) -> str:
    """What a failed connection means, in words of the operating system or of TLS."""
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
    return reason

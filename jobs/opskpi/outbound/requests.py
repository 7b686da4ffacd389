"""One HTTP exchange within one deadline, and what its end means in words that name no address."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from opskpi.outbound.limits import Timeouts
from opskpi.outbound.reasons import network_reason
from opskpi.outbound.secrets import Misconfigured

# What an exchange raises when no whole answer came, besides ValueError for what cannot be sent at all.
FAILURES = (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError)


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


def reason_of(error: Exception) -> str:
    """Why an exchange failed; the texts of other errors may quote the URL, so only their kind is named."""
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "no answer in time"
    if isinstance(error, httpx.TransportError | OSError):
        return network_reason(error)
    return f"the request failed: {type(error).__name__}"

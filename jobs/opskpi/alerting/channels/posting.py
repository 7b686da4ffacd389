"""One HTTP request for a message, and what its answer means."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx

from opskpi.alerting.outcomes import (
    Delivery,
    Misconfigured,
    Outcome,
    Retry,
    Timeouts,
    by_network,
    by_status,
    secret,
    trusted,
)

LONGEST_WAIT = timedelta(days=1)


def post(
    delivery: Delivery, environ: Mapping[str, str], timeouts: Timeouts, body: bytes, headers: Mapping[str, str]
) -> Outcome:
    """Post a body as JSON to the address that `secret_env` names."""
    address = secret(environ, delivery.secret_env)
    malformed = f"environment variable {delivery.secret_env} holds no http or https URL"
    try:
        url = httpx.URL(urlsplit(address).geturl())
    except (httpx.InvalidURL, ValueError):
        raise Misconfigured(malformed) from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise Misconfigured(malformed)
    try:
        return asyncio.run(_exchange(url, body, headers, environ, timeouts))
    except (httpx.TimeoutException, TimeoutError):
        return Retry(None, "no answer in time", channel_wide=True)
    except (httpx.TransportError, OSError) as error:
        return by_network(error)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        # Their texts may quote the URL.
        return Retry(None, f"the request failed: {type(error).__name__}")


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


async def _exchange(
    url: httpx.URL, body: bytes, headers: Mapping[str, str], environ: Mapping[str, str], timeouts: Timeouts
) -> Outcome:
    """One request; its answer's body is not read, only a coroutine can be limited as a whole."""
    limits = httpx.Timeout(timeouts.total, connect=timeouts.connect)
    sent = {"content-type": "application/json", "user-agent": "opskpi", **headers}
    async with (
        asyncio.timeout(timeouts.total),
        httpx.AsyncClient(timeout=limits, verify=trusted(environ), follow_redirects=False) as client,
        client.stream("POST", url, content=body, headers=sent) as response,
    ):
        now = _date(response.headers.get("date")) or datetime.now(UTC)
        return by_status(response.status_code, retry_after(response.headers.get("retry-after"), now))


def _date(header: str | None) -> datetime | None:
    """The sender's clock: a date in Retry-After is meant by it, not by ours."""
    try:
        moment = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC)

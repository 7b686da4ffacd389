"""One HTTP request for a message, and what its answer means."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from opskpi.alerting.outcomes import Delivery, Outcome, Retry, by_status
from opskpi.outbound.limits import Timeouts, retry_after
from opskpi.outbound.requests import FAILURES, exchange, http_url, reason_of
from opskpi.outbound.secrets import secret
from opskpi.outbound.tls import trusted

# No connection came about, so the message has nothing to do with it: refused, unknown name, untrusted certificate.
_BEFORE_THE_MESSAGE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


def post(
    delivery: Delivery, environ: Mapping[str, str], timeouts: Timeouts, body: bytes, headers: Mapping[str, str]
) -> Outcome:
    """Post a body as JSON to the address that `secret_env` names; the body of the answer is not read."""
    malformed = f"environment variable {delivery.secret_env} holds no http or https URL"
    url = http_url(secret(environ, delivery.secret_env), unreadable=malformed, unusable=malformed)
    sent = {"content-type": "application/json", "user-agent": "opskpi", **headers}
    request = exchange("POST", url, headers=sent, content=body, timeouts=timeouts, verify=trusted(environ))
    try:
        answer = asyncio.run(request)
    except FAILURES as error:
        return Retry(None, reason_of(error), "channel" if isinstance(error, _BEFORE_THE_MESSAGE) else "unclear")
    now = _date(answer.headers.get("date")) or datetime.now(UTC)
    return by_status(answer.status, retry_after(answer.headers.get("retry-after"), now))


def _date(header: str | None) -> datetime | None:
    """The sender's clock: a date in Retry-After is meant by it, not by ours."""
    try:
        moment = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC)

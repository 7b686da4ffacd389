"""Requests to a target: the hub over HTTP, Supabase through its own library. Each has one deadline and one outcome."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from opskpi.hooks import events, plain_json
from opskpi.hooks.targets import Answered, Event, NotReady, Reply, Target, Unreachable, body
from opskpi.outbound.limits import Timeouts, retry_after
from opskpi.outbound.requests import FAILURES, exchange, http_url, reason_of
from opskpi.outbound.secrets import Misconfigured
from opskpi.outbound.tls import trusted

DEADLINE_S = 5.0
LONGEST_ANSWER = 1 << 20


def send(loop: asyncio.AbstractEventLoop, target: Target, batch: Sequence[Event]) -> Reply:
    """Deliver a batch."""
    if target.kind == "hub":
        headers = {"content-type": "application/json"}
        return _over_http(loop, target, "POST", target.ingest_url(), headers=headers, content=body(target, batch))
    sent = [events.payload(event, target.org) for event in batch]
    return _over_supabase(loop, target, "ingest_events", {"events": sent})


def fetch_policy(loop: asyncio.AbstractEventLoop, target: Target, etag: str | None) -> Reply:
    """Ask for the policy; 304 when it is still the one with this ETag."""
    if target.kind == "hub":
        headers = {"if-none-match": etag} if etag else {}
        return _over_http(loop, target, "GET", target.policy_url(), headers=headers)
    return _over_supabase(loop, target, "current_policy", {})


def _over_http(
    loop: asyncio.AbstractEventLoop,
    target: Target,
    method: str,
    address: str,
    *,
    headers: dict[str, str],
    content: bytes | None = None,
) -> Reply:
    try:
        url = _url(address)
        sent = {
            "authorization": f"Bearer {target.key()}",
            "user-agent": "opskpi",
            "accept": "application/json",
            # An answer that is never compressed cannot grow beyond what was read.
            "accept-encoding": "identity",
            **headers,
        }
        exchange = _exchange(method, url, sent, content)
    except Misconfigured as error:
        return NotReady(str(error))
    return _within_deadline(loop, exchange)


def _url(address: str) -> httpx.URL:
    return http_url(
        address,
        unreadable="the address in the settings cannot be read",
        unusable="the address in the settings is no http or https URL",
    )


def _within_deadline(loop: asyncio.AbstractEventLoop, request: Coroutine[Any, Any, Reply]) -> Reply:
    try:
        return loop.run_until_complete(request)
    except (*FAILURES, ValueError) as error:
        return Unreachable(reason_of(error))
    except Misconfigured as error:
        return NotReady(str(error))


async def _exchange(method: str, url: httpx.URL, headers: dict[str, str], content: bytes | None) -> Answered:
    # Reading the roots takes longer than a request that needs none.
    verify = trusted(os.environ) if url.scheme == "https" else False
    answer = await exchange(
        method,
        url,
        headers=headers,
        content=content,
        timeouts=Timeouts(DEADLINE_S, DEADLINE_S),
        verify=verify,
        longest_answer=LONGEST_ANSWER,
    )
    return _answered(answer.status, answer.headers, answer.body)


def _answered(status: int, headers: httpx.Headers, body: bytes) -> Answered:
    after = retry_after(headers.get("retry-after"), datetime.now(UTC))
    return Answered(status, after, headers.get("etag"), body, _date(headers))


def _date(headers: httpx.Headers) -> float | None:
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return None


def _over_supabase(
    loop: asyncio.AbstractEventLoop, target: Target, function: str, arguments: dict[str, object]
) -> Reply:
    """Call a function through the library, in a thread that may outlive the deadline; the caller ends the process."""
    try:
        key, url = target.key(), _url(target.url)
        call = _supabase_call(str(url), key, function, arguments)
    except Misconfigured as error:
        return NotReady(str(error))

    async def limited() -> Reply:
        return await asyncio.wait_for(loop.run_in_executor(None, call), DEADLINE_S)

    return _within_deadline(loop, limited())


def _supabase_call(url: str, key: str, function: str, arguments: dict[str, object]) -> Callable[[], Reply]:
    try:
        import supabase  # noqa: PLC0415 - a second of work, and an extra
        from postgrest.exceptions import APIError  # noqa: PLC0415
        from supabase import ClientOptions  # noqa: PLC0415
    except ImportError:
        raise Misconfigured("the library supabase is missing: pip install 'opskpi[supabase]'") from None
    seen: list[httpx.Response] = []
    # The library's own client follows redirects, and its errors name neither status nor headers.
    http = httpx.Client(timeout=DEADLINE_S, follow_redirects=False, event_hooks={"response": [seen.append]})
    try:
        client = supabase.create_client(url, key, ClientOptions(httpx_client=http))
    except supabase.SupabaseException as error:
        raise Misconfigured(f"supabase does not take the address or the key: {error}") from None

    def call() -> Reply:
        try:
            answer = client.rpc(function, arguments).execute()
            date = _date(seen[-1].headers) if seen else None
            return Answered(200, None, None, plain_json.dumps(answer.data).encode("ascii"), date)
        except APIError as error:
            if not seen:
                raise ValueError(error.code) from None
            refusal = {"title": error.message, "detail": error.details or error.message}
            answered = _answered(seen[-1].status_code, seen[-1].headers, b"")
            return Answered(answered.status, answered.after, None, plain_json.dumps(refusal).encode("ascii"))

    return call

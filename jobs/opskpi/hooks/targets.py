"""Where events go: the hub over HTTP, or Supabase through its own library. One request, one deadline, one outcome."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from opskpi.hooks import events, key_file, plain_json
from opskpi.outbound.limits import Timeouts, retry_after
from opskpi.outbound.requests import FAILURES, exchange, http_url, reason_of
from opskpi.outbound.secrets import Misconfigured
from opskpi.outbound.tls import trusted

DEADLINE_S = 5.0
LONGEST_ANSWER = 1 << 20
KEY_VARIABLE = "OPSKPI_API_KEY"

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answered:
    """An HTTP answer: its status, the wait it asks for (None: none), its ETag and its body.

    `date` is the clock of the other side, in seconds since 1970; None where the answer does not say.
    """

    status: int
    after: timedelta | None
    etag: str | None
    body: bytes
    date: float | None = None


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No answer within the deadline; why, in words that name no address."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotReady:
    """Something on this side is missing: a key, the library, a readable address. Nothing was sent."""

    reason: str


Reply = Answered | Unreachable | NotReady


@dataclass(frozen=True, slots=True)
class Target:
    """What `hook install` was told: `kind` is "hub" or "supabase", `key_file` the file with its key, or None.

    `org` is the org of the events that were recorded before one was named; None where none is.
    """

    kind: str
    url: str
    key_file: str | None
    org: str | None = None

    def key(self) -> str:
        """The API key: from OPSKPI_API_KEY, else the first line of the key file. Raises Misconfigured."""
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key and self.key_file:
            key = key_file.read(self.key_file)
        if not key:
            raise Misconfigured(f"there is no API key: set {KEY_VARIABLE}, or name a file with --key-file")
        if not key.isascii() or not key.isprintable():
            raise Misconfigured("the API key holds characters that no key has")
        return key

    def ingest_url(self) -> str:
        """Where batches are posted."""
        return self.url.rstrip("/") + ("/api/v1/telemetry" if self.kind == "hub" else "/rest/v1/rpc/ingest_events")

    def policy_url(self) -> str:
        """Where the policy is asked for."""
        return self.url.rstrip("/") + ("/api/v1/policy" if self.kind == "hub" else "/rest/v1/rpc/current_policy")


def of(settings: dict[str, object]) -> Target | None:
    """The target that the settings name; None when they name none."""
    kind, url, key_file = settings.get("target"), settings.get("url"), settings.get("key_file")
    if kind not in {"hub", "supabase"} or not isinstance(kind, str) or not isinstance(url, str):
        return None
    return Target(kind, url, key_file if isinstance(key_file, str) else None, org_of(settings))


def org_of(settings: dict[str, object]) -> str | None:
    """The org that the settings name; None when they name none."""
    org = settings.get("org_id")
    return org if isinstance(org, str) and events.is_uuid(org) else None


def body(target: Target, batch: Sequence[Event]) -> bytes:
    """Exactly what a request with these events of the queue carries."""
    sent = [events.payload(event, target.org) for event in batch]
    return plain_json.dumps(sent if target.kind == "hub" else {"events": sent}).encode("ascii")


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
            # What is never compressed cannot grow beyond what was read.
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

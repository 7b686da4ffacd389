"""GitHub's REST API: one host, a token that leaves it never, rate limits honoured, failures tried again."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import httpx

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github.access import base_url_of, token_of
from opskpi.github.answers import NotJson, document_of, refuse
from opskpi.github.events import Event, site_of
from opskpi.outbound.reasons import phrase
from opskpi.outbound.secrets import Misconfigured, scrub
from opskpi.outbound.tls import trusted

API_VERSION = "2022-11-28"
ATTEMPTS = 4
FIRST_PAUSE_S = 1.0
LONGEST_WAIT_S = 60
# Where GitHub limits without saying for how long, it asks for a minute.
UNSAID_WAIT_S = 60
REDIRECTS = 5
LARGEST_ANSWER = 32 << 20
REQUEST_S = 60
TIMEOUT = httpx.Timeout(30, connect=10)
LONGEST_TAG = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of 200, or of 304 (`is_unchanged`). `following` is the URL of the next page, if there is one."""

    document: Any
    entity_tag: str | None
    following: str | None
    is_unchanged: bool = False


class _Passing(Exception):  # noqa: N818
    """A failure that may be over the next time; its text says which."""


class GitHub:
    """The API at one base URL. `requests` are the api_request events of the requests made and not yet taken.

    `sleep` waits so many seconds, `now` is the clock that rate limits are compared with.
    """

    def __init__(
        self,
        base_url: str,
        environ: Mapping[str, str],
        *,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._base = base_url_of(base_url)
        self.token = token_of(environ)
        self.host = site_of(str(self._base))
        self.requests: list[Event] = []
        self._sleep = sleep
        self._now = now
        try:
            context = trusted(environ)
        except Misconfigured as error:
            raise OpsKpiError(str(error), "Correct SSL_CERT_FILE.", ExitCode.CONFIGURATION) from error
        # On this machine no proxy is asked, which would see the token in clear.
        proxies = self._base.scheme == "https"
        self._client = httpx.Client(timeout=TIMEOUT, verify=context, follow_redirects=False, trust_env=proxies)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def take_requests(self) -> list[Event]:
        """The events of the requests made since the last call."""
        taken, self.requests = self.requests, []
        return taken

    def get(self, path: str, endpoint: str, *, entity_tag: str | None = None) -> Answer:
        """The JSON at `path` (or at a full URL of this host, as `following` is); `endpoint` is its template.

        A short rate limit is waited for; lost connections, answers of 5xx and cut ones are tried again. Raises Gone,
        and OpsKpiError: TRY_LATER for a longer rate limit and for failures that last, CONFIGURATION when the token is
        refused, FAILED for a redirect to another host and for what the API never answers. No text holds the token.
        """
        for attempt in range(ATTEMPTS):
            try:
                return self._get(path, endpoint, entity_tag)
            except _Passing as failure:
                if attempt == ATTEMPTS - 1:
                    raise OpsKpiError(
                        f"{self.host}: {failure} ({ATTEMPTS} times)", "Run it again later.", ExitCode.TRY_LATER
                    ) from failure
                self._sleep(FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError("unreachable")

    def _get(self, path: str, endpoint: str, entity_tag: str | None) -> Answer:
        url = self._url(path)
        for _ in range(REDIRECTS):
            response, body = self._send(url, endpoint, entity_tag)
            if response.status_code != HTTPStatus.NOT_MODIFIED and response.is_redirect:
                url = self._url(response.headers.get("location", ""), base=url)
            elif wait := self._limited(response, body):
                self._wait(wait)
            else:
                return self._answer(response, body)
        raise OpsKpiError(
            f"{self.host} sends in circles or limits again and again",
            f"Run it again later, with a token of its own in {self.token.variable}; check --api-url.",
            ExitCode.TRY_LATER,
        )

    def _send(self, url: httpx.URL, endpoint: str, entity_tag: str | None) -> tuple[httpx.Response, bytes]:
        """One request, recorded whatever becomes of it."""
        headers = {"accept": "application/vnd.github+json", "x-github-api-version": API_VERSION, "user-agent": "opskpi"}
        if self.token.value:
            headers["authorization"] = f"Bearer {self.token.value}"
        if entity_tag:
            headers["if-none-match"] = entity_tag
        moment, began, status, is_whole = self._now(), time.monotonic(), 0, False
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                status = response.status_code
                body = self._body(response, began + REQUEST_S)
                is_whole = True
                return response, body
        except httpx.ProxyError:
            raise _Passing("the proxy of HTTPS_PROXY refused the connection") from None
        except httpx.RemoteProtocolError:
            raise _Passing("the answer was cut short or is malformed") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            # The text of a network error may name what was sent.
            raise _Passing(f"the request failed: {type(error).__name__}") from None
        finally:
            seconds, succeeded = time.monotonic() - began, is_whole and status < 400
            payload = {"outcome": "success" if succeeded else "failure", "endpoint": endpoint, "host": self.host}
            self.requests.append(_request_event(moment, seconds, payload | ({"status": status} if status else {})))

    def _body(self, response: httpx.Response, until: float) -> bytes:
        chunks: list[bytes] = []
        size = 0
        for chunk in response.iter_bytes():
            chunks.append(chunk)
            size += len(chunk)
            if size > LARGEST_ANSWER:
                raise OpsKpiError(f"{self.host} answers with more than {LARGEST_ANSWER >> 20} MiB", "Check --api-url.")
            if time.monotonic() > until:
                raise _Passing(f"the answer did not end within {REQUEST_S} s")
        return b"".join(chunks)

    def _answer(self, response: httpx.Response, body: bytes) -> Answer:
        status = response.status_code
        if status == HTTPStatus.NOT_MODIFIED:
            return Answer(None, None, None, is_unchanged=True)
        if status >= 500 or status == HTTPStatus.REQUEST_TIMEOUT:
            raise _Passing(f"answered {phrase(status)}")
        if status != HTTPStatus.OK:
            refuse(response, body, self.token, self.host)
        try:
            document = document_of(response, body, self.token, self.host)
        except NotJson as fault:
            raise _Passing(str(fault)) from None
        tag = response.headers.get("etag", "")
        following = response.links.get("next", {}).get("url")
        return Answer(
            document,
            tag if self._is_usable(tag) else None,
            str(self._url(following, base=response.request.url)) if following else None,
        )

    def _is_usable(self, tag: str) -> bool:
        """Whether an ETag can be kept and sent again."""
        is_echo = bool(self.token.value) and self.token.value in tag
        return not is_echo and tag.isascii() and tag.isprintable() and 0 < len(tag) <= LONGEST_TAG

    def _limited(self, response: httpx.Response, body: bytes) -> float:
        """The seconds for which a rate limit holds; 0 when this is none. https://docs.github.com/en/rest/rate-limit"""
        if response.status_code not in {HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS}:
            return 0
        after, reset = _digits(response.headers.get("retry-after")), _digits(response.headers.get("x-ratelimit-reset"))
        if after is not None:
            return max(after, 1)
        if reset is not None and _digits(response.headers.get("x-ratelimit-remaining")) in {0, None}:
            # A second more: the clocks are two.
            return max(reset - self._now().timestamp() + 1, 1)
        is_limit = response.status_code == HTTPStatus.TOO_MANY_REQUESTS or b"rate limit" in body[:1000].lower()
        return UNSAID_WAIT_S if is_limit else 0

    def _wait(self, wait: float) -> None:
        if wait > LONGEST_WAIT_S:
            seconds = min(self._now().timestamp() + wait, datetime(2200, 1, 1, tzinfo=UTC).timestamp())
            until = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            way = "with a token of its own in" if self.token.value else "put a token, which has a higher one, into"
            raise OpsKpiError(
                f"{self.host}: the rate limit is used up until {until}",
                f"Run it again then, or {way} {self.token.variable}.",
                ExitCode.TRY_LATER,
            )
        self._sleep(wait)

    def _url(self, path: str, *, base: httpx.URL | None = None) -> httpx.URL:
        """The URL of a path under the base, or of a reference in an answer. Raises OpsKpiError for another host."""
        try:
            url = base.join(path) if base else httpx.URL(f"{self._base}{path}" if path.startswith("/") else path)
        except (httpx.InvalidURL, ValueError):
            raise OpsKpiError(f"{self.host} points to something that is no URL", "Check --api-url.") from None
        if (url.scheme, url.host, url.port, url.userinfo) != (self._base.scheme, self._base.host, self._base.port, b""):
            raise OpsKpiError(
                f"{self._base.host} points to another host, {scrub(url.host, [self.token.value])}: not followed",
                "The token goes to no other host. Pass it as --api-url if the API is there; sign in if a login is.",
            )
        return url


def _digits(header: str | None) -> int | None:
    value = (header or "").strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) < 12 else None


def _request_event(moment: datetime, seconds: float, payload: Event) -> Event:
    timed = payload | {"duration_ms": round(seconds * 1000, 3)}
    return {"event_type": "api_request", "event_timestamp": moment.isoformat(), "payload": timed}

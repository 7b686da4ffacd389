"""Who looks at the pages: a signed cookie stands for an API key or a Supabase token that was shown at the login."""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import jwt
import psycopg
from itsdangerous import BadSignature, URLSafeTimedSerializer
from jwt.types import Options
from starlette.requests import HTTPConnection
from starlette.responses import Response

from opskpi.access import keys
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.hub.database import Caller, Database
from opskpi.hub.problems import Problem
from opskpi.orgs import NIL_ORG

COOKIE = "opskpi_session"
SESSION_S = 12 * 3600
FAILURES = 10
FAILURES_S = 300
LONGEST_KEPT_S = 10
# NIST SP 800-131A allows no shorter one.
SHORTEST_RSA_BITS = 2048
# As a Supabase token without app_metadata.scopes, in ops.caller_may.
DEFAULT_SCOPES = ("ingest", "read")
ASYMMETRIC = ["ES256", "RS256", "EdDSA"]


@dataclass(frozen=True, slots=True)
class Session:
    """A reader who is known: on whose behalf the database is asked, and the token that forms must bring back."""

    caller: Caller
    form_token: str
    can_leave: bool
    digest: bytes = b""

    @property
    def reader(self) -> Mapping[str, Any]:
        """What the pages say of the reader."""
        return {
            "name": f"org {self.caller.org_id}" if self.caller.org_id != NIL_ORG else "single tenant",
            "token": self.form_token,
            "can_leave": self.can_leave,
            "may_silence": "admin" in self.caller.scopes,
        }


class Tokens:
    """Reads Supabase access tokens: HS256 with the project's secret, or by the public keys of a JWKS file."""

    def __init__(self, secret: str | None, key_set: Path | None) -> None:
        self._secret = secret
        self._keys: dict[str | None, jwt.PyJWK] = {}
        if key_set is not None:
            try:
                document = json.loads(key_set.read_text("utf-8"))
                self._keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(document).keys}
                _require_long(self._keys.values())
            except (OSError, ValueError, jwt.PyJWTError) as error:
                raise OpsKpiError(
                    f"{key_set} holds no JSON Web Key Set: {error}",
                    "Save https://PROJECT.supabase.co/auth/v1/.well-known/jwks.json there.",
                    ExitCode.CONFIGURATION,
                ) from None

    def caller(self, token: str) -> tuple[Caller, int] | None:
        """Whom a token speaks for and when it ends (Unix time); None when it is not valid now."""
        try:
            claims = self._decode(token)
            app_metadata = claims.get("app_metadata") or {}
            scopes = app_metadata.get("scopes", DEFAULT_SCOPES)
            org_id = UUID(app_metadata["org_id"]) if "org_id" in app_metadata else NIL_ORG
            # Claims of the form that SQL takes too; anything else would see nothing there.
            if claims["role"] != "authenticated" or not isinstance(scopes, list | tuple):
                return None
            # Strangers who sign in without a name. A caller here is one of an org or of the nil org, which are people.
            if claims.get("is_anonymous", False) is not False:
                return None
            return Caller(str(claims["sub"]), org_id, tuple(map(str, scopes))), int(claims["exp"])
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def _decode(self, token: str) -> dict[str, Any]:
        required: Options = {"require": ["exp", "sub", "role"]}
        if self._secret is not None:
            return jwt.decode(token, self._secret, algorithms=["HS256"], audience="authenticated", options=required)
        key = self._keys[jwt.get_unverified_header(token).get("kid")]
        return jwt.decode(token, key, algorithms=ASYMMETRIC, audience="authenticated", options=required)


def _require_long(known: Iterable[jwt.PyJWK]) -> None:
    if any(key.key_type == "RSA" and key.key.key_size < SHORTEST_RSA_BITS for key in known):
        raise ValueError(f"an RSA key has fewer than {SHORTEST_RSA_BITS} bits")


class Attempts:
    """Failed logins by address, so that nobody tries for ever."""

    def __init__(self) -> None:
        self._failed: dict[str, deque[float]] = {}

    def require_some_left(self, address: str) -> None:
        """Raise Problem, 429, after ten failures in five minutes."""
        failed = self._recent(address)
        if len(failed) >= FAILURES:
            wait = max(1, round(failed[0] + FAILURES_S - time.monotonic()))
            raise Problem(
                429,
                "too many logins failed from this address",
                hint=f"Wait {wait} seconds, then use a key of `opskpi key create`.",
                headers={"Retry-After": str(wait)},
            )

    def failed(self, address: str) -> None:
        """Note a failure."""
        self._recent(address).append(time.monotonic())

    def _recent(self, address: str) -> deque[float]:
        since = time.monotonic() - FAILURES_S
        for known in list(self._failed):
            while self._failed[known] and self._failed[known][0] < since:
                self._failed[known].popleft()
            if not self._failed[known] and known != address:
                del self._failed[known]
        return self._failed.setdefault(address, deque())


class Sessions:
    """Logins and the cookies that stand for them.

    `secret` signs the cookies; hubs that share it know each other's. `open_to` is who everybody is without a login;
    None: a login is needed. Without `tokens` only API keys are taken.
    """

    def __init__(self, secret: str, tokens: Tokens | None, open_to: UUID | None) -> None:
        self._cookies = URLSafeTimedSerializer(secret, salt="opskpi session")
        self._form_key = hashlib.sha256(f"opskpi forms {secret}".encode()).digest()
        self._tokens = tokens
        self._open_to = Caller("no-auth", open_to, ("read", "admin")) if open_to is not None else None
        self._recalled: dict[bytes, tuple[float, asyncio.Task[Caller | None]]] = {}
        # On a replica they are known to this process only.
        self._ended: dict[bytes, float] = {}
        self.attempts = Attempts()

    @property
    def takes_tokens(self) -> bool:
        """Whether a Supabase token may be shown at the login."""
        return self._tokens is not None

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in without a login."""
        return self._open_to is not None

    async def find(self, connection: HTTPConnection, database: Database, *, kept_s: float = 0) -> Session | None:
        """The session of a request or WebSocket; None without a live one.

        A revoked key, or a logout anywhere, ends it after `kept_s`.
        """
        if self._open_to is not None:
            return Session(self._open_to, self._form_token("no-auth"), can_leave=False)
        try:
            said = self._cookies.loads(connection.cookies.get(COOKIE, ""), max_age=SESSION_S)
        except BadSignature:
            return None
        digest = hashlib.sha256(said["id"].encode()).digest()
        caller = await self._recall(digest, said, database, kept_s)
        if caller is None or "read" not in caller.scopes:
            return None
        return Session(caller, self._form_token(said["id"]), can_leave=True, digest=digest)

    async def begin(self, shown: str, database: Database) -> dict[str, Any] | None:
        """What the cookie is to say of a key or token; None when it is not live or lacks the scope read."""
        said: dict[str, Any] = {"id": secrets.token_hex(16)}
        if (key := keys.parse(shown)) is not None:
            try:
                await database.recognise(key, ["read"])
            except Problem as problem:
                if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                return None
            return said | {"key": key.key_id, "mark": key.mark}
        known = self._tokens.caller(shown) if self._tokens is not None else None
        if known is None or "read" not in known[0].scopes:
            return None
        caller, ends_at = known
        return said | {
            "sub": caller.key_id, "org": str(caller.org_id), "scopes": list(caller.scopes), "ends_at": ends_at
        }  # fmt: skip

    async def end(self, session: Session, database: Database) -> None:
        """Let the cookie stand for nobody any more: here at once, in every other process with its next look."""
        now = time.monotonic()
        self._ended = {digest: until for digest, until in self._ended.items() if until > now}
        self._ended[session.digest] = now + SESSION_S
        self._recalled.pop(session.digest, None)
        with suppress(psycopg.errors.ReadOnlySqlTransaction):
            await database.end_session(session.digest, timedelta(seconds=SESSION_S))

    def remember(self, response: Response, said: Mapping[str, Any], *, secure: bool) -> None:
        """Put a session into the cookie of a response."""
        response.set_cookie(
            COOKIE,
            self._cookies.dumps(dict(said)),
            max_age=SESSION_S,
            httponly=True,
            samesite="lax",
            secure=secure,
            path="/",
        )

    def require_own_form(self, session: Session, token: str) -> None:
        """Raise Problem, 403, unless the form came from a page of this session."""
        if not hmac.compare_digest(session.form_token.encode(), token.encode()):
            raise Problem(403, "the form is not of this session", hint="Load the page again and repeat it.")

    async def _recall(self, digest: bytes, said: Mapping[str, Any], database: Database, kept_s: float) -> Caller | None:
        now = time.monotonic()
        kept = self._recalled.get(digest)
        if kept is None or kept[0] + kept_s <= now or (kept[1].done() and kept[1].exception() is not None):
            self._recalled = {known: one for known, one in self._recalled.items() if one[0] + LONGEST_KEPT_S > now}
            kept = self._recalled[digest] = (now, asyncio.create_task(self._caller(digest, said, database)))
        return await asyncio.shield(kept[1])

    async def _caller(self, digest: bytes, said: Mapping[str, Any], database: Database) -> Caller | None:
        if digest in self._ended or await database.session_has_ended(digest):
            return None
        if "key" in said:
            return await database.recall(said["key"], said["mark"])
        if self._tokens is None or said["ends_at"] <= time.time():
            return None
        return Caller(said["sub"], UUID(said["org"]), tuple(said["scopes"]))

    def _form_token(self, session_id: str) -> str:
        return hmac.new(self._form_key, session_id.encode(), hashlib.sha256).hexdigest()


def require_same_origin(connection: HTTPConnection) -> None:
    """Raise Problem, 403, for what a page of another site sends; browsers say where a request comes from."""
    site = connection.headers.get("sec-fetch-site")
    origin = connection.headers.get("origin")
    try:
        foreign = origin is not None and urlsplit(origin).netloc != connection.headers.get("host")
    except ValueError:
        foreign = True
    if site not in {None, "same-origin", "none"} or (foreign and site != "same-origin"):
        raise Problem(403, "this was sent by a page of another site", hint="Open the hub's own page and repeat it.")

"""The hub's questions to the database: the look-up of API keys, and calls in the role of the caller."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import LiteralString
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import class_row, scalar_row

from opskpi.access import pseudonyms
from opskpi.access.keys import ApiKey, mark_of
from opskpi.hub import round_trips
from opskpi.hub.pool import Connection, Pool
from opskpi.hub.problems import Problem, unavailable
from opskpi.hub.remembered_keys import KnownKey, RememberedKeys
from opskpi.hub.round_trips import Parameters

# Shorter than a request may take, so that the server ends what is given up.
STATEMENT_TIMEOUT = "4s"
# An export of tens of millions of rows; longer, its snapshot would keep too much from being cleaned up.
EXPORT_S = 600

FIND_KEY = "select org_id, key_sha256, scopes from ops.find_api_key(key_id => %s)"
KEY_IS_LIVE = "ops.require_api_key(key_id => %s, org_id => %s, key_sha256 => %s, scopes => %s)"
KEY_HAS_ENDED = "PT401"
CALLER_IS_SET = (
    "set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true),"
    " set_config('statement_timeout', %s, true)"
)
ANONYMISES = "set_config('opskpi.anonymisation_key', %s, true)"
BECOME_CALLER = f"select {CALLER_IS_SET}"
ALL_LOST = "every connection of the pool was lost"
IN_UTC = "select set_config('timezone', 'UTC', true)"
END_SESSION = "select ops.end_session(session_sha256 => %s, cookie_lasts => %s)"
SESSION_HAS_ENDED = "select ops.session_has_ended(session_sha256 => %s)"
OWN_ORG = "select ops.caller_org(wanted_org_id => %s)::text"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: a key that was found and compared, its org and its scopes."""

    key_id: str
    org_id: UUID
    scopes: tuple[str, ...]

    def claims(self) -> str:
        """The claims as PostgREST would set them from a JWT."""
        app_metadata = {"org_id": str(self.org_id), "scopes": self.scopes}
        return json.dumps({"role": "authenticated", "sub": self.key_id, "app_metadata": app_metadata})


def unauthorized() -> Problem:
    """401, the same whatever is wrong with a key."""
    return Problem(
        HTTPStatus.UNAUTHORIZED,
        "the API key is missing, malformed, unknown, revoked or expired",
        hint="Send Authorization: Bearer opskpi_…; `opskpi key create` makes a key.",
        headers={"WWW-Authenticate": "Bearer"},
    )


class Database:
    """The database, asked over at most `connections` connections as the hub's own login."""

    def __init__(self, dsn: str, connections: int) -> None:
        self._pool = Pool(dsn, connections)
        # Reads may take long, and senders of telemetry must always find a connection.
        self.reading = asyncio.Semaphore(max(1, connections // 2))
        self._keys = RememberedKeys()
        self._exports_left = min(connections - 1, max(1, connections // 4))

    @property
    def connections(self) -> int:
        """How many connections there are at most."""
        return self._pool.connections

    async def open(self) -> None:
        """Begin to connect; a database that is away is waited for by whoever asks."""
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def ask_as(self, caller: Caller, query: LiteralString, parameters: Parameters) -> str:
        """The single text that a query answers, asked in one transaction as a caller who was recognised elsewhere."""
        return await self._pool.within(self._ask_as(caller, query, parameters))

    async def _ask_as(self, caller: Caller, query: LiteralString, parameters: Parameters) -> str:
        async with self._pool.connection() as connection:
            return await _ask(connection, caller, query, parameters)

    async def call(
        self, key: ApiKey, scopes: Sequence[str], query: LiteralString, parameters: Sequence[object]
    ) -> tuple[Caller, str]:
        """Who presents the key, and the single text that a query answers, asked in one transaction as that caller.

        Raises Problem: 401 unless the key is live, 403 unless it has one of the scopes.
        """
        return await self._pool.within(self._call(key, scopes, query, parameters))

    async def _call(
        self, key: ApiKey, scopes: Sequence[str], query: LiteralString, parameters: Sequence[object]
    ) -> tuple[Caller, str]:
        for remembered in (self._keys.find(key, scopes), None):
            async with self._found(key.key_id, remembered) as (connection, known):
                caller = _recognise(key, known, scopes)
                try:
                    return caller, await _ask(connection, caller, query, parameters, known)
                except psycopg.Error as error:
                    # The transaction did nothing, so the call may be repeated after a new look-up.
                    if error.sqlstate != KEY_HAS_ENDED:
                        raise
                    self._keys.forget(key.key_id)
        raise unauthorized()

    async def recognise(self, key: ApiKey, scopes: Sequence[str]) -> Caller:
        """Who presents the key. Raises Problem as `call` does."""
        return _recognise(key, await self._pool.within(self._find(key.key_id)), scopes)

    async def _find(self, key_id: str) -> KnownKey | None:
        async with self._found(key_id) as (_, known):
            return known

    async def tell(self, query: LiteralString, parameters: Sequence[object]) -> None:
        """Do something as the hub's own login."""
        await self._pool.within(self._as_own_login(query, parameters))

    async def _as_own_login(self, query: LiteralString, parameters: Sequence[object]) -> object:
        for _ in range(self._pool.connections + 1):
            async with self._pool.connection() as connection:
                try:
                    async with connection.cursor(row_factory=scalar_row) as cursor:
                        await cursor.execute(query, parameters)
                        return await cursor.fetchone()
                except psycopg.OperationalError:
                    # What the hub does as itself may be done twice.
                    if not connection.closed:
                        raise
        raise psycopg.OperationalError(ALL_LOST)

    @asynccontextmanager
    async def _found(
        self, key_id: str, remembered: KnownKey | None = None
    ) -> AsyncIterator[tuple[Connection, KnownKey | None]]:
        """A connection, and what the database tells about the key of that id, unless that is remembered."""
        for _ in range(self._pool.connections + 1):
            async with self._pool.connection() as connection:
                if remembered is not None:
                    if round_trips.is_lost(connection):
                        continue
                    yield connection, remembered
                    return
                try:
                    known = await self._look_up(connection, key_id)
                except psycopg.OperationalError:
                    # After a restart every idle connection is dead; nothing was asked yet, so take the next.
                    if connection.closed:
                        continue
                    raise
                yield connection, known
                return
        raise psycopg.OperationalError(ALL_LOST)

    async def _look_up(self, connection: Connection, key_id: str) -> KnownKey | None:
        since = time.monotonic()
        # In a transaction of its own: the note of its use must lock nothing while the call runs.
        async with connection.cursor(row_factory=class_row(KnownKey)) as cursor:
            await cursor.execute(FIND_KEY, [key_id])
            known = await cursor.fetchone()
        if known is not None:
            self._keys.keep(key_id, known, since)
        return known

    async def end_session(self, digest: bytes, lasts: timedelta) -> None:
        """Let no hub of this database take the session's cookie again."""
        await self._pool.within(self._as_own_login(END_SESSION, [digest, lasts]))

    async def session_has_ended(self, digest: bytes) -> bool:
        """Whether somebody logged out of the session."""
        return bool(await self._pool.within(self._as_own_login(SESSION_HAS_ENDED, [digest])))

    async def recall(self, key_id: str, mark: str) -> Caller | None:
        """The caller who logged in with a key of that id and mark; None once it is revoked, expired or another."""
        known = await self._pool.within(self._find(key_id))
        if known is None or not hmac.compare_digest(mark_of(known.key_sha256), mark):
            return None
        return Caller(key_id, known.org_id, tuple(known.scopes))

    @asynccontextmanager
    async def copy(
        self,
        key: ApiKey,
        scopes: Sequence[str],
        statement: sql.Composed,
        parameters: Mapping[str, object],
        *,
        org_id: UUID | None,
        chunk_bytes: int,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """What a COPY sends, asked as whoever presents the key: whole rows in chunks, read as fast as they are taken.

        Leaving it early ends the statement on the server. Raises Problem: 401 and 403 as `call` does, 403 for another
        org than the key's, 503 while as many exports run as there may be.
        """
        caller, _ = await self.call(key, scopes, OWN_ORG, [org_id])
        if self._exports_left <= 0:
            raise unavailable("as many exports run as this process of the hub allows")
        self._exports_left -= 1
        try:
            async with self._begun(caller) as connection, connection.cursor() as cursor:
                async with cursor.copy(statement, parameters) as rows:
                    yield _in_chunks(rows, chunk_bytes)
                await connection.execute("commit")
        finally:
            self._exports_left += 1

    @asynccontextmanager
    async def _begun(self, caller: Caller) -> AsyncIterator[Connection]:
        """A connection in a transaction of the caller's, with the time that exports have, and UTC."""
        for _ in range(self._pool.connections + 1):
            async with self._pool.connection() as connection:
                try:
                    become = (BECOME_CALLER, [caller.claims(), f"{EXPORT_S}s"])
                    await round_trips.ask(connection, ("begin", ()), become, (IN_UTC, ()))
                except psycopg.OperationalError:
                    if connection.closed:
                        continue
                    raise
                yield connection
                return
        raise psycopg.OperationalError(ALL_LOST)


def _recognise(key: ApiKey, known: KnownKey | None, scopes: Sequence[str]) -> Caller:
    if not key.matches(known.key_sha256 if known else None) or known is None:
        raise unauthorized()
    if not set(scopes) & set(known.scopes):
        challenge = f'Bearer error="insufficient_scope", scope="{" ".join(scopes)}"'
        raise Problem(
            HTTPStatus.FORBIDDEN,
            f"this needs an API key with the scope {' or '.join(scopes)}",
            headers={"WWW-Authenticate": challenge},
        )
    return Caller(key.key_id, known.org_id, tuple(known.scopes))


async def _ask(
    connection: Connection, caller: Caller, query: LiteralString, parameters: Parameters, known: KnownKey | None = None
) -> str:
    """The text that a query answers the caller, for a key that must still be what is known of it."""
    settings: LiteralString = CALLER_IS_SET
    values: list[object] = [caller.claims(), STATEMENT_TIMEOUT]
    if known is not None:
        # First, since it is asked as the hub's own login.
        settings = f"{KEY_IS_LIVE}, {settings}"
        values = [caller.key_id, known.org_id, known.key_sha256, known.scopes, *values]
    if secret := pseudonyms.key():
        settings = f"{settings}, {ANONYMISES}"
        values.append(secret)
    try:
        # Without BEGIN the role, and RLS with it, would end with the first statement that a Sync follows. One text with
        # the parameters put in would be faster still, but the server logs the text of a statement that fails.
        _, _, answer, _ = await round_trips.ask(
            connection, ("begin", ()), (f"select {settings}", values), (query, parameters), ("commit", ())
        )
    except psycopg.Error:
        if not connection.closed:
            await connection.rollback()
        raise
    return (answer.get_value(0, 0) or b"").decode()


async def _in_chunks(rows: psycopg.AsyncCopy, size: int) -> AsyncIterator[bytes]:
    chunk: list[bytes | bytearray | memoryview] = []
    held = 0
    async for row in rows:
        chunk.append(row)
        held += len(row)
        if held >= size:
            yield b"".join(chunk)
            chunk.clear()
            held = 0
            # Rows that have arrived are read without a pause, and others wait for their turn.
            await asyncio.sleep(0)
    if chunk:
        yield b"".join(chunk)

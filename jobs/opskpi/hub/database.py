"""The hub's way to the database: a pool, the look-up of API keys, and calls in the role of the caller."""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import LiteralString
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, class_row, scalar_row
from psycopg_pool import AsyncConnectionPool

from opskpi.access import pseudonyms
from opskpi.access.keys import ApiKey, mark_of
from opskpi.hub.problems import Problem, unavailable
from opskpi.postgres import connecting

# Hook clients give up after 5 s: whoever waits longer for a connection waits for nothing.
POOL_WAIT_S = 4
POOL_QUEUE = 1000
RECONNECT_S = 10
CALL_S = 10
# As Supabase has it for the role authenticated.
STATEMENT_TIMEOUT = "8s"
# An export of tens of millions of rows; longer, its snapshot would keep too much from being cleaned up.
EXPORT_S = 600
# A server that vanished without a word is noticed within half a minute.
KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}

FIND_KEY = "select org_id, key_sha256, scopes from ops.find_api_key(key_id => %s)"
BECOME_CALLER = (
    "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true),"
    " set_config('statement_timeout', %s, true)"
)
BECOME_CALLER_WITH_KEY = BECOME_CALLER + ", set_config('opskpi.anonymisation_key', %s, true)"
IN_UTC = "select set_config('timezone', 'UTC', true)"
OWN_ORG = "select ops.caller_org(wanted_org_id => %s)::text"

Parameters = Sequence[object] | Mapping[str, object]


Connection = psycopg.AsyncConnection[TupleRow]


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What the database tells about a live key: whom it speaks for, its digest, and what it may do."""

    org_id: UUID
    key_sha256: bytes
    scopes: list[str]


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
    """A pool of at most `connections` connections as the hub's own login."""

    def __init__(self, dsn: str, connections: int) -> None:
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=connections,
            timeout=POOL_WAIT_S,
            max_waiting=POOL_QUEUE,
            reconnect_timeout=RECONNECT_S,
            open=False,
            name="hub",
            kwargs={
                "autocommit": True,
                "prepare_threshold": None,
                "application_name": "opskpi hub",
                "client_encoding": "utf8",
                "connect_timeout": connecting.CONNECT_TIMEOUT_S,
                **KEEPALIVES,
            },
        )
        # They hold a connection for long, and whoever sends telemetry must always find one.
        self._exports_left = min(connections - 1, max(1, connections // 4))

    @property
    def connections(self) -> int:
        """How many connections there are at most."""
        return self._pool.max_size

    async def open(self) -> None:
        """Begin to connect; a database that is away is waited for by whoever asks."""
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def ask_as(self, caller: Caller, query: LiteralString, parameters: Parameters) -> str:
        """The single text that a query answers, asked in one transaction as a caller who was recognised elsewhere."""
        async with asyncio.timeout(POOL_WAIT_S + CALL_S), self._pool.connection() as connection:
            return await _ask(connection, caller, query, parameters)

    async def call(
        self, key: ApiKey, scopes: Sequence[str], query: LiteralString, parameters: Sequence[object]
    ) -> tuple[Caller, str]:
        """Who presents the key, and the single text that a query answers, asked in one transaction as that caller.

        Raises Problem: 401 unless the key is live, 403 unless it has one of the scopes.
        """
        async with self._found(key.key_id) as (connection, known):
            caller = _recognise(key, known, scopes)
            return caller, await _ask(connection, caller, query, parameters)

    async def recognise(self, key: ApiKey, scopes: Sequence[str]) -> Caller:
        """Who presents the key. Raises Problem as `call` does."""
        async with self._found(key.key_id) as (_, known):
            return _recognise(key, known, scopes)

    @asynccontextmanager
    async def _found(self, key_id: str) -> AsyncIterator[tuple[Connection, KnownKey | None]]:
        """A connection, and what the database tells about the key of that id."""
        async with asyncio.timeout(POOL_WAIT_S + CALL_S):
            for _ in range(self._pool.max_size + 1):
                async with self._pool.connection() as connection:
                    try:
                        known = await _find(connection, key_id)
                    except psycopg.OperationalError:
                        # After a restart every idle connection is dead; nothing was asked yet, so take the next.
                        if connection.closed:
                            continue
                        raise
                    yield connection, known
                    return
        raise psycopg.OperationalError("every connection of the pool was lost")

    async def recall(self, key_id: str, mark: str) -> Caller | None:
        """The caller who logged in with a key of that id and mark; None once it is revoked, expired or another."""
        async with self._found(key_id) as (_, known):
            pass
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
    async def _begun(self, caller: Caller) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
        """A connection in a transaction of the caller's, with the time that exports have, and UTC."""
        for _ in range(self._pool.max_size + 1):
            async with self._pool.connection() as connection:
                try:
                    async with connection.pipeline():
                        await connection.execute("begin")
                        await connection.execute(BECOME_CALLER, [caller.claims(), f"{EXPORT_S}s"])
                        await connection.execute(IN_UTC)
                except psycopg.OperationalError:
                    if connection.closed:
                        continue
                    raise
                yield connection
                return
        raise psycopg.OperationalError("every connection of the pool was lost")

    async def tell(self, query: LiteralString, parameters: Sequence[object]) -> None:
        """Do something as the hub's own login."""
        async with asyncio.timeout(POOL_WAIT_S + CALL_S), self._pool.connection() as connection:
            await connection.execute(query, parameters)


async def _find(connection: Connection, key_id: str) -> KnownKey | None:
    # In a transaction of its own: the note of its use must lock nothing while the call runs.
    async with connection.cursor(row_factory=class_row(KnownKey)) as cursor:
        await cursor.execute(FIND_KEY, [key_id])
        return await cursor.fetchone()


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


async def _ask(connection: Connection, caller: Caller, query: LiteralString, parameters: Parameters) -> str:
    cursor = connection.cursor(row_factory=scalar_row)
    try:
        # One round trip, with explicit statements, since `transaction()` in a pipeline takes 1.7 times the CPU time.
        # Without BEGIN the role, and RLS with it, would end with the first statement that a Sync follows. One text with
        # the parameters put in would be faster still, but the server logs the text of a statement that fails.
        async with connection.pipeline():
            await connection.execute("begin")
            if secret := pseudonyms.key():
                await connection.execute(BECOME_CALLER_WITH_KEY, [caller.claims(), STATEMENT_TIMEOUT, secret])
            else:
                await connection.execute(BECOME_CALLER, [caller.claims(), STATEMENT_TIMEOUT])
            await cursor.execute(query, parameters)
            await connection.execute("commit")
    except psycopg.Error:
        if not connection.closed:
            await connection.rollback()
        raise
    return str(await cursor.fetchone())


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

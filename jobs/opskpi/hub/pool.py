"""The hub's connections to the database: whose turn it is, and how soon everybody learns that the database is away."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from opskpi.hub.deadlines import CALL_S, CONNECT_S, Answer, within
from opskpi.hub.problems import unavailable
from opskpi.postgres import connecting

MOST_WAITING = 1000
RECONNECT_S = 10
# Requests are refused for so long after one has found out that the database is away; then the next one tries.
AWAY_S = 1
# A server that vanished without a word is noticed within half a minute.
KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}

Connection = psycopg.AsyncConnection[TupleRow]


class Pool:
    """At most `connections` connections, given out in the order in which they are asked for."""

    def __init__(self, dsn: str, connections: int) -> None:
        self.connections = connections
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=connections,
            timeout=CONNECT_S,
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
        # Whoever has a place waits for a connection only while one is made.
        self._places = asyncio.Semaphore(connections)
        self._waiting = 0
        self._answered_at = self._away_until = -math.inf

    async def open(self) -> None:
        """Begin to connect."""
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def within(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """What the work gives. Raises TimeoutError when the database lets it wait for too long."""
        try:
            return await within(CALL_S, work)
        except TimeoutError:
            self._note_silence()
            raise

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool, once it is this request's turn. Raises Problem, 503, while the database is away."""
        self._require_present()
        if self._waiting >= MOST_WAITING:
            raise unavailable("too many requests wait for the database")
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            self._require_present()
            async with self._pool.connection() as connection:
                try:
                    yield connection
                finally:
                    if not connection.closed and connection.info.transaction_status != TransactionStatus.ACTIVE:
                        self._answered_at = time.monotonic()
        except PoolTimeout:
            self._note_silence()
            raise
        finally:
            self._places.release()

    def _require_present(self) -> None:
        if time.monotonic() < self._away_until:
            raise unavailable("the database cannot answer now")

    def _note_silence(self) -> None:
        # A server that answered others meanwhile is busy, not away.
        now = time.monotonic()
        if now - self._answered_at > CONNECT_S:
            self._away_until = now + AWAY_S

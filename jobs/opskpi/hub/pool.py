"""The hub's connections to the database: whose turn it is, and how soon everybody learns that the database is away."""

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
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=connections,
            timeout=CONNECT_S,
            max_waiting=MOST_WAITING,
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
        self._held = 0
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
        connection = await self._next()
        self._held += 1
        try:
            async with connection:
                yield connection
        finally:
            self._held -= 1
            if not connection.closed and connection.info.transaction_status != TransactionStatus.ACTIVE:
                self._answered_at = time.monotonic()
            await self._pool.putconn(connection)

    async def _next(self) -> Connection:
        while True:
            if time.monotonic() < self._away_until:
                raise unavailable("the database cannot answer now")
            try:
                return await self._pool.getconn()
            except PoolTimeout:
                # While others hold connections, or were just answered and hand theirs on, the turn has not come yet;
                # the time of all is limited.
                if not self._held and self._is_silent():
                    self._note_silence()
                    raise

    def _note_silence(self) -> None:
        # A server that answered others meanwhile is busy, not away.
        if self._is_silent():
            self._away_until = time.monotonic() + AWAY_S

    def _is_silent(self) -> bool:
        return time.monotonic() - self._answered_at > CONNECT_S

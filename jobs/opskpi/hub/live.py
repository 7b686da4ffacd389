"""Says when what an org's pages show may have changed.

At once for events that this hub stored; through NOTIFY for what another hub did; and by a look now and then for
everything else: the jobs, plain inserts, a pooler that passes no notifications on.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import chain
from uuid import UUID, uuid4

import psycopg

from opskpi.hub.database import Caller, Database
from opskpi.hub.problems import Problem, unavailable
from opskpi.postgres import connecting

CHANNEL = "opskpi"
ANNOUNCE_S = 0.5
LOOK_S = 1.5
LOOK_BESIDE_NOTIFICATIONS_S = 3
LISTEN_TEST_S = 3
RECONNECT_S = 2
MOST_PAGES = 500
# A page takes a silence of 10 s for a hub that is gone.
BEAT_S = 4

IS_REPLICA = "select pg_is_in_recovery()"
MARKER = "select coalesce(ops.change_marker(), '')"
ANNOUNCE = "select pg_notify(%s, sign) from unnest(%s::text[]) as sign"

log = logging.getLogger("opskpi.hub")


class Live:
    """The news of one process: `version` of an org grows with every change, `subscribed` waits for the next."""

    def __init__(self, database: Database, dsn: str) -> None:
        self._database = database
        self._dsn = dsn
        self._versions: dict[UUID, int] = {}
        self._waiting: dict[UUID, set[asyncio.Event]] = {}
        self._readers: dict[UUID, Caller] = {}
        self._markers: dict[UUID, str] = {}
        self._unannounced: set[UUID] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._announcing = False
        self._watching = False
        self._is_listening = False
        self.is_away = False

    def version(self, org_id: UUID) -> int:
        """A number that is another one after each change that this process knows of."""
        return self._versions.get(org_id, 0)

    def hears_of(self, org_id: UUID) -> bool:
        """Whether a change made elsewhere is known here at once; if not, what was read may be old the next moment."""
        return self._is_listening and org_id in self._waiting

    def stored(self, org_id: UUID) -> None:
        """Note that this hub stored something of an org, and tell other hubs soon."""
        self._changed(org_id)
        self._unannounced.add(org_id)
        if not self._announcing:
            self._announcing = True
            self._start(self._announce)

    @asynccontextmanager
    async def subscribed(self, caller: Caller) -> AsyncIterator[Callable[[], Coroutine[None, None, bool]]]:
        """Within it, a function that tells soon, or after a beat, whether something of the caller's org has changed.

        So it does when the database goes away (`is_away`) or comes back.

        Raises Problem, 503, while as many pages of the org are open as there may be.
        """
        event = asyncio.Event()
        if len(self._waiting.get(caller.org_id, ())) >= MOST_PAGES:
            raise unavailable("as many pages of this organisation are open as one process takes")
        is_first = caller.org_id not in self._waiting
        self._waiting.setdefault(caller.org_id, set()).add(event)
        self._readers[caller.org_id] = caller
        try:
            if is_first:
                # What was read while nobody listened may be old; what changes from now on is noticed.
                self._changed(caller.org_id)
                await self._look(caller)
            if not self._watching:
                self._watching = True
                self._start(self._look_now_and_then)
                self._start(self._listen)

            async def changed() -> bool:
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_S):
                        await event.wait()
                has_changed = event.is_set()
                event.clear()
                return has_changed

            yield changed
        finally:
            self._waiting[caller.org_id].discard(event)
            if not self._waiting[caller.org_id]:
                for known in (self._waiting, self._readers, self._markers):
                    known.pop(caller.org_id, None)

    async def close(self) -> None:
        """End what runs in the background."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _changed(self, org_id: UUID) -> None:
        self._versions[org_id] = self.version(org_id) + 1
        for event in self._waiting.get(org_id, ()):
            event.set()

    def _start(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _announce(self) -> None:
        # Once for all that came within half a second: a NOTIFY makes transactions commit one after another.
        await asyncio.sleep(ANNOUNCE_S)
        self._announcing = False
        orgs, self._unannounced = self._unannounced, set()
        try:
            await self._database.tell(ANNOUNCE, [CHANNEL, [_sign_of(org) for org in orgs]])
        except (Problem, psycopg.Error, TimeoutError) as error:
            log.warning("other hubs were not told of new events: %s", error)

    async def _look_now_and_then(self) -> None:
        # Until the process ends: to stop it with the last page and start it with the next would be two races.
        while True:
            await self._look_for_all()
            await asyncio.sleep(LOOK_BESIDE_NOTIFICATIONS_S if self._is_listening else LOOK_S)

    async def _look_for_all(self) -> None:
        for caller in list(self._readers.values()):
            await self._look(caller)

    async def _look(self, caller: Caller) -> None:
        try:
            marker = await self._database.ask_as(caller, MARKER, [])
        except (Problem, psycopg.Error, TimeoutError):
            self._note(is_away=True)
            return
        self._note(is_away=False)
        if caller.org_id in self._waiting and self._markers.setdefault(caller.org_id, marker) != marker:
            self._markers[caller.org_id] = marker
            self._changed(caller.org_id)

    def _note(self, *, is_away: bool) -> None:
        if is_away != self.is_away:
            self.is_away = is_away
            for event in chain.from_iterable(self._waiting.values()):
                event.set()

    async def _listen(self) -> None:
        while True:
            if self._waiting:
                try:
                    await self._take_notifications()
                except (psycopg.Error, OSError) as error:
                    log.warning("no notifications for now, the pages are kept fresh by looking: %s", error)
                    self._is_listening = False
                    await self._look_for_all()
                finally:
                    self._is_listening = False
            await asyncio.sleep(RECONNECT_S)

    async def _take_notifications(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._dsn, autocommit=True, prepare_threshold=None, application_name="opskpi hub live",
            connect_timeout=connecting.CONNECT_TIMEOUT_S,
        )  # fmt: skip
        async with connection:
            if not await _hears(connection):
                log.warning("this connection passes no notifications on; the pages are kept fresh by looking")
                while self._waiting:
                    await asyncio.sleep(LOOK_BESIDE_NOTIFICATIONS_S)
                return
            # Whatever was announced before is behind us.
            self._is_listening = True
            for org_id in self._waiting:
                self._changed(org_id)
            while self._waiting:
                async for notification in connection.notifies(timeout=LOOK_BESIDE_NOTIFICATIONS_S):
                    for org_id in [org_id for org_id in self._waiting if _sign_of(org_id) == notification.payload]:
                        self._changed(org_id)


def _sign_of(org_id: UUID) -> str:
    """What stands for an org where every login of the database may listen."""
    return hashlib.sha256(f"opskpi live {org_id}".encode()).hexdigest()[:32]


async def _hears(connection: psycopg.AsyncConnection) -> bool:
    """Whether a notification comes back: a transaction pooler delivers none, a replica takes no LISTEN."""
    word = f"test {uuid4()}"
    [is_replica] = await (await connection.execute(IS_REPLICA)).fetchone() or [True]
    if is_replica:
        return False
    await connection.execute("listen opskpi")
    try:
        await connection.execute("select pg_notify(%s, %s)", [CHANNEL, word])
        async for notification in connection.notifies(timeout=LISTEN_TEST_S):
            if notification.payload == word:
                return True
    except psycopg.Error:
        if connection.closed:
            raise
    return False

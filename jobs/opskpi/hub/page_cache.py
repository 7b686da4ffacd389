"""Answers and the sections made of them: made once for all pages of an org that show them, and kept within bounds."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from opskpi.dashboard import pages, pieces
from opskpi.dashboard.pages import Rendered
from opskpi.dashboard.view import View
from opskpi.hub.database import Caller, Database
from opskpi.hub.live import Live
from opskpi.hub.problems import unavailable

KEPT_S = 15
# Where changes made elsewhere are not heard of, an answer serves those who ask at the same moment.
KEPT_UNHEARD_S = 1
KEPT_BYTES = 32 * 1024 * 1024
# Who waits longer than so many others is better told so.
MOST_WAITING = 64

Answers = dict[str, str]


@dataclass(slots=True)
class _Kept:
    task: asyncio.Task[Any]
    until: float
    size: int = 0


class PageCache:
    """The content of the pages; half of `connections` at most ask for it, and half of those for one org."""

    def __init__(self, database: Database, live: Live, connections: int) -> None:
        self._database = database
        self._live = live
        self._kept: OrderedDict[tuple[object, ...], _Kept] = OrderedDict()
        self._size = 0
        self._waiting = 0
        self._most_of_one = max(1, connections // 4)
        self._places_of: dict[UUID, asyncio.Semaphore] = {}

    async def shown(self, caller: Caller, view: View) -> tuple[Answers, list[Rendered]]:
        """The answers to the pieces of a view and its sections, as the caller. Raises what the database does."""
        answers = await self._answers(caller, view)
        made = await self._once(
            caller,
            ("sections", view),
            lambda: asyncio.to_thread(_make, view, answers),
            lambda made: sum(map(_length, made)),
        )
        return answers, made

    async def _answers(self, caller: Caller, view: View) -> Answers:
        wanted = pieces.of_view(view, None, datetime.now(UTC))
        return {
            piece.name: await self._once(caller, piece.key, lambda piece=piece: self._ask(caller, piece), len)
            for piece in wanted
        }

    async def _once(
        self,
        caller: Caller,
        name: tuple[object, ...],
        make: Callable[[], Coroutine[Any, Any, Any]],
        weigh: Callable[[Any], int],
    ) -> Any:
        # With the scopes, since functions may ask for them; with the version, so that nothing before a change is shown.
        key = (caller.org_id, self._live.version(caller.org_id), caller.scopes, *name)
        kept = self._kept.get(key)
        if kept is None or kept.until < time.monotonic():
            self._forget(caller.org_id)
            kept = self._kept[key] = _Kept(
                asyncio.create_task(make()), time.monotonic() + self._keeping_s(caller.org_id)
            )
            kept.task.add_done_callback(lambda _, key=key, kept=kept: self._weigh(key, kept, weigh))
        self._kept.move_to_end(key)
        # Whoever goes away leaves the answer to the others who wait for it.
        return await asyncio.shield(kept.task)

    def _keeping_s(self, org_id: UUID) -> float:
        return KEPT_S if self._live.hears_of(org_id) else KEPT_UNHEARD_S

    def _weigh(self, key: tuple[object, ...], kept: _Kept, weigh: Callable[[Any], int]) -> None:
        if self._kept.get(key) is not kept:
            return
        if kept.task.cancelled() or kept.task.exception() is not None:
            del self._kept[key]
            return
        kept.size = weigh(kept.task.result())
        self._size += kept.size
        while self._size > KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _forget(self, org_id: UUID) -> None:
        """Drop what is too old to be used, of any org, and what a change of this one has left behind."""
        now, version = time.monotonic(), self._live.version(org_id)
        for key, kept in list(self._kept.items()):
            if kept.task.done() and (kept.until < now or (key[0] == org_id and key[1] != version)):
                self._drop(key)

    def _drop(self, key: tuple[object, ...]) -> None:
        self._size -= self._kept.pop(key).size

    async def _ask(self, caller: Caller, piece: pieces.Piece) -> str:
        if self._waiting >= MOST_WAITING:
            raise unavailable("too many views are asked for at once")
        own = self._places_of.setdefault(caller.org_id, asyncio.Semaphore(self._most_of_one))
        self._waiting += 1
        try:
            async with own, self._database.reading:
                return await self._asked(caller, piece)
        finally:
            self._waiting -= 1

    async def _asked(self, caller: Caller, piece: pieces.Piece) -> str:
        """The answer; a connection that was lost meanwhile is no reason to fail, since nothing is written."""
        for _ in range(self._database.connections):
            try:
                return await self._database.ask_as(caller, piece.query, piece.parameters)
            except PoolTimeout:
                raise
            except psycopg.OperationalError as error:
                # Only a server that answers says which error it is.
                if error.sqlstate is not None and not error.sqlstate.startswith("57P"):
                    raise
        return await self._database.ask_as(caller, piece.query, piece.parameters)


def parsed(answers: Answers) -> dict[str, pieces.Rows]:
    """The rows of each answer."""
    return {name: pieces.read(answer) for name, answer in answers.items()}


def _make(view: View, answers: Answers) -> list[Rendered]:
    return pages.sections(view, parsed(answers))


def _length(section: Rendered) -> int:
    return len(section.html)

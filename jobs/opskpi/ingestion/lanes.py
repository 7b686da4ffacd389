"""Connections on which work is done at the same time, each by a thread of its own."""

import os
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Self, TypeVar

import psycopg

from opskpi.errors import OpsKpiError

CANCEL_EVERY_S = 0.1
CANCEL_FOR_S = 5
OPENING_S = 1

Result = TypeVar("Result")


class Lane:
    """A connection whose calls are made by a thread; between two calls it is the caller's. Made by `Lanes`."""

    def __init__(
        self, opening: AbstractContextManager[psycopg.Connection], free: deque["Lane"], news: threading.Event
    ) -> None:
        self._opening = opening
        self._opened: psycopg.Connection | None = None
        self._free = free
        self._news = news
        self._calls: queue.SimpleQueue[Callable[[psycopg.Connection], None] | None] = queue.SimpleQueue()
        # A daemon, so that a server that never answers does not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="opskpi-ingest-lane", daemon=True)

    def start(self) -> None:
        """Open the connection in the thread; once that is done, the lane is free."""
        self._thread.start()

    @property
    def connection(self) -> psycopg.Connection:
        """The connection of a lane that was taken."""
        if self._opened is None:
            raise RuntimeError("this lane is not open yet")
        return self._opened

    def submit(self, call: Callable[[psycopg.Connection], Result]) -> Future[Result]:
        """Make the call in the thread; the future gets its result or what it raised, and `news` is set."""
        answer: Future[Result] = Future()
        answer.add_done_callback(lambda _: self._news.set())

        def run(connection: psycopg.Connection) -> None:
            try:
                answer.set_result(call(connection))
            except BaseException as error:  # noqa: BLE001 - raised again where the result is used
                answer.set_exception(error)

        self._calls.put(run)
        return answer

    def stop(self) -> None:
        """Cancel what runs, roll back what is open, and end the thread."""
        self._calls.put(None)
        began = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(CANCEL_EVERY_S)
            waited = time.monotonic() - began
            if self._opened is None:
                if waited > OPENING_S:
                    return  # what it opens later it closes again
            elif waited > CANCEL_FOR_S:
                _cut(self._opened)
            elif self._thread.is_alive():
                with suppress(psycopg.Error):
                    self._opened.cancel_safe(timeout=CANCEL_FOR_S)

    def _run(self) -> None:
        # Only opening raises these; what a call raises is in its future.
        with suppress(psycopg.Error, OpsKpiError), self._opening as connection:
            self._opened = connection
            self._free.append(self)
            self._news.set()
            while (call := self._calls.get()) is not None:
                call(connection)
            connection.rollback()


class Lanes:
    """One lane on the given connection, and a second from `open_another` once there is work for it.

    A second connection that cannot be had means one lane. `news` is set when a lane is free or has an answer. Leaving
    cancels what runs and rolls back what is open; the given connection stays open while its server answers.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        open_another: Callable[[], psycopg.Connection] | None,
        news: threading.Event,
    ) -> None:
        self._connection = connection
        self._open_another = open_another
        self._lanes: list[Lane] = []
        self._free: deque[Lane] = deque()
        self.news = news

    def __enter__(self) -> Self:
        self._add(nullcontext(self._connection))
        while not self._free:
            self.news.wait(CANCEL_EVERY_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in self._lanes:
            lane.stop()

    def take(self) -> Lane | None:
        """Return a free lane. None when there is none; then the second is opened, if it was not tried before."""
        if self._free:
            return self._free.popleft()
        if self._open_another:
            self._add(_proven(self._open_another))
            self._open_another = None
        return None

    def give_back(self, lane: Lane) -> None:
        """Make a lane free again; nothing may be open on it."""
        self._free.append(lane)

    def _add(self, opening: AbstractContextManager[psycopg.Connection]) -> None:
        # Known before it is started, so that an interrupt meanwhile does not leave it behind.
        self._lanes.append(Lane(opening, self._free, self.news))
        self._lanes[-1].start()


@contextmanager
def _proven(open_connection: Callable[[], psycopg.Connection]) -> Iterator[psycopg.Connection]:
    with closing(open_connection()) as connection:
        # A pooler accepts clients for whom it has no session left; better that this waits than a batch.
        connection.execute("select 1")
        connection.rollback()
        yield connection


def _cut(connection: psycopg.Connection) -> None:
    """End the wait for a server that does not answer: whoever closes the connection would wait for the thread."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)

"""Whether the hub can answer: the database does, and has the migrations of this program."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg

from opskpi.errors import OpsKpiError
from opskpi.hub.deadlines import CONNECT_S
from opskpi.hub.problems import unavailable
from opskpi.postgres import connecting, history

KEPT_S = 1

log = logging.getLogger("opskpi.hub")


class Readiness:
    """Looks at the database at most once a second, however many ask, since anybody may ask."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._began = 0.0
        self._look: asyncio.Future[str | None] | None = None

    async def require(self) -> None:
        """Raise Problem, 503, unless the hub is ready."""
        if self._look is None or (self._look.done() and time.monotonic() >= self._began + KEPT_S):
            self._look = _in_a_thread(self._find_fault)
            self._began = time.monotonic()
        # A look that takes longer goes on, and whoever asks next learns of its end.
        await asyncio.wait((self._look,), timeout=max(0.0, self._began + CONNECT_S - time.monotonic()))
        fault = self._look.result() if self._look.done() else "the database does not answer"
        if fault:
            raise unavailable(fault)

    def _find_fault(self) -> str | None:
        """What is wrong, None when all is well."""
        try:
            with connecting.connect(self._dsn) as connection:
                try:
                    history.require_current(connection)
                except OpsKpiError as error:
                    return error.message
        except (OpsKpiError, psycopg.Error) as error:
            # Where the database is concerns whoever runs the hub, not whoever asks.
            log.warning("not ready: %s", error)
            return "the database cannot be reached"
        return None


def _in_a_thread(look: Callable[[], str | None]) -> asyncio.Future[str | None]:
    """The result of a call that may block for ever; unlike one of `asyncio.to_thread`, its thread delays no exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str | None] = loop.create_future()

    def settle(fault: str | None) -> None:
        if not future.done():
            future.set_result(fault)

    def run() -> None:
        fault = look()
        # The hub may have ended meanwhile.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, fault)

    threading.Thread(target=run, daemon=True).start()
    return future

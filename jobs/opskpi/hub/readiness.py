"""Whether the hub can answer: the database does, and has the migrations of this program."""

import asyncio
import logging
import time

import psycopg

from opskpi.errors import OpsKpiError
from opskpi.hub.problems import unavailable
from opskpi.postgres import connecting, migrations

KEPT_S = 1

log = logging.getLogger("opskpi.hub")


class Readiness:
    """Looks at the database at most once a second, however many ask, since anybody may ask."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._looking = asyncio.Lock()
        self._looked_at = -float(KEPT_S)
        self._fault: str | None = None

    async def require(self) -> None:
        """Raise Problem, 503, unless the hub is ready."""
        async with self._looking:
            if time.monotonic() >= self._looked_at + KEPT_S:
                self._fault = await asyncio.to_thread(self._look)
                self._looked_at = time.monotonic()
            fault = self._fault
        if fault:
            raise unavailable(fault)

    def _look(self) -> str | None:
        """What is wrong, None when all is well."""
        try:
            with connecting.connect(self._dsn) as connection:
                try:
                    migrations.require_current(connection)
                except OpsKpiError as error:
                    return error.message
        except (OpsKpiError, psycopg.Error) as error:
            # Where the database is concerns whoever runs the hub, not whoever asks.
            log.warning("not ready: %s", error)
            return "the database cannot be reached"
        return None

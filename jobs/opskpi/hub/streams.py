"""Answers as long as they turn out to be: sent as they come, cut off recognisably, and given up with the caller."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress

import psycopg
from fastapi import Response
from starlette.types import Receive, Scope, Send

from opskpi.errors import OpsKpiError
from opskpi.hub.database import EXPORT_S

# Who takes nothing for so long keeps a connection to the database from others.
STALL_S = 60
# The server has its own limit; this one counts the time of the caller, too.
GRACE_S = 10

Opened = AbstractAsyncContextManager[AsyncIterator[bytes]]

log = logging.getLogger("opskpi.hub")


class Stream(Response):
    """A body of unknown length, whose source is opened when it is sent.

    What fails before the first byte is answered as the problem that it is. What fails after it ends the connection
    without the last chunk, so that nobody takes a part for the whole. A caller who goes away ends the source at once.
    """

    def __init__(self, source: Callable[[], Opened], media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(headers=headers, media_type=media_type)
        # It is not known before the end.
        del self.headers["content-length"]
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it, unless the caller goes away."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_departure(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not sending.done():
                sending.cancel()
                with suppress(asyncio.CancelledError):
                    await sending
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        started = False
        try:
            async with asyncio.timeout(EXPORT_S + GRACE_S), self._source() as chunks:
                first = await anext(chunks, b"")
                started = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await _hand_over(send, first)
                async for chunk in chunks:
                    await _hand_over(send, chunk)
            await _hand_over(send, b"", last=True)
        except (psycopg.Error, OpsKpiError, TimeoutError) as error:
            if not started:
                raise
            # To return without the last chunk breaks the connection.
            reason = str(error).partition("\n")[0] or "it took too long"
            log.error("an export broke off: %s", reason)  # noqa: TRY400


async def _hand_over(send: Send, chunk: bytes, *, last: bool = False) -> None:
    if chunk or last:
        async with asyncio.timeout(STALL_S):
            await send({"type": "http.response.body", "body": chunk, "more_body": not last})


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

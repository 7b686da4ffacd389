"""Times within which the hub answers, whatever becomes of the database."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

# A hook client gives up after 5 s: what is answered later is answered to nobody.
ANSWER_S = 4.5
# Of that, one call of the database.
CALL_S = 4.2
# How long a connection to the database may take to come about: whoever asks while it is away waits no longer.
CONNECT_S = 1.5

Answer = TypeVar("Answer")


async def within(seconds: float, work: Coroutine[Any, Any, Answer]) -> Answer:
    """What the work returns or raises. Raises TimeoutError when it takes longer, however long it takes to cancel it.

    `asyncio.timeout` waits for the end of what it cancels, and psycopg tries for 10 s to cancel a statement on a server
    that does not answer. The work ends in the background.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
        if not done:
            raise TimeoutError
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    # An exception that nobody looks at would be logged.
    if not task.cancelled():
        task.exception()

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
    loop = asyncio.get_running_loop()
    task, ended = loop.create_task(work), loop.create_future()

    def wake(*_: object) -> None:
        if not ended.done():
            ended.set_result(None)

    # What `asyncio.wait` does for one task, in half the time.
    task.add_done_callback(wake)
    timer = loop.call_later(seconds, wake)
    try:
        await ended
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        timer.cancel()
        if not task.done():
            task.cancel()
            task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    # An exception that nobody looks at would be logged.
    if not task.cancelled():
        task.exception()

"""Times within which the hub answers, whatever becomes of the database."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

# A hook client gives up after 5 s: a later answer reaches nobody.
ANSWER_S = 4.5
# Of that, one call of the database.
CALL_S = 4.2
# How long a connection to the database may take to come about; a request waits no longer while the database is away.
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

    # `asyncio.wait` would do the same for one task in twice the time.
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
    # An exception that nobody retrieves would be logged.
    if not task.cancelled():
        task.exception()

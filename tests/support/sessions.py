"""Two sessions at once, in explicit steps: what the other one waits for, and a call that blocks beside the test."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from .events import Connection, scalar
from .patience import PATIENCE_S


def waits_for(watcher: Connection, worker: Connection, event: str) -> bool:
    """Whether the worker waits for a lock ("Lock") or sleeps ("Timeout")."""
    query = "select wait_event_type from pg_stat_activity where pid = %s"
    return scalar(watcher, query, worker.info.backend_pid) == event


@contextmanager
def in_background(call: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run one blocking call; what it returned or raised is in the list after the block."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(call())
        except psycopg.Error as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield answers
    finally:
        thread.join(timeout=PATIENCE_S)
        assert not thread.is_alive(), "the call still blocks"

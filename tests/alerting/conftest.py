"""Fixtures of the tests of alerting: a receiver of messages on this machine, channels, and messages that wait."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.outboxes import queue_message
from support.receivers import HttpTarget, http_target


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpTarget]:
    """Run an HTTP server that takes messages, which no proxy is asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http_target() as target:
        yield target


@pytest.fixture
def new_channel(database: psycopg.Connection) -> Callable[..., None]:
    """Add a channel: `new_channel("ops", kind="webhook", secret_env="OPS_URL", settings={}, max_attempts=15)`."""

    def add(name: str = "ops", **columns: Any) -> None:
        row = {"kind": "webhook", "secret_env": "OPS_URL", "settings": {}, "max_attempts": 15} | columns
        database.execute(
            "insert into ops.alert_channels (channel_name, kind, secret_env, settings, max_attempts)"
            " values (%(name)s, %(kind)s, %(secret_env)s, %(settings)s, %(max_attempts)s)",
            row | {"name": name, "settings": Jsonb(row["settings"])},
        )

    return add


@pytest.fixture
def new_message(database: psycopg.Connection) -> Callable[..., int]:
    """Write a message to the outbox: `new_message("title", channel="ops", group="checkout", status="firing")`."""
    return partial(queue_message, database)

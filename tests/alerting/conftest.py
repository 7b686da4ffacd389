"""Fixtures of the tests of alerting: a receiver of messages on this machine."""

from collections.abc import Iterator

import pytest

from support.receivers import HttpTarget, http_target


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpTarget]:
    """Run an HTTP server that takes messages, which no proxy is asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http_target() as target:
        yield target

"""Pieces that the tests of the collector share."""

from collections.abc import Iterator

import pytest

from support.rest_api import Rest, rest_api


@pytest.fixture
def rest() -> Iterator[Rest]:
    """Run a stand-in for GitHub's REST API that knows no run yet."""
    with rest_api() as serving:
        yield serving

"""Fixtures of the tests of anonymisation: one instant for all that is compared."""

from collections.abc import Iterator

import pytest

from support.events import Connection


@pytest.fixture
def at_one_instant(database: Connection) -> Iterator[Connection]:
    """One transaction, in which now() stands still: what the views say of now can be compared."""
    with database.transaction(force_rollback=True):
        yield database

"""Fixtures of the pass: a database in which transactions may be left prepared."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from support.events import Connection, rows


@pytest.fixture
def prepared(database: psycopg.Connection) -> Iterator[Connection]:
    """The test's own database; what it leaves prepared is rolled back."""
    yield database
    for (name,) in rows(database, "select gid from pg_prepared_xacts where database = current_database()"):
        database.execute(sql.SQL("rollback prepared {}").format(name))

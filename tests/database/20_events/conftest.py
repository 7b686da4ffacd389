"""Fixtures of the tests of valid events: one database for a session, in which nothing stays."""

from collections.abc import Iterator

import psycopg
import pytest

from support.events import Connection
from support.postgres import Database, Server, janitor


@pytest.fixture(scope="session")
def event_database(server: Server, template: Database) -> Iterator[Connection]:
    """Connect to a database that tests share; each rolls back what it does."""
    with (
        janitor(server, "valid_events", template=template.name),
        psycopg.connect(server.dsn("valid_events"), autocommit=True) as connection,
    ):
        yield connection


@pytest.fixture
def undone(event_database: Connection) -> Iterator[Connection]:
    """Connect to that database in a transaction that is rolled back."""
    with event_database.transaction(force_rollback=True):
        yield event_database

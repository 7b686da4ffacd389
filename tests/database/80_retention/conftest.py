"""Fixtures of the tests of the retention: months that are over."""

from typing import Any

import pytest
from psycopg import sql

from support.events import (
    MONTHS,
    Connection,
    add_audit,
    refresh,
    rows,
)
from support.retention import add_month


@pytest.fixture
def three_months(database: Connection) -> Connection:
    """Store and count three months in partitions of their own, and an event of 2019 in the default one."""
    for month in MONTHS:
        database.execute("select ops.create_partition(%s)", [f"{month}-01"])
        add_month(database, month)
    add_audit(database, 1, "2026-01-15T10:00Z")
    refresh(database)
    return database


@pytest.fixture
def prepared_months(three_months: Connection) -> Any:
    yield three_months
    for (name,) in rows(three_months, "select gid from pg_prepared_xacts where database = current_database()"):
        three_months.execute(sql.SQL("rollback prepared {}").format(name))

"""Room on a full disk: what failed transactions have left in the tables is given back."""

from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import class_row, scalar_row


@dataclass(frozen=True, slots=True)
class _Table:
    schema_name: str
    table_name: str


def give_back(connection: psycopg.Connection, *, with_events: bool) -> None:
    """Vacuum the tables of opskpi; `with_events` the events as well, which takes the longest.

    `connection` is in autocommit mode. The vacuum of a table needs a few pages itself. The empty partitions of the
    months to come are the reserve for them: they are dropped before and made again after. A table for which there is
    no room even so is left as it is.
    """
    connection.execute("select ops.note_full_disk()")
    with suppress(psycopg.errors.DiskFull):
        connection.execute("select ops.drop_months_ahead()")
    _vacuum(connection, with_events, 131_072)
    with suppress(psycopg.errors.DiskFull):
        connection.execute("select ops.maintain()")


def is_short(connection: psycopg.Connection) -> bool:
    """Whether the disk was found full within the last hour."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        (found,) = cursor.execute("select ops.is_disk_full()").fetchall()
    return found


def is_prepared(connection: psycopg.Connection) -> bool:
    """Whether a vacuum of what is counted needs no page that it does not have: one has run before."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        (found,) = cursor.execute("select pg_relation_size('public.kpi_aggregations', 'vm') > 0").fetchall()
    return found


def prepare(connection: psycopg.Connection) -> None:
    """Vacuum what has been counted for the first time, while there is a page for it."""
    _vacuum(connection, with_events=False, larger_than=32_768)


def _vacuum(connection: psycopg.Connection, with_events: bool, larger_than: int) -> None:
    with connection.cursor(row_factory=class_row(_Table)) as cursor:
        tables = cursor.execute(
            "select schema_name, table_name from ops.vacuumed_tables(with_events => %s, larger_than => %s)",
            [with_events, larger_than],
        ).fetchall()
    for table in tables:
        name = sql.Identifier(table.schema_name, table.table_name)
        with suppress(psycopg.errors.DiskFull, psycopg.errors.UndefinedTable):
            # With its indexes, which the automatic choice leaves out where few rows are dead.
            connection.execute(sql.SQL("vacuum (skip_locked, index_cleanup on) {}").format(name))

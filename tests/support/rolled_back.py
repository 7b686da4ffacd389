"""A connection whose work is rolled back: every test finds the shared database as the migrations left it.

To the test it is a connection in autocommit mode. Each statement outside of a transaction block runs in a savepoint, so
that a refused one undoes itself alone, and at its end the deferred constraints are checked, as a commit would.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, Self

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from .postgres import Database

CHECK_CONSTRAINTS = "set constraints all immediate; set constraints all deferred"
# What `set local` and `set_config(…, true)` change lasts until the end of a transaction, and a savepoint's end is none.
LOCAL_SETTINGS = [
    "role",
    "request.jwt.claims",
    "row_security",
    "timezone",
    "statement_timeout",
    "opskpi.anonymisation_key",
]
SEQUENCES: LiteralString = """
select sequence.seqrelid::bigint, coalesce(used.last_value, used.start_value), used.last_value is not null
from pg_catalog.pg_sequence as sequence
join pg_catalog.pg_class as relation
  on relation.oid = sequence.seqrelid
join pg_catalog.pg_sequences as used
  on used.schemaname = relation.relnamespace::regnamespace::text
  and used.sequencename = relation.relname
"""
RESTORE_SEQUENCES = """
select setval(id::regclass, last, used)
from unnest(%s::bigint[], %s::bigint[], %s::bool[]) as sequence (id, last, used)
"""
# Rows that were rolled back stay in the files, and every later test would read past them.
GROWN = """
select oid::regclass::text
from pg_catalog.pg_class
where relkind = 'r'
  and relnamespace in ('ops'::regnamespace, 'public'::regnamespace)
  and pg_catalog.pg_relation_size(oid) > 65536
"""


class Cursor(psycopg.Cursor[Any]):
    """Runs each statement as a connection in autocommit mode does."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        with _connection_of(self).statement():
            return super().execute(query, params, **options)

    def executemany(self, query: Any, params_seq: Iterable[Any], *, returning: bool = False) -> None:
        with _connection_of(self).statement():
            super().executemany(query, params_seq, returning=returning)

    @contextmanager
    def copy(self, statement: Any, params: Any = None, **options: Any) -> Iterator[psycopg.Copy]:
        with _connection_of(self).statement(), super().copy(statement, params, **options) as copying:
            yield copying


class Info(psycopg.ConnectionInfo):
    """Keeps to itself how another connection could be made: it would see nothing of the test, and what it does stays."""

    @property
    def dbname(self) -> str:
        raise AssertionError("this test connects again: mark it with own_database")

    @property
    def dsn(self) -> str:
        return self.dbname


class RolledBack(psycopg.Connection[Any]):
    """The connection; `begin` and `undo` are for the fixture, all else is for the test."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.blocks = 0
        self.added_handlers: list[Any] = []

    @property
    def info(self) -> Info:
        return Info(self.pgconn)

    @contextmanager
    def statement(self) -> Iterator[None]:
        """Enclose a statement in a savepoint, unless a transaction block does it already."""
        if self.blocks:
            yield
        else:
            with self.transaction(local_settings=False):
                yield

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False, *, local_settings: bool = True
    ) -> Iterator[psycopg.Transaction]:
        outermost = self.blocks == 0
        self.blocks += 1
        try:
            before = self._settings() if outermost and local_settings else None
            with super().transaction(savepoint_name, force_rollback) as block:
                yield block
                if outermost and not force_rollback and self.info.transaction_status == TransactionStatus.INTRANS:
                    self.execute(CHECK_CONSTRAINTS)
            if before is not None:
                self._restore(before)
        finally:
            self.blocks -= 1

    def _settings(self) -> list[tuple[str, str]]:
        with self.cursor(row_factory=tuple_row) as cursor:
            query = "select name, coalesce(current_setting(name, true), '') from unnest(%s::text[]) as name"
            return cursor.execute(query, [LOCAL_SETTINGS]).fetchall()

    def _restore(self, before: list[tuple[str, str]]) -> None:
        for name, value in before:
            self.execute("select set_config(%s, %s, true)", [name, value])

    def add_notice_handler(self, callback: Callable[[psycopg.errors.Diagnostic], None]) -> None:
        self.added_handlers.append(callback)
        super().add_notice_handler(callback)

    def commit(self) -> None:
        raise AssertionError("this test commits: mark it with own_database")

    def rollback(self) -> None:
        raise AssertionError("this test rolls back: mark it with own_database")

    def begin(self) -> None:
        self.pgconn.exec_(b"begin")

    def undo(self) -> bool:
        """Roll back, and say whether nothing was committed meanwhile and the connection can be used again."""
        kept = self.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)
        for handler in self.added_handlers:
            self.remove_notice_handler(handler)
        self.added_handlers.clear()
        self.row_factory = tuple_row
        return kept and not self.closed and self.pgconn.exec_(b"rollback").status == psycopg.pq.ExecStatus.COMMAND_OK


def in_transaction_block(connection: psycopg.Connection[Any]) -> bool:
    """Say whether the test has opened a transaction itself."""
    if isinstance(connection, RolledBack):
        return connection.blocks > 0
    return connection.info.transaction_status != TransactionStatus.IDLE


def _connection_of(cursor: psycopg.Cursor[Any]) -> RolledBack:
    assert isinstance(cursor.connection, RolledBack)
    return cursor.connection


@dataclass(slots=True)
class SharedDatabase:
    """A migrated database that the tests of a session share, and the one connection to it."""

    connection: RolledBack
    sequences: list[tuple[int, int, bool]]

    @classmethod
    @contextmanager
    def connect(cls, database: Database) -> Iterator[Self]:
        with closing(RolledBack.connect(database.dsn, autocommit=True, cursor_factory=Cursor)) as connection:
            yield cls(connection, psycopg.Cursor(connection).execute(SEQUENCES).fetchall())

    @contextmanager
    def test(self) -> Iterator[RolledBack]:
        """Lend the connection to a test, and undo what the test did, ids drawn included."""
        self.connection.begin()
        try:
            yield self.connection
        finally:
            if self.connection.undo():
                numbers = [list(column) for column in zip(*self.sequences, strict=True)]
                cursor = psycopg.Cursor(self.connection)
                cursor.execute(RESTORE_SEQUENCES, numbers)
                for (table,) in cursor.execute(GROWN).fetchall():
                    cursor.execute(sql.SQL("vacuum {}").format(sql.SQL(table)))
            else:
                self.connection.close()

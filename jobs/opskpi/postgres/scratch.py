"""A copy of a replica, dropped afterwards: it takes the writes of commands that roll them back."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import scalar_row

from opskpi.postgres import connecting, migrations

PREFIX = "opskpi_scratch_"
FORGOTTEN_S = 24 * 3600
# Secrets, traces of requests, and KPIs, which objectives never read.
LEFT_OUT = ["ops.api_keys", "ops.ended_sessions", "ops.request_counts", "public.kpi_aggregations"]
TABLES = """
  select
    table_class.oid::regclass::text as name,
    array_agg(quote_ident(attribute.attname) order by attribute.attnum) as columns
  from pg_class as table_class
  join pg_attribute as attribute on attribute.attrelid = table_class.oid
  where table_class.relnamespace in ('public'::regnamespace, 'ops'::regnamespace)
    and table_class.relkind in ('r', 'p')
    and not table_class.relispartition
    and attribute.attnum > 0
    and not attribute.attisdropped
    and attribute.attgenerated = ''
  group by table_class.oid
  order by table_class.oid
"""
PARTITIONS = """
  select
    partition.oid::regclass::text as name,
    inherits.inhparent::regclass::text as parent,
    pg_get_expr(partition.relpartbound, partition.oid) as bound
  from pg_inherits as inherits
  join pg_class as partition on partition.oid = inherits.inhrelid
  where partition.relispartition
    and partition.relkind = 'r'
    and partition.relnamespace in ('public'::regnamespace, 'ops'::regnamespace)
"""
SEQUENCES = """
  select format('%I.%I', schemaname, sequencename) as name, last_value
  from pg_sequences
  where schemaname in ('public', 'ops')
    and last_value is not null
"""


@contextmanager
def writable(connection: psycopg.Connection, notify: Callable[[str], None]) -> Iterator[psycopg.Connection]:
    """The connection; where it is to a replica, one to a copy of its database in the embedded Postgres.

    `notify` gets one line before the copy is made. Raises OpsKpiError when the embedded server cannot run.
    """
    if connection.execute("show transaction_read_only").fetchone() != ("on",):
        yield connection
        return
    notify("the database is a replica, so the definitions are tried on a copy of it in the embedded Postgres")
    from opskpi.postgres import embedded  # noqa: PLC0415 - few databases are replicas

    with connecting.connect(embedded.ensure_running(notify)) as server:
        _drop_forgotten(server)
        name = f"{PREFIX}{time.time_ns()}"
        server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            with connecting.connect(make_conninfo(server.info.dsn, dbname=name)) as copy:
                migrations.migrate(copy)
                _copy(connection, copy)
                yield copy
        finally:
            _drop(server, name)


def _copy(source: psycopg.Connection, target: psycopg.Connection) -> None:
    """Give the target the rows of the source, as they are at one moment."""
    with target.transaction(), connecting.unfiltered(source):
        source.execute("set transaction isolation level repeatable read")
        # Neither triggers nor foreign keys: the rows have passed them.
        target.execute("set local session_replication_role = replica")
        standing = {name: columns for name, columns in target.execute(TABLES).fetchall() if name not in LEFT_OUT}
        # A user may have tables of their own beside ours.
        found = {name for name, _ in source.execute(TABLES).fetchall()} & standing.keys()
        target.execute(sql.SQL("truncate {} cascade").format(sql.SQL(", ").join(map(_as_written, standing))))
        _make_partitions(source, target)
        for name in found:
            _copy_table(source, target, name, standing[name])
        for name, last in source.execute(SEQUENCES).fetchall():
            target.execute("select setval(%s::regclass, %s)", [name, last])
    target.execute("analyze")


def _make_partitions(source: psycopg.Connection, target: psycopg.Connection) -> None:
    known = {name for name, _, _ in target.execute(PARTITIONS).fetchall()}
    for name, parent, bound in source.execute(PARTITIONS).fetchall():
        if name not in known:
            words = (_as_written(name), _as_written(parent), _as_written(bound))
            target.execute(sql.SQL("create table {} partition of {} {}").format(*words))


def _copy_table(source: psycopg.Connection, target: psycopg.Connection, name: str, columns: list[str]) -> None:
    written = sql.SQL(", ").join(map(_as_written, columns))
    reads = sql.SQL("copy (select {} from {}) to stdout").format(written, _as_written(name))
    writes = sql.SQL("copy {} ({}) from stdin").format(_as_written(name), written)
    with source.cursor().copy(reads) as rows, target.cursor().copy(writes) as copied:
        for chunk in rows:
            copied.write(chunk)


def _as_written(text: str) -> sql.SQL:
    # Postgres itself has quoted it.
    return sql.SQL(text)  # type: ignore[arg-type]


def _drop_forgotten(server: psycopg.Connection) -> None:
    """Drop the copies of runs that were killed."""
    with server.cursor(row_factory=scalar_row) as cursor:
        names = cursor.execute("select datname from pg_database where starts_with(datname, %s)", [PREFIX]).fetchall()
    for name in names:
        if int(name.removeprefix(PREFIX)) / 1e9 < time.time() - FORGOTTEN_S:
            _drop(server, name)


def _drop(server: psycopg.Connection, name: str) -> None:
    server.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

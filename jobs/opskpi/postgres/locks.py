"""Locks on the tables of the schema that a statement waits for in short turns, and who holds them meanwhile."""

from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row

PASSES = ("ops.refresh", "ops.evaluate_alerts")
MIGRATION = "opskpi.migrate"
MOST_NAMED = 3

# The functions of `ops` may not exist yet, so the query stands here. A prepared transaction has no session.
_HOLDERS = """
with prepared as (
  select own.virtualtransaction, min(prepared.gid) as gid, min(prepared.prepared) as prepared
  from pg_catalog.pg_locks as own
  join pg_catalog.pg_prepared_xacts as prepared
    on prepared.transaction = own.transactionid
  where own.locktype = 'transactionid'
    and own.pid is null
  group by 1
),
held as (
  select lock.pid, lock.virtualtransaction, 8 as strength, 'the lock of a running job' as lock_name
  from pg_catalog.pg_locks as lock
  join unnest(%(jobs)s::text[]) as job (name)
    on (lock.classid::bigint << 32 | lock.objid::bigint) = hashtextextended(job.name, 0)
  where lock.granted
    and lock.locktype = 'advisory'
    and lock.database = (select oid from pg_catalog.pg_database where datname = current_database())
  union all
  select
    lock.pid,
    lock.virtualtransaction,
    array_position(%(modes)s::text[], lock.mode),
    format('%%s on %%s', lock.mode, lock.relation::regclass)
  from pg_catalog.pg_locks as lock
  join pg_catalog.pg_class as relation
    on relation.oid = lock.relation
  where lock.granted
    and lock.database = (select oid from pg_catalog.pg_database where datname = current_database())
    and relation.relkind in ('r', 'p')
    and relation.relnamespace::regnamespace::text in ('public', 'ops')
)
select
  held.pid,
  prepared.gid,
  activity.usename as role_name,
  activity.application_name,
  extract(epoch from clock_timestamp() - coalesce(activity.xact_start, prepared.prepared))::float as held_s,
  (array_agg(held.lock_name order by held.strength desc, held.lock_name))[1] as lock_name
from held
left join pg_catalog.pg_stat_activity as activity
  on activity.pid = held.pid
left join prepared
  on held.pid is null
  and prepared.virtualtransaction = held.virtualtransaction
where held.pid is distinct from pg_backend_pid()
group by 1, 2, 3, 4, coalesce(activity.xact_start, prepared.prepared)
order by coalesce(activity.xact_start, prepared.prepared), held.pid
limit %(most)s
"""
_MODES = (
    "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock",
    "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Holder:
    """A session, or a prepared transaction (`gid`), that holds a lock; what the server does not tell is None."""

    pid: int | None
    gid: str | None
    role_name: str | None
    application_name: str | None
    held_s: float | None
    lock_name: str

    def __str__(self) -> str:
        """Name it as a sentence does."""
        if self.gid is not None:
            named = f"the prepared transaction {self.gid!r}"
        else:
            known = ", ".join(filter(None, [self.role_name, self.application_name]))
            named = f"session {self.pid}" + (f" ({known})" if known else "")
        age = "" if self.held_s is None else f", in a transaction for {self.held_s:.0f} s,"
        return f"{named}{age} holds {self.lock_name}"

    @property
    def remedy(self) -> str:
        """The statement that ends it."""
        if self.gid is not None:
            return f"rollback prepared '{self.gid}'"
        return f"select pg_terminate_backend({self.pid})"


def holders(connection: psycopg.Connection) -> list[Holder]:
    """The other sessions with locks on tables of `public` and `ops`, or in one of our jobs, the oldest first."""
    values = {"jobs": [*PASSES, MIGRATION], "modes": [*_MODES], "most": MOST_NAMED}
    with connection.cursor(row_factory=class_row(Holder)) as cursor:
        return cursor.execute(_HOLDERS, values).fetchall()


def in_turns(connection: psycopg.Connection, longest_wait_s: float) -> None:
    """Let the statements of this transaction wait for a lock no longer than others may queue behind them.

    The server also ends the transaction soon after this process has died, where its system can tell.
    """
    connection.execute("select set_config('lock_timeout', %s, true)", [f"{longest_wait_s * 1000:.0f}ms"])
    connection.execute(
        "do $$ begin perform set_config('client_connection_check_interval', '2s', true);"
        " exception when invalid_parameter_value then null; end $$"
    )


def exclude_jobs(connection: psycopg.Connection) -> None:
    """Keep other migrations, counting and alerting out while this transaction lasts.

    A pass that began with the functions of before would go on with those of afterwards.
    """
    for name in (MIGRATION, *PASSES):
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])

"""Locks that a transaction waits for in short turns, because others queue behind it, and who holds them meanwhile."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import psycopg
from psycopg.rows import class_row

T = TypeVar("T")

TURN_S = 1.0
LONGEST_PAUSE_S = 5.0
LOOKS_PER_TURN = 5
MOST_NAMED = 3
_NOT_FREE = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)

# The functions of `ops` may not exist yet, so the query stands here. A prepared transaction has no session.
_BLOCKERS = """
with waited as (
  select
    lock.*,
    case lock.locktype
      when 'relation' then format('%%s on %%s', lock.mode, lock.relation::regclass)
      when 'advisory' then 'the lock of the running jobs'
      else 'the end of its transaction'
    end as lock_name
  from pg_catalog.pg_locks as lock
  where lock.pid = %(pid)s
    and not lock.granted
  limit 1
)
select
  waited.lock_name,
  activity.pid,
  prepared.gid,
  activity.usename as role_name,
  activity.application_name,
  extract(epoch from clock_timestamp() - coalesce(activity.xact_start, prepared.prepared))::float as held_s,
  case
    when activity.pid is not null then format('select pg_terminate_backend(%%s)', activity.pid)
    else format('rollback prepared %%L', prepared.gid)
  end as remedy
from waited
cross join (select distinct blocking.pid from unnest(pg_catalog.pg_blocking_pids(%(pid)s)) as blocking (pid)) as blocker
left join pg_catalog.pg_stat_activity as activity
  on activity.pid = blocker.pid
left join lateral (
  select prepared.gid, prepared.prepared
  from pg_catalog.pg_locks as held
  join pg_catalog.pg_locks as own
    on own.virtualtransaction = held.virtualtransaction
    and own.locktype = 'transactionid'
    and own.pid is null
  join pg_catalog.pg_prepared_xacts as prepared
    on prepared.transaction = own.transactionid
  where blocker.pid = 0
    and held.pid is null
    and (held.locktype, held.database, held.relation, held.transactionid) is not distinct from
      (waited.locktype, waited.database, waited.relation, waited.transactionid)
    and (held.classid, held.objid, held.objsubid) is not distinct from (waited.classid, waited.objid, waited.objsubid)
) as prepared on true
where coalesce(activity.pid::text, prepared.gid) is not null
order by coalesce(activity.xact_start, prepared.prepared) nulls last, activity.pid
limit %(most)s
"""


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session, or a prepared transaction (`gid`), that has the lock; what the server does not tell is None."""

    lock_name: str
    pid: int | None
    gid: str | None
    role_name: str | None
    application_name: str | None
    held_s: float | None
    remedy: str

    def __str__(self) -> str:
        """Name it as a sentence does."""
        known = ", ".join(filter(None, [self.role_name, self.application_name]))
        named = f"session {self.pid}" + (f" ({known})" if known else "")
        named = named if self.gid is None else f"the prepared transaction {self.gid!r}"
        return named + ("" if self.held_s is None else f", in a transaction for {self.held_s:.0f} s")


class NotFreeError(Exception):
    """A lock was not free in time; the message says which one and who has it, `remedy` ends the oldest of them."""

    def __init__(self, blockers: list[Blocker]) -> None:
        super().__init__(_described(blockers))
        self.remedy = blockers[0].remedy if blockers else ""


class Watch:
    """Looks from a second connection who blocks a transaction, as soon as it takes longer than a part of a turn."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.blockers: list[Blocker] = []
        self._connection = connection
        self._pid: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="opskpi-lock-watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._over.set()
        if error is None or isinstance(error, Exception):
            self._thread.join()

    def begin(self) -> None:
        """Let the transaction that has begun wait for a lock for one turn, and for nothing else without end.

        The server also ends the transaction soon after this process has died, where its system can tell.
        """
        self._connection.execute(
            "select set_config(setting.name, given.value, true) from (values ('lock_timeout', %s),"
            " ('statement_timeout', '0'), ('transaction_timeout', '0'), ('standard_conforming_strings', 'on'))"
            " as given (name, value) join pg_catalog.pg_settings as setting on setting.name = given.name",
            [f"{TURN_S * 1000:.0f}ms"],
        )
        self._connection.execute(
            "do $$ begin perform set_config('client_connection_check_interval', '2s', true);"
            " exception when invalid_parameter_value then null; end $$"
        )
        # Behind a pooler it is another server process with each transaction.
        [self._pid] = self._connection.execute("select pg_backend_pid()").fetchone() or [None]

    def _look(self) -> None:
        info = self._connection.info
        if self._over.wait(TURN_S / LOOKS_PER_TURN):
            return
        # Without a second connection nobody is named; that must not stop the first.
        try:
            with psycopg.connect(
                info.dsn, password=info.password, autocommit=True, connect_timeout=5, prepare_threshold=None
            ) as beside:
                cursor = beside.cursor(row_factory=class_row(Blocker))
                while not self._over.is_set():
                    found = cursor.execute(_BLOCKERS, {"pid": self._pid, "most": MOST_NAMED}).fetchall()
                    self.blockers = found or self.blockers
                    self._over.wait(TURN_S / LOOKS_PER_TURN)
        except psycopg.Error:
            return


def patiently(
    connection: psycopg.Connection,
    attempt: Callable[[Watch], T],
    *,
    notify: Callable[[str], None],
    patience_s: float,
) -> T:
    """Attempt a transaction again and again while another session holds a lock that it needs; return its result.

    `attempt` calls `begin` of its watch first. `notify` is told once who is waited for. Raises NotFreeError when the
    lock is not free for `patience_s`.
    """
    until = time.monotonic() + patience_s
    pause = TURN_S
    told = False
    blockers: list[Blocker] = []
    while True:
        with Watch(connection) as watch:
            try:
                return attempt(watch)
            except _NOT_FREE as error:
                # The holder of the turn before is named if this turn was too short to see one.
                blockers = watch.blockers or blockers
                if time.monotonic() + pause > until:
                    raise NotFreeError(blockers) from error
        if not told:
            notify(f"waiting for {_described(blockers)}")
            told = True
        # Reads and writes that queued behind this one go on meanwhile.
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_S)


def _described(blockers: list[Blocker]) -> str:
    if not blockers:
        return "a lock that another session had until now"
    return f"{blockers[0].lock_name}, which is held by {'; '.join(map(str, blockers))}"

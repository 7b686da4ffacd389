"""Dropping a month of events through `ops.retain` against deleting it, as ratios: until the month is gone for everybody,
the longest that a writer waited meanwhile, and until the file system has removed the files, for which nobody waits.

    .venv/bin/python tests/benchmarks/life.py --events 10000000

It runs on an embedded server of its own in a temporary folder, which needs about 1 GB a million events. The server syncs
as one in use does, and the month is on disk and in no cache when it is dropped, as one that nobody reads any more.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

from run import database, draw, one, report, seconds  # noqa: E402

from opskpi.upkeep import retention  # noqa: E402
from support.postgres import Server, running_server  # noqa: E402

MONTH, NEXT_MONTH = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
AS_OF = datetime(2026, 6, 1, tzinfo=UTC)
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
}
INSERT = "insert into public.telemetry_events (event_type) values ('workflow_run') returning id"
GONE = "select to_regclass('ops.telemetry_events_2026_01') is null"
FILES = """
  select current_setting('data_directory') || '/' || pg_relation_filepath(member.oid)
  from (
    select 'ops.telemetry_events_2026_01'::regclass::oid as oid
    union all
    select indexrelid from pg_index where indrelid = 'ops.telemetry_events_2026_01'::regclass
  ) as member
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="events of the month (default 10,000,000)")
    arguments = parser.parse_args()
    with (
        running_server("18", SETTINGS, in_memory=False) as server,
        database(server, "life") as connection,
    ):
        fill(connection, arguments.events)
        measure(server, connection)


def fill(connection: psycopg.Connection, events: int) -> None:
    """Draw the month and count it: retention removes nothing that is not counted."""
    connection.execute("select ops.create_partition(%s)", [MONTH.date()])
    for start in range(0, events, 1_000_000):
        draw(connection, MONTH, NEXT_MONTH, min(1_000_000, events - start))
    while one(connection, "select state from ops.refresh(interval '1 second', 2000000)") == "more":
        pass
    connection.execute("vacuum analyze ops.telemetry_events_2026_01")


def measure(server: Server, connection: psycopg.Connection) -> None:
    """Delete the month and take that back, then drop it beside a writer."""
    connection.execute("checkpoint")
    with connection.transaction(force_rollback=True):
        deleted = seconds(lambda: connection.execute("delete from ops.telemetry_events_2026_01"))
    connection.execute("select ops.set_retention('events', '90 days')")
    let_cool(connection)
    outcome = retention.Outcome()

    def drop() -> None:
        outcome.freed = retention.run(connection, as_of=AS_OF).freed

    with writer(server.dsn("life")) as seen:
        dropped = seconds(drop)
    for freed in outcome.freed:
        print(retention.in_words(freed), flush=True)
    print(
        f"gone in {seen.gone:.3f} s, a writer waited {seen.waited:.3f} s at most, files removed after {dropped:.3f} s,"
        f" deleted in {deleted:.1f} s"
    )
    report("a dropped month is gone for everybody / deleting it", seen.gone / deleted, "at most 0.01")
    report("the longest that a writer waited / deleting it", seen.waited / deleted, "at most 0.01")
    report(
        "dropping it until its files are removed / deleting it",
        dropped / deleted,
        "the file system's part, after the locks",
    )


@dataclass(slots=True)
class Seen:
    """What a writer saw: seconds until the month was gone, and the longest that one insert took."""

    gone: float = 0.0
    waited: float = 0.0


@contextmanager
def writer(dsn: str) -> Iterator[Seen]:
    """Insert events, one after the other, as long as the context lasts."""
    seen, began, ended = Seen(), threading.Event(), threading.Event()

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            one(connection, INSERT)
            began.set()
            started = time.perf_counter()
            while not ended.is_set():
                seen.waited = max(seen.waited, seconds(lambda: one(connection, INSERT)))
                if not seen.gone and one(connection, GONE):
                    seen.gone = time.perf_counter() - started

    thread = threading.Thread(target=write)
    thread.start()
    began.wait()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def let_cool(connection: psycopg.Connection) -> None:
    """Write everything to disk and have the system forget the pages of the month."""
    connection.execute("checkpoint")
    os.sync()
    for (first,) in connection.execute(FILES).fetchall():
        for segment in Path(first).parent.glob(Path(first).name + "*"):
            file = os.open(segment, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


if __name__ == "__main__":
    main()

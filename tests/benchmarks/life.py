"""Dropping a month of events through `ops.retain` against deleting it, as a ratio.

    .venv/bin/python tests/benchmarks/life.py --events 10000000

It runs on an embedded server of its own in a temporary folder, which needs about 1 GB a million events. The server syncs
as one in use does, and the month is on disk and in no cache when it is dropped, as one that nobody reads any more.
"""

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import psycopg

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

from run import database, draw, one, report, seconds  # noqa: E402

from opskpi import retention  # noqa: E402
from postgres import running_server  # noqa: E402

MONTH, NEXT_MONTH = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
AS_OF = datetime(2026, 6, 1, tzinfo=UTC)
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
}
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
        measure(connection)


def fill(connection: psycopg.Connection, events: int) -> None:
    """Draw the month and count it: retention removes nothing that is not counted."""
    connection.execute("select ops.create_partition(%s)", [MONTH.date()])
    for start in range(0, events, 1_000_000):
        draw(connection, MONTH, NEXT_MONTH, min(1_000_000, events - start))
    while one(connection, "select state from ops.refresh(interval '1 second', 2000000)") == "more":
        pass
    connection.execute("vacuum analyze ops.telemetry_events_2026_01")


def measure(connection: psycopg.Connection) -> None:
    """Delete the month and take that back, then drop it; beside it what the file system takes to remove as many bytes."""
    connection.execute("checkpoint")
    with connection.transaction(force_rollback=True):
        deleted = seconds(lambda: connection.execute("delete from ops.telemetry_events_2026_01"))
    connection.execute("select ops.set_retention('events', '90 days')")
    let_cool(connection)
    outcome = retention.Outcome()

    def drop() -> None:
        outcome.freed = retention.run(connection, as_of=AS_OF).freed

    dropped = seconds(drop)
    for freed in outcome.freed:
        print(retention.in_words(freed), flush=True)
    removed = removal_seconds(Path(str(one(connection, "show data_directory"))), outcome.freed[0].bytes or 0)
    print(f"dropped in {dropped:.3f} s, files of that size removed in {removed:.3f} s, deleted in {deleted:.1f} s")
    report("dropping a month of events / deleting it", dropped / deleted, "at most 0.01")
    report("the same without the removal of the files", max(dropped - removed, 0) / deleted, "at most 0.01")


def removal_seconds(folder: Path, size: int) -> float:
    """Seconds that the file system takes to remove files of that size in all, 1 GB each, on disk and in no cache."""
    files = [folder / f"removed-{number}" for number in range(size // 2**30 + 1)]
    for number, path in enumerate(files):
        with path.open("wb") as file:
            for _ in range(min(size - number * 2**30, 2**30) // 2**20):
                file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return seconds(lambda: [path.unlink() for path in files])


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

"""Dropping a month of events through `ops.retain` against deleting it, as a ratio.

    .venv/bin/python tests/benchmarks/life.py --events 10000000

It runs on an embedded server of its own in a temporary folder, which needs about 1 GB a million events. --dsn takes a
database that has the month already.
"""

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="events of the month (default 10,000,000)")
    parser.add_argument("--dsn", help="a migrated database whose events of January 2026 are drawn and counted")
    arguments = parser.parse_args()
    if arguments.dsn:
        with psycopg.connect(arguments.dsn, autocommit=True) as connection:
            measure(connection)
        return
    with (
        running_server("18", {"shared_buffers": "1GB", "max_wal_size": "8GB"}, in_memory=False) as server,
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
    """Delete the month and take that back, then drop it."""
    connection.execute("checkpoint")
    with connection.transaction(force_rollback=True):
        deleted = seconds(lambda: connection.execute("delete from ops.telemetry_events_2026_01"))
    connection.execute("select ops.set_retention('events', '90 days')")
    connection.execute("checkpoint")
    outcome = retention.Outcome()

    def drop() -> None:
        outcome.freed = retention.run(connection, as_of=AS_OF).freed

    dropped = seconds(drop)
    for freed in outcome.freed:
        print(retention.in_words(freed), flush=True)
    print(f"dropped in {dropped:.3f} s, deleted in {deleted:.1f} s", flush=True)
    report("dropping a month of events / deleting it", dropped / deleted, "at most 0.01")


if __name__ == "__main__":
    main()

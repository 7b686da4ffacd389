"""What a page of the dashboard asks of the database, with many events stored and with few: one ratio a page.

.venv/bin/python tests/benchmarks/pages.py --events 10000000
"""

import argparse
import json
import statistics
import sys
import time
from datetime import timedelta
from pathlib import Path

import psycopg
from psycopg.rows import scalar_row

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

from run import NOW, database, draw, report  # noqa: E402

from opskpi.dashboard import pieces  # noqa: E402
from opskpi.dashboard.layout import PAGES  # noqa: E402
from opskpi.dashboard.view import View  # noqa: E402
from support.postgres import running_server  # noqa: E402

FEW = 100_000
ROUNDS = 15
WAITING = 1_000
RANGES = ("24h", "7d", "30d")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="stored events (default 10,000,000)")
    arguments = parser.parse_args()
    with running_server("18", {"shared_buffers": "1GB", "max_wal_size": "8GB"}, in_memory=False) as server:
        with database(server, "few") as connection:
            fill(connection, FEW)
        with database(server, "many") as connection:
            fill(connection, arguments.events)
        with database(server, "few", migrated=True) as few, database(server, "many", migrated=True) as many:
            measure(few, many, arguments.events)


def fill(connection: psycopg.Connection, stored: int) -> None:
    """Store events of sixty days, counted but for the newest thousand."""
    connection.execute(
        "select ops.create_partition(month::date) from generate_series(%s, %s, interval '1 month') as month",
        [NOW - timedelta(days=62), NOW],
    )
    for start in range(0, stored, 1_000_000):
        draw(connection, NOW - timedelta(days=60), NOW, min(1_000_000, stored - start))
    with connection.cursor(row_factory=scalar_row) as cursor:
        while (
            cursor.execute("select state from ops.refresh(interval '1 second', 2000000, %s)", [NOW]).fetchone()
            == "more"
        ):
            pass
    draw(connection, NOW - timedelta(hours=2), NOW, WAITING)
    connection.execute("vacuum analyze")


def measure(few: psycopg.Connection, many: psycopg.Connection, stored: int) -> None:
    """The queries of every page and range, in turns on both, so that both see the same machine."""
    totals = {"few": 0.0, "many": 0.0}
    for page in PAGES:
        for name in RANGES:
            view = View(page=page, range=name, slo="provenance_generation_latency" if page == "slo" else "")
            rounds = [(seconds(few, view), seconds(many, view)) for _ in range(ROUNDS)]
            taken = [statistics.median(times) for times in zip(*rounds, strict=True)]
            totals["few"] += taken[0]
            totals["many"] += taken[1]
            print(
                f"{page} {name}: {1000 * taken[0]:.0f} ms, {1000 * taken[1]:.0f} ms, {taken[1] / taken[0]:.2f}",
                flush=True,
            )
    what = f"the queries of all pages over {stored:,} events / over {FEW:,}"
    report(what, totals["many"] / totals["few"], "at most 1.5")


def seconds(connection: psycopg.Connection, view: View) -> float:
    """The time of all pieces of a view, as of the end of what is stored, asked as a member of one org."""
    found = connection.execute("select org_id::text from ops.series order by org_id limit 1").fetchone()
    assert found is not None
    claims = json.dumps({"role": "authenticated", "app_metadata": {"org_id": found[0]}})
    with connection.transaction():
        connection.execute("select set_config('role', 'authenticated', true)")
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        started = time.perf_counter()
        for piece in pieces.of_view(view, None, NOW):
            connection.execute(piece.query, piece.parameters).fetchone()
        return time.perf_counter() - started


if __name__ == "__main__":
    main()

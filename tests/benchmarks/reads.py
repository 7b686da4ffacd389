"""What a tenant waits for under row level security, against the owner of a database with this org alone: a ratio per read.

    .venv/bin/python tests/benchmarks/reads.py --postgres 15

The org has 1,000 teams, 500 workflows and 200 objectives, six of them grouped; the tenant's database holds five other orgs, too.
Every view and reading function that the role authenticated may ask is measured, functions with filters with each kind of filter.
"""

import argparse
import statistics
import sys
from datetime import datetime
from pathlib import Path

import psycopg

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

from run import database, processor_seconds, report  # noqa: E402

from support.events import scalar  # noqa: E402
from support.many_teams import Read, Sizes, add_org, add_teams, add_waiting, reads  # noqa: E402
from support.postgres import VERSIONS, Server, running_server  # noqa: E402

ROUNDS = 3
# A read that takes less both ways is noise, and nobody waits for it.
WORTH_WHILE_S = 0.02
OTHERS = Sizes(
    teams=20,
    workflows=10,
    objectives=0,
    by_team=0,
    by_workflow=0,
    events=5_000,
    waiting=0,
    days=45,
    audits=50,
    alerts=20,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000, help="stored events of the org (default 400,000)")
    parser.add_argument("--postgres", choices=VERSIONS, default="18", help="the version of Postgres (default 18)")
    arguments = parser.parse_args()
    sizes = Sizes(
        teams=1_000, workflows=500, objectives=200, by_team=2, by_workflow=4,
        events=arguments.events, waiting=1_000, days=45, audits=2_000, alerts=2_000,
    )  # fmt: skip
    settings = {"shared_buffers": "1GB", "max_wal_size": "8GB", "max_parallel_workers_per_gather": "0"}
    with running_server(arguments.postgres, settings, in_memory=False) as server:
        until = prepare(server, sizes)
        with database(server, "alone", migrated=True) as owner, database(server, "shared", migrated=True) as tenant:
            measure(owner, tenant, reads(owner, until, sizes))


def prepare(server: Server, sizes: Sizes) -> datetime:
    """Make a database with the org, and a copy of it with others beside it; return the instant at which the events end."""
    with database(server, "alone") as connection:
        until = scalar(connection, "select now()")
        add_teams(connection, until, sizes)
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
        admin.execute("create database shared template alone")
    with database(server, "alone", migrated=True) as alone, database(server, "shared", migrated=True) as shared:
        for number in range(1, 6):
            add_org(shared, f"bbbbbbbb-0000-4000-8000-{number:012}", until, OTHERS, first=10_000_000 * number)
        for connection in (alone, shared):
            add_waiting(connection, until, sizes)
    return until


def measure(owner: psycopg.Connection, tenant: psycopg.Connection, asked: list[Read]) -> None:
    """Each read in turns on both, so that both see the same machine."""
    tenant.execute("set role authenticated")
    tenant.execute("select set_config('request.jwt.claims', '{}', false)")
    ratios: list[float] = []
    for read in asked:
        rounds = [tuple(cost(each, read) for each in (owner, tenant)) for _ in range(ROUNDS)]
        taken = [statistics.median(times) for times in zip(*rounds, strict=True)]
        if max(taken) >= WORTH_WHILE_S:
            ratios.append(taken[1] / taken[0])
            print(
                f"{ratios[-1]:6.2f}  {1000 * taken[0]:6.0f} ms {1000 * taken[1]:6.0f} ms  {read.source[:110]}",
                flush=True,
            )
    report(f"a read under row level security / the owner's, the worst of {len(ratios)}", max(ratios), "at most 2")
    report("the same, the median", statistics.median(ratios), "at most 2")


def cost(connection: psycopg.Connection, read: Read) -> float:
    """The cost of one read, planning included."""
    return processor_seconds(connection, lambda: connection.execute(read.query))


if __name__ == "__main__":
    main()

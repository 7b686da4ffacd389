"""Loading events, and the daily view: processor time of the server, in turns, against plain tables of the same rows.

    .venv/bin/python tests/benchmarks/load.py --before ../before

The folder after --before is a checkout of an earlier commit (`git worktree add`), whose schema is measured in the same
run. `COPY` fills the promised columns; the bare table has those and their two indexes, the one with the same keys has the
columns for organisations and repeats, and every key and index of `telemetry_events` as well.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

from run import COLUMNS, NOW, as_line, draw, processor_seconds, report  # noqa: E402

from support.postgres import Server, running_server  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
ROUNDS, CALLS, COPIED, STORED = 3, 40, 200_000, 300_000
ORG, METRIC = "00000000-0000-0000-0000-000000000001", "workflow_run_avg_duration_ms"
PROMISED = "event_type, event_timestamp, run_id, tag, metadata"
TABLES = """
  create table public.bare (
    id bigserial, event_type text not null, event_timestamp timestamptz not null default now(), run_id bigint, tag text,
    metadata jsonb default '{}', created_at timestamptz not null default now()
  );
  create index on public.bare (event_type);
  create index on public.bare (event_timestamp desc);
  create table public.same_keys (
    like public.bare including all, event_id uuid not null default gen_random_uuid(),
    org_id uuid not null default '00000000-0000-0000-0000-000000000000', agent_id uuid,
    primary key (org_id, event_timestamp, event_id)
  );
  create index on public.same_keys (id)
"""
DAYS = """
  create table public.days as
    select org_id, metric_name, period_start as day_start, metric_value
    from public.kpi_aggregations
    where aggregation_period = 'day' and labels = '{}';
  create index on public.days (org_id, day_start desc);
  create index on public.days (org_id, metric_name, day_start)
"""
INGEST = "select public.ingest_events(events => %s::json)"
VIEW = f"select * from public.v_ops_kpi_daily where org_id = '{ORG}' and day_start >= %s"
VIEW_OF_ONE = f"select day_start, {METRIC} from public.v_ops_kpi_daily where org_id = '{ORG}' and day_start >= %s"
TABLE_OF_ONE = f"""
  select day_start, max(metric_value) from public.days
  where org_id = '{ORG}' and metric_name = '{METRIC}' and day_start >= %s
  group by org_id, day_start order by day_start desc
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    before = parser.parse_args().before
    with running_server("18", {"shared_buffers": "1GB", "max_wal_size": "8GB"}, in_memory=False) as server:
        connections = [filled(server, "now", ROOT)] + ([filled(server, "before", before)] if before else [])
        for name, measured, aim in (
            ("the daily view / a table of days", lambda it: read(it, VIEW) / read(it, pivot(it)), 1.2),
            ("one metric of it / a table of days", lambda it: read(it, VIEW_OF_ONE) / read(it, TABLE_OF_ONE), 1.0),
            (
                "COPY into a bare table with two indexes / COPY",
                lambda it: copied(it, "bare") / copied(it, "telemetry_events"),
                0.6,
            ),
            (
                "COPY into one with the same keys / COPY",
                lambda it: copied(it, "same_keys") / copied(it, "telemetry_events"),
                0.85,
            ),
            ("plain inserts of 50 rows / ingest_events", ingested, 0.7),
        ):
            compare(connections, name, measured, aim)


def compare(
    connections: list[psycopg.Connection], name: str, measured: Callable[[psycopg.Connection], float], aim: float
) -> None:
    """Print the median of rounds in turns, of this version and of the one before."""
    rounds = [[measured(connection) for connection in connections] for _ in range(ROUNDS)]
    for version, ratios in zip(("", " (before)"), zip(*rounds, strict=True), strict=False):
        report(name + version, statistics.median(ratios), f"at {'most' if aim >= 1 else 'least'} {aim}")


def filled(server: Server, name: str, checkout: Path) -> psycopg.Connection:
    """A connection to a database with the schema of a checkout, and counted events of sixty days."""
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    subprocess.run(
        [sys.executable, "-m", "opskpi", "migrate", "--dsn", server.dsn(name)],
        env=os.environ | {"PYTHONPATH": str(checkout / "jobs")}, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    connection = psycopg.connect(server.dsn(name), autocommit=True)
    connection.execute(
        "select ops.create_partition(month::date) from generate_series(%s, %s, interval '1 month') as month",
        [NOW - timedelta(days=62), NOW],
    )
    draw(connection, NOW - timedelta(days=60), NOW, STORED)
    while connection.execute("select state from ops.refresh(interval '1 second', 2000000, %s)", [NOW]).fetchone() == (
        "more",
    ):
        pass
    connection.execute(TABLES)
    connection.execute(DAYS)
    connection.execute("vacuum analyze")
    return connection


def copied(connection: psycopg.Connection, table: str) -> float:
    """The cost of a COPY of events in the order of their times into the emptied table."""
    target = sql.Identifier("public", table)
    connection.execute(sql.SQL("truncate {}").format(target))
    lines = "".join(
        f"workflow_run\t{NOW - timedelta(hours=9) + timedelta(milliseconds=160 * number)}\t{number}\t\\N\t{said(number)}\n"
        for number in range(COPIED)
    )
    statement = sql.SQL("copy {} ({}) from stdin").format(target, sql.SQL(PROMISED))

    def load() -> None:
        with connection.cursor().copy(statement) as rows:
            rows.write(lines)

    return processor_seconds(connection, load)


def said(number: int) -> str:
    """The metadata of an event."""
    outcome = "failure" if number % 20 == 0 else "success"
    return json.dumps({"outcome": outcome, "workflow": f"workflow-{number % 6}", "duration_ms": 60_000 + number})


def ingested(connection: psycopg.Connection) -> float:
    """Plain inserts of 50 rows into a table with the same keys, against batches of as many."""
    insert = f"insert into public.same_keys ({', '.join(COLUMNS)}) values " + ", ".join(
        ["(%s, %s, %s, %s, %s, %s, %s, %s)"] * 50
    )
    plain, called = [], []
    for start in range(0, 50 * CALLS, 50):
        rows = [
            ("workflow_run", NOW, number, None, json.loads(said(number)), uuid4(), UUID(ORG), uuid4())
            for number in range(start, start + 50)
        ]
        values = [json.dumps(value) if isinstance(value, dict) else value for row in rows for value in row]
        batch = "[" + ",".join(map(as_line, rows)) + "]"
        plain.append(processor_seconds(connection, partial(connection.execute, insert.encode(), values, prepare=True)))
        called.append(processor_seconds(connection, partial(connection.execute, INGEST, [batch], prepare=True)))
    return statistics.median(plain) / statistics.median(called)


def read(connection: psycopg.Connection, query: str) -> float:
    """The cost of a query over the last nine days."""
    since = NOW - timedelta(days=9)
    return statistics.median(
        processor_seconds(connection, lambda: connection.execute(query.encode(), [since], prepare=False).fetchall())
        for _ in range(CALLS)
    )


def pivot(connection: psycopg.Connection) -> str:
    """What the daily view shows, asked of the table of days."""
    described = connection.execute("select * from public.v_ops_kpi_daily limit 0").description or []
    figures = ", ".join(
        f"max(metric_value) filter (where metric_name = '{column.name}') as {column.name}"
        for column in described
        if column.name not in {"day_start", "org_id"}
    )
    return (
        f"select day_start, {figures}, org_id from public.days where org_id = '{ORG}' and day_start >= %s"
        " group by org_id, day_start order by day_start desc"
    )


if __name__ == "__main__":
    main()

"""The benchmarks: each figure is a ratio of two things measured side by side in one run.

    .venv/bin/python tests/benchmarks/run.py --events 10000000

They run on an embedded server of their own in a temporary folder, which needs about 1 GB a million events.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import LiteralString, cast

import psycopg
from psycopg import sql

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

import slos  # noqa: E402

from opskpi.ingestion import files  # noqa: E402
from opskpi.postgres import migrations  # noqa: E402
from support.postgres import Server, running_server  # noqa: E402

NOW = datetime(2026, 11, 18, 12, tzinfo=UTC)
NEW_EVENTS = 100_000
ROUNDS = 3
DRAW = cast("LiteralString", (Path(__file__).parent / "events.sql").read_text("utf-8").replace(" % ", " %% "))
# The touched hours recomputed, as one would without states that add up: hours only, no days, weeks, months, KPIs or SLIs.
FIGURES = """
  select
    event.org_id,
    event.event_type,
    event.metadata ->> 'hook_type' as hook_type,
    event.metadata ->> 'result' as result,
    event.metadata ->> 'outcome' as outcome,
    coalesce(event.metadata ->> 'workflow', event.metadata ->> 'endpoint', event.metadata ->> 'kind') as subject,
    date_bin('1 hour', event.event_timestamp, timestamptz '2000-01-03 00:00+00') as hour_start,
    count(*) as event_count,
    sum(coalesce(event.duration_ms, (event.metadata ->> 'size_bytes')::numeric)) as value_sum,
    min(coalesce(event.duration_ms, (event.metadata ->> 'size_bytes')::numeric)) as value_min,
    max(coalesce(event.duration_ms, (event.metadata ->> 'size_bytes')::numeric)) as value_max,
    percentile_disc(0.95) within group (order by coalesce(event.duration_ms, (event.metadata ->> 'size_bytes')::numeric)) as value_p95
  from public.telemetry_events as event
"""
RECOMPUTE = f"""
  create temporary table touched on commit drop as
    select distinct date_bin('1 hour', event.event_timestamp, timestamptz '2000-01-03 00:00+00') as hour_start
    from public.telemetry_events as event
    where event.id > %(after_id)s;
  delete from rival.hours where hours.hour_start in (select touched.hour_start from touched);
  insert into rival.hours
  {FIGURES}
  join touched
    on event.event_timestamp >= touched.hour_start
    and event.event_timestamp < touched.hour_start + interval '1 hour'
  group by 1, 2, 3, 4, 5, 6, 7
"""
RAW_DAILY = """
  select
    date_bin('1 day', event.event_timestamp, timestamptz '2000-01-03 00:00+00') as day_start,
    100.0 * count(*) filter (where event.event_type = 'slsa_provenance' and event.outcome = 'success')
      / nullif(count(*) filter (where event.event_type = 'slsa_provenance' and event.outcome in ('success', 'failure')), 0),
    avg(event.duration_ms) filter (where event.event_type = 'workflow_run'),
    percentile_disc(0.95) within group (order by event.duration_ms) filter (where event.event_type = 'hook_execution'),
    count(*) filter (where event.event_type = 'hook_execution'),
    event.org_id
  from public.telemetry_events as event
  where event.event_timestamp >= %(since)s
  group by event.org_id, 1
"""
BARE = """
  create table public.bare (
    id bigserial, event_type text not null, event_timestamp timestamptz not null, run_id bigint, tag text, metadata jsonb,
    created_at timestamptz not null default now(), event_id uuid not null, org_id uuid not null, agent_id uuid,
    primary key (org_id, event_timestamp, event_id)
  );
  create index on public.bare (event_type);
  create index on public.bare (event_timestamp desc);
  create index on public.bare (id)
"""
COLUMNS = ("event_type", "event_timestamp", "run_id", "tag", "metadata", "event_id", "org_id", "agent_id")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="stored events (default 10,000,000)")
    parser.add_argument("--only", choices=["refresh", "ingest", "slos"], help="one part only")
    arguments = parser.parse_args()
    with running_server("18", {"shared_buffers": "1GB", "max_wal_size": "8GB"}, in_memory=False) as server:
        if arguments.only in {None, "slos"}:
            with database(server, "slos") as connection:
                status, alerts = slos.measure(connection, NOW)
                report("SLO status, an objective and org of 200 x 50 / one sum over its window", status, "at most 5")
                report("alerts, an objective and org of 200 x 50 / one sum over its window", alerts, "at most 5")
        if arguments.only in {None, "ingest"}:
            with database(server, "ingesting") as connection:
                measure_ingest(connection)
        if arguments.only in {None, "refresh"}:
            with database(server, "large") as connection:
                large = measure_refresh(connection, arguments.events, rivals=True)
            with database(server, "small") as connection:
                small = measure_refresh(connection, arguments.events // 10, rivals=False)
            report(
                f"the same refresh, {arguments.events:,} stored / {arguments.events // 10:,} stored",
                large / small,
                "at most 1.2",
            )


@contextmanager
def database(server: Server, name: str, *, migrated: bool = False) -> Iterator[psycopg.Connection]:
    """A migrated database of its own, or one that was made before."""
    if not migrated:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    with psycopg.connect(server.dsn(name), autocommit=True) as connection:
        migrations.migrate(connection)
        yield connection


def measure_refresh(connection: psycopg.Connection, stored: int, *, rivals: bool) -> float:
    """Seconds of a refresh of 100,000 new events over `stored` ones, and its ratios to the rivals."""
    connection.execute(
        "select ops.create_partition(month::date) from generate_series(%s, %s, interval '1 month') as month",
        [NOW - timedelta(days=62), NOW],
    )
    for start in range(0, stored, 1_000_000):
        draw(connection, NOW - timedelta(days=60), NOW - timedelta(hours=2), min(1_000_000, stored - start))
    while one(connection, "select state from ops.refresh(interval '1 second', 2000000, %s)", [NOW]) == "more":
        pass
    if rivals:
        connection.execute(f"create schema rival; create table rival.hours as {FIGURES} group by 1, 2, 3, 4, 5, 6, 7")
        connection.execute("create index on rival.hours (hour_start)")
        connection.execute(f"create materialized view rival.view as {FIGURES} group by 1, 2, 3, 4, 5, 6, 7")
        connection.execute(
            "create unique index on rival.view (org_id, event_type, hook_type, result, outcome, subject, hour_start) nulls not distinct"
        )
    connection.execute("vacuum analyze")
    ours: list[float] = []
    recomputed: list[float] = []
    materialised: list[float] = []
    for _ in range(ROUNDS):
        after_id = one(connection, "select ops.cursor_id()")
        draw(connection, NOW - timedelta(hours=2), NOW, NEW_EVENTS * 95 // 100)
        draw(connection, NOW - timedelta(days=7), NOW, NEW_EVENTS * 5 // 100)
        ours.append(seconds(lambda: connection.execute("select ops.refresh(interval '1 second', as_of => %s)", [NOW])))
        if rivals:
            recomputed.append(seconds(lambda after_id=after_id: recompute(connection, after_id)))
            materialised.append(
                seconds(lambda: connection.execute("refresh materialized view concurrently rival.view"))
            )
    median = statistics.median(ours)
    print(f"refresh of {NEW_EVENTS:,} events over {stored:,}: {median:.2f} s", flush=True)
    if rivals:
        report("refresh / recomputing the touched hours", median / statistics.median(recomputed), "at most 0.3")
        report(
            "refresh / refresh materialized view concurrently",
            median / statistics.median(materialised),
            "at most 0.15",
        )
        measure_view(connection, stored)
    return median


def measure_view(connection: psycopg.Connection, stored: int) -> None:
    """A 30-day daily view against the same figures from the raw events."""
    arguments = {"since": NOW - timedelta(days=30)}
    view = median_seconds(
        lambda: connection.execute(
            "select * from public.v_ops_kpi_daily where day_start >= %(since)s", arguments
        ).fetchall()
    )
    raw = median_seconds(lambda: connection.execute(RAW_DAILY, arguments).fetchall())
    report(f"30 days of v_ops_kpi_daily / the raw query, {stored:,} events", view / raw, "at most 0.01")


def measure_ingest(connection: psycopg.Connection) -> None:
    """`ingest_events` against multi-row inserts, `opskpi ingest` against COPY, into a bare table with the same indexes."""
    connection.execute(BARE)
    draw(connection, NOW - timedelta(days=2), NOW, 200_000)
    rows = connection.execute(
        "select event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, gen_random_uuid() as agent_id"
        " from public.telemetry_events where event_type <> 'hook_execution'"
    ).fetchall()
    connection.execute("truncate public.telemetry_events")
    lines = [as_line(row) for row in rows]

    batches = [rows[start : start + 50] for start in range(0, 20_000, 50)]
    statement = sql.SQL("insert into public.bare ({}) values {}").format(
        sql.SQL(", ").join(map(sql.Identifier, COLUMNS)),
        sql.SQL(", ").join([sql.SQL("(%s, %s, %s, %s, %s, %s, %s, %s)")] * 50),
    )
    values = [
        [json.dumps(value) if isinstance(value, dict) else value for row in batch for value in row] for batch in batches
    ]
    plain = seconds(lambda: [connection.execute(statement, batch, prepare=True) for batch in values])
    documents = ["[" + ",".join(lines[start : start + 50]) + "]" for start in range(0, 20_000, 50)]
    called = seconds(
        lambda: [
            connection.execute("select public.ingest_events(events => %s::json)", [document], prepare=True)
            for document in documents
        ]
    )
    report("ingest_events / plain inserts of 50 rows, events a second", plain / called, "at least 0.6")

    connection.execute("truncate public.bare, public.telemetry_events")
    copied = seconds(lambda: copy(connection, rows))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "events.jsonl"
        file.write_text("\n".join(lines), "utf-8")
        loaded = seconds(
            lambda: files.ingest(
                connection,
                str(file),
                on_progress=lambda *_: None,
                open_another=lambda: psycopg.connect(connection.info.dsn, autocommit=True),
            )
        )
    report("opskpi ingest of a file / COPY, events a second", copied / loaded, "at least 0.4")
    print(f"opskpi ingest: {len(lines) / loaded:,.0f} events/s", flush=True)


def recompute(connection: psycopg.Connection, after_id: object) -> None:
    """What a job without states would do: find the touched hours and count them again."""
    with connection.transaction(), psycopg.ClientCursor(connection) as cursor:
        cursor.execute(RECOMPUTE, {"after_id": after_id})


def draw(
    connection: psycopg.Connection, since: datetime, until: datetime, count: int, workflows: int = 6, endpoints: int = 8
) -> None:
    """Insert `count` random events between two instants."""
    connection.execute(
        DRAW, {"since": since, "until": until, "count": count, "workflows": workflows, "endpoints": endpoints}
    )


def copy(connection: psycopg.Connection, rows: list[tuple[object, ...]]) -> None:
    """The rows through COPY, as fast as psycopg writes them."""
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy public.bare (event_type, event_timestamp, run_id, tag, metadata, event_id, org_id, agent_id) from stdin"
        ) as target,
    ):
        for row in rows:
            target.write_row([json.dumps(value) if isinstance(value, dict) else value for value in row])


def as_line(row: tuple[object, ...]) -> str:
    """One event in the batch format."""
    event: dict[str, object] = dict(zip(COLUMNS, row, strict=True))
    metadata = event.pop("metadata")
    assert isinstance(metadata, dict)
    event["timestamp"] = event.pop("event_timestamp")
    event_type = event.pop("event_type")
    columns = {
        name: value.isoformat() if isinstance(value, datetime) else str(value)
        for name, value in event.items()
        if value is not None
    }
    return json.dumps({"event_type": event_type, "payload": metadata | columns})


def one(connection: psycopg.Connection, query: LiteralString, arguments: list[object] | None = None) -> object:
    """The single value of a query."""
    row = connection.execute(query, arguments).fetchone()
    assert row is not None
    return row[0]


def processor_seconds(connection: psycopg.Connection, work: Callable[[], object]) -> float:
    """Processor time of the connection's server process for some work, which other processes do not lengthen by their turns."""
    file = Path(f"/proc/{connection.info.backend_pid}/schedstat")
    began = int(file.read_text("ascii").split()[0])
    work()
    return (int(file.read_text("ascii").split()[0]) - began) / 1e9


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_seconds(work: Callable[[], object]) -> float:
    """Median wall time of a few calls."""
    return statistics.median(seconds(work) for _ in range(ROUNDS))


def report(what: str, ratio: float, wanted: str) -> None:
    """One line a figure."""
    print(f"{ratio:8.4f}  {what} (wanted {wanted})", flush=True)


if __name__ == "__main__":
    main()

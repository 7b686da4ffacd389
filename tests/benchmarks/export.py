"""`opskpi export events` against what the server's own COPY takes.

    .venv/bin/python tests/benchmarks/export.py --events 1000000

Both are processes of their own, started alike, that read the same table to its end; the rival drops what it reads.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "jobs"), str(Path(__file__).parent)]

from run import NOW, database, draw, report, seconds  # noqa: E402

from support.postgres import running_server  # noqa: E402

ROUNDS = 5
FORMATS = {"jsonl": "at least 0.5", "csv": "at least 0.5", "jsonl.gz": "no aim", "parquet": "no aim"}
# A partitioned table cannot be copied by its name alone.
COPY = "copy (select * from public.telemetry_events) to stdout"
DRAIN = """
import sys
import psycopg

with psycopg.connect(sys.argv[1], autocommit=True) as connection, connection.cursor() as cursor:
    with cursor.copy(sys.argv[2]) as rows:
        for _ in rows:
            pass
"""
AS_LINE = r"copy (select {} from public.telemetry_events as event) to stdout with (format csv, quote e'\x01', delimiter e'\x02')"
COLUMNS = ("event_type", "event_timestamp", "event_id", "org_id", "run_id", "tag", "agent_id", "metadata")
OBJECT = ", ".join(f"'{column}', event.{column}" for column in COLUMNS)
# Of these only the last leaves out the nulls of columns and keeps those in the metadata.
RIVALS = {
    "row_to_json": "row_to_json(event)",
    "json_build_object": f"json_build_object({OBJECT})",
    "json_strip_nulls(json_build_object)": f"json_strip_nulls(json_build_object({OBJECT}))",
    "jsonb_strip_nulls || jsonb": f"jsonb_strip_nulls(jsonb_build_object({OBJECT.rpartition(', ')[0].rpartition(', ')[0]}))"
    " || jsonb_build_object('metadata', event.metadata)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, help="stored events (default 1,000,000)")
    parser.add_argument("--rivals", action="store_true", help="other ways to write a line, too")
    arguments = parser.parse_args()
    rivals = RIVALS if arguments.rivals else {}
    settings = {"shared_buffers": "1GB", "max_wal_size": "8GB"}
    with (
        running_server("18", settings, in_memory=False) as server,
        tempfile.TemporaryDirectory() as folder,
        database(server, "export") as connection,
    ):
        connection.execute(
            "select ops.create_partition(month::date) from generate_series(%s, %s, interval '1 month') as month",
            [NOW - timedelta(days=62), NOW],
        )
        draw(connection, NOW - timedelta(days=60), NOW, arguments.events)
        connection.execute("vacuum analyze")
        dsn = server.dsn("export")
        drain(dsn, COPY)
        copied = []
        taken: dict[str, list[float]] = {name: [] for name in (*FORMATS, *rivals)}
        # Neighbours are compared, which other work on the machine disturbs least.
        for _ in range(ROUNDS):
            copied.append(seconds(lambda: drain(dsn, COPY)))
            for ending in FORMATS:
                taken[ending].append(seconds(lambda ending=ending: export(dsn, Path(folder) / f"events.{ending}")))
            for name, line in rivals.items():
                taken[name].append(seconds(lambda line=line: drain(dsn, AS_LINE.format(line))))
        print(f"copy to stdout: {arguments.events / statistics.median(copied):,.0f} events/s")
        for name, times in taken.items():
            ratio = statistics.median(whole / part for whole, part in zip(copied, times, strict=True))
            what = f"opskpi export events, {name}" if name in FORMATS else f"COPY of {name}, drained only"
            report(f"{what} / copy to stdout, events a second", ratio, FORMATS.get(name, "a rival of ours"))
            print(f"          {arguments.events / statistics.median(times):,.0f} events/s", flush=True)


def drain(dsn: str, statement: str) -> None:
    """Read what a COPY sends."""
    subprocess.run([sys.executable, "-c", DRAIN, dsn, statement], check=True)


def export(dsn: str, file: Path) -> None:
    """Run the command."""
    subprocess.run(
        [sys.executable, "-m", "opskpi", "export", "events", "--dsn", dsn, "--out", str(file)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "jobs")},
        stdout=subprocess.DEVNULL,
        check=True,
    )


if __name__ == "__main__":
    main()

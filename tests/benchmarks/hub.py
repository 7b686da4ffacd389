"""The hub under many clients, against the same batches given to the database without it.

    .venv/bin/python tests/benchmarks/hub.py

The clients keep their connections and send their next batch when the last is answered. The database alone gets the same
kind of transaction (role, claims, ingest_events) over as many connections as the hub's pool has. Short rounds
alternate, and the figure is the median of the ratios of neighbours, which other work on the machine disturbs least. The
processor time of the server, and of the server with the hub, is disturbed even less (Linux only).
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "jobs")]

from opskpi.access import keys  # noqa: E402
from opskpi.postgres import migrations  # noqa: E402
from support.postgres import Server, running_server  # noqa: E402

ORG = UUID(int=7)
EVENTS = 50
CLAIMS = json.dumps(
    {"role": "authenticated", "sub": "bench", "app_metadata": {"org_id": str(ORG), "scopes": ["ingest"]}}
)
BECOME_CALLER = "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true)"
INGEST = "select (public.ingest_events(events => %s::json) ->> 'accepted')::integer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200, help="concurrent clients (default 200)")
    parser.add_argument("--batches", type=int, default=3, help="batches of each client in a round (default 3)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each (default 20)")
    parser.add_argument("--connections", type=int, default=10, help="connections of each process (default 10)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the hub (default 1)")
    arguments = parser.parse_args()
    with running_server("18", {"shared_buffers": "1GB", "max_wal_size": "8GB"}, in_memory=False) as server:
        alone, through_hub, (server_s, both_s) = measure(server, arguments)
    ratios = [within / without for without, within in zip(alone, through_hub, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    connections = arguments.connections * arguments.workers
    print(
        f"the database alone, {connections} connections: {statistics.median(alone) * 1000:.2f} ms a batch of {EVENTS}"
    )
    print(f"the hub, {arguments.clients} clients: {statistics.median(through_hub) * 1000:.2f} ms a batch; nothing lost")
    print(f"hub / database, time a batch: {middle:.2f} (at most 1.25; quartiles {low:.2f} and {high:.2f})")
    print(f"hub and database / database, processor time: {both_s / server_s:.2f} (at most 1.25)")


def measure(server: Server, arguments: argparse.Namespace) -> tuple[list[float], list[float], tuple[float, float]]:
    """Seconds a batch of each round, of the database alone and through the hub, and the processor time of all of each.

    Raises when an event is lost.
    """
    dsn = server.dsn("postgres")
    with psycopg.connect(dsn, autocommit=True) as connection:
        migrations.migrate(connection)
        connection.execute("select ops.create_partition(date_trunc('month', now())::date)")
        # One key for all clients: its limit is not what is measured.
        connection.execute("update ops.settings set value = '999999' where name = 'requests_per_minute_per_key'")
        key = keys.create(connection, "benchmark", ORG, ["ingest"], None)
        alone, through_hub, connections = [], [], arguments.connections * arguments.workers
        postmaster = int((server.data_dir / "postmaster.pid").read_text("ascii").split()[0])
        server_s, both_s = 0.0, 0.0
        with running_hub(dsn, arguments) as (url, hub):
            for number in range(arguments.rounds + 1):
                drawn = [draw(arguments.batches) for _ in range(arguments.clients)]
                began = processor_s(postmaster)
                without = asyncio.run(
                    send_to_database(dsn, list(chain.from_iterable(zip(*drawn, strict=True))), connections)
                )
                drawn = [draw(arguments.batches) for _ in range(arguments.clients)]
                turned = processor_s(postmaster), processor_s(hub)
                within = asyncio.run(send_to_hub(url, key.text, drawn))
                # The first round fills caches.
                if number:
                    alone.append(without)
                    through_hub.append(within)
                    server_s += turned[0] - began
                    both_s += processor_s(postmaster) + processor_s(hub) - sum(turned)
        sent = 2 * (arguments.rounds + 1) * arguments.clients * arguments.batches * EVENTS
        [stored] = connection.execute("select count(*) from public.telemetry_events").fetchone() or (0,)
        if stored != sent:
            raise SystemExit(f"{sent} events sent, {stored} stored")
    return alone, through_hub, (server_s, both_s)


def processor_s(process: int) -> float:
    """Seconds of processor time of a process and its children, those that have ended included."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text("ascii").split()
    own = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    return sum(map(int, own[11:15])) / os.sysconf("SC_CLK_TCK") + sum(processor_s(int(child)) for child in children)


@contextmanager
def running_hub(dsn: str, arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Run `opskpi serve` and yield its URL and process."""
    options = ["--port", "0", "--json", f"--connections={arguments.connections}", f"--workers={arguments.workers}"]
    with subprocess.Popen(
        [sys.executable, "-m", "opskpi", "serve", *options],
        env=os.environ | {"OPSKPI_DSN": dsn, "PYTHONPATH": str(ROOT / "jobs")},
        stdout=subprocess.PIPE,
        text=True,
    ) as hub:
        assert hub.stdout is not None
        try:
            yield json.loads("".join(hub.stdout.readline() for _ in range(3)))["url"], hub.pid
        finally:
            hub.terminate()


def draw(batches: int) -> list[str]:
    """Batches of one agent, as its hooks would send them."""
    agent_id, now = str(uuid4()), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    payload = {"timestamp": now, "agent_id": agent_id, "org_id": str(ORG), "hook_type": "pre-commit"}
    payload |= {"result": "allowed", "findings_summary": {"secrets": 0}, "duration_ms": 41.5}
    return [
        json.dumps(
            [{"event_type": "hook_execution", "payload": payload | {"event_id": str(uuid4())}} for _ in range(EVENTS)]
        )
        for _ in range(batches)
    ]


async def send_to_database(dsn: str, batches: list[str], connections: int) -> float:
    """Seconds a batch without the hub."""
    waiting = iter(batches)

    async def work(connection: psycopg.AsyncConnection) -> None:
        for batch in waiting:
            async with connection.pipeline():
                await connection.execute("begin")
                await connection.execute(BECOME_CALLER, [CLAIMS])
                cursor = await connection.execute(INGEST, [batch])
                await connection.execute("commit")
            assert await cursor.fetchone() == (EVENTS,)

    opened = [await psycopg.AsyncConnection.connect(dsn, autocommit=True) for _ in range(connections)]
    started = time.perf_counter()
    await asyncio.gather(*(work(connection) for connection in opened))
    taken = time.perf_counter() - started
    for connection in opened:
        await connection.close()
    return taken / len(batches)


async def send_to_hub(url: str, key: str, clients: list[list[str]]) -> float:
    """Seconds a batch through the hub, all clients at once."""
    target = urlsplit(url)

    async def work(batches: list[str]) -> None:
        # An HTTP library would take longer than the hub.
        reader, writer = await asyncio.open_connection(target.hostname, target.port)
        for batch in batches:
            body = batch.encode()
            writer.write(
                f"POST /api/v1/telemetry HTTP/1.1\r\nHost: {target.netloc}\r\nAuthorization: Bearer {key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            status, _, headers = (await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")
            length = headers.lower().partition("content-length: ")[2].partition("\r\n")[0]
            answer = json.loads(await reader.readexactly(int(length)))
            if " 200 " not in status or answer["accepted"] != EVENTS:
                raise SystemExit(f"{status}: {answer}")
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(work(batches) for batches in clients))
    return (time.perf_counter() - started) / sum(map(len, clients))


if __name__ == "__main__":
    main()

"""Hubs for the tests: real processes of `opskpi serve`, the keys to call them with, and events to send."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
from psycopg.rows import scalar_row

from opskpi.access import keys

from . import forks
from .forks import JOBS
from .patience import PATIENCE_S

TELEMETRY = "/api/v1/telemetry"
METRICS = "/api/v1/hooks/metrics"
POLICY = "/api/v1/policy"
TODAY = datetime.now(UTC).date().isoformat()


@dataclass(frozen=True, slots=True)
class Hub:
    """A running hub: where it listens, its process, its database and the file with what it says on stderr."""

    url: str
    process: forks.Process | subprocess.Popen[bytes]
    dsn: str
    log: Path

    def client(self, key: str = "", **options: Any) -> httpx.Client:
        """An HTTP client that presents the key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S, **options)


@contextmanager
def running_hub(
    dsn: str, folder: Path, *options: str, env: Mapping[str, str] | None = None, forked: bool = True, files: int = 0
) -> Iterator[Hub]:
    """Run `opskpi serve` on a free port, and end it however the test ends.

    It is forked from a process that has its imports done, unless `forked` says that it starts as a user's does. Such a
    one may be allowed only so many open `files`.
    """
    log = folder / f"hub-{uuid4().hex[:8]}.log"
    arguments = ["serve", "--port", "0", "--json", "--dsn", dsn, *options]
    environment = os.environ | {"PYTHONPATH": str(JOBS)} | dict(env or {})
    reading, writing = os.pipe()
    with log.open("wb") as stderr, os.fdopen(reading, encoding="utf-8") as stdout:
        if forked:
            process = forks.Process(arguments, cwd=Path.cwd(), env=environment, stdout=writing, stderr=stderr)
        else:
            command = [sys.executable, "-m", "opskpi", *arguments]
            within = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"] if files else []
            process = subprocess.Popen([*within, *command], env=environment, stdout=writing, stderr=stderr)
        os.close(writing)
        try:
            announced = "".join(stdout.readline() for _ in range(3))
            assert announced, log.read_text("utf-8")
            yield Hub(json.loads(announced)["url"], process, dsn, log)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def make_key(database: psycopg.Connection, org: UUID, *scopes: str) -> str:
    """A live key of an org; all scopes unless some are named."""
    return keys.create(database, "test", org, scopes or keys.SCOPES, None).text


def hook_event(org: UUID, agent: UUID | None = None, **said: object) -> dict[str, Any]:
    """An execution of a pre-commit hook, now."""
    payload: dict[str, object] = {
        "event_id": str(uuid4()),
        "timestamp": datetime.now(UTC).isoformat(),
        "agent_id": str(agent or uuid4()),
        "org_id": str(org),
        "hook_type": "pre-commit",
        "result": "allowed",
        "findings_summary": {},
        "duration_ms": 40,
    }
    return {"event_type": "hook_execution", "payload": payload | said}


def post(client: httpx.Client, events: Sequence[object]) -> dict[str, Any]:
    """Send a batch that the hub takes, and return its answer."""
    answer = client.post(TELEMETRY, json=events)
    assert answer.status_code == 200, answer.text
    return answer.json()


def metrics(client: httpx.Client, org: UUID, **query: str) -> dict[str, Any]:
    """The hook metrics of today."""
    answer = client.get(METRICS, params={"org_id": str(org), "start_date": TODAY} | query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(answer: httpx.Response) -> dict[str, Any]:
    """The problem details of an answer, which every error is."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["type"] == "about:blank"
    assert document["title"]
    assert document["detail"]
    return document


def stored(database: psycopg.Connection, org: UUID) -> int:
    """How many events of an org are stored."""
    with database.cursor(row_factory=scalar_row) as cursor:
        count = cursor.execute("select count(*) from public.telemetry_events where org_id = %s", [org]).fetchone()
    return int(count or 0)

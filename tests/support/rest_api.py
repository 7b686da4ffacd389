"""A stand-in for GitHub's REST API on this machine: runs, attempts, jobs and artifacts, pages, ETags, and faults on demand."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "ghp_T0KENofNobody"  # noqa: S105
REPOSITORY = "octo-org/shop"
RUNS = f"/repos/{REPOSITORY}/actions/runs"
WORKFLOWS = f"/repos/{REPOSITORY}/actions/workflows"
NOW = datetime.fromisoformat("2026-03-12T00:00:00Z")
Json = dict[str, Any]


def workflow_run(
    number: int,
    conclusion: str | None = "success",
    *,
    workflow: str = "ci",
    at: str = "2026-03-10T12:00:00Z",
    seconds: int = 60,
    attempt: int = 1,
    **more: object,
) -> Json:
    """Return a run as GitHub lists it; without a conclusion it still goes on."""
    began = datetime.fromisoformat(at)
    return {
        "id": number,
        "name": workflow,
        "path": f".github/workflows/{workflow}.yml",
        "head_branch": "main",
        "head_sha": "3484a3fb816e0859fd6e1cea078d76385ff50625",
        "event": "push",
        "status": "completed" if conclusion else "in_progress",
        "conclusion": conclusion,
        "run_attempt": attempt,
        "html_url": f"https://github.com/{REPOSITORY}/actions/runs/{number}",
        "created_at": at,
        "run_started_at": at,
        "updated_at": _written(began + timedelta(seconds=seconds)),
        "repository": {"full_name": REPOSITORY},
        "actor": {"login": "somebody"},
    } | more


def job(number: int, run_id: int, began: str, ended: str | None, **more: object) -> Json:
    """Return a job as GitHub lists it; without an end it still goes on."""
    return {
        "id": number,
        "run_id": run_id,
        "run_attempt": 1,
        "name": f"job {number}",
        "workflow_name": "ci",
        "status": "completed" if ended else "in_progress",
        "conclusion": "success" if ended else None,
        "started_at": began,
        "completed_at": ended,
        "html_url": f"https://github.com/{REPOSITORY}/actions/runs/{run_id}/job/{number}",
    } | more


def artifact(number: int, size: int, name: str = "app.tar.gz", at: str = "2026-03-10T12:00:30Z") -> Json:
    """Return an artifact as GitHub lists it."""
    return {"id": number, "name": name, "size_in_bytes": size, "created_at": at, "expired": False}


@dataclass(slots=True)
class Reply:
    """An answer given instead of the right one; `cut` announces more than is sent."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass
class Rest:
    """The stand-in: what it knows, what it was asked, and the replies that come first, by path."""

    url: str = ""
    runs: list[Json] = field(default_factory=list)
    attempts: dict[tuple[int, int], Json] = field(default_factory=dict)
    jobs: dict[tuple[int, int], list[Json]] = field(default_factory=dict)
    workflows: list[Json] = field(default_factory=list)
    artifacts: dict[int, list[Json]] = field(default_factory=dict)
    page_size: int = 100
    listed_at_most: int = 1000
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    replies: dict[str, list[Reply | None]] = field(default_factory=dict)

    def reply(self, path: str, *replies: Reply | None) -> None:
        """Have the next requests for a path answered so; None is answered as it should be."""
        self.replies.setdefault(path, []).extend(replies)

    def answer(self, target: str, headers: dict[str, str]) -> Reply:
        self.asked.append(target)
        self.headers.append(headers)
        path = urlsplit(target).path
        instead = self.replies.get(path)
        reply = instead.pop(0) if instead else None
        if reply is not None:
            return reply
        reply = self._right(path, {key: value[0] for key, value in parse_qs(urlsplit(target).query).items()})
        tag = f'W/"{hashlib.sha256(reply.body).hexdigest()}"'
        if reply.status == 200 and headers.get("if-none-match") == tag:
            return Reply(304, b"")
        return Reply(reply.status, reply.body, reply.headers | {"ETag": tag})

    def _right(self, path: str, query: dict[str, str]) -> Reply:
        parts = path.removeprefix(RUNS).strip("/").split("/")
        if path == RUNS:
            found = sorted(self._created(query.get("created", ">=2000-01-01T00:00:00Z")), key=_order, reverse=True)
            return self._page("workflow_runs", found[: self.listed_at_most], len(found), path, query)
        if path == WORKFLOWS:
            return self._page("workflows", self.workflows, len(self.workflows), path, query)
        if path.startswith(RUNS) and parts[1:] == ["artifacts"]:
            found = self.artifacts.get(int(parts[0]), [])
            return self._page("artifacts", found, len(found), path, query)
        if path.startswith(RUNS) and parts[1:2] == ["attempts"] and parts[3:] == ["jobs"]:
            found = self.jobs.get((int(parts[0]), int(parts[2])), [])
            return self._page("jobs", found, len(found), path, query)
        if path.startswith(RUNS) and parts[1:2] == ["attempts"] and (int(parts[0]), int(parts[2])) in self.attempts:
            return Reply(200, json.dumps(self.attempts[int(parts[0]), int(parts[2])]).encode())
        return Reply(404, b'{"message": "Not Found"}')

    def _created(self, wanted: str) -> list[Json]:
        since, _, until = wanted.removeprefix(">=").partition("..")
        return [run for run in self.runs if since <= run["created_at"] <= (until or "9")]

    def _page(self, key: str, found: list[Json], total: int, path: str, query: dict[str, str]) -> Reply:
        page = int(query.get("page", "1"))
        shown = found[(page - 1) * self.page_size : page * self.page_size]
        headers = {}
        if page * self.page_size < len(found):
            rest = f"&created={query['created'].replace('>', '%3E')}" if "created" in query else ""
            headers["Link"] = f'<{self.url}{path}?page={page + 1}{rest}>; rel="next", <{self.url}{path}>; rel="first"'
        return Reply(200, json.dumps({"total_count": total, key: shown}).encode(), headers)


@contextmanager
def rest_api(*runs: Json) -> Iterator[Rest]:
    """Run the stand-in on a free port of 127.0.0.1."""
    rest = Rest(runs=list(runs))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # The end of an answer need not wait for the receipt of its beginning.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            reply = rest.answer(self.path, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.status != 304:
                self.send_header("Content-Length", str(len(reply.body) * (2 if reply.cut else 1)))
            self.end_headers()
            self.wfile.write(reply.body)
            self.close_connection = reply.cut

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    rest.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield rest
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _order(run: Json) -> tuple[str, int]:
    return run["created_at"], run["id"]


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

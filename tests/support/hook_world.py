"""A git repository of its own, and a hub that stores what it gets and answers as told."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opskpi.hooks import sender

from . import forks
from .forks import JOBS
from .patience import PATIENCE_S, eventually

ENTRY = JOBS / "opskpi" / "hooks" / "entry.py"
KILLER = Path(__file__).with_name("killer.py")
ORG = "11111111-2222-4333-8444-555555555555"
AGENT = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
KEY = "opskpi-test-key"
# In the words of the hub and of PostgREST at once.
PROBLEM = {"title": "told so", "code": "P0001", "message": "told so", "details": "told to answer", "hint": None}
# The clock of the other side, also where a test changes the one of this process.
true_time = time.time
EXECUTION = {"hook_type": "pre-commit", "result": "allowed", "duration_ms": 1}


@dataclass
class World:
    """A user's home and one repository in it."""

    home: Path
    repo: Path
    env: dict[str, str]

    @property
    def folder(self) -> Path:
        entry = self.repo / ".git"
        if entry.is_file():
            entry = self.repo / entry.read_text().removeprefix("gitdir: ").strip()
        return entry / ".sentinel"

    @property
    def earlier(self) -> Path:
        """The place of the queue in the first releases."""
        return self.repo / ".sentinel"

    @property
    def hooks(self) -> Path:
        return self.repo / ".git" / "hooks"

    def run(self, *command: object, cwd: Path | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
        env = self.env | dict(more.pop("env", {}))
        arguments = {"capture_output": True, "encoding": "utf-8", "timeout": PATIENCE_S} | more
        return subprocess.run([str(word) for word in command], cwd=cwd or self.repo, env=env, check=False, **arguments)

    def git(self, *arguments: object, cwd: Path | None = None, **more: Any) -> str:
        answer = self.run("git", *arguments, cwd=cwd, **more)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def commit(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run("git", "commit", "-q", "--allow-empty", "-m", "a change", *arguments, **more)

    def opskpi(
        self, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `opskpi ARGUMENTS` in a process of its own; what sends, when no other process does."""
        # On a busy machine a sender of the background takes longer than `flush` waits for it.
        if arguments[1:] and arguments[1] in {"flush", "resend"}:
            self.await_quiet()
        return forks.run(*arguments, cwd=cwd or self.repo, env=self.env | dict(env or {}))

    def wrap(self, *command: object, hook_type: str = "pre-commit", **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-I", "-S", ENTRY, "wrap", hook_type, *command, **more)

    def python(self, script: str, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-c", script, *arguments, **more)

    def add_hook(self, name: str, script: str, mode: int = 0o755) -> Path:
        hook = self.hooks / name
        hook.write_text(script)
        hook.chmod(mode)
        return hook

    def queue(self) -> dict[str, Any]:
        return json.loads((self.folder / "telemetry-queue.json").read_text())

    def queued(self) -> list[dict[str, Any]]:
        return self.queue()["events"] if (self.folder / "telemetry-queue.json").exists() else []

    def metrics(self) -> list[dict[str, Any]]:
        return [event["metrics"] for event in self.queued()]

    def ids(self) -> list[str]:
        return [metrics["event_id"] for metrics in self.metrics()]

    def state(self) -> dict[str, Any]:
        path = self.folder / "telemetry-state.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def target(self, url: str, kind: str = "hub") -> None:
        self.folder.mkdir(exist_ok=True)
        settings = self.folder / "settings.json"
        settings.write_text(json.dumps({"target": kind, "url": url, "org_id": ORG}))
        settings.chmod(0o600)

    def let_time_pass(self, seconds: float) -> None:
        """Move everything that the sender remembers into the past."""
        state = self.state()
        for name in ("last_try_at", "next_try_at", "not_before", "policy_tried_at"):
            state[name] = state.get(name, 0) - seconds
        state["requests"] = [at - seconds for at in state.get("requests", [])]
        if state.get("pause"):
            state["pause"]["until"] -= seconds
        (self.folder / "telemetry-state.json").write_text(json.dumps(state))

    def senders(self) -> list[int]:
        """The processes that send from a repository of this home now."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (place / "cmdline").read_bytes().split(b"\0")
                if b"send" in words and any(word.startswith(bytes(self.home)) for word in words):
                    found.append(int(place.name))
        return found

    def await_quiet(self) -> None:
        """Wait until nothing is being sent."""
        eventually(lambda: not self.senders())

    def await_events(self, count: int, kind: str | None = None) -> list[dict[str, Any]]:
        """Wait until a background process has recorded so many events."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.queued() if kind in {None, event["event"]}]

        eventually(lambda: len(found()) >= count)
        assert len(found()) == count, self.queued()
        return found()


def world_in(place: Path) -> World:
    repo = place / "repo"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "OPSKPI_", "PRE_COMMIT"))}
    env.pop("DO_NOT_TRACK", None)
    env |= {
        "HOME": str(place),
        "XDG_DATA_HOME": str(place / "data"),
        "XDG_STATE_HOME": str(place / "state"),
        "TMPDIR": str(place / "tmp"),
        "PYTHONPATH": str(JOBS),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(place),
        **{
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "Ann"), ("EMAIL", "ann@example.com"))
        },
        "OPSKPI_HOOK_AGENT_ID": AGENT,
        "OPSKPI_API_KEY": KEY,
        "NO_COLOR": "1",
    }
    (place / "tmp").mkdir()
    world = World(place, repo, env)
    world.git("init", "-q", "-b", "main", repo, cwd=place)
    return world


def install(world: World, *arguments: object, cwd: Path | None = None) -> str:
    """Install the hooks, and return what was said."""
    answer = world.opskpi("hook", "install", *arguments, cwd=cwd)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def uninstall(world: World, *arguments: object) -> str:
    """Take the hooks away, and return what was said."""
    answer = world.opskpi("hook", "uninstall", *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def tree(place: Path) -> dict[str, tuple[int, bytes | str]]:
    """Every file below a folder with mode and content, links with what they say."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(place.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(place))] = (0, str(path.readlink()))
        else:
            content = path.read_bytes() if path.is_file() else "folder"
            found[str(path.relative_to(place))] = (path.stat().st_mode, content)
    return found


def send(world: World) -> sender.Report:
    """Send what is queued, as the background does."""
    return sender.run(str(world.folder), foreground=True)


@dataclass
class Receiver:
    """Stores by event_id as the real one does. `plan` says what becomes of the next requests, in order:
    a status, (status, headers), "lose" (store, then hang up), "silence", or a body to answer 200 with."""

    url: str = ""
    stored: dict[str, dict[str, Any]] = field(default_factory=dict)
    repeated: int = 0
    batches: list[int] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    plan: list[Any] = field(default_factory=list)
    always: Any = None
    policy: dict[str, Any] | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def policy_requests(self) -> list[dict[str, str]]:
        return [headers for method, _, headers, _ in self.requests if method == "GET"]


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    hub, lock = Receiver(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                headers = {name.lower(): value for name, value in self.headers.items()}
                hub.requests.append(("GET", self.path, headers, b""))
                if hub.policy is None:
                    return self.answer(404, {"title": "no policy"})
                etag = f'"{hub.policy["version"]}"'
                if headers.get("if-none-match") == etag:
                    return self.answer(304, None, {"etag": etag})
                return self.answer(200, hub.policy, {"etag": etag})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with lock:
                hub.requests.append(
                    ("POST", self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                )
                do = hub.plan.pop(0) if hub.plan else hub.always
                if do in ("silence", "drip"):
                    pass
                elif do is None or do == "lose":
                    answer = self.take(body)
                    if do == "lose":
                        self.close_connection = True
                        return None
                    return self.answer(422 if answer is None else 200, answer or {"detail": "an event is poison"})
                elif isinstance(do, bytes):
                    return self.answer(200, do)
                else:
                    status, headers = do if isinstance(do, tuple) else (do, {})
                    return self.answer(status, PROBLEM | {"detail": f"told to answer {status}"}, headers)
            if do == "drip":
                self.wfile.write(b"HTTP/1.0 200 OK\r\ncontent-length: 1000\r\n\r\n")
                with suppress(OSError):
                    while not hub.over.wait(0.05):
                        self.wfile.write(b" ")
            hub.over.wait(PATIENCE_S)
            return None

        def take(self, body: bytes) -> dict[str, Any] | None:
            batch = json.loads(body)
            events = batch if isinstance(batch, list) else batch["events"]
            if any(event["payload"]["hook_type"] == "poison" for event in events):
                return None
            hub.batches.append(len(events))
            answer: dict[str, Any] = {"accepted": 0, "duplicate": 0, "refused": []}
            for index, event in enumerate(events):
                event_id = event["payload"]["event_id"]
                if event["payload"]["hook_type"] == "bad":
                    answer["refused"].append({"index": index, "field": "hook_type", "reason": "is bad"})
                elif event_id in hub.stored:
                    answer["duplicate"] += 1
                    hub.repeated += 1
                else:
                    hub.stored[event_id] = event
                    answer["accepted"] += 1
            return answer | ({"policy_version": hub.policy["version"]} if hub.policy else {})

        def answer(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
            content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(true_time() if timestamp is None else timestamp)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        thread.join()
        server.server_close()

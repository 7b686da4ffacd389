"""What reporting adds to a `git commit`, in units of starting a bare Python interpreter.

    .venv/bin/python tests/benchmarks/hooks.py --commits 60

Alternately a commit with a hook alone, one with the same hook wrapped, and `python -c pass`; of each the lower quartile,
because whatever else the machine does only ever adds.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import quantiles

JOBS = Path(__file__).resolve().parents[2] / "jobs"
HOOK = "#!/bin/sh\ngit diff --cached --quiet -G '^(<<<<<<<|>>>>>>>)'\n"
COMMIT = ("git", "commit", "-q", "--allow-empty", "-m", "a change")
AIM = 1.5


@contextmanager
def never_answering() -> Iterator[str]:
    """An endpoint that accepts connections (the kernel does) and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def dropping() -> Iterator[str]:
    """An endpoint that drops packets: its backlog is full, so that the kernel ignores who wants to connect."""
    with ExitStack() as open_sockets:
        server = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            client = open_sockets.enter_context(socket.socket())
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def closed() -> Iterator[str]:
    """An endpoint that refuses at once."""
    yield "http://127.0.0.1:9"


@contextmanager
def none() -> Iterator[None]:
    """No endpoint."""
    yield None


def measure(place: Path, url: str | None, commits: int, before: Callable[[Path], None]) -> tuple[float, float, float]:
    """Seconds of a commit with the hook alone, of one with the wrapped hook, and of a bare interpreter."""
    alone, wrapped = (repository(place / name) for name in ("alone", "wrapped"))
    command = [sys.executable, "-m", "opskpi", "hook", "install", *(["--hub", url] if url else [])]
    subprocess.run(command, cwd=wrapped, env=environment(place), check=True, capture_output=True)
    taken: tuple[list[float], ...] = ([], [], [])
    for number in range(commits + 3):
        before(wrapped)
        for index, (cwd, run) in enumerate(
            ((alone, COMMIT), (wrapped, COMMIT), (place, (sys.executable, "-c", "pass")))
        ):
            started = time.perf_counter()
            subprocess.run(run, cwd=cwd, env=environment(place), check=True)
            if number >= 3:
                taken[index].append(time.perf_counter() - started)
    events = json.loads((wrapped / ".git" / ".sentinel" / "telemetry-queue.json").read_text())["events"]
    assert len(events) == commits + 3, "not every commit was recorded"
    alone_s, wrapped_s, bare_s = (quantiles(times, n=4)[0] for times in taken)
    return alone_s, wrapped_s, bare_s


def repository(path: Path) -> Path:
    subprocess.run(["git", "init", "-q", path], env=environment(path.parent), check=True)
    hook = path / ".git" / "hooks" / "pre-commit"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    return path


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "OPSKPI_", "DO_NOT"))}
    names = {f"GIT_{who}_{what}": "ann@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    places = {"HOME": str(home), "XDG_DATA_HOME": str(home), "PYTHONPATH": str(JOBS), "GIT_CONFIG_GLOBAL": os.devnull}
    return kept | names | places | {"OPSKPI_API_KEY": "benchmark"}


def start_sender_again(repo: Path) -> None:
    """Let the next commit start the sender, once the one before has ended."""
    folder = repo / ".git" / ".sentinel"
    while any(str(folder).encode() in words and b"send" in words for words in command_lines()):
        time.sleep(0.02)
    (folder / "telemetry-state.json").unlink(missing_ok=True)


def command_lines() -> Iterator[list[bytes]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes().split(b"\0")


CASES: tuple[tuple[str, Callable[[], object], Callable[[Path], None]], ...] = (
    ("no endpoint", none, lambda _: None),
    ("an endpoint that accepts and never answers", never_answering, lambda _: None),
    ("an endpoint that drops packets", dropping, lambda _: None),
    ("every commit starts the sender", closed, start_sender_again),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=60, help="commits of each kind and case")
    commits = parser.parse_args().commits
    for name, endpoint, before in CASES:
        place = Path(tempfile.mkdtemp(prefix="opskpi-benchmark-"))
        try:
            with endpoint() as url:  # type: ignore[attr-defined]
                alone, wrapped, bare = measure(place, url, commits, before)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        ratio = (wrapped - alone) / bare
        times = f"{alone * 1000:.1f} ms alone, {wrapped * 1000:.1f} ms wrapped, {bare * 1000:.1f} ms bare interpreter"
        print(f"{name}: {ratio:.2f} (aim {AIM}): {times}")


if __name__ == "__main__":
    main()

"""Command lines of `opskpi` as processes of their own, forked from one that has imported all of it."""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from .patience import PATIENCE_S

TESTS = Path(__file__).resolve().parents[1]
JOBS = TESTS.parent / "jobs"


class Process:
    """A running command line: what a test needs of `subprocess.Popen`."""

    def __init__(
        self,
        arguments: Sequence[object],
        *,
        code: str = "",
        cwd: Path | str,
        env: Mapping[str, str],
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
    ) -> None:
        self.args = ["opskpi" if not code else "-c", *map(str, arguments)]
        self.returncode: int | None = None
        self.said = b""
        order = json.dumps(
            {"cwd": str(Path(cwd).absolute()), "env": dict(env), "arguments": self.args[1:], "code": code}
        ).encode()
        with open(os.devnull, "r+b") as nothing:  # noqa: PTH123
            streams = [nothing if stream == subprocess.DEVNULL else stream for stream in (stdin, stdout, stderr)]
            numbers = [stream if isinstance(stream, int) else stream.fileno() for stream in streams]
            self.answers, answer = os.pipe()
            socket.send_fds(preloaded(), [order], [*numbers, answer])
            os.close(answer)
        self.pid = int(self._line(None) or 0)
        assert self.pid, "the process that runs the commands has died"

    def _line(self, timeout: float | None) -> bytes | None:
        """Return the next line of what was answered, None when it has not come in time."""
        until = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self.said:
            left = None if until is None else max(until - time.monotonic(), 0)
            if not select.select([self.answers], [], [], left)[0]:
                return None
            read = os.read(self.answers, 100)
            if not read:
                return b""
            self.said += read
        line, _, self.said = self.said.partition(b"\n")
        return line

    def poll(self) -> int | None:
        if self.returncode is None and (line := self._line(0)) is not None:
            self._end(line)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            line = self._line(timeout)
            if line is None:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._end(line)
        assert self.returncode is not None
        return self.returncode

    def _end(self, line: bytes) -> None:
        os.close(self.answers)
        self.returncode = int(line or -signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        # The process may end at this very moment.
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    *arguments: object,
    cwd: Path | str = ".",
    env: Mapping[str, str],
    code: str = "",
    stdin: str = "",
    timeout: float = PATIENCE_S,
) -> subprocess.CompletedProcess[str]:
    """Run a command line, or Python code, to its end, as `subprocess.run` does with `capture_output`."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        given.write(stdin.encode())
        given.seek(0)
        process = Process(arguments, code=code, cwd=cwd, env=env, stdin=given, stdout=stdout, stderr=stderr)
        try:
            ended = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(process.args, ended, _written_to(stdout), _written_to(stderr))


def _written_to(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()


@cache
def preloaded() -> socket.socket:
    """Start the process that runs the commands, once; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPSKPI_")}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "support.preloaded"],
            env=env | {"PYTHONPATH": os.pathsep.join([str(JOBS), str(TESTS)])},
            stdin=theirs.fileno(),
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours

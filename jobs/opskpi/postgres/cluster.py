"""One Postgres data folder: create it, start its server, find where it listens, stop it."""

import hashlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.postgres.processes import account, is_alive, run_as, serves

START_SECONDS = 120
STOP_SECONDS = 60
GARBLED_SECONDS = 0.5
ORPHANS_SECONDS = 10
POLL_SECONDS = 0.05
LOG_BYTES = 10_000_000
LOG_LINES = 5
# A socket address holds 104 bytes on macOS and 108 on Linux; the file name takes 20 of them.
SOCKET_DIR_BYTES = 80


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A server that left its `postmaster.pid`; `ready` is false while it starts or stops."""

    pid: int
    port: int
    socket_dir: str
    ready: bool

    def dsn(self, database: str) -> str:
        """Return the connection string of `database` for the superuser, over the unix socket."""
        return make_conninfo(host=self.socket_dir, port=self.port, user="postgres", dbname=database)

    @property
    def socket(self) -> Path:
        """The file of the unix socket."""
        return Path(self.socket_dir, f".s.PGSQL.{self.port}")

    def listens(self) -> bool:
        """Whether the socket takes a connection; a server too busy to answer counts as listening."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            try:
                client.connect(str(self.socket))
            except (TimeoutError, BlockingIOError):
                return True
            except OSError:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data folder, the folder of the binaries that serve it and the user who owns it.

    `os_user` is None unless root is running: Postgres refuses root, so its programs run as that user.
    Every method raises OpsKpiError when the server fails, OSError when a folder is out of reach.
    """

    bin_dir: Path
    data_dir: Path
    os_user: str | None = None

    @property
    def log(self) -> Path:
        """The file that takes what the server says."""
        return self.data_dir / "server.log"

    def version(self) -> str | None:
        """Return the major version that made the folder, None when there is no data in it."""
        try:
            return (self.data_dir / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None

    def initialise(self, settings: Mapping[str, str], *, sync: bool = True) -> None:
        """Create the data folder, whole or not at all; `settings` go to its postgresql.conf.

        What a killed run left half made is removed first, so callers take turns.
        """
        prefix = f"{self.data_dir.name}.partial-"
        for abandoned in self.data_dir.parent.glob(f"{prefix}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=prefix, dir=self.data_dir.parent))
        self._give(partial)
        arguments = [
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            f"--pgdata={partial}",
        ]
        finished = self._run("initdb", *arguments, *([] if sync else ["--no-sync"]))
        if finished.returncode != 0:
            shutil.rmtree(partial, ignore_errors=True)
            raise _failed(f"the data folder {self.data_dir} could not be created", finished.stderr)
        values = {name: value.replace("'", "''") for name, value in settings.items()}
        lines = [f"{name} = '{value}'" for name, value in values.items()]
        with (partial / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write("\n".join(["", *lines, ""]))
        partial.rename(self.data_dir)

    def start(self, tcp_port: int | None = None) -> Postmaster:
        """Start the server unless it runs already, and return where it listens.

        It listens on a unix socket that only its owner and root can use, and with `tcp_port` on 127.0.0.1
        too. It outlives the calling process and its terminal, and recovers by itself from a crash.
        """
        running = self._await_previous()
        return running if running is not None else self._launch(tcp_port)

    def stop(self) -> bool:
        """Stop the server, ending its sessions; return whether it ran."""
        pid = self._recorded_pid()
        if pid is None or not serves(pid, self.data_dir):
            return False
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        while serves(pid, self.data_dir):
            if time.monotonic() > deadline:
                message = f"the server in {self.data_dir} (process {pid}) did not stop in {STOP_SECONDS} s"
                raise OpsKpiError(message, f"It may be writing its data out; see {self.log}.", ExitCode.TRY_LATER)
            time.sleep(POLL_SECONDS)
        return True

    def is_running(self) -> bool:
        """Whether a server of this folder listens."""
        postmaster = self.postmaster()
        return postmaster is not None and postmaster.listens()

    def postmaster(self) -> Postmaster | None:
        """Return what `postmaster.pid` tells, None when it is absent, still being written or garbled."""
        lines = self._pid_file().splitlines()
        try:
            pid, port, socket_dir = int(lines[0]), int(lines[3]), lines[4].strip()
        except (IndexError, ValueError):
            return None
        if pid <= 0 or not socket_dir:
            return None
        return Postmaster(pid, port, socket_dir, ready=len(lines) > 7 and lines[7].strip() == "ready")

    def dsn(self, database: str) -> str:
        """Return the superuser's connection string of `database` of the running server."""
        postmaster = self.postmaster()
        if postmaster is None:
            raise OpsKpiError(f"no server runs in {self.data_dir}", exit_code=ExitCode.TRY_LATER)
        return postmaster.dsn(database)

    def _await_previous(self) -> Postmaster | None:
        """Wait until a server that starts or stops has done so, and clear away what a dead one left."""
        garbled_until = time.monotonic() + GARBLED_SECONDS
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            postmaster = self.postmaster()
            if postmaster is not None and postmaster.ready and postmaster.listens():
                return postmaster
            pid = self._recorded_pid()
            if pid is not None and not serves(pid, self.data_dir):
                if is_alive(pid):
                    # The pid now belongs to another program: Postgres would take it for a server and refuse.
                    (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
                return None
            if pid is None and (not self._pid_file_exists() or time.monotonic() > garbled_until):
                (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
                return None
            if postmaster is not None and postmaster.ready and not postmaster.socket.exists():
                # Its socket was swept away with a temporary folder, so nobody can reach it any more.
                self.stop()
                return None
            time.sleep(POLL_SECONDS)
        raise self._still_starting()

    def _launch(self, tcp_port: int | None) -> Postmaster:
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.old"))
        socket_dir, port = self._socket_dir(), str(tcp_port or 5432)
        # The folder is ours alone and nobody serves it, so this is left from a crash, whatever pid it holds.
        (socket_dir / f".s.PGSQL.{port}.lock").unlink(missing_ok=True)
        options = {
            "listen_addresses": "127.0.0.1" if tcp_port else "",
            "port": port,
            "unix_socket_directories": str(socket_dir),
            "unix_socket_permissions": "0700",
        }
        quoted = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())
        deadline = time.monotonic() + ORPHANS_SECONDS
        while True:
            logged = self.log.stat().st_size if self.log.exists() else 0
            folder, log = f"--pgdata={self.data_dir}", f"--log={self.log}"
            finished = self._run(
                "pg_ctl", "start", "--wait", f"--timeout={START_SECONDS}", folder, log, f"--options={quoted}"
            )
            postmaster = self.postmaster()
            if finished.returncode == 0 and postmaster is not None:
                return postmaster
            pid = self._recorded_pid()
            if pid is not None and serves(pid, self.data_dir):
                raise self._still_starting()
            said = self._logged(logged)
            if "shared memory block" not in said:
                raise _failed(f"the server in {self.data_dir} did not start", said or finished.stderr)
            # After a crash the old server's sessions need a moment to notice, or until their statement ends.
            if time.monotonic() > deadline:
                message = f"sessions of the crashed server in {self.data_dir} are still at work"
                raise OpsKpiError(message, "Run it again in a moment.", ExitCode.TRY_LATER)
            time.sleep(0.5)

    def _still_starting(self) -> OpsKpiError:
        message = f"the server in {self.data_dir} is not ready after {START_SECONDS} s"
        return OpsKpiError(message, f"It may be recovering from a crash; see {self.log}.", ExitCode.TRY_LATER)

    def _logged(self, offset: int) -> str:
        """Return what the server said after the first `offset` bytes of its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(offset)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _socket_dir(self) -> Path:
        """Return the data folder, or a private short folder when its path does not fit a socket address."""
        if len(os.fsencode(self.data_dir)) <= SOCKET_DIR_BYTES and not set(str(self.data_dir)) & set(',"'):
            return self.data_dir
        owner = os.geteuid() if self.os_user is None else account(self.os_user)[0]
        name = f"opskpi-{owner}-{hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]}"
        folder = Path(tempfile.gettempdir(), name)
        if len(os.fsencode(folder)) > SOCKET_DIR_BYTES:
            folder = Path("/tmp", name)  # noqa: S108
        try:
            folder.mkdir(mode=0o700)
            self._give(folder)
        except FileExistsError:
            found = folder.lstat()
            if found.st_uid != owner or found.st_mode & 0o777 != 0o700 or not folder.is_dir() or folder.is_symlink():
                message = f"{folder}, the folder of the server's socket, belongs to somebody else"
                raise OpsKpiError(message, "Move it away, or set OPSKPI_HOME to a shorter path.") from None
        return folder

    def _pid_file(self) -> str:
        try:
            return (self.data_dir / "postmaster.pid").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _pid_file_exists(self) -> bool:
        return (self.data_dir / "postmaster.pid").exists()

    def _recorded_pid(self) -> int | None:
        first = self._pid_file().partition("\n")[0].strip()
        return int(first) if first.isascii() and first.isdigit() and int(first) > 0 else None

    def _give(self, folder: Path) -> None:
        if self.os_user is not None:
            os.chown(folder, *account(self.os_user))

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_as(self.os_user, [str(self.bin_dir / program), *arguments])


def _failed(message: str, said: str) -> OpsKpiError:
    """Return the error of a failing Postgres program, with the last lines that it said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    full = "No space left on device" in said or "Disk quota exceeded" in said
    return OpsKpiError(
        ": ".join([message, "; ".join(lines[-LOG_LINES:])]) if lines else message,
        "Free some disk space and run it again." if full else "Set OPSKPI_DSN to use another Postgres.",
        ExitCode.TRY_LATER if full else ExitCode.CONFIGURATION,
    )

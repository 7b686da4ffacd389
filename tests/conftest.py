"""Fixtures: a real Postgres a session, a migrated database a test, roles, commands."""

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from support import clock, forks
from support.events import fill_past_months
from support.fixtures import ActingAs, Cli, Connect, CreateDatabase, shared_folder
from support.patience import PATIENCE_S
from support.postgres import VERSIONS, Database, Server, bin_dir_of, janitor, running_server, unavailable
from support.rolled_back import SharedDatabase, in_transaction_block

TEMPLATE = "opskpi_template"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the Postgres version."""
    parser.addoption("--as-of", metavar="INSTANT", help="run at that instant, such as 2027-01-31T23:50Z")
    parser.addoption("--postgres", choices=VERSIONS, default="18", help="the Postgres version to test on")


def pytest_configure(config: pytest.Config) -> None:
    """Set the clock, and let signals arrive: what a shell starts in the background or with nohup ignores some of them."""
    if instant := config.getoption("--as-of"):
        clock.start_again_as_of(str(instant))
    clock.keep_in_processes()
    for number, action in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)


def pytest_report_header(config: pytest.Config) -> str:
    """Name the Postgres version and the date in the report."""
    return f"postgres: {config.getoption('--postgres')}, as of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Run the session's Postgres, on a unix socket and on 127.0.0.1."""
    version = str(request.config.getoption("--postgres"))
    if bin_dir_of(version) is None:
        unavailable(f"the binaries of Postgres {version} are not installed")
    with running_server(version) as running:
        yield running


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[Database]:
    """Create the database that tests get copies of: migrated by the product's own code."""
    # Imported late, so that tests without a database run while a migration is broken.
    migrations = importlib.import_module("opskpi.postgres.migrations")
    with janitor(server, TEMPLATE, as_template=True):
        with psycopg.connect(server.dsn(TEMPLATE)) as connection:
            migrations.migrate(connection)
        yield server.database(TEMPLATE)


@pytest.fixture(scope="session")
def _names() -> Iterator[str]:
    return (f"test_{number}" for number in itertools.count(1))


@pytest.fixture
def create_database(server: Server, _names: Iterator[str]) -> Iterator[CreateDatabase]:
    """Create further databases, dropped after the test: `create_database(template=None, name=None)`."""
    with ExitStack() as created:

        def create(template: Database | None = None, name: str | None = None) -> Database:
            name = name or next(_names)
            created.enter_context(janitor(server, name, template=template.name if template else None))
            return server.database(name)

        yield create


@pytest.fixture
def empty_database(create_database: CreateDatabase) -> Database:
    """Create a database without any migration."""
    return create_database()


@pytest.fixture
def migrated_database(create_database: CreateDatabase, template: Database) -> Database:
    """Create the test's own copy of the migrated template; `database` and `connect` connect to it."""
    return create_database(template)


@pytest.fixture
def connect(migrated_database: Database) -> Iterator[Connect]:
    """Open further connections to the test's database: `connect(autocommit=True)`."""
    with ExitStack() as opened:

        def open_connection(*, autocommit: bool = True) -> psycopg.Connection:
            connection = psycopg.connect(migrated_database.dsn, autocommit=autocommit)
            opened.callback(connection.close)
            return connection

        yield open_connection


@pytest.fixture(scope="session")
def _shared_databases(server: Server, template: Database) -> Iterator[Callable[[], SharedDatabase]]:
    """Return the session's shared database, and another one when a test has committed to it."""
    with ExitStack() as created:
        shared: list[SharedDatabase] = []

        def current() -> SharedDatabase:
            if not shared or shared[-1].connection.closed:
                name = f"shared_{len(shared) + 1}"
                created.enter_context(janitor(server, name, template=template.name))
                shared.append(created.enter_context(SharedDatabase.connect(server.database(name))))
            return shared[-1]

        yield current


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """Connect to a database as the migrations leave it, in autocommit mode, as superuser.

    It is shared, and what a test does is rolled back: everything happens in one transaction, so `now()` stands still.
    A test that is marked `own_database`, or asks for `connect`, `cli` or `migrated_database`, has its own copy.
    """
    if "migrated_database" in request.fixturenames or request.node.get_closest_marker("own_database"):
        yield request.getfixturevalue("connect")()
    else:
        with request.getfixturevalue("_shared_databases")().test() as connection:
            yield connection


@pytest.fixture
def past_months(database: psycopg.Connection) -> psycopg.Connection:
    """Store and count three months of the past."""
    fill_past_months(database)
    return database


@pytest.fixture
def acting_as() -> ActingAs:
    """Act as a role in one transaction: `with acting_as(connection, "authenticated", org=…, sub=…):`.

    At exit the transaction is rolled back, with `commit=True` it is committed.
    """

    @contextmanager
    def act(
        connection: psycopg.Connection,
        role: str,
        org: object = None,
        *,
        commit: bool = False,
        **claims: object,
    ) -> Iterator[psycopg.Connection]:
        assert not in_transaction_block(connection), "a transaction is open already"
        app_metadata = {} if org is None else {"app_metadata": {"org_id": str(org)}}
        with connection.transaction(force_rollback=not commit):
            connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            token = json.dumps({"role": role} | app_metadata | claims)
            connection.execute("select pg_catalog.set_config('request.jwt.claims', %s, true)", [token])
            yield connection

    return act


@pytest.fixture
def shared_data() -> Path:
    """Return the folder of the shared data sets, beside the checkout unless OPSKPI_SHARED names another."""
    return shared_folder()


@pytest.fixture
def cli(migrated_database: Database, tmp_path: Path) -> Cli:
    """Run `python -m opskpi ARGUMENTS` on the test's database: `cli("rollup", "hour", stdin="…")`."""
    environment = os.environ | {
        "OPSKPI_DSN": migrated_database.dsn,
        "OPSKPI_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }

    def run(
        *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None, timeout: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        return forks.run(*arguments, cwd=tmp_path, env=environment | dict(env or {}), stdin=stdin, timeout=timeout)

    return run

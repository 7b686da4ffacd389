"""Fixtures of the tests of the hub: one hub over one migrated database for a session; every test is an organisation of its own."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from pytest_postgresql.janitor import DatabaseJanitor

from opskpi.postgres import migrations
from opskpi.postgres.cluster import Cluster
from opskpi.postgres.installation import unprivileged_user
from support.hubs import Hub, make_key, running_hub
from support.postgres import Database, Server, running_server


@pytest.fixture(scope="session")
def hub(server: Server, template: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Run a hub that all tests share."""
    janitor = DatabaseJanitor(
        user="postgres", host=server.host, port=server.port, dbname="hub", template_dbname=template.name
    )
    with janitor, running_hub(server.dsn("hub"), tmp_path_factory.mktemp("hub"), "--access-log") as running:
        yield running


@pytest.fixture
def hub_database(hub: Hub) -> Iterator[psycopg.Connection]:
    """Connect to the shared hub's database as superuser."""
    with psycopg.connect(hub.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def org() -> UUID:
    """Return an organisation that no other test knows."""
    return uuid4()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where the test's own hubs log."""
    return tmp_path


@pytest.fixture
def client(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> Iterator[httpx.Client]:
    """Call the hub with a key of the organisation for everything."""
    with hub.client(make_key(hub_database, org)) as opened:
        yield opened


@pytest.fixture
def mortal_server(pytestconfig: pytest.Config) -> Iterator[tuple[str, Cluster, int]]:
    """Run a server that a test may stop: its DSN, its cluster, and its port."""
    with running_server(str(pytestconfig.getoption("--postgres"))) as server:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            migrations.migrate(connection)
        yield server.dsn("postgres"), Cluster(server.bin_dir, server.data_dir, unprivileged_user()), server.port

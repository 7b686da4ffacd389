"""Fixtures of the tests of the whole schema: a database with three tenants."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from support.postgres import Database, Server
from support.tenants import fill_both_orgs


@pytest.fixture(scope="session")
def tenants(server: Server, template: Database) -> Iterator[Database]:
    """Create one database with the data of three orgs; every test rolls its changes back."""
    name = "opskpi_tenants"
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as postgres:
        names = sql.Identifier(name), sql.Identifier(template.name)
        postgres.execute(sql.SQL("create database {} template {}").format(*names))
        with psycopg.connect(server.dsn(name), autocommit=True) as connection:
            fill_both_orgs(connection)
        yield server.database(name)
        postgres.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def owner(tenants: Database) -> Iterator[psycopg.Connection]:
    """Connect to the database of the tenants as its owner, in autocommit mode."""
    with psycopg.connect(tenants.dsn, autocommit=True) as connection:
        yield connection

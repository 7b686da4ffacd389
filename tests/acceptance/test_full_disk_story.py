"""A disk that is full of old months, none of them counted, is left by `opskpi run` alone."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from opskpi.postgres import migrations, room
from opskpi.postgres.installation import unprivileged_user
from support import forks
from support.events import Connection, rows, scalar
from support.postgres import Database, Server, temporary_folder, unavailable

pytestmark = pytest.mark.database

Opskpi = Callable[..., subprocess.CompletedProcess[str]]

DISK = "64m"
MONTHS = "select ops.create_partition(month::date) from generate_series(timestamp '2024-01-01', '2024-12-01', '1 month') as month"
# 200 events within a minute of each day, of 1 KB, so that there is much to store and little to count.
FILL = """
  insert into telemetry_events (event_type, event_timestamp, run_id, metadata)
  select
    'slsa_provenance',
    timestamptz '2024-01-01 10:00Z' + n / 200 * interval '1 day' + mod(n, 200) * interval '0.1 s',
    n,
    jsonb_build_object('outcome', 'success', 'duration_ms', mod(n, 5000), 'log', repeat(md5(n::text), 30))
  from generate_series(%(first)s::integer, %(first)s::integer + %(count)s::integer - 1) as n
"""


@pytest.fixture
def small_disk(server: Server) -> Iterator[Database]:
    """Keep a database on a file system of its own, of 64 MB."""
    with temporary_folder(None) as folder:
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "tmpfs", str(folder)]
        if subprocess.run(mounting, capture_output=True, check=False).returncode:
            unavailable("mounting is not allowed here")
        try:
            yield from _database_in(folder / "space", server)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def _database_in(space: Path, server: Server) -> Iterator[Database]:
    space.mkdir()
    if (user := unprivileged_user()) is not None:
        shutil.chown(space, user)
    name = sql.Identifier("small_disk")
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("create tablespace {} location {}").format(name, sql.Literal(str(space))))
        connection.execute(sql.SQL("create database {} tablespace {}").format(name, name))
        try:
            with psycopg.connect(server.dsn("small_disk")) as migrated:
                migrations.migrate(migrated)
            yield server.database("small_disk")
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))
            connection.execute(sql.SQL("drop tablespace {}").format(name))


def disk_folder(connection: Connection) -> Path:
    query = "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'small_disk'"
    return Path(scalar(connection, query)).parent


def fill_disk(connection: Connection) -> int:
    """Import events until a batch finds the disk full, and leaves 8 MB or more behind; returns how many are stored."""
    stored = 0
    while shutil.disk_usage(disk_folder(connection)).free > 16 * 2**20:
        connection.execute(FILL, {"first": stored, "count": 5000})
        stored += 5000
    with pytest.raises(psycopg.errors.DiskFull):
        connection.execute(FILL, {"first": stored, "count": 50_000})
    return stored


@pytest.fixture
def on_small_disk(small_disk: Database, tmp_path: Path) -> Opskpi:
    """Run a command on that database."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forks.run(*arguments, "--dsn", small_disk.dsn, cwd=tmp_path, env={}, stdin="", timeout=300)

    return run


def test_a_disk_full_of_months_that_nobody_counted_is_left_by_a_rule_and_a_run(
    small_disk: Database, on_small_disk: Opskpi
):
    with psycopg.connect(small_disk.dsn, autocommit=True) as connection:
        # Jobs have run here before, which keep the months to come in store.
        connection.execute("select ops.maintain()")
        connection.execute(MONTHS)
        stored = fill_disk(connection)
        assert stored > 20_000
        assert on_small_disk("retention", "set", "events", "90d").returncode == 0
        answer = on_small_disk("run", "--json")
        assert answer.returncode == 0, answer.stderr
        said = json.loads(answer.stdout)
        assert (said["events"], said["failures"]) == (stored, [])
        assert sum(removal["removed"] for removal in said["retention"]["freed"]) == stored
        assert rows(connection, "select from telemetry_events") == []
        counted = "select sum(event_count) from ops.rollups where period = 'month'"
        assert scalar(connection, counted) == stored
        # And all that the way out took away is there again.
        assert scalar(connection, "select count(*) from ops.event_months() where month_start > now()") == 3
        assert on_small_disk("run").returncode == 0


def test_a_disk_without_a_page_left_needs_an_index_less_for_a_while(small_disk: Database, on_small_disk: Opskpi):
    with psycopg.connect(small_disk.dsn, autocommit=True) as connection:
        connection.execute(MONTHS)
        connection.execute("select ops.set_retention('events', interval '90 days')")
        stored = fill_disk(connection)
        # Nothing is left to give back, and the last byte is somebody else's.
        room.give_back(connection, with_events=True)
        connection.execute("select ops.drop_months_ahead()")
        with suppress(OSError), (disk_folder(connection) / "filler").open("wb", 0) as filler:
            while True:
                filler.write(bytes(4096))
        answer = on_small_disk("run")
        assert answer.returncode == 75
        assert "opskpi: counting: could not extend file" in answer.stderr
        connection.execute("drop index idx_telemetry_events_event_timestamp")
        answer = on_small_disk("run")
        assert (answer.returncode, answer.stderr) == (0, "")
        counted = "select sum(event_count) from ops.rollups where period = 'month'"
        assert (scalar(connection, counted), rows(connection, "select from telemetry_events")) == (stored, [])
        connection.execute(
            "create index idx_telemetry_events_event_timestamp on telemetry_events (event_timestamp desc)"
        )

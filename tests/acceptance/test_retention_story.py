"""Retention from a terminal, and what becomes of it when it is killed: the process, and the server's backend under it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import psycopg
import pytest
from psycopg import sql

from opskpi.postgres import migrations
from opskpi.upkeep import retention
from support.events import (
    AS_OF,
    MONTHS,
    Connection,
    add_events,
    fill_past_months,
    refresh,
    rows,
    scalar,
    states,
)
from support.fixtures import Cli, Connect
from support.patience import PATIENCE_S, eventually
from support.postgres import Database, Server, running_server

pytestmark = pytest.mark.database

STORED = "select event_type, event_timestamp from public.telemetry_events order by id"


def test_the_rules_are_set_shown_and_applied(past_months: Connection, cli: Cli):
    assert "everything is kept for ever" in cli("retention").stdout
    assert "90 days" in cli("retention", "set", "events", "90d").stdout
    assert cli("retention", "set", "events", "forever", "--event-type", "hook_override").returncode == 0
    shown = json.loads(cli("retention", "show", "--json").stdout)
    assert shown["rules"] == [
        {"kept": "events", "event_type": "", "age": "90 days"},
        {"kept": "events", "event_type": "hook_override", "age": None},
    ]
    assert [(month["event_types"], month["events"]) for month in shown["months"]][:1] == [
        (["hook_override", "slsa_provenance"], 2)
    ]
    before = states(past_months)
    planned = json.loads(cli("retention", "run", "--dry-run", "--json").stdout)
    assert [row["removed"] for row in planned["freed"]] == [1, 1, 1]
    assert len(rows(past_months, "select from public.telemetry_events")) == 6
    said = cli("retention", "run")
    assert said.stdout.splitlines()[0] == (
        "delete telemetry_events_2026_01: 1 events of type slsa_provenance, before 2026-02-01 00:00 UTC"
    )
    assert "nothing is older" in cli("retention", "run").stdout
    assert states(past_months) == before
    assert cli("retention", "set", "events", "default", "--event-type", "hook_override").returncode == 0
    assert [rule.event_type for rule in retention.rules(past_months)] == [""]


def test_run_does_it_too_and_says_so(past_months: Connection, cli: Cli):
    assert json.loads(cli("run", "--json").stdout)["retention"] == {"freed": [], "obstacles": []}
    cli("retention", "set", "events", "90d")
    said = cli("run").stdout
    assert "drop   telemetry_events_2026_01: the whole month, 2 events, " in said
    assert scalar(past_months, "select count(*) from public.telemetry_events") == 0
    assert "telemetry_events_2026" not in cli("run").stdout


@pytest.mark.parametrize("waits_on", ["removed_months", "job_runs"])
def test_a_process_that_is_killed_leaves_what_the_next_one_finishes(
    past_months: Connection, connect: Connect, migrated_database: Database, waits_on
):
    add_events(past_months, 20_500, "workflow_run", "2026-02-11T10:00Z", outcome="success", workflow="w", duration_ms=1)
    while refresh(past_months).state == "more":
        pass
    for event_type in ("slsa_provenance", "workflow_run"):
        past_months.execute("select ops.set_retention('events', '90 days', %s)", [event_type])
    before = states(past_months)
    past_months.execute("select ops.retain(%s)", [AS_OF])
    past_months.execute("select ops.retain(%s)", [AS_OF])
    left = scalar(past_months, "select count(*) from public.telemetry_events")
    blocker = connect(autocommit=False)
    blocker.execute(f"lock table ops.{waits_on} in share mode".encode())
    process = subprocess.Popen(
        [sys.executable, "-m", "opskpi", "retention", "run", "--dsn", migrated_database.dsn],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    waiting = "select pid from pg_stat_activity where application_name = 'opskpi' and wait_event_type = 'Lock'"
    eventually(lambda: rows(past_months, waiting) or process.poll() is not None)
    [[waiting_pid]] = rows(past_months, waiting)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=PATIENCE_S)
    # The backend learns of it when it next speaks to its client; it is ended here, in the middle of its step.
    past_months.execute("select pg_terminate_backend(%s)", [waiting_pid])
    eventually(lambda: not rows(past_months, "select from pg_stat_activity where application_name = 'opskpi'"))
    blocker.rollback()
    assert scalar(past_months, "select count(*) from public.telemetry_events") == left
    assert states(past_months) == before
    freed = retention.run(past_months, as_of=AS_OF).freed
    # March is not old enough, and overrides are kept.
    assert sum(row.removed or 0 for row in freed) == left - len(MONTHS) - 1
    assert retention.plan(past_months, AS_OF) == []
    assert states(past_months) == before


@pytest.fixture(scope="module")
def mortal(server: Server) -> Iterator[Server]:
    """Run a server whose backends may be killed: it starts all of them anew, those of other tests too."""
    # A commit must outlive the crash, as it does on a server that is not for tests.
    with running_server(server.version, {"synchronous_commit": "on"}) as running:
        yield running


@pytest.mark.parametrize("waits_on", ["removed_events", "removed_months", "removed_periods", "job_runs"])
def test_a_backend_that_is_killed_leaves_what_the_next_run_finishes(mortal: Server, waits_on):
    name = f"killed_{waits_on}"
    with psycopg.connect(mortal.dsn("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    with (
        closing(psycopg.connect(mortal.dsn(name), autocommit=True)) as connection,
        closing(psycopg.connect(mortal.dsn(name), autocommit=True)) as victim,
        closing(psycopg.connect(mortal.dsn(name))) as blocker,
    ):
        migrations.migrate(connection)
        fill_past_months(connection)
        connection.execute("select ops.set_retention('hours', '90 days')")
        if waits_on != "removed_periods":
            connection.execute("select ops.set_retention('events', '90 days')")
        before = states(connection), rows(connection, STORED)
        blocker.execute(sql.SQL("lock table ops.{} in share mode").format(sql.Identifier(waits_on)))

        def retain() -> None:
            with suppress(psycopg.Error):
                victim.execute("select ops.retain(%s)", [AS_OF])

        thread = threading.Thread(target=retain)
        thread.start()
        waiting = "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
        eventually(lambda: rows(connection, waiting, victim.info.backend_pid))
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        thread.join(timeout=PATIENCE_S)
        assert not thread.is_alive()
        # Only when all are gone has the server begun to start them anew.
        with suppress(psycopg.OperationalError):
            eventually(lambda: not connection.execute("select 1"))
    with reconnected(mortal.dsn(name)) as connection:
        assert (states(connection), rows(connection, STORED)) == before
        planned = retention.plan(connection, AS_OF)
        assert planned
        assert retention.run(connection, as_of=AS_OF).freed == planned
        assert retention.plan(connection, AS_OF) == []
        assert states(connection)["slis"] == before[0]["slis"]


def reconnected(dsn: str) -> psycopg.Connection:
    """Connect as soon as the server has come back."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return psycopg.connect(dsn, autocommit=True)
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)

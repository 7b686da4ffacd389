"""`opskpi migrate`: from nothing, twice, two at once, over an old audit table, on Supabase and off it."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import conninfo

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.postgres import connecting, history, locks, migrations
from opskpi.postgres.history import Migration
from support.fixtures import CreateDatabase
from support.migrated import (
    OLD_AUDITS,
    OLD_ROWS,
    SNAPSHOT,
    all_shipped,
    migration_history,
    schema_without_own_relations,
)
from support.patience import PATIENCE_S
from support.postgres import Database, Server, create_on, running_server

PRELUDE = Path(migrations.__file__).with_name("prelude.sql")
API_ROLES = ["anon", "authenticated", "service_role"]


@pytest.fixture
def open_database() -> Iterator[Callable[..., psycopg.Connection]]:
    """Connect as the commands do: `open_database(database, user="…", options="…")`."""
    with ExitStack() as opened:

        def connect(database: Database, **parameters: str) -> psycopg.Connection:
            connection = connecting.connect(conninfo.make_conninfo(database.dsn, **parameters))
            opened.callback(connection.close)
            return connection

        yield connect


@pytest.fixture
def old_database(create_database: CreateDatabase, template: Database) -> Database:
    """Create a database with the audit table of before, its rows, its policies, and a few things of the user's own."""
    old = create_database()
    with psycopg.connect(old.dsn) as connection:
        connection.execute(OLD_AUDITS)
    return old


@pytest.fixture(scope="module")
def spare_server(server: Server) -> Iterator[Server]:
    """Run a second server of the same version, whose roles tests may change."""
    with running_server(server.version) as running:
        yield running


@pytest.fixture
def emptied_server(spare_server: Server) -> Iterator[Server]:
    """Return the second server, without any database or role that a test made."""
    yield spare_server
    with psycopg.connect(spare_server.dsn("postgres"), autocommit=True) as connection:
        for statement in connection.execute(
            "select format('drop database %I with (force)', datname) from pg_database where datname like 'plain%'"
            " union all"
            " select format('drop role %I', rolname) from pg_roles where oid >= 16384 and rolname <> current_user"
        ).fetchall():
            connection.execute(statement[0])


def roles_of(connection: psycopg.Connection) -> dict[str, tuple[bool, bool]]:
    """Return whether each role of the API can log in and bypasses row-level security."""
    return {
        name: (can_log_in, bypasses)
        for name, can_log_in, bypasses in connection.execute(
            "select rolname, rolcanlogin, rolbypassrls from pg_roles where rolname = any (%s)",
            [[*API_ROLES, "authenticator"]],
        ).fetchall()
    }


def test_migrate_brings_an_empty_database_up_to_date_and_a_second_time_does_nothing(
    empty_database: Database, open_database: Callable[..., psycopg.Connection]
) -> None:
    connection = open_database(empty_database)
    announced: list[str] = []
    assert migrations.migrate(connection, announced.append) == history.shipped()
    assert announced == [f"{migration.version}_{migration.name}" for migration in history.shipped()]
    assert migration_history(connection) == all_shipped()
    assert history.pending(connection) == []
    history.require_current(connection)
    assert connection.execute("select state from ops.run()").fetchone() == ("done",)

    assert migrations.migrate(connection, announced.append) == []
    assert len(announced) == len(history.shipped())
    assert migration_history(connection) == all_shipped()


def test_two_migrations_at_once_do_the_work_once(
    empty_database: Database, open_database: Callable[..., psycopg.Connection]
) -> None:
    gate, first, second = (open_database(empty_database) for _ in range(3))
    gate.execute("select pg_advisory_lock(hashtextextended('opskpi.migrate', 0))")
    with ThreadPoolExecutor(max_workers=2) as threads:
        runs = [threads.submit(migrations.migrate, connection) for connection in (first, second)]
        # Both have found all of them pending before either may begin.
        wait_for(gate, "select count(*) = 2 from pg_locks where locktype = 'advisory' and not granted")
        gate.execute("select pg_advisory_unlock_all()")
        done = [run.result(timeout=PATIENCE_S) for run in runs]
    assert sorted(done[0] + done[1], key=lambda migration: migration.version) == history.shipped()
    assert migration_history(gate) == all_shipped()


def wait_for(connection: psycopg.Connection, condition: LiteralString) -> None:
    """Ask until a condition holds; fail when it does not within PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while connection.execute(condition).fetchone() != (True,):
        assert time.monotonic() < deadline, f"it never came to: {condition}"
        connection.execute("select pg_sleep(0.01)")


def test_two_databases_of_one_server_migrate_at_once_though_roles_belong_to_the_server(
    emptied_server: Server, open_database: Callable[..., psycopg.Connection]
) -> None:
    one, other = (create_on(emptied_server, name) for name in ("plain_one", "plain_other"))
    creating, migrating, watching = open_database(one), open_database(other), open_database(one)
    with ThreadPoolExecutor(max_workers=1) as threads:
        with creating.transaction():
            creating.execute(PRELUDE.read_bytes())
            run = threads.submit(migrations.migrate, migrating)
            wait_for(watching, "select count(*) = 1 from pg_stat_activity where wait_event = 'transactionid'")
        assert run.result(timeout=PATIENCE_S) == history.shipped()
    assert migrations.migrate(creating) == history.shipped()


def test_a_migration_that_fails_leaves_nothing_of_itself_and_the_next_run_goes_on(
    empty_database: Database,
    open_database: Callable[..., psycopg.Connection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = open_database(empty_database)
    shipped = history.shipped()
    broken = Migration(shipped[2].version, "opskpi_broken", "create table ops.half_done (id bigint); select 1 / 0;")
    with monkeypatch.context() as patched:
        patched.setattr(history, "shipped", lambda: [*shipped[:2], broken, *shipped[3:]])
        with pytest.raises(OpsKpiError) as failure:
            migrations.migrate(connection)
    assert failure.value.message == f"the migration {broken.file_name} failed: division by zero"
    assert f"Applied: 2 of {len(shipped)}, the last is {shipped[1].file_name}." in failure.value.hint
    assert f"Not applied: {len(shipped) - 2};" in failure.value.hint
    assert failure.value.exit_code == ExitCode.FAILED
    assert migration_history(connection) == all_shipped()[:2]
    assert connection.execute("select to_regclass('ops.half_done')").fetchone() == (None,)
    assert migrations.migrate(connection) == shipped[2:]
    assert migration_history(connection) == all_shipped()


def test_when_the_first_migration_fails_the_database_stays_empty(
    emptied_server: Server,
    open_database: Callable[..., psycopg.Connection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = open_database(create_on(emptied_server, "plain"))
    monkeypatch.setattr(history, "shipped", lambda: [Migration("1", "opskpi_broken", "select 1 / 0")])
    with pytest.raises(OpsKpiError, match="1_opskpi_broken failed: division by zero"):
        migrations.migrate(connection)
    assert connection.execute("select to_regnamespace('supabase_migrations')").fetchone() == (None,)
    assert roles_of(connection) == {}


@pytest.fixture
def next_migration(monkeypatch: pytest.MonkeyPatch) -> Migration:
    """Ship one more migration, which needs the events for itself alone."""
    script = "alter table public.telemetry_events add column more text"
    following = Migration("20990101000000", "opskpi_next", script)
    shipped = history.shipped()
    monkeypatch.setattr(history, "shipped", lambda: [*shipped, following])
    monkeypatch.setattr(locks, "TURN_S", 1.5)
    monkeypatch.setattr(locks, "LONGEST_PAUSE_S", 0.2)
    return following


def test_readers_go_on_while_a_migration_waits_for_a_long_one_and_its_holder_is_named(
    migrated_database: Database, open_database: Callable[..., psycopg.Connection], next_migration: Migration
) -> None:
    holding, migrating, reading = (open_database(migrated_database) for _ in range(3))
    reading.execute("select set_config('statement_timeout', %s, false)", [f"{PATIENCE_S}s"])
    told: list[str] = []
    with ThreadPoolExecutor(max_workers=1) as threads, holding.transaction():
        holding.execute("select count(*) from telemetry_events")
        run = threads.submit(migrations.migrate, migrating, told.append)
        # Each reads behind the waiting migration, which has to step back for it.
        for _ in range(3):
            wait_for(
                reading,
                "select exists (select from pg_locks where relation = 'telemetry_events'::regclass and not granted)",
            )
            reading.execute("select count(*) from telemetry_events")
        assert not run.done()
        holding.execute("select 1")
    run_result = run.result(timeout=PATIENCE_S)
    assert run_result == [next_migration]
    [announced, waited] = told
    assert announced == next_migration.file_name
    assert f"session {holding.info.backend_pid} (" in waited
    assert waited.startswith("waiting for AccessExclusiveLock on ")


@pytest.mark.parametrize("prepared", [False, True])
def test_a_migration_that_gets_no_lock_says_who_holds_it_and_how_to_end_that(
    migrated_database: Database,
    open_database: Callable[..., psycopg.Connection],
    next_migration: Migration,
    prepared: bool,
) -> None:
    holding, migrating = (open_database(migrated_database) for _ in range(2))
    remedy = f"select pg_terminate_backend({holding.info.backend_pid})"
    holding.execute("begin")
    holding.execute("insert into telemetry_events (event_type) values ('x')")
    if prepared:
        holding.execute("prepare transaction 'it''s left over'")
        remedy = "rollback prepared 'it''s left over'"
    try:
        with pytest.raises(OpsKpiError) as failure:
            migrations.migrate(migrating, patience_s=2)
    finally:
        with suppress(psycopg.errors.AdminShutdown, psycopg.errors.UndefinedObject):
            migrating.execute(remedy.encode())
    assert f"the migration {next_migration.file_name} waited in vain for AccessExclusiveLock" in failure.value.message
    assert ("left over" if prepared else str(holding.info.backend_pid)) in failure.value.message
    assert failure.value.hint.startswith(f"`{remedy}` ends the oldest of them. ")
    assert failure.value.exit_code == ExitCode.TRY_LATER
    assert migrations.migrate(migrating) == [next_migration]


def test_only_the_session_that_blocks_is_named_and_not_one_that_holds_another_lock(
    migrated_database: Database, open_database: Callable[..., psycopg.Connection], next_migration: Migration
) -> None:
    migrating, holding, *innocent = (open_database(migrated_database) for _ in range(5))
    migrating.execute("create table public.users_own (id bigint)")
    for other in innocent:
        other.execute("begin")
        other.execute("select count(*) from public.users_own")
    holding.execute("begin")
    holding.execute("select count(*) from telemetry_events")
    with pytest.raises(OpsKpiError) as failure:
        migrations.migrate(migrating, patience_s=2)
    assert f"session {holding.info.backend_pid} (" in failure.value.message
    assert failure.value.message.count("session ") == 1
    assert f"pg_terminate_backend({holding.info.backend_pid})" in failure.value.hint


def test_a_locked_history_is_named_too_and_no_command_waits_for_it_without_end(
    migrated_database: Database,
    open_database: Callable[..., psycopg.Connection],
    next_migration: Migration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migrating, holding = (open_database(migrated_database) for _ in range(2))
    monkeypatch.setattr(history, "READ_WAIT_S", 1)
    with holding.transaction():
        holding.execute("lock table supabase_migrations.schema_migrations")
        with pytest.raises(
            OpsKpiError, match=f"schema_migrations, which is held by session {holding.info.backend_pid} "
        ):
            migrations.migrate(migrating, patience_s=2)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            history.require_current(migrating)
    assert migrations.migrate(migrating) == [next_migration]


@pytest.mark.parametrize("is_applied", [False, True])
def test_a_migration_beside_another_tool_that_changes_the_same_goes_on_after_it(
    migrated_database: Database,
    open_database: Callable[..., psycopg.Connection],
    monkeypatch: pytest.MonkeyPatch,
    is_applied: bool,
) -> None:
    migrating, pushing, watching = (open_database(migrated_database) for _ in range(3))
    script = "create or replace function ops.both() returns integer language sql set search_path = '' return 1"
    following = Migration("20990101000000", "opskpi_next", script)
    shipped = history.shipped()
    monkeypatch.setattr(history, "shipped", lambda: [*shipped, following])
    monkeypatch.setattr(locks, "TURN_S", 2.0)
    with ThreadPoolExecutor(max_workers=1) as threads, pushing.transaction():
        pushing.execute(script)
        if is_applied:
            add_to_history(pushing, following.version, following.name)
        run = threads.submit(migrations.migrate, migrating)
        wait_for(watching, "select exists (select from pg_locks where not granted and locktype = 'transactionid')")
    assert run.result(timeout=PATIENCE_S) == ([] if is_applied else [following])
    assert watching.execute("select ops.both()").fetchone() == (1,)


def test_a_migration_waits_for_the_pass_that_runs_and_no_pass_begins_beside_it(
    migrated_database: Database, open_database: Callable[..., psycopg.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    counting, migrating = (open_database(migrated_database) for _ in range(2))
    beside: list[object] = []
    following = Migration("20990101000000", "opskpi_next", "select 1")
    shipped = history.shipped()
    monkeypatch.setattr(history, "shipped", lambda: [*shipped, following])
    with counting.transaction():
        counting.execute("select ops.refresh()")
        with pytest.raises(
            OpsKpiError, match="waited in vain for the lock of the running jobs, which is held by session"
        ):
            migrations.migrate(migrating, patience_s=0)
    migrations.migrate(
        migrating, lambda _: beside.append(counting.execute("select state from ops.refresh()").fetchone())
    )
    assert beside == [("busy",)]


def test_a_database_in_another_encoding_is_refused_before_anything_is_applied(
    emptied_server: Server, open_database: Callable[..., psycopg.Connection]
) -> None:
    superuser = open_database(emptied_server.database("postgres"))
    superuser.execute("create database plain_latin encoding 'LATIN1' template template0 locale 'C'")
    connection = open_database(emptied_server.database("plain_latin"))
    with pytest.raises(OpsKpiError, match="the encoding of the database is LATIN1") as failure:
        migrations.migrate(connection)
    assert failure.value.exit_code == ExitCode.CONFIGURATION
    assert connection.execute("select to_regnamespace('supabase_migrations')").fetchone() == (None,)
    assert roles_of(connection) == {}


def test_migrate_takes_an_old_audit_table_without_losing_a_row(
    old_database: Database, open_database: Callable[..., psycopg.Connection]
) -> None:
    connection = open_database(old_database)
    before = connection.execute(SNAPSHOT).fetchall()
    assert len(before) == OLD_ROWS
    migrations.migrate(connection)
    assert connection.execute(SNAPSHOT).fetchall() == before
    assert connection.execute("select org_id::text, count(*) from slsa_audit_metrics group by 1").fetchall() == [
        ("00000000-0000-0000-0000-000000000000", OLD_ROWS)
    ]
    assert connection.execute("select count(*) from my_audits").fetchone() == (OLD_ROWS,)
    assert connection.execute("select count(*) from my_releases").fetchone() == (0,)
    new_id = connection.execute(
        "insert into slsa_audit_metrics (audit_run_id, provenance_status, validation_status)"
        " values (501, 'success', 'success') returning id"
    ).fetchone()
    assert new_id == (OLD_ROWS + 1,)


def test_after_an_old_audit_table_the_schema_is_that_of_a_fresh_database(
    server: Server,
    old_database: Database,
    template: Database,
    open_database: Callable[..., psycopg.Connection],
) -> None:
    migrations.migrate(open_database(old_database))
    migrated, fresh = schema_without_own_relations(server, old_database), schema_without_own_relations(server, template)
    assert "CREATE TABLE public.slsa_audit_metrics (" in fresh
    assert [line for line in migrated if line not in fresh] == []
    assert migrated == fresh


def test_after_an_old_audit_table_a_user_no_longer_reads_every_row(
    old_database: Database, open_database: Callable[..., psycopg.Connection]
) -> None:
    connection = open_database(old_database)
    migrations.migrate(connection)
    assert connection.execute(
        "select policyname, roles::text[] from pg_policies where tablename = 'slsa_audit_metrics'"
    ).fetchall() == [("slsa_audit_metrics_select_own_org", ["authenticated"])]
    with connection.transaction(force_rollback=True):
        connection.execute("set local role authenticated")
        connection.execute(
            "select set_config('request.jwt.claims', %s, true)",
            [json.dumps({"app_metadata": {"org_id": "aaaaaaaa-0000-4000-8000-00000000000a"}})],
        )
        assert connection.execute("select count(*) from slsa_audit_metrics").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("delete from slsa_audit_metrics")


@pytest.mark.parametrize("time_zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
def test_the_first_refresh_counts_the_old_audits_wherever_the_migration_was_run(
    old_database: Database, open_database: Callable[..., psycopg.Connection], time_zone: str
) -> None:
    connection = open_database(old_database, options=f"-c TimeZone={time_zone}")
    migrations.migrate(connection)
    assert connection.execute("select state from ops.refresh()").fetchone() == ("done",)
    counted = connection.execute(
        "select period, sum(event_count)::integer from ops.rollups join ops.series using (org_id, series_id)"
        " where event_type = 'slsa_audit_metrics' group by 1 order by 1"
    ).fetchall()
    assert counted == [(period, OLD_ROWS) for period in ("day", "hour", "month", "week")]
    view = connection.execute("select date, total_audits, success_rate from v_ops_slsa_audit_kpi order by 1").fetchall()
    kpis = connection.execute(
        "select (period_start at time zone 'UTC')::date, (metadata ->> 'sample_count')::bigint, round(metric_value, 2)"
        " from kpi_aggregations where metric_name = 'audit_success_rate' and aggregation_period = 'day' order by 1"
    ).fetchall()
    assert sum(total for _, total, _ in view) == OLD_ROWS
    assert view == kpis


def test_on_a_plain_postgres_migrate_creates_the_roles_of_the_api(
    emptied_server: Server, open_database: Callable[..., psycopg.Connection]
) -> None:
    connection = open_database(create_on(emptied_server, "plain"))
    migrations.migrate(connection)
    assert roles_of(connection) == {
        "anon": (False, False),
        "authenticated": (False, False),
        "service_role": (False, True),
        "authenticator": (False, False),
    }
    assert connection.execute(
        "select array_agg(roleid::regrole::text order by roleid::regrole::text)"
        " from pg_auth_members where member = 'authenticator'::regrole"
    ).fetchone() == (API_ROLES,)
    assert connection.execute("select count(*) > 10 from pg_policies").fetchone() == (True,)


def test_on_supabase_the_roles_are_left_to_supabase(
    emptied_server: Server, open_database: Callable[..., psycopg.Connection]
) -> None:
    with_auth = open_database(create_on(emptied_server, "plain_auth"))
    with_auth.execute("create schema auth")
    with_auth.execute("create table auth.users (id uuid primary key)")
    migrations.migrate(with_auth)
    assert roles_of(with_auth) == {}

    with_admin = open_database(create_on(emptied_server, "plain_admin"))
    with_admin.execute("create role supabase_admin")
    migrations.migrate(with_admin)
    assert roles_of(with_admin) == {}


def test_the_owner_of_a_database_migrates_it_and_runs_the_jobs_without_being_superuser(
    emptied_server: Server, open_database: Callable[..., psycopg.Connection]
) -> None:
    database = create_on(emptied_server, "plain")
    superuser = open_database(database)
    superuser.execute(PRELUDE.read_bytes())
    superuser.execute("create role keeper login")
    superuser.execute("alter database plain owner to keeper")
    keeper = open_database(database, user="keeper")
    assert migrations.migrate(keeper) == history.shipped()
    keeper.execute("insert into telemetry_events (event_type) values ('workflow_run')")
    assert keeper.execute("select state, events from ops.run()").fetchone() == ("done", 1)


def test_a_database_that_lacks_a_migration_is_told_which(
    database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Migration("20990101000000", "opskpi_next", "select 1")
    shipped = history.shipped()
    monkeypatch.setattr(history, "shipped", lambda: [*shipped, missing])
    with pytest.raises(OpsKpiError) as failure:
        history.require_current(database)
    assert "20990101000000_opskpi_next" in failure.value.message
    assert "opskpi migrate" in failure.value.hint
    assert failure.value.exit_code == ExitCode.CONFIGURATION


def test_an_empty_database_is_told_to_migrate(
    empty_database: Database, open_database: Callable[..., psycopg.Connection]
) -> None:
    first = history.shipped()[0]
    with pytest.raises(OpsKpiError, match=f"{first.version}_{first.name}") as failure:
        history.require_current(open_database(empty_database))
    assert "opskpi migrate" in failure.value.hint


@pytest.mark.parametrize("command", [history.require_current, migrations.migrate])
def test_a_database_newer_than_the_program_asks_for_an_upgrade(
    database: psycopg.Connection, command: Callable[[psycopg.Connection], object]
) -> None:
    add_to_history(database, "20990101000000", "opskpi_next")
    with pytest.raises(OpsKpiError, match="20990101000000_opskpi_next") as failure:
        command(database)
    assert "pip install --upgrade opskpi" in failure.value.hint
    assert failure.value.exit_code == ExitCode.CONFIGURATION


def test_the_migrations_of_a_user_in_the_same_history_are_the_users_own(database: psycopg.Connection) -> None:
    add_to_history(database, "20250101000000", "profiles")
    add_to_history(database, "20990101000000", "profiles_again")
    history.require_current(database)
    assert migrations.migrate(database) == []


def add_to_history(connection: psycopg.Connection, version: str, name: str) -> None:
    """Pretend that a migration was applied."""
    connection.execute(
        "insert into supabase_migrations.schema_migrations (version, name) values (%s, %s)", [version, name]
    )

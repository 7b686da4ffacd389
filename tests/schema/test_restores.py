"""Backups and restores: into clusters with and without the roles, of another version; what is lost is said and brought back."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo
from psycopg.rows import scalar_row, tuple_row

from opskpi.errors import OpsKpiError
from opskpi.postgres import connecting, migrations, permissions
from support.drift import schema_of
from support.events import add_event, refresh
from support.fixtures import Cli
from support.postgres import Database, Server, create_on, running_server

API_ROLES = ("anon", "authenticated", "service_role")
KPIS = "select * from public.kpi_aggregations order by metric_name, aggregation_period, period_start, metadata"


@pytest.fixture(scope="module")
def server_without_roles(server: Server) -> Iterator[Server]:
    """Run a second server of the same version, which has no role but the superuser's."""
    with running_server(server.version) as running:
        yield running


@pytest.fixture
def used(migrated_database: Database) -> Database:
    """Return a database with a counted event."""
    with psycopg.connect(migrated_database.dsn, autocommit=True) as connection:
        add_event(connection, "slsa_provenance", "2026-03-02T10:00Z", outcome="success", duration_ms=1000)
        refresh(connection)
    return migrated_database


def backup_of(server: Server, database: Database, file: Path) -> Path:
    subprocess.run([server.bin_dir / "pg_dump", "-Fc", f"--file={file}", database.dsn], check=True)
    return file


def restore(server: Server, file: Path, name: str, *options: str) -> Database:
    """Restore an archive into a new database as a hurried person does, who does not look at errors."""
    target = create_on(server, name)
    subprocess.run(
        [server.bin_dir / "pg_restore", "--no-owner", *options, f"--dbname={target.dsn}", file],
        capture_output=True,
        check=False,
    )
    return target


def check_of_permissions(cli: Cli, database: Database) -> bool:
    checks = json.loads(cli("doctor", "--json", "--dsn", database.dsn).stdout)
    [check] = [check for check in checks if check["check_name"] == "permissions"]
    return bool(check["passed"])


def permissions_in(server: Server, database: Database) -> list[str]:
    """The policies and grants in a dump; the bodies of functions it writes in another way after a restore."""
    said = ("CREATE POLICY", "GRANT ", "REVOKE ", "ALTER TABLE")
    return [line for line in schema_of(server, database) if line.startswith(said) and " OWNER TO " not in line]


def kpis_of(database: Database) -> list[tuple[object, ...]]:
    with psycopg.connect(database.dsn, row_factory=tuple_row) as connection:
        return connection.execute(KPIS).fetchall()


def test_a_restore_into_a_cluster_without_the_roles_is_told_what_it_lost_and_brought_back_to_the_letter(
    server: Server, server_without_roles: Server, used: Database, cli: Cli, tmp_path: Path
) -> None:
    restored = restore(server_without_roles, backup_of(server, used, tmp_path / "used.dump"), "without_roles")
    told = cli("migrate", "--dsn", restored.dsn)
    assert told.returncode == 1
    with psycopg.connect(used.dsn, row_factory=scalar_row) as connection:
        [policies] = connection.execute(
            "select count(*) from pg_policies where schemaname in ('public', 'ops')"
        ).fetchall()
    assert f"2 roles, {policies} policies and" in told.stderr
    assert "opskpi migrate --repair-grants" in told.stderr
    assert not check_of_permissions(cli, restored)

    repaired = cli("migrate", "--repair-grants", "--dsn", restored.dsn)
    assert repaired.returncode == 0, repaired.stderr
    assert check_of_permissions(cli, restored)
    assert permissions_in(server_without_roles, restored) == permissions_in(server, used)
    assert kpis_of(restored) == kpis_of(used)
    again = cli("migrate", "--repair-grants", "--dsn", restored.dsn)
    assert again.returncode == 0
    assert again.stdout.splitlines() == ["nothing to apply, the schema is current", "no grant is missing"]


def test_a_restore_without_privileges_lets_everybody_call_functions_until_it_is_repaired(
    server: Server, used: Database, cli: Cli, tmp_path: Path
) -> None:
    restored = restore(server, backup_of(server, used, tmp_path / "used.dump"), "without_privileges", "--no-privileges")
    told = cli("migrate", "--dsn", restored.dsn)
    assert told.returncode == 1
    assert "grants are missing; everybody may use" in told.stderr
    assert cli("migrate", "--repair-grants", "--dsn", restored.dsn).returncode == 0
    assert permissions_in(server, restored) == permissions_in(server, used)


def test_a_complete_restore_has_nothing_to_repair(server: Server, used: Database, cli: Cli, tmp_path: Path) -> None:
    restored = restore(server, backup_of(server, used, tmp_path / "used.dump"), "complete")
    assert cli("migrate", "--dsn", restored.dsn).returncode == 0
    assert check_of_permissions(cli, restored)
    assert kpis_of(restored) == kpis_of(used)


def test_a_backup_of_postgres_15_is_restored_on_a_newer_one(server: Server, tmp_path: Path) -> None:
    with running_server("15") as old:
        source = create_on(old, "source")
        with connecting.connect(source.dsn) as connection:
            migrations.migrate(connection)
            connection.autocommit = True
            add_event(connection, "slsa_provenance", "2026-03-02T10:00Z", outcome="success", duration_ms=1000)
            refresh(connection)
        restored = restore(server, backup_of(old, source, tmp_path / "old.dump"), "from_15")
        with connecting.connect(restored.dsn) as connection:
            migrations.repair_grants(connection)
            assert permissions.faults(connection) == []
        assert kpis_of(restored) == kpis_of(source)
        fresh = create_on(server, "never_older")
        with connecting.connect(fresh.dsn) as connection:
            migrations.migrate(connection)
            connection.autocommit = True
            connection.execute("select ops.maintain()")
        assert permissions_in(server, restored) == permissions_in(server, fresh)


def test_a_migrated_database_has_all_that_sql_grants_and_nothing_more(database: psycopg.Connection) -> None:
    assert permissions.faults(database) == []
    wanted = permissions.wanted()
    granted = database.execute(
        "select count(*) from ("
        " select relacl as acl from pg_class where relnamespace = 'ops'::regnamespace or relname ~ '^(telemetry_|kpi_|slsa_|v_ops_)'"
        " union all select proacl from pg_proc where pronamespace in ('ops'::regnamespace, 'public'::regnamespace)"
        " union all select nspacl from pg_namespace where nspname = 'ops'"
        ") as owned cross join aclexplode(owned.acl) as entry"
        " where entry.grantee in (select oid from pg_roles where rolname = any(%s))",
        [list(API_ROLES)],
    ).fetchone()
    assert granted == (sum(each.kind != "policy" and "(" not in each.detail for each in wanted),)
    policies = database.execute("select count(*) from pg_policy where polpermissive").fetchone()
    assert policies == (sum(each.kind == "policy" for each in wanted),)


@pytest.mark.parametrize(
    ("damage", "kind", "about"),
    [
        ("drop policy slos_select_authenticated on ops.slos", "policy", "slos_select_authenticated on ops.slos"),
        (
            "alter policy slos_select_authenticated on ops.slos to anon",
            "policy",
            "slos_select_authenticated on ops.slos",
        ),
        ("alter table ops.slos disable row level security", "row level security", "ops.slos"),
        ("alter table telemetry_events disable row level security", "row level security", "public.telemetry_events"),
        ("revoke usage on schema ops from authenticated", "grant", "usage on ops to authenticated"),
        (
            "revoke select on v_ops_slo_status from authenticated",
            "grant",
            "select on public.v_ops_slo_status to authenticated",
        ),
        (
            "revoke execute on function ops.time_zone from service_role",
            "grant",
            "execute on ops.time_zone to service_role",
        ),
        (
            "revoke select (moved_at) on ops.cursors from authenticated",
            "grant",
            "select (name, last_id, moved_at, advanced_at) on ops.cursors to authenticated",
        ),
        (
            "revoke usage on sequence slsa_audit_metrics_id_seq from service_role",
            "grant",
            "usage on public.slsa_audit_metrics_id_seq to service_role",
        ),
        ("grant select on ops.slos to public", "public", "ops.slos"),
        ("grant insert on telemetry_events to anon", "public", "public.telemetry_events"),
        ("grant execute on function ops.time_zone to public", "public", "ops.time_zone()"),
        ("grant usage on schema ops to anon", "public", "ops"),
        (
            "grant execute on function update_slsa_audit_metrics_updated_at() to anon",
            "public",
            "public.update_slsa_audit_metrics_updated_at()",
        ),
    ],
)
def test_each_thing_that_is_lost_or_opened_is_named_and_brought_back(
    database: psycopg.Connection, damage: str, kind: str, about: str
) -> None:
    database.execute(damage.encode())
    assert [(fault.kind, fault.about) for fault in permissions.faults(database)] == [(kind, about)]
    permissions.repair(database)
    assert permissions.faults(database) == []


def test_what_a_user_granted_to_a_login_of_the_own_is_left_alone(database: psycopg.Connection) -> None:
    database.execute("create role own_reader")
    database.execute("grant usage on schema ops to own_reader")
    database.execute("grant select on ops.slos to own_reader, authenticated")
    database.execute("create policy own_reader_sees_all on ops.slos for select to own_reader using (true)")
    assert permissions.faults(database) == []


def test_looking_writes_nothing(database: psycopg.Connection) -> None:
    with database.transaction(force_rollback=True):
        database.execute("set transaction read only")
        assert permissions.faults(database) == []


def test_who_does_not_own_the_tables_is_told_who_may_repair_them(cli: Cli, migrated_database: Database) -> None:
    with psycopg.connect(migrated_database.dsn, autocommit=True) as connection:
        connection.execute("drop policy slos_select_authenticated on ops.slos")
        connection.execute("create role helper login in role service_role")
        try:
            dsn = conninfo.make_conninfo(migrated_database.dsn, user="helper")
            refused = cli("migrate", "--repair-grants", "--dsn", dsn)
            assert "Use the role that owns the tables" in refused.stderr
            assert "Traceback" not in refused.stderr
            with pytest.raises(OpsKpiError, match="1 policy is missing"):
                migrations.require_grants(connection)
        finally:
            connection.execute("drop owned by helper")
            connection.execute("drop role helper")

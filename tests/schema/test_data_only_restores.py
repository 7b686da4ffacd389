"""A dump of the data alone, restored while triggers fire, gives the database that was dumped, whatever arrives first."""

import subprocess
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest

from support.events import (
    NIL,
    Connection,
    add_audit,
    add_channel,
    add_event,
    add_events,
    add_row,
    add_slo,
    alerts,
    refresh,
    rows,
    run_jobs,
    scalar,
    states,
    told,
)
from support.fixtures import CreateDatabase
from support.oracle import assert_exact
from support.postgres import Database, Server

AGENT = UUID("11111111-1111-4111-8111-111111111111")
RUN_AT, NEXT_RUN_AT = "2026-03-12T12:00:00Z", "2026-03-12T12:05:00Z"
OBJECTIVES: LiteralString = (
    "select org_id, slo_name, version, status, good, total, good_unadjusted, budget_left, last_counted_at"
    " from ops.evaluate_slos(%s, true) order by 1, 2"
)
KEPT: dict[str, LiteralString] = {
    "versions": "select to_jsonb(version) from ops.slo_versions as version order by slo_name, version.version",
    "slis": "select to_jsonb(sli) from ops.slis as sli order by sli_id",
    "days": "select * from ops.sli_days where total <> 0 order by 1, 2, 3",
    "cursor": "select last_id from ops.cursors",
    "objectives": "select to_jsonb(slo) from ops.slos as slo order by slo_name",
    "changes": "select to_jsonb(known) from ops.slo_changes as known order by slo_change_id",
    "exclusions": "select * from ops.slo_exclusions order by 1, 2",
    "history": "select * from ops.slo_history() order by 1, 2, 3, 4",
}


def fill_by_triggers(connection: Connection) -> None:
    """Leave all that triggers write: versions, SLIs, days, noted audits; an alert that fires, and events not counted yet."""
    add_channel(connection)
    add_row(connection, "agents", org_id=NIL, agent_id=AGENT, team="payments")
    # SLIs of another order than that of the objectives' names.
    for name, objective, threshold in (("z", "latency", 100), ("a", "error_rate", None), ("m", "availability", None)):
        add_slo(connection, name, objective=objective, threshold_ms=threshold, event_type="workflow_run")
    add_slo(connection, "gone", objective="latency", threshold_ms=7, event_type="workflow_run")
    for hour in range(1, 12):
        for event_type in ("workflow_run", "slsa_provenance", "audit_observer"):
            add_event(
                connection,
                event_type,
                f"2026-03-{12 - hour % 3:02}T{hour:02}:01Z",
                outcome="failure" if hour % 4 == 0 else "success",
                duration_ms=hour * 20,
                tag=f"v{hour // 2}",
            )
    add_events(connection, 40, "slsa_provenance", "2026-03-12T11:58Z", outcome="failure", duration_ms=5)
    for run in range(1, 4):
        add_audit(connection, run, f"2026-03-12T0{run}:00Z")
    refresh(connection, as_of=RUN_AT)
    connection.execute(
        "update ops.slos set target = 0.8, threshold_ms = 150, valid_from = '2026-03-11Z' where slo_name = 'z'"
    )
    connection.execute("update ops.slos set target = 0.7, valid_from = '2026-03-12T03:00Z' where slo_name = 'z'")
    connection.execute("delete from ops.slos where slo_name = 'gone'")
    add_slo(connection, "gone", objective="latency", threshold_ms=9, event_type="workflow_run")
    for name in ("off", "old"):
        add_slo(connection, name, event_type="workflow_run", target="0.6")
    connection.execute("select ops.enable_slos('{off}', false, 'me')")
    connection.execute("update ops.slos set slo_name = 'renamed' where slo_name = 'old'")
    scalar(connection, "select ops.exclude_from_slo('a', '2026-03-12T04:00Z', '2026-03-12T05:00Z', 'move', 'me')")
    assert run_jobs(connection, RUN_AT).fired
    add_event(connection, "workflow_run", "2026-03-12T11:59Z", outcome="failure", duration_ms=1, tag="v3")
    connection.execute("update slsa_audit_metrics set validation_status = 'failure' where audit_run_id = 2")
    connection.execute("delete from slsa_audit_metrics where audit_run_id = 3")
    # The history of this one is not filled yet.
    add_slo(connection, "b", objective="latency", threshold_ms=60, event_type="workflow_run")


def what_users_see(connection: Connection) -> dict[str, Any]:
    """Return all that users see of the database."""
    connection.execute("update ops.job_runs set finished_at = %s where job = 'refresh'", [RUN_AT])
    found = {name: rows(connection, query) for name, query in KEPT.items()}
    return states(connection) | found | {"status": rows(connection, OBJECTIVES, RUN_AT), "alerts": alerts(connection)}


def dump_of(server: Server, source: Database, folder: Path, *arguments: str) -> Path:
    file = folder / f"dump{len(list(folder.iterdir()))}"
    subprocess.run([server.bin_dir / "pg_dump", *arguments, "-f", file, source.dsn], check=True)
    return file


def restored_schema(server: Server, source: Database, target: Database, folder: Path) -> None:
    run_psql(server, target, dump_of(server, source, folder, "--schema-only"))


def run_psql(server: Server, target: Database, file: Path) -> str:
    """Run a file of statements as the shared case does, and return what was refused."""
    ran = subprocess.run(
        [server.bin_dir / "psql", "-q", "-X", "-d", target.dsn, "-f", file],
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    return ran.stderr


@pytest.fixture
def source(create_database: CreateDatabase, template: Database) -> Database:
    created = create_database(template)
    with psycopg.connect(created.dsn, autocommit=True) as connection:
        fill_by_triggers(connection)
    return created


def assert_same(source: Database, target: Database) -> None:
    """Compare two databases as users see them, now and after the next run of the jobs."""
    with psycopg.connect(source.dsn, autocommit=True) as ours, psycopg.connect(target.dsn, autocommit=True) as theirs:
        assert scalar(theirs, "select count(*) from ops.audit_changes") >= scalar(
            ours, "select count(*) from ops.audit_changes"
        )
        assert what_users_see(theirs) == what_users_see(ours)
        assert run_jobs(theirs, NEXT_RUN_AT) == run_jobs(ours, NEXT_RUN_AT)
        assert what_users_see(theirs) == what_users_see(ours)
        assert told(theirs) == told(ours)
        assert rows(theirs, "select * from ops.sli_differences('2026-03-01Z')") == []
        assert_exact(theirs)
        # Numbers that are drawn from now on collide with none that was restored.
        add_audit(theirs, 4)
        add_event(theirs, "workflow_run", "2026-03-12T11:59Z", outcome="failure", tag="v3")
        scalar(theirs, "select ops.exclude_from_slo('a', '2026-03-12T01:00Z', '2026-03-12T02:00Z', 'move', 'me')")
        refresh(theirs)
        assert_exact(theirs)


@pytest.mark.parametrize("form", [[], ["--inserts"], ["--rows-per-insert=7"]], ids=["copy", "inserts", "sevens"])
def test_schema_and_data_apart_give_the_same_database(
    server: Server, source: Database, create_database: CreateDatabase, tmp_path: Path, form: list[str]
) -> None:
    target = create_database()
    restored_schema(server, source, target, tmp_path)
    assert run_psql(server, target, dump_of(server, source, tmp_path, "--data-only", *form)) == ""
    assert_same(source, target)


def parents_first(connection: Connection, entries: dict[str, str]) -> list[str]:
    """Return the entries in their order, but each after those that its foreign keys refer to, as any restore must."""
    query = "select conrelid::regclass::text, confrelid::regclass::text from pg_constraint where contype = 'f' and conrelid <> confrelid"
    edges = rows(connection, query)
    placed: dict[str, str] = {}

    def place(table: str) -> None:
        for child, parent in edges:
            if child == table and parent in entries and parent not in placed:
                place(parent)
        placed[table] = entries[table]

    for table in entries:
        place(table)
    return list(placed.values())


@pytest.mark.parametrize("order", ["as dumped", "reversed", "counts first", "counts last", "objectives last"])
def test_tables_may_arrive_in_any_order(
    server: Server, source: Database, create_database: CreateDatabase, tmp_path: Path, order: str
) -> None:
    target = create_database()
    restored_schema(server, source, target, tmp_path)
    archive = dump_of(server, source, tmp_path, "--data-only", "-Fc")
    listed = subprocess.run(
        [server.bin_dir / "pg_restore", "-l", archive], check=True, capture_output=True, encoding="utf-8"
    )
    lines = [line for line in listed.stdout.splitlines() if " TABLE DATA " in line or " SEQUENCE SET " in line]
    # Schema and name stand behind the kind of the entry, which is two words.
    entries = {f"{line.split()[3]} {line.split()[5]}.{line.split()[6]}".removeprefix("TABLE "): line for line in lines}
    if order == "reversed":
        entries = dict(reversed(entries.items()))
    moved = ("ops.sli_counts", "ops.cursors") if "counts" in order else ("ops.slos",)
    if order not in ("as dumped", "reversed"):
        entries = dict(sorted(entries.items(), key=lambda entry: (entry[0] in moved) == ("first" not in order)))
    with psycopg.connect(source.dsn) as connection:
        (tmp_path / "list").write_text("\n".join(parents_first(connection, entries)))
    ran = subprocess.run(
        [server.bin_dir / "pg_restore", "-L", tmp_path / "list", "-d", target.dsn, archive],
        check=False,
        capture_output=True,
        encoding="utf-8",
    )
    assert ran.stderr == ""
    assert_same(source, target)


def test_data_that_arrives_in_a_migrated_database_shows_no_objective_the_counts_of_another(
    server: Server, source: Database, create_database: CreateDatabase, template: Database, tmp_path: Path
) -> None:
    target = create_database(template)
    # Rows that the migrations have made are refused, table by table; psql goes on.
    assert "duplicate key" in run_psql(server, target, dump_of(server, source, tmp_path, "--data-only"))
    with psycopg.connect(source.dsn, autocommit=True) as ours, psycopg.connect(target.dsn, autocommit=True) as theirs:
        for connection in (ours, theirs):
            refresh(connection, as_of=NEXT_RUN_AT)
        compared = (
            "rollups",
            "kpis",
            "slis",
            "units",
            "days",
            "versions",
            "cursor",
            "history",
            "exclusions",
            "patterns",
        )
        assert {name: what_users_see(theirs)[name] for name in compared} == {
            name: what_users_see(ours)[name] for name in compared
        }

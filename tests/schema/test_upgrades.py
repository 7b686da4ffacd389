"""A database that was in use at an older version ends, after the upgrade, as one that was never older."""

import re
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from opskpi.postgres import history, migrations
from support.events import NIL, Connection, add_audit, add_event, add_row, evaluate, rebuild, refresh, rows, states
from support.fixtures import CHECKOUT, CreateDatabase
from support.postgres import Database
from support.seed_rows import Seed, inserted
from support.sql_statements import statements_in

# The last migration of each version that was published.
PUBLISHED = ("20261121000900", "20261122000010", "20261122000090", "20261125000120", "20261130000110", "20261130000220")
RECORDS_CHANGES = "20261130000170"
AGENT = UUID("11111111-1111-4111-8111-111111111111")
REMOVED = "audit_observer_latency"
BEFORE, AFTER = ("2026-02-26", "2026-02-27", "2026-02-28", "2026-03-01"), ("2026-03-02", "2026-02-27")
SINCE, UNTIL = "2026-02-01T00:00Z", "2026-04-01T00:00Z"
OWN_OBJECTIVE = {
    "slo_name": "fast_deploys",
    "service": "shop",
    "objective": "latency",
    "description": "deploys are fast",
    "event_type": "workflow_run",
    "target": "0.9",
    "threshold_ms": 100,
}


@pytest.fixture
def old_database_in_use(create_database: CreateDatabase) -> Iterator[Connection]:
    """Connect to a database without any migration."""
    with psycopg.connect(create_database().dsn, autocommit=True) as connection:
        yield connection


def begin(connection: Connection) -> None:
    """Make what a user makes once: a team, and an objective of the own."""
    add_row(connection, "agents", org_id=NIL, agent_id=AGENT, team="payments")
    add_row(connection, "slos", **OWN_OBJECTIVE)


def use(connection: Connection, days: tuple[str, ...]) -> None:
    """Store what days bring (runs that fail and succeed, hooks of a team, audits) and count it."""
    for day in days:
        for hour in range(0, 24, 5):
            at, outcome = f"{day}T{hour:02}:10Z", "failure" if hour % 10 == 5 else "success"
            for event_type in ("workflow_run", "slsa_provenance"):
                add_event(
                    connection,
                    event_type,
                    at,
                    tag=f"{day}-{hour // 10}",
                    outcome=outcome,
                    workflow="deploy",
                    duration_ms=hour * 10 + 1,
                )
            add_event(
                connection,
                "hook_execution",
                at,
                agent_id=AGENT,
                hook_type="pre-push",
                result="blocked",
                duration_ms=hour,
                findings_summary={"pattern": f"p{hour}"},
            )
        add_audit(connection, int(day[-2:]) + 100 * (days is AFTER), f"{day}T12:00Z", validation_status="failure")
    refresh(connection)


@pytest.mark.parametrize("version", PUBLISHED)
def test_what_was_counted_before_an_upgrade_is_what_it_would_be_without_one(
    old_database_in_use: Connection,
    template: Database,
    create_database: CreateDatabase,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    older = [migration for migration in history.shipped() if migration.version <= version]
    with monkeypatch.context() as patch:
        patch.setattr(history, "shipped", lambda: older)
        migrations.migrate(old_database_in_use)
    old_database_in_use.execute("delete from ops.slos where slo_name = %s", [REMOVED])
    begin(old_database_in_use)
    use(old_database_in_use, BEFORE)
    add_event(
        old_database_in_use,
        at="2026-02-26T03:00Z",
        outcome="failure",
        duration_ms=5,
        tag="stored before, counted after",
    )
    migrations.migrate(old_database_in_use)
    use(old_database_in_use, AFTER)
    with psycopg.connect(create_database(template).dsn, autocommit=True) as never_older:
        never_older.execute("delete from ops.slos where slo_name = %s", [REMOVED])
        begin(never_older)
        use(never_older, BEFORE)
        add_event(
            never_older, at="2026-02-26T03:00Z", outcome="failure", duration_ms=5, tag="stored before, counted after"
        )
        use(never_older, AFTER)
        counted = states(old_database_in_use)
        assert counted == states(never_older)
        for slo in ("fast_deploys", "provenance_generation_availability", "provenance_generation_error_rate"):
            columns = ("status", "good", "total", "budget_left", "good_unadjusted")
            found, wanted = (
                evaluate(each, slo, *columns, as_of="2026-03-03T00:00Z") for each in (old_database_in_use, never_older)
            )
            assert found == wanted
    rebuild(old_database_in_use, SINCE, UNTIL)
    assert states(old_database_in_use) == counted
    changes = "select slo_name, change, author from ops.slo_changes"
    author = "postgres" if version >= RECORDS_CHANGES else "not recorded"
    assert rows(old_database_in_use, changes) == [(REMOVED, "removed", author)]


def test_a_shipped_objective_that_was_removed_or_renamed_is_not_brought_back_by_a_later_migration(
    database: Connection,
) -> None:
    (statement,) = statements_in((CHECKOUT / "sql/seeds/slos.sql").read_text("utf-8"))
    seed = Seed.filled_by(statement)
    shipped = seed.rows(database)
    assert len(shipped) == 9
    shipping = inserted(seed, [*shipped.values(), next(iter(shipped.values())) | {"slo_name": "new"}])
    database.execute("delete from ops.slos where slo_name = %s", [REMOVED])
    database.execute("update ops.slos set slo_name = 'ours' where slo_name = 'audit_observer_error_rate'")
    database.execute("update ops.slos set is_enabled = false where slo_name = 'audit_observer_availability'")
    standing = {name for (name,) in shipped} - {REMOVED, "audit_observer_error_rate"} | {"ours", "new"}
    for _ in range(2):
        database.execute(shipping.encode())
        assert {name for (name,) in rows(database, "select slo_name from ops.slos")} == standing
    assert rows(database, "select is_enabled from ops.slos where slo_name = 'audit_observer_availability'") == [
        (False,)
    ]


def test_migrations_ship_objectives_only_where_nobody_has_removed_them() -> None:
    first = "20261130000170"
    for migration in history.shipped():
        for statement in statements_in(migration.script):
            if migration.version >= first and re.match(r"insert into ops\.slos\b", statement.sql):
                assert "ops.slo_changes" in statement.sql, migration.version

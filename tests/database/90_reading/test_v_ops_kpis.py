"""The analysts' views: they answer on an empty database, show what is behind the cursor, and have the promised columns."""

from decimal import Decimal
from uuid import UUID

import pytest
from psycopg import sql

from support.events import NIL, Connection, add_audit, add_event, instant, refresh, rows

pytestmark = pytest.mark.database

AUDIT_KPI = (
    "date",
    "total_audits",
    "success_count",
    "failure_count",
    "sha256_verified_count",
    "predicate_type_verified_count",
    "supabase_provenance_synced_count",
    "supabase_validation_synced_count",
    "success_rate",
    "sha256_verification_rate",
    "predicate_type_verification_rate",
    "supabase_provenance_sync_rate",
    "supabase_validation_sync_rate",
)
DAY = instant("2026-03-10T00:00Z")
RED, BLUE = UUID(int=1), UUID(int=2)


def view_names(connection: Connection) -> list[str]:
    query = "select viewname from pg_views where schemaname = 'public' and viewname like 'v\\_ops\\_%%' order by 1"
    return [name for (name,) in rows(connection, query)]


def columns(connection: Connection, view: str) -> list[str]:
    query = "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 order by attnum"
    return [name for (name,) in rows(connection, query, f"public.{view}")]


@pytest.fixture
def hooks(database: Connection) -> Connection:
    for agent, team in ((RED, "red"), (BLUE, "blue")):
        database.execute("insert into ops.agents (org_id, agent_id, team) values (%s, %s, %s)", [NIL, agent, team])
    for agent, hook, result, duration_ms, pattern in (
        (RED, "pre-commit", "blocked", 10, "secret"),
        (RED, "pre-commit", "overridden", 20, None),
        (RED, "pre-push", "allowed", 30, None),
        (BLUE, "pre-push", "blocked", 40, "secret"),
        (None, "pre-push", "blocked", 50, "print"),
    ):
        summary = {"pattern": pattern} if pattern else {}
        said = {"hook_type": hook, "result": result, "duration_ms": duration_ms, "findings_summary": summary}
        add_event(database, "hook_execution", agent_id=agent, **said)
    return database


def test_every_view_answers_on_an_empty_database(database):
    assert len(view_names(database)) >= 9
    for view in view_names(database):
        counted = database.execute(sql.SQL("select * from {}").format(sql.Identifier(view))).fetchall()
        assert len(counted) == (9 if view == "v_ops_slo_status" else 0 if view != "v_ops_job_runs" else len(counted)), (
            view
        )


def test_every_view_answers_with_data(hooks):
    add_event(hooks, outcome="failure", duration_ms=1, tag="v1")
    add_audit(hooks, 1, validation_status="failure")
    # So that what happened is in the window whenever the tests run.
    hooks.execute("update ops.slos set rolling_window = '10 years' where slo_name = 'provenance_generation_error_rate'")
    refresh(hooks)
    hooks.execute(
        "insert into ops.alert_channels (channel_name, kind, secret_env) values ('chat', 'slack', 'CHAT_URL')"
    )
    hooks.execute(
        "insert into ops.alert_rules (rule_name, kind, severity, metric_name, comparison, threshold, lasting)"
        " values ('any hook', 'kpi_threshold', 'ticket', 'hook_executions_total', 'gt', 0, '1 hour')"
    )
    hooks.execute(
        "select ops.evaluate_alerts(max(period_start) + interval '1 hour') from kpi_aggregations"
        " where metric_name = 'hook_executions_total' and aggregation_period = 'hour'"
    )
    hooks.execute("select ops.silence_alerts('*', now() + interval '1 hour', 'upgrade', 'ada', %s)", [NIL])
    for view in view_names(hooks):
        assert hooks.execute(sql.SQL("select * from {}").format(sql.Identifier(view))).fetchall(), view


def test_the_daily_view_has_a_column_a_kpi_and_null_where_nothing_was_measured(database):
    kpis = [name for (name,) in rows(database, "select metric_name from ops.kpi_definitions")]
    assert set(columns(database, "v_ops_kpi_daily")) == {*kpis, "day_start", "org_id"}
    add_event(database, outcome="success", duration_ms=1000)
    add_event(database, outcome="failure", duration_ms=2000)
    add_event(database, "artifact", size_bytes=7)
    add_audit(database, 1, sha256_verified=True)
    for is_counted in (False, True):
        if is_counted:
            refresh(database)
        found = database.execute("select to_jsonb(daily) from public.v_ops_kpi_daily as daily").fetchall()
        assert len(found) == 1
        measured = {name: value for name, value in found[0][0].items() if value is not None}
        assert abs(measured.pop("provenance_p95_duration_ms") - 2000) <= 20
        assert measured == {
            "day_start": "2026-03-10T00:00:00+00:00",
            "org_id": str(NIL),
            "provenance_success_rate": 50,
            "provenance_failure_rate": 50,
            "provenance_avg_duration_ms": 1500,
            "provenance_validation_rate": 100,
            "audit_success_rate": 100,
            "sha256_verification_rate": 100,
            "predicate_type_verification_rate": 0,
            "supabase_sync_rate": 0,
            "artifact_avg_size_bytes": 7,
            "error_rate": 50,
        }


@pytest.mark.parametrize("is_counted", [False, True], ids=["behind the cursor", "counted"])
def test_the_hook_views_show_what_the_hooks_did(hooks, is_counted):
    if is_counted:
        refresh(hooks)
    query = (
        "select executions, block_rate, override_rate, avg_duration_ms from public.v_ops_hook_effectiveness"
        " where aggregation_period = 'day' and period_start = %s"
    )
    assert rows(hooks, query, DAY) == [(5, 60, 20, 30)]
    query = (
        "select team, executions, block_rate, override_rate, avg_duration_ms, compliance_rate"
        " from public.v_ops_hook_teams where aggregation_period = 'week' order by team"
    )
    assert rows(hooks, query) == [
        ("blue", 1, 100, 0, 40, 100),
        ("red", 3, Decimal("33.333333"), Decimal("33.333333"), 20, Decimal("66.666667")),
    ]
    query = (
        "select hook_type, pattern, blocked_count from public.v_ops_blocked_patterns"
        " where aggregation_period = 'month' order by 1, 2"
    )
    assert rows(hooks, query) == [("pre-commit", "secret", 1), ("pre-push", "print", 1), ("pre-push", "secret", 1)]


def test_the_latest_view_shows_the_newest_period_that_has_the_kpi(database):
    query = (
        "select metric_value, period_start, sample_count from public.v_ops_kpi_latest"
        " where metric_name = 'artifact_avg_size_bytes' and aggregation_period = 'day'"
    )
    add_event(database, "artifact", "2026-03-09T12:00Z", size_bytes=1)
    refresh(database)
    assert rows(database, query) == [(1, instant("2026-03-09T00:00Z"), 1)]
    add_event(database, "artifact", "2026-03-10T12:00Z", size_bytes=2)
    add_event(database, "artifact", "2026-03-08T12:00Z", size_bytes=9)
    add_event(database, "api_request", "2026-03-11T12:00Z", outcome="success", duration_ms=9)
    assert rows(database, query) == [(2, DAY, 1)]
    refresh(database)
    assert rows(database, query) == [(2, DAY, 1)]


def test_the_audit_view_has_the_promised_columns_first(database):
    assert columns(database, "v_ops_slsa_audit_kpi") == [*AUDIT_KPI, "org_id"]


def test_the_audit_view_counts_and_rounds_to_two_decimals(database):
    add_audit(database, 1, sha256_verified=True, supabase_provenance_synced=True)
    add_audit(database, 2, validation_status="failure", sha256_verified=True, predicate_type_verified=True)
    add_audit(database, 3, validation_status="skipped", supabase_validation_synced=True)
    add_audit(database, 4, "2026-03-11T00:00Z")
    found = database.execute("select * from public.v_ops_slsa_audit_kpi").fetchall()
    assert [(f"{row[0]}", *(str(value) for value in row[1:13])) for row in found] == [
        ("2026-03-11", "1", "1", "0", "0", "0", "0", "0", "100.00", "0.00", "0.00", "0.00", "0.00"),
        ("2026-03-10", "3", "1", "1", "2", "1", "1", "1", "33.33", "66.67", "33.33", "33.33", "33.33"),
    ]


def test_the_newest_failed_audits_come_first(database):
    verified = {"sha256_verified": True, "predicate_type_verified": True}
    add_audit(database, 1, "2026-03-10T10:00Z", validation_status="failure", **verified)
    add_audit(database, 2, "2026-03-10T11:00Z", **verified)
    add_audit(database, 3, "2026-03-10T12:00Z", provenance_status="failure", **verified)
    add_audit(database, 4, "2026-03-10T13:00Z", predicate_type_verified=True)
    assert rows(database, "select audit_run_id from public.v_ops_slsa_audit_failures") == [(4,), (3,), (1,)]


def test_the_journal_is_newest_first(database):
    refresh(database)
    refresh(database)
    found = rows(database, "select job, outcome, started_at from public.v_ops_job_runs where job = 'refresh'")
    assert [(job, outcome) for job, outcome, _ in found] == [("refresh", "success")] * 2
    assert found[0][2] > found[1][2]


def test_a_reader_sees_only_the_rows_of_its_own_org(hooks, acting_as):
    other = UUID(int=9)
    add_event(hooks, "hook_execution", org_id=other, result="allowed", duration_ms=1)
    refresh(hooks)
    add_event(hooks, "hook_execution", org_id=other, result="blocked", duration_ms=1)
    with acting_as(hooks, "authenticated", org=other) as member:
        query = "select distinct org_id, executions, block_rate from public.v_ops_hook_effectiveness"
        assert rows(member, query) == [(other, 2, 50)]

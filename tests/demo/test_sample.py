"""The made-up month that `opskpi demo` shows, and what the product makes of it."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import args_row, scalar_row
from psycopg.types.json import Json
from pytest_postgresql.janitor import DatabaseJanitor

from opskpi.demo.drawing import Event
from opskpi.demo.sample import audits, episodes, month, teams
from support.postgres import Database, Server

UNTIL = datetime(2025, 10, 31, 12, tzinfo=UTC)
INCIDENT_DAY, OUTAGE_DAY = datetime(2025, 10, 20, tzinfo=UTC), datetime(2025, 10, 27, tzinfo=UTC)
EVENT_TYPES = {
    "hook_execution", "hook_baseline", "hook_override", "audit_complete", "slsa_provenance",
    "provenance_validate", "audit_observer", "workflow_run", "artifact", "api_request",
}  # fmt: skip


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return month(UNTIL)


@pytest.fixture(scope="module")
def loaded(server: Server, template: Database, events: list[Event]) -> Iterator[psycopg.Connection]:
    """Load the month once for all tests of this module, which only read it."""
    with (
        DatabaseJanitor(
            user="postgres",
            host=server.host,
            port=server.port,
            dbname="sample",
            template_dbname=template.name,
        ),
        psycopg.connect(server.dsn("sample"), autocommit=True) as connection,
    ):
        rows = audits(UNTIL)
        insert = sql.SQL("insert into public.slsa_audit_metrics ({}) values ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, rows[0])),
            sql.SQL(", ").join(map(sql.Placeholder, rows[0])),
        )
        agents = "insert into ops.agents (org_id, agent_id, team) values (%s, %s, %s)"
        nil = "00000000-0000-0000-0000-000000000000"
        with connection.cursor() as cursor:
            cursor.executemany(agents, [(nil, *agent) for agent in teams().items()])
            cursor.executemany(insert, rows)
        assert load_month(connection, events) == {"accepted": len(events), "duplicate": 0, "refused": 0}
        refresh = "select (ops.refresh(interval '1 second', 1000000, %s)).state"
        with connection.cursor(row_factory=scalar_row) as cursor:
            assert cursor.execute(refresh, [UNTIL]).fetchall() == ["done"]
        yield connection


def load_month(connection: psycopg.Connection, events: list[Event]) -> dict[str, int]:
    answers = Counter(accepted=0, duplicate=0, refused=0)
    with connection.cursor(row_factory=scalar_row) as cursor:
        for first in range(0, len(events), 1000):
            batch = Json(events[first : first + 1000])
            (answer,) = cursor.execute("select public.ingest_events(events => %s::json)", [batch]).fetchall()
            answers.update(answer | {"refused": len(answer["refused"])})
    return dict(answers)


def daily(connection: psycopg.Connection, metric: str) -> dict[datetime, float]:
    query = """
        select period_start at time zone 'UTC', metric_value::float8
        from public.kpi_aggregations
        where metric_name = %s and aggregation_period = 'day' and metadata -> 'labels' = '{}'
    """
    with connection.cursor(row_factory=args_row(lambda day, value: (day.replace(tzinfo=UTC), value))) as cursor:
        return dict(cursor.execute(query, [metric]).fetchall())


def test_the_same_seed_and_end_give_the_same_month(events):
    assert month(UNTIL) == events
    assert (audits(UNTIL), teams()) == (audits(UNTIL), teams())


@pytest.mark.parametrize("other", [{"seed": 1}, {"until": UNTIL + timedelta(seconds=1)}])
def test_another_seed_or_end_shares_no_event(events, other):
    ids = {event["payload"]["event_id"] for event in events}
    assert len(ids) == len(events)
    assert ids.isdisjoint(event["payload"]["event_id"] for event in month(**({"until": UNTIL} | other)))


def test_all_ten_event_types_occur_in_the_days_before_the_end_oldest_first(events):
    instants = [datetime.fromisoformat(event["payload"]["timestamp"]) for event in events]
    assert {event["event_type"] for event in events} == EVENT_TYPES
    assert UNTIL - timedelta(days=30) <= instants[0]
    assert instants[-1] < UNTIL
    assert instants == sorted(instants)


def test_an_end_in_another_time_zone_is_the_same_instant():
    tokyo = datetime.fromisoformat("2025-10-31T21:00+09:00")
    assert month(tokyo, days=2) == month(UNTIL, days=2)


def test_every_hook_event_comes_from_an_agent_with_a_team(events):
    agents = {event["payload"].get("agent_id") for event in events} - {None}
    assert agents == set(teams())
    assert len(set(teams().values())) == 4


def test_audits_are_those_of_the_audit_observers_runs(events):
    observed = {
        (event["payload"]["tag"], event["payload"]["run_id"])
        for event in events
        if event["event_type"] == "audit_observer" and event["payload"]["outcome"] == "success"
    }
    rows = audits(UNTIL)
    assert {(row["tag"], row["audit_run_id"]) for row in rows} == observed
    assert len(observed) == len(rows)
    failed = [row for row in rows if "failure" in {row["provenance_status"], row["validation_status"]}]
    assert 1 <= len(failed) <= 20


def test_a_second_load_is_all_duplicates(loaded, events):
    assert load_month(loaded, events) == {"accepted": 0, "duplicate": len(events), "refused": 0}


def test_the_slos_end_in_different_states(loaded):
    with loaded.cursor(row_factory=args_row(lambda name, status: (name, status))) as cursor:
        query = "select slo_name, status from ops.evaluate_slos(as_of => %s)"
        statuses = dict(cursor.execute(query, [UNTIL]).fetchall())
    assert statuses == {
        "provenance_generation_availability": "ok",
        "provenance_generation_latency": "at_risk",
        "provenance_generation_error_rate": "ok",
        "provenance_validation_availability": "breached",
        "provenance_validation_latency": "ok",
        "provenance_validation_error_rate": "breached",
        "audit_observer_availability": "ok",
        "audit_observer_latency": "ok",
        "audit_observer_error_rate": "at_risk",
    }


def test_the_incident_shows_in_the_p95_of_its_day(loaded):
    provenance, api = daily(loaded, "provenance_p95_duration_ms"), daily(loaded, "api_p95_response_ms")
    assert provenance[INCIDENT_DAY] > 2 * median(provenance.values())
    assert api[INCIDENT_DAY] > 2 * median(api.values())


def test_the_outage_shows_in_the_validation_rate_of_its_day(loaded):
    validated = daily(loaded, "provenance_validation_rate")
    assert min(validated, key=lambda day: validated[day]) == OUTAGE_DAY
    assert validated[OUTAGE_DAY] < 95 < median(validated.values())


def test_the_incident_and_the_outage_burned_most_of_the_budgets_that_they_name(loaded):
    first, second = episodes(UNTIL)
    assert (first.since, second.since) == (INCIDENT_DAY.replace(hour=9), OUTAGE_DAY.replace(hour=13))
    query = """
        select count(*) filter (where event_timestamp >= %s and event_timestamp < %s)::float8 / count(*)
        from ops.explain_slo(%s, %s, %s)
    """
    for episode in (first, second):
        whole = (UNTIL - timedelta(days=30), UNTIL)
        row = loaded.execute(query, [episode.since, episode.until, episode.slo_name, *whole]).fetchone()
        assert row[0] > 0.3, episode

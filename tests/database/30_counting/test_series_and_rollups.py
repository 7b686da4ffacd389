"""Whatever is written in whatever order: the states equal the plain sums of the events."""

import json
import os
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.events import Connection, add_audit, add_event, ingest, instant, rebuild, refresh, rows, scalar, states
from support.oracle import assert_exact, assert_kpis
from support.patience import PATIENCE_S

pytestmark = pytest.mark.database

ORGS = [UUID(int=number) for number in range(3)]
AGENTS = [UUID(int=100 + number) for number in range(4)]
SINCE, UNTIL = instant("2026-02-20T00:00:00Z"), instant("2026-05-05T00:00:00Z")
# Around the start of a week, of a month, of summer time in Berlin, and the middle of its short day.
EDGES = ["2026-03-01T23:00Z", "2026-03-02T00:00Z", "2026-03-29T01:00Z", "2026-03-28T23:00Z", "2026-04-01T00:00Z"]
EVERYTHING = (
    "truncate public.telemetry_events, public.slsa_audit_metrics, public.kpi_aggregations, ops.audit_changes, ops.series,"
    " ops.rollups, ops.histograms, ops.blocked_patterns, ops.sli_counts, ops.work_units, ops.job_runs, ops.cursors"
    " restart identity"
)
FRESH_SLOS = (
    "select org_id, slo_name, good, total from ops.evaluate_slos('2026-04-20T00:00Z') where total > 0 order by 1, 2"
)
FRESH_PATTERNS = (
    "select org_id, aggregation_period, period_start, hook_type, pattern, blocked_count"
    " from public.v_ops_blocked_patterns order by 1, 2, 3, 4, 5"
)
LATEST = "select * from public.v_ops_kpi_latest"

instants = st.one_of(
    st.integers(0, int((UNTIL - SINCE).total_seconds()) - 1).map(lambda second: SINCE + timedelta(seconds=second)),
    st.sampled_from(EDGES).map(instant),
    st.sampled_from(EDGES).map(lambda edge: instant(edge) - timedelta(microseconds=1)),
)
numbers = st.one_of(
    st.integers(0, 500_000),
    st.sampled_from(
        [0, 1e-3, 0.0011, 1e-9, 10**15, 10**15 + 1, -1, 119_999.999, 120_000, 300_000, "12", None, True, [1]]
    ),
    st.decimals(min_value=0, max_value=400_000, places=3).map(float),
)
outcomes = st.sampled_from(
    ["success", "success", "failure", "failure", "cancelled", "skipped", "Success", None, 7, True]
)
metadata = st.fixed_dictionaries(
    {"outcome": outcomes, "duration_ms": numbers},
    optional={
        "workflow": st.sampled_from(["ci", "release", "", None]),
        "hook_type": st.sampled_from(["pre-commit", "pre-push", None]),
        "result": st.sampled_from(["blocked", "blocked", "allowed", "overridden", None]),
        "kind": st.sampled_from(["wheel", "image"]),
        "size_bytes": numbers,
        "findings_count": numbers,
        "team": st.just("not from here"),
        "findings_summary": st.sampled_from(
            [{}, {"pattern": "print"}, {"patterns": ["print", "secret"]}, {"pattern": "secret", "patterns": ["secret"]}]
        ),
    },
)


@dataclass(frozen=True, slots=True)
class Written:
    """One event as it is to be written."""

    event_type: str
    at: datetime
    org_id: UUID
    agent_id: UUID | None
    run_id: int | None
    tag: str | None
    said: dict[str, object]
    is_ingested: bool


written = st.builds(
    Written,
    st.sampled_from(
        [
            "slsa_provenance",
            "provenance_validate",
            "audit_observer",
            "workflow_run",
            "artifact",
            "api_request",
            "hook_execution",
            "hook_execution",
            "hook_override",
            "undescribed",
            "slsa_provenance",
        ]
    ),
    instants,
    st.sampled_from(ORGS),
    st.sampled_from([*AGENTS, None]),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from([None, None, "v1", "v2", "v" * 300]),
    metadata,
    st.booleans(),
)
statuses = st.sampled_from(["success", "failure", "skipped", "unknown"])
audits = st.fixed_dictionaries(
    {
        "audit_timestamp": instants.map(str),
        "org_id": st.sampled_from(ORGS).map(str),
        "provenance_status": statuses,
        "validation_status": statuses,
        "sha256_verified": st.booleans(),
        "supabase_provenance_synced": st.booleans(),
    }
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), st.lists(written, min_size=1, max_size=6)),
        st.tuples(st.just("write"), st.integers(0, 2), st.lists(written, min_size=1, max_size=6)),
        st.tuples(st.sampled_from(["commit", "commit", "rollback", "repeat"]), st.integers(0, 2), st.none()),
        st.tuples(st.just("refresh"), st.just(0), st.sampled_from([1, 3, 200_000])),
        st.tuples(st.sampled_from(["audit", "move audit", "delete audit"]), st.integers(1, 3), audits),
    ),
    min_size=4,
    max_size=16,
)


def document(event: Written) -> dict[str, object]:
    named = {"org_id": str(event.org_id), "agent_id": str(event.agent_id or AGENTS[0]), "findings_summary": {}}
    envelope: dict[str, object] = {
        "event_type": event.event_type,
        "event_timestamp": event.at.isoformat(),
        "event_id": str(uuid4()),
    }
    return envelope | {"run_id": event.run_id, "tag": event.tag, "metadata": named | event.said}


class Writers:
    """Three connections that write; what is repeated was sent by the same one, so that none waits for another."""

    def __init__(self, connections: list[Connection]) -> None:
        self.connections = connections
        self.sent: list[dict[str, object] | None] = [None] * len(connections)

    def write(self, number: int, events: list[Written]) -> None:
        for event in events:
            if event.is_ingested:
                self.sent[number] = document(event)
                ingest(self.connections[number], self.sent[number] or {})
                continue
            add_event(
                self.connections[number],
                event.event_type,
                event.at,
                metadata=json.dumps(event.said),
                run_id=event.run_id,
                tag=event.tag,
                org_id=event.org_id,
                agent_id=event.agent_id,
            )

    def step(self, verb: str, number: int, events: list[Written]) -> None:
        if verb == "write":
            self.write(number, events)
        elif verb == "commit":
            self.connections[number].commit()
        elif verb == "rollback":
            self.connections[number].rollback()
        elif self.sent[number]:
            ingest(self.connections[number], self.sent[number] or {})


def change_audit(connection: Connection, verb: str, run: int, audit: dict[str, Any]) -> None:
    if verb == "delete audit":
        connection.execute("delete from public.slsa_audit_metrics where audit_run_id = %s", [run])
    elif not scalar(connection, "select exists (select from public.slsa_audit_metrics where audit_run_id = %s)", run):
        add_audit(connection, run, **audit)
    else:
        connection.execute(
            "update public.slsa_audit_metrics set org_id = %(org_id)s, audit_timestamp = %(audit_timestamp)s,"
            " validation_status = %(validation_status)s where audit_run_id = %(run)s",
            audit | {"run": run},
        )


def shown_now(connection: Connection) -> list[list[tuple]]:
    """Return what the views that show "now" answer."""
    return [rows(connection, FRESH_SLOS), rows(connection, FRESH_PATTERNS), rows(connection, LATEST)]


def begin_again(connection: Connection, zone: str) -> None:
    connection.execute("select set_config('lock_timeout', %s, false)", [f"{PATIENCE_S}s"])
    connection.execute(EVERYTHING)
    connection.execute("update ops.settings set value = %s where name = 'time_zone'", [zone])
    for number, agent in enumerate(AGENTS):
        connection.execute(
            "insert into ops.agents (org_id, agent_id, team) values (%s, %s, %s) on conflict do nothing",
            [ORGS[number % 3], agent, None if number == 3 else f"team {number % 2}"],
        )


@given(zone=st.sampled_from(["UTC", "Europe/Berlin"]), story=steps, spans=st.tuples(instants, instants), data=st.data())
@settings(
    deadline=None,
    max_examples=int(os.environ.get("OPSKPI_EXAMPLES", "25")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_all_states_equal_the_plain_sums_whatever_is_written_in_whatever_order(
    database, connect, zone, story, spans, data
):
    begin_again(database, zone)
    with ExitStack() as opened:
        writers = Writers([opened.enter_context(closing(connect(autocommit=False))) for _ in range(3)])
        for verb, number, what in story:
            if verb == "refresh":
                refresh(database, max_ids=what)
            elif verb.endswith("audit"):
                change_audit(database, verb, number, what)
            else:
                writers.step(verb, number, what)
        for connection in data.draw(st.permutations(writers.connections), label="order of the last commits"):
            connection.commit()
            refresh(database, max_ids=2)

    assert_kpis(database, ZoneInfo(zone), rows(database, "select * from ops.kpis"))
    expected = shown_now(database)
    while refresh(database).state != "done":
        pass
    assert_exact(database, zone)
    assert shown_now(database) == expected

    incremental = states(database)
    since, until = sorted(spans)
    rebuild(database, since, until + timedelta(microseconds=1))
    assert states(database) == incremental
    rebuild(database, "2026-01-01T00:00Z", "2026-07-01T00:00Z")
    assert states(database) == incremental


def test_values_add_up_exactly_not_as_floats(database):
    for value in (0.1, 0.2, 0.7, 1e15):
        add_event(database, "artifact", size_bytes=value)
        refresh(database)
    query = "select value_sum, value_min, value_max from ops.rollups where period = 'day'"
    assert [tuple(map(Fraction, row)) for row in rows(database, query)] == [
        (Fraction(10**15 + 1), Fraction(1, 10), Fraction(10**15))
    ]


def test_hours_do_not_overlap_where_the_clocks_change_by_half_an_hour(database):
    database.execute("update ops.settings set value = 'Australia/Lord_Howe' where name = 'time_zone'")
    for minute in (10, 40, 70, 100, 130):
        add_event(database, "artifact", instant("2026-04-04T13:30:00Z") + timedelta(minutes=minute), size_bytes=1)
        add_audit(database, minute, instant("2026-04-04T13:30:00Z") + timedelta(minutes=minute))
        refresh(database)
    query = (
        "select event_type, sum(event_count) from ops.rollups join ops.series using (org_id, series_id)"
        " where period = 'hour' group by 1 order by 1"
    )
    assert rows(database, query) == [("artifact", 5), ("slsa_audit_metrics", 5)]


def test_the_series_of_a_new_event_type_needs_no_migration(database):
    add_event(database, "deploy", environment="staging", seconds=4)
    refresh(database)
    database.execute(
        "insert into ops.event_types (event_type, description, label_keys, value_key, value_unit)"
        " values ('deploy', 'A deployment.', '{environment}', 'seconds', 'count')"
    )
    add_event(database, "deploy", environment="staging", seconds=5)
    refresh(database)
    query = (
        "select labels, value_sum from ops.rollups join ops.series using (org_id, series_id)"
        " where period = 'day' order by 2"
    )
    assert rows(database, query) == [({}, 0), ({"environment": "staging"}, 5)]
    rebuild(database, "2026-03-10T00:00Z", "2026-03-11T00:00Z")
    assert rows(database, query) == [({"environment": "staging"}, 9)]
    assert_exact(database)


def test_a_new_time_zone_and_a_rebuild_give_the_new_days(database):
    add_event(database, "artifact", "2026-03-10T23:30Z", size_bytes=1)
    add_audit(database, 1, "2026-03-31T22:30Z")
    refresh(database)
    database.execute("update ops.settings set value = 'Europe/Berlin' where name = 'time_zone'")
    rebuild(database, "2026-01-01T00:00Z", "2026-07-01T00:00Z")
    assert_exact(database, "Europe/Berlin")


def test_an_unknown_time_zone_is_refused(database):
    with pytest.raises(psycopg.Error):
        database.execute("update ops.settings set value = 'Middle/Earth' where name = 'time_zone'")

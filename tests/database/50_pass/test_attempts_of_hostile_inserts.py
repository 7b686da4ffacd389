"""Hostile plain inserts, by those who may insert: none stops the counting, and every event is counted or set aside."""

import json
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from support.events import AS_OF, Connection, refresh, rows, scalar, states
from support.fixtures import ActingAs
from support.oracle import assert_exact
from support.patience import PATIENCE_S

pytestmark = pytest.mark.database

ROLES = ["service_role", "authenticated"]
ORG = "aaaaaaaa-0000-4000-8000-00000000000a"
KEYS = [
    "outcome",
    "duration_ms",
    "hook_type",
    "result",
    "findings_summary",
    "pattern",
    "patterns",
    "size_bytes",
    "findings_count",
    "workflow",
    "kind",
    "endpoint",
    "severity",
    "team",
    "agent_id",
    "org_id",
]
TYPES = ["hook_execution", "hook_override", "slsa_provenance", "artifact", "api_request", "workflow_run", "never seen"]
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
words = texts | st.sampled_from(
    ["success", "failure", "blocked", "NaN", "Infinity", "-0", "", "{}", "%s", "'; --", "😀" * 99]
)
numbers = (
    st.integers(-(10**40), 10**40)
    | st.sampled_from([0, -1, 10**15, 10**15 + 1, 2**63, 10**300])
    | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | words, below, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(st.sampled_from(KEYS) | words, values, max_size=8) | values
instants = st.datetimes(datetime(1969, 12, 1), datetime(2200, 2, 1), timezones=st.just(UTC)) | st.sampled_from(
    ["1970-01-01Z", "2199-12-31 23:59:59.999999Z", "infinity", "now"]
)
events = st.tuples(
    st.sampled_from(TYPES) | texts,
    instants,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | words | st.just("v" * 100_000),
    documents,
    st.none() | st.uuids().map(str),
)
EXTREMES = {
    "patterns": {"result": "blocked", "findings_summary": {"patterns": [f"p{n}" for n in range(60_000)]}},
    "lists of patterns": {"result": "blocked", "findings_summary": [{"patterns": [n]} for n in range(20_000)]},
    "patterns that are documents": {"result": "blocked", "findings_summary": {"patterns": [{"a": "x" * 9000}] * 90}},
    "depth": {"outcome": "failure", "findings_summary": json.loads("[" * 900 + "]" * 900)},
    "width": {f"k{n}": n for n in range(50_000)},
    "a key of a megabyte": {"k" * 1_000_000: 1, "outcome": "success"},
    "a label of a megabyte": {"outcome": "😀" * 250_000, "hook_type": "😀" * 250_000, "result": "blocked"},
}


def insert_as(connection: Connection, acting_as: ActingAs, role: str, *event: object) -> bool:
    """Insert as a role does, and say whether the database took the event."""
    columns = "event_type, event_timestamp, run_id, tag, metadata, agent_id, org_id"
    try:
        with acting_as(connection, role, ORG, commit=True):
            connection.execute(
                f"insert into public.telemetry_events ({columns}) values (%s, %s, %s, %s, %s, %s, %s)", [*event, ORG]
            )
    except psycopg.Error:
        return False
    return True


def counted(connection: Connection) -> int:
    """How many events the months hold, and how many are set aside."""
    query = (
        "select (select coalesce(sum(event_count), 0) from ops.rollups where period = 'month')"
        " + (select count(*) from ops.uncountable_events)"
    )
    return int(scalar(connection, query))


@pytest.mark.own_database
@pytest.mark.parametrize("role", ROLES)
def test_whatever_is_inserted_is_counted(database, acting_as, role):
    taken = 0

    @settings(
        max_examples=150,
        deadline=timedelta(seconds=PATIENCE_S),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
        derandomize=True,
    )
    @given(st.lists(events, min_size=1, max_size=4))
    def check(found) -> None:
        nonlocal taken
        for event_type, at, run_id, tag, document, agent in found:
            taken += insert_as(database, acting_as, role, event_type, at, run_id, tag, Jsonb(document), agent)
        assert refresh(database).state == "done"
        assert counted(database) == taken

    check()
    assert taken > 200
    assert rows(database, "select id, reason from ops.uncountable_events") == []
    before = states(database)
    database.execute("select ops.rebuild('1970-01-01Z', '2200-01-01Z', %s)", [AS_OF])
    assert states(database) == before


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("event_type", ["hook_execution", "slsa_provenance"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_are_counted(database, acting_as, role, event_type, name):
    assert insert_as(database, acting_as, role, event_type, "2026-03-10Z", None, None, Jsonb(EXTREMES[name]), None)
    assert insert_as(
        database, acting_as, role, "api_request", "2026-03-10Z", None, None, Jsonb({"outcome": "success"}), None
    )
    assert (refresh(database).state, counted(database)) == ("done", 2)
    assert rows(database, "select id from ops.uncountable_events") == []


@pytest.mark.parametrize("role", ROLES)
def test_of_an_event_that_lists_many_patterns_fifty_count_and_the_rest_counts_once(database, acting_as, role):
    listed = {"result": "blocked", "findings_summary": {"pattern": "first", "patterns": [f"p{n}" for n in range(70)]}}
    for patterns in (listed, {"result": "blocked", "findings_summary": {"patterns": [f"p{n}" for n in range(50)]}}):
        assert insert_as(database, acting_as, role, "hook_execution", "2026-03-10Z", None, None, Jsonb(patterns), None)
    refresh(database)
    found = dict(rows(database, "select pattern, blocked_count from ops.blocked_patterns where period = 'day'"))
    assert found == {f"p{n}": 2 for n in range(50)} | {"first": 1, "[further patterns]": 1}
    assert_exact(database)

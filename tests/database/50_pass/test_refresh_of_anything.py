"""Nothing that a user may write stops the counting for everybody."""

import psycopg
import pytest

from support.events import AS_OF, add_event, refresh, rows, scalar
from support.oracle import assert_exact

pytestmark = pytest.mark.database

NEW_SLO = (
    "insert into ops.slos (slo_name, service, objective, description, event_type, target, threshold_ms)"
    " values (%s, 'mine', %s, 'Mine.', 'slsa_provenance', 0.9, %s)"
)


@pytest.mark.parametrize(
    ("objective", "threshold_ms"), [("availability", None), ("error_rate", None), ("latency", 100)]
)
def test_a_new_objective_has_the_history_it_would_have_had(database, objective, threshold_ms):
    add_event(database, at="2026-03-10T12:00Z", outcome="failure", tag="v1")
    add_event(database, at="2026-03-10T12:01Z", outcome="success", tag="v3", duration_ms=50)
    refresh(database)
    database.execute(NEW_SLO, ["mine", objective, threshold_ms])
    add_event(database, at="2026-03-10T12:02Z", outcome="success", tag="v2", duration_ms=150)
    refresh(database)
    add_event(database, at="2026-03-10T12:03Z", outcome="success", tag="v1", duration_ms=50)
    refresh(database)
    expected = {"availability": (3, 3), "error_rate": (3, 4), "latency": (2, 3)}[objective]
    assert rows(database, "select good, total from ops.slo_counts where slo_name = 'mine'") == [expected]
    assert_exact(database)


def test_a_changed_objective_is_counted_anew(database):
    add_event(database, at="2026-03-10T12:00Z", outcome="success", duration_ms=50)
    database.execute(NEW_SLO, ["mine", "latency", 100])
    refresh(database)
    database.execute("update ops.slos set threshold_ms = 10 where slo_name = 'mine'")
    refresh(database)
    assert rows(database, "select good, total from ops.slo_counts where slo_name = 'mine'") == [(0, 1)]


def test_events_scattered_over_two_centuries_are_counted_and_exhaust_nothing(database):
    database.execute(
        "insert into telemetry_events (event_type, event_timestamp)"
        " select 'x', month from generate_series(timestamptz '1970-01-15Z', '2199-12-15Z', interval '1 month') as month"
    )
    assert scalar(database, "select (ops.run()).events") == 230 * 12
    assert scalar(database, "select count(*) from pg_inherits where inhparent = 'telemetry_events'::regclass") < 30
    assert rows(database, "select message from ops.job_runs where outcome = 'failure'") == []


def test_upkeep_that_fails_does_not_stop_the_counting(database):
    add_event(database, at="2019-03-10T12:00Z")
    database.execute("create table ops.telemetry_events_2019_03_stands_in_the_way ()")
    database.execute(
        "alter table ops.telemetry_events_default add constraint no_move check (event_timestamp > '1990-01-01')"
    )
    database.execute("create view ops.telemetry_events_2019_03 as select 1 as in_the_way")
    assert scalar(database, "select (ops.run()).events") == 1


def test_a_gap_of_millions_in_the_ids_is_one_step(database):
    add_event(database)
    scalar(database, "select setval('public.telemetry_events_id_seq', 5000000)")
    add_event(database)
    assert refresh(database).state == "done"
    assert scalar(database, "select ops.cursor_id()") == 5_000_001
    for _ in range(3):
        add_event(database)
    assert [refresh(database, max_ids=2).events for _ in range(2)] == [2, 1]
    assert_exact(database)


def test_an_event_of_a_clock_that_is_ahead_does_not_hide_the_present(database):
    database.execute(
        "insert into telemetry_events (event_type, event_timestamp, metadata) values"
        """ ('slsa_provenance', now(), '{"outcome": "failure"}'),"""
        """ ('slsa_provenance', now() + interval '20 years', '{"outcome": "success"}')"""
    )
    query = "select metric_value from v_ops_kpi_latest where metric_name = 'provenance_failure_rate' and aggregation_period = 'day'"
    assert rows(database, query) == [(100,)]


@pytest.mark.parametrize(
    "statement",
    [
        "insert into ops.event_types (event_type, description, label_keys) values ('x', 'x', array[null])",
        "insert into ops.event_types (event_type, description, label_keys) values ('x', 'x', '{{a,b}}')",
        "insert into ops.event_types (event_type, description, label_keys) values ('x', 'x', array[repeat('k', 4800)])",
        "insert into ops.event_types (event_type, description) values ('slsa_audit_metrics', 'x')",
        "update ops.settings set value = '170000000 years' where name = 'job_runs_kept'",
        "update ops.settings set value = '170000000 years' where name = 'refresh_interval'",
        "update ops.settings set value = 'Mars/Olympus' where name = 'time_zone'",
        "update ops.slos set rolling_window = '8000 years'",
        "update ops.kpi_definitions set percentile = null where measure = 'percentile'",
        "update ops.kpi_definitions set breakdowns = array[null]",
        "insert into telemetry_events (id, event_type) values (0, 'x')",
        "insert into telemetry_events (event_type) values ('slsa_audit_metrics')",
    ],
)
def test_a_row_that_would_stop_the_counting_is_refused(database, statement):
    with pytest.raises(psycopg.Error) as refused:
        database.execute(statement)
    assert (refused.value.sqlstate or "")[:2] in {"22", "23"}


def test_settings_that_were_deleted_have_their_defaults(database):
    database.execute("delete from ops.settings where true")
    add_event(database)
    refresh(database)
    assert_exact(database)
    assert rows(database, "select check_name from ops.doctor(%s) where detail is null or passed is null", AS_OF) == []

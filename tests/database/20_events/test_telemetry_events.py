"""A plain insert is refused for what the README lists, and for nothing else that it says."""

from uuid import RFC_4122, UUID

import psycopg
import pytest

from support.event_borders import DAY
from support.events import Connection, refresh, rows, scalar

pytestmark = pytest.mark.database


@pytest.mark.parametrize(
    ("event_type", "instant", "constraint"),
    [
        ("", DAY, "telemetry_events_event_type_is_short"),
        ("x" * 101, DAY, "telemetry_events_event_type_is_short"),
        ("slsa_audit_metrics", DAY, "telemetry_events_event_type_is_no_audit"),
        ("deploy", "infinity", "telemetry_events_event_timestamp_is_plausible"),
        ("deploy", "-infinity", "telemetry_events_event_timestamp_is_plausible"),
        ("deploy", "0044-03-15 12:00+00 BC", "telemetry_events_event_timestamp_is_plausible"),
        ("deploy", "0001-01-01 00:00+00", "telemetry_events_event_timestamp_is_plausible"),
        ("deploy", "1969-12-31 23:59:59.999999+00", "telemetry_events_event_timestamp_is_plausible"),
        ("deploy", "2200-01-01 00:00+00", "telemetry_events_event_timestamp_is_plausible"),
    ],
)
def test_a_plain_insert_is_refused_for_its_type_and_its_time(
    undone: Connection, event_type: str, instant: str, constraint: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as refusal:
        undone.execute(
            "insert into telemetry_events (event_type, event_timestamp) values (%s, %s)", [event_type, instant]
        )
    assert refusal.value.diag.constraint_name == constraint


@pytest.mark.parametrize(
    ("event_type", "instant", "run_id", "tag", "metadata"),
    [
        ("x" * 100, DAY, None, None, None),
        ("no such kind", "1970-01-01 00:00+00", -1, "", "null"),
        ("\N{GRINNING FACE}" * 100, "2199-12-31 23:59:59.999999+00", 2**63 - 1, "\N{GRINNING FACE}" * 5000, "[]"),
        ("workflow_run", "1999-12-31 00:00+00", -(2**63), " \n", '{"outcome": 5, "duration_ms": -1, "org_id": "me"}'),
        ("hook_execution", DAY, 0, "v1", '{"findings_summary": "none", "result": ["blocked"]}'),
        ("slsa_provenance", DAY, 0, "v1", '{"duration_ms": 1e999}'),
        ("slsa_provenance", DAY, 0, "v1", '{"a":' + "[" * 1000 + "]" * 1000 + "}"),
        ("slsa_provenance", DAY, 0, "v1", '{"outcome": "' + "x" * 1_000_000 + '"}'),
    ],
)
def test_a_plain_insert_may_say_anything_else_and_is_counted(
    database: Connection, event_type: str, instant: str, run_id: int | None, tag: str | None, metadata: str | None
) -> None:
    database.execute(
        "insert into telemetry_events (event_type, event_timestamp, run_id, tag, metadata) values (%s, %s, %s, %s, %s::jsonb)",
        [event_type, instant, run_id, tag, metadata],
    )
    as_of = "2201-01-01T00:00:00Z" if instant.startswith("2199") else "2026-06-01T00:00:00Z"
    assert refresh(database, as_of=as_of).events == 1
    assert scalar(database, "select count(*) from telemetry_events") == 1
    assert rows(
        database,
        "select event_type, sum(event_count) from ops.rollups join ops.series using (org_id, series_id) where period = 'day' group by 1",
    ) == [(event_type, 1)]


@pytest.mark.own_database
def test_the_event_ids_that_plain_inserts_draw_are_uuids_and_differ_whatever_the_seed(
    database: psycopg.Connection,
) -> None:
    drawn: list[UUID] = []
    for _ in range(2):
        with database.transaction():
            database.execute("select setseed(0.5)")
            inserted = database.execute(
                "insert into telemetry_events (event_type, event_timestamp) select 'deploy', %s"
                " from generate_series(1, 5000) returning event_id",
                [DAY],
            )
            drawn += [event_id for (event_id,) in inserted]
        database.execute("select pg_sleep(0.0001)")
    assert len(set(drawn)) == 10_000
    assert {(event_id.variant, event_id.version) for event_id in drawn} == {(RFC_4122, 8)}

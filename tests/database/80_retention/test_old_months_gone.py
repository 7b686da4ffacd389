"""What is gone is neither counted again nor missed."""

from typing import Any
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from support.events import (
    add_event,
    add_slo,
    ingest,
    instant,
    rebuild,
    refresh,
    refused,
    rows,
    scalar,
    states,
)
from support.fixtures import ActingAs
from support.retention import freed_by_a_run, keep, repeatable

pytestmark = pytest.mark.database


def test_a_repeat_of_a_removed_event_is_refused_since_it_cannot_be_recognised(three_months):
    event = repeatable("2026-01-20T00:00:00Z")
    assert ingest(three_months, event)["accepted"] == 1
    refresh(three_months)
    before = states(three_months)
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    answer = ingest(three_months, event, repeatable("2026-03-02T00:00:00Z"), repeatable("2026-02-28T23:59:59Z"))
    assert (answer["accepted"], [fault["index"] for fault in answer["refused"]]) == (1, [0, 2])
    assert {fault["field"] for fault in answer["refused"]} == {"timestamp"}
    assert "removed" in answer["refused"][0]["reason"]
    three_months.execute("delete from public.telemetry_events where event_timestamp = '2026-03-02Z'")
    refresh(three_months)
    assert states(three_months) == before


def test_only_the_types_that_were_removed_are_refused(three_months):
    keep(three_months, "events", "90 days", "slsa_provenance")
    freed_by_a_run(three_months)
    accepted = ingest(three_months, repeatable("2026-01-20T00:00:00Z", "workflow_run"))
    assert (accepted["accepted"], accepted["refused"]) == (1, [])
    assert ingest(three_months, repeatable("2026-01-20T00:00:00Z"))["accepted"] == 0


def test_users_are_refused_likewise(three_months, acting_as: ActingAs):
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    with acting_as(three_months, "authenticated", org=UUID(int=7)):
        answer = ingest(three_months, repeatable("2026-01-20T00:00:00Z"), repeatable("2026-03-20T00:00:00Z"))
    assert (answer["accepted"], len(answer["refused"])) == (1, 1)


def test_a_plain_insert_of_a_removed_time_is_new_and_counted(three_months):
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    add_event(three_months, at="2026-01-20T00:00Z", outcome="success", duration_ms=1)
    assert refresh(three_months).events == 1
    assert [(row.name, row.removed) for row in freed_by_a_run(three_months)] == [
        ("telemetry_events_default 2026-01", 1)
    ]
    query = "select sum(event_count) from ops.rollups join ops.series using (org_id, series_id)"
    query += " where period = 'month' and period_start = '2026-01-01Z' and event_type = 'slsa_provenance'"
    assert scalar(three_months, query) == 3


def test_a_month_that_is_dropped_a_second_time_frees_only_what_came_since(three_months):
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    three_months.execute("select ops.create_partition('2026-01-01')")
    add_event(three_months, at="2026-01-20T00:00Z", outcome="success", duration_ms=1)
    refresh(three_months)
    assert [(row.action, row.removed) for row in freed_by_a_run(three_months)] == [("drop", 1)]


def test_a_collected_event_that_was_removed_is_a_duplicate(three_months):
    known, new, broken = (repeatable("2026-01-20T00:00:00Z"), repeatable("2026-03-20T00:00:00Z"), {"event_type": "?"})
    assert scalar(three_months, "select ops.collect_events(%s)", Jsonb([known]))["accepted"] == 1
    refresh(three_months)
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    moved = known | {"event_timestamp": "2026-03-21T00:00:00Z"}
    unseen = repeatable("2026-01-21T00:00:00Z")
    for expected in ((1, 2), (0, 3)):
        answer = scalar(three_months, "select ops.collect_events(%s)", Jsonb([known, broken, new, moved, unseen]))
        assert (answer["accepted"], answer["duplicate"]) == expected
        assert [fault["index"] for fault in answer["refused"]] == [1, 4]
    assert (
        scalar(three_months, "select count(*) from public.telemetry_events where event_type = 'slsa_provenance'") == 3
    )


def test_an_audit_that_is_repeated_after_its_event_was_removed_stays_as_it_was(three_months):
    add_event(three_months, at="2026-01-20T00:00Z", run_id=77, outcome="success")
    audit = {"audit_run_id": 5, "provenance_run_id": 77, "audit_timestamp": "2026-01-20T01:00Z", "tag": "v1"}
    audit |= {"provenance_status": "success"}
    query = "select events_stored, provenance_synced from ops.observe_audit(%s, %s)"
    arguments = [Jsonb(audit), Jsonb({"outcome": "success"})]
    assert rows(three_months, query, *arguments) == [(1, True)]
    refresh(three_months)
    before = states(three_months)
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    assert rows(three_months, query, *arguments) == [(0, True)]
    refresh(three_months)
    assert states(three_months) == before


def test_a_rebuild_of_what_is_gone_is_refused_and_the_hint_names_what_can_be_rebuilt(three_months):
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    before = states(three_months)
    for since in ("2026-01-15T00:00Z", "2026-02-28T00:00Z", "2026-03-01T00:00Z"):
        with refused():
            rebuild(three_months, since, "2026-04-01T00:00Z")
    # The first week that lies in March begins on the second, and April is the first month that begins in or after it.
    first = scalar(three_months, "select ops.rebuildable_from()")
    assert first == instant("2026-03-02T00:00Z")
    assert states(three_months) == before


def test_a_rebuild_after_the_removal_leaves_all_that_was_counted(three_months):
    for tag in ("2026-01-1", "2026-02-28", "new"):
        add_event(three_months, at="2026-03-20T10:00Z", outcome="success", duration_ms=5, tag=tag)
    add_event(three_months, at="2026-04-20T10:00Z", outcome="success", duration_ms=5, tag="2026-03-1")
    refresh(three_months)
    before = states(three_months)
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    first = scalar(three_months, "select ops.rebuildable_from()")
    rebuild(three_months, first, "2026-06-01T00:00Z")
    assert states(three_months) == before


def test_objectives_explain_what_burned_though_its_events_are_gone(three_months):
    queries = [f"provenance_generation_{objective}" for objective in ("availability", "latency", "error_rate")]
    add_slo(three_months, "sliced", event_type="slsa_provenance", slices=("1 hour", "0.9"))

    def costs(name: str) -> Any:
        query = "select count(*), sum(cost), count(event_id) from ops.explain_slo(%s, '2026-01-01Z', '2026-04-01Z')"
        return rows(three_months, query, name)[0]

    refresh(three_months)
    before = {name: costs(name) for name in [*queries, "sliced"]}
    assert before["sliced"][2] == 6
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    for name, (count, cost, _) in before.items():
        assert costs(name)[:2] == (count, cost)
    assert costs("sliced")[2] == 2
    reasons = rows(three_months, "select distinct reason from ops.explain_slo('sliced', '2026-01-01Z', '2026-02-01Z')")
    assert reasons == [("no longer stored",)]


def test_doctor_does_not_miss_what_retention_removed_and_says_when_it_is_overdue(three_months):
    keep(three_months, "events", "90 days")
    checks = "select check_name, passed from ops.doctor(%s) where check_name in ('counts', 'retention') order by 1"
    assert rows(three_months, checks, "2026-05-31T00:00Z") == [("counts", True), ("retention", False)]
    freed_by_a_run(three_months, "2026-05-31T00:00Z")
    assert rows(three_months, checks, "2026-05-31T00:00Z") == [("counts", True), ("retention", True)]
    assert rows(three_months, checks, "2026-02-03T00:00Z") == [("counts", True), ("retention", True)]
    # What is damaged beside it is still found.
    three_months.execute("update ops.rollups set event_count = 9 where period = 'day' and period_start = '2026-03-15Z'")
    assert rows(three_months, "select day_start from ops.count_differences('2026-01-01Z')") == [
        (instant("2026-03-15T00:00Z"),)
    ]


def test_what_the_hooks_did_of_late_on_a_removed_day_is_not_shown_and_then_gone(three_months):
    keep(three_months, "kpis", "100 days")
    freed_by_a_run(three_months)
    days = "select to_char(day_start at time zone 'UTC', 'MM-DD') from ops.hook_days order by 1"
    before = rows(three_months, days)
    add_event(three_months, "hook_execution", "2026-01-20T00:00Z", result="allowed", duration_ms=1)
    assert rows(three_months, days) == before == [("03-15",)]
    refresh(three_months)
    assert rows(three_months, days) == before

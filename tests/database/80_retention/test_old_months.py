"""Months that are too old: dropped as a whole or by type, and what was counted of them stays."""

from typing import LiteralString

import pytest

from opskpi.upkeep import retention
from opskpi.upkeep.retention import Removal
from support.events import (
    AS_OF,
    MONTHS,
    Connection,
    add_event,
    instant,
    refresh,
    rows,
    scalar,
    states,
)
from support.retention import JANUARY, STORED, freed_by_a_run, keep, partitions, retain

pytestmark = pytest.mark.database


def test_a_month_that_is_too_old_is_dropped_and_all_that_was_counted_of_it_stays(three_months):
    before = states(three_months)
    size = scalar(three_months, "select pg_total_relation_size('ops.telemetry_events_2026_01')")
    keep(three_months, "events", "100 days")
    assert freed_by_a_run(three_months) == [
        Removal(
            "events", "drop", "telemetry_events_2026_01", None, instant(JANUARY[0]), instant(JANUARY[1]), 5, size, None
        )
    ]
    assert states(three_months) == before
    assert partitions(three_months) == ["telemetry_events_2026_02", "telemetry_events_2026_03"]
    assert freed_by_a_run(three_months) == []


def test_an_event_lives_for_its_age_and_until_its_month_is_as_old(three_months):
    keep(three_months, "events", "100 days")
    assert freed_by_a_run(three_months, "2026-05-11T23:59:59.999999Z") == []
    assert [freed.name for freed in freed_by_a_run(three_months, "2026-05-12T00:00Z")] == ["telemetry_events_2026_01"]


def test_ages_are_reckoned_in_utc_whatever_the_session_says(three_months):
    three_months.execute("set timezone = 'Pacific/Auckland'; set datestyle = 'SQL, DMY'")
    keep(three_months, "events", "1 month")
    assert retain(three_months, as_of="2026-02-28T23:59:59Z")[0] == "done"
    assert retain(three_months, as_of="2026-03-01T00:00Z")[:2] == ("freed", "telemetry_events_2026_01")
    assert retain(three_months, as_of="2026-03-01T00:00Z")[0] == "done"


def test_a_type_with_an_age_of_its_own_goes_by_itself_in_batches(three_months):
    before = states(three_months)
    keep(three_months, "events", "40 days", "slsa_provenance")
    assert retain(three_months, max_rows=1) == ("freed", "telemetry_events_2026_01", "slsa_provenance", 1, None)
    planned = retention.plan(three_months, AS_OF)
    assert [(row.action, row.name, row.event_type, row.removed) for row in planned] == [
        ("delete", "telemetry_events_2026_01", "slsa_provenance", 1),
        ("delete", "telemetry_events_2026_02", "slsa_provenance", 2),
        ("delete", "telemetry_events_2026_03", "slsa_provenance", 2),
    ]
    assert [row.removed for row in freed_by_a_run(three_months)] == [1, 2, 2]
    assert states(three_months) == before
    assert [row for row in rows(three_months, STORED) if row[1] == "slsa_provenance"] == []
    assert len(rows(three_months, "select from public.telemetry_events")) == 9
    journal = rows(three_months, "select events, message from ops.job_runs where job = 'retention' order by message")
    assert journal[0] == (1, "telemetry_events_2026_01 slsa_provenance deleted: 1")


def test_a_type_can_be_kept_for_ever_though_the_others_are_not(three_months):
    keep(three_months, "events", "40 days")
    keep(three_months, "events", None, "hook_execution")
    freed_by_a_run(three_months)
    assert rows(three_months, STORED) == [(month, "hook_execution", 1) for month in MONTHS]
    three_months.execute("select ops.unset_retention('events', 'hook_execution')")
    assert [(row.action, row.removed) for row in freed_by_a_run(three_months)] == [("drop", 1)] * 3


def test_a_month_whose_types_went_one_by_one_is_dropped_in_the_end(three_months):
    keep(three_months, "events", "40 days", "slsa_provenance")
    freed_by_a_run(three_months)
    for kind in ("audit_observer", "hook_execution"):
        keep(three_months, "events", "40 days", kind)
    freed = freed_by_a_run(three_months)
    assert {(row.action, row.removed) for row in freed} == {("drop", 3)}
    assert partitions(three_months) == []


def test_what_is_too_old_in_the_default_partition_is_deleted_there(three_months):
    keep(three_months, "events", "100 days")
    freed_by_a_run(three_months)
    for at in ("2019-03-14T15:00Z", "2026-01-05T15:00Z"):
        add_event(three_months, "hook_override", at)
    refresh(three_months)
    before = states(three_months)
    assert [(row.name, row.event_type, row.removed) for row in freed_by_a_run(three_months)] == [
        ("telemetry_events_default 2019-03", "hook_override", 1),
        ("telemetry_events_default 2026-01", "hook_override", 1),
    ]
    assert states(three_months) == before


def test_late_events_of_a_month_that_is_gone_make_no_partition_that_is_dropped_again(three_months):
    keep(three_months, "events", "100 days")
    freed_by_a_run(three_months)
    add_event(three_months, at="2026-01-05T15:00Z", outcome="success")
    assert scalar(three_months, "select ops.maintain(%s)", AS_OF) == 4
    assert partitions(three_months) == ["telemetry_events_2026_02", "telemetry_events_2026_03"]
    keep(three_months, "events", None, "slsa_provenance")
    three_months.execute("select ops.maintain(%s)", [AS_OF])
    assert partitions(three_months)[0] == "telemetry_events_2026_01"
    assert freed_by_a_run(three_months) == []


def test_a_partition_that_somebody_else_attached_is_left_to_that_somebody(three_months):
    three_months.execute(
        "create table ops.quarter partition of public.telemetry_events for values from ('2025-01-01Z') to ('2025-04-01Z')"
    )
    add_event(three_months, at="2025-02-01T00:00Z")
    refresh(three_months)
    keep(three_months, "events", "1 day")
    freed_by_a_run(three_months)
    assert rows(three_months, "select tableoid::regclass::text from public.telemetry_events") == [("ops.quarter",)]


def test_a_month_on_which_something_depends_waits_and_the_next_one_goes(three_months):
    three_months.execute("create view public.mine as select id from ops.telemetry_events_2026_01")
    keep(three_months, "events", "90 days")
    outcome = retention.run(three_months, as_of=AS_OF)
    assert [row.name for row in outcome.freed] == ["telemetry_events_2026_02"]
    assert "depend" in outcome.obstacles[0]


def test_a_removed_month_is_known_as_such_and_no_other(three_months: Connection) -> None:
    query: LiteralString = "select ops.is_removed_month(%s)"
    assert not scalar(three_months, query, "2026-01-01")
    three_months.execute(
        "insert into ops.removed_events (event_type, removed_until) select event_type, '2026-02-01Z' from ops.event_types"
    )
    assert scalar(three_months, query, "2026-01-01")
    assert not scalar(three_months, query, "2026-02-01")

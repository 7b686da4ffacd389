"""Rules of the retention: those that make no sense, and who may read them."""

from typing import LiteralString
from uuid import UUID

import psycopg
import pytest

from opskpi.upkeep import retention
from support.events import (
    NIL,
    Connection,
    add_event,
    refresh,
    refused,
    rows,
)
from support.fixtures import ActingAs
from support.retention import freed_by_a_run, keep

pytestmark = pytest.mark.database


def test_without_a_rule_nothing_is_ever_removed(three_months):
    assert rows(three_months, "select * from ops.retention_rules") == []
    assert retention.plan(three_months, "2099-01-01T00:00Z") == []
    assert freed_by_a_run(three_months, "2099-01-01T00:00Z") == []
    assert len(rows(three_months, "select from public.telemetry_events")) == 15


@pytest.mark.parametrize(
    "arguments",
    [
        ("events", "23 hours", ""),
        ("hours", "30 days", ""),
        ("kpis", "30 days", ""),
        ("alerts", "30 days", ""),
        ("events", "101 years", ""),
        ("everything", "90 days", ""),
        ("hours", "90 days", "hook_execution"),
        ("events", "90 days", "no_such_type"),
        ("events", "90 days", None),
        (None, "90 days", ""),
    ],
    ids=str,
)
def test_a_rule_that_makes_no_sense_is_refused(database, arguments):
    with refused():
        keep(database, *arguments)
    assert rows(database, "select from ops.retention_rules") == []


def test_an_unknown_type_is_refused_with_those_that_are_known_and_one_that_occurs_is_fine(database):
    with pytest.raises(psycopg.Error) as caught:
        keep(database, "events", "90 days", "made_up")
    assert "hook_execution, hook_override" in str(caught.value.diag.message_hint)
    add_event(database, "made_up")
    keep(database, "events", "90 days", "made_up")
    keep(database, "events", "80 days", "made_up")
    assert [(rule.event_type, rule.age) for rule in retention.rules(database)] == [("made_up", "80 days")]


def test_users_may_read_the_rules_and_change_nothing(three_months, acting_as: ActingAs):
    keep(three_months, "events", "90 days")
    with acting_as(three_months, "authenticated", org=NIL):
        assert rows(three_months, "select kept from ops.retention_rules") == [("events",)]
    for statement in ("delete from ops.retention_rules", "select * from ops.removed_months", "select ops.retain()"):
        with acting_as(three_months, "authenticated", org=NIL), pytest.raises(psycopg.errors.InsufficientPrivilege):
            three_months.execute(statement)


def test_a_user_learns_no_name_of_a_type_that_nobody_described(three_months, acting_as: ActingAs):
    add_event(three_months, "secret_project", "2026-01-10T00:00Z")
    refresh(three_months)
    keep(three_months, "events", "90 days")
    freed_by_a_run(three_months)
    assert ("secret_project",) in rows(three_months, "select event_type from ops.removed_events")
    with acting_as(three_months, "authenticated", org=UUID(int=7)):
        seen = rows(three_months, "select event_type from ops.removed_events")
    assert ("slsa_provenance",) in seen
    assert ("secret_project",) not in seen


def test_the_time_zone_stays_once_something_was_removed(three_months: Connection) -> None:
    change: LiteralString = "update ops.settings set value = 'Asia/Kolkata' where name = 'time_zone'"
    three_months.execute(change)
    three_months.execute("update ops.settings set value = 'UTC' where name = 'time_zone'")
    keep(three_months, "events", "60 days")
    freed_by_a_run(three_months)
    with refused("OP001"):
        three_months.execute(change)
    three_months.execute("update ops.settings set value = '10 minutes' where name = 'refresh_interval'")

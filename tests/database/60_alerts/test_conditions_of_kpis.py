"""Rules on KPIs: the override rate above 20 % for two hours."""

from typing import Any
from uuid import UUID

import pytest

from support.events import NIL, Connection, add_events, add_rule, alerts, evaluate_alerts, rows, run_jobs

pytestmark = pytest.mark.database

NOON = "2026-03-10T12:00:00Z"
FIRING = [("overrides", "hook_override_rate", "firing")]
RESOLVED = [("overrides", "hook_override_rate", "resolved")]
ENDED = [("overrides", "hook_override_rate", "ended")]


@pytest.fixture(autouse=True)
def without_other_rules(database: Connection) -> None:
    database.execute("delete from ops.alert_rules")


def override_rule(connection: Connection, **columns: Any) -> None:
    rule: dict[str, Any] = {"metric_name": "hook_override_rate", "comparison": "gt", "threshold": 20}
    add_rule(connection, "overrides", "kpi_threshold", **(rule | {"lasting": "2 hours"} | columns))


def hour(connection: Connection, start: int, overridden: int, of: int = 100, *, org_id: UUID = NIL) -> None:
    at = f"2026-03-10T{start:02}:30Z"
    add_events(connection, overridden, "hook_execution", at, org_id=org_id, result="overridden")
    add_events(connection, of - overridden, "hook_execution", at, org_id=org_id, result="allowed")


@pytest.mark.parametrize(
    ("comparison", "rates", "found"),
    [
        ("gt", (21, 21), FIRING),
        ("gt", (21, 20), []),
        ("gt", (20, 21), []),
        ("gte", (20, 20), FIRING),
        ("gte", (20, 19), []),
        ("lt", (19, 0), FIRING),
        ("lt", (19, 20), []),
        ("lte", (20, 20), FIRING),
        ("lte", (21, 20), []),
    ],
)
def test_each_of_the_hours_must_be_beyond_the_limit(database, comparison, rates, found):
    override_rule(database, comparison=comparison)
    for start, rate in zip((10, 11), rates, strict=True):
        hour(database, start, rate)
    run_jobs(database, NOON)
    assert alerts(database) == found


def test_what_was_found_is_told_with_its_limit(database):
    override_rule(database, threshold="20.5")
    hour(database, 10, 30)
    hour(database, 11, 1, of=3)
    run_jobs(database, NOON)
    assert rows(database, "select detail from ops.alerts") == [
        ({"value": "33.333333", "threshold": "20.5", "comparison": "gt", "unit": "percent", "lasting": "02:00:00"},)
    ]


@pytest.mark.parametrize("hours", [(11,), (10,), (9, 11), (9, 10)], ids=str)
def test_an_hour_without_a_value_is_not_beyond_the_limit(database, hours):
    override_rule(database)
    for start in hours:
        hour(database, start, 50)
    run_jobs(database, NOON)
    assert alerts(database) == []


def test_an_hour_that_is_not_over_does_not_count_yet(database):
    override_rule(database)
    hour(database, 10, 50)
    hour(database, 11, 50)
    run_jobs(database, "2026-03-10T11:59:59Z")
    assert alerts(database) == []
    run_jobs(database, NOON)
    hour(database, 12, 0)
    run_jobs(database, "2026-03-10T12:59Z")
    assert alerts(database) == FIRING
    run_jobs(database, "2026-03-10T13:00Z")
    assert alerts(database) == RESOLVED


def test_hours_without_a_value_freeze_what_fires_until_an_hour_is_well(database):
    override_rule(database)
    hour(database, 10, 50)
    hour(database, 11, 50)
    run_jobs(database, NOON)
    found = []
    for start in (13, 14, 15):
        run_jobs(database, f"2026-03-10T{start}:00Z")
        found.append(rows(database, "select state, is_frozen from ops.alerts"))
    assert found == [[("firing", True)]] * 3
    hour(database, 15, 0)
    run_jobs(database, "2026-03-10T16:00Z")
    assert alerts(database) == RESOLVED


def test_a_kpi_alert_stays_while_nothing_is_counted(database):
    override_rule(database)
    for start, rate in ((10, 50), (11, 50), (12, 0)):
        hour(database, start, rate)
    run_jobs(database, NOON)
    evaluate_alerts(database, "2026-03-10T13:00Z")
    assert rows(database, "select state, is_frozen from ops.alerts") == [("firing", True)]


def test_a_rule_that_watches_another_kpi_lets_go_of_the_first(database):
    override_rule(database)
    hour(database, 10, 50)
    hour(database, 11, 50)
    run_jobs(database, NOON)
    database.execute("update ops.alert_rules set metric_name = 'hook_block_rate'")
    run_jobs(database, "2026-03-10T12:05Z")
    assert alerts(database) == ENDED


@pytest.mark.parametrize("change", ["delete from ops.alert_rules", "update ops.alert_rules set is_enabled = false"])
def test_the_alerts_of_a_rule_that_is_gone_end_also_without_a_value(database, change):
    override_rule(database)
    hour(database, 10, 50)
    hour(database, 11, 50)
    run_jobs(database, NOON)
    database.execute(change)
    run_jobs(database, "2026-03-10T18:00Z")
    assert alerts(database) == ENDED


def test_one_org_beyond_the_limit_is_not_another(database):
    override_rule(database)
    for start in (10, 11):
        hour(database, start, 50, org_id=UUID(int=7))
        hour(database, start, 5)
    run_jobs(database, NOON)
    assert rows(database, "select org_id from ops.alerts") == [(UUID(int=7),)]


def test_a_day_counts_24_hours_in_a_zone_whose_day_has_23(database):
    database.execute("update ops.settings set value = 'Europe/Berlin' where name = 'time_zone'")
    database.execute("set timezone = 'Europe/Berlin'")
    override_rule(database, lasting="1 day")
    for number in range(24):
        day, start = (28, number + 12) if number < 12 else (29, number - 12)
        add_events(database, 1, "hook_execution", f"2026-03-{day}T{start:02}:30Z", result="overridden")
    run_jobs(database, "2026-03-29T12:00Z")
    assert alerts(database) == FIRING


def test_a_late_event_corrects_what_was_found(database):
    override_rule(database)
    hour(database, 10, 50)
    hour(database, 11, 50)
    run_jobs(database, NOON)
    add_events(database, 900, "hook_execution", "2026-03-10T10:15Z", result="allowed")
    run_jobs(database, "2026-03-10T12:05Z")
    assert alerts(database) == RESOLVED

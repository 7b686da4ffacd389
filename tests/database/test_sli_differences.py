"""The doctor compares good and total of objectives with their events, and names the rebuild that repairs them."""

import re
from typing import LiteralString
from uuid import UUID

import pytest

from support.events import NIL, Connection, add_event, add_row, add_slo, instant, rebuild, refresh, rows, scalar, states
from support.oracle import assert_exact

pytestmark = pytest.mark.database

AS_OF = "2026-03-11T12:00Z"
CHECK: LiteralString = "select passed, detail from ops.doctor(%s) where check_name = 'counts of objectives'"
AGENT = UUID("11111111-1111-4111-8111-111111111111")
# A five minutes of an SLI, or a unit of work, within the last days.
ONE: LiteralString = (
    "(org_id, sli_id, bucket_start) = (select org_id, sli_id, bucket_start from ops.sli_counts join ops.slo_versions using (sli_id)"
    " where slo_name = 'errors' and good > 0 order by bucket_start desc limit 1)"
)
DAMAGES: dict[str, LiteralString] = {
    "a row with other good ones": f"update ops.sli_counts set good = 0 where {ONE}",
    "a row with another total": f"update ops.sli_counts set total = total + 1 where {ONE}",
    "a row that is gone": f"delete from ops.sli_counts where {ONE}",
    "all rows gone": "delete from ops.sli_counts where bucket_start > '2026-03-01Z'",
    "a row of five minutes without events": "insert into ops.sli_counts"
    " select org_id, sli_id, '2026-03-11T01:00Z', 1, 2 from ops.slo_versions, (select %(nil)s::uuid as org_id) as org where slo_name = 'units'",
    "a row of no SLI": "insert into ops.sli_counts values (%(nil)s, 1234, '2026-03-11T01:00Z', 1, 2)",
    "counts of another objective": "update ops.sli_counts set good = 0 where sli_id = (select sli_id from ops.slo_versions where slo_name = 'units')",
    "a day that is off": "update ops.sli_days set good = good - 1 where day_start = '2026-03-10Z'",
    "a day that is gone": "delete from ops.sli_days where day_start = '2026-03-10Z'",
    "a day of nothing": "insert into ops.sli_days select org_id, sli_id, '2026-03-09Z', 0, 4 from ops.sli_days limit 1",
    "groups that nobody lists": 'delete from ops.sli_groups where slo_group = \'{"workflow": "b"}\'',
    "a unit of work that is gone": "delete from ops.work_units where unit = 'tag:2026-03-11-1'",
    "a unit of work that succeeded by hand": "update ops.work_units set succeeded = not succeeded where first_attempt_at > '2026-03-01Z'",
}


@pytest.fixture
def counted_objectives(database: Connection) -> Connection:
    """Count objectives of every kind over two days, and one day long before."""
    add_row(database, "agents", org_id=NIL, agent_id=AGENT, team="red", updated_at=instant("2026-01-01T00:00Z"))
    add_slo(database, "errors", event_type="workflow_run", total={"workflow": "a"})
    add_slo(database, "fast", objective="latency", event_type="workflow_run", threshold_ms=30, total={"team": "red"})
    add_slo(database, "units", objective="availability", event_type="workflow_run", total={"workflow": ["a", "b"]})
    add_slo(database, "events", objective="events", event_type="workflow_run", bad={"outcome": "cancelled"})
    add_slo(database, "values", objective="measured", event_type="workflow_run", at_most=40)
    for name, objective in (("grouped", "error_rate"), ("grouped_units", "availability")):
        add_slo(database, name, objective=objective, event_type="workflow_run", group_by=["workflow"])
    for day in ("2026-01-10", "2026-03-10", "2026-03-11"):
        for number in range(12):
            add_event(
                database,
                "workflow_run",
                f"{day}T10:{number * 4:02}Z",
                agent_id=AGENT if number % 2 else None,
                tag=f"{day}-{number // 3}",
                outcome=("success", "failure", "cancelled")[number % 3],
                workflow="abc"[number % 5 % 3],
                duration_ms=number * 10,
            )
    refresh(database)
    assert_exact(database)
    return database


def test_counts_that_add_up_pass(counted_objectives: Connection) -> None:
    assert rows(counted_objectives, CHECK, AS_OF) == [
        (True, "good and total of the last 7 days add up to their events")
    ]
    add_event(counted_objectives, "workflow_run", "2026-03-11T11:00Z", outcome="failure", workflow="a")
    assert scalar(counted_objectives, CHECK, AS_OF) is True


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_each_damage_is_named_with_the_rebuild_that_repairs_it(
    counted_objectives: Connection, damage: LiteralString
) -> None:
    days: LiteralString = (
        "select org_id, sli_id, day_start, good, total from ops.sli_days where total <> 0 order by 1, 2, 3"
    )
    before = (
        states(counted_objectives),
        rows(counted_objectives, days),
        rows(counted_objectives, "select * from ops.sli_counts order by 1, 2, 3"),
    )
    counted_objectives.execute(damage, {"nil": NIL})
    ((passed, detail),) = rows(counted_objectives, CHECK, AS_OF)
    assert not passed
    named = re.search(r"opskpi rebuild --since (\S+) --until (\S+)$", detail)
    assert named, detail
    rebuild(counted_objectives, *named.groups())
    assert rows(counted_objectives, CHECK, AS_OF)[0][0]
    after = (
        states(counted_objectives),
        rows(counted_objectives, days),
        rows(counted_objectives, "select * from ops.sli_counts order by 1, 2, 3"),
    )
    assert after == before
    assert_exact(counted_objectives)


def test_days_of_which_retention_removed_events_are_not_compared(counted_objectives: Connection) -> None:
    counted_objectives.execute("delete from telemetry_events where event_timestamp < '2026-03-11Z'")
    assert not scalar(counted_objectives, CHECK, AS_OF)
    add_row(counted_objectives, "removed_events", event_type="workflow_run", removed_until=instant("2026-03-11T00:00Z"))
    assert scalar(counted_objectives, CHECK, AS_OF)


def test_a_team_that_changed_is_no_damage(counted_objectives: Connection) -> None:
    counted_objectives.execute("update ops.agents set team = 'blue', updated_at = '2026-03-11Z'")
    assert scalar(counted_objectives, CHECK, AS_OF)

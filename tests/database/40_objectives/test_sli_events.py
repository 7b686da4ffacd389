"""An objective counts what its filters say: labels of total, of good or of bad, for every kind of event."""

import random
from datetime import timedelta
from typing import Any, LiteralString
from uuid import UUID

import pytest

from support.events import (
    NIL,
    Connection,
    add_event,
    add_events,
    add_row,
    add_slo,
    evaluate,
    instant,
    rebuild,
    refresh,
    rows,
    scalar,
    states,
)
from support.oracle import assert_exact

pytestmark = pytest.mark.database

AT, LATER = "2026-03-10T12:00Z", "2026-03-10T13:00Z"
RELEASE = {"workflow": "release"}
ALICE, BOB = UUID("11111111-1111-4111-8111-111111111111"), UUID("22222222-2222-4222-8222-222222222222")
COUNTS: LiteralString = "select good, total from ops.slo_counts where slo_name = %s order by bucket_start"


def good_and_total(connection: Connection, name: str = "mine") -> list[tuple[int, int]]:
    return rows(connection, COUNTS, name)


def test_a_nightly_job_that_fails_breaches_no_objective_of_releases(database: Connection) -> None:
    add_slo(database, "releases", event_type="workflow_run", target="0.99", total=RELEASE)
    add_slo(database, "runs", event_type="workflow_run", target="0.99")
    add_events(database, 200, "workflow_run", AT, outcome="success", workflow="release")
    add_events(database, 40, "workflow_run", AT, outcome="failure", workflow="nightly-fuzz")
    refresh(database)
    assert evaluate(database, "releases", "status", "sli", "total", as_of=LATER) == ("ok", 1, 200)
    assert evaluate(database, "runs", "status", "total", as_of=LATER) == ("breached", 240)


@pytest.mark.parametrize(
    ("objective", "labels", "counted"),
    [
        ("error_rate", {"total": {"workflow": ["a", "b"]}}, (3, 5)),
        ("error_rate", {"total": {"workflow": ["a", "b"]}, "good": {"workflow": "a"}}, (2, 5)),
        ("error_rate", {"bad": {"workflow": "a"}}, (6, 7)),
        ("latency", {"total": {"workflow": "b"}, "threshold_ms": 100}, (1, 1)),
        ("latency", {"bad": {"workflow": "c"}, "threshold_ms": 100}, (3, 4)),
        ("availability", {"total": {"workflow": "a"}}, (2, 2)),
        ("availability", {"total": {"workflow": "b"}}, (1, 2)),
        ("events", {"good": {"outcome": ["success", "cancelled"]}}, (5, 8)),
        ("events", {"bad": {"outcome": ["failure"]}}, (5, 8)),
        ("events", {"total": {"workflow": "c"}, "bad": {"outcome": "failure"}}, (2, 3)),
        ("measured", {"at_most": 50}, (4, 8)),
        ("measured", {"at_most": 50, "total": {"workflow": "a"}}, (2, 3)),
        ("measured", {"at_most": 50, "bad": {"workflow": "a"}}, (7, 8)),
    ],
)
def test_each_way_of_counting_takes_labels(
    database: Connection, objective: str, labels: dict[str, Any], counted: tuple[int, int]
) -> None:
    add_slo(database, "mine", objective=objective, event_type="workflow_run", **labels)
    for workflow, outcome, duration, tag in (
        ("a", "failure", 60, "v1"),
        ("a", "success", 50, "v1"),
        ("a", "success", 10, "v2"),
        ("b", "success", 10, "v2"),
        ("b", "failure", 50, "v1"),
        ("c", "success", 100, "v3"),
        ("c", "failure", 51, "v3"),
        ("c", "cancelled", 51, "v4"),
    ):
        add_event(database, "workflow_run", AT, workflow=workflow, outcome=outcome, duration_ms=duration, tag=tag)
    refresh(database)
    assert good_and_total(database) == [counted]
    assert_exact(database)


def test_a_unit_of_work_is_judged_among_the_attempts_that_the_filter_admits(database: Connection) -> None:
    add_slo(database, "mine", objective="availability", event_type="workflow_run", total=RELEASE)
    add_slo(database, "all", objective="availability", event_type="workflow_run")
    add_event(database, "workflow_run", AT, outcome="failure", workflow="release", tag="v1")
    add_event(database, "workflow_run", "2026-03-10T11:00Z", outcome="success", workflow="check", tag="v1")
    refresh(database)
    assert (good_and_total(database), good_and_total(database, "all")) == ([(0, 1)], [(1, 1)])
    add_event(database, "workflow_run", LATER, outcome="success", workflow="release", tag="v1")
    refresh(database)
    assert good_and_total(database) == [(1, 1)]
    assert_exact(database)


def test_the_order_of_keys_and_values_makes_no_version(database: Connection) -> None:
    add_slo(
        database,
        "mine",
        event_type="hook_execution",
        objective="events",
        good={"result": ["blocked", "allowed"], "hook_type": "x"},
    )
    add_slo(
        database,
        "same",
        event_type="hook_execution",
        objective="events",
        good={"hook_type": ["x"], "result": ["allowed", "blocked", "allowed"]},
    )
    database.execute(
        """update ops.slos set good_labels = '{"result": ["allowed", "blocked"], "hook_type": ["x"]}' where slo_name = 'mine'"""
    )
    assert rows(
        database, "select count(*), count(distinct sli_id) from ops.slo_versions where slo_name in ('mine', 'same')"
    ) == [(2, 1)]


def test_labels_that_total_settles_already_are_left_out_of_good(database: Connection) -> None:
    add_slo(database, "mine", event_type="workflow_run", total=RELEASE, good={"workflow": ["release", "hotfix"]})
    add_slo(database, "same", event_type="workflow_run", total={"workflow": ["release"]}, bad={"workflow": "release"})
    assert (
        rows(database, "select total_labels, good_labels, bad_labels from ops.slos where slo_name in ('mine', 'same')")
        == [({"workflow": ["release"]}, {}, None)] * 2
    )


def test_an_event_counts_for_the_team_that_its_agent_has_when_it_is_counted(database: Connection) -> None:
    add_slo(database, "mine", event_type="workflow_run", total={"team": "payments"})
    add_row(database, "agents", org_id=NIL, agent_id=ALICE, team="payments")
    add_event(database, "workflow_run", AT, outcome="failure", workflow="a", agent_id=ALICE)
    add_event(database, "workflow_run", AT, outcome="failure", workflow="a", agent_id=BOB)
    refresh(database)
    scalar(database, "select ops.assign_team(%s, %s, 'search')", NIL, ALICE)
    scalar(database, "select ops.assign_team(%s, %s, 'payments')", NIL, BOB)
    add_event(database, "workflow_run", AT, outcome="success", workflow="a", agent_id=BOB)
    refresh(database)
    assert good_and_total(database) == [(1, 2)]
    # The account stays that of the counts, whoever is in the team by now.
    assert scalar(database, "select count(*) from ops.explain_slo('mine', '2026-03-10Z', '2026-03-11Z')") == 1
    rebuild(database, "2026-03-10T00:00Z", "2026-03-11T00:00Z")
    assert good_and_total(database) == [(1, 2)]
    assert_exact(database)


def test_an_event_on_the_limit_is_good_for_at_most_and_late_for_faster_than(database: Connection) -> None:
    add_slo(database, "fast", objective="latency", event_type="api_request", threshold_ms=100)
    add_slo(database, "mine", objective="measured", event_type="api_request", at_most=100)
    add_event(database, "api_request", AT, outcome="success", duration_ms=100)
    refresh(database)
    assert (good_and_total(database, "fast"), good_and_total(database)) == ([(0, 1)], [(1, 1)])


TOTALS: list[dict[str, Any]] = [
    {},
    {"workflow": ["a"]},
    {"workflow": ["a", "b"]},
    {"team": ["red", "blue"], "workflow": "a"},
]
PARTS: list[dict[str, Any]] = [
    {},
    {"good": {"workflow": "a"}},
    {"bad": {"workflow": ["a", "c"]}},
    {"good": {"team": "red"}},
]
GROUPS = [("workflow",), ("team",), ("team", "workflow")]
OBJECTIVES: list[dict[str, Any]] = [
    {"objective": "error_rate"},
    {"objective": "latency", "threshold_ms": 100},
    {"objective": "latency", "threshold_ms": "100.5"},
    {"objective": "measured", "at_most": 100},
    {"objective": "measured", "at_most": 5},
    {"objective": "events"},
    {"objective": "availability"},
]


def ways_of_counting() -> dict[str, dict[str, Any]]:
    """Return every way of counting with every filter that it takes."""
    found: dict[str, dict[str, Any]] = {}
    for place, objective in enumerate(OBJECTIVES):
        for t, total in enumerate(TOTALS):
            for p, part in enumerate(PARTS):
                if (objective["objective"] == "availability" and part) or (
                    objective["objective"] == "events" and not part
                ):
                    continue
                if (
                    part == {"good": {"workflow": "a"}}
                    and total.get("workflow") in ("a", ["a"])
                    and objective["objective"] == "events"
                ):
                    continue
                if objective["objective"] == "events" and "bad" in part and total.get("workflow") in ("a", ["a"]):
                    continue
                found[f"o{place}_t{t}_p{p}"] = objective | {"total": total} | part
                group_by = GROUPS[(place + t + p) % len(GROUPS)]
                if not {*part.get("good", {}), *part.get("bad", {})} & {*group_by}:
                    found[f"o{place}_t{t}_p{p}_grouped"] = found[f"o{place}_t{t}_p{p}"] | {"group_by": group_by}
    return found


@pytest.mark.parametrize("seed", range(3))
def test_random_events_in_any_order_and_any_schedule_give_what_each_filter_says(
    database: Connection, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same every time
    wanted = list(ways_of_counting().items())
    chance.shuffle(wanted)
    for agent, team in ((ALICE, "red"), (BOB, "blue")):
        add_row(database, "agents", org_id=NIL, agent_id=agent, team=team)
    while wanted:
        for name, promise in wanted[-20:]:
            add_slo(database, name, event_type="workflow_run", **promise)
        del wanted[-20:]
        for _ in range(chance.randrange(5, 30)):
            add_event(
                database,
                "workflow_run",
                (instant("2026-03-09T22:00Z") + timedelta(minutes=chance.randrange(300))).isoformat(),
                org_id=chance.choice([NIL, NIL, UUID(int=7)]),
                agent_id=chance.choice([ALICE, BOB, None]),
                tag=chance.choice([None, "v1", "v2", "v3"]),
                run_id=chance.choice([None, 1, 2]),
                outcome=chance.choice(["success", "success", "failure", "cancelled", 7]),
                workflow=chance.choice(["a", "b", "c", "d", None]),
                duration_ms=chance.choice([5, 5.5, 99.999, 100, 100.2, 101, 0, "unknown", None]),
            )
            if chance.random() < 0.3:
                refresh(database, max_ids=chance.choice([1, 3, 1000]))
        if chance.random() < 0.5:
            scalar(database, "select ops.fill_slis('2026-03-10T00:03Z')::text")
    while refresh(database, max_ids=7).state == "more":
        pass
    assert_exact(database)
    before = states(database)
    rebuild(database, "2026-03-09T21:00Z", "2026-03-10T12:00Z")
    assert states(database) == before
    burnt = rows(
        database,
        "select bucket.slo_name, bucket.org_id, bucket.slo_group::text,"
        " (sum(bucket.total) - sum(bucket.good)) / (sum(bucket.total) * 0.1),"
        " (select coalesce(sum(lost.cost), 0)"
        "  from ops.explain_slo(bucket.slo_name, '2026-03-09Z', '2026-03-11Z', bucket.org_id, bucket.slo_group) as lost)"
        " from ops.slo_counts as bucket where bucket.slo_name like 'o%%' and abs(hashtext(bucket.slo_name)) %% 3 = %s"
        " group by 1, 2, bucket.slo_group",
        seed,
    )
    assert len(burnt) > 100
    assert [found for found in burnt if round(found[3], 12) != round(found[4], 12)] == []
    shown = (
        "select slo_name, org_id, slo_group::text, (select sum(found.cost)"
        "  from ops.newest_burners(slo_name, '2026-03-09Z', '2026-03-11Z', 1000, org_id, slo_group) as found)"
        " from ops.slo_counts where slo_name like 'o%%' and abs(hashtext(slo_name)) %% 3 = %s group by 1, 2, slo_group"
    )
    newest = {tuple(key): cost or 0 for *key, cost in rows(database, shown, seed)}
    assert [found for found in burnt if round(newest[tuple(found[:3])], 12) != round(found[3], 12)] == []

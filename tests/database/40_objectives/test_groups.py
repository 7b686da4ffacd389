"""An objective that is grouped by labels is one for each of their values."""

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
    rebuild,
    refresh,
    refused,
    rows,
    scalar,
    states,
)
from support.fixtures import ActingAs
from support.oracle import assert_exact

pytestmark = pytest.mark.database

AT, LATER, NEXT_DAY = "2026-03-10T12:00Z", "2026-03-10T13:00Z", "2026-03-11T12:00Z"
ORG_A, ORG_B = UUID(int=0xA), UUID(int=0xB)
OVERFLOW = {"overflow": True}
STANDING: LiteralString = "select slo_group, status, good, total from ops.evaluate_slos(%s, true, array['mine']) where org_id = %s order by slo_group"


def workflow(name: str | None) -> dict[str, Any]:
    return {"workflow": name}


def add_group_attempts(
    connection: Connection, name: str | None, good: int, bad: int, *, at: str = AT, org: UUID = NIL
) -> None:
    for outcome, count in (("success", good), ("failure", bad)):
        add_events(connection, count, "workflow_run", at, outcome=outcome, workflow=name, org_id=org)


def groups_standing(connection: Connection, as_of: str = LATER, org: UUID = NIL) -> list[tuple[Any, ...]]:
    connection.execute("update ops.job_runs set finished_at = %s", [as_of])
    return rows(connection, STANDING, as_of, org)


def test_a_nightly_job_that_fails_breaches_its_own_group_and_no_other(database: Connection) -> None:
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"])
    add_group_attempts(database, "release", 99, 1)
    add_group_attempts(database, "nightly", 0, 20)
    add_group_attempts(database, None, 20, 0)
    # Events that are not counted yet count all the same, in groups that nobody has seen before.
    expected = [
        (workflow(None), "ok", 20, 20),
        (workflow("nightly"), "breached", 0, 20),
        (workflow("release"), "ok", 99, 100),
    ]
    database.execute("select ops.refresh(max_ids => 1)")
    assert groups_standing(database) == expected
    refresh(database)
    assert groups_standing(database) == expected
    assert_exact(database)


def test_an_objective_whose_groups_nobody_has_seen_yet_is_listed_without_data(database: Connection) -> None:
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"], total={"workflow": "release"})
    add_group_attempts(database, "nightly", 1, 0)
    refresh(database)
    assert groups_standing(database) == [({}, "no_data", 0, 0)]


def test_a_group_that_ends_becomes_no_data(database: Connection) -> None:
    add_slo(
        database, "mine", event_type="workflow_run", group_by=["workflow"], expected_interval="1 hour", window="7 days"
    )
    add_group_attempts(database, "merged", 0, 20)
    add_group_attempts(database, "release", 20, 0, at=NEXT_DAY)
    refresh(database)
    assert groups_standing(database) == [
        (workflow("merged"), "breached", 0, 20),
        (workflow("release"), "no_data", 0, 0),
    ]
    assert groups_standing(database, NEXT_DAY) == [
        (workflow("merged"), "no_data", 0, 20),
        (workflow("release"), "ok", 20, 20),
    ]
    assert groups_standing(database, "2026-03-30T12:00Z")[0] == (workflow("merged"), "no_data", 0, 0)


def test_two_keys_make_a_group_of_each_pair(database: Connection) -> None:
    add_row(database, "agents", org_id=NIL, agent_id=ORG_A, team="red")
    add_slo(
        database, "mine", event_type="workflow_run", objective="availability", group_by=["workflow", "team", "team"]
    )
    for name, agent, outcome in (("a", ORG_A, "failure"), ("a", None, "success"), ("b", ORG_A, "success")):
        add_event(database, "workflow_run", AT, workflow=name, outcome=outcome, agent_id=agent, tag="v1")
    refresh(database)
    assert groups_standing(database) == [
        ({"team": None, "workflow": "a"}, "insufficient", 1, 1),
        ({"team": "red", "workflow": "a"}, "insufficient", 0, 1),
        ({"team": "red", "workflow": "b"}, "insufficient", 1, 1),
    ]
    assert rows(database, "select group_by from ops.slos where slo_name = 'mine'") == [(["team", "workflow"],)]
    assert_exact(database)


@pytest.mark.parametrize("objective", ["error_rate", "availability"])
@pytest.mark.parametrize("max_ids", [100, 700, 10_000])
def test_beyond_a_thousand_groups_the_rest_is_counted_together_and_nothing_is_dropped(
    database: Connection, objective: str, max_ids: int
) -> None:
    add_slo(database, "mine", event_type="workflow_run", objective=objective, group_by=["workflow"])
    add_slo(database, "all", event_type="workflow_run", objective=objective)
    database.execute(
        "insert into public.telemetry_events (event_type, event_timestamp, run_id, metadata)"
        " select 'workflow_run', '2026-03-10T12:00Z'::timestamptz - n * interval '1 minute', n,"
        " jsonb_build_object('workflow', 'w' || n % 1003, 'outcome', case n % 2 when 0 then 'success' else 'failure' end)"
        " from generate_series(1, 2500) as n order by n"
    )
    while refresh(database, max_ids=max_ids).state == "more":
        pass
    ((others, good, total, known),) = rows(
        database,
        "select count(*) filter (where slo_group <> %s), sum(good), sum(total), max(total) filter (where slo_group = %s)"
        " from ops.slo_counts where slo_name = 'mine'",
        *("{}", '{"overflow": true}'),
    )
    assert (good, total) == (1250, 2500)
    groups = rows(database, "select slo_group from ops.sli_groups where slo_group <> '{\"overflow\": true}'")
    # The first to arrive have a group of their own, whatever the schedule.
    assert {group["workflow"] for (group,) in groups} == {f"w{n}" for n in range(1, 1001)}
    assert others
    assert known
    overflowing = [found for found in groups_standing(database) if found[0] == OVERFLOW]
    assert overflowing == [(OVERFLOW, "breached", 3, 6)]
    before = states(database)
    rebuild(database, "2026-03-08T00:00Z", "2026-03-11T00:00Z")
    assert states(database) == before
    lost = "select count(*) from ops.explain_slo('mine', '2026-03-08Z', '2026-03-11Z', null, '{\"overflow\": true}')"
    assert scalar(database, lost) == 3
    # A history that is filled later, in stretches, has as many.
    add_slo(
        database,
        "late",
        event_type="workflow_run",
        objective=objective,
        group_by=["workflow"],
        total={"workflow": [f"w{n}" for n in range(1003)]},
    )
    for until in ("2026-03-09T00:00Z", "2026-03-10T07:00Z", "infinity"):
        database.execute("select ops.fill_slis(%s)", [until])
    assert rows(
        database, "select sum(good), sum(total), count(distinct slo_group) from ops.slo_counts where slo_name = 'late'"
    ) == [(1250, 2500, 1001)]


def test_history_and_burn_down_are_each_groups_own(database: Connection) -> None:
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"])
    day = scalar(database, "select date_trunc('day', now() - interval '2 days')")
    for name, good, bad in (("release", 9, 1), ("nightly", 0, 5)):
        add_group_attempts(database, name, good, bad, at=day)
    refresh(database)
    shown = "select slo_group, day_start, good, total from {} where slo_name = 'mine' order by slo_group"
    expected = [(workflow("nightly"), day, 0, 5), (workflow("release"), day, 9, 10)]
    assert rows(database, shown.replace("{}", "public.v_ops_slo_history")) == expected  # pyright: ignore[reportArgumentType]
    assert rows(database, shown.replace("{}", "public.v_ops_error_budget_burndown")) == expected  # pyright: ignore[reportArgumentType]
    budgets = "select slo_group, budget_left from public.v_ops_error_budget_burndown where slo_name = 'mine' order by slo_group"
    assert rows(database, budgets) == [(workflow("nightly"), -9), (workflow("release"), 0)]
    rates = rows(
        database,
        "select slo_group, window_name, burn_rate from ops.slo_burn_rates(now()) where slo_name = 'mine' and window_name = '3d' order by slo_group",
    )
    assert rates == [(workflow("nightly"), "3d", 10), (workflow("release"), "3d", 1)]


def test_an_exclusion_of_one_group_leaves_the_others_alone_and_counts_once_where_it_overlaps(
    database: Connection,
) -> None:
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"])
    for at in ("2026-03-10T10:00Z", "2026-03-10T11:00Z", AT):
        for name in ("release", "nightly"):
            add_group_attempts(database, name, 10, 10, at=at)
    refresh(database)

    def exclude(since: str, until: str, group: str) -> None:
        database.execute(
            "select ops.exclude_from_slo('mine', %s, %s, 'maintenance', 'me', slo_group => %s)", [since, until, group]
        )

    exclude("2026-03-10T10:00Z", "2026-03-10T11:30Z", '{"workflow": "nightly"}')
    assert [found[2:] for found in groups_standing(database)] == [(10, 20), (30, 60)]
    exclude("2026-03-10T10:00Z", "2026-03-10T10:30Z", "{}")
    assert [found[2:] for found in groups_standing(database)] == [(10, 20), (20, 40)]
    exclude("2026-03-10T11:55Z", "2026-03-10T12:30Z", '{"workflow": "release"}')
    assert [found[2:] for found in groups_standing(database)] == [(10, 20), (10, 20)]
    explained = "select slo_group, count(*), sum(cost) from ops.explain_slo('mine', '2026-03-10Z', '2026-03-11Z') group by 1 order by 1"
    assert rows(database, explained) == [(workflow("nightly"), 10, 5), (workflow("release"), 10, 5)]


def test_nobody_sees_the_groups_of_another_org(database: Connection, acting_as: ActingAs) -> None:
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"])
    add_group_attempts(database, "release", 10, 0, org=ORG_A)
    add_group_attempts(database, "secret", 0, 10, org=ORG_B)
    refresh(database)
    add_group_attempts(database, "newer secret", 0, 10, org=ORG_B)
    with acting_as(database, "authenticated", org=str(ORG_A)) as caller:
        shown = rows(caller, "select slo_group from public.v_ops_slo_status where slo_name = 'mine'")
        assert shown == [(workflow("release"),)]
        assert rows(caller, "select slo_group from ops.sli_groups") == [(workflow("release"),)]
        assert rows(caller, "select count(*) from ops.explain_slo('mine', '2026-03-10Z', '2026-03-11Z')") == [(0,)]
        assert (
            rows(caller, "select distinct slo_group from ops.slo_burn_rates(%s) where slo_name = 'mine'", LATER)
            == shown
        )


@pytest.mark.parametrize(
    ("promise", "said"),
    [
        ({"group_by": ["branch"]}, "no label branch"),
        ({"group_by": ["outcome"]}, "all of a group by outcome would be good"),
        ({"group_by": ["workflow"], "bad": {"workflow": "nightly"}}, "all of a group by workflow would be good"),
    ],
)
def test_groups_that_say_nothing_are_refused(database: Connection, promise: dict[str, Any], said: str) -> None:
    with refused() as refusal:
        add_slo(database, "mine", event_type="workflow_run", **promise)
    assert said in str(refusal.value)


def test_three_keys_are_too_many(database: Connection) -> None:
    with pytest.raises(Exception, match="group_by_is_one_or_two_keys"):
        add_slo(
            database,
            "mine",
            event_type="workflow_run",
            objective="measured",
            at_most=5,
            group_by=["outcome", "team", "workflow"],
        )


@pytest.mark.parametrize("group", ['{"workflow": "unheard"}', '{"team": "red"}', "{}"])
def test_a_group_that_nobody_counted_is_not_explained(database: Connection, group: str) -> None:
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"])
    add_group_attempts(database, "release", 0, 1)
    refresh(database)
    with refused():
        rows(database, "select * from ops.explain_slo('mine', '2026-03-10Z', '2026-03-11Z', null, %s)", group)


@pytest.mark.parametrize(
    ("slo", "group"),
    [("mine", '{"team": "red"}'), ("mine", '"x"'), ("plain", '{"workflow": "a"}'), ("plain", '{"overflow": true}')],
)
def test_what_is_no_group_of_the_objective_is_not_excluded(database: Connection, slo: str, group: str) -> None:
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"])
    add_slo(database, "plain", event_type="workflow_run")
    with refused():
        rows(
            database,
            "select ops.exclude_from_slo(%s, '2026-03-10Z', '2026-03-11Z', 'why', 'me', slo_group => %s)",
            slo,
            group,
        )


def test_a_kind_of_event_keeps_the_label_by_which_an_objective_is_grouped(database: Connection) -> None:
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"])
    with refused():
        database.execute("update ops.event_types set label_keys = '{outcome}' where event_type = 'workflow_run'")


@pytest.mark.parametrize(
    ("before", "after"), [("{}", "{workflow}"), ("{workflow}", "{}"), ("{workflow}", "{team,workflow}")]
)
def test_other_groups_count_the_whole_running_window(database: Connection, before: str, after: str) -> None:
    add_slo(database, "mine", event_type="workflow_run")
    database.execute("update ops.slos set group_by = %s, valid_from = '-infinity' where slo_name = 'mine'", [before])
    add_group_attempts(database, "release", 100, 15)
    refresh(database)
    database.execute("update ops.slos set group_by = %s where slo_name = 'mine'", [after])
    as_of = scalar(database, "select now() + interval '1 minute'")
    database.execute("update ops.slos set rolling_window = '9 years' where slo_name = 'mine'")
    refresh(database)
    assert [(status, good, total) for _, status, good, total in groups_standing(database, as_of)] == [
        ("breached", 100, 115)
    ]


def test_an_objective_with_groups_but_without_data_has_nothing_to_explain(database: Connection) -> None:
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"])
    assert rows(database, "select * from ops.explain_slo('mine', '2026-03-10Z', '2026-03-11Z')") == []


def test_a_weekly_summary_lists_the_groups_that_lived_then(database: Connection) -> None:
    add_slo(database, "mine", event_type="workflow_run", group_by=["workflow"], window="7 days")
    for name, at in (("merged", "2026-01-10T12:00Z"), ("release", AT), ("later", "2026-03-20T12:00Z")):
        add_group_attempts(database, name, 20, 0, at=at)
    refresh(database)
    listed = (
        "select jsonb_path_query_array(ops.summary_objectives(%s, %s), '$.list[*] ? (@.objective == \"mine\").group')"
    )
    assert scalar(database, listed, NIL, NEXT_DAY) == ["workflow=release"]

"""What an org hears of its week: the facts, and that each channel is told of a week once."""

from datetime import timedelta
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import (
    NIL,
    Connection,
    add_channel,
    add_event,
    add_events,
    add_row,
    add_slo,
    instant,
    refresh,
    refused,
    rows,
    run_jobs,
    scalar,
)
from support.fixtures import ActingAs, Connect

pytestmark = pytest.mark.database

# Monday to Monday: 2026-W11, which is over on the morning after it.
START, END = "2026-03-09T00:00:00Z", "2026-03-16T00:00:00Z"
MORNING = "2026-03-16T07:00:00Z"
ONE, TWO = UUID(int=1), UUID(int=2)


def queue_summary(
    connection: Connection,
    *channels: str,
    org: UUID | None = None,
    week: str | None = None,
    again: bool = False,
    as_of: str = MORNING,
) -> list[tuple[str, str, int | None, bool]]:
    """Write summaries, and return channel, week, message and whether it is new."""
    query: LiteralString = "select * from ops.queue_summary(%s::text[], %s, %s, %s, %s)"
    return rows(connection, query, list(channels or ["ops"]), org, week, again, as_of)


def newest_message(connection: Connection) -> dict[str, Any]:
    """Return the newest message of the outbox."""
    return scalar(connection, "select message from ops.alert_deliveries order by delivery_id desc limit 1")


def newest_kpi(connection: Connection, metric: str) -> dict[str, Any]:
    """Return what the newest message says of a KPI, but for its description."""
    [fact] = [fact for fact in newest_message(connection)["kpis"] if fact["metric"] == metric]
    return {name: value for name, value in fact.items() if name not in ("metric", "description")}


def summaries_queued(connection: Connection) -> list[tuple[str, str, str, str]]:
    return rows(
        connection,
        "select channel_name, group_key, status, state from ops.alert_deliveries order by delivery_id",
    )


@pytest.fixture
def week_of_the_shop(database: Connection) -> Connection:
    """Have two channels, and hooks that ran in the week, in the one before and after it."""
    add_channel(database, "ops")
    add_channel(database, "mail", kind="email")
    for result, at, count in (
        ("allowed", "2026-03-04T12:00:00Z", 9),
        ("blocked", "2026-03-04T12:00:00Z", 1),
        ("allowed", START, 13),
        ("blocked", "2026-03-12T12:00:00Z", 5),
        ("overridden", "2026-03-15T23:59:59Z", 2),
        ("blocked", END, 100),
    ):
        add_events(database, count, "hook_execution", at, hook_type="pre-commit", result=result, duration_ms=40)
    return database


# What is said


def test_a_kpi_is_told_with_unit_samples_and_change_to_the_week_before(week_of_the_shop):
    queue_summary(week_of_the_shop)
    assert newest_kpi(week_of_the_shop, "hook_block_rate") == {
        "unit": "percent",
        "value": "25",
        "samples": 20,
        "previous": "10",
        "previous_samples": 10,
        "change": "15",
        "change_unit": "points",
    }
    assert newest_kpi(week_of_the_shop, "hook_executions_total") == {
        "unit": "count",
        "value": "20",
        "samples": 20,
        "previous": "10",
        "previous_samples": 10,
        "change": "100",
        "change_unit": "percent",
    }


def test_the_figures_are_those_of_the_week_as_the_kpis_have_them(week_of_the_shop):
    refresh(week_of_the_shop)
    queue_summary(week_of_the_shop)
    stored = rows(
        week_of_the_shop,
        "select metric_name, ops.readable(metric_value), (metadata ->> 'sample_count')::integer from public.kpi_aggregations"
        " where aggregation_period = 'week' and labels = '{}' and period_start = %s order by 1",
        START,
    )
    assert len(stored) >= 5
    assert [
        (fact["metric"], fact["value"], fact["samples"]) for fact in newest_message(week_of_the_shop)["kpis"]
    ] == stored


def test_events_that_no_job_counted_yet_are_in_it_and_change_nothing(week_of_the_shop):
    queue_summary(week_of_the_shop)
    before = newest_message(week_of_the_shop)
    refresh(week_of_the_shop)
    queue_summary(week_of_the_shop, again=True)
    assert newest_message(week_of_the_shop)["kpis"] == before["kpis"]


def test_hooks_have_their_block_and_override_rate_apart(week_of_the_shop):
    queue_summary(week_of_the_shop)
    hooks = newest_message(week_of_the_shop)["hooks"]
    assert {name: (fact["value"], fact["samples"]) for name, fact in hooks.items()} == {
        "executions": ("20", 20),
        "block_rate": ("25", 20),
        "override_rate": ("10", 20),
    }


def test_a_kpi_without_a_sample_this_week_shows_what_there_was_before(week_of_the_shop):
    add_event(
        week_of_the_shop, "workflow_run", "2026-03-04T12:00:00Z", outcome="success", workflow="ci", duration_ms=1000
    )
    queue_summary(week_of_the_shop)
    assert newest_kpi(week_of_the_shop, "workflow_run_avg_duration_ms") == {
        "unit": "ms",
        "value": None,
        "samples": 0,
        "previous": "1000",
        "previous_samples": 1,
        "change": None,
        "change_unit": "percent",
    }


def test_objectives_stand_as_they_did_when_the_week_ended(week_of_the_shop):
    add_slo(week_of_the_shop, "deploys")
    add_slo(week_of_the_shop, "releases", event_type="release")
    add_events(week_of_the_shop, 90, "deploy", "2026-03-12T12:00:00Z", outcome="success")
    add_events(week_of_the_shop, 10, "deploy", "2026-03-15T23:59:59Z", outcome="failure")
    # The first five minutes of the next week are no part of this one.
    add_events(week_of_the_shop, 100, "deploy", END, outcome="failure")
    run_jobs(week_of_the_shop, END)
    queue_summary(week_of_the_shop)
    objectives = newest_message(week_of_the_shop)["objectives"]
    # Those that ship have no data.
    assert objectives["by_status"] == {"at_risk": 1, "no_data": 10}
    assert next(fact["objective"] for fact in objectives["list"]) == "deploys"
    assert [fact for fact in objectives["list"] if fact["service"] == "shop"] == [
        {
            "objective": "deploys",
            "group": None,
            "service": "shop",
            "status": "at_risk",
            "target": "0.9",
            "sli": "0.9",
            "good": 90,
            "total": 100,
            "budget_left": "0",
        },
        {
            "objective": "releases",
            "group": None,
            "service": "shop",
            "status": "no_data",
            "target": "0.9",
            "sli": None,
            "good": 0,
            "total": 0,
            "budget_left": None,
        },
    ]


def add_alert_in_the_week(connection: Connection, firing_since: str | None, org: UUID = NIL, **columns: object) -> None:
    alert = {"rule_name": "overrides", "kind": "kpi_threshold", "severity": "ticket", "subject": "hook_override_rate"}
    alert |= {"state": "firing" if firing_since else "pending", "pending_since": firing_since or START}
    add_row(
        connection,
        "alerts",
        **{"org_id": org, "firing_since": firing_since, "evaluated_at": END, "channels": [], "notify_resolved": True},
        **{"description": "", "detail": Jsonb({})} | alert | columns,
    )


def test_alerts_that_began_to_fire_in_the_week_are_told_the_most_urgent_first(week_of_the_shop):
    add_alert_in_the_week(week_of_the_shop, START, subject="first")
    add_alert_in_the_week(
        week_of_the_shop, "2026-03-15T23:59:59Z", subject="last", severity="page", state="resolved", resolved_at=END
    )
    add_alert_in_the_week(week_of_the_shop, "2026-03-08T23:59:59Z", subject="before")
    add_alert_in_the_week(week_of_the_shop, END, subject="after")
    add_alert_in_the_week(week_of_the_shop, None, subject="never fired")
    add_alert_in_the_week(week_of_the_shop, START, org=ONE, subject="another org's")
    queue_summary(week_of_the_shop)
    alerts = newest_message(week_of_the_shop)["alerts"]
    assert (alerts["fired"], alerts["by_severity"]) == (2, {"page": 1, "ticket": 1})
    assert [fact["subject"] for fact in alerts["list"]] == ["last", "first"]
    numbers = [fact["alert_id"] for fact in alerts["list"]]
    assert rows(week_of_the_shop, "select alert_ids from ops.alert_deliveries") == [(numbers,)]


def test_of_many_alerts_a_hundred_are_told_and_all_are_counted(week_of_the_shop):
    for number in range(120):
        add_alert_in_the_week(
            week_of_the_shop, START, subject=str(number), severity="page" if number == 0 else "notice"
        )
    queue_summary(week_of_the_shop)
    alerts = newest_message(week_of_the_shop)["alerts"]
    assert (alerts["fired"], len(alerts["list"]), alerts["list"][0]["severity"]) == (120, 100, "page")


def test_a_message_names_org_week_zone_and_link(week_of_the_shop):
    week_of_the_shop.execute(
        "insert into ops.settings (name, value, description) values ('dashboard_url', 'https://kpi.example', '')"
    )
    queue_summary(week_of_the_shop)
    said = newest_message(week_of_the_shop)
    assert {name: said[name] for name in ("kind", "status", "group", "org_id", "week", "zone", "link")} == {
        "kind": "summary",
        "status": "summary",
        "group": "summary 2026-W11",
        "org_id": str(NIL),
        "week": "2026-W11",
        "zone": "UTC",
        "link": "https://kpi.example",
    }
    assert (instant(said["since"]), instant(said["until"])) == (instant(START), instant(END))
    assert (said["firing"], said["resolved"]) == ([], [])


def test_an_org_hears_of_itself_only(week_of_the_shop):
    add_events(
        week_of_the_shop, 3, "hook_execution", START, org_id=ONE, hook_type="pre-push", result="blocked", duration_ms=1
    )
    add_events(week_of_the_shop, 4, "artifact", START, org_id=TWO, size_bytes=7)
    queue_summary(week_of_the_shop, org=ONE)
    assert newest_kpi(week_of_the_shop, "hook_executions_total")["samples"] == 3
    assert newest_message(week_of_the_shop)["org_id"] == str(ONE)
    assert "artifact_avg_size_bytes" not in {fact["metric"] for fact in newest_message(week_of_the_shop)["kpis"]}


# Which week


@pytest.mark.parametrize(
    ("as_of", "week"),
    [
        ("2026-03-15T23:59:59Z", "2026-W10"),
        ("2026-03-16T00:00:00Z", "2026-W11"),
        ("2026-03-22T23:59:59Z", "2026-W11"),
    ],
)
def test_the_week_is_the_last_one_that_is_over(week_of_the_shop, as_of, week):
    assert queue_summary(week_of_the_shop, as_of=as_of) == [("ops", week, 1, True)]


def test_weeks_begin_on_the_clocks_of_the_settings(week_of_the_shop):
    week_of_the_shop.execute("update ops.settings set value = 'Europe/Berlin' where name = 'time_zone'")
    refresh(week_of_the_shop)
    [(_, week, _, _)] = queue_summary(week_of_the_shop, as_of="2026-03-15T23:00:00Z")
    assert week == "2026-W11"
    assert instant(newest_message(week_of_the_shop)["since"]) == instant("2026-03-08T23:00:00Z")
    # The last second of the week in UTC is the next week in Berlin.
    assert newest_kpi(week_of_the_shop, "hook_executions_total")["samples"] == 18


@pytest.mark.parametrize(
    ("week", "since", "until"),
    [
        ("2020-W53", "2020-12-28T00:00:00Z", "2021-01-04T00:00:00Z"),
        ("2021-W01", "2021-01-04T00:00:00Z", "2021-01-11T00:00:00Z"),
        ("2015-W01", "2014-12-29T00:00:00Z", "2015-01-05T00:00:00Z"),
    ],
)
def test_a_week_is_that_of_iso_8601(database, week, since, until):
    found = rows(database, "select * from ops.week_window(%s, %s)", week, MORNING)
    assert found == [(week, instant(since), instant(until))]


@pytest.mark.parametrize(
    "week", ["2021-W53", "2026-W00", "2026-W54", "2026-11", "2026-W1", "2026-w11", "0000-W10", "2026-W11 ", "", "last"]
)
def test_what_is_no_week_is_refused(week_of_the_shop, week):
    with refused():
        queue_summary(week_of_the_shop, week=week)
    assert summaries_queued(week_of_the_shop) == []


@pytest.mark.parametrize("week", ["2026-W12", "2099-W01"])
def test_a_week_that_is_not_over_is_refused(week_of_the_shop, week):
    with refused():
        queue_summary(week_of_the_shop, week=week)


# What is refused


@pytest.mark.parametrize("week", ["2026-W09", "2025-W11"])
def test_a_week_without_data_is_refused_and_may_be_asked_for_again(week_of_the_shop, week):
    with refused("OP002"):
        queue_summary(week_of_the_shop, week=week)
    assert (summaries_queued(week_of_the_shop), rows(week_of_the_shop, "select * from ops.summaries")) == ([], [])
    add_event(week_of_the_shop, "audit_complete", "2026-02-25T12:00:00Z", outcome="success")
    assert queue_summary(week_of_the_shop, week="2026-W09")[0][3] is True


def test_a_week_after_the_last_event_is_refused(week_of_the_shop):
    with refused("OP002"):
        queue_summary(week_of_the_shop, week="2026-W13", as_of="2026-04-01T00:00:00Z")


def test_an_alert_alone_is_worth_a_summary(database):
    add_channel(database, "ops")
    add_alert_in_the_week(database, START)
    assert queue_summary(database) == [("ops", "2026-W11", 1, True)]


@pytest.mark.parametrize("channels", [["nobody"], ["ops", "nobody"], ["ops", None], [""], []])
def test_a_channel_that_does_not_exist_is_refused_and_no_other_is_told(week_of_the_shop, channels):
    with refused():
        rows(week_of_the_shop, "select * from ops.queue_summary(%s::text[], as_of => %s)", channels, MORNING)
    assert summaries_queued(week_of_the_shop) == []


def test_a_channel_that_is_switched_off_is_refused(week_of_the_shop):
    week_of_the_shop.execute("update ops.alert_channels set is_enabled = false where channel_name = 'ops'")
    with refused():
        queue_summary(week_of_the_shop, "mail", "ops")
    assert summaries_queued(week_of_the_shop) == []


def test_a_channel_for_one_org_is_told_of_that_org_only(week_of_the_shop):
    week_of_the_shop.execute("update ops.alert_channels set only_org_id = %s where channel_name = 'ops'", [ONE])
    add_event(week_of_the_shop, "audit_complete", START, org_id=ONE, outcome="success")
    for org in (None, NIL, TWO):
        with refused():
            queue_summary(week_of_the_shop, org=org)
    assert queue_summary(week_of_the_shop, org=ONE)[0][3] is True


# Once


def test_a_week_is_told_once_however_often_it_is_asked_for(week_of_the_shop):
    assert queue_summary(week_of_the_shop, "ops", "mail") == [
        ("mail", "2026-W11", 1, True),
        ("ops", "2026-W11", 2, True),
    ]
    assert queue_summary(week_of_the_shop, "mail", "ops") == [
        ("mail", "2026-W11", 1, False),
        ("ops", "2026-W11", 2, False),
    ]
    assert queue_summary(week_of_the_shop, week="2026-W11", as_of="2026-04-01T00:00:00Z") == [
        ("ops", "2026-W11", 2, False)
    ]
    assert len(summaries_queued(week_of_the_shop)) == 2


def test_a_channel_named_twice_is_told_once(week_of_the_shop):
    assert queue_summary(week_of_the_shop, "ops", "ops") == [("ops", "2026-W11", 1, True)]


def test_a_channel_that_is_added_later_is_told_and_the_others_are_not_told_again(week_of_the_shop):
    queue_summary(week_of_the_shop, "ops")
    assert queue_summary(week_of_the_shop, "ops", "mail") == [
        ("mail", "2026-W11", 2, True),
        ("ops", "2026-W11", 1, False),
    ]


def test_each_org_channel_and_week_is_told_by_itself(week_of_the_shop):
    add_event(week_of_the_shop, "audit_complete", START, org_id=ONE, outcome="success")
    assert [
        queue_summary(week_of_the_shop)[0][3],
        queue_summary(week_of_the_shop, org=ONE)[0][3],
        queue_summary(week_of_the_shop, week="2026-W10")[0][3],
    ] == [True] * 3
    assert summaries_queued(week_of_the_shop) == [
        ("ops", "summary 2026-W11", "summary", "queued"),
        ("ops", "summary 2026-W11", "summary", "queued"),
        ("ops", "summary 2026-W10", "summary", "queued"),
    ]


def test_a_week_that_is_asked_for_again_is_told_again(week_of_the_shop):
    queue_summary(week_of_the_shop)
    assert queue_summary(week_of_the_shop, again=True, as_of="2026-03-17T00:00:00Z") == [("ops", "2026-W11", 2, True)]
    assert queue_summary(week_of_the_shop) == [("ops", "2026-W11", 2, False)]
    assert rows(week_of_the_shop, "select week, written_at from ops.summaries") == [
        ("2026-W11", instant("2026-03-17T00:00:00Z"))
    ]


def test_a_week_is_not_told_again_once_its_message_is_gone(week_of_the_shop):
    queue_summary(week_of_the_shop)
    week_of_the_shop.execute("delete from ops.alert_deliveries")
    assert queue_summary(week_of_the_shop) == [("ops", "2026-W11", None, False)]
    assert summaries_queued(week_of_the_shop) == []


def test_two_calls_at_once_write_one_message(week_of_the_shop, connect: Connect):
    one, two = connect(autocommit=False), connect(autocommit=False)
    assert queue_summary(one) == [("ops", "2026-W11", 1, True)]
    two.execute("set local lock_timeout = '1ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        queue_summary(two)
    two.rollback()
    one.commit()
    assert queue_summary(two) == [("ops", "2026-W11", 1, False)]
    two.commit()
    assert len(summaries_queued(week_of_the_shop)) == 1


def test_a_call_that_failed_leaves_the_week_to_the_next(week_of_the_shop, connect: Connect):
    one, two = connect(autocommit=False), connect(autocommit=False)
    queue_summary(one)
    one.rollback()
    assert queue_summary(two)[0][3] is True
    two.commit()
    assert len(summaries_queued(week_of_the_shop)) == 1


# In the outbox


def claim_summaries(connection: Connection, as_of: str = MORNING) -> list[tuple[int, int]]:
    return rows(connection, "select delivery_id, attempt from ops.claim_deliveries(20, '1 minute', %s)", as_of)


def test_a_summary_is_tried_again_as_an_alert_is(week_of_the_shop):
    queue_summary(week_of_the_shop)
    assert claim_summaries(week_of_the_shop) == [(1, 1)]
    settled = scalar(week_of_the_shop, "select ops.settle_delivery(1, 1, 'retry', 'refused', as_of => %s)", MORNING)
    assert settled == "queued"
    assert claim_summaries(week_of_the_shop) == []
    assert claim_summaries(week_of_the_shop, "2026-03-16T08:00:00Z") == [(1, 2)]


def test_a_summary_waits_for_no_alert_and_holds_up_none(week_of_the_shop):
    queue_summary(week_of_the_shop)
    add_row(
        week_of_the_shop,
        "alert_deliveries",
        **{"org_id": NIL, "channel_name": "ops", "group_key": "shop", "status": "firing", "alert_ids": []},
        **{"message": Jsonb({}), "state": "queued", "created_at": MORNING, "next_attempt_at": MORNING},
    )
    assert claim_summaries(week_of_the_shop) == [(1, 1), (2, 1)]


def test_a_summary_written_again_waits_for_the_first(week_of_the_shop):
    queue_summary(week_of_the_shop)
    queue_summary(week_of_the_shop, again=True)
    assert claim_summaries(week_of_the_shop) == [(1, 1)]
    week_of_the_shop.execute("select ops.settle_delivery(1, 1, 'delivered', as_of => %s)", [MORNING])
    assert claim_summaries(week_of_the_shop) == [(2, 1)]


def test_a_dead_summary_is_superseded_by_one_of_its_week_and_by_nothing_else(week_of_the_shop):
    queue_summary(week_of_the_shop)
    queue_summary(week_of_the_shop, week="2026-W10")
    queue_summary(week_of_the_shop, again=True)
    week_of_the_shop.execute("update ops.alert_deliveries set state = 'dead'")
    # A service that is called as the group of a summary is.
    for status in ("firing", "summary", "firing"):
        add_row(
            week_of_the_shop,
            "alert_deliveries",
            **{"org_id": NIL, "channel_name": "ops", "group_key": "summary 2026-W10", "status": status},
            **{"alert_ids": [], "message": Jsonb({}), "state": "dead" if status == "firing" else "delivered"},
            **{"created_at": MORNING, "next_attempt_at": MORNING},
        )
    week_of_the_shop.execute("delete from ops.alert_deliveries where delivery_id = 5")
    assert scalar(week_of_the_shop, "select ops.retry_deliveries(as_of => %s)", MORNING) == 3
    assert [state for *_, state in summaries_queued(week_of_the_shop)] == [
        "superseded",
        "queued",
        "queued",
        "superseded",
        "queued",
    ]


def test_a_channel_that_is_switched_off_afterwards_keeps_the_summary(week_of_the_shop):
    queue_summary(week_of_the_shop)
    week_of_the_shop.execute("update ops.alert_channels set is_enabled = false")
    assert claim_summaries(week_of_the_shop) == []
    week_of_the_shop.execute("update ops.alert_channels set is_enabled = true")
    assert claim_summaries(week_of_the_shop, (instant(MORNING) + timedelta(days=3)).isoformat()) == [(1, 1)]


# Who may


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_only_the_owner_writes_summaries(week_of_the_shop, acting_as: ActingAs, role):
    with acting_as(week_of_the_shop, role, org=NIL), pytest.raises(psycopg.errors.InsufficientPrivilege):
        queue_summary(week_of_the_shop)


def test_audits_that_failed_are_all_there_for_whoever_asks_for_one_org(database):
    database.execute(
        "insert into public.slsa_audit_metrics (audit_run_id, audit_timestamp, provenance_status, validation_status, org_id)"
        " select number, %s::timestamptz + number * interval '1 minute', 'failure', 'failure',"
        " case when number > 3 then %s::uuid else %s::uuid end from generate_series(1, 150) as number",
        [START, ONE, TWO],
    )
    query: LiteralString = "select count(*) from ops.failed_audits where org_id = %s"
    assert (scalar(database, query, ONE), scalar(database, query, TWO)) == (147, 3)
    assert scalar(database, "select count(*) from public.v_ops_slsa_audit_failures") == 100

"""What the pages show is what the events say: windows, filters, what came before, and nothing of another organisation."""

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import NIL, add_audit, add_event, add_slo, evaluate, evaluate_alerts, refresh, refused, rows, scalar
from support.fixtures import ActingAs

pytestmark = pytest.mark.database

Connection = psycopg.Connection[Any]
SINCE = datetime(2026, 3, 1, tzinfo=UTC)
# A hook that was interrupted, or could not run, has decided nothing.
DECISIONS = ("allowed", "blocked", "overridden")
NOW = datetime(2026, 3, 11, 12, tzinfo=UTC)
ORG, OTHER = uuid4(), uuid4()
TEAMS = {uuid4(): "payments", uuid4(): "data", uuid4(): None}


def draw_hooks(connection: Connection, seed: int, org: UUID = NIL) -> list[dict[str, Any]]:
    """Insert 300 hook executions of twenty days, and return them."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    for agent, team in TEAMS.items():
        connection.execute("select ops.assign_team(%s, %s, %s)", [org, agent, team])
    drawn = [
        {
            "at": SINCE - timedelta(days=9) + timedelta(seconds=chance.randrange(19 * 86_400)),
            "agent": chance.choice(list(TEAMS)),
            "hook_type": chance.choice(["pre-commit", "pre-push"]),
            "result": chance.choice(["allowed", "allowed", "blocked", "overridden", "interrupted", "failed"]),
            "duration_ms": chance.randint(1, 5000),
            "pattern": chance.choice(["todo", "print", "debugger"]),
        }
        for _ in range(300)
    ]
    for event in drawn:
        add_event(
            connection, "hook_execution", event["at"], org_id=org, agent_id=event["agent"], hook_type=event["hook_type"],
            result=event["result"], duration_ms=event["duration_ms"], findings_summary={"pattern": event["pattern"]},
        )  # fmt: skip
    return drawn


def window(
    connection: Connection, period: str, since: datetime, until: datetime, **said: Any
) -> dict[tuple[str, str], Any]:
    """Return value and samples by KPI and part, and by KPI and period."""
    found = rows(
        connection,
        "select metric_name, part, period_start, value, sample_count from ops.kpi_window(period => %s, since => %s, until => %s,"
        " as_of => %s, filters => %s, only_event_type => %s, org_id => %s)",
        *(period, since, until, said.pop("as_of", NOW), Jsonb(said.pop("filters", {}))),
        *(said.pop("event_type", None), said.pop("org", None)),
    )
    return {
        (name, part if part != "period" else str(start.date())): (value, samples)
        for name, part, start, value, samples in found
    }


def expected_window(events: list[dict[str, Any]], since: datetime, until: datetime) -> dict[str, Any]:
    """Return the hook KPIs of the events in a window, in plain Python."""
    inside = [event for event in events if since <= event["at"] < until]
    if not inside:
        return {}
    count, durations = len(inside), sorted(event["duration_ms"] for event in inside)
    shares = {result: sum(event["result"] == result for event in inside) for result in ("blocked", "overridden")}
    decisions = sum(event["result"] in DECISIONS for event in inside)
    return {
        "hook_executions_total": Decimal(count),
        "hook_block_rate": round(Decimal(100 * shares["blocked"]) / decisions, 6),
        "hook_override_rate": round(Decimal(100 * shares["overridden"]) / decisions, 6),
        "hook_avg_duration_ms": round(Decimal(sum(durations)) / count, 6),
        "hook_p95_duration_ms": durations[-(-95 * count // 100) - 1],
    }


def assert_hook_kpis(
    found: dict[tuple[str, str], Any], part: str, wanted: dict[str, Any], *, with_p95: bool = True
) -> None:
    """Compare the hook KPIs of a part: all equal, the percentile within 1 %."""
    said = {name: value for (name, of), (value, _) in found.items() if of == part and name.startswith("hook_")}
    wanted = dict(wanted)
    p95 = wanted.pop("hook_p95_duration_ms", None)
    if with_p95 and p95 is not None:
        assert float(said.pop("hook_p95_duration_ms")) == pytest.approx(p95, rel=0.01)
    assert said == wanted


@pytest.mark.parametrize("seed", range(3))
def test_a_window_of_days_is_the_ratio_of_sums_over_its_events(database: Connection, seed: int) -> None:
    drawn = draw_hooks(database, seed)
    until = datetime(2026, 3, 8, tzinfo=UTC)
    behind_the_cursor = window(database, "day", SINCE, until)
    refresh(database)
    counted = window(database, "day", SINCE, until)
    assert counted == behind_the_cursor
    assert_hook_kpis(counted, "whole", expected_window(drawn, SINCE, until))
    assert_hook_kpis(counted, "settled", expected_window(drawn, SINCE, until))
    assert_hook_kpis(counted, "previous", expected_window(drawn, SINCE - timedelta(days=7), SINCE))
    for days in range(7):
        day = SINCE + timedelta(days=days)
        assert_hook_kpis(counted, str(day.date()), expected_window(drawn, day, day + timedelta(days=1)))


@pytest.mark.parametrize(
    "filters", [{"team": "payments"}, {"hook_type": "pre-push"}, {"team": "data", "hook_type": "pre-commit"}]
)
@pytest.mark.parametrize("period", ["hour", "day", "week"])
def test_a_filter_leaves_the_events_that_have_its_labels(
    database: Connection, filters: dict[str, str], period: str
) -> None:
    drawn = draw_hooks(database, 7)
    refresh(database, max_ids=200)
    kept = [
        event
        for event in drawn
        if filters.get("team", TEAMS[event["agent"]]) == TEAMS[event["agent"]]
        and filters.get("hook_type", event["hook_type"]) == event["hook_type"]
    ]
    since, until = datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 9, tzinfo=UTC)
    # Percentiles are kept by one label at a time, for days and longer: anything else has none rather than a wrong one.
    with_p95 = len(filters) == 1 and period != "hour"
    assert_hook_kpis(
        window(database, period, since, until, filters=filters),
        "whole",
        expected_window(kept, since, until),
        with_p95=with_p95,
    )


def test_what_is_still_running_is_shown_and_not_compared(database: Connection) -> None:
    add_event(database, "workflow_run", "2026-03-09T10:00Z", outcome="success", workflow="ci", duration_ms=100)
    add_event(database, "workflow_run", "2026-03-10T10:00Z", outcome="success", workflow="ci", duration_ms=200)
    add_event(database, "workflow_run", "2026-03-11T10:00Z", outcome="success", workflow="ci", duration_ms=900)
    found = window(database, "day", datetime(2026, 3, 10, tzinfo=UTC), NOW)
    durations = {part: found["workflow_run_avg_duration_ms", part] for part in ("whole", "settled", "previous")}
    assert durations == {"whole": (550, 2), "settled": (200, 1), "previous": (100, 1)}


def test_one_event_type_alone_counts_only_its_events(database: Connection) -> None:
    add_event(database, "workflow_run", "2026-03-10T10:00Z", outcome="failure", workflow="ci")
    add_event(database, "api_request", "2026-03-10T10:00Z", outcome="success", duration_ms=5)
    since = datetime(2026, 3, 10, tzinfo=UTC)
    assert window(database, "day", since, NOW)["error_rate", "whole"] == (50, 2)
    only = window(database, "day", since, NOW, event_type="workflow_run")
    assert only["error_rate", "whole"] == (100, 1)
    assert {name for name, _ in only} == {"error_rate"}


@pytest.mark.parametrize(
    ("period", "since", "until", "as_of", "start", "end", "settled", "previous"),
    [
        ("day", "2026-03-10T05:00Z", "2026-03-11T12:00Z", "2026-03-11T12:00Z", "03-10T00", "03-12T00", "03-11T00", "03-09T00"),
        ("hour", "2026-03-10T05:30Z", "2026-03-10T07:00Z", "2026-03-11T12:00Z", "03-10T05", "03-10T07", "03-10T07", "03-10T03"),
        ("week", "2026-03-10T05:00Z", "2026-03-10T07:00Z", "2026-03-10T07:00Z", "03-09T00", "03-16T00", "03-09T00", "03-09T00"),
        ("month", "2026-02-10T05:00Z", "2026-03-10T07:00Z", "2026-03-10T07:00Z", "02-01T00", "04-01T00", "03-01T00", "01-01T00"),
    ],
)  # fmt: skip
def test_a_window_is_made_of_whole_periods_and_compared_with_as_many_before(
    database: Connection,
    period: str,
    since: str,
    until: str,
    as_of: str,
    start: str,
    end: str,
    settled: str,
    previous: str,
) -> None:
    [found] = rows(
        database,
        "select window_start, window_end, settled_end, previous_start from ops.period_window(%s, %s, %s, %s)",
        *(period, since, until, as_of),
    )
    assert [f"{instant.astimezone(UTC):%m-%dT%H}" for instant in found] == [start, end, settled, previous]


def test_a_window_follows_the_calendar_where_the_clocks_change(database: Connection) -> None:
    database.execute("update ops.settings set value = 'Europe/Berlin' where name = 'time_zone'")
    [(start, settled, previous, starts)] = rows(
        database,
        "select window_start, settled_end, previous_start, starts from ops.period_window('day', '2026-03-29T00:00+01', '2026-03-31T00:00+02', '2026-04-01Z')",
    )
    assert settled - start == timedelta(hours=47)
    assert start - previous == timedelta(hours=48)
    assert [f"{instant.astimezone(UTC):%d %H}" for instant in starts] == ["28 23", "29 22"]


@pytest.mark.parametrize(
    ("period", "since", "until"),
    [
        ("fortnight", "2026-03-01Z", "2026-03-02Z"),
        ("day", "2026-03-02Z", "2026-03-02Z"),
        ("day", "-infinity", "2026-03-02Z"),
        ("hour", "2026-01-01Z", "2026-03-02Z"),
    ],
)
def test_a_window_that_cannot_be_shown_is_refused(database: Connection, period: str, since: str, until: str) -> None:
    with refused("OP001"):
        database.execute("select ops.period_window(%s, %s, %s, now())", [period, since, until])


def test_activity_patterns_and_teams_are_what_the_events_say(database: Connection) -> None:
    drawn = draw_hooks(database, 11)
    refresh(database, max_ids=150)
    until = datetime(2026, 3, 8, tzinfo=UTC)
    inside = [event for event in drawn if SINCE <= event["at"] < until]
    assert scalar(database, "select sum(events) from ops.activity('day', %s, %s)", SINCE, until) == len(inside)
    patterns = dict(rows(database, "select pattern, blocked_count from ops.top_patterns('day', %s, %s)", SINCE, until))
    blocked = [event["pattern"] for event in inside if event["result"] == "blocked"]
    assert patterns == {pattern: blocked.count(pattern) for pattern in set(blocked)}
    teams = rows(
        database,
        "select team, executions, overridden, compliance_rate from ops.team_compliance('day', %s, %s, %s) where part = 'whole' order by 1",
        *(SINCE, until, NOW),
    )
    assert teams == [
        (team, len(of_team), overridden, 100 - round(Decimal(100 * overridden) / decisions, 6))
        for team in ("data", "payments")
        for of_team in [[event for event in inside if TEAMS[event["agent"]] == team]]
        for overridden in [sum(event["result"] == "overridden" for event in of_team)]
        for decisions in [sum(event["result"] in DECISIONS for event in of_team)]
    ]


def test_burn_rates_are_those_by_which_the_status_is_judged(database: Connection) -> None:
    add_slo(database, "deploys", target="0.9")
    for minutes in (3, 20, 50, 200, 1000, 4000):
        add_event(
            database, "deploy", NOW - timedelta(minutes=minutes), outcome="failure" if minutes < 300 else "success"
        )
    refresh(database, as_of=NOW)
    query = "select window_name, burn_rate from ops.slo_burn_rates(%s) where slo_name = 'deploys'"
    found = dict(rows(database, query, NOW))
    columns = ("burn_rate_1h", "burn_rate_6h", "burn_rate_1d", "burn_rate_3d")
    assert [found[name] for name in ("1h", "6h", "1d", "3d")] == list(
        evaluate(database, "deploys", *columns, as_of=NOW)
    )
    assert (found["5m"], found["30m"]) == (10, 10)


@pytest.mark.parametrize("calendar", [None, "month"])
@pytest.mark.parametrize("changed_at", [None, NOW - timedelta(minutes=183)], ids=["one version", "a changed target"])
@pytest.mark.parametrize("slices", [None, ("10 minutes", "0.9")], ids=["occurrences", "time slices"])
@pytest.mark.parametrize("objective", ["error_rate", "latency", "availability"])
def test_the_newest_that_burned_a_budget_cost_what_the_whole_explanation_says(
    database: Connection,
    objective: str,
    slices: tuple[str, str] | None,
    changed_at: datetime | None,
    calendar: str | None,
) -> None:
    threshold = 100 if objective == "latency" else None
    add_slo(database, "deploys", objective=objective, threshold_ms=threshold, slices=slices, calendar=calendar)
    if changed_at:
        database.execute("update ops.slos set target = 0.7, valid_from = %s where slo_name = 'deploys'", [changed_at])
    chance = random.Random(objective)  # noqa: S311 - no secret
    for number in range(60):
        said = {"outcome": chance.choice(["success", "failure"]), "duration_ms": chance.choice([50, 150])}
        add_event(database, "deploy", NOW - timedelta(minutes=7 * number), tag=f"v{number}", **said)
    database.execute(
        "select ops.exclude_from_slo('deploys', %s, %s, 'upgrade', 'ada')",
        [NOW - timedelta(minutes=100), NOW - timedelta(minutes=60)],
    )
    refresh(database, as_of=NOW)
    until = NOW + timedelta(minutes=5)
    explained = rows(
        database,
        "select event_timestamp, tag, reason, round(cost, 12) from ops.explain_slo('deploys', %s, %s) order by 1 desc",
        *(SINCE, until),
    )
    assert explained
    query = "select event_timestamp, tag, reason, round(cost, 12) from ops.newest_burners('deploys', %s, %s, %s)"
    assert rows(database, query, SINCE, until, 100) == explained
    # Some of them are newer than what is excluded, some older.
    for limit in (1, 5, 12):
        assert rows(database, query, SINCE, until, limit) == explained[:limit]


def test_an_objective_that_never_was_has_no_burners(database: Connection) -> None:
    with refused("OP001"):
        database.execute("select ops.newest_burners('nothing', %s, %s, 10)", [SINCE, NOW])


def test_each_org_is_shown_its_own_and_nothing_else(database: Connection, acting_as: ActingAs) -> None:
    draw_hooks(database, 1, ORG)
    draw_hooks(database, 2, OTHER)
    refresh(database, max_ids=300)
    until = datetime(2026, 3, 8, tzinfo=UTC)
    as_owner = window(database, "day", SINCE, until, org=ORG)
    assert as_owner
    with acting_as(database, "authenticated", org=ORG):
        assert window(database, "day", SINCE, until) == as_owner
        assert scalar(database, "select count(*) from ops.filter_choices() where filter = 'team'") == 2
        for query in (
            "select ops.kpi_window('day', now() - interval '1 day', now(), now(), org_id => %s)",
            "select ops.activity('day', now() - interval '1 day', now(), org_id => %s)",
            "select ops.team_compliance('day', now() - interval '1 day', now(), now(), org_id => %s)",
            "select ops.top_patterns('day', now() - interval '1 day', now(), org_id => %s)",
            "select ops.slo_burn_rates(now(), org_id => %s)",
            "select ops.freshness(org_id => %s)",
            "select ops.change_marker(org_id => %s)",
            "select ops.filter_choices(org_id => %s)",
        ):
            with pytest.raises(psycopg.Error) as caught, database.transaction():
                database.execute(query.encode(), [OTHER])
            assert caught.value.sqlstate == "PT403"


@pytest.mark.parametrize(
    "change",
    [
        lambda database: add_event(database, "deploy", "2026-03-01Z"),
        lambda database: add_audit(database, 99),
        lambda database: evaluate_alerts(database, "2026-03-12Z"),
        refresh,
    ],
    ids=["an event", "an audit", "an evaluation", "a refresh"],
)
def test_the_marker_changes_with_what_a_page_shows(
    database: Connection, change: Callable[[Connection], object]
) -> None:
    add_event(database, "deploy", "2026-03-01Z")
    before = scalar(database, "select ops.change_marker()")
    assert scalar(database, "select ops.change_marker()") == before
    change(database)
    assert scalar(database, "select ops.change_marker()") != before


def test_the_marker_shows_no_number_of_anybody(database: Connection, acting_as: ActingAs) -> None:
    add_event(database, "deploy", "2026-03-01Z", org_id=OTHER)
    with acting_as(database, "authenticated", org=ORG):
        assert re.fullmatch("[0-9a-f]{64}", scalar(database, "select ops.change_marker()"))


def test_the_marker_of_one_org_stays_while_another_sends_events(database: Connection, acting_as: ActingAs) -> None:
    def marker() -> object:
        with acting_as(database, "authenticated", org=ORG):
            return scalar(database, "select ops.change_marker()")

    before = marker()
    add_event(database, "deploy", "2026-03-01Z", org_id=OTHER)
    assert marker() == before


def test_what_waits_behind_the_cursor_is_told(database: Connection) -> None:
    add_event(database, "deploy", "2026-03-01T10:00Z")
    add_event(database, "deploy", "2026-03-01T11:00Z", org_id=ORG)
    query = "select events_waiting, newest_event_at from ops.freshness(org_id => %s)"
    assert rows(database, query, ORG) == [(1, datetime(2026, 3, 1, 11, tzinfo=UTC))]
    refresh(database)
    assert rows(database, query, ORG) == [(0, datetime(2026, 3, 1, 11, tzinfo=UTC))]


def test_an_admin_of_an_org_silences_its_alerts_and_no_others(database: Connection, acting_as: ActingAs) -> None:
    claims = {"app_metadata": {"org_id": str(ORG), "scopes": ["read", "admin"]}, "sub": "ada"}
    with acting_as(database, "authenticated", commit=True, **claims):
        number = scalar(database, "select public.silence_own_alerts('*', now() + interval '1 hour', 'upgrade')")
    found = rows(
        database,
        "select org_id, matcher, reason, author from public.v_ops_alert_silences where alert_silence_id = %s",
        number,
    )
    assert found == [(ORG, "*", "upgrade", "ada")]
    assert scalar(database, "select ops.is_silenced(%s, 'r', 's', null, now(), '{}')", ORG)
    assert not scalar(database, "select ops.is_silenced(%s, 'r', 's', null, now(), '{}')", OTHER)


@pytest.mark.parametrize(
    ("scopes", "until", "code"),
    [(["read"], "1 hour", "PT403"), (["read", "admin"], "-1 hour", "OP001"), (["read", "admin"], "400 days", "OP001")],
)
def test_a_silence_needs_the_scope_and_an_end_in_sight(
    database: Connection, acting_as: ActingAs, scopes: list[str], until: str, code: str
) -> None:
    with (
        acting_as(database, "authenticated", app_metadata={"org_id": str(ORG), "scopes": scopes}),
        refused(code),
        database.transaction(),
    ):
        database.execute("select public.silence_own_alerts('*', now() + %s::interval, 'why')", [until])
    assert rows(database, "select from ops.alert_silences") == []

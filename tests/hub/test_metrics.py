"""GET /metrics: what a scrape tells is what SQL says of the key's own org, in the formats that Prometheus reads."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics
from psycopg.rows import dict_row

from opskpi.access import keys
from opskpi.hub.database import Caller, Database
from opskpi.hub.metrics import STATUSES, Scrapes, render
from support.events import add_audit, add_event, add_row, refresh, scalar
from support.fixtures import ActingAs, CreateDatabase
from support.hubs import Hub, make_key, problem, running_hub
from support.postgres import Database as Copy

METRICS = "/metrics"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
LABELS = ("metric", "unit", "period", "complete", "breakdown", "breakdown_value")
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: str, parse: Callable[[str], Any] = parser.text_string_to_metric_families) -> Series:
    """Return the value of each sample by its name and labels; none comes twice."""
    samples = [sample for family in parse(text) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def scrape(hub: Hub, key: str, accept: str = "text/plain") -> Series:
    with hub.client(key) as client:
        answer = client.get(METRICS, headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    return series(answer.text)


def sample_of(found: Series, name: str, **labels: str) -> float | None:
    """Return the value of the one sample that has these labels, if there is one."""
    (only,) = [v for (n, held), v in found.items() if n == name and labels.items() <= dict(held).items()] or [None]
    return only


def as_org(database: psycopg.Connection, acting_as: ActingAs, org: UUID, query: LiteralString) -> list[dict[str, Any]]:
    """Return what the org reads itself."""
    with acting_as(database, "authenticated", org=org), database.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchall()


def add_day(database: psycopg.Connection, org: UUID, failures: int = 1) -> None:
    """Add what an org's last two days may hold: runs, hooks of a team, audits."""
    now = datetime.now(UTC)
    agent = uuid4()
    add_row(database, "agents", org_id=org, agent_id=agent, team='pay"ments\\\n')
    for at in (now, now - timedelta(hours=1), now - timedelta(days=1)):
        for number in range(3):
            outcome = "failure" if number < failures else "success"
            add_event(
                database, "slsa_provenance", at, org_id=org, outcome=outcome, duration_ms=100 / 3, tag=str(number)
            )
        hook = {"hook_type": "pre-commit", "result": "blocked", "duration_ms": 7}
        add_event(database, "hook_execution", at, org_id=org, agent_id=agent, **hook)
        add_event(database, "artifact", at, org_id=org, size_bytes=123_456_789_012)


def test_the_numbers_are_those_that_sql_says(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, acting_as: ActingAs
) -> None:
    add_day(hub_database, org)
    add_audit(hub_database, uuid4().int % 10**15, datetime.now(UTC), org_id=str(org))
    refresh(hub_database, as_of=datetime.now(UTC), max_wait="10 s")
    # What no refresh has counted counts as well.
    add_event(hub_database, "slsa_provenance", datetime.now(UTC), org_id=org, outcome="success", duration_ms=1)
    alert = {"kind": "kpi_threshold", "channels": [], "notify_resolved": True, "description": "", "detail": "{}"}
    now = datetime.now(UTC)
    for number, state in enumerate(("firing", "firing", "pending", "resolved")):
        said = {"rule_name": f"r{number}", "severity": "page", "subject": str(number), "state": state}
        times = {"pending_since": now, "evaluated_at": now, "resolved_at": now if state == "resolved" else None}
        times["firing_since"] = None if state == "pending" else now
        add_row(hub_database, "alerts", org_id=org, **alert, **said, **times)

    found = scrape(hub, make_key(hub_database, org, "read"))

    kpis = as_org(
        hub_database,
        acting_as,
        org,
        "select * from ops.kpis where aggregation_period in ('hour', 'day')"
        " and period_end > now() - ('1 ' || aggregation_period)::interval",
    )
    assert {kpi["metric_name"] for kpi in kpis} > {"provenance_success_rate", "artifact_avg_size_bytes"}
    told = {held: v for (name, held), v in found.items() if name == "opskpi_kpi_value"}
    samples = {held: v for (name, held), v in found.items() if name == "opskpi_kpi_samples"}
    expected: dict[frozenset[tuple[str, str]], dict[str, Any]] = {}
    for kpi in kpis:
        [(breakdown, breakdown_value)] = kpi["labels"].items() or [("", "")]
        complete = str(kpi["period_end"] <= now).lower()
        held = (kpi["metric_name"], kpi["unit"], kpi["aggregation_period"], complete, breakdown, breakdown_value)
        expected[frozenset(zip(LABELS, held, strict=True))] = kpi
    assert len(expected) == len(kpis)
    assert told == {held: float(kpi["metric_value"]) for held, kpi in expected.items()}
    assert samples == {held: float(kpi["sample_count"]) for held, kpi in expected.items()}

    slos = as_org(hub_database, acting_as, org, "select * from public.v_ops_slo_status")
    assert len(slos) >= 9
    for slo in slos:
        labels = {"slo": slo["slo_name"], "service": slo["service"], "objective": slo["objective"]}
        assert {
            status: sample_of(found, "opskpi_slo_status", **labels, status=status) for status in STATUSES
        } == dict.fromkeys(STATUSES, 0.0) | {slo["status"]: 1.0}
        measured = {
            "target": sample_of(found, "opskpi_slo_target_ratio", **labels),
            "sli": sample_of(found, "opskpi_slo_sli_ratio", **labels),
            "budget_left": sample_of(found, "opskpi_slo_error_budget_left_ratio", **labels),
            "good": sample_of(found, "opskpi_slo_events", **labels, kind="good"),
            "total": sample_of(found, "opskpi_slo_events", **labels, kind="total"),
        } | {
            f"burn_rate_{window}": sample_of(found, "opskpi_slo_burn_rate", **labels, window=window)
            for window in ("1h", "6h", "1d", "3d")
        }
        assert measured == {name: None if slo[name] is None else float(slo[name]) for name in measured}
    assert any(slo["sli"] is not None and slo["sli"] < 1 for slo in slos)

    alerts = {
        (state, severity): sample_of(found, "opskpi_alerts", state=state, severity=severity)
        for state in ("firing", "pending")
        for severity in ("page", "ticket", "notice")
    }
    assert alerts == dict.fromkeys(alerts, 0.0) | {("firing", "page"): 2.0, ("pending", "page"): 1.0}
    assert sample_of(found, "opskpi_events_waiting") == 1


def test_each_group_of_an_objective_is_a_series_by_itself_and_no_two_are_one(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    """Prometheus drops a whole scrape in which two samples have the same labels."""
    name = f"runs-{org.hex[:8]}"
    hub_database.execute(
        "insert into ops.slos (slo_name, service, objective, description, event_type, target, rolling_window, group_by)"
        " values (%s, 'ci', 'error_rate', '', 'workflow_run', 0.9, '30 days', '{team,workflow}')",
        [name],
    )
    try:
        agents = {team: uuid4() for team in ("a", "a workflow=b")}
        for team, agent in agents.items():
            hub_database.execute("select ops.assign_team(%s, %s, %s)", [org, agent, team])
        for team, workflow in (("a workflow=b", "c"), ("a", "b workflow=c"), ("a", ""), ("a", None)):
            said: dict[str, Any] = {"workflow": workflow} if workflow is not None else {}
            add_event(
                hub_database,
                "workflow_run",
                datetime.now(UTC),
                org_id=org,
                agent_id=agents[team],
                outcome="success",
                **said,
            )
        refresh(hub_database, as_of=datetime.now(UTC), max_wait="10 s")
        found = scrape(hub, make_key(hub_database, org, "read"))
        counted = {
            dict(held)["group"]: value
            for (metric, held), value in found.items()
            if metric == "opskpi_slo_events" and {("slo", name), ("kind", "total")} <= held
        }
        assert counted == dict.fromkeys(
            (
                'team="a workflow=b" workflow=c',
                'team=a workflow="b workflow=c"',
                'team=a workflow=""',
                "team=a workflow=",
            ),
            1.0,
        )
    finally:
        hub_database.execute("delete from ops.slos where slo_name = %s", [name])


def test_a_period_without_events_has_no_sample(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    add_event(hub_database, "api_request", datetime.now(UTC) - timedelta(days=4), org_id=org, duration_ms=5)
    found = scrape(hub, make_key(hub_database, org, "read"))
    assert {name for name, _ in found} & {"opskpi_kpi_value", "opskpi_kpi_samples", "opskpi_slo_sli_ratio"} == set()
    assert sample_of(found, "opskpi_slo_status", slo="audit_observer_latency", status="ok") == 0
    assert sample_of(found, "opskpi_alerts", state="firing", severity="page") == 0


@pytest.mark.parametrize(
    ("as_of", "zone", "spans"),
    [
        (
            "2026-03-10T12:30:00Z",
            "UTC",
            ["day 2026-03-10T00 f", "day 2026-03-09T00 t", "hour 2026-03-10T12 f", "hour 2026-03-10T11 t"],
        ),
        (
            "2026-03-10T00:00:00Z",
            "UTC",
            ["day 2026-03-10T00 f", "day 2026-03-09T00 t", "hour 2026-03-10T00 f", "hour 2026-03-09T23 t"],
        ),
        # The day before had 25 hours, and began at 22:00 in UTC.
        (
            "2026-10-26T22:30:00Z",
            "Europe/Berlin",
            ["day 2026-10-25T23 f", "day 2026-10-24T22 t", "hour 2026-10-26T22 f", "hour 2026-10-26T21 t"],
        ),
    ],
)
def test_a_kpi_is_of_the_running_hour_and_day_and_of_those_before(
    database: psycopg.Connection, as_of: str, zone: str, spans: list[str]
) -> None:
    database.execute("update ops.settings set value = %s where name = 'time_zone'", [zone])
    instant = datetime.fromisoformat(as_of)
    for hours in range(-3, 80):
        add_event(database, "api_request", instant - timedelta(hours=hours), outcome="success", duration_ms=hours + 3)
    refresh(database)
    query = (
        "select gauge.metric_value = kpi.metric_value and gauge.sample_count = kpi.sample_count,"
        " format('%%s %%s %%s', gauge.period, to_char(kpi.period_start at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24'), gauge.complete)"
        " from ops.kpi_gauges(%s) as gauge join ops.kpis as kpi"
        " on kpi.metric_name = gauge.metric_name and kpi.aggregation_period = gauge.period and kpi.metric_value = gauge.metric_value"
        " where gauge.metric_name = 'api_avg_response_ms'"
    )
    found = database.execute(query, [as_of]).fetchall()
    assert all(same for same, _ in found)
    assert sorted(span for _, span in found) == sorted(spans)


def test_the_jobs_tell_when_they_last_did_their_work_and_whether_they_failed(
    database: psycopg.Connection, acting_as: ActingAs, org: UUID
) -> None:
    database.execute("delete from ops.job_runs where true")
    for job, started_at, seconds, outcome in (
        ("refresh", "2026-03-10T10:00:00Z", 2.5, "success"),
        ("refresh", "2026-03-10T10:05:00Z", 4, "waiting"),
        ("refresh", "2026-03-10T10:10:00Z", 0, "failure"),
        ("alerts", "2026-03-10T10:00:00Z", 0, "failure"),
        ("alerts", "2026-03-10T10:10:00Z", 0.25, "success"),
        ("maintain", "2026-03-10T10:00:00Z", 0, "failure"),
    ):
        at = datetime.fromisoformat(started_at)
        add_row(
            database, "job_runs", job=job, started_at=at, finished_at=at + timedelta(seconds=seconds), outcome=outcome
        )
    with acting_as(database, "authenticated", org=org):
        answer = scalar(database, "select ops.scrape()")
    found = series(render(answer, "")[0].decode())
    done = datetime.fromisoformat("2026-03-10T10:05:04Z").timestamp()
    assert {name: v for name, v in found.items() if name[0].startswith("opskpi_job_")} == {
        ("opskpi_job_last_success_timestamp_seconds", frozenset({("job", "refresh")})): done,
        ("opskpi_job_last_success_timestamp_seconds", frozenset({("job", "alerts")})): done + 296.25,
        ("opskpi_job_last_run_duration_seconds", frozenset({("job", "refresh")})): 4,
        ("opskpi_job_last_run_duration_seconds", frozenset({("job", "alerts")})): 0.25,
        ("opskpi_job_last_run_failed", frozenset({("job", "refresh")})): 1,
        ("opskpi_job_last_run_failed", frozenset({("job", "alerts")})): 0,
        ("opskpi_job_last_run_failed", frozenset({("job", "maintain")})): 1,
    }


def test_two_orgs_see_nothing_of_each_other(hub: Hub, hub_database: psycopg.Connection) -> None:
    ours, theirs = uuid4(), uuid4()
    add_event(hub_database, "slsa_provenance", datetime.now(UTC), org_id=ours, outcome="success", duration_ms=1)
    for _ in range(2):
        add_event(hub_database, "slsa_provenance", datetime.now(UTC), org_id=theirs, outcome="failure", duration_ms=9)
    our_key, their_key = make_key(hub_database, ours, "read"), make_key(hub_database, theirs, "read")
    for _ in range(2):
        us, them = scrape(hub, our_key), scrape(hub, their_key)
        rate = {"metric": "provenance_success_rate", "period": "day", "complete": "false"}
        assert (sample_of(us, "opskpi_kpi_value", **rate), sample_of(them, "opskpi_kpi_value", **rate)) == (100, 0)
        assert (sample_of(us, "opskpi_events_waiting"), sample_of(them, "opskpi_events_waiting")) == (1, 2)


def test_a_key_without_the_scope_read_is_403_and_one_that_is_not_live_401(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    with hub.client() as client:
        answer = client.get(METRICS)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        problem(answer)
    for scope in ("ingest", "admin"):
        with hub.client(make_key(hub_database, org, scope)) as client:
            answer = client.get(METRICS)
            assert answer.status_code == 403
            assert "scope read" in problem(answer)["detail"]


def test_a_revoked_key_gets_no_answer_that_another_asked_for(
    hub: Hub, hub_database: psycopg.Connection, org: UUID
) -> None:
    live, revoked = make_key(hub_database, org, "read"), make_key(hub_database, org, "read")
    with hub.client(live) as ours, hub.client(revoked) as theirs:
        assert (ours.get(METRICS).status_code, theirs.get(METRICS).status_code) == (200, 200)
        assert keys.revoke(hub_database, revoked.split("_")[1])
        assert (ours.get(METRICS).status_code, theirs.get(METRICS).status_code) == (200, 401)


def test_openmetrics_is_answered_to_who_asks_for_it(hub: Hub, hub_database: psycopg.Connection, org: UUID) -> None:
    add_day(hub_database, org)
    with hub.client(make_key(hub_database, org, "read")) as client:
        plain = client.get(METRICS)
        answer = client.get(METRICS, headers={"Accept": f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5,*/*;q=0.1"})
        hostile = [
            client.get(METRICS, headers={"Accept": f"application/openmetrics-text; version={version}"})
            for version in ("x", "1.x", "2.x", "=", "1e9", "-1")
        ]
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["content-type"].startswith(OPENMETRICS)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.endswith("# EOF\n")
    assert "# UNIT opskpi_slo_sli_ratio ratio\n" in answer.text
    told = series(answer.text, openmetrics.text_string_to_metric_families)
    assert told == series(plain.text)
    assert len(told) > 100
    # Names of strangers come through as they are.
    teams = {dict(held).get("breakdown_value") for _, held in told} - {None, ""}
    assert teams == {'pay"ments\\\n', "pre-commit"}
    assert [answer.status_code for answer in hostile] == [200] * len(hostile)
    families = {family.name: family for family in parser.text_string_to_metric_families(plain.text)}
    assert {family.type for family in families.values()} == {"gauge"}
    assert not [name for name in families if name.endswith("_total")]
    for name, family in families.items():
        assert any(unit in family.documentation for unit in ("count", "seconds", "ratio", "percent", "1 ", "1:")), name


def test_scrapes_that_come_together_ask_the_database_once(
    create_database: CreateDatabase, template: Copy, folder: Path, org: UUID
) -> None:
    copy = create_database(template)
    with (
        psycopg.connect(copy.dsn, autocommit=True) as database,
        running_hub(copy.dsn, folder) as hub,
        ThreadPoolExecutor(6) as scraping,
    ):
        # A part of each scrape counts itself, and waits as long as this test holds a lock.
        database.execute("create sequence public.scrapes")
        database.execute(
            "create or replace function ops.events_waiting() returns bigint language plpgsql volatile security definer"
            " set search_path = '' as $$ begin perform pg_advisory_xact_lock_shared(1); return nextval('public.scrapes'); end $$"
        )
        own = [make_key(database, org, "read") for _ in range(5)]
        database.execute("select pg_advisory_lock(1)")
        answers = [scraping.submit(scrape, hub, key) for key in own]
        while scalar(database, "select count(last_used_at) from ops.api_keys") < len(own):
            assert not any(answer.done() for answer in answers)
        # Another org, and other scopes, get an answer of their own.
        others = [make_key(database, uuid4(), "read"), make_key(database, org, "read", "ingest")]
        answers += [scraping.submit(scrape, hub, others[0])]
        while scalar(database, "select count(*) from pg_locks where locktype = 'advisory' and not granted") < 2:
            assert not any(answer.done() for answer in answers)
        database.execute("select pg_advisory_unlock(1)")
        told = [sample_of(answer.result(), "opskpi_events_waiting") for answer in answers]
        assert (set(told[:5]), set(told)) in [({1.0}, {1.0, 2.0}), ({2.0}, {1.0, 2.0})]
        assert sample_of(scrape(hub, others[1]), "opskpi_events_waiting") == 3
        assert scalar(database, "select last_value from public.scrapes") == 3


class Asking:
    """A database whose answers are those that a test gives, in order."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[str]] = []
        self.reading = asyncio.Semaphore(10)

    async def ask_as(self, *_: object) -> str:
        """Wait for the next answer."""
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]


def caller(org: UUID) -> Caller:
    return Caller("0" * 12, org, ("read",))


def test_an_answer_that_failed_or_is_old_is_not_shared_with_who_comes_later() -> None:
    async def story() -> None:
        asking = Asking()
        scrapes = Scrapes(cast("Database", asking), shared_s=0)
        org = UUID(int=1)

        async def come() -> asyncio.Task[Any]:
            coming = asyncio.create_task(scrapes.of(caller(org)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return coming

        first, second = await come(), await come()
        assert len(asking.asked) == 1
        # Who goes away takes the answer from nobody.
        first.cancel()
        asking.asked[0].set_exception(TimeoutError())
        with pytest.raises(TimeoutError):
            await second
        third = await come()
        assert len(asking.asked) == 2
        asking.asked[1].set_result('{"number": 1}')
        assert await third == {"number": 1}
        fourth = await come()
        asking.asked[2].set_result('{"number": 2}')
        assert await fourth == {"number": 2}

    asyncio.run(story())


def test_a_number_is_as_exact_as_a_float_can_be() -> None:
    values = ["0.1", "33.333333", "99.999999999999999999", "123456789012345678", "1e-7", "0.30000000000000004"]
    answer = json.loads(
        '{"kpis": [], "slos": [], "jobs": [], "events_waiting": 0, "alerts": ['
        + ",".join(f'{{"state": "{text}", "severity": "x", "alerts": {text}}}' for text in values)
        + "]}"
    )
    found = series(render(answer, "")[0].decode())
    for text in values:
        assert sample_of(found, "opskpi_alerts", state=text) == float(text)

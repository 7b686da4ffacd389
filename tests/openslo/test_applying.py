"""Objectives from the command line: simulation, export, and what a user may do wrong."""

import json
import shlex
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from opskpi import console, openslo
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.openslo import Definitions, Rule, Slo, applying, simulating
from opskpi.orgs import NIL_ORG
from support.events import add_slo, refused, rows, scalar
from support.grouped import RELEASES, add_runs
from support.openslo_texts import EVENTS

Cli = Callable[..., subprocess.CompletedProcess[str]]
SINCE = datetime(2026, 3, 10, tzinfo=UTC)


def burning_after(alert_after: timedelta) -> Definitions:
    """An objective with one rule that fires after a while."""
    promised = Slo(
        "deploys", "shop", "error_rate", "workflow_run", Decimal("0.99"), "deploys", rolling_window=timedelta(days=30)
    )
    rule = Rule(
        "deploys/burn",
        "burn_rate",
        "page",
        "deploys",
        factor=Decimal(10),
        long_window=timedelta(hours=1),
        alert_after=alert_after,
    )
    return Definitions(slos=(promised,), rules=(rule,))


@pytest.fixture
def broken(database: psycopg.Connection) -> psycopg.Connection:
    """A database in which runs failed at 10:00; from 10:05 nothing else is in the hour that the rule looks back."""
    add = "insert into telemetry_events (event_type, event_timestamp, metadata) select 'workflow_run', %s, %s from generate_series(1, %s)"
    for at, outcome, count in (("09:00", "success", 1000), ("10:00", "failure", 50), ("11:10", "success", 10)):
        database.execute(add, [f"2026-03-10T{at}Z", json.dumps({"outcome": outcome}), count])
    database.execute("select ops.refresh()")
    return database


@pytest.mark.parametrize(("minutes", "fired_at"), [(0, "10:05"), (30, "10:35"), (32, "10:40"), (600, None)])
def test_a_simulation_waits_as_long_as_the_rule_does(
    broken: psycopg.Connection, minutes: int, fired_at: str | None
) -> None:
    found = simulating.simulate(broken, burning_after(timedelta(minutes=minutes)), SINCE, SINCE + timedelta(days=1))
    found = [alert for alert in found if alert.rule_name == "deploys/burn"]
    assert [f"{alert.fired_at:%H:%M}" for alert in found] == ([fired_at] if fired_at else [])
    assert all(f"{alert.resolved_at:%H:%M}" == "11:15" for alert in found)
    assert broken.execute("select count(*) from ops.slos where slo_name = 'deploys'").fetchone() == (0,)


def test_a_simulation_begins_no_alert_for_one_failure_of_a_quiet_night(database: psycopg.Connection) -> None:
    add = "insert into telemetry_events (event_type, event_timestamp, metadata) select 'workflow_run', %s, %s from generate_series(1, %s)"
    for at, outcome, count in (("08T10:00", "success", 10_000), ("10T02:00", "failure", 1), ("10T03:00", "success", 1)):
        database.execute(add, [f"2026-03-{at}Z", json.dumps({"outcome": outcome}), count])
    database.execute("select ops.refresh()")
    found = simulating.simulate(database, burning_after(timedelta()), SINCE, SINCE + timedelta(hours=6))
    assert [alert for alert in found if alert.rule_name == "deploys/burn"] == []


@pytest.mark.parametrize("failures", [0, 3])
def test_a_simulation_fires_again_only_with_a_new_failure(database: psycopg.Connection, failures: int) -> None:
    add = "insert into telemetry_events (event_type, event_timestamp, metadata) select 'workflow_run', %s, %s from generate_series(1, %s)"
    # What was good at 09:10 leaves the hour at 10:15, and the failures of 09:55 burn as fast as they did.
    for at, outcome, count in (
        ("09:10", "success", 100),
        ("09:55", "failure", 50),
        ("10:00", "success", 400),
        ("10:12", "failure", failures),
    ):
        database.execute(add, [f"2026-03-10T{at}Z", json.dumps({"outcome": outcome}), count])
    database.execute("select ops.refresh()")
    found = simulating.simulate(database, burning_after(timedelta()), SINCE, SINCE + timedelta(hours=11))
    found = [alert for alert in found if alert.rule_name == "deploys/burn"]
    assert [f"{alert.fired_at:%H:%M}" for alert in found] == ["10:00", *(["10:15"] if failures else [])]


def test_files_without_an_objective_cannot_be_simulated(database: psycopg.Connection) -> None:
    with pytest.raises(OpsKpiError) as refusal:
        simulating.simulate(database, Definitions(), SINCE, SINCE + timedelta(days=1))
    assert refusal.value.exit_code == ExitCode.BAD_ARGUMENT


def test_a_dry_run_says_which_rules_for_every_objective_leave_one_out(database: psycopg.Connection) -> None:
    def promised(name: str, days: int) -> Slo:
        return Slo(
            name, "shop", "error_rate", "workflow_run", Decimal("0.99"), name, rolling_window=timedelta(days=days)
        )

    left_out: list[applying.LeftOut] = []
    files = Definitions(slos=(promised("month", 30), promised("week", 7), promised("day", 1)))
    applying.apply(database, files, dry_run=True, on_left_out=left_out.append)
    assert [(each.slo_name, each.rule_name) for each in left_out] == [
        *(("day", rule) for rule in ("fast_burn", "slow_burn", "steady_burn", "trickle")),
        *(("week", rule) for rule in ("slow_burn", "trickle")),
    ]
    assert [each.because for each in left_out[-2:]] == [
        f"its factor is {factor}, and a burn rate below 1 leaves a part of the budget" for factor in ("0.7", "0.2333")
    ]
    assert left_out[3].because == "its window of 3 days is longer than that of the objective, 1 day"


def test_an_objective_that_says_how_many_failures_it_takes_is_exported_so(
    database: psycopg.Connection, tmp_path: Path
) -> None:
    file = tmp_path / "slo.yaml"
    text = openslo.write(burning_after(timedelta())).replace(
        "name: deploys\n", 'name: deploys\n  annotations: {opskpi.dev/min-failures: "5"}\n', 1
    )
    file.write_text(text, "utf-8")
    applying.apply(database, openslo.read([file]))
    assert rows(database, "select min_failures from ops.slos where slo_name = 'deploys'") == [(5,)]
    assert 'opskpi.dev/min-failures: "5"' in openslo.write(applying.stored(database)).replace("'", '"')


def test_what_is_exported_and_applied_again_changes_nothing(database: psycopg.Connection, tmp_path: Path) -> None:
    database.execute(
        "update ops.slos set rolling_window = null, calendar_period = 'month' where slo_name = 'audit_observer_latency'"
    )
    applying.apply(database, burning_after(timedelta(minutes=5)))
    file = tmp_path / "all.yaml"
    file.write_text(openslo.write(applying.stored(database)), "utf-8")
    changes = applying.apply(database, openslo.read([file]))
    assert {change.change for change in changes} == {"unchanged"}


FILTERED: list[dict[str, Any]] = [
    {"objective": "error_rate", "total": {"workflow": ["b", "a"]}, "good": {"workflow": "a"}},
    {"objective": "error_rate", "bad": {"workflow": "a", "team": "red"}},
    {"objective": "latency", "threshold_ms": 100, "bad": {"workflow": ["a"]}},
    {"objective": "availability", "total": {"workflow": "a"}},
    {"objective": "events", "good": {"outcome": ["success", "cancelled"]}},
    {"objective": "events", "total": {"workflow": "a"}, "bad": {"outcome": "failure"}},
    {"objective": "measured", "at_most": "100.50", "total": {"team": ["red", "blue"]}},
]


@pytest.mark.parametrize("promise", FILTERED)
def test_a_filtered_objective_is_the_same_after_export_and_apply(
    database: psycopg.Connection, tmp_path: Path, promise: dict[str, Any]
) -> None:
    add_slo(database, "mine", event_type="workflow_run", expected_interval=None, **promise)
    file = tmp_path / "all.yaml"
    file.write_text(openslo.write(applying.stored(database)), "utf-8")
    assert {change.change for change in applying.apply(database, openslo.read([file]))} == {"unchanged"}
    database.execute("delete from ops.slos where slo_name = 'mine'")
    applying.apply(database, openslo.read([file]))
    assert rows(database, "select count(distinct sli_id), count(*) from ops.slo_versions where slo_name = 'mine'") == [
        (1, 2)
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("result: [allowed", "reslt: [allowed", "events of type hook_execution have no label reslt"),
        (
            "result: [allowed, overridden]",
            "result: denied",
            "no event of type hook_execution has the label result = denied",
        ),
        ("hook_execution", "hook_executions", "which is neither described nor has ever arrived"),
    ],
)
def test_applying_what_can_never_have_data_names_the_objective_and_what_is_possible(
    database: psycopg.Connection, tmp_path: Path, old: str, new: str, message: str
) -> None:
    file = tmp_path / "slo.yaml"
    file.write_text(EVENTS.replace(old, new), "utf-8")
    with refused() as caught:
        applying.apply(database, openslo.read([file]))
    assert message in str(caught.value)
    assert "the objective hooks_allow" in str(caught.value)


def test_a_row_that_no_file_can_say_is_named(database: psycopg.Connection) -> None:
    database.execute("update ops.slos set rolling_window = '1 month' where slo_name = 'audit_observer_latency'")
    with pytest.raises(OpsKpiError, match="audit_observer_latency"):
        applying.stored(database)


def test_a_role_that_sees_only_some_rows_is_refused_instead_of_told_that_there_are_none(
    cli: Cli, database: psycopg.Connection
) -> None:
    database.execute("drop role if exists opskpi_reader")
    database.execute("create role opskpi_reader login password 'x' in role pg_read_all_data")
    try:
        dsn = conninfo.make_conninfo(database.info.dsn, user="opskpi_reader")
        for arguments in (("alert",), ("slo", "export")):
            answer = cli(*arguments, "--dsn", dsn)
            assert (answer.returncode, answer.stdout) == (ExitCode.CONFIGURATION, "")
    finally:
        database.execute("drop role opskpi_reader")


def test_a_file_that_cannot_be_written_whole_keeps_what_was_there(cli: Cli, tmp_path: Path) -> None:
    assert cli("slo", "export", "--out", str(tmp_path / "no" / "file.yaml")).returncode == ExitCode.BAD_ARGUMENT
    file = tmp_path / "slos.yaml"
    file.write_text("before", "utf-8")
    assert cli("slo", "export", "--out", str(file)).returncode == 0
    assert file.read_text("utf-8").startswith("---")
    assert [path.name for path in tmp_path.iterdir() if "yaml" in path.name] == ["slos.yaml"]


def test_a_name_from_a_stranger_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    costs = [simulating.Fired(NIL_ORG, "\x1b]0;pwned\x07[red]", "page", "s", {}, SINCE, None)]
    console.show_rows("[bold]title", costs, "nothing")
    shown = capsys.readouterr().out
    assert "\x1b]0" not in shown
    assert "[red]" in shown
    assert "[bold]title" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("slo", "explain", "audit_observer_latency", "--until", "0001-01-01"),
        ("slo", "explain", b"\xff"),
        ("alert", "silence", "*", "--until", "2020-01-01", "--reason", "over"),
        ("alert", "silence", "*", "--until", "2099-01-01", "--reason", " "),
        ("slo", "exclude", "audit_observer_latency", "--since", "2026-01-01", "--until", "2026-01-02", "--reason", ""),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_one_clear_message_and_exit_64(cli: Cli, arguments: tuple[str, ...]) -> None:
    answer = cli(*arguments)
    assert answer.returncode == ExitCode.BAD_ARGUMENT, answer.stderr
    assert "Traceback" not in answer.stderr


FILE = """\
- apiVersion: openslo/v1
  kind: DataSource
  metadata: {name: prometheus}
  spec: {type: Prometheus, connectionDetails: {url: http://localhost}}
- &slo
  apiVersion: openslo/v1
  kind: SLO
  metadata: {name: releases, labels: {team: [platform, shop]}}
  spec: &spec
    service: release
    indicator:
      metadata: {name: releases-sli}
      spec:
        ratioMetric:
          counter: true
          good: {metricSource: {type: opskpi, spec: {eventType: workflow_run, count: succeeded}}}
          total: {metricSource: {type: opskpi, spec: {eventType: workflow_run, count: attempts}}}
    timeWindow: [{duration: 1Y, calendar: {startTime: 2026-01-01 00:00:00, timeZone: Europe/Zurich}}]
    budgetingMethod: Occurrences
    objectives: [{displayName: Promised, target: 0.9}, {displayName: Aimed at, target: 0.95}]
    alertPolicies:
      - kind: AlertPolicy
        metadata: {name: spent}
        spec:
          conditions:
            - metadata: {name: spent, annotations: {opskpi.dev/kind: budget_exhausted}}
              spec: {severity: ticket, condition: {op: gt, threshold: 1, lookbackWindow: 1Y}}
- <<: *slo
  metadata: {name: builds}
  spec: {<<: *spec, objectives: [{target: 0.8}], alertPolicies: []}
"""


def test_a_file_as_people_have_them_is_applied_evaluated_exported_and_applied_again(
    connect: Callable[..., psycopg.Connection], cli: Cli, tmp_path: Path
) -> None:
    database = connect()
    (tmp_path / "slos.yaml").write_text(FILE)
    first = cli("slo", "apply", "slos.yaml")
    assert first.returncode == 0, first.stderr
    assert "slos.yaml:2: [0].kind: the DataSource is ignored" in first.stderr
    names = {"builds", "releases.promised", "releases.aimed-at"}
    own = "select slo_name, labels, calendar_period from ops.slos where service = 'release'"
    assert {row[0]: row[1:] for row in database.execute(own).fetchall()} == {
        name: ({} if name == "builds" else {"team": ["platform", "shop"]}, "year") for name in names
    }
    rules = "select rule_name from ops.alert_rules where slo_name like 'releases.%' order by 1"
    assert database.execute(rules).fetchall() == [("releases.aimed-at/spent",), ("releases.promised/spent",)]
    shown = json.loads(cli("slo", "--json").stdout)
    assert names <= {row["slo_name"] for row in shown}
    assert cli("slo", "explain", "releases.promised", "--since", "2026-03-01").returncode == 0
    assert cli("slo", "export", "--out", "exported.yaml").returncode == 0
    again = json.loads(cli("slo", "apply", "exported.yaml", "--json").stdout)
    assert {change["change"] for change in again} == {"unchanged"}


@pytest.fixture
def runs_by_workflow(connect: Callable[..., psycopg.Connection], cli: Cli, tmp_path: Path) -> psycopg.Connection:
    """A database with an objective for each workflow, of which nightly-fuzz is breached and some runs name none."""
    database = connect()
    (tmp_path / "runs.yaml").write_text(RELEASES)
    assert cli("slo", "apply", "runs.yaml").returncode == 0
    now = datetime.now(UTC).isoformat()
    add_runs(database, "release", now, good=200, bad=1)
    add_runs(database, "nightly $1", now, good=10, bad=40)
    add_runs(database, None, now, good=100, bad=2)
    assert cli("run").returncode == 0
    return database


def test_an_own_objective_per_workflow_is_applied_shown_and_exported(
    runs_by_workflow: psycopg.Connection, cli: Cli, tmp_path: Path
) -> None:
    text = (tmp_path / "runs.yaml").read_text()
    (tmp_path / "two.yaml").write_text(text.replace("groupBy: [workflow]", "groupBy: [team, workflow]"))
    tried = cli("slo", "apply", "--dry-run", "two.yaml")
    assert "    group_by: ['workflow'] -> ['team', 'workflow']" in tried.stdout
    shown = [row for row in json.loads(cli("slo", "--json").stdout) if row["slo_name"] == "runs"]
    assert [(row["slo_group"], row["status"], row["good"], row["total"]) for row in shown] == [
        ({"workflow": "nightly $1"}, "breached", 10, 50),
        ({"workflow": None}, "ok", 100, 102),
        ({"workflow": "release"}, "ok", 200, 201),
    ]
    table = cli("slo").stdout
    assert [name in table for name in (" group ", 'workflow="nightly $1"', "workflow=release", "workflow= ")] == [
        True
    ] * 4
    failed = cli("slo", "--fail-on-breach")
    assert (failed.returncode, 'breached: runs workflow="nightly $1"' in failed.stderr) == (ExitCode.BREACH, True)
    assert cli("slo", "export", "--out", "exported.yaml").returncode == 0
    again = json.loads(cli("slo", "apply", "exported.yaml", "--json").stdout)
    assert {change["change"] for change in again} == {"unchanged"}


def test_each_group_is_explained_excluded_and_silenced_by_itself(
    runs_by_workflow: psycopg.Connection, cli: Cli
) -> None:
    everything = cli("slo", "explain", "runs")
    assert "What burned the budget of runs workflow=release" in everything.stdout
    assert "of the budget of workflow=release, that of all that was counted since 20" in everything.stdout
    release = json.loads(cli("slo", "explain", "runs", "--group", "workflow=release", "--json").stdout)
    assert [(cost["slo_group"], round(cost["cost"], 6)) for cost in release] == [
        ({"workflow": "release"}, round(float(Decimal(1) / (201 * (1 - Decimal("0.9")))), 6))
    ]
    assert len(json.loads(cli("slo", "explain", "runs", "--group", "workflow=", "--json").stdout)) == 2
    missed = cli("slo", "explain", "runs", "--group", "workflow=relaese")
    assert (missed.returncode, "workflow=relaese" in missed.stderr) == (ExitCode.BAD_ARGUMENT, True)

    alerts = json.loads(cli("alert", "--json").stdout)
    assert [(alert["subject"], alert["slo_group"]) for alert in alerts if alert["rule_name"] == "runs/spent"] == [
        ("runs", {"workflow": "nightly $1"})
    ]
    assert 'workflow="nightly $1"' in cli("alert").stdout
    firing = next(alert["alert_id"] for alert in alerts if alert["rule_name"] == "runs/spent")
    query = "select ops.alert_facts(array[%s::bigint], now()) -> 0 ->> 'explain'"
    command = shlex.split(scalar(runs_by_workflow, query, firing))
    assert command[:5] == ["opskpi", "slo", "explain", "runs", "--group"]
    assert len(json.loads(cli(*command[1:], "--json").stdout)) == 40
    until = ("--until", "2099-01-01", "--reason", "known")
    # A group that never alerted may be silenced as well.
    for group in ('workflow="nightly $1"', "workflow=release", "workflow="):
        assert cli("alert", "silence", f"runs {group}", *until).returncode == 0
    assert cli("alert", "silence", "runs workflow=relaese", *until).returncode == ExitCode.BAD_ARGUMENT

    yesterday, tomorrow = (f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}" for days in (-1, 2))
    span = ("--since", yesterday, "--until", tomorrow, "--reason", "fuzzing")
    excluded = cli("slo", "exclude", "runs", *span, "--group", "workflow=nightly $1")
    assert ': runs workflow="nightly $1" from ' in excluded.stdout
    shown = {str(row["slo_group"]): row["total"] for row in json.loads(cli("slo", "--json").stdout) if row["slo_group"]}
    assert shown == {"{'workflow': 'nightly $1'}": 0, "{'workflow': 'release'}": 201, "{'workflow': None}": 102}
    wrong = cli("slo", "exclude", "runs", *span, "--group", "team=a")
    assert (wrong.returncode, "It is grouped by workflow." in wrong.stderr) == (ExitCode.BAD_ARGUMENT, True)


def test_a_simulation_names_the_group_that_fires_and_when_it_is_over(
    database: psycopg.Connection, tmp_path: Path
) -> None:
    file = tmp_path / "runs.yaml"
    file.write_text(RELEASES.replace("30d", "1d"), "utf-8")
    add_runs(database, "hotfix", "2026-03-10T10:00Z", bad=60)
    add_runs(database, "release", "2026-03-10T10:00Z", good=60)
    add_runs(database, "nightly", "2026-03-12T03:00Z", bad=60)
    database.execute("select ops.refresh()")
    found = simulating.simulate(database, openslo.read([file]), SINCE, SINCE + timedelta(days=3))
    found = [alert for alert in found if alert.rule_name == "runs/spent"]
    assert [(alert.slo_group, f"{alert.fired_at:%d %H:%M}", alert.resolved_at) for alert in found] == [
        ({"workflow": "hotfix"}, "10 10:05", SINCE + timedelta(days=1, hours=10, minutes=5)),
        ({"workflow": "nightly"}, "12 03:05", None),
    ]

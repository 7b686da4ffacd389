"""The jobs stop while an objective is breached: each face says both, and nothing is resolved by it."""

import json

import pytest

from opskpi.alerting import summaries
from opskpi.grafana import overview, slos
from opskpi.hub import metrics
from support.events import Connection, add_events, rows, scalar, wait_for_a_writer
from support.fixtures import Cli

pytestmark = [pytest.mark.database, pytest.mark.own_database]

SLO = "provenance_generation_error_rate"


@pytest.fixture
def stopped(database: Connection, cli: Cli) -> Connection:
    """Breach an objective, let an alert fire, and let the jobs have stopped two hours ago."""
    now = scalar(database, "select now() - interval '1 minute'")
    add_events(database, 150, "slsa_provenance", now, outcome="failure")
    assert cli("run").returncode == 0
    assert ("budget_exhausted", SLO) in rows(
        database, "select rule_name, subject from v_ops_alerts where state = 'firing'"
    )
    database.execute(
        "update ops.job_runs set started_at = started_at - interval '2 hours', finished_at = finished_at - interval '2 hours'"
    )
    return database


def test_a_breached_objective_whose_jobs_stopped_is_breached_and_stale_on_each_face(stopped: Connection, cli: Cli):
    since = scalar(stopped, "select max(finished_at) from v_ops_job_runs where job = 'refresh'")
    told = rows(stopped, "select status, freshness, stale_since from v_ops_slo_status where slo_name = %s", SLO)
    assert told == [("breached", "stale", since)]

    shown = cli("slo", "--fail-on-breach")
    [line] = [line for line in shown.stdout.splitlines() if SLO in line]
    assert ("breached" in line, f"stale since {since:%Y-%m-%d %H:%M}" in line, shown.returncode) == (True, True, 3)
    [row] = [row for row in json.loads(cli("slo", "--json").stdout) if row["slo_name"] == SLO]
    assert (row["status"], row["freshness"], bool(row["stale_since"])) == ("breached", "stale", True)

    assert cli("report", "--out", "report.html").returncode == 0
    report = cli("report", "--out", "-").stdout
    cell = report.partition(f'<tr data-slo="{SLO}">')[2].partition("</tr>")[0]
    assert ('class="badge breached"' in cell, 'class="badge stale"' in cell, "since" in cell) == (True, True, True)

    summary = scalar(stopped, "select ops.summary_objectives('00000000-0000-0000-0000-000000000000', now())")
    assert (summary["by_status"]["breached"], summary["stale"]) == (2, 9)
    [part] = [part for part in summaries.parts({"objectives": summary}, []) if part.heading.startswith("Objectives")]
    assert "2 breached" in part.heading
    assert part.heading.endswith("; the counts of 9 are stale")


def test_the_metrics_of_stale_counts_keep_the_health_and_the_name_that_rules_use(stopped: Connection):
    body, _ = metrics.render(scalar(stopped, "select ops.scrape()"), "")
    [health] = [line for line in body.decode().splitlines() if SLO in line and 'status="breached"' in line]
    assert health.endswith(" 1.0")
    for name, value in (("opskpi_slo_fresh", "0.0"), ("opskpi_slo_status", "1.0")):
        found = [line for line in body.decode().splitlines() if line.startswith(name + "{") and SLO in line]
        [line] = [line for line in found if name == "opskpi_slo_fresh" or 'status="stale"' in line]
        assert line.endswith(f" {value}"), line
    since = scalar(stopped, "select extract(epoch from max(finished_at)) from ops.job_runs where job = 'refresh'")
    [line] = [
        line
        for line in body.decode().splitlines()
        if line.startswith("opskpi_slo_stale_since_timestamp_seconds{") and SLO in line
    ]
    assert float(line.rpartition(" ")[2]) == pytest.approx(float(since))
    stopped.execute("update ops.job_runs set finished_at = now() where job = 'refresh'")
    fresh, _ = metrics.render(scalar(stopped, "select ops.scrape()"), "")
    assert b"opskpi_slo_stale_since_timestamp_seconds{" not in fresh


def test_grafana_shows_health_and_freshness(stopped: Connection):
    counts, table = overview.PANELS[0].sql, slos.PANELS[0].sql
    nil = "00000000-0000-0000-0000-000000000000"
    [told] = stopped.execute(counts.replace("$org", nil).encode()).fetchall()
    assert (told[0], told[-1]) == (2, 9)
    listed = stopped.execute(table.replace("$org", nil).replace("$slo", "'*'").replace("$group", "'*'").encode())
    names = [column.name for column in listed.description or []]
    [row] = [row for row in listed.fetchall() if row[0] == SLO]
    assert (row[names.index("status")], row[names.index("freshness")]) == ("breached", "stale")


def test_no_alert_resolves_because_the_jobs_stopped(stopped: Connection, cli: Cli):
    before = set(rows(stopped, "select rule_name, subject from v_ops_alerts where state = 'firing'"))
    stopped.execute("select ops.evaluate_alerts()")
    after = set(rows(stopped, "select rule_name, subject from v_ops_alerts where state = 'firing'"))
    assert after == before | {("silent_jobs", "refresh")}
    assert cli("alert", "deliver").returncode == 0
    assert set(rows(stopped, "select rule_name, subject from v_ops_alerts where state = 'firing'")) == after


def test_a_page_tells_jobs_that_wait_from_jobs_that_do_not_run(stopped: Connection, cli: Cli):
    assert "too long ago. Run <code>opskpi run</code> from cron" in cli("report", "--out", "-").stdout
    since, now = rows(stopped, "select now() - interval '2 hours', now()")[0]
    wait_for_a_writer(stopped, since=since, until=now)
    page = cli("report", "--out", "-").stdout
    assert "too long ago" not in page
    assert "and have counted nothing new since" in page

"""`opskpi report`: one file that asks for nothing, of one org and one moment, with the numbers of the database."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from opskpi import files
from opskpi.dashboard import formats, pieces, report
from opskpi.dashboard.layout import PAGES
from opskpi.dashboard.view import View, parse
from opskpi.errors import ExitCode, OpsKpiError
from support.events import (
    NIL,
    Connection,
    add_audit,
    add_channel,
    add_event,
    add_events,
    add_row,
    add_slo,
    refresh,
    rows,
    scalar,
)
from support.fixtures import ActingAs, Cli, Connect

# A report is read in a transaction of its own isolation level.
pytestmark = pytest.mark.own_database

ONE, TWO = UUID(int=1), UUID(int=2)
NOW = datetime.now(UTC)
EVIL = '<script>alert(1)</script><h2 id="main">"\'&'
# Elements that load something or send something, and attributes that may.
LOADING = {"script", "img", "iframe", "object", "embed", "audio", "video", "source", "track", "base", "form", "input"}
ADDRESSES = {"src", "srcset", "data", "action", "poster", "background", "xlink:href", "formaction", "manifest", "ping"}


class Page(HTMLParser):
    """What a browser would see: ids, links, headings, tiles, the text of the style, all that could load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loading: list[tuple[str, dict[str, str | None]]] = []
        self.labelled: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.tiles: dict[str, list[str]] = {}
        self.styles: list[str] = []
        self.texts: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if said.get("id"):
            self.ids.append(str(said["id"]))
        if "aria-labelledby" in said:
            self.labelled.append(str(said["aria-labelledby"]))
        if tag == "a":
            self.links.append(str(said["href"]))
        loads = set(said) & ADDRESSES or "style" in said or any(name.startswith("on") for name in said)
        if tag in LOADING or (tag == "link" and said.get("href") != "data:,") or loads:
            self.loading.append((tag, said))
        if tag not in ("meta", "link", "rect", "line", "polyline", "circle"):
            self._open.append((tag, said))

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1][0] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open or not data.strip():
            return
        tag, said = self._open[-1]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), data.strip()))
        if tag == "style":
            self.styles.append(data)
        else:
            self.texts.append(data.strip())
        metric = next((above["data-metric"] for _, above in reversed(self._open) if "data-metric" in above), None)
        if metric and tag == "p" and said.get("class") in ("value", "basis"):
            self.tiles.setdefault(metric, []).append(data.strip())


Make = Callable[..., str]


def add_runs_of_many(database: Connection, failures: dict[str, int]) -> None:
    """Have an objective for each workflow, and ten runs of each, so many of which failed."""
    add_slo(database, "runs", event_type="workflow_run", group_by=["workflow"])
    database.execute(
        "insert into telemetry_events (event_type, event_timestamp, metadata)"
        " select 'workflow_run', %s, jsonb_build_object('outcome', case when run > bad then 'success' else 'failure' end,"
        " 'workflow', name) from unnest(%s::text[], %s::integer[]) as w (name, bad) cross join generate_series(1, 10) as run",
        [NOW - timedelta(days=1), list(failures), list(failures.values())],
    )
    refresh(database, as_of=NOW)


@pytest.fixture
def make(database: Connection) -> Make:
    """Make a report as the owner: `make(org=NIL, range="7d", team="…")`."""

    def made(connection: Connection | None = None, org: UUID = NIL, **said: str) -> str:
        view = parse("overview", said)
        return report.render(view, report.read(connection or database, view, org), org)

    return made


@pytest.fixture
def shop_of_two_orgs(database: Connection) -> Connection:
    """Have events of two orgs, a breached objective, alerts, failed audits, messages and silences."""
    add_channel(database, "ops")
    add_slo(database, "deploys")
    add_slo(database, "rollbacks", event_type="rollback")
    for org, mark, count in ((NIL, "shop", 12), (ONE, "other", 7)):
        at = NOW - timedelta(days=1)
        for result, number in (("allowed", count), ("blocked", 3)):
            hook = {"hook_type": f"{mark}-hook", "result": result, "duration_ms": 40}
            hook["findings_summary"] = {"pattern": f"{mark}-pattern"}
            add_events(database, number, "hook_execution", at, org_id=org, **hook)
        add_events(database, count, "deploy", at, org_id=org, outcome="failure", workflow=f"{mark}-workflow")
        add_event(database, "artifact", NOW - timedelta(hours=3), org_id=org, size_bytes=1000 * count)
        add_audit(database, count, at, validation_status="failure", tag=f"{mark}-tag", org_id=str(org))
        database.execute(
            "update public.slsa_audit_metrics set tag = %s where audit_run_id = %s", [f"{mark}-tag", count]
        )
        add_row(
            database,
            "alerts",
            **{"org_id": org, "rule_name": f"{mark}-rule", "kind": "kpi_threshold", "severity": "page"},
            **{"subject": f"{mark}-subject", "state": "firing", "pending_since": at, "firing_since": at},
            **{"evaluated_at": at, "channels": [], "notify_resolved": True, "description": f"{mark}-text"},
            detail=Jsonb({}),
        )
        database.execute(
            "select ops.queue_delivery(%s, 'ops', %s, 'queued', '{}', '{}', now())", [org, f"{mark}-group"]
        )
        database.execute(
            "insert into ops.alert_silences (matcher, until, reason, author, only_org_id)"
            " values ('*', now() + interval '1 day', %s, 'me', %s)",
            [f"{mark}-reason", org],
        )
        database.execute("select public.set_policy('{}', org_id => %s)", [org])
    refresh(database, as_of=NOW)
    return database


# One file


@pytest.mark.parametrize("said", [{}, {"range": "1h"}, {"range": "90d", "period": "week", "theme": "dark"}])
def test_the_file_loads_nothing_runs_nothing_and_sends_nothing(shop_of_two_orgs, make, said):
    text = make(**said)
    page = Page(text)
    assert page.loading == []
    assert all(link.startswith(("#", "https://github.com/")) for link in page.links)
    [style] = page.styles
    assert not re.search(r"url\(|@import|expression|image-set", style)
    assert "http:" not in text.replace("http-equiv", "")
    assert "javascript:" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy[1] == f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:"


def test_ids_are_there_once_and_every_link_and_label_finds_its_own(shop_of_two_orgs, make):
    page = Page(make())
    assert [name for name, times in Counter(page.ids).items() if times > 1] == []
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert len(inside) > 15
    assert inside | set(page.labelled) <= set(page.ids)


def test_every_section_of_every_page_is_there_in_order_and_listed(shop_of_two_orgs, make):
    page = Page(make())
    headings = [text for level, text in page.headings if level == 2]
    assert headings == [page.title for page in PAGES.values()]
    listed = [link[1:] for link in page.links if link.startswith("#") and link != "#main"]
    for name in ("overview", "hooks", "supply-chain", "slo", "alerts"):
        shown = [id for id in page.ids if id.startswith(f"{name}-") and not id.endswith("-title")]
        assert shown
        assert [id for id in listed if id.startswith(f"{name}-")][: len(shown)] == shown
    assert {"overview-slos", "slo-slos", "overview-open-alerts", "alerts-open-alerts", "freshness"} <= set(page.ids)


def test_headings_go_down_one_level_at_a_time(shop_of_two_orgs, make):
    levels = [level for level, _ in Page(make()).headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_each_breached_objective_shows_how_its_budget_burned_down(shop_of_two_orgs, make):
    page = Page(make())
    assert [id for id in page.ids if re.fullmatch(r"slo-burndown-\d+", id)] == ["slo-burndown-1"]
    assert (3, "Budget of Deploys") in page.headings
    # Its name leads there from both tables; the others, whose budget stands, lead nowhere.
    assert page.links.count("#slo-burndown-1") == 4
    [(day, good, total)] = rows(
        shop_of_two_orgs,
        "select day_start, good, total from v_ops_error_budget_burndown where slo_name = 'deploys' and org_id = %s",
        NIL,
    )
    assert {formats.period_name(day, "day", "UTC"), f"{good} of {total}"} <= set(page.texts)


def test_each_breached_group_shows_how_its_budget_burned_down(shop_of_two_orgs, make):
    add_runs_of_many(shop_of_two_orgs, {"release": 0, "<nightly> build": 8, "fuzz": 9})
    page = Page(make())
    budgets = [text for level, text in page.headings if level == 3 and text.startswith("Budget of ")]
    assert budgets == ["Budget of Deploys", "Budget of Runs", "Budget of Runs"]
    assert [text for text in page.texts if text.startswith(("workflow=", "Budget of R"))][-4:] == [
        *("Budget of Runs", "workflow=fuzz"),
        *("Budget of Runs", 'workflow="<nightly> build"'),
    ]
    assert [page.links.count(f"#slo-burndown-{number}") for number in (2, 3)] == [4, 4]


def test_a_thousand_groups_make_a_table_of_the_worst_and_the_number_of_the_others(shop_of_two_orgs, make):
    before = len(make())
    add_runs_of_many(shop_of_two_orgs, {f"w{number:03}": number % 3 for number in range(1000)})
    text = make()
    others = "Runs has 990 more groups: 323 breached, 333 at risk, 334 ok. opskpi slo lists all."
    # On the overview, and in both tables of the page of objectives.
    assert text.count(others) == 3
    assert len(text) - before < 400_000
    shown = re.findall(r'data-group="workflow=w(\d+)"', text)
    assert len(shown) == 2 * 10
    assert {int(number) % 3 for number in shown} == {2}


def test_an_org_without_anything_gets_a_file_that_says_so(shop_of_two_orgs, make):
    text = make(org=TWO)
    page = Page(text)
    assert [text for level, text in page.headings if level == 2] == [page.title for page in PAGES.values()]
    assert len(set(page.ids)) == len(page.ids)
    assert "The form below" not in text


def test_what_users_wrote_stays_text(database, make):
    add_slo(database, EVIL)
    hook = {"hook_type": EVIL, "result": "blocked", "duration_ms": 1, "findings_summary": {"pattern": EVIL}}
    add_event(database, "hook_execution", NOW, **hook)
    add_events(database, 12, "deploy", NOW, outcome="failure")
    add_event(database, EVIL, NOW)
    add_audit(database, 1, NOW, validation_status="failure")
    database.execute(
        "update public.slsa_audit_metrics set tag = %s, validation_run_url = 'javascript:alert(1)'", [EVIL]
    )
    refresh(database, as_of=NOW)
    text = make(team="<b>")
    page = Page(text)
    assert page.loading == []
    assert "<script" not in text
    assert "javascript:" not in text
    assert len(set(page.ids)) == len(page.ids)
    assert (3, f"Budget of {formats.name_of(EVIL)}") in page.headings


# Its numbers


def test_the_numbers_are_those_of_the_database(shop_of_two_orgs, make):
    tiles = Page(make(range="30d")).tiles
    found = rows(
        shop_of_two_orgs,
        "select metric_name, unit, value, sample_count from ops.kpi_window(period => 'day', since => now() - interval '30 days',"
        " until => now(), as_of => now()) where part = 'whole' order by 1",
    )
    assert len(found) > 5
    said = {metric: [formats.in_unit(value, unit), f"n = {samples:,}"] for metric, unit, value, samples in found}
    assert {metric: [shown[0], shown[1].partition(" ·")[0]] for metric, shown in tiles.items()} == said
    # The same on every page.
    assert all(shown[:2] == shown[-2:] for shown in tiles.values())


def test_events_that_no_job_counted_are_in_it(shop_of_two_orgs, make):
    add_events(
        shop_of_two_orgs, 5, "hook_execution", NOW - timedelta(hours=1), hook_type="x", result="allowed", duration_ms=40
    )
    tiles = Page(make()).tiles
    assert tiles["hook_executions_total"][0] == "20"


def test_it_says_for_whom_counting_waits(shop_of_two_orgs, make):
    assert "Counting waits" not in " ".join(Page(make()).texts)
    shop_of_two_orgs.execute(
        "insert into ops.job_runs (job, started_at, outcome) values ('refresh', now() + interval '1 minute', 'waiting');"
        "insert into ops.awaited_writers (name, gid, login, since, waiting_since)"
        " values ('3/2', 'forgotten', 'shop', '2026-03-10T12:00Z', now())"
    )
    said = "prepared transaction forgotten (user shop), since 2026-03-10 12:00:00 UTC: rollback prepared 'forgotten'"
    assert said in " ".join(Page(make()).texts)


def test_filters_count_where_they_count_on_the_pages(shop_of_two_orgs, make):
    page = Page(make(hook_type="shop-hook", event_type="hook_execution"))
    assert set(page.tiles) >= {"hook_executions_total"}
    assert "KPIs and charts of hook type shop-hook, event type hook_execution only." in page.texts
    assert "KPIs and charts of hook type shop-hook only." in page.texts
    assert page.texts.count("The filters of this report do not apply here.") == 3
    nobody = Page(make(hook_type="nobody's", event_type="hook_execution"))
    assert "hook_executions_total" not in nobody.tiles


def test_a_range_of_its_own_ends_where_it_says_and_any_other_when_it_is_made(shop_of_two_orgs, make):
    given = make(range="custom", since="2026-03-01", until="2026-03-08", tz="Europe/Berlin")
    assert "2026-02-28 01:00 Europe/Berlin to 2026-03-08 01:00 Europe/Berlin" in given
    answers = report.read(shop_of_two_orgs, View(), NIL)
    assert answers.window[1] == answers.at
    assert "now, by day" not in make()


# Whose


def test_nothing_of_another_org_gets_into_it(shop_of_two_orgs, make):
    of_nil, of_one = make(), make(org=ONE)
    for mark in ("pattern", "tag", "rule", "subject", "text", "group", "reason"):
        assert (f"shop-{mark}" in of_nil, f"other-{mark}" in of_nil) == (True, False)
        assert (f"shop-{mark}" in of_one, f"other-{mark}" in of_one) == (False, True)
    assert Page(of_nil).tiles["hook_executions_total"][0] == "15"
    assert Page(of_one).tiles["hook_executions_total"][0] == "10"
    assert Page(of_one).tiles["artifact_avg_size_bytes"][0] == "7 kB"
    assert str(ONE) in of_one


def test_the_latest_failures_of_an_org_are_there_however_many_others_have(shop_of_two_orgs, make):
    shop_of_two_orgs.execute(
        "insert into public.slsa_audit_metrics (audit_run_id, provenance_status, validation_status, org_id)"
        " select 1000 + number, 'failure', 'failure', %s from generate_series(1, 120) as number",
        [TWO],
    )
    assert "other-tag" in make(org=ONE)


def test_a_role_that_sees_one_org_only_is_refused(shop_of_two_orgs, acting_as: ActingAs, connect: Connect, make):
    connection = connect()
    connection.execute("set role authenticated")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        report.read(connection, View(), NIL)


def test_the_service_role_makes_the_report_of_any_org(shop_of_two_orgs, connect: Connect, make):
    connection = connect()
    connection.execute("set role service_role")
    assert Page(make(connection, ONE)).tiles["hook_executions_total"][0] == "10"


# One moment


def test_everything_in_it_is_of_one_moment(shop_of_two_orgs, connect: Connect, make, monkeypatch):
    other = connect()
    reading = pieces.read
    asked = []

    def interrupted(answer: str) -> pieces.Rows:
        if not asked:
            add_events(
                other,
                100,
                "hook_execution",
                NOW,
                hook_type="x",
                result="blocked",
                duration_ms=1,
                findings_summary={"pattern": "too late"},
            )
            add_event(other, "deploy", NOW, outcome="failure")
            refresh(other, as_of=NOW)
            other.execute("delete from ops.alerts")
        asked.append(answer)
        return reading(answer)

    before = Page(make())
    monkeypatch.setattr(pieces, "read", interrupted)
    text = make()
    assert len(asked) > 10
    assert "too late" not in text
    page = Page(text)
    assert page.tiles == before.tiles
    assert "shop-subject" in text
    monkeypatch.undo()
    assert "too late" in make()


def test_reading_it_writes_nothing_and_leaves_the_connection_as_it_was(shop_of_two_orgs, make):
    make()
    assert (shop_of_two_orgs.isolation_level, shop_of_two_orgs.read_only) == (None, None)
    assert scalar(shop_of_two_orgs, "show transaction_read_only") == "off"
    add_event(shop_of_two_orgs, "deploy", NOW)


# The command


def test_a_file_is_written_and_said_what_it_covers(shop_of_two_orgs, cli: Cli, tmp_path):
    file = tmp_path / "report.html"
    told = cli("report", "--out", str(file), "--range", "30d", "--hook-type", "shop-hook", "--json")
    assert told.returncode == 0, told.stderr
    said = json.loads(told.stdout)
    assert {name: said[name] for name in ("file", "bytes", "org_id", "period", "filters", "pages", "burndowns")} == {
        "file": str(file),
        "bytes": file.stat().st_size,
        "org_id": str(NIL),
        "period": "day",
        "filters": {"hook_type": "shop-hook"},
        "pages": list(PAGES),
        "burndowns": ["deploys"],
    }
    assert datetime.fromisoformat(said["since"]) < datetime.fromisoformat(said["until"])
    assert Page(file.read_text("utf-8")).tiles
    for_people = cli("report", "--out", str(file), "--org", str(ONE))
    assert for_people.stdout.startswith(f"{file}: ")
    assert "other-subject" in file.read_text("utf-8")


@pytest.mark.parametrize("arguments", [(), ("--out", "-")])
def test_without_a_file_it_goes_to_standard_output_in_utf8(shop_of_two_orgs, cli: Cli, tmp_path, arguments):
    told = cli("report", *arguments, env={"PYTHONIOENCODING": "ascii"})
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("<!doctype html>")
    assert told.stdout.rstrip().endswith("</html>")
    assert "·" in told.stdout
    assert list(tmp_path.glob("*.html")) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--range", "2d"),
        ("--range", "custom"),
        ("--since", "2026-01-01"),
        ("--since", "soon", "--until", "later"),
        ("--since", "2026-02-01", "--until", "2026-01-01"),
        ("--range", "7d", "--since", "2026-01-01", "--until", "2026-02-01"),
        ("--period", "year"),
        ("--period", "hour", "--since", "2020-01-01", "--until", "2026-01-01"),
        ("--tz", "Mars/Olympus"),
        ("--theme", "pink"),
        ("--team", "x" * 201),
        ("--org", "me"),
        ("--json",),
        ("--out", "no/such/folder/report.html"),
        ("--out", "."),
        ("--out", "/dev/null"),
        ("--team", "payments", "weekly", "--to", "ops"),
    ],
    ids=" ".join,
)
def test_what_the_address_of_a_page_would_refuse_is_refused(cli: Cli, tmp_path, arguments):
    told = cli("report", *arguments)
    assert (told.returncode, told.stdout) == (ExitCode.BAD_ARGUMENT, "")
    assert told.stderr.strip()
    assert "Traceback" not in told.stderr
    assert list(tmp_path.glob("*.html")) == []


def test_without_jinja_it_says_what_to_install(migrated_database):
    code = "import sys; sys.modules['jinja2'] = None; from opskpi.commands.main import main; main()"
    told = subprocess.run(
        [sys.executable, "-c", code, "report", "--dsn", migrated_database.dsn],
        env={"PYTHONPATH": str(Path(report.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == ExitCode.CONFIGURATION
    assert "opskpi[hub]" in told.stderr
    assert "Traceback" not in told.stderr


def test_jinja_is_needed_by_nothing_but_the_report():
    code = "import sys; sys.modules['jinja2'] = sys.modules['markupsafe'] = None; import opskpi.commands.main"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(Path(report.__file__).parents[2])}, check=True)


# Files


def test_a_file_is_replaced_as_a_whole_and_keeps_its_permissions(tmp_path):
    file = tmp_path / "report.html"
    file.write_text("before")
    file.chmod(0o640)
    files.write_whole(file, "after ü")
    assert (file.read_text("utf-8"), file.stat().st_mode & 0o777) == ("after ü", 0o640)
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_link_names_is_replaced_and_the_link_stays(tmp_path):
    file, link = tmp_path / "report.html", tmp_path / "latest.html"
    file.write_text("before")
    link.symlink_to(file)
    files.write_whole(link, "after")
    assert link.is_symlink()
    assert file.read_text() == "after"


def test_a_file_that_cannot_be_written_whole_is_as_it_was(tmp_path, monkeypatch):
    def fail(_: Any) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "report.html"
    file.write_text("before")
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OpsKpiError) as refused:
        files.write_whole(file, "after")
    assert refused.value.exit_code == ExitCode.TRY_LATER
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_report_that_cannot_be_made_leaves_the_last_one(shop_of_two_orgs, cli: Cli, tmp_path):
    file = tmp_path / "report.html"
    file.write_text("before")
    shop_of_two_orgs.execute("alter function ops.kpi_window rename to gone")
    assert cli("report", "--out", str(file)).returncode != 0
    assert file.read_text() == "before"

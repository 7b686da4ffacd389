"""The dashboard in a real browser: what a person sees, does and waits for."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from psycopg import sql

from opskpi.access import keys
from opskpi.hub import live
from support.browsers import SCREENSHOTS, OpenPage
from support.events import add_slo, scalar
from support.hubs import JOBS, Hub, hook_event, make_key, post, running_hub
from support.postgres import Database, Server, free_port

PAGES = {
    "overview": "/?range=30d",
    "hooks": "/hooks?range=30d",
    "supply-chain": "/supply-chain?range=30d",
    "slo": "/slo?range=30d&slo=provenance_validation_availability",
    "alerts": "/alerts",
}
NIL = UUID(int=0)


def tile(page: Page, metric: str) -> str:
    """The value in a KPI's tile."""
    return page.locator(f'[data-metric="{metric}"] .value').inner_text()


def serious_faults(page: Page) -> list[tuple[str, str]]:
    """What axe-core finds that keeps people from using a page."""
    violations = Axe().run(page).response["violations"]
    return [
        (fault["id"], fault["nodes"][0]["html"]) for fault in violations if fault["impact"] in {"serious", "critical"}
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_demo_is_whole_quiet_accessible_and_from_this_host_alone(
    open_hub: Hub, open_page: OpenPage, name: str, scheme: str
) -> None:
    watched = open_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    watched.go(open_hub.url + PAGES[name])
    assert watched.page.locator("h1").inner_text()
    assert watched.page.locator("main section").count() >= 3
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    watched.page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}.png", full_page=True)
    assert serious_faults(watched.page) == []
    assert watched.complaints == []
    assert {url.split("/")[2] for url in watched.requests} == {open_hub.url.split("/")[2]}


def test_a_filter_changes_the_numbers_to_what_sql_says_and_the_link_says_which(
    open_hub: Hub, open_page: OpenPage, month_database: psycopg.Connection
) -> None:
    watched = open_page()
    watched.go(f"{open_hub.url}/hooks?range=30d")
    everything = tile(watched.page, "hook_executions_total")
    with watched.page.expect_navigation():
        watched.page.get_by_label("Team", exact=True).select_option("payments")
    with watched.page.expect_navigation():
        watched.page.get_by_label("Hook type", exact=True).select_option("pre-push")
    counted = scalar(
        month_database,
        "select count(*) from telemetry_events as event join ops.agents as agent using (org_id, agent_id)"
        " where event.event_type = 'hook_execution' and agent.team = 'payments' and event.metadata ->> 'hook_type' = 'pre-push'"
        " and event.event_timestamp >= date_trunc('day', now() - interval '30 days', 'UTC')",
    )
    shown = tile(watched.page, "hook_executions_total")
    assert shown == f"{counted:,} count"
    assert shown != everything
    assert "team=payments" in watched.page.url
    # The link alone brings the same view to somebody else.
    other = open_page()
    other.go(watched.page.url)
    assert tile(other.page, "hook_executions_total") == shown
    assert other.page.get_by_label("Team", exact=True).input_value() == "payments"
    assert watched.complaints == other.complaints == []


def test_a_range_and_a_period_are_in_the_link_too(
    open_hub: Hub, open_page: OpenPage, month_database: psycopg.Connection
) -> None:
    watched = open_page()
    watched.go(f"{open_hub.url}/?range=custom&since=2000-01-01T00:00&until=2000-01-08T00:00")
    expect(watched.page.locator("#tiles .empty")).to_contain_text("Choose a longer range")
    with watched.page.expect_navigation():
        watched.page.get_by_label("Range", exact=True).select_option("7d")
    with watched.page.expect_navigation():
        watched.page.get_by_label("By", exact=True).select_option("week")
    assert "period=week" in watched.page.url
    assert "since" not in watched.page.url
    value = scalar(
        month_database,
        "select round(value, 2) from ops.kpi_window('week', now() - interval '7 days', now(), now())"
        " where metric_name = 'error_rate' and part = 'whole'",
    )
    assert float(tile(watched.page, "error_rate").removesuffix(" %")) == float(str(value))


def test_a_group_is_chosen_in_the_table_or_the_form_and_another_objective_takes_none_along(
    open_hub: Hub, open_page: OpenPage, month_database: psycopg.Connection
) -> None:
    add_slo(month_database, "all_runs", event_type="workflow_run", group_by=["workflow"], target="0.5")
    try:
        month_database.execute("select ops.fill_slis()")
        watched = open_page(viewport={"width": 360, "height": 740})
        watched.go(f"{open_hub.url}/slo?range=30d&slo=all_runs")
        page = watched.page
        expect(page.locator("#burndown")).to_contain_text("All runs has groups")
        page.locator("#slos").get_by_role("link", name="All runs workflow=release").click()
        expect(page.locator("#burndown h2")).to_have_text("Budget of All runs workflow=release")
        expect(page.locator("#burndown svg.chart")).to_be_visible()
        assert page.get_by_label("Group", exact=True).input_value() == "all_runs workflow=release"
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert serious_faults(page) == []
        others = page.get_by_label("Group", exact=True).locator("option").all_inner_texts()
        with page.expect_navigation():
            page.get_by_label("Group", exact=True).select_option(label=next(text for text in others if "docs" in text))
        expect(page.locator("#burndown h2")).to_contain_text("docs")
        with page.expect_navigation():
            page.get_by_label("Objective", exact=True).select_option("audit_observer_latency")
        expect(page.locator("#burndown svg.chart")).to_be_visible()
        expect(page.locator("main")).not_to_contain_text("has no group")
        assert watched.complaints == []
    finally:
        month_database.execute("delete from ops.slos where slo_name = 'all_runs'")


def test_a_posted_event_appears_on_the_open_page_without_a_reload(
    open_hub: Hub, open_page: OpenPage, month_database: psycopg.Connection
) -> None:
    watched = open_page()
    watched.go(f"{open_hub.url}/hooks?range=24h")
    before = int(tile(watched.page, "hook_executions_total").removesuffix(" count").replace(",", ""))
    watched.page.evaluate("window.notReloaded = true")
    table = watched.page.locator("details").first
    table.locator("summary").click()
    with open_hub.client(make_key(month_database, NIL)) as client:
        post(client, [hook_event(NIL)])
    expect(watched.page.locator('[data-metric="hook_executions_total"] .value')).to_have_text(f"{before + 1:,} count")
    assert watched.page.evaluate("window.notReloaded")
    # What was opened stays open.
    expect(watched.page.locator("details").first).to_have_attribute("open", "")
    assert watched.complaints == []


def test_a_page_finds_a_hub_again_that_was_away(
    month: Database, month_database: psycopg.Connection, open_page: OpenPage, tmp_path: Path
) -> None:
    port = str(free_port())
    watched = open_page()
    with running_hub(month.dsn, tmp_path, "--no-auth", "--port", port) as hub:
        watched.go(f"{hub.url}/hooks?range=24h")
        before = tile(watched.page, "hook_executions_total")
    expect(watched.page.locator("#live")).to_have_text("not live, connecting again")
    with (
        running_hub(month.dsn, tmp_path, "--no-auth", "--port", port) as hub,
        hub.client(make_key(month_database, NIL)) as client,
    ):
        post(client, [hook_event(NIL)])
        expect(watched.page.locator("#live")).to_have_text("live")
        expect(watched.page.locator('[data-metric="hook_executions_total"] .value')).not_to_have_text(before)


def test_a_page_says_that_the_database_is_away_and_that_it_is_back(
    migrated_database: Database, server: Server, open_page: OpenPage, tmp_path: Path
) -> None:
    watched = open_page()
    name = sql.Identifier(migrated_database.name)
    with (
        running_hub(migrated_database.dsn, tmp_path, "--no-auth") as hub,
        psycopg.connect(server.dsn("postgres"), autocommit=True) as elsewhere,
    ):
        watched.go(f"{hub.url}/hooks?range=24h")
        expect(watched.page.locator("#live")).to_have_text("live")
        elsewhere.execute(sql.SQL("alter database {} allow_connections false").format(name))
        elsewhere.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [migrated_database.name]
        )
        expect(watched.page.locator("#live")).to_have_text("not live: the database does not answer")
        elsewhere.execute(sql.SQL("alter database {} allow_connections true").format(name))
        expect(watched.page.locator("#live")).to_have_text("live")


def test_a_page_says_that_its_hub_says_nothing(month: Database, open_page: OpenPage, tmp_path: Path) -> None:
    script = (JOBS / "opskpi" / "dashboard" / "static" / "live.js").read_text()
    [silence_ms] = re.findall(r"LONGEST_SILENCE_MS = (\d+)", script)
    assert 2 * live.BEAT_S < int(silence_ms) / 1000 <= 10 - 0.5
    watched = open_page()
    with running_hub(month.dsn, tmp_path, "--no-auth") as hub:
        watched.go(f"{hub.url}/hooks?range=24h")
        expect(watched.page.locator("#live")).to_have_text("live")
        hub.process.send_signal(signal.SIGSTOP)
        try:
            expect(watched.page.locator("#live")).to_have_text("not live, connecting again")
        finally:
            hub.process.send_signal(signal.SIGCONT)
        expect(watched.page.locator("#live")).to_have_text("live")


def test_a_reader_logs_in_sees_the_own_org_and_leaves(
    server_hub: Hub, open_page: OpenPage, server_hub_database: psycopg.Connection
) -> None:
    orgs = {name: uuid4() for name in ("quagga", "okapi")}
    for name, org in orgs.items():
        with server_hub.client(make_key(server_hub_database, org)) as client:
            post(client, [hook_event(org, result="blocked", findings_summary={"pattern": f"{name}-pattern"})])
    watched = open_page()
    page = watched.page
    page.goto(f"{server_hub.url}/hooks?range=24h")
    key = make_key(server_hub_database, orgs["quagga"], "read")
    page.get_by_label("API key").fill("opskpi_0123456789ab_wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown, revoked, expired or lacks the scope read")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector('#live[data-state="live"]')
    assert page.url == f"{server_hub.url}/hooks?range=24h"
    expect(page.locator("#patterns")).to_contain_text("quagga-pattern")
    assert "okapi" not in page.content()
    found = keys.parse(key)
    assert found is not None
    cookies = page.context.cookies()
    assert [(cookie.get("name"), cookie.get("httpOnly"), cookie.get("sameSite")) for cookie in cookies] == [
        ("opskpi_session", True, "Lax")
    ]
    page.get_by_role("button", name="Log out").click()
    page.goto(f"{server_hub.url}/hooks")
    expect(page.get_by_label("API key")).to_be_visible()
    # A session whose key is revoked leads to the login by itself.
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector('#live[data-state="live"]')
    assert keys.revoke(server_hub_database, found.key_id)
    with server_hub.client(make_key(server_hub_database, orgs["quagga"])) as client:
        post(client, [hook_event(orgs["quagga"])])
    expect(page.get_by_label("API key")).to_be_visible(timeout=30_000)


def test_an_admin_silences_an_alert_on_the_page(
    open_hub: Hub, open_page: OpenPage, month_database: psycopg.Connection
) -> None:
    watched = open_page(timezone_id="Asia/Tokyo")
    watched.go(f"{open_hub.url}/alerts")
    with watched.page.expect_navigation():
        watched.page.get_by_label("Clock", exact=True).select_option("Asia/Tokyo")
    watched.page.get_by_label("Rule, objective").fill("provenance_validation_availability")
    watched.page.get_by_label("Until (Asia/Tokyo)").fill("2099-01-01T09:00")
    watched.page.get_by_label("Reason").fill("too far ahead")
    watched.page.get_by_role("button", name="Silence").click()
    expect(watched.page.locator("main")).to_contain_text("is too long")
    watched.page.go_back()
    until = str(
        scalar(
            month_database,
            "select to_char((now() + interval '2 days') at time zone 'Asia/Tokyo', 'YYYY-MM-DD\"T\"09:00')",
        )
    )
    watched.page.get_by_label("Rule, objective").fill("provenance_validation_availability")
    watched.page.get_by_label("Until (Asia/Tokyo)").fill(until)
    watched.page.get_by_label("Reason").fill("rebuilding")
    watched.page.get_by_role("button", name="Silence").click()
    expect(watched.page.locator("#silences")).to_contain_text("rebuilding")
    stored = scalar(
        month_database,
        "select to_char(until at time zone 'UTC', 'HH24:MI') from v_ops_alert_silences where reason = 'rebuilding'",
    )
    assert stored == "00:00"


def test_times_are_those_of_the_readers_clock_when_asked_for(open_hub: Hub, open_page: OpenPage) -> None:
    watched = open_page(timezone_id="Asia/Tokyo")
    watched.go(f"{open_hub.url}/?range=24h")
    assert "UTC" in watched.page.locator("#freshness").inner_text()
    with watched.page.expect_navigation():
        watched.page.get_by_label("Clock", exact=True).select_option(label="local (Asia/Tokyo)")
    assert "tz=Asia%2FTokyo" in watched.page.url
    assert "Asia/Tokyo" in watched.page.locator("#freshness").inner_text()


def test_a_page_is_used_with_the_keyboard_alone(open_hub: Hub, open_page: OpenPage) -> None:
    watched = open_page()
    watched.go(f"{open_hub.url}/")
    watched.page.keyboard.press("Tab")
    expect(watched.page.get_by_text("Skip to the content")).to_be_focused()
    watched.page.keyboard.press("Enter")
    expect(watched.page.locator("main")).to_be_focused()
    watched.page.get_by_label("Range", exact=True).focus()
    with watched.page.expect_navigation():
        watched.page.keyboard.press("ArrowDown")
    assert "range=30d" in watched.page.url


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone(open_hub: Hub, open_page: OpenPage, name: str) -> None:
    watched = open_page(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    watched.go(open_hub.url + PAGES[name])
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 360
    watched.page.screenshot(path=SCREENSHOTS / f"{name}-phone.png")


def test_a_page_is_read_and_filtered_without_scripts(open_hub: Hub, open_page: OpenPage) -> None:
    page = open_page(java_script_enabled=False).page
    page.goto(f"{open_hub.url}/hooks")
    page.get_by_label("Range", exact=True).select_option("30d")
    page.get_by_role("button", name="Show").click()
    assert "range=30d" in page.url
    assert re.fullmatch(r"[\d,]+ count", tile(page, "hook_executions_total"))
    assert page.locator("#hook-charts svg.chart").count() == 3


def test_a_link_that_cannot_be_shown_says_what_to_do(open_hub: Hub, open_page: OpenPage) -> None:
    watched = open_page()
    watched.page.goto(f"{open_hub.url}/?range=90d&period=hour")
    expect(watched.page.locator("main")).to_contain_text("Choose a longer period or a shorter window")
    watched.page.get_by_role("link", name="To the overview").click()
    expect(watched.page.locator("h1")).to_have_text("Overview")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_is_one_file_that_asks_for_nothing(
    month: Database, open_page: OpenPage, tmp_path: Path, scheme: str
) -> None:
    file = tmp_path / "report.html"
    written = subprocess.run(
        [sys.executable, "-m", "opskpi", "report", "--dsn", month.dsn, "--range", "30d", "--out", str(file)],
        env=os.environ | {"PYTHONPATH": str(JOBS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert written.returncode == 0, written.stderr
    watched = open_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    watched.page.goto(file.as_uri())
    expect(watched.page.locator("svg.chart").first).to_be_visible()
    watched.page.screenshot(path=SCREENSHOTS / f"report-{scheme}.png", full_page=True)
    assert serious_faults(watched.page) == []
    assert watched.complaints == []
    assert watched.requests == [file.as_uri()]

"""Fixtures of the browser tests: headless Chromium, and hubs over the demo's month."""

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from support.browsers import OpenPage, Watched
from support.hubs import Hub, running_hub
from support.patience import PATIENCE_S
from support.postgres import Database, Server, janitor, unavailable

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# It looks for its maker's hosts at every start otherwise.
QUIET = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run one headless Chromium for a file; longer, its event loop would be in the way of tests that run their own."""
    if CHROMIUM is None:
        unavailable("no Chromium is installed (Debian: apt-get install chromium)")
    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        # The sandbox refuses root; the pages are our own.
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *sandbox])
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open a page in a context of its own: `open_page(color_scheme="dark", …)`."""
    with ExitStack() as opened:

        def open_one(**options: Any) -> Watched:
            context: BrowserContext = browser.new_context(**options)
            opened.callback(context.close)
            context.set_default_timeout(PATIENCE_S * 1000)
            watched = Watched(context.new_page())
            watched.page.on("console", lambda said: _complain(watched, said.type, said.text))
            watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
            watched.page.on("request", lambda request: watched.requests.append(request.url))
            watched.page.on("websocket", lambda socket: watched.requests.append(socket.url.replace("ws", "http", 1)))
            return watched

        yield open_one


def _complain(watched: Watched, kind: str, text: str) -> None:
    if kind in {"error", "warning"}:
        watched.complaints.append(text)


@pytest.fixture(scope="session")
def month(server: Server) -> Iterator[Database]:
    """Load the demo's month into a database of its own, as `opskpi demo` does, and let the jobs run once."""
    # Late, as the template does it.
    demo = importlib.import_module("opskpi.demo.story")
    with janitor(server, "demo_month"):
        demo.run(server.dsn("demo_month"), quiet=True)
        with psycopg.connect(server.dsn("demo_month"), autocommit=True) as connection:
            connection.execute("select ops.run()")
        yield server.database("demo_month")


@pytest.fixture(scope="session")
def open_hub(month: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Run the hub as the demo offers it: for this machine, without a login."""
    with running_hub(month.dsn, tmp_path_factory.mktemp("open-hub"), "--no-auth") as running:
        yield running


@pytest.fixture
def month_database(month: Database) -> Iterator[psycopg.Connection]:
    """Connect to the demo's database as its owner."""
    with psycopg.connect(month.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def server_hub(server: Server, template: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Run a hub with a login, over a migrated database."""
    with (
        janitor(server, "browser_hub", template=template.name),
        running_hub(server.dsn("browser_hub"), tmp_path_factory.mktemp("browser-hub")) as running,
    ):
        yield running


@pytest.fixture
def server_hub_database(server_hub: Hub) -> Iterator[psycopg.Connection]:
    """Connect to that database as its owner."""
    with psycopg.connect(server_hub.dsn, autocommit=True) as connection:
        yield connection

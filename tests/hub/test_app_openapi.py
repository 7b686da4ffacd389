"""The OpenAPI document: it says what the hub does, and whatever it allows, the hub answers as it says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from opskpi.dashboard.layout import PAGES
from support.hubs import Hub, make_key, problem

CONFIGURATION = """
[parameters]
"query.org_id" = "{org}"
"""


def explore(folder: Path, document: str, *options: str) -> None:
    """Ask a hub whatever an OpenAPI document allows and what it does not, and require that no check fails."""
    finished = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "run", document, *options),
            *("--phases", "examples,coverage,fuzzing", "--seed", "1", "--generation-database", "none", "--no-color"),
        ],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_whatever_the_document_allows_is_answered_as_it_says(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, tmp_path: Path
) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION.format(org=org))
    key = f"Authorization: Bearer {make_key(hub_database, org)}"
    options = ("--header", key, "--exclude-checks", "positive_data_acceptance", "--max-examples", "20")
    explore(tmp_path, f"{hub.url}/openapi.json", *options)


# The key of the test above may do everything; these are refused most of it.
@pytest.mark.parametrize("scopes", [[], ["ingest"]], ids=["no key", "ingest"])
def test_whoever_asks_no_operation_fails(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, tmp_path: Path, scopes: list[str]
) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION.format(org=org))
    key = ["--header", f"Authorization: Bearer {make_key(hub_database, org, *scopes)}"] if scopes else []
    checks = ("--checks", "not_a_server_error", "--max-examples", "10")
    explore(tmp_path, f"{hub.url}/openapi.json", *key, *checks)


def pages(secret: str) -> dict[str, Any]:
    """The pages and their forms as a document of their own, since the hub's is that of its API."""
    filters = ("range", "since", "until", "period", "tz", "theme", "team", "hook_type", "workflow", "event_type", "slo")
    query = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in (*filters, "next")]
    named = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    answer = {"responses": {"default": {"description": "A page."}}}

    def form(*fields: str) -> dict[str, Any]:
        properties = {name: {"type": "string"} for name in fields} | {"token": {"enum": [secret, "wrong"]}}
        content = {"application/x-www-form-urlencoded": {"schema": {"type": "object", "properties": properties}}}
        return {"post": answer | {"requestBody": {"content": content}}}

    paths: dict[str, Any] = {
        path: {"get": answer | {"parameters": query}}
        for path in ("/login", "/docs", "/openapi.json", "/", *(f"/{page}" for page in PAGES if page != "overview"))
    }
    paths["/login"] |= form("key", "next")
    paths["/alerts/silence"] = form("matcher", "until", "reason", "tz")
    paths["/static/{name}"] = {"get": answer | {"parameters": [named]}}
    paths["/live/{name}"] = {"get": answer | {"parameters": [named, *query]}}
    return {"openapi": "3.1.0", "info": {"title": "pages", "version": "1"}, "paths": paths}


@pytest.mark.parametrize("scopes", [[], ["read", "admin"]], ids=["a visitor", "an admin"])
def test_whatever_a_browser_asks_for_no_page_fails(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, tmp_path: Path, scopes: list[str]
) -> None:
    token, cookie = "none", []
    if scopes:
        with hub.client() as browser:
            browser.post("/login", data={"key": make_key(hub_database, org, *scopes)})
            cookie = ["--header", f"Cookie: opskpi_session={browser.cookies['opskpi_session']}"]
            token = browser.get("/").text.partition('name="token" value="')[2].partition('"')[0]
    (tmp_path / "pages.json").write_text(json.dumps(pages(token)))
    checks = ("--url", hub.url, "--checks", "not_a_server_error", "--max-examples", "10")
    explore(tmp_path, "pages.json", *cookie, *checks)


def test_the_document_describes_every_operation_its_statuses_and_the_key(hub: Hub) -> None:
    with hub.client() as client:
        document = client.get("/openapi.json").json()
    # A head may be refused whatever it asks for.
    operations = {
        f"{method.upper()} {path}": set(map(int, operation["responses"])) - {400, 431}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert operations == {
        "POST /api/v1/telemetry": {200, 401, 403, 408, 413, 415, 422, 429, 500, 503},
        "GET /api/v1/hooks/metrics": {200, 401, 403, 422, 500, 503},
        "GET /api/v1/policy": {200, 304, 401, 403, 500, 503},
        "PUT /api/v1/policy": {200, 401, 403, 408, 412, 413, 415, 422, 500, 503},
        "POST /api/v1/github": {200, 401, 404, 408, 413, 415, 422, 429, 500, 503},
        "GET /metrics": {200, 401, 403, 500, 503},
        "GET /api/v1/export/events": {200, 401, 403, 406, 422, 500, 503},
        "GET /api/v1/export/kpis": {200, 401, 403, 406, 422, 500, 503},
        "GET /api/v1/export/audits": {200, 401, 403, 406, 422, 500, 503},
        "GET /api/v1/export/slo": {200, 401, 403, 406, 422, 500, 503},
        "GET /healthz": {200, 500},
        "GET /readyz": {200, 500, 503},
    }
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    assert [parameter["name"] for parameter in document["paths"]["/api/v1/hooks/metrics"]["get"]["parameters"]] == [
        "org_id",
        "start_date",
        "end_date",
        "team",
        "hook_type",
    ]


def test_the_page_shows_every_operation_and_loads_nothing_from_elsewhere(hub: Hub) -> None:
    with hub.client() as client:
        page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"<script|<link|<img|@import|//", page.text)
    for shown in ("/api/v1/telemetry", "/api/v1/hooks/metrics", "/api/v1/policy", "If-Match", "429", "override_rate"):
        assert shown in page.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/policy/", 404),
        ("DELETE", "/api/v1/policy", 405),
        ("GET", "/api/v1/telemetry", 405),
        ("TRACE", "/healthz", 405),
    ],
)
def test_what_there_is_not_is_a_problem_too(hub: Hub, method: str, path: str, status: int) -> None:
    with hub.client() as client:
        answer = client.request(method, path)
    assert answer.status_code == status
    assert problem(answer)["instance"] == path
    assert ("allow" in answer.headers) == (status == 405)

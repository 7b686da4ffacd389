"""The OpenAPI document: it says what the hub does, and whatever it allows, the hub answers as it says."""

import os
import re
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from support.hubs import Hub, make_key, problem

CONFIGURATION = """
[parameters]
"query.org_id" = "{org}"
"""


def test_whatever_the_document_allows_is_answered_as_it_says(
    hub: Hub, hub_database: psycopg.Connection, org: UUID, tmp_path: Path
) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION.format(org=org))
    key = make_key(hub_database, org)
    finished = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{hub.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {key}", "--phases", "examples,coverage,fuzzing"),
            *("--exclude-checks", "positive_data_acceptance"),
            *("--max-examples", "20", "--seed", "1", "--generation-database", "none", "--no-color"),
        ],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_the_document_describes_every_operation_its_statuses_and_the_key(hub: Hub) -> None:
    with hub.client() as client:
        document = client.get("/openapi.json").json()
    operations = {
        f"{method.upper()} {path}": set(map(int, operation["responses"]))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert operations == {
        "POST /api/v1/telemetry": {200, 400, 401, 403, 408, 413, 415, 422, 429, 500, 503},
        "GET /api/v1/hooks/metrics": {200, 401, 403, 422, 500, 503},
        "GET /api/v1/policy": {200, 304, 401, 403, 500, 503},
        "PUT /api/v1/policy": {200, 400, 401, 403, 408, 412, 413, 415, 422, 500, 503},
        "POST /api/v1/github": {200, 400, 401, 404, 408, 413, 415, 422, 429, 500, 503},
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

"""`opskpi collect` from a terminal: files, standard input, the event of a workflow, polling; runs in, KPIs out."""

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opskpi.commands.main import cli as commands
from opskpi.errors import OpsKpiError
from opskpi.github import reading
from support.events import refresh, rows, scalar
from support.fixtures import ActingAs, Cli
from support.postgres import Database
from support.rest_api import REPOSITORY, RUNS, TOKEN, Reply, rest_api, workflow_run

SECRET = "It's a Secret to Everybody"  # noqa: S105
SUMMARY = ("accepted", "duplicate", "refused", "still_running")
Json = dict[str, Any]
Collect = Callable[..., list[tuple[int, ...]]]


@pytest.fixture
def collect(migrated_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collect:
    """Run `opskpi collect github` within this process and return the counts of each source."""
    for variable in ("GITHUB_EVENT_PATH", "GITHUB_API_URL", "GITHUB_TOKEN", "GH_TOKEN", "GITHUB_SERVER_URL"):
        monkeypatch.delenv(variable, raising=False)

    def call(*arguments: str, document: object = None, env: Mapping[str, str] | None = None) -> list[tuple[int, ...]]:
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        answer = CliRunner().invoke(
            commands, ["collect", "github", "--json", "--dsn", migrated_database.dsn, *arguments], input=raw, env=env
        )
        if answer.exception and not isinstance(answer.exception, SystemExit):
            raise answer.exception
        return [tuple(summary[key] for key in SUMMARY) for summary in json.loads(answer.stdout)]

    return call


def webhook(described: Json, action: str = "completed") -> Json:
    return {"action": action, "workflow_run": described, "repository": {"full_name": REPOSITORY}}


def made_up_runs() -> list[Json]:
    """Return 140 runs in the mixture of a real repository: 95 success, 32 failure, 11 cancelled, 2 without a word."""
    conclusions = ["success"] * 95 + ["failure"] * 32 + ["cancelled"] * 11 + [None] * 2
    began = datetime.fromisoformat("2026-02-01T00:00:00Z")
    return [
        workflow_run(1000 + number, at=(began + timedelta(hours=number)).isoformat(), seconds=number * 7 % 601)
        | {"status": "completed", "conclusion": conclusion}
        for number, conclusion in enumerate(conclusions)
    ]


def figures(runs: list[Json]) -> tuple[dict[str | None, int], Decimal]:
    """Return how many runs came to which conclusion, and the sum of their durations in ms, from the file alone."""
    durations = [
        datetime.fromisoformat(one["updated_at"]) - datetime.fromisoformat(one["run_started_at"]) for one in runs
    ]
    found = [one["conclusion"] for one in runs]
    return {conclusion: found.count(conclusion) for conclusion in set(found)}, Decimal(sum(durations, timedelta()) // timedelta(milliseconds=1))  # fmt: skip


def require_the_figures_of(runs: list[Json], connection: psycopg.Connection) -> None:
    found, total_ms = figures(runs)
    stored = dict(
        rows(
            connection,
            "select nullif(metadata ->> 'conclusion', 'unknown'), count(*)::integer from telemetry_events group by 1",
        )
    )
    assert stored == found
    assert scalar(connection, "select sum(duration_ms) from telemetry_events") == total_ms
    refresh(connection)
    rates = rows(
        connection,
        "select sum((metadata ->> 'numerator')::integer), sum((metadata ->> 'denominator')::integer) from kpi_aggregations"
        " where metric_name = 'error_rate' and aggregation_period = 'month'",
    )
    assert rates == [(found["failure"], found["failure"] + found["success"])]
    average = rows(
        connection,
        "select sum((metadata ->> 'numerator')::numeric), sum((metadata ->> 'denominator')::numeric) from kpi_aggregations"
        " where metric_name = 'workflow_run_avg_duration_ms' and aggregation_period = 'month'",
    )
    assert average == [(total_ms, len(runs))]


def test_140_made_up_runs_read_twice_are_140_events_once(
    collect: Collect, database: psycopg.Connection, tmp_path: Path
) -> None:
    file = tmp_path / "workflow_runs.json"
    file.write_text(json.dumps({"total_count": 140, "workflow_runs": made_up_runs()}))
    assert collect(str(file), str(file)) == [(140, 0, 0, 0), (0, 140, 0, 0)]
    require_the_figures_of(made_up_runs(), database)


def test_140_real_runs_read_twice_are_140_events_once(
    collect: Collect, database: psycopg.Connection, shared_data: Path
) -> None:
    file = shared_data / "data/github/workflow_runs.json"
    runs = json.loads(file.read_text("utf-8"))["workflow_runs"]
    assert collect(str(file), str(file)) == [(140, 0, 0, 0), (0, 140, 0, 0)]
    found, _ = figures(runs)
    assert found == {"success": 95, "failure": 32, "cancelled": 11, None: 2}
    require_the_figures_of(runs, database)


def test_of_real_payloads_the_completed_ones_become_events(
    collect: Collect, database: psycopg.Connection, shared_data: Path
) -> None:
    folder = shared_data / "data/github"
    names = ("webhook_workflow_run_completed", "webhook_workflow_job_completed", "webhook_workflow_run_requested")
    files = [str(folder / f"{name}.json") for name in names]
    assert collect(*files) == [(1, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1)]
    assert rows(database, "select event_type, run_id from telemetry_events order by 1") == [
        ("workflow_job", 2202229078),
        ("workflow_run", 289782451),
    ]


def test_a_webhook_and_a_poll_of_the_same_run_are_one_event(collect: Collect, database: psycopg.Connection) -> None:
    began = datetime.now().astimezone() - timedelta(hours=1)
    described = workflow_run(1, at=began.strftime("%Y-%m-%dT%H:%M:%S%z"))
    assert collect("-", document=webhook(described | {"updated_at": began.isoformat()})) == [(1, 0, 0, 0)]
    with rest_api(described) as rest:
        assert collect("--repo", REPOSITORY, "--api-url", rest.url, "--since", "2020-01-01") == [(0, 1, 0, 0)]
    assert scalar(database, "select count(*) from telemetry_events where event_type = 'workflow_run'") == 1


def test_the_event_that_started_a_workflow_is_read_without_being_named(collect: Collect, tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(webhook(workflow_run(1))))
    assert collect(env={"GITHUB_EVENT_PATH": str(file)}) == [(1, 0, 0, 0)]


def test_the_event_of_a_server_of_its_own_is_no_event_of_github_com(
    collect: Collect, database: psycopg.Connection
) -> None:
    bare = workflow_run(1) | {"html_url": None}
    assert collect("-", document=bare) == [(1, 0, 0, 0)]
    assert collect("-", document=bare, env={"GITHUB_SERVER_URL": "https://ghe.example"}) == [(1, 0, 0, 0)]


def test_a_tenant_has_its_own_runs(collect: Collect, database: psycopg.Connection) -> None:
    org = "aaaaaaaa-0000-4000-8000-00000000000a"
    assert (
        collect("-", document=workflow_run(1)) == collect("-", "--org", org, document=workflow_run(1)) == [(1, 0, 0, 0)]
    )
    assert rows(database, "select org_id::text from telemetry_events order by 1")[-1] == (org,)


def test_a_user_of_the_api_collects_for_the_own_org(database: psycopg.Connection, acting_as: ActingAs) -> None:
    org = "aaaaaaaa-0000-4000-8000-00000000000a"
    raw = json.dumps(webhook(workflow_run(1))).encode()
    for expected in ((1, 0), (0, 1)):
        with acting_as(database, "authenticated", org, commit=True):
            summary = reading.collect(database, "-", raw, {})
        assert (summary.accepted, summary.duplicate) == expected
    assert rows(database, "select org_id::text from telemetry_events") == [(org,)]


def test_jobs_do_not_count_their_run_a_second_time(collect: Collect, database: psycopg.Connection) -> None:
    job = {"id": 5, "run_id": 1, "name": "test", "workflow_name": "ci", "status": "completed", "conclusion": "failure"}
    job |= {"started_at": "2026-03-10T12:00:00Z", "completed_at": "2026-03-10T12:00:50Z"}
    collect("-", document=[webhook(workflow_run(1, "failure")), {"action": "completed", "workflow_job": job}])
    refresh(database)
    counted = rows(
        database,
        "select metric_name, (metadata -> 'sample_count')::integer from kpi_aggregations"
        " where aggregation_period = 'day' and metric_name in ('error_rate', 'workflow_run_avg_duration_ms') order by 1",
    )
    assert counted == [("error_rate", 1), ("workflow_run_avg_duration_ms", 1)]


def test_a_signed_payload_is_read_and_a_changed_one_is_not(collect: Collect, tmp_path: Path) -> None:
    raw = json.dumps(webhook(workflow_run(1))).encode()
    signature = "sha256=" + hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()
    signed = ("-", "--signature", signature, "--secret-env", "HOOK_SECRET")
    assert collect(*signed, document=raw, env={"HOOK_SECRET": SECRET}) == [(1, 0, 0, 0)]
    with pytest.raises(OpsKpiError, match="the signature does not fit"):
        collect(*signed, document=raw + b" ", env={"HOOK_SECRET": SECRET})


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 64, "there is nothing to read"),
        (["no-such-file.json"], 64, "no-such-file.json cannot be read"),
        (["nul\0.json"], 64, "cannot be read"),
        (["--repo", "nonsense"], 64, "is no repository"),
        (["--repo", "../.."], 64, "is no repository"),
        (["--repo", "a/b", "file.json"], 64, "--repo polls"),
        (["--repo", "a/b", "--api-url", "http://example.com"], 64, "cross the network in clear"),
        (["--since", "2026-01-01", "-"], 64, "--since is for polling"),
        (["--signature", "sha256=00", "-"], 64, "no secret to check it with"),
        (["--secret-env", "NOT_SET_ANYWHERE", "-"], 78, "NOT_SET_ANYWHERE is not set"),
        (["--signature", "sha256=00", "a", "b"], 64, "a signature is of one payload"),
    ],
    ids=repr,
)
def test_what_cannot_be_meant_is_one_clear_message(
    collect: Collect, arguments: list[str], code: int, words: str
) -> None:
    with pytest.raises(OpsKpiError) as failure:
        collect(*arguments)
    assert (failure.value.exit_code, words in failure.value.message) == (code, True)


def test_a_terminal_shows_counts_and_the_reason_of_each_refusal(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    file.write_text(
        json.dumps(
            [
                workflow_run(1),
                workflow_run(2, None),
                workflow_run(3) | {"updated_at": "soon"},
                {"zen": "Keep it logically awesome."},
            ]
        )
    )
    answer = cli("collect", "github", str(file))
    assert answer.returncode == 0, answer.stderr
    assert "1 accepted, 0 duplicate, 2 refused, 1 still running" in answer.stdout
    assert "element 3: updated_at must be a time" in answer.stdout
    assert "element 4: is neither a workflow_run nor a workflow_job payload" in answer.stdout


def test_a_payload_of_another_event_is_a_failure(cli: Cli) -> None:
    answer = cli("collect", "github", "-", stdin='{"ref": "refs/heads/main", "commits": []}')
    assert answer.returncode == 1
    assert "everything was refused" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_polling_from_a_terminal_keeps_the_token_to_itself(cli: Cli, database: psycopg.Connection) -> None:
    with rest_api(workflow_run(1)) as rest:
        rest.reply(RUNS, None, Reply(403, b"{}", {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "4000000000"}))
        poll = ("collect", "github", "--repo", REPOSITORY, "--since", "2026-03-01")
        environment = {"GITHUB_TOKEN": TOKEN, "GITHUB_API_URL": rest.url}
        done, limited = cli(*poll, env=environment), cli(*poll, env=environment)
        assert rest.headers[0]["authorization"] == f"Bearer {TOKEN}"
    assert (done.returncode, limited.returncode) == (0, 75)
    assert f"127.0.0.1/{REPOSITORY}: 1 accepted, 0 duplicate, 0 refused, 0 still running, 2 requests" in done.stdout
    assert "the rate limit is used up until 2096-10-02T07:0" in limited.stderr
    shown = cli("collect")
    assert f"127.0.0.1/{REPOSITORY}" in shown.stdout
    kept = rows(database, "select event::text from telemetry_events as event")
    said = [answer.stdout + answer.stderr for answer in (done, limited, shown)] + [text for (text,) in kept]
    assert [text for text in said if TOKEN in text] == []


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (f'"{TOKEN}"', "GITHUB_TOKEN holds quotation marks"),
        ("success", "GITHUB_TOKEN holds what stands in ordinary answers"),
        (TOKEN, "a web page instead of JSON"),
    ],
)
def test_a_terminal_says_what_is_wrong_with_a_token_in_two_lines_and_not_the_token(
    cli: Cli, token: str, words: str
) -> None:
    with rest_api(workflow_run(1)) as rest:
        if token == TOKEN:
            rest.reply(RUNS, Reply(200, b"<html>Sign in</html>"))
        poll = ("collect", "github", "--repo", REPOSITORY, "--api-url", rest.url, "--since", "2026-03-01")
        answer = cli(*poll, env={"GITHUB_TOKEN": token})
    assert (answer.returncode, len(answer.stderr.strip().splitlines())) == (78, 2), answer.stderr
    assert words in answer.stderr
    assert TOKEN not in answer.stdout + answer.stderr


def test_more_runs_in_one_second_than_github_lists_end_with_an_exit_code_and_a_way_out(
    collect: Collect, database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("listing", "polling"):
        monkeypatch.setattr(f"opskpi.github.{module}.LISTED_AT_MOST", 10)
    crowd = [workflow_run(number, at="2026-03-05T12:00:00Z") for number in range(1, 14)]
    with rest_api(*crowd, workflow_run(50, at="2026-03-01T00:00:00Z")) as rest:
        rest.listed_at_most = 10
        with pytest.raises(OpsKpiError, match="runs are missing that GitHub does not list") as failure:
            collect("--repo", REPOSITORY, "--api-url", rest.url, "--since", "2026-03-01")
    assert (failure.value.exit_code, "status=failure" in failure.value.hint) == (1, True)
    assert scalar(database, "select count(*) from telemetry_events where event_type = 'workflow_run'") == 11


def test_the_own_job_becomes_an_event(cli: Cli, database: psycopg.Connection) -> None:
    environment = {
        "GITHUB_RUN_ID": "42",
        "GITHUB_JOB": "release",
        "GITHUB_WORKFLOW": "release",
        "GITHUB_REF_TYPE": "tag",
        "GITHUB_REF_NAME": "v1",
    }
    ended = (
        "collect",
        "job",
        "--outcome",
        "failure",
        "--event-type",
        "slsa_provenance",
        "--started-at",
        "2026-03-10T12:00:00Z",
    )
    assert cli(*ended, env=environment).returncode == 0
    [again] = [json.loads(cli(*ended, "--json", env=environment).stdout)]
    assert (again["accepted"], again["duplicate"]) == (0, 1)
    stored = rows(database, "select event_type, run_id, tag, outcome, duration_ms > 0 from telemetry_events")
    assert stored == [("slsa_provenance", 42, "v1", "failure", True)]
    refused = cli("collect", "job", "--outcome", "success", "--event-type", "nonsense", env=environment)
    assert (refused.returncode, "is no known event type" in refused.stdout) == (64, True)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.dictionaries(
        st.sampled_from(sorted(workflow_run(1))), st.none() | st.integers() | st.text() | st.booleans(), max_size=3
    )
)
def test_whatever_a_payload_holds_is_stored_or_refused(database: psycopg.Connection, changes: Json) -> None:
    raw = json.dumps(webhook(workflow_run(1) | changes)).encode()
    summary = reading.collect(database, "-", raw, {})
    assert summary.accepted + summary.duplicate + summary.refused + summary.still_running == 1

"""GitHub's webhooks at the hub: signed, for one org, and each attempt of a run once."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID

import httpx
import psycopg
import pytest

from support.events import rows
from support.hubs import Hub, problem, running_hub
from support.rest_api import REPOSITORY, Json, workflow_run

GITHUB = "/api/v1/github"
FORM = "application/x-www-form-urlencoded"
SECRET = "a secret of two, long and not guessed"  # noqa: S105
ORG = UUID("33333333-0000-4000-8000-000000000003")


@pytest.fixture(scope="module")
def webhooks(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Run a hub that takes webhooks, over the database of the shared one."""
    options = ("--github-secret-env", "WEBHOOK_SECRET", "--github-org", str(ORG))
    with running_hub(hub.dsn, tmp_path_factory.mktemp("webhooks"), *options, env={"WEBHOOK_SECRET": SECRET}) as running:
        yield running


def payload(described: Json, action: str = "completed") -> bytes:
    return json.dumps({"action": action, "workflow_run": described, "repository": {"full_name": REPOSITORY}}).encode()


def deliver(hub: Hub, body: bytes, secret: str = SECRET, event: str = "workflow_run", **headers: str) -> httpx.Response:
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    sent = {"Content-Type": "application/json", "X-GitHub-Event": event, "X-Hub-Signature-256": signature} | headers
    with hub.client() as client:
        return client.post(GITHUB, content=body, headers=sent)


def test_a_signed_run_is_stored_once_for_the_org_of_the_webhooks(
    webhooks: Hub, hub_database: psycopg.Connection
) -> None:
    body = payload(workflow_run(4711))
    nothing = {"accepted": 0, "duplicate": 0, "still_running": 0, "refused": []}
    assert deliver(webhooks, body).json() == nothing | {"accepted": 1}
    assert deliver(webhooks, body).json() == nothing | {"duplicate": 1}
    assert deliver(
        webhooks, payload(workflow_run(4712) | {"status": "in_progress", "conclusion": None}, "in_progress")
    ).json() == (nothing | {"still_running": 1})
    assert deliver(webhooks, b'{"zen": "Keep it logically awesome."}', event="ping").json() == nothing
    query = "select org_id, event_type, run_id from public.telemetry_events where run_id in (4711, 4712)"
    assert rows(hub_database, query) == [(ORG, "workflow_run", 4711)]


def test_the_workflows_that_settings_name_are_what_they_name(webhooks: Hub, hub_database: psycopg.Connection) -> None:
    assert deliver(webhooks, payload(workflow_run(4721) | {"name": "slsa-provenance"})).json()["accepted"] == 1
    query = "select event_type from public.telemetry_events where run_id = 4721"
    assert rows(hub_database, query) == [("slsa_provenance",)]


def test_webhooks_of_two_workflows_of_one_name_are_counted_apart(
    webhooks: Hub, hub_database: psycopg.Connection
) -> None:
    for number, file in ((4771, "one"), (4772, "two"), (4773, "one"), (4774, "two")):
        described = workflow_run(number, name="twins", path=f".github/workflows/{file}.yml", workflow_id=len(file))
        assert deliver(webhooks, payload(described)).json()["accepted"] == 1
    query = (
        "select metadata ->> 'workflow' from public.telemetry_events where run_id between 4771 and 4774 order by run_id"
    )
    assert rows(hub_database, query) == [("twins",), ("twins (.github/workflows/two.yml)",)] * 2


@pytest.mark.parametrize(
    "headers",
    [{"X-Hub-Signature-256": ""}, {"X-Hub-Signature-256": "sha256=00"}, {"X-Hub-Signature-256": "sha1=00"}],
)
def test_what_is_not_signed_with_the_secret_is_401(webhooks: Hub, headers: dict[str, str]) -> None:
    answer = deliver(webhooks, payload(workflow_run(4731)), **headers)
    assert answer.status_code == 401
    assert "not signed" in problem(answer)["detail"]


def test_a_changed_payload_or_another_secret_is_401(webhooks: Hub, hub_database: psycopg.Connection) -> None:
    body = payload(workflow_run(4741))
    signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    changed = deliver(webhooks, payload(workflow_run(4742)), **{"X-Hub-Signature-256": signature})
    assert (changed.status_code, deliver(webhooks, body, "another").status_code) == (401, 401)
    assert rows(hub_database, "select from public.telemetry_events where run_id in (4741, 4742)") == []


@pytest.mark.parametrize(("body", "status"), [(b"", 400), (b"{", 400), (b'{"a": "' + b"x" * (4 << 20) + b'"}', 413)])
def test_what_is_no_json_or_too_large_is_refused(webhooks: Hub, body: bytes, status: int) -> None:
    answer = deliver(webhooks, body)
    assert answer.status_code == status
    problem(answer)


def test_a_payload_of_something_else_is_refused_by_itself(webhooks: Hub) -> None:
    answer = deliver(webhooks, b'{"action": "opened", "issue": {}}')
    assert answer.status_code == 200
    assert [bool(fault["reason"]) for fault in answer.json()["refused"]] == [True]


@pytest.mark.parametrize(("number", "form"), [(4751, FORM), (4752, f"{FORM}; charset=UTF-8"), (4753, FORM.upper())])
def test_a_webhook_that_is_sent_as_a_form_is_the_same_run_as_one_sent_as_json(
    webhooks: Hub, hub_database: psycopg.Connection, number: int, form: str
) -> None:
    sent = payload(workflow_run(number, name="bauen & prüfen+"))
    body = urlencode({"payload": sent.decode()}).encode()
    assert deliver(webhooks, body, **{"Content-Type": form}).json()["accepted"] == 1
    assert deliver(webhooks, sent).json()["duplicate"] == 1
    query = "select metadata ->> 'workflow' from public.telemetry_events where run_id = %s"
    assert rows(hub_database, query, number) == [("bauen & prüfen+",)]


def test_a_form_is_signed_as_it_is_sent_and_not_as_the_json_in_it(webhooks: Hub) -> None:
    sent = payload(workflow_run(4761))
    signature = "sha256=" + hmac.new(SECRET.encode(), sent, hashlib.sha256).hexdigest()
    form = urlencode({"payload": sent.decode()}).encode()
    answer = deliver(webhooks, form, **{"Content-Type": FORM, "X-Hub-Signature-256": signature})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", FORM, 400, "no field payload"),
        (b"other=1", FORM, 400, "no field payload"),
        (payload(workflow_run(4762)), FORM, 400, "no field payload"),
        (b"payload=", FORM, 400, "empty field payload"),
        (b"payload=%20", FORM, 400, "empty field payload"),
        (b"payload={}&payload={}", FORM, 400, "field payload 2 times"),
        (b"payload=%7B%7", FORM, 400, "broken percent-encoding at character 4"),
        (b"payload=%7B%zz%7D", FORM, 400, "broken percent-encoding at character 4"),
        (b"payload=%ff", FORM, 400, "not hold UTF-8"),
        (b"payload=%7B", FORM, 400, "not valid JSON"),
        (b"payload=%00", FORM, 400, "not valid JSON"),
        (b"payload=\xff", FORM, 400, "not UTF-8"),
        (b"&".join([b"a=1"] * 20), FORM, 400, "more than 10 fields"),
        (b"payload={}", "application/json", 400, "not valid JSON"),
        (b"payload={}", "text/plain", 415, f"must be application/json or {FORM}"),
        (b"payload={}", "multipart/form-data; boundary=x", 415, f"must be application/json or {FORM}"),
        (b"payload={}", f"{FORM}; charset=latin-1", 415, "UTF-8"),
        (b"payload=" + b"x" * (4 << 20), FORM, 413, "larger than"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_form_with_one_payload_is_refused_by_a_sentence(
    webhooks: Hub, body: bytes, kind: str, status: int, words: str
) -> None:
    answer = deliver(webhooks, body, **{"Content-Type": kind})
    assert (answer.status_code, words in problem(answer)["detail"]) == (status, True), problem(answer)


def test_a_byte_order_mark_before_the_json_is_passed_over(webhooks: Hub) -> None:
    assert deliver(webhooks, b"\xef\xbb\xbf" + payload(workflow_run(4763))).json()["accepted"] == 1


def test_a_hub_that_was_not_started_for_webhooks_takes_none(hub: Hub) -> None:
    answer = deliver(hub, payload(workflow_run(1)))
    assert answer.status_code == 404
    assert "--github-secret-env" in problem(answer)["hint"]


def test_a_secret_that_is_not_there_is_said_at_the_start(hub: Hub, tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="NOWHERE_TO_BE_SEEN is not set"),
        running_hub(hub.dsn, tmp_path, "--github-secret-env", "NOWHERE_TO_BE_SEEN"),
    ):
        pytest.fail("it runs")

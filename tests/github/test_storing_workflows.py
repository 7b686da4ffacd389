"""Two workflows of one name are two, whichever way their runs come in: polls, files, jobs, the own job."""

import json
from typing import Any

import pytest

from opskpi.github import own_job, reading
from opskpi.github.api import GitHub
from opskpi.github.payloads import read
from opskpi.github.polling import poll
from opskpi.github.rules import Rules
from opskpi.github.storing import Summary
from support.events import Connection, rows
from support.rest_api import NOW, REPOSITORY, RUNS, TOKEN, WORKFLOWS, Json, Reply, Rest, job, workflow_run

BUILD, TEST = ".github/workflows/build.yml", ".github/workflows/test.yml"


def run_of(number: int, path: str, at: str = "2026-03-10T12:00:00Z", name: str | None = "CI") -> Json:
    return workflow_run(number, at=at, name=name, path=path, workflow_id=7 if path.startswith(BUILD) else 8)


def entry_of(path: str, state: str = "active") -> Json:
    return {"id": 7 if path == BUILD else 8, "name": "CI", "path": path, "state": state}


def poll_once(connection: Connection, rest: Rest) -> Summary:
    with GitHub(rest.url, {"GITHUB_TOKEN": TOKEN}, sleep=lambda _: None, now=lambda: NOW) as github:
        return poll(connection, github, REPOSITORY, Rules(), now=NOW)


def collected_from(connection: Connection, *documents: object) -> Summary:
    return reading.collect(connection, "-", "\n".join(map(json.dumps, documents)).encode(), {})


def counted_as(connection: Connection, event_type: str = "workflow_run") -> dict[int, str]:
    """Return the label of the workflow of each run."""
    query = "select run_id::integer, metadata ->> 'workflow' from telemetry_events where event_type = %s"
    return dict(rows(connection, query, event_type))


def payloads_of(*documents: object) -> list[dict[str, Any]]:
    found = read(json.dumps(documents).encode(), Rules(), source="file")
    return [one.event["payload"] for one in found if one.event]


def test_an_event_tells_the_number_and_the_file_of_its_workflow() -> None:
    webhook = {
        "action": "completed",
        "workflow_run": workflow_run(1, path=None),
        "workflow": {"id": 7, "name": "CI", "path": BUILD},
    }
    for payload in payloads_of(run_of(1, f"{BUILD}@refs/heads/main"), webhook):
        assert (payload["workflow"], payload["workflow_id"], payload["workflow_path"]) == ("CI", 7, BUILD)


def test_a_number_that_is_none_is_refused_by_its_field() -> None:
    [one] = read(json.dumps(workflow_run(1, workflow_id="7")).encode(), Rules(), source="file")
    assert one.refusal is not None
    assert one.refusal.field == "workflow_id"


def test_a_run_without_a_name_has_that_of_another_run_of_its_workflow() -> None:
    names = [
        payload["workflow"]
        for payload in payloads_of(run_of(1, BUILD, name=None), run_of(2, BUILD), run_of(3, TEST, name=None))
    ]
    assert names == ["CI", "CI", "test"]


def test_a_poll_knows_from_the_list_of_workflows_that_a_name_is_that_of_two(database: Connection, rest: Rest) -> None:
    rest.workflows = [entry_of(BUILD), entry_of(TEST)]
    rest.runs = [run_of(1, BUILD)]
    poll_once(database, rest)
    rest.runs += [run_of(2, TEST, "2026-03-10T13:00:00Z"), run_of(3, BUILD, "2026-03-10T14:00:00Z")]
    poll_once(database, rest)
    assert counted_as(database) == {1: f"CI ({BUILD})", 2: f"CI ({TEST})", 3: f"CI ({BUILD})"}
    assert [target.partition("?")[0] for target in rest.asked].count(WORKFLOWS) == 1


def test_a_workflow_that_was_deleted_clashes_with_none(database: Connection, rest: Rest) -> None:
    rest.workflows = [entry_of(BUILD), entry_of(TEST, "deleted")]
    rest.runs = [run_of(1, BUILD)]
    poll_once(database, rest)
    assert counted_as(database) == {1: "CI"}


def test_a_workflow_that_is_added_later_leaves_the_other_its_name(database: Connection, rest: Rest) -> None:
    rest.workflows = [entry_of(BUILD)]
    rest.runs = [run_of(1, BUILD)]
    poll_once(database, rest)
    rest.workflows += [entry_of(TEST)]
    rest.runs += [run_of(2, TEST, "2026-03-10T13:00:00Z"), run_of(3, BUILD, "2026-03-10T14:00:00Z")]
    poll_once(database, rest)
    assert counted_as(database) == {1: "CI", 2: f"CI ({TEST})", 3: "CI"}


@pytest.mark.parametrize("reply", [Reply(404), Reply(200, b'{"workflows": [5, {}, {"id": 7, "name": 5}]}')])
def test_without_a_list_of_workflows_the_runs_of_a_page_tell(database: Connection, rest: Rest, reply: Reply) -> None:
    rest.reply(WORKFLOWS, reply)
    rest.runs = [run_of(1, BUILD), run_of(2, TEST)]
    assert poll_once(database, rest).accepted == 2
    assert counted_as(database) == {1: f"CI ({BUILD})", 2: f"CI ({TEST})"}


def test_a_file_knows_all_workflows_that_it_holds_before_its_first_run(
    database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opskpi.github.storing.BATCH", 2)
    runs = [run_of(1, BUILD), run_of(2, BUILD), run_of(3, BUILD), run_of(4, TEST)]
    assert collected_from(database, *runs).accepted == 4
    assert set(counted_as(database).values()) == {f"CI ({BUILD})", f"CI ({TEST})"}
    assert collected_from(database, *runs).duplicate == 4


def test_a_job_is_of_the_workflow_of_its_run_in_the_same_input(database: Connection) -> None:
    jobs = [
        job(number, number, "2026-03-10T12:00:10Z", "2026-03-10T12:01:00Z", workflow_name="CI") for number in (1, 2)
    ]
    collected_from(database, run_of(1, BUILD), run_of(2, TEST), {"jobs": jobs})
    assert counted_as(database, "workflow_job") == counted_as(database) == {1: f"CI ({BUILD})", 2: f"CI ({TEST})"}


def test_a_run_that_is_collected_again_after_a_clash_is_the_same_event(database: Connection, rest: Rest) -> None:
    collected_from(database, run_of(1, BUILD))
    rest.runs = [run_of(1, BUILD), run_of(2, TEST)]
    summary = poll_once(database, rest)
    assert (summary.accepted, summary.duplicate) == (1, 1)
    assert counted_as(database) == {1: "CI", 2: f"CI ({TEST})"}


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        (f"{REPOSITORY}/{BUILD}@refs/heads/main", BUILD),
        (f"{REPOSITORY}/{BUILD}@refs/tags/v1@2", BUILD),
        ("", None),
    ],
)
def test_the_own_job_tells_the_file_of_its_workflow(reference: str, path: str | None) -> None:
    environ = {"GITHUB_RUN_ID": "42", "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_WORKFLOW_REF": reference}
    assert own_job.event_of_own_job(environ, "success")["payload"].get("workflow_path") == path


def test_no_list_of_workflows_is_asked_for_when_all_are_known(database: Connection, rest: Rest) -> None:
    rest.workflows, rest.runs = [entry_of(BUILD)], [run_of(1, BUILD)]
    poll_once(database, rest)
    rest.asked.clear()
    rest.runs += [run_of(2, BUILD, "2026-03-10T13:00:00Z")]
    assert poll_once(database, rest).accepted == 1
    assert {target.partition("?")[0] for target in rest.asked} == {RUNS, f"{RUNS}/2/artifacts"}

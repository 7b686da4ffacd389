"""When runs ended, though GitHub moves their `updated_at`: by their jobs, by the webhook of the end, else not at all."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from opskpi.github import polling
from opskpi.github.api import GitHub
from opskpi.github.payloads import read
from opskpi.github.polling import poll
from opskpi.github.rules import Rules
from opskpi.github.storing import Summary
from support.events import Connection, rows
from support.rest_api import NOW, REPOSITORY, RUNS, TOKEN, Json, Reply, Rest, job, workflow_run

BEGAN, ENDED, MOVED = "2026-03-10T12:00:00Z", "2026-03-10T12:05:00Z", "2026-03-30T12:00:00Z"
RUN = workflow_run(42, at=BEGAN, updated_at=MOVED)
JOBS = [job(1, 42, "2026-03-10T12:00:10Z", "2026-03-10T12:02:00Z"), job(2, 42, "2026-03-10T12:02:10Z", ENDED)]
Seen = tuple[str, float | None]


def seen(*documents: object, run_id: int = 42) -> set[Seen]:
    """Return times and durations (ms) of the events of the run that documents one after the other describe."""
    found = read(" ".join(map(json.dumps, documents)).encode(), Rules(), source="file")
    events: list[dict[str, Any]] = [one.event for one in found if one.event]
    assert [one.refusal for one in found if one.refusal] == []
    return {
        (event["event_timestamp"].replace("+00:00", "Z"), event["payload"].get("duration_ms"))
        for event in events
        if event["event_type"] == "workflow_run" and event["run_id"] == run_id
    }


def stored_ends(connection: Connection) -> list[tuple[int, str, Any]]:
    return rows(
        connection,
        "select run_id::integer, to_char(event_timestamp at time zone 'UTC', 'MM-DD HH24:MI'), duration_ms"
        " from telemetry_events where event_type = 'workflow_run' order by 1, (metadata -> 'run_attempt')::integer",
    )


def polled(connection: Connection, rest: Rest, now: datetime = NOW) -> Summary:
    with GitHub(rest.url, {"GITHUB_TOKEN": TOKEN}, sleep=lambda _: None, now=lambda: now) as github:
        return poll(connection, github, REPOSITORY, Rules(), now=now)


def later(hours: float) -> str:
    return (datetime.fromisoformat(BEGAN) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("hours", [24.1, 48, 20 * 24, 36 * 24])
def test_a_time_that_moved_long_after_the_end_is_neither_end_nor_duration(hours: float) -> None:
    assert seen(workflow_run(42, at=BEGAN, updated_at=later(hours))) == {(BEGAN, None)}


@pytest.mark.parametrize("hours", [0.1, 13.1, 24])
def test_a_time_that_may_be_the_end_is_believed(hours: float) -> None:
    assert seen(workflow_run(42, at=BEGAN, updated_at=later(hours))) == {(later(hours), hours * 3_600_000)}


@pytest.mark.parametrize(("hours", "duration"), [(20 * 24, 20 * 86_400_000), (36 * 24, None)])
def test_the_webhook_of_the_end_tells_the_end(hours: float, duration: float | None) -> None:
    described = workflow_run(42, at=BEGAN, updated_at=later(hours))
    assert seen({"action": "completed", "workflow_run": described}) == {(later(hours) if duration else BEGAN, duration)}


@pytest.mark.parametrize(
    "documents",
    [
        [RUN, {"total_count": 2, "jobs": JOBS}],
        [{"total_count": 1, "jobs": JOBS[:1]}, RUN, {"jobs": JOBS[1:]}],
        [{"total_count": 2, "jobs": JOBS[:1]}, {"total_count": 2, "jobs": JOBS[1:]}, RUN],
        [RUN | {"jobs": JOBS}],
        [{"workflow_runs": [RUN], "jobs": JOBS}],
        [[RUN], [*JOBS]],
        [RUN, *JOBS],
    ],
    ids=["after", "around", "pages", "within", "one document", "lists", "bare"],
)
def test_jobs_in_the_same_input_tell_the_end_of_their_run(documents: list[object]) -> None:
    assert seen(*documents) == {(ENDED, 300_000)}


@pytest.mark.parametrize(
    "jobs",
    [
        {"total_count": 3, "jobs": JOBS},
        {"jobs": [*JOBS, job(3, 42, ENDED, None)]},
        {"jobs": [one | {"run_id": 43} for one in JOBS]},
        {"jobs": [one | {"run_attempt": 2} for one in JOBS]},
        {"jobs": [one | {"html_url": "https://ghe.example/a/b/actions/runs/42/job/1"} for one in JOBS]},
        {"total_count": 0, "jobs": []},
        {"action": "completed", "workflow_job": JOBS[0]},
    ],
    ids=["cut short", "going", "another run", "another attempt", "another host", "none", "one webhook of many"],
)
def test_jobs_that_are_not_all_jobs_of_the_run_tell_nothing(jobs: Json) -> None:
    assert seen(RUN, jobs) == {(BEGAN, None)}


def test_a_selection_of_jobs_does_not_move_an_end_that_is_to_be_believed() -> None:
    believed = workflow_run(42, at=BEGAN, updated_at=ENDED)
    webhook = {"action": "completed", "workflow_run": workflow_run(42, at=BEGAN, updated_at=later(30))}
    assert seen(believed, JOBS[0]) == {(ENDED, 300_000)}
    assert seen(webhook, JOBS[0]) == {(later(30), 30 * 3_600_000)}
    assert seen(webhook, {"total_count": 2, "jobs": JOBS}) == {(ENDED, 300_000)}


def test_of_a_run_that_is_described_twice_the_earlier_end_holds() -> None:
    early = workflow_run(42, at=BEGAN, updated_at=ENDED)
    webhook = {"action": "completed", "workflow_run": workflow_run(42, at=BEGAN, updated_at=later(30))}
    assert seen(RUN, early) == seen(early, RUN) == {(ENDED, 300_000)}
    assert seen(RUN, webhook) == seen(webhook, RUN) == {(later(30), 30 * 3_600_000)}


def test_an_attempt_that_another_followed_does_not_end_when_that_was_asked_for() -> None:
    first = workflow_run(42, "failure", at=BEGAN, updated_at=later(3))
    second = workflow_run(42, attempt=2, at=BEGAN, run_started_at=later(3), updated_at=later(3.5))
    assert seen(first, second) == {(BEGAN, None), (later(3.5), 1_800_000)}
    assert seen(first, second, {"jobs": JOBS}) == {(ENDED, 300_000), (later(3.5), 1_800_000)}
    assert seen({"action": "completed", "workflow_run": first}, second) == {
        (later(3), 10_800_000),
        (later(3.5), 1_800_000),
    }


def test_a_poll_asks_the_jobs_of_a_run_whose_time_may_have_moved(database: Connection, rest: Rest) -> None:
    rest.runs = [
        workflow_run(1, at=BEGAN, updated_at=later(30)),
        workflow_run(2, at=BEGAN, updated_at=later(2)),
        workflow_run(3, at=BEGAN, updated_at=later(1)),
        workflow_run(4, at=BEGAN, updated_at=later(2)),
        workflow_run(5, at=BEGAN, updated_at=later(30)),
    ]
    rest.page_size = 1
    rest.jobs = {(number, 1): [one | {"run_id": number} for one in JOBS] for number in (1, 2, 3)}
    assert polled(database, rest).accepted == 5
    assert stored_ends(database) == [
        (1, "03-10 12:05", 300_000),
        (2, "03-10 12:05", 300_000),
        (3, "03-10 13:00", 3_600_000),
        # Without jobs two hours may be the end, and thirty may not.
        (4, "03-10 14:00", 7_200_000),
        (5, "03-10 12:00", None),
    ]
    assert [target for target in rest.asked if "/runs/3/attempts" in target] == []
    rest.asked.clear()
    assert polled(database, rest).duplicate >= 1
    assert [target for target in rest.asked if "/attempts/" in target] == []


@pytest.mark.parametrize("reply", [Reply(404), Reply(200, b"{}"), Reply(200, b'{"total_count": 3, "jobs": [5]}')])
def test_jobs_that_cannot_be_read_leave_the_run_without_a_duration(
    database: Connection, rest: Rest, reply: Reply
) -> None:
    rest.runs = [workflow_run(1, at=BEGAN, updated_at=later(30))]
    rest.reply(f"{RUNS}/1/attempts/1/jobs", reply)
    assert polled(database, rest).accepted == 1
    assert stored_ends(database) == [(1, "03-10 12:00", None)]


def test_an_earlier_attempt_has_the_end_of_its_own_jobs(database: Connection, rest: Rest) -> None:
    rest.runs = [workflow_run(1, attempt=2, at=BEGAN, run_started_at=later(3), updated_at=later(3.5))]
    rest.attempts = {(1, 1): workflow_run(1, "failure", at=BEGAN, updated_at=later(3))}
    rest.jobs = {(1, 1): [one | {"run_id": 1} for one in JOBS]}
    assert polled(database, rest).accepted == 2
    assert stored_ends(database) == [(1, "03-10 12:05", 300_000), (1, "03-10 15:30", 1_800_000)]


def test_a_poll_asks_for_few_jobs_and_leaves_the_other_runs_to_the_next(
    database: Connection, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "JOBS_ASKED_AT_MOST", 2)
    rest.runs = [
        workflow_run(number, at=f"2026-03-10T1{number}:00:00Z", updated_at="2026-03-11T23:00:00Z")
        for number in range(5)
    ]
    rest.runs[0] = workflow_run(9, at="2026-03-10T10:30:00Z")
    rest.jobs = {
        (number, 1): [job(number, number, f"2026-03-10T1{number}:00:00Z", f"2026-03-10T1{number}:01:00Z")]
        for number in range(1, 5)
    }
    first = polled(database, rest)
    assert (first.accepted, first.postponed) == (3, 2)
    assert first.notes == ["2 runs wait for the next poll: their end is read from their jobs, with 2 requests per poll"]
    second = polled(database, rest)
    assert (second.accepted, second.postponed, second.notes) == (2, 0, [])
    assert [(run_id, duration) for run_id, _, duration in stored_ends(database)] == [
        (number, 60_000) for number in (1, 2, 3, 4, 9)
    ]

"""Events that the other side refused: for good, or because a clock was wrong, and then it is sent again."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from opskpi.hooks import events, record, refusals, sender
from opskpi.hooks.storage import Folder
from support.hook_world import EXECUTION, Receiver, World, send

DAY = 86400.0


def refusing_answer(
    *places: int, field: str = "timestamp", reason: str = "is more than a day ahead", of: int = 1
) -> bytes:
    """An answer that refuses events of a batch."""
    refused = [{"index": place, "field": field, "reason": reason} for place in places]
    return json.dumps({"accepted": of - len(places), "duplicate": 0, "refused": refused}).encode()


def with_clock_off_by(seconds: float, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)
    return monkeypatch


def kept(world: World) -> list[dict[str, Any]]:
    with Folder(str(world.folder)) as folder:
        return refusals.load(folder)[0]


def arrived_at(receiver: Receiver) -> datetime:
    [event] = receiver.stored.values()
    return datetime.fromisoformat(event["payload"]["timestamp"])


@pytest.mark.parametrize("off_by", [3 * DAY, -40 * 365 * DAY])
def test_an_event_refused_for_the_clock_arrives_at_its_true_time_once_the_clock_is_set(
    inside: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, off_by: float
) -> None:
    inside.target(receiver.url)
    receiver.plan = [refusing_answer(0)]
    with monkeypatch.context() as wrong:
        with_clock_off_by(off_by, wrong)
        assert record("hook_execution", **EXECUTION)
        assert send(inside).refused == 1
    [event] = kept(inside)
    assert (event["refused"]["for_good"], abs(event["refused"]["clock_off_by_s"] - off_by) < 3) == (False, True)
    status = inside.opskpi("hook", "status").stdout
    assert "1 of them because of a wrong clock: set it, then `opskpi hook resend`" in status
    assert "refused" not in json.loads(inside.opskpi("hook", "status", "--json").stdout)["queue"]["dropped"]
    answer = inside.opskpi("hook", "resend")
    assert answer.returncode == 0, answer.stderr
    assert "1 events queued again; 1 events sent" in answer.stdout
    assert abs(arrived_at(receiver) - datetime.now(UTC)) < timedelta(minutes=1)
    assert kept(inside) == []


def test_while_the_clock_is_wrong_nothing_is_sent_again_and_the_difference_is_named(
    inside: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.target(receiver.url)
    receiver.plan = [refusing_answer(0)]
    with_clock_off_by(3 * DAY, monkeypatch)
    assert record("hook_execution", **EXECUTION)
    send(inside)
    report = sender.run(str(inside.folder), foreground=True, resend=True)
    assert report.stopped == "clock"
    assert abs(int(report.reason.split()[4]) - 3 * DAY) < 3
    assert report.reason.endswith("s ahead")
    assert (receiver.stored, len(kept(inside))) == ({}, 1)


def test_an_event_from_before_the_clock_was_set_is_dated_no_later_than_its_refusal(
    inside: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.target(receiver.url)
    with monkeypatch.context() as wrong:
        with_clock_off_by(3 * DAY, wrong)
        assert record("hook_execution", **EXECUTION)
    receiver.plan = [refusing_answer(0)]
    assert send(inside).refused == 1
    assert inside.opskpi("hook", "resend").returncode == 0
    assert abs(arrived_at(receiver) - datetime.now(UTC)) < timedelta(minutes=1)


def test_what_is_refused_for_good_is_listed_and_not_sent_again(inside: World, receiver: Receiver) -> None:
    assert record("hook_execution", **{**EXECUTION, "hook_type": "bad"})
    assert record("hook_execution", **EXECUTION)
    inside.target(receiver.url)
    # A true time that is in a period whose events were removed.
    receiver.plan = [refusing_answer(0, reason="is in a period whose events were removed", of=2)]
    assert send(inside).refused == 1
    asked = len(receiver.requests)
    answer = inside.opskpi("hook", "resend")
    assert answer.returncode == 0, answer.stderr
    [line] = [line for line in answer.stdout.splitlines() if line.startswith("refused for good: ")]
    assert line.endswith("timestamp is in a period whose events were removed")
    assert [method for method, *_ in receiver.requests[asked:]] == ["GET"]
    assert "1 of them for good" in inside.opskpi("hook", "status").stdout
    found = json.loads(inside.opskpi("hook", "resend", "--json").stdout)
    assert (found["resent"], len(found["refused_for_good"])) == (0, 1)


def test_a_hub_that_is_away_keeps_what_was_to_be_sent_again(
    inside: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.target(receiver.url)
    receiver.plan = [refusing_answer(0)]
    with monkeypatch.context() as wrong:
        with_clock_off_by(3 * DAY, wrong)
        record("hook_execution", **EXECUTION)
        send(inside)
    inside.target("http://127.0.0.1:1")
    answer = inside.opskpi("hook", "resend")
    assert (answer.returncode, len(kept(inside))) == (75, 1)


def test_an_event_of_the_first_release_in_the_file_is_refused_for_good(inside: World) -> None:
    event = events.build("hook_execution", EXECUTION, {}, events.now_stamp())
    refusal = {"at": events.now_stamp(), "field": "timestamp", "reason": "is more than a day ahead"}
    inside.folder.mkdir()
    (inside.folder / refusals.NAME).write_text(json.dumps({"events": [event | {"refused": refusal}], "dropped": 0}))
    assert [refusals.is_for_good(event) for event in kept(inside)] == [True]
    assert refusals.corrected(kept(inside)[0], time.time()) is None


def test_without_a_target_resend_says_how_to_name_one(inside: World) -> None:
    record("hook_execution", **EXECUTION)
    answer = inside.opskpi("hook", "resend")
    assert (answer.returncode, "opskpi hook install --hub" in answer.stderr) == (78, True)

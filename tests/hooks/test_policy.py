"""The org's policy: fetched by the sender, cached, and what it says about recording."""

import json
import time

import pytest

from opskpi.hooks import record
from support.hook_world import EXECUTION, Receiver, World, send
from support.patience import eventually


@pytest.fixture
def reporting(inside: World, receiver: Receiver) -> World:
    """Set the hub as target, with a policy, and nobody sending in the background."""
    inside.target(receiver.url)
    receiver.policy = {"version": 3, "policy": {"telemetry": {"enabled": True}, "more": 1}, "updated_at": "2026-01-05"}
    wait(inside)
    return inside


def wait(world: World) -> None:
    state = world.state() | {"last_try_at": time.time(), "requests": []}
    (world.folder / "telemetry-state.json").write_text(json.dumps(state))


def shown(world: World) -> dict[str, object]:
    return json.loads(world.opskpi("hook", "policy", "--json").stdout)


def age(world: World, seconds: float) -> None:
    world.let_time_pass(seconds)
    path = world.folder / "policy.json"
    policy = json.loads(path.read_text())
    path.write_text(json.dumps(policy | {"fetched_at": policy["fetched_at"] - seconds}))


def test_the_built_in_policy_holds_until_there_is_another(inside: World) -> None:
    assert shown(inside) == {"version": 0, "policy": {"telemetry": {"enabled": True}}}
    inside.wrap("true")
    assert "policy_version" not in inside.metrics()[0]


def test_a_policy_is_fetched_kept_five_minutes_and_named_in_every_event(reporting: World, receiver: Receiver) -> None:
    send(reporting)
    assert (shown(reporting)["version"], shown(reporting)["policy"]) == (
        3,
        receiver.policy and receiver.policy["policy"],
    )
    wait(reporting)
    assert record("hook_execution", **EXECUTION)
    assert reporting.metrics()[0]["policy_version"] == 3
    send(reporting)
    assert len(receiver.policy_requests()) == 1
    age(reporting, 301)
    send(reporting)
    first, second = receiver.policy_requests()
    assert "if-none-match" not in first
    assert second["if-none-match"] == '"3"'
    assert shown(reporting)["version"] == 3


def test_a_newer_version_named_by_an_answer_is_fetched_at_once(reporting: World, receiver: Receiver) -> None:
    send(reporting)
    receiver.policy = {"version": 4, "policy": {"telemetry": {"enabled": True}}}
    wait(reporting)
    assert record("hook_execution", **EXECUTION)
    send(reporting)
    assert shown(reporting)["version"] == 4


@pytest.mark.parametrize("broken", [None, {"version": "x", "policy": {}}, {"version": 5, "policy": []}, {"version": 5}])
def test_the_last_good_policy_stays_when_asking_fails(
    reporting: World, receiver: Receiver, broken: dict[str, object] | None
) -> None:
    send(reporting)
    age(reporting, 301)
    receiver.policy = broken
    report = send(reporting)
    if broken != {"version": 5}:
        assert report.warnings
    assert shown(reporting)["version"] == 3


def test_a_policy_can_switch_recording_off_and_on_again(reporting: World, receiver: Receiver) -> None:
    receiver.policy = {"version": 5, "policy": {"telemetry": {"enabled": False}}}
    send(reporting)
    wait(reporting)
    assert record("hook_execution", **EXECUTION) is False
    assert reporting.wrap("sh", "-c", "exit 3").returncode == 3
    assert reporting.queued() == []
    receiver.policy = {"version": 6, "policy": {"telemetry": {"enabled": True}}}
    age(reporting, 301)
    # Nothing is recorded yet, but someone goes and asks.
    assert record("hook_execution", **EXECUTION) is False
    eventually(lambda: shown(reporting)["version"] == 6)
    assert record("hook_execution", **EXECUTION)


def test_supabase_is_asked_by_the_function_current_policy(inside: World, receiver: Receiver) -> None:
    inside.target(receiver.url, "supabase")
    receiver.plan = [b'{"version": 9, "policy": {"telemetry": {"enabled": true}}}']
    assert inside.opskpi("hook", "flush").returncode == 0
    assert receiver.requests[0][1] == "/rest/v1/rpc/current_policy"
    assert shown(inside)["version"] == 9

"""SIGKILL before every single call of the operating system, while an event is queued and while events are sent."""

import json
import sys

from support.hook_world import KILLER, Receiver, World


def test_a_kill_at_any_step_of_queueing_leaves_every_event_once(world: World) -> None:
    killed = world.run(sys.executable, KILLER, "record", world.folder)
    assert killed.returncode == 0, killed.stderr
    steps = int(killed.stdout)
    assert steps > 30
    recorded = [metrics["duration_ms"] for metrics in world.metrics() if metrics["hook_type"] == "pre-commit"]
    # The first of the two events of a run is whole from some step on, and from then on in every run.
    assert recorded == list(range(recorded[0], steps + 1))
    assert len(set(world.ids())) == len(world.ids())
    assert "dropped" not in world.queue()
    assert list(world.folder.glob("*damaged*")) == list(world.folder.glob("*.tmp")) == []


def test_a_kill_at_any_step_of_sending_loses_nothing_and_stores_nothing_twice(world: World, receiver: Receiver) -> None:
    world.target(receiver.url)
    killed = world.run(sys.executable, KILLER, "send", world.folder)
    assert killed.returncode == 0, killed.stderr
    steps = int(killed.stdout)
    assert steps > 50, steps
    assert world.queued() == []
    stored = sorted(event["payload"]["duration_ms"] for event in receiver.stored.values())
    assert stored == list(range(steps + 1))
    assert receiver.repeated > 0, "no run was killed between the answer and the queue"
    refused = json.loads((world.folder / "telemetry-refused.json").read_text())
    set_aside = [event["metrics"]["duration_ms"] for event in refused["events"]]
    assert sorted(set_aside) == list(range(steps + 1))[-len(set_aside) :]
    assert len(refused["events"]) + refused["dropped"] == steps + 1

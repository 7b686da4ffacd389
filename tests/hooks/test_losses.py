"""Lost events are counted where neither a full disk nor damage resets it, and the next event says how much and why."""

import fcntl
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from opskpi.hooks import events, losses, queue_file, record, starting
from opskpi.hooks.storage import Folder
from support.hook_world import AGENT, EXECUTION, ORG, Receiver, World, send
from support.patience import PATIENCE_S

# Without writing bytecode, which would be cut off at that length for every later process.
FULL = "import resource, sys; sys.dont_write_bytecode = True; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
TRY = f"from opskpi.hooks import record; [record('hook_execution', **{EXECUTION!r}) for _ in range(%d)]"


def counted_losses(world: World) -> dict[str, int]:
    """The losses that the status shows."""
    return json.loads(world.opskpi("hook", "status", "--json").stdout)["queue"]["dropped"]


def told_losses(world: World) -> list[dict[str, int]]:
    """The losses that each queued event reports."""
    return [metrics.get("dropped", {}) for metrics in world.metrics()]


def fill(world: World, count: int) -> None:
    for _ in range(count):
        assert record("hook_execution", **EXECUTION)


def test_what_a_full_disk_refused_is_counted_whoever_was_refused(inside: World) -> None:
    fill(inside, 20)
    together = [
        subprocess.Popen([sys.executable, "-c", FULL + TRY % 30], cwd=inside.repo, env=inside.env) for _ in range(4)
    ]
    assert [process.wait(PATIENCE_S) for process in together] == [0] * 4
    lost = counted_losses(inside)["disk_full"]
    # An event had room in a file of its own while the queue was locked for long.
    spooled = len(inside.queued()) - 20
    assert lost + spooled == 120
    assert f"dropped: {lost} disk full" in inside.opskpi("hook", "status").stdout
    fill(inside, 2)
    assert told_losses(inside) == [{}] * (20 + spooled) + [{"disk_full": lost}, {}]
    assert counted_losses(inside) == {"disk_full": lost}


def test_each_damage_of_the_queue_is_counted_and_so_are_the_events_in_it(inside: World) -> None:
    for _ in range(7):
        fill(inside, 10)
        path = inside.folder / queue_file.NAME
        path.write_bytes(b"")
    fill(inside, 1)
    assert counted_losses(inside) == {"damaged_file": 7, "damaged_event": 70}
    assert told_losses(inside) == [{"damaged_file": 1, "damaged_event": 10}]


def test_a_queue_that_somebody_removed_is_counted(inside: World) -> None:
    fill(inside, 5)
    (inside.folder / queue_file.NAME).unlink()
    fill(inside, 1)
    assert counted_losses(inside) == {"damaged_file": 1, "damaged_event": 5}


@pytest.mark.parametrize("damage", [b"", b"\0" * 4096, b"nonsense\n" * 100, None])
def test_damage_to_the_counts_leaves_those_of_the_queue(inside: World, damage: bytes | None) -> None:
    fill(inside, 3)
    assert not record("hook_execution")
    path = inside.folder / losses.NAME
    path.unlink() if damage is None else path.write_bytes(damage)
    assert counted_losses(inside) == {"malformed_event": 1}
    assert not record("hook_execution")
    assert counted_losses(inside) == {"malformed_event": 2}
    fill(inside, 2)
    assert told_losses(inside)[-2:] == [{"malformed_event": 2}, {}]


def test_a_link_in_the_place_of_the_counts_stops_no_event(inside: World, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    inside.folder.mkdir()
    (inside.folder / losses.NAME).symlink_to(elsewhere)
    fill(inside, 1)
    assert not record("hook_execution")
    assert (len(inside.queued()), elsewhere.read_text()) == (1, "precious")


def test_an_event_that_told_of_losses_and_is_lost_itself_is_made_good_by_the_next(inside: World) -> None:
    assert not record("hook_execution")
    fill(inside, 1)
    assert told_losses(inside) == [{"malformed_event": 1}]
    with Folder(str(inside.folder)) as folder, queue_file.Queue(folder) as queue:
        queue.save(now=time.time() + 15 * 86400)
    fill(inside, 1)
    assert told_losses(inside) == [{"malformed_event": 1, "age": 1}]


def test_what_waits_for_a_lock_in_vain_is_counted(inside: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(inside, 1)
    monkeypatch.setattr(queue_file, "MOST_EVENTS", 2)
    with (inside.folder / queue_file.LOCK).open("w") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        assert [record("hook_execution", **EXECUTION) for _ in range(3)] == [True, True, False]
    monkeypatch.undo()
    assert counted_losses(inside) == {"lock": 1}


def test_what_was_refused_for_good_is_told_by_the_next_event_that_arrives(inside: World, receiver: Receiver) -> None:
    assert not record("hook_execution")
    assert record("hook_execution", **{**EXECUTION, "hook_type": "bad"})
    inside.target(receiver.url)
    inside.env["OPSKPI_TELEMETRY"] = "1"
    send(inside)
    assert counted_losses(inside) == {"malformed_event": 1, "refused": 1}
    fill(inside, 1)
    send(inside)
    [arrived] = receiver.stored.values()
    assert arrived["payload"]["dropped"] == {"malformed_event": 1, "refused": 1}


def test_what_an_event_says_of_losses_survives_damage_and_a_file_of_its_own(inside: World) -> None:
    common: dict[str, Any] = {"agent_id": AGENT, "org_id": ORG, "dropped": {"age": 3}}
    event = events.build("hook_execution", EXECUTION, common, events.now_stamp())
    assert events.restored(event) == event
    for nonsense in ({"age": -1}, {"age": True}, {"a b": 1}, {"age": 10**16}, [], "age", {7: 1}):
        spoilt = event | {"metrics": {**EXECUTION, "dropped": nonsense}}
        restored = events.restored(spoilt)
        assert restored is not None
        assert "dropped" not in restored["metrics"]  # pyright: ignore[reportOperatorIssue]


def test_a_report_cannot_say_that_events_were_lost(world: World) -> None:
    world.wrap("sh", "-c", """echo '{"dropped": {"age": 1}}' >"$OPSKPI_HOOK_REPORT" """)
    assert told_losses(world) == [{}]


def test_counting_needs_no_room_and_no_new_file(inside: World) -> None:
    fill(inside, 1)
    path = inside.folder / losses.NAME
    before = path.stat()
    with Folder(str(inside.folder)) as folder:
        for _ in range(3):
            losses.count(folder, "disk_full")
        assert losses.read(folder) == ({"disk_full": 3}, {}, 1)
    after = path.stat()
    assert (before.st_ino, before.st_size, before.st_blocks) == (after.st_ino, after.st_size, after.st_blocks)


def test_a_hook_on_a_full_disk_says_nothing(inside: World) -> None:
    fill(inside, 20)
    command = [sys.executable, "-B", "-I", "-S", starting.ENTRY, "wrap", "pre-commit", "sh", "-c", "echo out; exit 3"]
    answer = inside.python(FULL + "import os; os.execv(sys.argv[1], sys.argv[1:])", *command)
    assert (answer.returncode, answer.stdout, answer.stderr) == (3, "out\n", "")
    assert counted_losses(inside) == {"disk_full": 1}

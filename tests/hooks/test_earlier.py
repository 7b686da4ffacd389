"""The git directory keeps what must last, and a queue in the working tree, where the first releases kept it, is sent too."""

import json
from pathlib import Path
from typing import Any

import pytest

from opskpi.hooks import earlier, events, queue_file, sender
from opskpi.hooks.storage import Folder
from support.hook_world import AGENT, EXECUTION, ORG, Receiver, World, install, send, uninstall


def leave_queue(place: Path, count: int = 2, dropped: dict[str, int] | None = None) -> list[dict[str, Any]]:
    """Write a queue as release 0.1.0 did."""
    common: dict[str, object] = {"agent_id": AGENT, "org_id": ORG}
    entries = [
        events.build("hook_execution", {**EXECUTION, "duration_ms": number}, common, events.now_stamp())
        for number in range(count)
    ]
    place.mkdir(exist_ok=True)
    end = f'], "dropped": {json.dumps(dropped)}}}\n' if dropped else "]}\n"
    (place / queue_file.NAME).write_text('{"events": [\n' + ",\n".join(map(json.dumps, entries)) + "\n" + end)
    return entries


def ids(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["metrics"]["event_id"] for entry in entries]


def test_what_the_earlier_version_queued_is_shown_beside_the_queue_and_sent_with_it(
    inside: World, receiver: Receiver
) -> None:
    left = leave_queue(inside.earlier, dropped={"age": 3})
    with Folder(str(inside.earlier)) as folder:
        spooled = events.build("hook_execution", EXECUTION, {"agent_id": AGENT, "org_id": ORG}, events.now_stamp())
        queue_file.spool(folder, spooled)
    inside.target(receiver.url)
    inside.wrap("true", env={"OPSKPI_TELEMETRY": "1"})
    inside.await_quiet()
    (inside.folder / "telemetry-state.json").unlink(missing_ok=True)
    left += leave_queue(inside.earlier, 1)
    text = inside.opskpi("hook", "status").stdout
    assert "queue: 0 events" in text
    assert f"earlier queue: 1 events, in {inside.earlier}, sent with the others" in text
    assert inside.opskpi("hook", "flush").returncode == 0
    assert set(ids([*left, spooled])) < set(receiver.stored)
    assert len(receiver.stored) == 5
    assert not inside.earlier.exists()
    assert "3 age" in inside.opskpi("hook", "status").stdout
    inside.wrap("true")
    assert inside.metrics()[-1]["dropped"] == {"age": 3}


def test_show_shows_them_too_and_status_changes_nothing(inside: World) -> None:
    left = leave_queue(inside.earlier)
    before = (inside.earlier / queue_file.NAME).read_bytes()
    status = json.loads(inside.opskpi("hook", "status", "--json").stdout)
    assert status["earlier"] == {
        "folder": str(inside.earlier),
        "events": 2,
        "settings": False,
        "distrust": None,
    }
    assert (inside.earlier / queue_file.NAME).read_bytes() == before
    inside.target("http://127.0.0.1:1")
    [request] = json.loads(inside.opskpi("hook", "show", "--json").stdout)
    assert [event["payload"]["event_id"] for event in json.loads(request["body"])] == ids(left)


def test_a_kill_between_the_two_queues_stores_each_event_once(
    inside: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = leave_queue(inside.earlier)
    inside.target(receiver.url)
    with monkeypatch.context() as killed:
        killed.setattr(queue_file.Queue, "discard", lambda _: (_ for _ in ()).throw(OSError("killed")))
        send(inside)
    assert (inside.earlier / queue_file.NAME).exists()
    send(inside)
    assert list(receiver.stored) == ids(left)
    assert not inside.earlier.exists()


@pytest.mark.parametrize("brought", ["committed", "in the index", "in another spelling"])
def test_a_queue_that_a_repository_brings_along_is_left_alone(inside: World, receiver: Receiver, brought: str) -> None:
    leave_queue(inside.earlier)
    inside.target(receiver.url)
    if brought == "in another spelling":
        blob = inside.git("hash-object", "-w", inside.earlier / queue_file.NAME).strip()
        name = f".SENTINEL/{queue_file.NAME}"
        inside.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")
    else:
        inside.git("add", "-f", ".")
    if brought == "committed":
        inside.commit()
    assert send(inside).sent == 0
    assert (inside.earlier / queue_file.NAME).exists()
    assert "left alone" in inside.opskpi("hook", "status").stdout
    assert "committed" in inside.opskpi("hook", "status").stdout
    uninstall(inside, "--purge")
    assert (inside.earlier / queue_file.NAME).exists()


@pytest.mark.parametrize("fault", ["others write it", "git fails", "there is no git"])
def test_a_queue_of_which_nobody_knows_whose_it_is_is_left_alone(
    inside: World, receiver: Receiver, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_queue(inside.earlier)
    inside.target(receiver.url)
    if fault == "others write it":
        inside.earlier.chmod(0o777)
    elif fault == "git fails":
        (inside.repo / ".git" / "index").write_text("no index")
    else:
        monkeypatch.setenv("PATH", "/nowhere")
    report = sender.run(str(inside.folder), foreground=True)
    assert (report.sent, receiver.requests[1:]) == (0, [])
    assert earlier.Earlier(str(inside.folder)).distrust()
    assert (inside.earlier / queue_file.NAME).exists()


def test_the_queues_of_a_linked_worktree_and_of_a_submodule_are_found(inside: World, receiver: Receiver) -> None:
    inside.commit()
    linked = inside.home / "linked"
    inside.git("worktree", "add", "-q", linked)
    inside.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", inside.repo, "inner")
    inner = World(inside.home, inside.repo / "inner", inside.env)
    assert json.loads(inside.opskpi("hook", "status", "--json", cwd=linked).stdout)["folder"] == str(inside.folder)
    for world, cwd in ((inside, linked), (inner, inner.repo)):
        left = leave_queue(world.earlier)
        world.target(receiver.url)
        assert world.opskpi("hook", "flush", cwd=cwd).returncode == 0
        assert set(ids(left)) <= set(receiver.stored)


def test_uninstalling_cleans_both_places(inside: World) -> None:
    install(inside)
    leave_queue(inside.earlier)
    inside.wrap("true")
    assert "3 events were not sent" in inside.opskpi("hook", "uninstall").stderr
    uninstall(inside, "--purge")
    assert not inside.earlier.exists()
    assert not inside.folder.exists()


def test_a_clean_a_stash_and_a_checkout_touch_neither_settings_nor_queue(world: World) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\nexit 0\n")
    install(world, "--hub", "http://127.0.0.1:9")
    (world.repo / "a").write_text("a")
    world.git("add", "a")
    assert world.commit().returncode == 0
    world.await_quiet()
    world.git("clean", "-fdxq")
    # A commit that holds such a path.
    world.earlier.mkdir()
    (world.earlier / "settings.json").write_text("{}")
    (world.earlier / queue_file.NAME).write_text("{}")
    world.git("add", "-f", ".sentinel")
    assert world.commit().returncode == 0
    world.git("checkout", "-q", "HEAD~1")
    world.git("checkout", "-q", "main")
    (world.repo / "a").write_text("changed")
    (world.repo / "b").write_text("untracked")
    world.git("stash", "-q", "--all")
    assert world.commit().returncode == 0
    world.git("stash", "pop", "-q")
    assert (world.repo / "b").read_text() == "untracked"
    world.await_quiet()
    assert len(world.queued()) == 3
    status = world.opskpi("hook", "status")
    assert (status.returncode, "target: hub http://127.0.0.1:9" in status.stdout) == (0, True)


def test_hooks_without_a_target_are_an_error_that_says_how_to_name_one(world: World) -> None:
    assert world.opskpi("hook", "status").returncode == 0
    install(world)
    for arguments in (["hook"], ["hook", "status"], ["hook", "status", "--json"]):
        answer = world.opskpi(*arguments)
        assert answer.returncode == 78
        assert "opskpi hook install --hub URL" in answer.stderr
        assert answer.stdout
    assert world.opskpi("hook", "status", env={"OPSKPI_TELEMETRY": "0"}).returncode == 0
    install(world, "--hub", "http://127.0.0.1:1")
    assert world.opskpi("hook", "status").returncode == 0

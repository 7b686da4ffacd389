"""The queue: its format, its bounds, damage, locks, full disks, and files that are not what they should be."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from opskpi.hooks import events, losses, queue_file, record, starting
from opskpi.hooks.storage import Folder
from support.hook_world import EXECUTION, ORG, World


def queue_entry(
    number: int, kind: str = "hook_execution", stamp: str | None = None, **metrics: object
) -> dict[str, Any]:
    common: dict[str, object] = {"agent_id": ORG, "org_id": ORG}
    base: dict[str, Any] = {**EXECUTION, "duration_ms": number} if kind == "hook_execution" else {}
    return events.build(kind, base | metrics, common, stamp or events.now_stamp())


def fill_queue(world: World, entries: list[dict[str, Any]]) -> None:
    with Folder(str(world.folder)) as folder, queue_file.Queue(folder) as queue:
        queue.lines += [events.line(entry) for entry in entries]
        queue.save()


def queued_numbers(world: World) -> list[int]:
    return [metrics["duration_ms"] for metrics in world.metrics()]


def test_the_file_has_the_promised_format_and_only_its_owner_reads_it(inside: World) -> None:
    assert record("hook_execution", **EXECUTION)
    queue = inside.queue()
    assert set(queue) == {"events"}
    assert set(queue["events"][0]) == {"event", "timestamp", "metrics"}
    assert (inside.folder / queue_file.NAME).stat().st_mode & 0o777 == 0o600
    assert inside.folder.stat().st_mode & 0o777 == 0o700


def test_each_kind_of_event_is_recorded_with_the_keys_it_has(inside: World) -> None:
    entry = {"file": "src/a.py", "line": 7, "pattern": "AWS", "reason": "a test key", "date": "2026-01-05"}
    assert record("hook_baseline", hook_type="pre-commit", source="manual", reviewed=True, baseline_entry=entry, more=1)
    assert record("hook_override", hook_type="pre-push", override_reason="hotfix", findings_count=2, severity="high")
    first, second = inside.metrics()
    assert first["baseline_entry"] == entry
    assert "more" not in first
    assert (second["findings_count"], second["severity"]) == (2, "high")


@pytest.mark.parametrize(
    ("kind", "metrics"),
    [
        ("no_such_event", EXECUTION),
        ("hook_execution", {"hook_type": "pre-commit", "result": "allowed"}),
        ("hook_execution", EXECUTION | {"result": "perhaps"}),
        ("hook_execution", EXECUTION | {"duration_ms": -1}),
        ("hook_execution", EXECUTION | {"duration_ms": float("nan")}),
        ("hook_execution", EXECUTION | {"duration_ms": True}),
        ("hook_baseline", {"hook_type": "x", "source": "y", "reviewed": True, "baseline_entry": {"file": "a"}}),
        ("hook_override", {"hook_type": object(), "override_reason": "r", "findings_count": 0, "severity": "low"}),
    ],
)
def test_a_malformed_event_is_not_kept_but_counted_and_nothing_is_raised(
    inside: World, kind: str, metrics: dict[str, Any]
) -> None:
    assert record(kind, **metrics) is False
    assert inside.queue() == {"events": [], "dropped": {"malformed_event": 1}}


def test_a_thousand_events_at_most_and_blocked_and_overridden_ones_go_last(world: World) -> None:
    fill_queue(
        world,
        [
            queue_entry(0, result="blocked"),
            queue_entry(1, "hook_override", hook_type="x", override_reason="r", findings_count=1, severity="low"),
        ],
    )
    fill_queue(world, [queue_entry(2), queue_entry(3, result="overridden")])
    fill_queue(world, [queue_entry(number) for number in range(10, 1010)])
    assert len(world.queued()) == 1000
    assert [entry["metrics"].get("duration_ms", "override") for entry in world.queued()][:4] == [0, "override", 3, 13]
    assert world.queue()["dropped"] == {"count": 4}
    fill_queue(world, [queue_entry(number, result="blocked") for number in range(2000, 3100)])
    assert len(world.queued()) == 1000
    assert {metrics.get("result", "override") for metrics in world.metrics()} == {"blocked"}


def test_a_mebibyte_at_most(world: World) -> None:
    words = ["word " * 19 + str(number) for number in range(20)]
    fill_queue(
        world, [queue_entry(number, user_actions=words, findings_summary={"patterns": words}) for number in range(400)]
    )
    size = (world.folder / queue_file.NAME).stat().st_size
    assert (1 << 20) - 10_000 < size <= 1 << 20
    assert world.queue()["dropped"]["size"] == 400 - len(world.queued())
    assert queued_numbers(world)[-1] == 399


def test_fourteen_days_at_most(world: World) -> None:
    now = time.time()
    days = [queue_entry(day, stamp=events.now_stamp(now - day * 86400 + 60)) for day in (16, 15, 14, 13, 1)]
    fill_queue(world, days)
    assert queued_numbers(world) == [14, 13, 1]
    assert world.queue()["dropped"] == {"age": 2}


@pytest.mark.parametrize("off_by", [-86400, 86400])
def test_a_clock_a_day_off_drops_nothing(world: World, off_by: int) -> None:
    fill_queue(world, [queue_entry(1, stamp=events.now_stamp(time.time() + off_by))])
    world.wrap("true")
    assert len(world.queued()) == 2
    assert "dropped" not in world.queue()


@pytest.mark.parametrize("wrong", [0.0, 10**9, 4 * 10**9], ids=["1970", "2001", "2096"])
def test_a_clock_that_is_years_off_for_a_while_drops_nothing(
    inside: World, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    assert record("hook_execution", **EXECUTION)
    with monkeypatch.context() as off:
        off.setattr(time, "time", lambda: wrong)
        for _ in range(2):
            assert record("hook_execution", **EXECUTION)
    assert record("hook_execution", **EXECUTION)
    assert len(inside.queued()) == 4
    assert "dropped" not in inside.queue()


def test_a_clock_days_ahead_of_the_file_system_removes_no_file_that_another_process_is_writing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_queue(world, [])
    writing, abandoned = (world.folder / f"{queue_file.SPOOL}{name}.json.tmp" for name in ("writing", "abandoned"))
    for temporary in (writing, abandoned):
        temporary.write_bytes(b"{")
    two_days_ago = writing.stat().st_mtime - 2 * 86400
    in_five_days = time.time() + 5 * 86400
    os.utime(abandoned, (two_days_ago, two_days_ago))
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: in_five_days)
        fill_queue(world, [])
    assert (writing.exists(), abandoned.exists()) == (True, False)


def test_a_queue_cut_off_at_any_byte_is_set_aside_and_its_whole_events_are_saved(world: World) -> None:
    entries = [queue_entry(number, findings_summary={"total": 1, "pattern": 'a "quoted" { one'}) for number in range(2)]
    fill_queue(world, entries)
    path = world.folder / queue_file.NAME
    whole = path.read_bytes()
    ends = [whole.index(events.line(entry)) + len(events.line(entry)) for entry in entries]
    lost = 0
    for length in range(len(whole)):
        path.write_bytes(whole)
        with Folder(str(world.folder)) as folder:
            losses.note_length(folder, 2)
        path.write_bytes(whole[:length])
        with Folder(str(world.folder)) as folder, queue_file.Queue(folder) as queue:
            queue.save()
        saved = sum(end <= length for end in ends)
        lost += 2 - saved
        assert world.queued() == entries[:saved], length
        assert world.queue()["dropped"] == {"damaged_file": length + 1, "damaged_event": lost}
        kept = sorted(name.name for name in world.folder.glob("telemetry-queue.damaged-*"))
        assert 1 <= len(kept) <= queue_file.DAMAGED_KEPT
        newest = max(kept, key=lambda name: int(name.split("-")[2].split(".")[0]))
        assert (world.folder / newest).read_bytes() == whole[:length]


@pytest.mark.parametrize(
    "content",
    [
        lambda entries: json.dumps(entries, indent=1),
        lambda entries: "\n".join(map(json.dumps, entries)),
        lambda entries: json.dumps({"version": 0, "events": [*entries, {"event": "strange"}, 7, None]}),
        lambda entries: "\x00\xff{garbage" + json.dumps(entries) + "}}}]",
        lambda entries: json.dumps({"events": entries})[:-1],
    ],
)
def test_a_file_of_an_older_program_or_a_corrupt_one_gives_up_its_whole_events(world: World, content: Any) -> None:
    entries = [queue_entry(number) for number in range(3)]
    world.folder.mkdir()
    (world.folder / queue_file.NAME).write_text(content(entries))
    assert world.wrap("true").returncode == 0
    assert world.queued()[:3] == entries
    assert len(world.queued()) == 4
    assert world.queue()["dropped"] == {"damaged_file": 1}


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 5000, b"{" * 200_000, b"[" * 200_000, b'{"a":' * 50_000, b'{"events": []}']
)
def test_a_file_without_events_is_set_aside_and_recording_goes_on(world: World, content: bytes) -> None:
    world.folder.mkdir()
    (world.folder / queue_file.NAME).write_bytes(content)
    assert world.wrap("true").returncode == 0
    assert len(world.queued()) == 1
    assert world.queue()["dropped"] == {"damaged_file": 1}


def test_a_line_that_rotted_is_found_before_it_is_sent(inside: World) -> None:
    fill_queue(inside, [queue_entry(number) for number in range(3)])
    path = inside.folder / queue_file.NAME
    path.write_bytes(path.read_bytes().replace(b'"duration_ms": 1}', b'"duration_ms": "}'))
    inside.wrap("true")
    inside.target("http://127.0.0.1:1")
    inside.opskpi("hook", "flush")
    assert queued_numbers(inside)[:2] == [0, 2]
    assert inside.queue()["dropped"] == {"damaged_file": 1, "damaged_event": 1}


def test_a_lock_that_nobody_gives_back_delays_a_hook_a_moment_and_loses_nothing(world: World) -> None:
    world.wrap("true")
    with (world.folder / queue_file.LOCK).open("w") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        assert world.wrap("sh", "-c", "exit 4").returncode == 4
        assert len(world.queued()) == 1
        [spooled] = world.folder.glob("telemetry-spool-*")
        assert spooled.stat().st_mode & 0o777 == 0o600
    world.wrap("true")
    assert [metrics["result"] for metrics in world.metrics()] == ["allowed", "blocked", "allowed"]
    assert list(world.folder.glob("telemetry-spool-*")) == []


def test_an_event_that_is_in_the_queue_and_still_in_a_file_of_its_own_is_there_once(world: World) -> None:
    entry = queue_entry(1)
    fill_queue(world, [entry])
    with Folder(str(world.folder)) as folder:
        queue_file.spool(folder, entry)
    world.wrap("true")
    assert len(world.queued()) == 2


def test_a_lock_inherited_by_a_fork_does_not_outlive_its_owner(world: World) -> None:
    script = """
import os, signal, sys
from opskpi.hooks.storage import Folder
folder = Folder(sys.argv[1])
folder.lock("telemetry-queue.lock", 0)
child = os.fork()
if child == 0:
    signal.pause()
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    world.folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", script, str(world.folder)], env=world.env, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
    try:
        world.wrap("true")
        assert len(world.queued()) == 1
        assert list(world.folder.glob("telemetry-spool-*")) == []
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_process_records_like_any_other(world: World) -> None:
    script = f"""
import os
from opskpi.hooks import record

event = dict({EXECUTION!r})
record("hook_execution", **event)
children = [os.fork() for _ in range(3)]
for _ in range(5):
    assert record("hook_execution", **event)
if all(children):
    for child in children:
        os.waitpid(child, 0)
"""
    assert world.python(script).returncode == 0
    # Three forks in a row are eight processes.
    world.await_events(41)
    assert len(set(world.ids())) == 41


def test_a_full_disk_changes_neither_the_hook_nor_the_queue(world: World) -> None:
    fill_queue(world, [queue_entry(number) for number in range(20)])
    before = (world.folder / queue_file.NAME).read_bytes()
    script = "import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-B", "-I", "-S", starting.ENTRY, "wrap", "pre-commit", "sh", "-c", "echo out; exit 3"]
    answer = world.python(script, *command)
    assert (answer.returncode, answer.stdout, answer.stderr) == (3, "out\n", "")
    assert (world.folder / queue_file.NAME).read_bytes() == before
    assert sorted(path.name for path in world.folder.iterdir()) == [*(losses.NAME, queue_file.NAME, queue_file.LOCK)]
    world.wrap("true")
    assert len(world.queued()) == 21
    assert world.metrics()[-1]["dropped"] == {"disk_full": 1}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_disk_that_is_really_full_changes_neither_the_hook_nor_the_queue(world: World) -> None:
    world.folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", world.folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        world.wrap("true")
        before = world.queued()
        with pytest.raises(OSError, match="No space"):
            (world.folder / "filler").write_bytes(b"x" * (1 << 20))
        assert world.wrap("sh", "-c", "exit 3").returncode == 3
        assert world.queued() == before
        (world.folder / "filler").unlink()
        world.wrap("true")
        assert len(world.queued()) == 2
        assert world.metrics()[-1]["dropped"] == {"disk_full": 1}
        assert json.loads(world.opskpi("hook", "status", "--json").stdout)["queue"]["dropped"] == {"disk_full": 1}
    finally:
        subprocess.run(["umount", world.folder], check=True)


@pytest.mark.parametrize("name", [queue_file.NAME, queue_file.LOCK, "folder"])
def test_a_link_in_our_place_is_refused(world: World, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    if name == "folder":
        elsewhere.mkdir()
        world.folder.symlink_to(elsewhere)
    else:
        elsewhere.write_text("precious")
        world.folder.mkdir()
        (world.folder / name).symlink_to(elsewhere)
    answer = world.wrap("sh", "-c", "exit 3")
    assert (answer.returncode, answer.stderr) == (3, "")
    assert elsewhere.read_text() == "precious" if name != "folder" else list(elsewhere.iterdir()) == []
    status = world.opskpi("hook", "status")
    assert status.returncode == 78, status.stdout
    assert "Traceback" not in status.stderr


@pytest.mark.parametrize("name", ["settings.json", "policy.json", "telemetry-state.json", "telemetry-losses"])
@pytest.mark.parametrize("obstacle", ["folder", "fifo", "link", "writable"])
def test_what_cannot_be_read_beside_the_queue_loses_no_event(world: World, name: str, obstacle: str) -> None:
    world.folder.mkdir()
    path = world.folder / name
    if obstacle == "folder":
        path.mkdir()
    elif obstacle == "fifo":
        os.mkfifo(path)
    elif obstacle == "link":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("{}")
        path.chmod(0o666)
    assert world.wrap("true").stderr == ""
    assert len(world.queued()) == 1
    assert "Traceback" not in world.opskpi("hook", "status").stderr


@pytest.mark.parametrize("obstacle", ["file", "fifo", "folder", "read-only"])
def test_a_place_that_cannot_be_written_changes_nothing_for_the_hook(world: World, obstacle: str) -> None:
    if obstacle == "file":
        world.folder.write_text("in the way")
    else:
        world.folder.mkdir()
    if obstacle == "fifo":
        os.mkfifo(world.folder / queue_file.NAME)
    if obstacle == "folder":
        (world.folder / queue_file.NAME).mkdir()
    if obstacle == "read-only":
        if os.geteuid() == 0:
            pytest.skip("root writes everywhere; the other obstacles stand for it")
        world.folder.chmod(0o500)
    answer = world.wrap("sh", "-c", "echo out; exit 3")
    assert (answer.returncode, answer.stdout, answer.stderr) == (3, "out\n", "")


def test_outside_of_a_repository_the_queue_is_the_users(world: World) -> None:
    world.wrap("true", cwd=world.home)
    assert (world.home / "state" / "opskpi" / ".sentinel" / queue_file.NAME).exists()
    assert not (world.home / ".sentinel").exists()


def test_a_worktree_a_submodule_and_a_bare_repository_each_have_their_place(world: World) -> None:
    world.commit()
    world.git("worktree", "add", "-q", "../linked")
    world.wrap("true", cwd=world.home / "linked")
    assert len(world.queued()) == 1
    world.git("clone", "-q", "--bare", world.repo, world.home / "bare.git")
    world.wrap("true", cwd=world.home / "bare.git")
    assert (world.home / "bare.git" / ".sentinel" / queue_file.NAME).exists()
    world.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", world.home / "bare.git", "inner")
    world.wrap("true", cwd=world.repo / "inner")
    assert (world.repo / ".git" / "modules" / "inner" / ".sentinel" / queue_file.NAME).exists()
    (world.repo / "deep" / "er").mkdir(parents=True)
    world.wrap("true", cwd=world.repo / "deep" / "er")
    world.wrap("true", cwd=world.home, env={"GIT_DIR": str(world.repo / ".git")})
    assert len(world.queued()) == 3


def test_a_folder_that_is_gone_changes_nothing_for_the_command(world: World) -> None:
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    command = [sys.executable, "-I", "-S", starting.ENTRY, "wrap", "pre-commit", "sh", "-c", "exit 3"]
    assert world.run("sh", "-c", script, "sh", *command).returncode == 3

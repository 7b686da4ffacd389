"""The commands: what they record, show and refuse."""

import json

import pytest

from opskpi.errors import OpsKpiError
from opskpi.hooks import overview
from support.hook_world import Receiver, World


def test_baseline_and_override_are_recorded(world: World) -> None:
    words = ["--file", "src/a.py", "--line", "7", "--pattern", "AWS", "--reason", "a test key", "--date", "2026-01-05"]
    assert world.opskpi("hook", "baseline", *words, "--reviewed").stdout == "recorded\n"
    answer = world.opskpi("hook", "override", "--reason", "hotfix", "--findings", "2", "--severity", "high", "--json")
    assert json.loads(answer.stdout) == {"recorded": True}
    baseline, override = world.metrics()
    assert (baseline["source"], baseline["reviewed"], baseline["baseline_entry"]["line"]) == ("manual", True, 7)
    assert (override["findings_count"], override["severity"], override["override_reason"]) == (2, "high", "hotfix")


def test_an_event_that_cannot_be_recorded_is_said_so(world: World) -> None:
    world.folder.write_text("in the way")
    answer = world.opskpi("hook", "override", "--reason", "hotfix")
    assert answer.returncode == 1
    assert "hook status" in answer.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("install", "--hub", "ftp://x"),
        ("install", "--hub", "https://user:pw@x"),
        ("install", "--hub", "http://["),
        ("install", "--hub", "http://a", "--supabase", "http://b"),
        ("install", "--org", "me"),
        ("install", "--key-file", "no-such-file"),
        ("wrap", "--hook-type", "pre-commit"),
        ("wrap", "true"),
        ("baseline", "--file", "x"),
        ("override",),
        ("override", "--reason", "r", "--findings", "-1"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_a_bad_argument_is_one_message_and_exit_64(world: World, arguments: tuple[str, ...]) -> None:
    answer = world.opskpi("hook", *arguments)
    assert answer.returncode == 64
    assert answer.stderr.strip()
    assert "Traceback" not in answer.stderr
    assert "pw" not in answer.stderr


def test_status_and_show_answer_before_anything_was_recorded(world: World) -> None:
    assert world.opskpi("hook", "show").stderr == "nothing is queued\n"
    assert json.loads(world.opskpi("hook", "show", "--json").stdout) == []
    assert "queue: 0 events" in world.opskpi("hook").stdout
    assert json.loads(world.opskpi("hook", "--json").stdout)["queue"]["events"] == 0
    assert world.opskpi("hook", "flush").returncode == 0
    assert not world.folder.exists()


def test_status_shows_the_queue_what_was_dropped_and_how_sending_went(world: World, receiver: Receiver) -> None:
    world.opskpi("hook", "install", "--hub", receiver.url)
    world.wrap("sh", "-c", 'echo nonsense >"$OPSKPI_HOOK_REPORT"', env={"OPSKPI_TELEMETRY": "1"})
    world.opskpi("hook", "flush")
    world.wrap("true")
    found = json.loads(world.opskpi("hook", "status", "--json").stdout)
    assert found["queue"]["events"] == 1
    assert found["queue"]["dropped"] == {"malformed_report": 1}
    assert found["queue"]["bytes"] == (world.folder / "telemetry-queue.json").stat().st_size
    assert found["sent"] == 1
    assert found["last_success"] is not None
    assert found["paused"] is None
    text = world.opskpi("hook", "status").stdout
    assert "dropped: 1 malformed report" in text
    assert f"target: hub {receiver.url}/api/v1/telemetry, key from OPSKPI_API_KEY" in text


def test_flush_without_a_target_says_how_to_name_one(world: World) -> None:
    world.wrap("true")
    answer = world.opskpi("hook", "flush")
    assert answer.returncode == 78
    assert "opskpi hook install --hub" in answer.stderr


def test_flush_prints_what_it_did(world: World, receiver: Receiver) -> None:
    world.target("http://127.0.0.1:1")
    world.wrap("true")
    world.target(receiver.url)
    answer = world.opskpi("hook", "flush", "--json")
    assert answer.returncode == 0, answer.stderr
    report = json.loads(answer.stdout)
    assert report["left"] == 0
    assert len(receiver.stored) == 1


def test_status_of_a_folder_that_cannot_be_entered_says_which(inside: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    assert inside.wrap("true").returncode == 0
    monkeypatch.setattr(overview.trust, "fault", refuse)
    monkeypatch.setattr(overview, "Folder", refuse)
    with pytest.raises(OpsKpiError, match="cannot be used"):
        overview.status()

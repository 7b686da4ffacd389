"""A commit with --no-verify is seen, and other commits are not taken for one."""

import os
import shutil

import pytest

from support.hook_world import World, install

PASSING = "#!/bin/sh\nexit 0\n"


def executions_and_overrides(world: World) -> list[str]:
    return [event["event"] for event in world.queued()]


@pytest.mark.parametrize("action", ["deploy", "release: 1.0", "commit"])
@pytest.mark.parametrize("arguments", [("commit", "-n"), ("-c", "core.x=y", "commit", "--no-verify")])
def test_words_of_ones_own_in_the_reflog_hide_no_bypass(world: World, action: str, arguments: tuple[str, ...]) -> None:
    world.add_hook("pre-commit", PASSING)
    install(world)
    world.git(*arguments, "-q", "--allow-empty", "-m", "x", env={"GIT_REFLOG_ACTION": action})
    world.await_events(1, "hook_override")


def test_picks_reverts_and_rebases_under_words_of_ones_own_are_no_bypass(world: World) -> None:
    world.add_hook("pre-commit", PASSING)
    world.commit()
    world.git("checkout", "-q", "-b", "side")
    for name in ("one", "two"):
        (world.repo / name).write_text(name)
        world.git("add", name)
        world.commit()
    world.git("checkout", "-q", "main")
    (world.repo / "three").write_text("3")
    world.git("add", "three")
    world.commit()
    install(world)
    env = {"GIT_REFLOG_ACTION": "deploy"}
    world.git("cherry-pick", "side~1", env=env)
    world.git("revert", "--no-edit", "HEAD", env=env)
    world.git("checkout", "-q", "side")
    world.git("rebase", "-q", "main", env=env)
    world.git("commit", "-q", "-n", "--allow-empty", "-m", "x", env=env)
    world.await_events(1, "hook_override")
    assert executions_and_overrides(world) == ["hook_override"]


def test_a_path_without_any_tools_prints_nothing_and_hides_no_bypass(world: World) -> None:
    world.add_hook("pre-commit", PASSING)
    install(world)
    git = shutil.which("git")
    answer = world.run(git, "commit", "-q", "-n", "--allow-empty", "-m", "x", env={"PATH": "/nowhere"})
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    world.await_events(1, "hook_override")
    later = world.run(git, "commit", "-q", "--allow-empty", "-m", "x", env={"PATH": "/nowhere"})
    assert (later.returncode, later.stdout, later.stderr) == (0, "", "")
    assert executions_and_overrides(world) == ["hook_override", "hook_execution"]


def test_ours_behind_the_hook_of_another_tool_prints_nothing_without_tools_either(world: World) -> None:
    world.add_hook("pre-commit", PASSING)
    install(world)
    os.rename(world.hooks / "pre-commit", world.hooks / "pre-commit.legacy")  # noqa: PTH104
    world.add_hook("pre-commit", "#!/bin/sh\nexec .git/hooks/pre-commit.legacy\n")
    answer = world.run(shutil.which("git"), "commit", "-q", "--allow-empty", "-m", "x", env={"PATH": "/nowhere"})
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


@pytest.mark.parametrize("obstacle", ["unreadable", "folder", "fifo", "link"])
def test_a_note_that_cannot_be_written_costs_no_event_and_no_line(world: World, obstacle: str) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\nexit 0\n")
    install(world)
    note = world.repo / ".git" / "opskpi-pre-commit"
    if obstacle == "folder":
        note.mkdir()
    elif obstacle == "fifo":
        os.mkfifo(note)
    elif obstacle == "link":
        note.symlink_to(world.home / "elsewhere")
    else:
        note.write_text("1\n")
        note.chmod(0)
    answer = world.commit()
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert [event["event"] for event in world.queued()][:1] == ["hook_execution"]
    assert not (world.home / "elsewhere").exists()

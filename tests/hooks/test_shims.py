"""The hooks that we write, in places where the hooks that they run are not."""

import shutil
import sys
from pathlib import Path

import pytest

from support.hook_world import World, install, uninstall

CHECK = "#!/bin/sh\necho checked >&2\nexit 1\n"
GONE = "opskpi: the pre-commit hook that was here is gone, only ours was copied: `opskpi hook install` looks for it\n"


def copied(world: World, *, follow: bool = False) -> World:
    """Copy the folder of the hooks alone into another repository, as a template of git or `cp -r` does."""
    copy = World(world.home, world.home / "copy", world.env)
    world.git("init", "-q", "--template=", copy.repo, cwd=world.home)
    shutil.copytree(world.hooks, copy.hooks, symlinks=not follow)
    return copy


def test_a_hook_that_was_copied_without_the_one_that_it_runs_says_so(world: World) -> None:
    world.add_hook("pre-commit", CHECK)
    install(world)
    copy = copied(world)
    answer = copy.commit()
    assert (answer.returncode, answer.stderr) == (0, GONE)
    assert "pre-commit: runs nothing" in copy.opskpi("hook", "status").stdout


def test_where_there_was_no_hook_a_copy_says_nothing(world: World) -> None:
    install(world)
    answer = copied(world).commit()
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("text", [CHECK, CHECK.rstrip("\n"), CHECK + "# ä #| \n\n\n"])
def test_installing_in_a_copy_brings_the_hook_back(world: World, text: str) -> None:
    world.add_hook("pre-commit", text)
    install(world)
    copy = copied(world)
    assert "pre-commit: reports\n" in install(copy)
    assert copy.commit().stderr == "checked\n"
    assert "pre-commit: is as it was\n" in uninstall(copy, "--purge")
    assert [path.name for path in copy.hooks.iterdir() if not path.name.endswith(".sample")] == ["pre-commit"]
    assert (copy.hooks / "pre-commit").read_text() == text
    assert (copy.hooks / "pre-commit").stat().st_mode & 0o777 == 0o755


def test_a_hook_that_ours_cannot_hold_is_named_as_missing(world: World) -> None:
    world.add_hook("pre-commit", f"#!/bin/sh\nexit 1\n{'# long' * 20_000}\n")
    install(world)
    copy = copied(world)
    said = "the hook that was here was not copied with ours: copy it from the clone that has it"
    assert said in install(copy)


def test_a_copy_that_followed_the_link_has_its_hook(world: World) -> None:
    (world.hooks / "neighbour").write_text("x")
    world.add_hook("pre-commit", f"#!/bin/sh\nexit 1\n{'# long' * 20_000}\n")
    install(world)
    copy = copied(world, follow=True)
    assert "pre-commit: reports\n" in install(copy)
    uninstall(copy, "--purge")
    names = {path.name for path in copy.hooks.iterdir() if not path.name.endswith(".sample")}
    assert names == {"pre-commit", "neighbour"}


def test_a_copied_hook_runs_nothing_that_a_clone_brings_along(world: World, tmp_path: Path) -> None:
    world.add_hook("pre-commit", CHECK)
    install(world)
    template = tmp_path / "template"
    shutil.copytree(world.hooks, template / "hooks", symlinks=True)
    theirs = World(world.home, world.home / "theirs", world.env)
    world.git("init", "-q", theirs.repo, cwd=world.home)
    planted = theirs.repo / "hooks.opskpi-original"
    planted.mkdir()
    (planted / "pre-commit").write_text("#!/bin/sh\ntouch planted\n")
    (planted / "pre-commit").chmod(0o755)
    (theirs.repo / "hooks").symlink_to(".git/hooks")
    theirs.git("add", "-A")
    theirs.commit()
    clone = World(world.home, world.home / "clone", world.env)
    world.git("clone", "-q", "--template", template, theirs.repo, clone.repo, cwd=world.home)
    assert clone.commit().stderr == GONE
    assert not (clone.repo / "planted").exists()


def test_a_hook_of_ours_that_is_started_by_its_bare_name_runs_its_original(world: World) -> None:
    world.add_hook("pre-commit", CHECK)
    install(world)
    answer = world.run("sh", "pre-commit", cwd=world.hooks)
    assert (answer.returncode, answer.stderr) == (1, "checked\n")


def test_nobody_else_may_write_what_is_ours_whatever_the_mask(world: World) -> None:
    world.add_hook("pre-commit", CHECK)
    env = {"OPSKPI_HOOK_AGENT_ID": "", "XDG_DATA_HOME": str(world.home / "deep" / "data")}
    script = 'umask 000; "$0" -m opskpi hook install && git commit --allow-empty -m x'
    assert world.run("sh", "-c", script, sys.executable, env=env).stderr == "checked\n"
    kept = world.hooks.with_name("hooks.opskpi-original")
    ours = [world.hooks / "pre-commit", kept, kept / "pre-commit", world.folder, *(world.home / "deep").rglob("*")]
    assert len(world.queued()) == 1
    assert [path for path in (world.home / "deep", *ours) if path.stat().st_mode & 0o022] == []

"""Installed files are known by their place in the clone, so that moving and copying a clone is no trouble."""

import json
import shutil
from pathlib import Path

import pytest

from support.hook_tools import traces
from support.hook_world import World, install, tree, uninstall

MINE = "#!/bin/sh\necho mine >&2\n"


def with_hooks(world: World, place: str) -> None:
    """Add a hook in `.git/hooks` or in a folder of the tree that git ignores, as husky has one."""
    if place == "in the tree":
        folder = world.repo / ".husky" / "_"
        folder.mkdir(parents=True)
        (folder / ".gitignore").write_text("*")
        world.git("config", "core.hooksPath", ".husky/_")
    else:
        folder = world.hooks
    (folder / "pre-commit").write_text(MINE)
    (folder / "pre-commit").chmod(0o755)


@pytest.mark.parametrize("place", ["in the git directory", "in the tree"])
def test_uninstall_after_the_clone_was_moved_leaves_it_as_it_was(world: World, place: str) -> None:
    with_hooks(world, place)
    before = tree(world.repo)
    install(world)
    moved = World(world.home, world.home / "moved", world.env)
    world.repo.rename(moved.repo)
    assert moved.run("git", "hook", "run", "pre-commit").stderr == "mine\n"
    assert len(moved.queued()) == 1
    uninstall(moved, "--purge")
    assert tree(moved.repo) == before


@pytest.mark.parametrize("place", ["in the git directory", "in the tree"])
def test_uninstall_in_a_copy_cleans_the_copy_and_spares_the_first(world: World, place: str) -> None:
    with_hooks(world, place)
    before = tree(world.repo)
    install(world)
    copy = World(world.home, world.home / "copy", world.env)
    shutil.copytree(world.repo, copy.repo, symlinks=True)
    first = tree(world.repo)
    uninstall(copy, "--purge")
    assert tree(world.repo) == first
    assert tree(copy.repo) == before
    uninstall(world, "--purge")
    assert tree(world.repo) == before


@pytest.mark.parametrize("change", ["moved", "copied"])
def test_a_note_of_the_previous_release_means_the_clone_that_it_lies_in(world: World, change: str) -> None:
    with_hooks(world, "in the git directory")
    install(world)
    note = world.repo / ".git" / "opskpi-installed.json"
    note.write_text(json.dumps({"folders": {str(world.hooks): False}, "excluded": {str(world.hooks): "/.sentinel/\n"}}))
    other = World(world.home, world.home / "other", world.env)
    if change == "moved":
        world.repo.rename(other.repo)
        first = {}
    else:
        shutil.copytree(world.repo, other.repo, symlinks=True)
        first = tree(world.repo)
    uninstall(other, "--purge")
    assert traces(other) == []
    assert (other.hooks / "pre-commit").read_text() == MINE
    assert change == "moved" or tree(world.repo) == first


def with_linked_worktree(world: World) -> World:
    world.commit()
    world.git("config", "core.hooksPath", ".husky/_")
    linked = World(world.home, world.home / "linked", world.env)
    world.git("worktree", "add", "-q", linked.repo)
    folder = linked.repo / ".husky" / "_"
    folder.mkdir(parents=True)
    (folder / "pre-commit").write_text(MINE)
    (folder / "pre-commit").chmod(0o755)
    exclude = world.repo / ".git" / "info" / "exclude"
    exclude.write_text("/.husky/_/pre-commit\n")
    return linked


def test_our_hooks_are_no_untracked_files_of_a_linked_worktree(world: World) -> None:
    linked = with_linked_worktree(world)
    before = tree(linked.repo)
    install(linked)
    assert linked.git("status", "--short", "-uall") == world.git("status", "--short", "-uall") == ""
    assert linked.commit().stderr == "mine\n"
    assert len(world.queued()) == 1
    uninstall(world, "--purge")
    assert tree(linked.repo) == before
    assert traces(world) == traces(linked) == []


def test_uninstall_in_a_copy_spares_the_linked_worktree_of_the_first(world: World) -> None:
    linked = with_linked_worktree(world)
    install(linked)
    copy = World(world.home, world.home / "copy", world.env)
    shutil.copytree(world.repo, copy.repo, symlinks=True)
    before = tree(linked.repo)
    uninstall(copy, "--purge")
    assert tree(linked.repo) == before
    assert linked.commit().stderr == "mine\n"


def test_hooks_are_found_from_a_folder_below_the_top(world: World) -> None:
    with_hooks(world, "in the tree")
    below = world.repo / "a" / "b"
    below.mkdir(parents=True)
    install(world, cwd=below)
    assert list(below.iterdir()) == []
    assert world.commit().stderr == "mine\n"
    assert len(world.queued()) == 1


def test_hooks_in_the_working_tree_itself_are_refused_with_the_way_out(world: World) -> None:
    world.git("config", "core.hooksPath", ".")
    answer = world.opskpi("hook", "install")
    assert answer.returncode == 78
    assert "opskpi hook wrap" in answer.stderr
    assert list(Path(world.home).glob("*opskpi*")) == []

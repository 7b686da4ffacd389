"""The files of installing and uninstalling are written whole or not at all, by one process at a time, and gone afterwards."""

import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from opskpi.errors import OpsKpiError
from opskpi.hooks import configuring, installing, overview, replacing, reports
from support.hook_world import World, install, tree, uninstall

CHANGES = {
    *("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.utime"),
    *("os.truncate", "shutil.move"),
}


def die_at_change(number: int) -> None:
    """Kill this process before its so many'th change of the file system."""
    made = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal made
        flags = arguments[2] if event == "open" else 0
        if event not in CHANGES and not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
            return
        made += 1
        if made == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def survives(number: int, act: Callable[[], object]) -> bool:
    """Whether a process comes to the end of what it does before the so many'th change."""
    child = os.fork()
    if child == 0:
        die_at_change(number)
        try:
            act()
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, -signal.SIGKILL}, code
    return code == 0


def put_in() -> None:
    installing.install()
    configuring.configure("http://127.0.0.1:9", None, None, None)


def take_out() -> None:
    installing.uninstall()
    overview.clear(purge=True)


@pytest.mark.parametrize("act", [put_in, take_out])
def test_a_kill_at_any_step_leaves_the_hook_and_nothing_after_uninstalling(
    inside: World, act: Callable[[], None]
) -> None:
    inside.add_hook("pre-commit", "#!/bin/sh\nexit 7\n")
    (inside.repo / ".git" / "info" / "exclude").write_text("mine\n")
    before = tree(inside.repo)
    number = 0
    while True:
        number += 1
        if act is take_out:
            put_in()
        is_through = survives(number, act)
        assert inside.run(inside.hooks / "pre-commit").returncode == 7, number
        assert (inside.repo / ".git" / "info" / "exclude").read_text().startswith("mine\n"), number
        take_out()
        assert tree(inside.repo) == before, number
        if is_through:
            break
    assert number > 15


def test_a_full_disk_leaves_the_lines_of_info_exclude(inside: World) -> None:
    exclude = inside.repo / ".git" / "info" / "exclude"
    exclude.write_text("mine\n" * 819)
    before = exclude.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), hard))
    try:
        with pytest.raises(OpsKpiError):
            installing.install()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert exclude.read_bytes() == before
    uninstall(inside)
    assert exclude.read_bytes() == before
    assert list(exclude.parent.iterdir()) == [exclude]


def test_an_exclude_file_that_is_a_link_stays_one_with_its_mode(world: World) -> None:
    exclude, theirs = world.repo / ".git" / "info" / "exclude", world.home / "excluded"
    theirs.write_text("mine\n")
    theirs.chmod(0o640)
    exclude.unlink()
    exclude.symlink_to(theirs)
    install(world)
    assert exclude.is_symlink()
    assert "/.sentinel/" in theirs.read_text()
    uninstall(world, "--purge")
    assert (theirs.read_text(), theirs.stat().st_mode & 0o777) == ("mine\n", 0o640)


def test_who_installs_waits_for_who_does(inside: World, monkeypatch: pytest.MonkeyPatch) -> None:
    inside.add_hook("pre-commit", "#!/bin/sh\n")
    before = tree(inside.repo)
    said: list[str] = []
    with replacing.alone(str(inside.repo / ".git")):
        others = [threading.Thread(target=lambda: said.append(install(inside))) for _ in range(2)]
        for other in others:
            other.start()
        assert said == []
    for other in others:
        other.join()
    assert len(said) == 2
    uninstall(inside, "--purge")
    assert tree(inside.repo) == before
    monkeypatch.setattr(replacing, "_LONGEST_WAIT_S", 0)
    with replacing.alone(str(inside.repo / ".git")), pytest.raises(OpsKpiError) as refused, installing.alone():
        pass
    assert refused.value.exit_code == 75


def test_a_file_is_replaced_by_one_of_the_asked_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o600)
    replacing.replace(path, b"new", 0o755)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o755)


def test_a_sender_that_was_just_starting_leaves_nothing_after_uninstalling(
    inside: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.add_hook("pre-commit", "#!/bin/sh\nexit 7\n")
    before = tree(inside.repo)
    put_in()
    rmdir, removed = os.rmdir, []

    def rmdir_after_the_lock_is_made(path: str) -> None:
        if Path(path).name == ".sentinel":
            if not removed:
                (Path(path) / reports.LOCK).touch()
            removed.append(path)
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", rmdir_after_the_lock_is_made)
    take_out()
    assert len(removed) == 2
    assert tree(inside.repo) == before

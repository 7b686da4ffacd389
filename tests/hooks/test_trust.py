"""Whose settings, queues, repositories and key files are used: those that nobody but the caller and root can have written."""

import grp
import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from opskpi.hooks import git, record, sender, trust
from support.hook_world import EXECUTION, KEY, ORG, Receiver, World, install

STRANGER = 4321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")


@pytest.fixture
def public() -> Iterator[Path]:
    """Create a folder that everybody can enter, as those of the tests are not."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def plant_settings(folder: Path, url: str) -> Path:
    """Write settings that send to a stranger's address."""
    folder.mkdir(exist_ok=True, parents=True)
    settings = folder / "settings.json"
    settings.write_text(json.dumps({"target": "hub", "url": url, "org_id": ORG}))
    return settings


def look_like_a_repository(folder: Path) -> None:
    for name in ("objects", "refs"):
        (folder / name).mkdir(parents=True)
        (folder / name / "keep").write_text("")
    (folder / "HEAD").write_text("ref: refs/heads/main\n")
    (folder / "config").write_text("[core]\n\tbare = true\n")


def give_away(path: Path) -> None:
    for place in [path, *path.rglob("*")]:
        os.chown(place, STRANGER, STRANGER, follow_symlinks=False)


def work_in(world: World, place: Path, receiver: Receiver) -> None:
    """Record and send there in every way: by a hook, from Python, in the background and by command."""
    os.chdir(place)
    assert world.wrap("true", cwd=place).returncode == 0
    record("hook_execution", **EXECUTION)
    world.opskpi("hook", "flush", cwd=place)
    world.opskpi("hook", "resend", cwd=place)
    world.await_quiet()
    assert receiver.requests == []


def test_settings_in_the_working_tree_of_a_clone_send_no_key_and_are_named(world: World, receiver: Receiver) -> None:
    plant_settings(world.repo / ".sentinel", receiver.url)
    world.git("add", "-f", ".")
    world.commit()
    clone = world.home / "clone"
    world.git("clone", "-q", world.repo, clone)
    answer = world.opskpi("hook", "install", cwd=clone)
    assert answer.returncode == 0, answer.stderr
    for place in (clone, clone / ".sentinel"):
        work_in(world, place, receiver)
    status = world.opskpi("hook", "status", cwd=clone)
    assert "target: none" in status.stdout
    assert f"settings in {clone / '.sentinel'} are not used" in status.stdout


def test_a_committed_folder_that_looks_like_a_repository_gets_no_key(inside: World, receiver: Receiver) -> None:
    inner = inside.repo / "inner"
    look_like_a_repository(inner)
    plant_settings(inner / ".sentinel", receiver.url)
    inside.git("add", "-f", ".")
    work_in(inside, inner, receiver)
    assert "brought it along" in sender.run(str(inner / ".sentinel"), foreground=True).reason
    status = inside.opskpi("hook", "status", cwd=inner)
    assert "not trusted, so its settings are not used" in status.stdout
    refused = inside.opskpi("hook", "install", "--hub", "http://127.0.0.1:1", cwd=inner)
    assert (refused.returncode, "not trusted" in refused.stderr) == (78, True)


def test_an_environment_that_names_such_a_folder_changes_nothing(
    inside: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = inside.repo / "inner"
    look_like_a_repository(inner)
    plant_settings(inner / ".sentinel", receiver.url)
    for name, value in (
        ("GIT_DIR", str(inner)),
        ("GIT_WORK_TREE", str(inside.repo)),
        ("GIT_COMMON_DIR", str(inner)),
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "core.worktree"),
        ("GIT_CONFIG_VALUE_0", str(inner)),
    ):
        monkeypatch.setenv(name, value)
        inside.env[name] = value
    work_in(inside, inside.repo, receiver)


@pytest.mark.parametrize("what", ["settings.json", ".sentinel", ".git", "the parent folder"])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_what_others_can_write_sends_no_key(inside: World, receiver: Receiver, what: str, mode: int) -> None:
    if what == "the parent folder" and mode == 0o1777:
        return  # as /tmp is
    settings = plant_settings(inside.folder, receiver.url)
    settings.chmod(0o600)
    place = {"settings.json": settings, ".sentinel": inside.folder, ".git": inside.repo / ".git"}.get(what, inside.repo)
    os.chown(place, -1, STRANGER) if os.geteuid() == 0 else None
    place.chmod(mode if os.geteuid() == 0 else mode | 0o002)
    work_in(inside, inside.repo, receiver)
    place.chmod(0o755)
    assert inside.opskpi("hook", "flush").returncode == 0
    assert receiver.requests[0][2]["authorization"] == f"Bearer {KEY}" or inside.queued() == []


@as_root
@pytest.mark.parametrize("what", ["settings.json", ".sentinel", ".git", "the parent folder"])
def test_what_belongs_to_another_user_sends_no_key(inside: World, receiver: Receiver, what: str) -> None:
    settings = plant_settings(inside.folder, receiver.url)
    place = {"settings.json": settings, ".sentinel": inside.folder, ".git": inside.repo / ".git"}.get(what, inside.repo)
    os.chown(place, STRANGER, -1)
    work_in(inside, inside.repo, receiver)
    assert "belongs to another user" in inside.opskpi("hook", "status").stdout


@as_root
def test_a_repository_of_another_user_above_the_working_directory_sends_no_key(
    inside: World, receiver: Receiver
) -> None:
    shared = inside.home / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    inside.git("init", "-q", shared, cwd=inside.home)
    plant_settings(shared / ".git" / ".sentinel", receiver.url)
    give_away(shared / ".git")
    mine = shared / "mine"
    mine.mkdir()
    work_in(inside, mine, receiver)
    assert inside.git("-c", f"safe.directory={shared}", "status", "--short", cwd=mine) == ""


@as_root
def test_a_link_that_another_user_made_sends_no_key(inside: World, receiver: Receiver) -> None:
    plant_settings(inside.folder, receiver.url)
    shared = inside.home / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for name, target in (("direct", inside.repo / ".git"), ("hop", "direct")):
        (shared / name).symlink_to(target)
        os.chown(shared / name, STRANGER, STRANGER, follow_symlinks=False)
    elsewhere = inside.home / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".git").symlink_to(shared / "hop")
    work_in(inside, elsewhere, receiver)


def test_a_link_of_the_user_is_followed(inside: World, receiver: Receiver) -> None:
    plant_settings(inside.folder, receiver.url)
    elsewhere = inside.home / "elsewhere"
    elsewhere.symlink_to(inside.repo)
    os.chdir(elsewhere)
    record("hook_execution", **EXECUTION)
    assert inside.opskpi("hook", "flush", cwd=elsewhere).returncode == 0
    assert len(receiver.stored) == 1


def test_events_of_a_repository_that_is_not_trusted_are_the_users(world: World) -> None:
    world.repo.chmod(0o777)
    assert world.wrap("true").returncode == 0
    kept = json.loads((world.home / "state" / "opskpi" / ".sentinel" / "telemetry-queue.json").read_text())
    assert len(kept["events"]) == 1
    assert not world.folder.exists()


def test_git_runs_nothing_of_a_repository_that_it_is_asked_about(
    inside: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    inside.commit()
    for name in ("core.fsmonitor", "core.sshCommand", "core.pager", "alias.ls-files"):
        inside.git("config", name, program)
    # Git itself runs it.
    inside.git("status", "--short")
    assert ran.exists()
    ran.unlink()
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(program))
    assert not git.tracks(str(inside.repo), ".sentinel")
    assert git.ask("ls-files") == ""
    assert not ran.exists()


def test_files_by_the_private_group_of_a_user_are_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "by-group"
    place.mkdir()
    place.chmod(0o775)
    group = place.stat().st_gid
    account = pwd.struct_passwd(("ann", "x", os.geteuid(), group, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: account)
    for name, members, trusted in (
        ("ann", [], True),
        ("ann", ["ann"], True),
        ("ann", ["bob"], False),
        ("users", [], False),
    ):
        entry = grp.struct_group((name, "x", group, members))
        monkeypatch.setattr(grp, "getgrgid", lambda _, entry=entry: entry)
        assert (trust.fault(str(place)) == "") == trusted, (name, members)
    entry = grp.struct_group(("ann", "x", group, []))
    monkeypatch.setattr(grp, "getgrgid", lambda _: entry)
    monkeypatch.setattr(os, "getxattr", lambda *_: b"a list that names bob", raising=False)
    assert trust.fault(str(place)) == f"a group can write {place}"


def test_folders_like_tmp_lead_to_what_is_mine_and_hold_nothing_of_mine(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "mine").mkdir(parents=True)
    shared.chmod(0o1777)
    assert trust.fault(str(shared / "mine")) == ""
    assert trust.fault(str(shared)) == f"everybody can write {shared}"
    shared.chmod(0o777)
    assert trust.fault(str(shared / "mine")) == f"everybody can write {shared}"


@pytest.mark.parametrize(
    ("mode", "parent", "fault"),
    [
        (0o600, 0o755, ""),
        (0o400, 0o755, ""),
        (0o644, 0o700, ""),
        (0o644, 0o755, "others can read"),
        (0o604, 0o711, "others can read"),
        (0o622, 0o755, "everybody can write"),
        (0o600, 0o777, "everybody can write"),
    ],
)
def test_a_key_file_that_others_read_or_write_is_not_used(
    inside: World,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    public: Path,
    mode: int,
    parent: int,
    fault: str,
) -> None:
    monkeypatch.delenv("OPSKPI_API_KEY")
    del inside.env["OPSKPI_API_KEY"]
    keys = public / "keys"
    keys.mkdir(0o700)
    key = keys / "key"
    key.write_text("a-key-in-a-file\n")
    install(inside, "--hub", receiver.url, "--key-file", key)
    key.chmod(mode)
    keys.chmod(parent)
    inside.wrap("true")
    inside.await_quiet()
    flushed = inside.opskpi("hook", "flush")
    again = inside.opskpi("hook", "install", "--key-file", key)
    if fault:
        assert (flushed.returncode, receiver.requests) == (78, [])
        assert fault in flushed.stderr
        assert fault in inside.opskpi("hook", "status").stdout
        assert (again.returncode, fault in again.stderr) == (64, True)
    else:
        assert receiver.requests[0][2]["authorization"] == "Bearer a-key-in-a-file"
        assert again.returncode == 0
    said = flushed.stdout + flushed.stderr + again.stdout + again.stderr
    assert "a-key-in-a-file" not in said


@as_root
def test_a_caller_who_is_not_root_trusts_what_is_roots_and_not_what_is_anothers(public: Path) -> None:
    script = f"import os, sys; os.setgid({STRANGER}); os.setuid({STRANGER}); sys.path.insert(0, sys.argv[1]);"
    script += "from opskpi.hooks import trust; print([trust.fault(path) for path in sys.argv[2:]])"
    package = public / "jobs" / "opskpi"
    (package / "hooks").mkdir(parents=True)
    for name in ("__init__.py", "hooks/__init__.py", "hooks/trust.py"):
        (package / name).write_bytes((Path(trust.__file__).parents[1] / name).read_bytes())
    for name, owner in (("roots", 0), ("own", STRANGER), ("anothers", STRANGER + 1)):
        (public / name).mkdir()
        os.chown(public / name, owner, owner)
    paths = [str(public / name) for name in ("roots", "own", "anothers")]
    command = ["python3", "-c", script, str(public / "jobs"), *paths]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == str(["", "", f"{paths[2]} belongs to another user"])

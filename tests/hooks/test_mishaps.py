"""What must not be lost or given away when a repository, a tool or a person does what nobody planned for."""

import json
import os
import stat
from pathlib import Path

import pytest

from opskpi.errors import OpsKpiError
from opskpi.hooks import configuring, events, overview, queue_file, sender
from opskpi.hooks.scrubbing import scrub
from opskpi.hooks.storage import Folder
from support.hook_world import AGENT, EXECUTION, ORG, Receiver, World, install, uninstall

PASSING = "#!/bin/sh\nexit 0\n"


def queue_execution(folder: Path, org: str | None = ORG) -> None:
    common: dict[str, object] = {"agent_id": AGENT, "org_id": org}
    event = events.build("hook_execution", EXECUTION, common, events.now_stamp())
    with Folder(str(folder)) as opened, queue_file.Queue(opened) as queue:
        queue.lines.append(events.line(event))
        queue.save()


def settings(folder: Path, **chosen: str) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "settings.json").write_text(json.dumps({"target": "hub"} | chosen))


def send_from(folder: Path) -> sender.Report:
    return sender.run(str(folder), foreground=True)


def test_settings_in_a_submodule_and_behind_a_worktree_of_a_bare_repository_are_used(
    inside: World, receiver: Receiver
) -> None:
    inside.commit()
    inside.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", inside.repo, "inner")
    bare = inside.home / "bare" / ".git"
    inside.git("clone", "-q", "--bare", inside.repo, bare)
    for folder in (inside.repo / ".git" / "modules" / "inner" / ".sentinel", bare / ".sentinel"):
        settings(folder, url=receiver.url)
        queue_execution(folder)
        assert send_from(folder).sent == 1


@pytest.mark.parametrize("way", ['$(readlink -f "$0")', '$(realpath "$0")'])
def test_a_hook_that_is_a_link_finds_what_lies_beside_its_file(world: World, way: str) -> None:
    scripts = world.repo / "scripts"
    scripts.mkdir()
    (scripts / "lib.sh").write_text("echo from the library >&2\n")
    (scripts / "check").write_text(f'#!/bin/sh\n. "$(dirname "{way}")/lib.sh"\n')
    (scripts / "check").chmod(0o755)
    (world.hooks / "pre-commit").symlink_to("../../scripts/check")
    install(world)
    answer = world.commit()
    assert (answer.returncode, answer.stderr) == (0, "from the library\n")


@pytest.mark.parametrize("reader", ["sed -n '/^#-/p' \"$0\"", 'grep "^#-" "$0"', "tail -n 1 <$0", "awk '/^#-/' $0"])
def test_a_hook_that_reads_itself_reads_its_own_text(world: World, reader: str) -> None:
    world.add_hook("pre-commit", f"#!/bin/sh\n{reader} >&2\nexit 0\n#-mine\n")
    install(world)
    assert world.commit().stderr == "#-mine\n"


def test_a_hook_whose_awk_prints_lines_still_has_its_own_name(world: World) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\nbasename \"$0\" | awk '{print $0}' >&2\n")
    install(world)
    assert world.commit().stderr == "pre-commit\n"


def test_events_from_before_an_org_was_named_get_it_when_they_are_sent(inside: World, receiver: Receiver) -> None:
    queue_execution(inside.folder, None)
    queue_execution(inside.folder, events.NIL_ORG)
    queue_execution(inside.folder, AGENT)
    inside.target(receiver.url)
    shown = [json.loads(request["body"]) for request in overview.upcoming()]
    assert send_from(inside.folder).sent == 3
    sent = [event["payload"]["org_id"] for event in receiver.stored.values()]
    assert sorted(sent) == sorted([ORG, ORG, AGENT]) == sorted(event["payload"]["org_id"] for event in shown[0])


def test_a_key_of_another_org_keeps_the_events_and_says_what_to_do(inside: World, receiver: Receiver) -> None:
    queue_execution(inside.folder)
    queue_execution(inside.folder)
    inside.target(receiver.url)
    refused = [{"index": index, "field": "org_id", "reason": "is another organisation"} for index in range(2)]
    receiver.plan = [json.dumps({"accepted": 0, "duplicate": 0, "refused": refused}).encode()]
    report = send_from(inside.folder)
    assert (report.stopped, report.left) == ("paused", 2)
    assert "opskpi hook install --org UUID" in report.reason
    assert not (inside.folder / "telemetry-refused.json").exists()


def test_both_hints_name_the_org(world: World) -> None:
    assert "--org UUID" in install(world)
    world.wrap("true")
    assert "--org UUID" in world.opskpi("hook", "flush").stderr


@pytest.mark.parametrize("again", ["install", "uninstall"])
def test_what_someone_added_to_a_hook_of_ours_is_kept(world: World, again: str) -> None:
    install(world)
    shim = world.hooks / "post-commit"
    shim.write_text(shim.read_text() + "echo mine\n")
    (world.hooks / "post-commit.opskpi-edited").write_text("older")
    said = install(world) if again == "install" else uninstall(world, "--purge")
    assert "post-commit.opskpi-edited-1" in said
    assert (world.hooks / "post-commit.opskpi-edited-1").read_text().endswith("echo mine\n")
    assert (world.hooks / "post-commit.opskpi-edited").read_text() == "older"
    assert "opskpi-edited" not in (install(world) if again == "install" else uninstall(world, "--purge"))
    assert shim.exists() == (again == "install")


def test_a_hook_that_another_tool_moved_away_is_kept(world: World) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\n: mine\n")
    install(world)
    for number in (1, 2):
        (world.hooks / "pre-commit").rename(world.home / "away")
        world.add_hook("pre-commit", f"#!/bin/sh\n: theirs {number}\n")
        assert f"pre-commit.opskpi-original-{number}" in install(world)
    assert ": mine" in (world.hooks / "pre-commit.opskpi-original-1").read_text()
    assert ": theirs 1" in (world.hooks / "pre-commit.opskpi-original-2").read_text()
    assert ": theirs 2" in (world.hooks / "opskpi-original" / "pre-commit").read_text()


def test_the_note_of_a_commit_counts_for_that_commit_only(world: World) -> None:
    world.add_hook("pre-commit", PASSING)
    install(world)
    marker = world.repo / ".git" / "opskpi-pre-commit"
    assert world.commit().returncode == 0
    assert marker.read_text() == ""


@pytest.mark.parametrize("joining", ["merge", "cherry-pick"])
@pytest.mark.parametrize("skipped", [True, False])
def test_a_conflict_that_ends_without_the_hook_is_an_override(world: World, joining: str, skipped: bool) -> None:
    world.add_hook("pre-commit", PASSING)
    for branch in ("main", "side", "other"):
        if branch != "main":
            world.git("checkout", "-q", "-b", branch, "main" if branch == "other" else "HEAD")
        (world.repo / "a").write_text(branch)
        world.git("add", "a")
        world.commit()
    install(world)
    assert world.run("git", joining, "side").returncode == 1
    (world.repo / "a").write_text("both")
    world.git("add", "a")
    assert world.commit(*["--no-verify"] * skipped).returncode == 0
    if skipped:
        world.await_events(1, "hook_override")
    else:
        assert [event["event"] for event in world.queued()] == ["hook_execution"]


def test_both_folders_of_hooks_are_as_they_were_after_uninstalling(world: World) -> None:
    world.add_hook("pre-commit", PASSING)
    exclude = world.repo / ".git" / "info" / "exclude"
    before = exclude.read_bytes()
    install(world)
    (world.repo / "mine").mkdir()
    world.git("config", "core.hooksPath", "mine")
    install(world)
    install(world)
    assert world.git("status", "--short") == ""
    assert exclude.read_text().count("/.sentinel/") == 1
    assert exclude.read_text().count("/mine/post-commit\n") == 1
    uninstall(world, "--purge")
    assert (world.hooks / "pre-commit").read_text() == PASSING
    assert not (world.hooks / "post-commit").exists()
    assert list((world.repo / "mine").iterdir()) == []
    assert exclude.read_bytes() == before


@pytest.mark.parametrize("name", ["apart", "apart/.git"])
def test_worktrees_of_a_git_dir_that_lies_elsewhere_share_one_queue(world: World, name: str) -> None:
    main, linked = world.home / "main", world.home / "linked"
    (world.home / "apart").mkdir()
    world.git("init", "-q", "-b", "main", "--separate-git-dir", world.home / name, main, cwd=world.home)
    world.commit(cwd=main)
    world.git("worktree", "add", "-q", linked, cwd=main)
    found = [json.loads(world.opskpi("hook", "--json", cwd=cwd).stdout)["folder"] for cwd in (main, linked)]
    assert found[0] == found[1]
    install(world, cwd=main)
    world.wrap("true", cwd=linked)
    assert world.git("status", "--short", cwd=main) == world.git("status", "--short", cwd=linked) == ""
    assert json.loads(world.opskpi("hook", "--json", cwd=main).stdout)["queue"]["events"] == 1


@pytest.mark.parametrize(
    "url",
    [
        *("https://:hunter2@x", "https://@x", "https://x/#hunter2", "https://x/a b", "https://x/\nhunter2"),
        *("https://x:99999/", "https://x:0/", "https://x/?hunter2", "https://x\t/"),
    ],
)
def test_an_address_with_more_than_an_address_is_refused_and_not_repeated(inside: World, url: str) -> None:
    with pytest.raises(OpsKpiError) as refusal:
        configuring.configure(url, None, None, None)
    assert "hunter2" not in str(refusal.value)
    assert not (inside.folder / "settings.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        *("PWD=hunter2!", "auth: hunter2", "Cookie=hunter2", "AccountKey=hunter2", "account_key: hunter2"),
        *("signature=hunter2", 'password="two words hunter2" x', "token='a \\' hunter2'", '"secret": "a, hunter2"'),
        *("x:/home/hunter2", "prefix/home/hunter2/a", "a=b)/etc/hunter2", "~x/Users/hunter2 lee/b", "hunter2%40x.org"),
    ],
)
def test_what_stands_in_an_unusual_place_does_not_stay(text: str) -> None:
    once = scrub(text, 500)
    assert "hunter2" not in once
    assert scrub(once, 500) == once


def test_a_kept_edit_is_a_file_like_the_one_it_was(world: World) -> None:
    install(world)
    shim = world.hooks / "pre-push"
    shim.write_text(shim.read_text() + "# mine\n")
    mode = stat.S_IMODE(shim.stat().st_mode)
    uninstall(world, "--purge")
    kept = world.hooks / "pre-push.opskpi-edited"
    assert stat.S_IMODE(kept.stat().st_mode) == mode
    assert not os.path.lexists(shim)

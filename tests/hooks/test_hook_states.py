"""`opskpi hook status` says what has become of our hooks."""

import json
from pathlib import Path

import pytest

from support.hook_tools import TOOLS, npm, runs, traces, world_of_tools
from support.hook_world import World, install, uninstall


def hooks_of(world: World) -> dict[str, str]:
    return json.loads(world.opskpi("hook", "status", "--json").stdout)["hooks"]


@pytest.mark.parametrize("name", TOOLS)
def test_status_says_when_a_tool_has_replaced_ours(world: World, node_tools: Path, name: str) -> None:
    world_of_tools(world, node_tools)
    world.add_hook("pre-commit", "#!/bin/sh\nexit 0\n")
    install(world)
    assert hooks_of(world)["pre-commit"] == "reports"
    TOOLS[name].install(world)
    said = hooks_of(world)["pre-commit"]
    assert said.startswith("not reported: ")
    assert said.endswith("run `opskpi hook install` again")
    install(world)
    assert hooks_of(world)["pre-commit"] == "reports"


@pytest.mark.parametrize("name", ["pre-commit", "lefthook", "simple-git-hooks"])
def test_status_says_when_ours_is_gone_with_the_hook_of_a_tool(world: World, node_tools: Path, name: str) -> None:
    world_of_tools(world, node_tools)
    TOOLS[name].install(world)
    install(world)
    TOOLS[name].remove(world)
    assert "ours was removed, by another tool or by hand" in hooks_of(world)["pre-commit"]


@pytest.mark.parametrize("name", ["pre-commit.bak", "pre-commit.old", "old-hooks/pre-commit"])
def test_ours_under_another_name_is_recognised(world: World, name: str) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\necho mine >&2\n")
    install(world)
    aside = world.hooks / name
    aside.parent.mkdir(exist_ok=True)
    (world.hooks / "pre-commit").rename(aside)
    world.add_hook("pre-commit", "#!/bin/sh\necho theirs >&2\n")
    assert "another tool has put its own hook in place of ours" in hooks_of(world)["pre-commit"]
    # Whoever runs ours there runs the hook that it stands for.
    assert world.run(f".git/hooks/{name}").stderr == "mine\n"
    uninstall(world, "--purge")
    assert aside.read_text() == "#!/bin/sh\necho mine >&2\n"
    assert world.commit().stderr == "theirs\n"
    assert traces(world) == []


def test_a_repository_in_which_nothing_was_installed_says_so(world: World) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\nexit 0\n")
    assert set(hooks_of(world).values()) == {"not installed"}


def test_status_names_the_hooks_of_gits_configuration(world: World) -> None:
    for name, event in (
        ("lint", "pre-commit"),
        ("lint", "pre-push"),
        ("dotted.name", "commit-msg"),
        ("off", "pre-push"),
    ):
        world.git("config", "--add", f"hook.{name}.event", event)
        world.git("config", f"hook.{name}.command", "true")
    world.git("config", "hook.off.enabled", "false")
    world.git("config", "hook.unfinished.event", "pre-push")
    said = {name: text for name, text in hooks_of(world).items() if name.startswith("hook.")}
    assert list(said) == ["hook.lint", "hook.dotted.name"]
    assert said["hook.lint"].startswith("pre-commit, pre-push of git's configuration")
    assert "hook.dotted.name: commit-msg of git's configuration" in world.opskpi("hook", "status").stdout


def test_husky_in_the_prepare_script_of_npm_goes_on_reporting(world: World, node_tools: Path) -> None:
    world_of_tools(world, node_tools)
    (world.repo / "node_modules").unlink()
    package = json.loads((node_tools / "package.json").read_text())
    package["scripts"] = {"prepare": "husky && opskpi hook install"}
    (world.repo / "package.json").write_text(json.dumps(package))
    (world.repo / "package-lock.json").write_bytes((node_tools / "package-lock.json").read_bytes())
    (world.repo / ".husky").mkdir()
    (world.repo / ".husky" / "pre-commit").write_text("echo tool >>ran\n")
    command = world.home / "bin" / "opskpi"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\nexec python3 -m opskpi "$@"\n')
    command.chmod(0o755)
    env = world.env | {"PATH": f"{command.parent}:{world.env['PATH']}"}
    for _ in range(2):
        answer = npm("ci", cwd=world.repo, env=env)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert hooks_of(world)["pre-commit"] == "reports"
        assert runs(world) == ["tool"]
    assert [metrics["result"] for metrics in world.metrics()] == ["allowed", "allowed"]
    uninstall(world, "--purge")
    assert traces(world) == []
    assert runs(world) == ["tool"]

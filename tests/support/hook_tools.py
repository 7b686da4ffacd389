"""The tools that write git hooks, as their users install them: pre-commit and lefthook from PyPI, the others from npm."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .hook_world import World
from .postgres import unavailable

NODE_PACKAGES = {"husky": "9.1.7", "simple-git-hooks": "2.13.1"}
PACKAGE = {"name": "app", "version": "1.0.0", "private": True, "devDependencies": NODE_PACKAGES}
FRAMEWORK_CONFIG = """\
repos:
  - repo: local
    hooks:
      - {id: count, name: count, language: system, entry: sh -c 'echo tool >>ran', always_run: true, pass_filenames: false}
"""
LEFTHOOK_CONFIG = "pre-commit: {commands: {count: {run: echo tool >>ran}}}\n"


@dataclass(frozen=True)
class Tool:
    """A tool in a repository: `keeps` says whether it leaves a hook that was there before to be run besides."""

    name: str
    install: Callable[[World], None]
    remove: Callable[[World], None]
    keeps: bool


def npm(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run npm with the cache of the user who runs the tests."""
    cache = os.environ.get("NPM_CONFIG_CACHE") or str(Path.home() / ".npm")
    quiet = {"npm_config_cache": cache, "npm_config_update_notifier": "false", "npm_config_audit": "false"}
    command = ["npm", *arguments, "--no-fund", "--prefer-offline"]
    return subprocess.run(
        command, cwd=cwd, env=(env or dict(os.environ)) | quiet, capture_output=True, encoding="utf-8", check=False
    )


def install_node_tools(place: Path) -> Path:
    """Install husky and simple-git-hooks, and return the folder with `package.json`, its lock and `node_modules`."""
    if shutil.which("npm") is None:
        unavailable("npm is not installed")
    place.joinpath("package.json").write_text(json.dumps(PACKAGE))
    answer = npm("install", "--ignore-scripts", cwd=place)
    if answer.returncode != 0:
        unavailable(f"npm cannot install husky and simple-git-hooks: {answer.stderr.strip()}")
    return place


def _must(world: World, *command: object) -> None:
    answer = world.run(*command)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def _framework(*arguments: str) -> Callable[[World], None]:
    def run(world: World) -> None:
        (world.repo / ".pre-commit-config.yaml").write_text(FRAMEWORK_CONFIG)
        _must(world, sys.executable, "-m", "pre_commit", *arguments)

    return run


def _lefthook(*arguments: str) -> Callable[[World], None]:
    def run(world: World) -> None:
        (world.repo / "lefthook.yml").write_text(LEFTHOOK_CONFIG)
        _must(world, sys.executable, "-m", "lefthook", *arguments)

    return run


def _husky(world: World) -> None:
    (world.repo / ".husky").mkdir(exist_ok=True)
    (world.repo / ".husky" / "pre-commit").write_text("echo tool >>ran\n")
    _must(world, "node", "node_modules/husky/bin.js")


def _husky_removed(world: World) -> None:
    world.run("git", "config", "--unset", "core.hooksPath")


def _simple(script: str) -> Callable[[World], None]:
    def run(world: World) -> None:
        (world.repo / ".simple-git-hooks.json").write_text(json.dumps({"pre-commit": "echo tool >>ran"}))
        _must(world, "node", f"node_modules/simple-git-hooks/{script}.js")

    return run


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("pre-commit", _framework("install"), _framework("uninstall"), keeps=True),
        Tool("lefthook", _lefthook("install"), _lefthook("uninstall"), keeps=False),
        Tool("husky", _husky, _husky_removed, keeps=False),
        Tool("simple-git-hooks", _simple("cli"), _simple("uninstall"), keeps=False),
    )
}


def world_of_tools(world: World, node_tools: Path) -> World:
    """Let a repository use every tool: they are on its PATH or in its `node_modules`, and nothing of them is committed."""
    world.env["PRE_COMMIT_HOME"] = str(world.home / "cache")
    world.env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), world.env["PATH"]])
    (world.repo / "node_modules").symlink_to(node_tools / "node_modules")
    (world.repo / ".git" / "info" / "exclude").write_text("*\n")
    return world


def runs(world: World) -> list[str]:
    """Commit a change, and return which hooks have run, in order; the commit must succeed."""
    ran, change = world.repo / "ran", world.repo / "change"
    ran.unlink(missing_ok=True)
    with change.open("a") as file:
        file.write("line\n")
    world.git("add", "-f", "change")
    answer = world.commit()
    assert answer.returncode == 0, answer.stderr
    return ran.read_text().split() if ran.exists() else []


def traces(world: World) -> list[str]:
    """Return every file of ours but the queue, by name or by what it says."""
    return [
        str(path.relative_to(world.repo))
        for path in world.repo.rglob("*")
        if "node_modules" not in path.parts
        and (
            "opskpi" in path.name
            or (path.is_file() and not path.is_relative_to(world.folder) and b"opskpi hook shim" in path.read_bytes())
        )
    ]

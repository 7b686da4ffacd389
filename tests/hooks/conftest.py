"""Fixtures of the tests of the hooks: a repository, the same for code that runs in the test itself, and a receiver."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hook_tools import install_node_tools
from support.hook_world import Receiver, World, running_receiver, world_in


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Create a home with an empty repository."""
    return world_in(tmp_path)


@pytest.fixture
def inside(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Put the test's own process into the repository, with the environment of its user."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "OPSKPI_")) or name == "DO_NOT_TRACK"]:
        monkeypatch.delenv(name)
    for name, value in world.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.repo)
    return world


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Run what takes events on this machine as a hub does, and answers as told."""
    with running_receiver() as running:
        yield running


@pytest.fixture(scope="session")
def node_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the tools of npm once for a session."""
    return install_node_tools(tmp_path_factory.mktemp("node_tools"))

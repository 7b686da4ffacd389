"""An installation that is half there, as while it is upgraded or removed."""

import shutil
import sys
from pathlib import Path

import pytest

from support.hook_world import ENTRY, World


@pytest.mark.parametrize("damage", ["missing", "cut off"])
@pytest.mark.parametrize("script", ["#!/bin/sh\necho ran; exit 3\n", "echo ran; exit 3\n"])
def test_a_hook_runs_alone_when_a_part_of_our_code_is_gone(
    world: World, tmp_path: Path, damage: str, script: str
) -> None:
    package = tmp_path / "half" / "opskpi"
    shutil.copytree(ENTRY.parents[1], package)
    if damage == "missing":
        (package / "hooks" / "wrapping.py").unlink()
    else:
        (package / "hooks" / "wrapping.py").write_text("def cut(")
    hook = world.add_hook("pre-commit", script)
    for action in ("run", "chained", "wrap"):
        entry = package / "hooks" / "entry.py"
        answer = world.run(sys.executable, "-I", "-S", entry, action, "pre-commit", hook)
        assert (answer.returncode, answer.stdout, answer.stderr) == (3, "ran\n", ""), action

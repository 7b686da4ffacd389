"""Folders of the hooks, which several processes may make at once."""

import os
from pathlib import Path

import pytest

from opskpi.hooks import storage


def test_a_folder_that_another_process_makes_at_the_same_moment_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_one = os.mkdir

    def make_second(path: str, mode: int) -> None:
        make_one(path, mode)
        make_one(path, mode)

    monkeypatch.setattr(os, "mkdir", make_second)
    storage.make(str(tmp_path / "data" / "opskpi"))
    assert (tmp_path / "data" / "opskpi").is_dir()

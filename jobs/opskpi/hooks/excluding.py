"""Keeping `.sentinel/`, and our hooks where they lie in a working tree, from being untracked files: info/exclude."""

import os
import re
from pathlib import Path

from opskpi.hooks import manifest, places, replacing
from opskpi.hooks.originals import NAMES, Place


def file_of(repository: places.Repository) -> Path:
    """The exclude file that all working trees of a repository share."""
    return Path(repository.common_dir, "info", "exclude")


def exclude(repository: places.Repository, noted: manifest.Manifest, kept: manifest.Folder, place: Place) -> None:
    """Add the lines of a folder, and note them; those of an earlier time give way."""
    if repository.top is None and kept.anchor != manifest.TREE:
        return
    file = file_of(repository)
    if noted.made_info is None:
        noted.made_info, noted.made_exclude = not file.parent.exists(), not file.exists()
    file.parent.mkdir(exist_ok=True)
    before = file.read_bytes() if file.exists() else b""
    others = [other for other in noted.folders if other is not kept and other.excluded]
    lines = [] if others else [f"/{places.FOLDER}/"]
    if kept.anchor == manifest.TREE:
        lines += _lines_of(kept.path, place)
    wanted = "".join(f"{line}\n" for line in lines)
    if kept.excluded.lstrip("\n") == wanted:
        return
    text = before.replace(_bytes(kept.excluded), b"", 1)
    kept.excluded = ("" if not text or text.endswith(b"\n") else "\n") + wanted
    manifest.write(repository, noted)
    replacing.replace(file, text + _bytes(kept.excluded))


def _lines_of(path: str, place: Place) -> list[str]:
    """Patterns relative to the top of the working tree; git reads them in every working tree."""
    inside = re.sub(r"([\\*?\[ ])", r"\\\1", path)
    beside = re.sub(r"([\\*?\[ ])", r"\\\1", os.path.join(os.path.dirname(path), place.kept.name))
    return [*(f"/{inside}/{name}" for name in NAMES), f"/{inside}/*opskpi-*", f"/{beside}/"]


def forget(repository: places.Repository, noted: manifest.Manifest) -> None:
    """Take all lines out again, and what had to be made for them."""
    file = file_of(repository)
    if file.is_file() and any(kept.excluded for kept in noted.folders):
        left = file.read_bytes()
        for kept in noted.folders:
            left = left.replace(_bytes(kept.excluded), b"", 1)
        if left or not noted.made_exclude:
            replacing.replace(file, left)
        else:
            file.unlink()
    if noted.made_info and file.parent.is_dir() and not any(file.parent.iterdir()):
        file.parent.rmdir()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

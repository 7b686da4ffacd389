"""What install has done to a repository, so that uninstall leaves no trace."""

import json
import os
import stat
from pathlib import Path

from opskpi.hooks import places

NAME = "opskpi-installed.json"


def folders(manifest: dict[str, object]) -> dict[str, bool]:
    """The folders with hooks of ours, and whether each was made for them."""
    kept = manifest.get("folders")
    if isinstance(kept, dict):
        return {str(path): bool(made) for path, made in kept.items()}
    # As it was written when there was one folder only.
    one = manifest.get("hooks")
    return {one: bool(manifest.get("made_folder"))} if isinstance(one, str) else {}


def excluded(manifest: dict[str, object]) -> dict[str, str]:
    """By folder, what was added to info/exclude."""
    kept = manifest.get("excluded")
    if isinstance(kept, dict):
        return {str(path): str(lines) for path, lines in kept.items()}
    return {str(manifest.get("hooks")): kept} if isinstance(kept, str) else {}


def read(repository: places.Repository) -> dict[str, object] | None:
    """What install noted about the repository; None where nothing is noted."""
    try:
        kept = json.loads(Path(repository.common_dir, NAME).read_bytes())
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) else None


def write(repository: places.Repository, manifest: dict[str, object]) -> None:
    """Note what install has done, in a file that only its owner reads."""
    path = Path(repository.common_dir, NAME)
    temporary = path.with_name(f"{NAME}.{os.getpid()}")
    temporary.write_text(json.dumps(manifest) + "\n", "utf-8")
    temporary.chmod(stat.S_IRUSR | stat.S_IWUSR)
    temporary.replace(path)

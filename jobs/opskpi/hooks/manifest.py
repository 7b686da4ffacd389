"""The record of what install has done to a repository, so that uninstall leaves no trace.

Places are kept relative to the git directory or to a working tree, so that they are right in a clone that was moved,
and are its own in a clone that was copied.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from opskpi.hooks import places, replacing

NAME = "opskpi-installed.json"
GIT, TREE, ELSEWHERE = "git", "tree", "elsewhere"


@dataclass(slots=True)
class Folder:
    """A folder with hooks of ours.

    `path` is relative to the common git directory (`anchor` is GIT) or to a working tree (TREE; `worktree` is the
    git directory of a linked one, relative to the common one), or absolute (ELSEWHERE). `made`: install has made it.
    `excluded` is what was added to info/exclude for it.
    """

    anchor: str
    path: str
    worktree: str = ""
    made: bool = False
    excluded: str = ""


@dataclass(slots=True)
class Manifest:
    """`made_info` and `made_exclude`: whether install has made `info/` and `info/exclude`; None before it looked."""

    folders: list[Folder] = field(default_factory=list)
    made_info: bool | None = None
    made_exclude: bool | None = None

    def of(self, place: Folder) -> Folder | None:
        """The note about a folder; None where nothing is."""
        same = (place.anchor, place.path, place.worktree)
        return next((kept for kept in self.folders if (kept.anchor, kept.path, kept.worktree) == same), None)


def file_of(repository: places.Repository) -> Path:
    """The file of the manifest."""
    return Path(repository.common_dir, NAME)


def describe(repository: places.Repository, tree: Path | None, folder: Path) -> Folder:
    """A folder as it is noted; `tree` is the working tree around the working directory."""
    common, resolved = Path(repository.common_dir).resolve(), folder.resolve()
    if resolved.is_relative_to(common):
        return Folder(GIT, str(resolved.relative_to(common)))
    if tree is not None and resolved.is_relative_to(tree.resolve()):
        worktree = os.path.relpath(os.path.realpath(repository.git_dir), common)
        return Folder(TREE, str(resolved.relative_to(tree.resolve())), "" if worktree == "." else worktree)
    return Folder(ELSEWHERE, str(folder))


def path_of(repository: places.Repository, folder: Folder) -> Path | None:
    """The present place of a noted folder; None where its working tree is gone, or belongs to another clone."""
    if folder.anchor == GIT:
        return Path(repository.common_dir, folder.path)
    if folder.anchor == ELSEWHERE:
        return Path(folder.path)
    if folder.worktree:
        tree = _tree_of_linked(Path(repository.common_dir, folder.worktree))
    else:
        tree = Path(repository.top) if repository.top else None
    return tree / folder.path if tree else None


def _tree_of_linked(git_dir: Path) -> Path | None:
    """The working tree of a linked worktree's git directory, if that tree says the same."""
    try:
        pointer = Path(os.path.normpath(git_dir / (git_dir / "gitdir").read_text().strip()))
        back = pointer.read_text().removeprefix("gitdir: ").strip()
    except (OSError, UnicodeDecodeError):
        return None
    same = os.path.realpath(pointer.parent / back) == os.path.realpath(git_dir)
    return pointer.parent if same else None


def read(repository: places.Repository) -> Manifest | None:
    """What install noted about the repository; None where nothing is noted."""
    try:
        kept = json.loads(file_of(repository).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict):
        return None
    made_info, made_exclude = kept.get("made_info"), kept.get("made_exclude")
    stored = kept.get("folders")
    if isinstance(stored, list):
        folders = [Folder(**entry) for entry in stored if isinstance(entry, dict) and _is_whole(entry)]
    else:
        folders = _previous(repository, kept)
    return Manifest(folders, made_info, made_exclude)


def _is_whole(entry: dict[str, object]) -> bool:
    wanted = {"anchor": str, "path": str, "worktree": str, "made": bool, "excluded": str}
    return set(entry) == set(wanted) and all(isinstance(entry[key], kind) for key, kind in wanted.items())


def _previous(repository: places.Repository, kept: dict[str, object]) -> list[Folder]:
    """The folders as earlier releases noted them, absolute: of another clone's, this clone has the same folder."""
    stored, excluded = kept.get("folders"), kept.get("excluded")
    one = str(kept.get("hooks"))
    made = stored if isinstance(stored, dict) else {one: kept.get("made_folder")} if "hooks" in kept else {}
    added = excluded if isinstance(excluded, dict) else {one: excluded} if isinstance(excluded, str) else {}
    tree = Path(repository.top) if repository.top else None
    folders = []
    for path in made:
        folder = describe(repository, tree, Path(path))
        if folder.anchor == ELSEWHERE and (clone := _clone_around(Path(path))):
            inside = Path(path).relative_to(clone)
            folder = (
                Folder(GIT, str(Path(*inside.parts[1:]))) if inside.parts[0] == ".git" else Folder(TREE, str(inside))
            )
        folder.made, folder.excluded = bool(made[path]), str(added.get(path, ""))
        folders.append(folder)
    return folders


def _clone_around(path: Path) -> Path | None:
    """The clone that a path is in, or was in before it was moved away."""
    if ".git" in path.parts:
        return Path(*path.parts[: path.parts.index(".git")])
    return next((parent for parent in path.parents if (parent / ".git").exists()), None)


def write(repository: places.Repository, manifest: Manifest) -> None:
    """Note what install has done, in a file that only its owner reads."""
    content = json.dumps(asdict(manifest)) + "\n"
    replacing.replace(file_of(repository), content.encode(), 0o600)

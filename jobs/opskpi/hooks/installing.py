"""Putting our hooks around those of a repository, and taking them away again without a trace."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.hooks import excluding, git, hook_states, manifest, originals, places, replacing, shims, starting
from opskpi.hooks.originals import NAMES, Place
from opskpi.hooks.wrapping import MARKER


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook after install or uninstall: `state` is one sentence about it."""

    name: str
    path: Path
    state: str


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a sentence."""
    try:
        yield
    except OSError as error:
        raise OpsKpiError(
            f"{error.filename or path} cannot be written: {error.strerror or error}",
            "Make the folder of the hooks and that of the repository writable for you, then try again.",
            ExitCode.CONFIGURATION,
        ) from error


def here() -> places.Repository:
    """The repository around the working directory. Raises OpsKpiError outside of one."""
    found = places.repository()
    if found is None:
        raise OpsKpiError("this is no git repository", "Run this inside one.", ExitCode.CONFIGURATION)
    return found


def alone() -> AbstractContextManager[None]:
    """Keep everybody else from installing and uninstalling here. Raises OpsKpiError where that takes long."""
    return replacing.alone(here().common_dir)


def tree_here(repository: places.Repository) -> Path | None:
    """The working tree around the working directory; None in a bare repository."""
    return Path(git.ask("rev-parse", "--show-toplevel")) if repository.top else None


def hooks_folder(repository: places.Repository, *, force_shared: bool) -> Path:
    """Where git looks for the hooks. Raises OpsKpiError for a place that other repositories share, unless forced."""
    folder = Path(os.path.normpath(Path.cwd() / git.ask("rev-parse", "--git-path", "hooks")))
    resolved = folder.resolve()
    tree = tree_here(repository)
    inside = [Path(repository.common_dir).resolve(), *([Path(repository.top).resolve()] if repository.top else [])]
    inside.append(tree.resolve() if tree else inside[0])
    if not force_shared and not any(resolved.is_relative_to(place) for place in inside):
        raise OpsKpiError(
            f"the hooks are in {folder} (core.hooksPath), outside of this repository: others use them, too",
            "Every repository that uses this folder would report: pass --force-shared if that is meant,"
            " or put `opskpi hook wrap` into the hooks.",
            ExitCode.CONFIGURATION,
        )
    return folder


def install(*, force_shared: bool = False) -> list[Hook]:
    """Put our hooks in place; a second time changes nothing. Raises OpsKpiError where that cannot be done."""
    repository = here()
    folder = hooks_folder(repository, force_shared=force_shared)
    tree = tree_here(repository)
    _refuse_top(folder, tree)
    _refuse_committed(folder)
    with explained(folder):
        noted = manifest.read(repository) or manifest.Manifest()
        described = manifest.describe(repository, tree, folder)
        kept = noted.of(described)
        if kept is None:
            described.made = not folder.exists()
            noted.folders.append(kept := described)
        folder.mkdir(parents=True, exist_ok=True)
        manifest.write(repository, noted)
        place = Place(folder)
        gone = originals.bring_back(place)
        originals.prepare(place)
        # Before the hooks are there, so that none is ever an untracked file.
        excluding.exclude(repository, noted, kept, place)
        hooks = [_install_one(place, name, gone.get(name, "")) for name in NAMES]
        originals.link_neighbours(place)
    return hooks


def uninstall(*, force_shared: bool = False) -> list[Hook]:
    """Put back what was there before `install`; a second time changes nothing. Raises OpsKpiError as `install` does."""
    repository = here()
    noted = manifest.read(repository) or manifest.Manifest()
    folders = {path: kept.made for kept in noted.folders if (path := manifest.path_of(repository, kept))}
    if not folders:
        folders[hooks_folder(repository, force_shared=force_shared)] = False
    hooks: list[Hook] = []
    for folder, made in folders.items():
        with explained(folder):
            place = Place(folder)
            gone = originals.bring_back(place)
            hooks += [_uninstall_one(place, name, gone.get(name, "")) for name in NAMES]
            originals.clear(place)
            if made and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    with explained(Path(repository.git_dir)):
        for path in (
            manifest.file_of(repository),
            excluding.file_of(repository),
            *(f / n for f in folders for n in NAMES),
        ):
            replacing.clear(path)
        for git_dir in (Path(repository.common_dir), *Path(repository.common_dir, "worktrees").glob("*")):
            (git_dir / MARKER).unlink(missing_ok=True)
    return hooks


def forget(repository: places.Repository) -> None:
    """Take our lines out of info/exclude again, and the note of what was installed. Raises OpsKpiError."""
    noted = manifest.read(repository)
    if noted is None:
        return
    with explained(excluding.file_of(repository)):
        excluding.forget(repository, noted)
        manifest.file_of(repository).unlink(missing_ok=True)


def _install_one(place: Place, name: str, gone: str) -> Hook:
    hook, original = place.hooks / name, place.original(name)
    notes = originals.settle(place, name) + gone
    if os.path.lexists(hook) and not shims.is_ours(str(hook)):
        if not os.access(hook, os.X_OK) and name != "post-commit":
            # Git says so at each commit, and does after us what it did before.
            originals.forget_previous_release(place, name)
            return Hook(name, hook, hook_states.state_of(place, name) + notes)
        originals.give_second_name(hook, original)
    environment = shims.Environment(sys.executable, starting.ENTRY, place.base, NAMES)
    _place(hook, shims.text(name, environment, str(original)))
    originals.forget_previous_release(place, name)
    return Hook(name, hook, hook_states.state_of(place, name) + notes)


def _place(hook: Path, text: bytes) -> None:
    if hook.is_file() and not hook.is_symlink() and hook.read_bytes() == text and os.access(hook, os.X_OK):
        return
    # As executable as git's own samples are under this user's mask, and never for others to write.
    replacing.replace(hook, text, 0o755)


def _uninstall_one(place: Place, name: str, gone: str) -> Hook:
    hook, original = place.hooks / name, place.original(name)
    was_there = os.path.lexists(original) or os.path.lexists(f"{hook}{shims.PREVIOUS_ENDING}")
    was_moved = was_there or bool(originals.asides(place, name))
    notes = originals.settle(place, name) + gone
    is_ours = shims.is_ours(str(hook))
    if (is_ours or not os.path.lexists(hook)) and os.path.lexists(original):
        hook.parent.mkdir(parents=True, exist_ok=True)
        original.replace(hook)
        state = "is as it was"
    elif is_ours:
        hook.unlink()
        state = "removed; there was none before"
    else:
        moved = "what another tool has done there stays; ours is removed from behind it"
        state = moved if was_moved else "was not installed"
    originals.forget_previous_release(place, name)
    return Hook(name, hook, state + notes)


def _refuse_top(folder: Path, tree: Path | None) -> None:
    if tree is not None and folder.resolve() == tree.resolve():
        raise OpsKpiError(
            f"the hooks are in {folder} (core.hooksPath), which is the working tree itself",
            "Put the hooks into a folder of their own, or write `opskpi hook wrap` into them.",
            ExitCode.CONFIGURATION,
        )


def _refuse_committed(folder: Path) -> None:
    for name in NAMES:
        hook = folder / name
        if hook.is_file() and git.holds("-C", str(folder), "ls-files", "--error-unmatch", "--", name):
            raise OpsKpiError(
                f"{hook} is a file of the repository; what would be installed there holds paths of this machine",
                f"Write into it what it should run: opskpi hook wrap --hook-type {name} -- COMMAND",
                ExitCode.CONFIGURATION,
            )

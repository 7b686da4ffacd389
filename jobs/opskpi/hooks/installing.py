"""Putting our hooks around those of a repository, and taking them away again without a trace."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.hooks import git, manifest, places, shims, starting

NAMES = ("pre-commit", "pre-push", "post-commit")


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


def hooks_folder(repository: places.Repository, *, force_shared: bool) -> Path:
    """Where git looks for the hooks. Raises OpsKpiError for a place that other repositories share, unless forced."""
    folder = Path(os.path.normpath(Path.cwd() / git.ask("rev-parse", "--git-path", "hooks")))
    resolved = folder.resolve()
    inside = [Path(repository.common_dir).resolve(), *([Path(repository.top).resolve()] if repository.top else [])]
    inside.append(Path(git.ask("rev-parse", "--show-toplevel")).resolve() if repository.top else inside[0])
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
    _refuse_committed(folder)
    with explained(folder):
        noted = manifest.read(repository) or {}
        folders = manifest.folders(noted)
        folders.setdefault(str(folder), not folder.exists())
        noted["folders"] = folders
        folder.mkdir(parents=True, exist_ok=True)
        manifest.write(repository, noted)
        hooks = [_install_one(folder / name) for name in NAMES]
        _exclude(repository, folder, noted)
        manifest.write(repository, noted)
    return hooks


def uninstall(*, force_shared: bool = False) -> list[Hook]:
    """Put back what was there before `install`; a second time changes nothing. Raises OpsKpiError as `install` does."""
    repository = here()
    folders = manifest.folders(manifest.read(repository) or {})
    if not folders:
        folders[str(hooks_folder(repository, force_shared=force_shared))] = False
    hooks: list[Hook] = []
    for folder, made in ((Path(path), made) for path, made in folders.items()):
        with explained(folder):
            hooks += [_uninstall_one(folder / name) for name in NAMES]
            if made and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    with explained(Path(repository.git_dir)):
        Path(repository.git_dir, "opskpi-pre-commit").unlink(missing_ok=True)
    return hooks


def forget(repository: places.Repository) -> None:
    """Take `.sentinel/` out of info/exclude again, and the note of what was installed. Raises OpsKpiError."""
    noted = manifest.read(repository)
    if noted is None:
        return
    exclude = Path(repository.common_dir, "info", "exclude")
    with explained(exclude):
        added = manifest.excluded(noted)
        if added and exclude.is_file():
            left = exclude.read_bytes()
            for lines in added.values():
                left = left.replace(lines.encode("utf-8", "surrogateescape"), b"", 1)
            if left or not noted.get("made_exclude"):
                exclude.write_bytes(left)
            else:
                exclude.unlink()
        if noted.get("made_info") and not any(exclude.parent.iterdir()):
            exclude.parent.rmdir()
        Path(repository.common_dir, manifest.NAME).unlink(missing_ok=True)


def state_of(folder: Path, name: str) -> str:
    """One sentence about a hook as it is now."""
    hook = folder / name
    if not shims.is_ours(str(hook)):
        if shims.is_ours(f"{hook}{shims.LEGACY}") or os.path.lexists(shims.original_of(str(hook))):
            return "another tool has put its own hook in place of ours: run `opskpi hook install` again"
        return "not installed"
    if name == "post-commit":
        return "looks for commits without their pre-commit hook"
    original = shims.original_of(str(hook))
    if os.access(original, os.X_OK):
        return "reports"
    if os.path.lexists(original):
        return "nothing to report: the hook there is not executable, git would not run it either"
    return "nothing to report: there is no such hook yet; once there is one, run `opskpi hook install` again"


def _install_one(hook: Path) -> Hook:
    original = Path(shims.original_of(str(hook)))
    legacy = Path(f"{hook}{shims.LEGACY}")
    notes = _keep_edits(hook) + _keep_edits(legacy)
    if shims.is_ours(str(legacy)):
        # Another tool moved us aside; what we ran goes where we were put, as if the tool had found only that.
        if os.path.lexists(original) and not shims.is_frameworks(str(original)):
            original.replace(legacy)
        else:
            legacy.unlink()
            original.unlink(missing_ok=True)
    if not shims.is_ours(str(hook)) and os.path.lexists(hook):
        notes += _keep_as(hook, original)
    via = shims.via_of(str(original)) if os.path.lexists(original) else ""
    _place(hook, shims.text(hook.name, sys.executable, starting.ENTRY, via))
    return Hook(hook.name, hook, state_of(hook.parent, hook.name) + notes)


def _keep_edits(hook: Path) -> str:
    """Keep what someone changed in a hook of ours under a further name; the result says so."""
    if not shims.is_ours(str(hook)) or not shims.is_edited(str(hook)):
        return ""
    kept = _free(Path(f"{hook}.opskpi-edited"))
    _link(hook, kept)
    return f"; ours was changed by someone, that file is kept as {kept.name}"


def _free(path: Path) -> Path:
    """The path, or where that is taken one with a number at the end."""
    free, number = path, 0
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _keep_as(hook: Path, original: Path) -> str:
    """Give the hook its second name; the result says what became of another hook that had this name."""
    note = ""
    if os.path.lexists(original):
        if _is_same(hook, original):
            original.unlink()
        else:
            kept = _free(original)
            original.rename(kept)
            note = f"; the hook that it ran before is kept as {kept.name}"
    _link(hook, original)
    return note


def _is_same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    if not one.is_file() or not other.is_file():
        return False
    return one.stat().st_mode == other.stat().st_mode and one.read_bytes() == other.read_bytes()


def _link(hook: Path, original: Path) -> None:
    """Give the hook its second name while it keeps the first: at no moment is there no hook."""
    try:
        os.link(hook, original, follow_symlinks=False)
    except OSError:
        # A file system without hard links.
        hook.rename(original)


def _place(hook: Path, text: bytes) -> None:
    if hook.is_file() and not hook.is_symlink() and hook.read_bytes() == text and os.access(hook, os.X_OK):
        return
    temporary = hook.with_name(f"{hook.name}.opskpi-{os.getpid()}")
    try:
        temporary.write_bytes(text)
        # As executable as git's own samples are under this user's mask.
        temporary.chmod(0o777 & ~_mask())
        temporary.replace(hook)
    finally:
        temporary.unlink(missing_ok=True)


def _uninstall_one(hook: Path) -> Hook:
    original = Path(shims.original_of(str(hook)))
    legacy = Path(f"{hook}{shims.LEGACY}")
    notes = _keep_edits(hook) + _keep_edits(legacy)
    if shims.is_ours(str(hook)):
        if os.path.lexists(original):
            original.replace(hook)
            return Hook(hook.name, hook, "is as it was" + notes)
        hook.unlink(missing_ok=True)
        return Hook(hook.name, hook, "removed; there was none before" + notes)
    if shims.is_ours(str(legacy)):
        if os.path.lexists(original) and not shims.is_frameworks(str(original)):
            original.replace(legacy)
        else:
            legacy.unlink()
            original.unlink(missing_ok=True)
        return Hook(hook.name, hook, "what another tool put there stays; ours is removed from behind it" + notes)
    if os.path.lexists(original):
        return Hook(hook.name, hook, f"another tool has replaced it; the one from before stays in {original}")
    return Hook(hook.name, hook, "was not installed")


def _refuse_committed(folder: Path) -> None:
    for name in NAMES:
        hook = folder / name
        if hook.is_file() and git.holds("-C", str(folder), "ls-files", "--error-unmatch", "--", name):
            raise OpsKpiError(
                f"{hook} is a file of the repository; what would be installed there holds paths of this machine",
                f"Write into it what it should run: opskpi hook wrap --hook-type {name} -- COMMAND",
                ExitCode.CONFIGURATION,
            )


def _exclude(repository: places.Repository, folder: Path, noted: dict[str, object]) -> None:
    """Keep `.sentinel/`, and our hooks where they lie in the working tree, from being committed."""
    excluded = manifest.excluded(noted)
    if str(folder) in excluded or repository.top is None:
        return
    exclude = Path(repository.common_dir, "info", "exclude")
    noted.setdefault("made_info", not exclude.parent.exists())
    noted.setdefault("made_exclude", not exclude.exists())
    exclude.parent.mkdir(exist_ok=True)
    text = exclude.read_bytes() if exclude.exists() else b""
    lines = [] if excluded else [f"/{places.FOLDER}/"]
    top = Path(repository.top).resolve()
    if folder.resolve().is_relative_to(top) and not folder.resolve().is_relative_to(
        Path(repository.common_dir).resolve()
    ):
        inside = folder.resolve().relative_to(top)
        lines += [f"/{inside}/{name}{ending}" for name in NAMES for ending in ("", shims.ORIGINAL)]
    added = ("" if not text or text.endswith(b"\n") else "\n") + "".join(f"{line}\n" for line in lines)
    noted["excluded"] = excluded | {str(folder): added}
    manifest.write(repository, noted)
    with exclude.open("ab") as file:
        file.write(added.encode("utf-8", "surrogateescape"))


def _mask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

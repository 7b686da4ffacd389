"""The hooks that ours run: in a folder of their own, beside that of the hooks, under their own names.

The folder lies as deep as that of the hooks and has a link to each file there, so that `$0`, its folder and the folder
above it lead where they led before, and relative links stay right.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from opskpi.hooks import replacing, shims

NAMES = ("pre-commit", "pre-push", "post-commit")
_GONE = "; the hook that was here was not copied with ours: copy it from the clone that has it"
# Whatever the user's mask: nobody else may put a hook into the user's place.
_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Place:
    """The folder in which git looks for hooks."""

    hooks: Path

    @property
    def base(self) -> str:
        """The name of the folder, without links on the way to it."""
        return os.path.basename(os.path.realpath(self.hooks))

    @property
    def kept(self) -> Path:
        """The folder of the originals."""
        return Path(os.path.realpath(self.hooks) + shims.FOLDER_ENDING)

    def original(self, name: str) -> Path:
        """The place where the original of a hook is kept."""
        return self.kept / name


def prepare(place: Place) -> None:
    """Make the folder of the originals, and the link to it."""
    place.kept.mkdir(_MODE, exist_ok=True)
    pointer = place.hooks / shims.POINTER
    if not os.path.lexists(pointer):
        pointer.symlink_to(os.path.join("..", place.kept.name))


def bring_back(place: Place) -> dict[str, str]:
    """Write the originals anew from their copies in ours, where somebody copied the folder of the hooks alone.

    The result is what to add to the states of the hooks whose original is not to be had here. Raises OSError.
    """
    if place.kept.exists():
        return {}
    pointer = place.hooks / shims.POINTER
    if pointer.is_dir() and not pointer.is_symlink():
        # Copied as a folder, with what the link leads to.
        pointer.rename(place.kept)
        return {}
    texts = {name: shims.original_text_in(str(place.hooks / name)) for name in NAMES}
    made = Path(f"{place.kept}{replacing.ENDING}")
    shutil.rmtree(made, ignore_errors=True)
    for name, text in texts.items():
        if text:
            made.mkdir(_MODE, exist_ok=True)
            (made / name).write_bytes(text)
            (made / name).chmod(_MODE)
    if made.exists():
        made.rename(place.kept)
    return {name: _GONE for name, text in texts.items() if text is None}


def asides(place: Place, name: str) -> list[Path]:
    """Our hook `name` under other names, where a tool or a person has put it; the one that tools run comes first."""
    found: list[Path] = []
    for folder, below, files in os.walk(place.hooks):
        is_top = Path(folder) == place.hooks
        if not is_top:
            below.clear()
        for file in files:
            path = Path(folder, file)
            is_place = is_top and file in NAMES
            if is_place or shims.EDITED in file or path.is_symlink() or not path.is_file():
                continue
            if shims.is_ours(str(path)) and shims.name_of(str(path)) == name:
                found.append(path)
    return sorted(found, key=lambda path: (path.suffix != shims.LEGACY, path))


def settle(place: Place, name: str) -> str:
    """Bring the original of a hook to where it would be without us, after what others did since the last time.

    A tool that moved ours aside would have moved the original, so the original takes that place. A tool that overwrote
    or removed ours would have done so with the original: one that a tool had written is gone, one that a person had
    written is kept. The result is what to add to the hook's state.
    """
    hook, original = place.hooks / name, place.original(name)
    _take_from_previous_release(place, name)
    moved = asides(place, name)
    notes = "".join(_keep_edits(one) for one in (hook, *moved))
    if os.path.lexists(original) and not shims.is_ours(str(hook)):
        tool = shims.tool_of(str(original))
        is_replaced = os.path.lexists(hook)
        if moved and not (is_replaced and tool and tool == shims.tool_of(str(hook))):
            original.replace(moved.pop(0))
        elif moved or tool or (is_replaced and _is_same(hook, original)):
            original.unlink()
        elif is_replaced:
            kept = free(place.hooks / f"{name}{shims.PREVIOUS_ENDING}-1")
            original.rename(kept)
            notes += f"; the hook that it ran before is kept as {kept.name}"
    for one in moved:
        one.unlink()
    return notes


def _take_from_previous_release(place: Place, name: str) -> None:
    """Give the original that the previous release kept beside its hook the place where ours will look for it."""
    before, original = place.hooks / f"{name}{shims.PREVIOUS_ENDING}", place.original(name)
    if not os.path.lexists(before):
        return
    if not os.path.lexists(original):
        place.kept.mkdir(_MODE, exist_ok=True)
        give_second_name(before, original)
    elif not _is_same(before, original):
        before.rename(free(place.hooks / f"{name}{shims.PREVIOUS_ENDING}-1"))


def forget_previous_release(place: Place, name: str) -> None:
    """Remove the place of the previous release, whose hook runs it until another one stands there."""
    (place.hooks / f"{name}{shims.PREVIOUS_ENDING}").unlink(missing_ok=True)


def _keep_edits(hook: Path) -> str:
    """Keep what someone changed in a hook of ours under a further name; the result says so."""
    if not shims.is_ours(str(hook)) or not shims.is_edited(str(hook)):
        return ""
    kept = free(Path(f"{hook}{shims.EDITED}"))
    give_second_name(hook, kept)
    return f"; ours was changed by someone, that file is kept as {kept.name}"


def free(path: Path) -> Path:
    """The path, or where that is taken one with the next free number at the end."""
    stem, _, number = path.name.rpartition("-")
    base, count = (stem, int(number)) if number.isdigit() else (path.name, 0)
    while os.path.lexists(path):
        count += 1
        path = path.with_name(f"{base}-{count}")
    return path


def _is_same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    if not one.is_file() or not other.is_file():
        return False
    return one.stat().st_mode == other.stat().st_mode and one.read_bytes() == other.read_bytes()


def give_second_name(hook: Path, second: Path) -> None:
    """Give a hook its second name while it keeps the first: at no moment is there no hook."""
    try:
        os.link(hook, second, follow_symlinks=False)
    except OSError:
        # A file system without hard links.
        hook.rename(second)


def link_neighbours(place: Place) -> None:
    """Let the originals find beside them what lies beside the hooks."""
    for path in place.kept.iterdir():
        if _is_link_of_ours(place, path) and not os.path.lexists(place.hooks / path.name):
            path.unlink()
    for path in place.hooks.iterdir():
        link = place.kept / path.name
        if path.name not in NAMES and "opskpi-" not in path.name and not os.path.lexists(link):
            link.symlink_to(os.path.join("..", place.base, path.name))
    # Our hooks look for further files when the folder of the hooks has changed since.
    os.utime(place.kept)


def _is_link_of_ours(place: Place, path: Path) -> bool:
    return path.is_symlink() and str(path.readlink()) == os.path.join("..", place.base, path.name)


def clear(place: Place) -> None:
    """Remove the folder of the originals and the link to it; files that the hooks wrote there move to the hooks."""
    pointer = place.hooks / shims.POINTER
    if pointer.is_symlink() and str(pointer.readlink()) == os.path.join("..", place.kept.name):
        pointer.unlink()
    if not place.kept.is_dir():
        return
    for path in list(place.kept.iterdir()):
        if _is_link_of_ours(place, path):
            path.unlink()
        elif path.name not in NAMES:
            target = place.hooks / path.name
            if target.is_dir() or (path.is_dir() and os.path.lexists(target)):
                target = free(target)
            place.hooks.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
    if not any(place.kept.iterdir()):
        place.kept.rmdir()

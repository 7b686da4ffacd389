"""The state of our hooks: in place, replaced, moved aside, or beside hooks that we do not see."""

import os
from pathlib import Path

from opskpi.hooks import git, manifest, originals, places, shims
from opskpi.hooks.originals import NAMES, Place

_OFF = {"false", "no", "off", "0", ""}
_AGAIN = "run `opskpi hook install` again"


def states(repository: places.Repository, tree: Path | None, folder: Path) -> dict[str, str]:
    """Sentences about the hooks of the repository, those of git's configuration (git 2.54 and later) included."""
    noted = manifest.read(repository) or manifest.Manifest()
    is_noted = noted.of(manifest.describe(repository, tree, folder)) is not None
    is_elsewhere = bool(noted.folders) and not is_noted
    found = {}
    for name in NAMES:
        found[name] = state_of(Place(folder), name, is_noted=is_noted)
        if found[name] == "not installed" and is_elsewhere:
            found[name] = f"not reported: core.hooksPath has changed since the install: {_AGAIN}"
    return found | _configured()


def state_of(place: Place, name: str, *, is_noted: bool = False) -> str:
    """A sentence about a hook as it is now; `is_noted`: install was run for this folder."""
    hook, original = place.hooks / name, place.original(name)
    if not shims.is_ours(str(hook)):
        return _state_of_foreign(place, name, is_noted=is_noted)
    if not place.kept.exists() and shims.original_text_in(str(hook)) != b"":
        return f"runs nothing: ours was copied here without the hook that it runs: {_AGAIN}"
    if name == "post-commit":
        return "looks for commits without their pre-commit hook"
    if os.access(original, os.X_OK) or os.access(f"{hook}{shims.PREVIOUS_ENDING}", os.X_OK):
        return "reports"
    if os.path.lexists(original):
        return "nothing to report: the hook there is not executable, git would not run it either"
    return "nothing to report: there is no such hook yet; once there is one, run `opskpi hook install` again"


def _state_of_foreign(place: Place, name: str, *, is_noted: bool) -> str:
    hook = place.hooks / name
    if os.path.lexists(hook) and not os.access(hook, os.X_OK):
        return "nothing to report: the hook there is not executable, git would not run it either"
    traces = (place.original(name), Path(f"{hook}{shims.PREVIOUS_ENDING}"))
    if not is_noted and not any(map(os.path.lexists, traces)) and not originals.asides(place, name):
        return "not installed"
    if os.path.lexists(hook):
        return f"not reported: another tool has put its own hook in place of ours: {_AGAIN}"
    return f"not reported: ours was removed, by another tool or by hand: {_AGAIN}"


def _configured() -> dict[str, str]:
    """The hooks of git's configuration (`hook.NAME.event`), which git runs besides those in the folder."""
    listed = git.records("config", "--null", "--get-regexp", r"^hook\..*\.(event|command|enabled)$")
    settings: dict[str, dict[str, list[str]]] = {}
    for entry in listed:
        key, _, value = entry.partition("\n")
        name, _, what = key.removeprefix("hook.").rpartition(".")
        settings.setdefault(name, {}).setdefault(what.lower(), []).append(value)
    return {
        f"hook.{name}": f"{', '.join(kept['event'])} of git's configuration: git runs it (2.54 and later), not reported"
        for name, kept in settings.items()
        if "event" in kept and "command" in kept and kept.get("enabled", ["true"])[-1].lower() not in _OFF
    }

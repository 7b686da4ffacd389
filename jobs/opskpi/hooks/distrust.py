"""Settings that a repository brings along may be a stranger's: nothing is sent where they say."""

import os
import subprocess


def reason_for(folder: str) -> str:
    """Why the settings in a `.sentinel` folder may be a stranger's, in words; empty where no repository brings them.

    Every repository around the file is asked: one may hold a folder that looks like a repository itself.
    """
    settings = os.path.realpath(os.path.join(folder, "settings.json"))
    place = os.path.dirname(settings)
    while True:
        if os.path.lexists(os.path.join(place, ".git")) and (reason := _held_by(place, settings)):
            return reason
        parent = os.path.dirname(place)
        if parent == place:
            return ""
        place = parent


def _held_by(place: str, settings: str) -> str:
    relative = os.path.relpath(settings, place)
    where = [f"--git-dir={os.path.join(place, '.git')}", f"--work-tree={place}", "-C", place]
    command = ["git", *where, "ls-files", "--", f":(icase,literal){relative}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        listed = subprocess.run(command, capture_output=True, env=environment, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"whether .sentinel/settings.json is committed could not be checked: git: {type(error).__name__}"
    if listed.returncode:
        return f"whether .sentinel/settings.json is committed could not be checked: git ended with {listed.returncode}"
    if listed.stdout.strip():
        return ".sentinel/settings.json is committed to the repository: remove it there, then `opskpi hook install`"
    return ""

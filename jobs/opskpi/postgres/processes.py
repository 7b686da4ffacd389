"""Processes of this machine: programs run as another user, and whether one is the server of a data folder."""

import os
import subprocess
from pathlib import Path


def account(os_user: str) -> tuple[int, int]:
    """Return the user's id and group id; raises KeyError when there is no such user."""
    import pwd  # noqa: PLC0415 - absent on Windows, where this module must still import

    found = pwd.getpwnam(os_user)
    return found.pw_uid, found.pw_gid


def run_as(os_user: str | None, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run `command` as `os_user` (None: ourselves), out of the terminal's reach, in a bare environment."""
    return subprocess.run(
        command,
        user=os_user,
        group=None if os_user is None else account(os_user)[1],
        extra_groups=None if os_user is None else [],
        umask=0o077,
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        check=False,
    )


def serves(pid: int, data_dir: Path) -> bool:
    """Whether process `pid` is the server of this folder: a server works inside its data folder."""
    if Path("/proc/self/cwd").exists():
        try:
            return Path(f"/proc/{pid}/cwd").samefile(data_dir)
        except OSError:
            return False
    shown = run_as(None, ["ps", "-p", str(pid), "-o", "command="])
    return "postgres" in shown.stdout and str(data_dir) in shown.stdout


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True

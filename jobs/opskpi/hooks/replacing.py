"""Files that install and uninstall replace as a whole, one process at a time."""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskpi.errors import ExitCode, OpsKpiError

# A file that is being written; a kill leaves it, and `uninstall` removes it.
ENDING = ".opskpi-new"
_LONGEST_WAIT_S = 10.0


def replace(path: Path, content: bytes, mode: int | None = None) -> None:
    """Replace a file, or what a link leads to, at once: a kill or a full disk leaves the old one.

    `mode` is that of a new file, from which the user's mask takes bits away; None keeps the mode. Raises OSError.
    """
    if mode is None:
        path = Path(os.path.realpath(path))
    temporary = Path(f"{path}{ENDING}")
    temporary.unlink(missing_ok=True)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o644 if mode is None else mode), "wb") as file:
            if mode is None and path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def clear(path: Path) -> None:
    """Remove what a killed `replace` of this file has left."""
    Path(f"{os.path.realpath(path)}{ENDING}").unlink(missing_ok=True)
    Path(f"{path}{ENDING}").unlink(missing_ok=True)


@contextmanager
def alone(folder: str) -> Iterator[None]:
    """Keep others out who want to be alone with the same folder. Raises OpsKpiError after ten seconds of waiting."""
    until = time.monotonic() + _LONGEST_WAIT_S
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while not _is_locked(lock):
            if time.monotonic() > until:
                raise OpsKpiError(
                    f"another process installs or uninstalls hooks in {folder}", "Try again.", ExitCode.TRY_LATER
                )
            time.sleep(0.02)
        yield
    finally:
        os.close(lock)


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks must not keep anyone from installing
    return True

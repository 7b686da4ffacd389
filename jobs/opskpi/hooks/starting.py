"""Starting the detached process that sends, and once more when a process that lived long ends."""

import os
import sys
import time

from opskpi.hooks import schedule, settings, switch
from opskpi.hooks.storage import Folder

ENTRY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "entry.py")
LONG_LIVED_S = 30

_senders: set[int] = set()
_shutdown: dict[str, int] = {}
_started = time.monotonic()


def start_sender(path: str) -> None:
    """Start the detached process that sends; one that finds another at work ends at once."""
    _reap()
    if not sys.executable:
        return
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]
    command = [sys.executable, "-I", ENTRY, "send", path]
    try:
        started = os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)
    except NotImplementedError:
        # Where the system's posix_spawn cannot (setsid), the sender leaves our session by itself, a moment later.
        started = os.posix_spawn(sys.executable, command, environment, file_actions=actions)
    _senders.add(started)


def at_shutdown(path: str) -> None:
    """Send what is queued when this process ends, if it lived long; asked for once per process and folder."""
    if _shutdown.get(path) == os.getpid():
        return
    import atexit  # noqa: PLC0415

    _shutdown[path] = os.getpid()
    atexit.register(_send_at_shutdown, path, os.getpid())


def _reap() -> None:
    """A process that lives long must not collect the ended senders."""
    for sender in list(_senders):
        try:
            ended, _ = os.waitpid(sender, os.WNOHANG)
        except ChildProcessError:
            ended = sender
        if ended:
            _senders.discard(sender)


def _send_at_shutdown(path: str, recorded_by: int) -> None:
    if os.getpid() != recorded_by or time.monotonic() - _started < LONG_LIVED_S or switch.is_off():
        return
    try:
        with Folder(path, create=False) as folder:
            chosen = settings.read(folder)
            if chosen.get("target") and not schedule.must_wait(schedule.remembered(folder), chosen, time.time()):
                start_sender(path)
    except Exception:  # noqa: BLE001 - nothing may be printed while an interpreter ends
        return

"""Who reports: one random id for a user on a machine, made at the first event."""

import os

from opskpi.hooks import events, places, storage

VARIABLE = "OPSKPI_HOOK_AGENT_ID"
_NAME = "agent-id"


def agent_id() -> str:
    """The agent's UUID: OPSKPI_HOOK_AGENT_ID, else the one in the user's data folder, made there when there is none.

    Where that folder cannot be written, an id that follows from the machine's name and the user's number.
    """
    named = os.environ.get(VARIABLE, "").strip().lower()
    if events.is_uuid(named):
        return named
    try:
        path = os.path.join(places.data_home(), _NAME)
        return _read(path) or _make(path)
    except OSError:
        return _derived()


def _read(path: str) -> "str | None":
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        kept = os.read(file, 100).decode("ascii", "replace").strip()
    finally:
        os.close(file)
    return kept if events.is_uuid(kept) else None


def _make(path: str) -> str:
    """Write the id under another name first: whoever comes second finds the first one's, whole."""
    storage.make(os.path.dirname(path))
    made = events.new_id()
    temporary = f"{path}.{made}"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, made.encode("ascii") + b"\n")
        os.fsync(file)
    finally:
        os.close(file)
    try:
        os.link(temporary, path)
    except FileExistsError:
        if kept := _read(path):
            return kept
        # What is there is no id: an interrupted copy, an empty file.
        os.replace(temporary, path)
        return _read(path) or made
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return made


def _derived() -> str:
    import hashlib  # noqa: PLC0415

    seed = f"opskpi {os.uname().nodename} {os.getuid()}".encode()
    digits = hashlib.sha256(seed).hexdigest()
    return events.as_uuid(f"{digits[:12]}8{digits[13:16]}8{digits[17:32]}")

"""How many events were lost and why, in `telemetry-losses`, which neither a full disk nor a damaged queue resets.

The file has its full size from the start and is changed in place, which needs no free space. The queue holds a copy of
the counts; of two that differ, the larger one holds.
"""

import errno

from opskpi.hooks.storage import Folder

NAME = "telemetry-losses"
_SIZE, _SLOT = 4096, 64
_BLANK = (b" " * (_SLOT - 1) + b"\n") * (_SIZE // _SLOT)
# Not a loss: how many events the queue held when it was written last.
_QUEUED = "queued"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LARGEST = 10**11

Counts = dict[str, int]


def reason_of(error: OSError) -> str:
    """The reason to count for an event that could not be written."""
    return "disk_full" if error.errno in _FULL else "unwritable"


def read(folder: Folder) -> "tuple[Counts, Counts, int | None]":
    """By reason what was lost, of that what an event has told, and how many events the queue held.

    Nothing and None where there is no such file or it cannot be read: the queue goes on without it.
    """
    try:
        stored = folder.read(NAME, _SIZE)
    except OSError:
        stored = None
    if stored is None:
        return {}, {}, None
    rows = _parsed(stored)
    queued = rows.pop(_QUEUED, (0, 0))[0]
    lost = {reason: row[0] for reason, row in rows.items() if row[0]}
    return lost, {reason: row[1] for reason, row in rows.items() if row[1]}, queued


def reserve(folder: Folder) -> None:
    """Make the file, so that a disk that is full later has room for the counts. Raises OSError."""
    if not folder.has(NAME):
        folder.write(NAME, _BLANK)


def note(folder: Folder, *, more: Counts, at_least: Counts, told: Counts, queued: int) -> None:
    """Count `more`, raise each count to `at_least`, and note what was told and the length of the queue.

    Raises OSError.
    """

    def change(stored: bytes) -> bytes:
        rows = _parsed(stored)
        for reason in {*rows, *more, *at_least, *told} - {_QUEUED}:
            lost = max(rows.get(reason, (0, 0))[0], at_least.get(reason, 0)) + more.get(reason, 0)
            rows[reason] = (lost, told.get(reason, 0))
        return _written(rows | {_QUEUED: (queued, 0)})

    folder.change(NAME, change)


def note_length(folder: Folder, queued: int) -> None:
    """Note how many events the queue holds. Raises OSError."""
    folder.change(NAME, lambda stored: _written(_parsed(stored) | {_QUEUED: (queued, 0)}))


def count(folder: Folder, reason: str) -> None:
    """Count one event that was lost; never raises, because nothing is left to be done where that fails."""

    def change(stored: bytes) -> bytes:
        rows = _parsed(stored)
        lost, told = rows.get(reason, (0, 0))
        return _written(rows | {reason: (lost + 1, told)})

    try:
        reserve(folder)
        folder.change(NAME, change, durably=True)
    except OSError:
        return


def _parsed(stored: bytes) -> "dict[str, tuple[int, int]]":
    rows: dict[str, tuple[int, int]] = {}
    for line in stored.rstrip().split(b"\n"):
        words = line.split()
        if len(words) == 3 and words[1].isdigit() and words[2].isdigit() and words[0].isascii():
            rows[words[0].decode("ascii")] = (int(words[1]), int(words[2]))
    return rows


def _written(rows: "dict[str, tuple[int, int]]") -> bytes:
    slots = [
        f"{reason[:34]:<35}{min(lost, LARGEST):>13} {min(told, LARGEST):>13} \n"
        for reason, (lost, told) in rows.items()
    ]
    return ("".join(slots).encode("ascii", "replace") + _BLANK)[:_SIZE]

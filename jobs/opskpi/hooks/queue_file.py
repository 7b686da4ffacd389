"""The queue `telemetry-queue.json`: {"events": [{"event", "timestamp", "metrics"}]}, and counts by reason.

"dropped" counts what was lost since the installation, "told" what of that an event has carried in its metrics.

One event a line, as `events.line` writes it, so that adding one to a thousand needs no reading of the thousand.
"""

import time

from opskpi.hooks import ages, events, losses, plain_json
from opskpi.hooks.storage import Folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeGuard

NAME = "telemetry-queue.json"
LOCK = "telemetry-queue.lock"
SPOOL = "telemetry-spool-"
DAMAGED = "telemetry-queue.damaged-"
MOST_EVENTS = 1000
MOST_BYTES = 1 << 20
LONGEST_S = 14 * 86400
DAMAGED_KEPT = 3
LOCK_WAIT_S = 1.0

_HEAD, _LONGEST_READ = b'{"events": [\n', 8 * MOST_BYTES
_CARRIES = b'"dropped": {'
_KEPT_LONGEST = (b'"result": "blocked"', b'"result": "overridden"', b'{"event": "hook_override"')


class Locked(Exception):  # noqa: N818
    """Another process has had the queue for longer than this one may wait."""


class Queue:
    """The queue, locked from `with` to its end. `lines` are events as `events.line` writes them, oldest first.

    `dropped` counts by reason what was lost: age, count, size (the bounds), damaged_file (files set aside),
    damaged_event (the events that these held and that could not be saved), malformed_report, malformed_event, refused
    (for good, by the other side), and what `losses` counts where the queue could not be written: disk_full,
    unwritable, lock. `told` counts what of that queued or sent events carry.
    """

    def __init__(self, folder: Folder, wait: float = LOCK_WAIT_S) -> None:
        self.lines: list[bytes] = []
        self.dropped: dict[str, int] = {}
        self.told: dict[str, int] = {}
        self._more: dict[str, int] = {}
        self._noted: int | None = None
        self._folder = folder
        self._wait = wait
        self._stored: bytes | None = None
        self._spooled: list[str] = []

    def __enter__(self) -> "Queue":
        """Lock and read. Raises Locked, and OSError where the folder does not let us."""
        lock = self._folder.lock(LOCK, self._wait)
        if lock is None:
            raise Locked
        self._lock = lock
        try:
            self._read()
        except BaseException:
            self._folder.unlock(lock)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.unlock(self._lock)

    def add(self, event: "dict[str, object]") -> None:
        """Append an event; it carries what was lost and not told yet."""
        counts = {reason: lost - self.told.get(reason, 0) for reason, lost in self.dropped.items()}
        counts = {reason: count for reason, count in counts.items() if count > 0}
        if counts and isinstance(metrics := event["metrics"], dict):
            event = event | {"metrics": metrics | {events.DROPPED: counts}}
            self.told |= {reason: self.dropped[reason] for reason in counts}
        self.lines.append(events.line(event))

    def drop(self, reason: str, count: int = 1) -> None:
        """Count what is not there any more."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count
            self._more[reason] = self._more.get(reason, 0) + count

    def untell(self, entries: "list[bytes]") -> None:
        """Let a later event carry what these lines carry, because they do not arrive."""
        for entry in entries:
            if _CARRIES in entry:
                for reason, count in events.carried(plain_json.read_object(entry)).items():
                    self.told[reason] = max(self.told.get(reason, 0) - count, 0)

    def save(self, now: "float | None" = None) -> None:
        """Write what changed, within the bounds: what is too old, then what is too much, the oldest first.

        Raises OSError; the file is then what it was.
        """
        self._bound(time.time() if now is None else now)
        content = self._content()
        is_nothing = self._stored is None and not self.lines and not self.dropped
        if content != self._stored and not is_nothing:
            if self._noted is None:
                self._reserve()
            # A kill between the two must not make an event that was sent look lost: the smaller number stands first.
            if self._noted is not None and len(self.lines) < self._noted:
                self._note_length()
            self._folder.write(NAME, content)
            self._stored = content
            self._note_losses()
        for name in self._spooled:
            self._folder.remove(name)
        self._spooled = []

    def discard(self) -> None:
        """Remove the file of the queue, and the events that wait beside it, because they are elsewhere now."""
        for name in (NAME, losses.NAME, *self._spooled):
            self._folder.remove(name)
        # Whoever holds or awaits the lock goes on with the file that is gone, and makes a queue that is drained again.
        self._folder.remove(LOCK)

    def _reserve(self) -> None:
        try:
            losses.reserve(self._folder)
        except OSError:
            return  # the queue has its own copy of the counts

    def _note_length(self) -> None:
        try:
            losses.note_length(self._folder, len(self.lines))
        except OSError:
            return
        self._noted = len(self.lines)

    def _note_losses(self) -> None:
        if not self.dropped:
            if len(self.lines) != self._noted:
                self._note_length()
            return
        before = {reason: lost - self._more.get(reason, 0) for reason, lost in self.dropped.items()}
        queued = len(self.lines)
        try:
            losses.note(self._folder, more=self._more, at_least=before, told=self.told, queued=queued)
        except OSError:
            return
        self._more, self._noted = {}, queued

    def _read(self) -> None:
        self._stored = self._folder.read(NAME, _LONGEST_READ)
        lost, told, self._noted = losses.read(self._folder)
        self.dropped, self.told = lost, told
        if self._stored is not None:
            if (parts := _split(self._stored)) is not None:
                self.lines, dropped, self.told = parts
                self._raise_to(dropped)
            else:
                self.salvage()
        elif self._noted:
            # Somebody removed the file.
            self.drop("damaged_file")
            self.drop("damaged_event", self._noted)
        self._merge_spool()

    def salvage(self) -> None:
        """Set the stored file aside and keep the whole events in it."""
        from opskpi.hooks.salvage import salvage  # noqa: PLC0415

        stored = self._stored or b""
        _set_aside(self._folder)
        saved, dropped = salvage(stored)
        self.lines = [events.line(event) for event in saved]
        self._raise_to(dropped)
        self.drop("damaged_file")
        self.drop("damaged_event", max((self._noted or 0) - len(self.lines), 0))
        self.save()

    def _raise_to(self, dropped: "dict[str, int]") -> None:
        for reason, count in dropped.items():
            self.dropped[reason] = max(count, self.dropped.get(reason, 0))

    def _merge_spool(self) -> None:
        known = None
        for name in self._folder.names():
            if not name.startswith(SPOOL):
                continue
            if not name.endswith(".json"):
                if self._folder.age(name, LOCK) > 86400:
                    self._folder.remove(name)
                continue
            self._spooled.append(name)
            stored = self._folder.read(name, _LONGEST_READ) or b""
            event = events.restored(plain_json.read_object(stored))
            if known is None:
                known = set(map(event_id, self.lines))
            if event is None:
                self.drop("malformed_event")
            elif (found := events.line(event)) and event_id(found) not in known:
                self.lines.append(found)
        if self._spooled:
            self.lines.sort(key=stamp)

    def _bound(self, now: float) -> None:
        oldest = events.now_stamp(now - LONGEST_S).encode("ascii")
        if old := ages.too_old(list(map(stamp, self.lines)), oldest, events.now_stamp(now).encode("ascii")):
            before = self.lines
            self.untell([entry for entry in before if stamp(entry) in old])
            self.lines = [entry for entry in before if stamp(entry) not in old]
            self.drop("age", len(before) - len(self.lines))
        self.drop("count", self._shed(len(self.lines) - MOST_EVENTS, 0))
        # What the head, the end and the counts by reason take is small and of the size that is left here.
        too_large = sum(map(len, self.lines)) + 2 * len(self.lines) + 4096 - MOST_BYTES
        self.drop("size", self._shed(0, too_large))

    def _shed(self, count: int, size: int) -> int:
        """Take out the oldest until so many events and so many bytes are gone; blocked and overridden ones last."""
        if count <= 0 and size <= 0:
            return 0
        order = sorted(range(len(self.lines)), key=lambda place: (_is_kept_longest(self.lines[place]), place))
        shed: set[int] = set()
        for place in order:
            if count <= 0 and size <= 0:
                break
            shed.add(place)
            count -= 1
            size -= len(self.lines[place]) + 2
        self.untell([self.lines[place] for place in shed])
        self.lines = [entry for place, entry in enumerate(self.lines) if place not in shed]
        return len(shed)

    def _content(self) -> bytes:
        end = b"]"
        for name, counts in ((b"dropped", self.dropped), (b"told", self.told)):
            if counts:
                end += b', "%b": %b' % (name, plain_json.dumps(counts).encode("ascii"))
        return _HEAD + b",\n".join(self.lines) + (b"\n" if self.lines else b"") + end + b"}\n"


def spool(folder: Folder, event: "dict[str, object]") -> None:
    """Write an event to a file of its own, which the next one that has the lock moves into the queue.

    Raises Locked when there are as many such files as the queue has places, and OSError.
    """
    if sum(name.startswith(SPOOL) for name in folder.names()) >= MOST_EVENTS:
        raise Locked
    entry = events.line(event)
    folder.write(f"{SPOOL}{event_id(entry).decode('ascii')}.json", entry)


def event_id(entry: bytes) -> bytes:
    """The event_id of a line; empty when it has none."""
    return _between(entry, b'"event_id": "')


def stamp(entry: bytes) -> bytes:
    """The timestamp of a line; stamps sort as instants do."""
    return _between(entry, b'"timestamp": "')


def _between(entry: bytes, before: bytes) -> bytes:
    start = entry.find(before)
    return entry[start + len(before) : entry.find(b'"', start + len(before))] if start >= 0 else b""


def _is_kept_longest(entry: bytes) -> bool:
    return any(mark in entry for mark in _KEPT_LONGEST)


def _split(stored: bytes) -> "tuple[list[bytes], dict[str, int], dict[str, int]] | None":
    """The lines and the counts of a queue as we write it; None for anything else."""
    if not stored.startswith(_HEAD) or not stored.endswith(b"}\n"):
        return None
    lines = stored[len(_HEAD) : -1].split(b"\n")
    end = lines.pop()
    if end[:1] != b"]":
        return None
    ending = plain_json.read_object(b'{"x": [' + end)
    dropped, told = ending.get("dropped", {}), ending.get("told", {})
    if not ending or not is_counts(dropped) or not is_counts(told):
        return None
    whole = [entry.removesuffix(b",") for entry in lines]
    if any(not entry.startswith(b'{"event": "') or not entry.endswith(b"}}") for entry in whole):
        return None
    if [*(entry + b"," for entry in whole[:-1]), *whole[-1:]] != lines:
        return None
    return whole, dict(dropped), dict(told)


def is_counts(value: object) -> "TypeGuard[dict[str, int]]":
    """Whether it is an object of counts by reason."""
    return isinstance(value, dict) and all(type(count) is int for count in value.values())


def _set_aside(folder: Folder) -> None:
    """Give the damaged file a name under which it stays, in place of the oldest of those that are there."""
    taken = sorted((name for name in folder.names() if name.startswith(DAMAGED)), key=_number)
    for name in taken[: max(len(taken) - DAMAGED_KEPT + 1, 0)]:
        folder.remove(name)
    number = _number(taken[-1]) + 1 if taken else 1
    while not folder.set_aside(NAME, f"{DAMAGED}{number}.json"):
        number += 1


def _number(name: str) -> int:
    digits = name[len(DAMAGED) :].partition(".")[0]
    return int(digits) if digits.isdigit() else 0

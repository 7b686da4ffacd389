"""The queue where the first releases kept it, `.sentinel` in the working tree: its events move to the git directory."""

import os

from opskpi.errors import OpsKpiError
from opskpi.hooks import git, places, queue_file, salvage, trust
from opskpi.hooks.storage import Folder

_LONGEST = 1 << 23


class Earlier:
    """The folder in the working tree that belongs to a folder in a git directory."""

    def __init__(self, folder: str) -> None:
        place = places.earlier_folder(os.path.dirname(folder))
        self.path = place if place is not None and os.path.isdir(place) else None

    def distrust(self) -> str:
        """Why its events are left alone, in words: others, or a commit, may have brought them; empty for none."""
        if self.path is None:
            return ""
        try:
            if reason := trust.fault(self.path):
                return reason
            top, name = os.path.split(self.path)
            if git.tracks(top, name):
                return f"{self.path} is committed to the repository"
        except OpsKpiError as error:
            return f"whether {self.path} is committed cannot be told: {error}"
        except OSError as error:
            return f"{self.path} cannot be read: {error.strerror}"
        return ""

    def count(self) -> int:
        """How many events are in it."""
        if self.path is None or not self._has_events():
            return 0
        try:
            with Folder(self.path, create=False) as old:
                spooled = sum(name.startswith(queue_file.SPOOL) for name in old.names())
                return len(salvage.salvage(old.read(queue_file.NAME, _LONGEST) or b"")[0]) + spooled
        except OSError:
            return 0

    def drain(self, folder: Folder) -> None:
        """Move its events into the queue of `folder`. Raises OSError and Locked; the events are then where they were.

        A kill between leaves them in both, under the same ids, so that they are stored once.
        """
        if self.path is None or not self._has_events() or self.distrust():
            return
        with Folder(self.path, create=False) as old, queue_file.Queue(old) as earlier:
            with queue_file.Queue(folder, wait=30) as queue:
                known = set(map(queue_file.event_id, queue.lines))
                queue.lines += [entry for entry in earlier.lines if queue_file.event_id(entry) not in known]
                queue.lines.sort(key=queue_file.stamp)
                for reason, count in earlier.dropped.items():
                    queue.drop(reason, count)
                queue.save()
            earlier.discard()
        _remove_if_empty(self.path)

    def _has_events(self) -> bool:
        assert self.path is not None  # noqa: S101 - asked before
        names = os.listdir(self.path)
        return queue_file.NAME in names or any(name.startswith(queue_file.SPOOL) for name in names)


def _remove_if_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        return

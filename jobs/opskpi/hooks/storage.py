"""Files in the `.sentinel` folder: never through a link, replaced as a whole or not at all, one writer at a time."""

import errno
import fcntl
import os
import time

from opskpi.hooks import trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
_REGULAR, _KIND = 0o100000, 0o170000
_LONGEST_CHANGE_S = 1.0
_locks_held: set[int] = set()


class Folder:
    """An open `.sentinel` folder; used with `with`, which closes it. Files in it are named without a path."""

    def __init__(self, path: str, *, create: bool = True) -> None:
        """Raises OSError where there is none, it cannot be made, it is a link, or others can write it.

        Whose the folders above it are has been asked by those who chose it.
        """
        self.path = path
        if create:
            make(path)
        self._number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_LINK)
        if reason := trust.fault_of_open(self._number, path):
            os.close(self._number)
            raise PermissionError(errno.EPERM, reason, path)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._number)

    def read(self, name: str, limit: int) -> "bytes | None":
        """The content of a file, at most `limit` bytes of it; None when there is none.

        Raises OSError, also for a link and for a file that others could have written.
        """
        try:
            file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _NO_LINK, dir_fd=self._number)
        except FileNotFoundError:
            return None
        try:
            if os.fstat(file).st_mode & _KIND != _REGULAR:
                raise OSError(errno.EINVAL, "is no file", name)
            if reason := trust.fault_of_open(file, os.path.join(self.path, name)):
                raise PermissionError(errno.EPERM, reason, name)
            pieces: list[bytes] = []
            while limit > 0 and (piece := os.read(file, min(limit, 1 << 20))):
                pieces.append(piece)
                limit -= len(piece)
            return b"".join(pieces)
        finally:
            os.close(file)

    def write(self, name: str, content: bytes) -> None:
        """Replace a file, durably and at once, by one that only its owner reads. One writer of a name at a time."""
        temporary = f"{name}.tmp"
        self.refuse_link(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | _NO_LINK
        file = os.open(temporary, flags, 0o600, dir_fd=self._number)
        try:
            try:
                os.fchmod(file, 0o600)
                left = memoryview(content)
                while left:
                    left = left[os.write(file, left) :]
                os.fsync(file)
            finally:
                os.close(file)
            os.rename(temporary, name, src_dir_fd=self._number, dst_dir_fd=self._number)
        except OSError:
            # A full disk must not be kept full by what did not fit on it.
            self.remove(temporary)
            raise
        os.fsync(self._number)

    def change(self, name: str, change: "Callable[[bytes], bytes]", *, durably: bool = False) -> None:
        """Replace what a file holds in its place, by as many bytes, alone with it; nothing where there is no such file.

        Needs no free space where the file system writes in place. Raises OSError, also where another process keeps
        the file for long.
        """
        try:
            file = os.open(name, os.O_RDWR | os.O_NONBLOCK | _NO_LINK, dir_fd=self._number)
        except FileNotFoundError:
            return
        try:
            if not _locked(file, _LONGEST_CHANGE_S):
                raise OSError(errno.EAGAIN, "another process keeps the file", name)
            stored = os.pread(file, 1 << 16, 0)
            changed = change(stored)
            if changed != stored:
                os.pwrite(file, changed, 0)
            if durably:
                # Others need not wait for the disk.
                fcntl.flock(file, fcntl.LOCK_UN)
                os.fsync(file)
        finally:
            os.close(file)

    def has(self, name: str) -> bool:
        """Whether the folder has something of this name."""
        try:
            os.stat(name, dir_fd=self._number, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def refuse_link(self, name: str) -> None:
        """Raise OSError when the name is that of a link, a folder or a device."""
        try:
            mode = os.stat(name, dir_fd=self._number, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if mode & _KIND != _REGULAR:
            raise OSError(errno.ELOOP, "is no regular file", name)

    def set_aside(self, name: str, other: str) -> bool:
        """Give a file a second name; False when that is taken."""
        try:
            os.link(name, other, src_dir_fd=self._number, dst_dir_fd=self._number, follow_symlinks=False)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file that may be gone."""
        try:
            os.unlink(name, dir_fd=self._number)
        except FileNotFoundError:
            return

    def names(self) -> list[str]:
        """The names in the folder, in their order."""
        return sorted(os.listdir(self._number))

    def age(self, name: str, touched: str) -> float:
        """Seconds since a file was written; 0 when the file is gone.

        The clock is the file system's, which may be another machine's: `touched` names a file whose times become now.
        """
        try:
            written = os.stat(name, dir_fd=self._number, follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return 0.0
        os.utime(touched, dir_fd=self._number, follow_symlinks=False)
        return os.stat(touched, dir_fd=self._number, follow_symlinks=False).st_mtime - written

    def lock(self, name: str, wait: float) -> "int | None":
        """Take the lock that a file stands for, waiting so many seconds at most; None when another has it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | _NO_LINK
        file = os.open(name, flags, 0o600, dir_fd=self._number)
        try:
            taken = _locked(file, wait)
        except OSError:
            os.close(file)
            raise
        if not taken:
            os.close(file)
            return None
        _locks_held.add(file)
        return file

    @staticmethod
    def unlock(lock: int) -> None:
        """Give back what `lock` took, also when a forked process still has it open."""
        _locks_held.discard(lock)
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _locked(file: int, wait: float) -> bool:
    """Lock an open file; False when another process still has the lock after so many seconds."""
    until = time.monotonic() + wait
    pause = 0.0005
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
        else:
            return True


def make(path: str) -> None:
    """Make a folder, and those above it that are missing, for this user alone. Raises OSError."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        make(os.path.dirname(path))
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            return  # another process made it at the same moment


def _forget_locks() -> None:
    # A forked process shares the lock of its parent; were it to outlive the parent, it would keep everyone out.
    for lock in _locks_held:
        try:
            os.close(lock)
        except OSError:
            continue
    _locks_held.clear()


os.register_at_fork(after_in_child=_forget_locks)

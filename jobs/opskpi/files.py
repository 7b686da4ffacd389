"""Files that are written all or nothing."""

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from opskpi.errors import ExitCode, OpsKpiError

Write = Callable[[bytes], object]


def write_whole(path: Path, text: str) -> None:
    """Write a text as a file, as `whole_file` does."""
    with whole_file(path) as write:
        write(text.encode())


@contextmanager
def whole_file(path: Path) -> Iterator[Write]:
    """Write beside the file, and put it in its place at the end, on the disk for good; until then all stays as it was.

    A file that is there keeps its permissions, a link its place. Raises OpsKpiError: BAD_ARGUMENT when there cannot
    be such a file, TRY_LATER when it cannot be written to its end.
    """
    try:
        path = path.resolve()
    except (OSError, RuntimeError) as error:
        raise OpsKpiError(f"{path} leads nowhere: {error}", exit_code=ExitCode.BAD_ARGUMENT) from None
    mode = _replaced_mode(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _impossible(path, error) from error
    try:
        try:
            if mode is not None:
                os.fchmod(number, mode)
            with _unwritable(path):
                yield lambda data: write_all(number, data)
                os.fsync(number)
        finally:
            os.close(number)
        with _unwritable(path):
            part.replace(path)
            _sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def write_all(number: int, data: bytes) -> None:
    """Write all of the bytes to a file's number, however little it takes at once."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(number, remaining) :]


def _replaced_mode(path: Path) -> int | None:
    """The permissions of the file that is to be replaced, None without one. Raises OpsKpiError for anything else."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _impossible(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise OpsKpiError(f"{path} is no regular file", "Name another, or redirect the output.", ExitCode.BAD_ARGUMENT)
    return stat.S_IMODE(found.st_mode)


def _impossible(path: Path, error: OSError) -> OpsKpiError:
    if not path.parent.is_dir():
        return OpsKpiError(f"there is no folder {path.parent}", "Make it, or choose another.", ExitCode.BAD_ARGUMENT)
    return OpsKpiError(f"there cannot be a file {path}: {error.strerror}", exit_code=ExitCode.BAD_ARGUMENT)


@contextmanager
def _unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OpsKpiError(
            f"{path} cannot be written: {error.strerror or error}", "Nothing was changed there.", ExitCode.TRY_LATER
        ) from error


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)

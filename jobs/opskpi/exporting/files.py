"""Where an export goes: standard output, or a file that is there as a whole or not at all."""

import os
import secrets
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from opskpi.errors import ExitCode, OpsKpiError

Write = Callable[[bytes], object]
# The format of gzip around what zlib packs.
GZIP = 16 + zlib.MAX_WBITS


@contextmanager
def standard_output() -> Iterator[Write]:
    """Write to standard output, past Python's buffers, so that nothing is left to be written later.

    Raises OpsKpiError when the reader goes away before the end.
    """
    number = sys.stdout.fileno()

    def write(data: bytes) -> None:
        try:
            _write(number, data)
        except BrokenPipeError:
            raise OpsKpiError(
                "whoever read the export went away before its end", "What was read is not complete."
            ) from None

    yield write


@contextmanager
def whole_file(path: Path, *, zipped: bool) -> Iterator[Write]:
    """Write beside the file, and put it in its place at the end, on the disk for good; until then all stays as it was.

    A file that is there keeps its permissions. Raises OpsKpiError: BAD_ARGUMENT when there cannot be such a file,
    TRY_LATER when it cannot be written to its end.
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
        raise OpsKpiError(
            f"there cannot be a file {path}: {error.strerror}", exit_code=ExitCode.BAD_ARGUMENT
        ) from error
    try:
        try:
            if mode is not None:
                os.fchmod(number, mode)
            with _unwritable(path):
                if zipped:
                    packer = zlib.compressobj(wbits=GZIP)
                    yield lambda data: _write(number, packer.compress(data))
                    _write(number, packer.flush())
                else:
                    yield lambda data: _write(number, data)
                os.fsync(number)
        finally:
            os.close(number)
        with _unwritable(path):
            part.replace(path)
            _sync_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _replaced_mode(path: Path) -> int | None:
    """The permissions of the file that is to be replaced, None without one. Raises OpsKpiError for anything else."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OpsKpiError(
            f"there cannot be a file {path}: {error.strerror}", exit_code=ExitCode.BAD_ARGUMENT
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise OpsKpiError(
            f"{path} is no regular file", "Leave --out away, and redirect the output there.", ExitCode.BAD_ARGUMENT
        )
    return stat.S_IMODE(found.st_mode)


@contextmanager
def _unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OpsKpiError(
            f"the export cannot be written to {path}: {error.strerror or error}",
            "Nothing was changed there.",
            ExitCode.TRY_LATER,
        ) from error


def _write(number: int, data: bytes) -> None:
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(number, remaining) :]


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)

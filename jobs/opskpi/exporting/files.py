"""Where an export goes: standard output, or a file that is there as a whole or not at all."""

import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskpi.errors import OpsKpiError
from opskpi.files import Write, whole_file, write_all

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
            write_all(number, data)
        except BrokenPipeError:
            raise OpsKpiError(
                "whoever read the export went away before its end", "What was read is not complete."
            ) from None

    yield write


@contextmanager
def packed_file(path: Path, *, zipped: bool) -> Iterator[Write]:
    """Write a file all or nothing, as `files.whole_file` does; gzipped if asked for."""
    with whole_file(path) as write:
        if not zipped:
            yield write
            return
        packer = zlib.compressobj(wbits=GZIP)
        yield lambda data: write(packer.compress(data))
        write(packer.flush())

"""Files of events, cut into the raw text of one event each: JSON lines or one JSON array, gzipped or not.

Whatever the input, no more than about two of its longest allowed events are held at a time.
"""

import hashlib
import itertools
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.ingestion.arrays import Array
from opskpi.ingestion.records import WHITESPACE, Record
from opskpi.ingestion.records import lines as lines_of

CHUNK = 1 << 18

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_GZIP_MAGIC = b"\x1f\x8b"
_KEYED_START, _KEYED_END = 1 << 20, 1 << 16


class Document:
    """A file or stream of events, read forward and once. Made by `open_document`.

    `total` is the size in bytes as stored, `key` identifies the content whatever its path; both are None for
    what cannot be read again (stdin, a pipe). `position` is how many stored bytes have been read.
    """

    def __init__(self, source: str, stored: FileIO) -> None:
        self.position = 0
        self._stored = stored
        self._stopped = False
        self._source = "standard input" if source == "-" else source
        status = os.fstat(stored.fileno())
        rereadable = stat.S_ISREG(status.st_mode) and source != "-"
        self.total = status.st_size if rereadable else None
        self.key = self._content_key(status.st_size) if rereadable else None
        folder = Path(source).parent if rereadable else Path()
        self.refused_path = folder / f"{'stdin' if source == '-' else Path(source).name}.refused.jsonl"

    def stop(self) -> None:
        """Make a reader in another thread come to its end soon."""
        self._stopped = True

    def records(self, *, lines: int = 0, offset: int = 0) -> Iterator[Record]:
        """Yield each event's raw text, skipping blank lines, from after line `lines` that ends at `offset`.

        Raises OpsKpiError (BAD_ARGUMENT) where the gzip data or the array is damaged, after all before it.
        """
        chunks = self._texts()
        first = next(chunks, b"")
        if first.startswith(_UTF_16_MARKS):
            raise self._damaged("is UTF-16, not UTF-8", "Convert it first: iconv -f UTF-16 -t UTF-8.")
        start = len(_BYTE_ORDER_MARK) if first.startswith(_BYTE_ORDER_MARK) else 0
        blank_lines = 0
        for first in itertools.chain([first[start:]], chunks):  # noqa: B020 - the first text that is not blank
            if first.strip(WHITESPACE):
                break
            start, blank_lines = start + len(first), blank_lines + first.count(b"\n")
        is_array = first.lstrip(WHITESPACE).startswith(b"[")
        if offset:
            chunks = self._texts(offset)
        else:
            chunks = itertools.chain([first], chunks)
            lines, offset = 0 if is_array else blank_lines, start
        if is_array:
            return Array(self._source, chunks, lines, offset).records()
        return lines_of(chunks, lines, offset)

    def _texts(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the unzipped text from `offset` on, in pieces of about CHUNK bytes."""
        if self.total is not None:
            self._stored.seek(0)
            self.position = 0
        chunks = self._chunks()
        first = next(chunks, b"")
        if first.startswith(_GZIP_MAGIC):
            return _skipping(offset, _gathered(self._unzipped(itertools.chain([first], chunks))))
        if first and self._source.endswith(".gz"):
            raise self._damaged("is named .gz but is not gzip data", "Rename it if it holds plain text.")
        if offset:
            self._stored.seek(offset)
            self.position = offset
            return self._chunks()
        return itertools.chain([first], chunks)

    def _chunks(self) -> Iterator[bytes]:
        """Yield the stored bytes, CHUNK at a time: a pipe hands over as little as its writer wrote."""
        return _gathered(self._stored_reads())

    def _stored_reads(self) -> Iterator[bytes]:
        while not self._stopped:
            try:
                read = self._stored.read(CHUNK)
            except OSError as error:
                raise self._damaged(f"cannot be read: {error.strerror}") from error
            if not read:
                return
            self.position += len(read)
            yield read

    def _unzipped(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        member = zlib.decompressobj(wbits=31)
        inside = False
        for chunk in chunks:
            rest = chunk
            while rest:
                if not inside and not (rest := rest.lstrip(b"\0")):
                    break  # padding after a member, as tapes and block devices leave it
                try:
                    yield member.decompress(rest, CHUNK)
                except zlib.error as error:
                    raise self._damaged(f"has damaged gzip data before byte {self.position}") from error
                inside, rest = not member.eof, member.unconsumed_tail
                if member.eof:
                    rest, member = member.unused_data, zlib.decompressobj(wbits=31)
            while inside and (text := member.decompress(b"", CHUNK)):
                yield text
        if inside:
            raise self._damaged(f"ends in the middle of its gzip data, at byte {self.position}")

    def _content_key(self, size: int) -> str:
        try:
            digest = hashlib.sha256(b"%d\n" % size)
            digest.update(self._stored.read(_KEYED_START))
            self._stored.seek(max(0, size - _KEYED_END))
            digest.update(self._stored.read(_KEYED_END))
            self._stored.seek(0)
        except OSError as error:
            raise self._damaged(f"cannot be read: {error.strerror}") from error
        return digest.hexdigest()

    def _damaged(self, what: str, hint: str = "") -> OpsKpiError:
        hint = hint or "What came before is stored; ingest the repaired file, events are never stored twice."
        return OpsKpiError(f"{self._source} {what}", hint, ExitCode.BAD_ARGUMENT)


@contextmanager
def open_document(source: str) -> Iterator[Document]:
    """Open a path, or `-` for standard input. Raises OpsKpiError (BAD_ARGUMENT) if it cannot be read."""
    try:
        # Unbuffered: the lock of a buffered stdin, held by a blocked reader, aborts the interpreter's exit.
        stored = FileIO(0, closefd=False) if source == "-" else FileIO(source)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OpsKpiError(
            f"cannot read {source}: {reason}",
            "Name a file of JSON lines or one JSON array, or - for standard input.",
            ExitCode.BAD_ARGUMENT,
        ) from error
    with stored:
        yield Document(source, stored)


def _gathered(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Join small parts to CHUNK bytes: joining a part at a time to an unfinished line would be quadratic."""
    gathered = bytearray()
    try:
        for part in parts:
            if not gathered and len(part) >= CHUNK:
                yield part
                continue
            gathered += part
            if len(gathered) >= CHUNK:
                yield bytes(gathered)
                gathered.clear()
    except OpsKpiError:
        yield bytes(gathered)
        raise
    if gathered:
        yield bytes(gathered)


def _skipping(offset: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if offset < len(chunk):
            yield chunk[offset:]
        offset = max(0, offset - len(chunk))

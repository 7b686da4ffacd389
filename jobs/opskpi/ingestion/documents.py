"""Files of events, cut into the raw text of one event each: JSON lines or one JSON array, gzipped or not.

Whatever the input, no more than about two of its longest allowed events are held at a time.
"""

import hashlib
import itertools
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from opskpi.errors import ExitCode, OpsKpiError

LONGEST_EVENT = 1 << 20
KEPT_OF_A_LONG_EVENT = 1 << 10
CHUNK = 1 << 18

_WHITESPACE = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_GZIP_MAGIC = b"\x1f\x8b"
_KEYED_START, _KEYED_END = 1 << 20, 1 << 16


class Record(NamedTuple):
    """The raw text of one event.

    `number` is its line number, or its element number in an array, from 1. `end` is the offset in bytes, in
    the unzipped text, after it. `text` is what was written, without the line end; only the first
    KEPT_OF_A_LONG_EVENT bytes where `cut` says that it was longer than LONGEST_EVENT.
    """

    number: int
    end: int
    text: bytes
    cut: bool


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
            if first.strip(_WHITESPACE):
                break
            start, blank_lines = start + len(first), blank_lines + first.count(b"\n")
        is_array = first.lstrip(_WHITESPACE).startswith(b"[")
        if offset:
            chunks = self._texts(offset)
        else:
            chunks = itertools.chain([first], chunks)
            lines, offset = 0 if is_array else blank_lines, start
        if is_array:
            return _Array(self._source, chunks, lines, offset).records()
        return _lines(chunks, lines, offset)

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


def _lines(chunks: Iterator[bytes], number: int, offset: int) -> Iterator[Record]:
    unfinished, start_of_long = b"", b""
    for chunk in chunks:
        if start_of_long:
            length = chunk.find(b"\n") + 1
            offset += length or len(chunk)
            if not length:
                continue
            number += 1
            yield Record(number, offset, start_of_long, cut=True)
            chunk, start_of_long = chunk[length:], b""  # noqa: PLW2901
        finished = (unfinished + chunk).split(b"\n")
        unfinished = finished.pop()
        for line in finished:
            number += 1
            offset += len(line) + 1
            yield from _line(number, offset, line)
        if len(unfinished) > LONGEST_EVENT + 1:
            offset += len(unfinished)
            unfinished, start_of_long = b"", unfinished[:KEPT_OF_A_LONG_EVENT]
    if start_of_long:
        yield Record(number + 1, offset, start_of_long, cut=True)
    yield from _line(number + 1, offset + len(unfinished), unfinished)


def _line(number: int, offset: int, line: bytes) -> tuple[Record, ...]:
    text = line.removesuffix(b"\r")
    if not text or text.isspace():
        return ()
    if len(text) > LONGEST_EVENT:
        return (Record(number, offset, text[:KEPT_OF_A_LONG_EVENT], cut=True),)
    return (Record(number, offset, text, cut=False),)


_STRING_REST = rb'(?:[^"\\]++|\\.)*+'
_STRING = rb'"' + _STRING_REST + rb'"'
_NO_BRACKETS = rb'[^"{}\[\]]*+'

_BLANK = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb"[^,\]]*+")
_IN_STRING = re.compile(_STRING_REST, re.DOTALL)
_OUTSIDE_BRACKETS = re.compile(_NO_BRACKETS + rb"(?:" + _STRING + _NO_BRACKETS + rb")*+", re.DOTALL)
_BRACKETS = re.compile(rb"[{\[]++|[}\]]++")


def _bracketed(levels: int) -> bytes:
    """Return the pattern of a text in brackets that holds at most `levels` further levels of them."""
    inner = _STRING + rb"|" + _bracketed(levels - 1) if levels else _STRING
    return rb"[{\[]" + _NO_BRACKETS + rb"(?:(?:" + inner + rb")" + _NO_BRACKETS + rb")*+[}\]]"


# One match finds the end of nearly every event; walking its brackets one by one takes 20 times as long.
_SHALLOW = re.compile(_bracketed(3), re.DOTALL)


class _Walk:
    """The way through one element whose text may arrive in several pieces."""

    def __init__(self, *, is_scalar: bool, in_string: bool) -> None:
        self.is_over = False
        self._is_scalar = is_scalar
        self.in_string = in_string
        self._depth = 0

    def on(self, text: bytes, scan: int) -> int:
        """Walk from `scan` to the element's end or as far as the text allows, and return where that is."""
        if self._is_scalar:
            scan = _end(_SCALAR, text, scan)
            self.is_over = scan < len(text)
            return scan
        while not self.is_over:
            scan = _end(_IN_STRING if self.in_string else _OUTSIDE_BRACKETS, text, scan)
            mark = text[scan : scan + 1]
            if mark == b'"':
                self.in_string = not self.in_string
                scan += 1
            elif self.in_string or not mark:
                return scan  # at the end, or before a backslash whose partner is in the next piece
            else:
                run = _end(_BRACKETS, text, scan) - scan
                if mark in b"}]":
                    run = -min(run, self._depth)
                self._depth += run
                scan += abs(run)
            self.is_over = self._depth == 0 and not self.in_string
        return scan


def _end(pattern: re.Pattern[bytes], text: bytes, scan: int) -> int:
    """Return where the match of a pattern that matches anything, even nothing, ends."""
    found = pattern.match(text, scan)
    return found.end() if found else scan


class _Array:
    """Cuts the text of one JSON array at its top-level commas, without reading what the elements say."""

    def __init__(self, source: str, chunks: Iterator[bytes], number: int, offset: int) -> None:
        self._source = source
        self._chunks = chunks
        self._number = number
        self._base = offset
        self._resumed = number > 0
        self._buffer = b""
        self._at = 0

    def records(self) -> Iterator[Record]:
        mark = self._mark()
        if not self._resumed:
            self._at += 1
            if self._mark() == b"]":
                mark = self._mark()
            else:
                yield self._element()
                mark = self._mark()
        while mark == b",":
            self._at += 1
            yield self._element()
            mark = self._mark()
        if mark != b"]":
            raise self._malformed("a comma or ] is missing" if mark else "it ends before its ]")
        self._at += 1
        if self._mark():
            raise self._malformed("there is more after its ]")

    def _element(self) -> Record:
        mark = self._mark()
        if not mark:
            raise self._malformed("it ends before its ]")
        if mark in b",]}":
            raise self._malformed("an element is missing")
        self._number += 1
        if mark in b"{[" and (whole := _SHALLOW.match(self._buffer, self._at)):
            text, self._at = whole.group(), whole.end()
            return self._record(text, len(text))
        return self._walked(_Walk(is_scalar=mark not in b'{["', in_string=mark == b'"'))

    def _walked(self, walk: "_Walk") -> Record:
        """Find the end of the element that starts here, dropping what is longer than an event may be."""
        kept = b""
        length, scan = 0, self._at + walk.in_string
        while not walk.is_over:
            scan = walk.on(self._buffer, scan)
            if walk.is_over:
                break
            if kept or scan - self._at > LONGEST_EVENT:
                kept = kept or self._buffer[self._at : self._at + KEPT_OF_A_LONG_EVENT]
                length += scan - self._at
                self._at = scan
            scan -= self._at
            if not self._more():
                raise self._malformed("it ends before its ]")
        text = kept or self._buffer[self._at : scan].rstrip(_WHITESPACE)
        length += scan - self._at
        self._at = scan
        return self._record(text, length)

    def _record(self, text: bytes, length: int) -> Record:
        cut = length > LONGEST_EVENT
        kept = text[:KEPT_OF_A_LONG_EVENT] if cut else text
        return Record(self._number, self._base + self._at, kept, cut)

    def _mark(self) -> bytes:
        """Skip white space and return the next byte, or nothing at the end."""
        while True:
            self._at = _end(_BLANK, self._buffer, self._at)
            if self._at < len(self._buffer):
                return self._buffer[self._at : self._at + 1]
            if not self._more():
                return b""

    def _more(self) -> bool:
        chunk = next(self._chunks, b"")
        self._base += self._at
        self._buffer = self._buffer[self._at :] + chunk
        self._at = 0
        return bool(chunk)

    def _malformed(self, what: str) -> OpsKpiError:
        return OpsKpiError(
            f"{self._source} is not a whole JSON array: {what}, at or after"
            f" element {self._number}, at byte {self._base + self._at}",
            "What came before is stored; ingest the repaired file, events are never stored twice.",
            ExitCode.BAD_ARGUMENT,
        )

"""The raw text of one event each, cut out of one JSON array."""

import re
from collections.abc import Iterator

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.ingestion.records import KEPT_OF_A_LONG_EVENT, LONGEST_EVENT, WHITESPACE, Record

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


class Array:
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
        """Yield the elements. Raises OpsKpiError (BAD_ARGUMENT) where the array is malformed, after all before it."""
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
        text = kept or self._buffer[self._at : scan].rstrip(WHITESPACE)
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

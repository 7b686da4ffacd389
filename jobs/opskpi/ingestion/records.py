"""The raw text of one event each, cut out of JSON lines."""

from collections.abc import Iterator
from typing import NamedTuple

LONGEST_EVENT = 1 << 20
KEPT_OF_A_LONG_EVENT = 1 << 10
WHITESPACE = b" \t\r\n"


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


def lines(chunks: Iterator[bytes], number: int, offset: int) -> Iterator[Record]:
    """Yield the lines of a text from after line `number`, which ends at `offset`; blank ones are skipped."""
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

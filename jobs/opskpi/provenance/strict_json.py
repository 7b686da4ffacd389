"""JSON from strangers: bounded in size, values and depth, each key once, no text that is not Unicode.

Parsers differ on all that is refused here, and what two programs read differently can pass one and harm the other
(RFC 8259, sections 4, 8.2 and 9; RFC 7493).
"""

import base64
import binascii
import codecs
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

LARGEST_TEXT = 1 << 24
MOST_VALUES = 500_000
MOST_DOCUMENTS = 1_000
DEEPEST = 64

# A text that never ends matches to the end, lest each quote in it be tried anew.
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.|\\\Z)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)
_BLANKS = re.compile(r"[ \t\r\n]*+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_STANDARD = re.compile(r"[A-Za-z0-9+/]*+={0,2}+")
_URL_SAFE = re.compile(r"[A-Za-z0-9_-]*+={0,2}+")


class MalformedError(Exception):
    """Something read from a provenance file is not what it must be; the message says what, without a full stop."""


class UnsupportedError(MalformedError):
    """A format that is not understood, so that nothing can be said of the provenance."""


def documents(stored: bytes) -> list[tuple[int, Any]]:
    """Every JSON value of a text with the line, from 1, it starts on: one document, or one a line or more.

    Raises MalformedError when the text is larger than LARGEST_TEXT bytes, holds more than MOST_VALUES values or
    MOST_DOCUMENTS documents, is nested deeper than DEEPEST, is not UTF-8, not JSON, or has a key twice in one object.
    A byte order mark before the whole is passed over, because editors write one before a file.
    """
    text = _bounded(stored.removeprefix(codecs.BOM_UTF8))
    found: list[tuple[int, Any]] = []
    end, line = 0, 1
    while (at := _skip_blanks(text, end)) < len(text):
        line += text.count("\n", end, at)
        if found and "\n" not in text[end:at]:
            raise MalformedError(f"line {line} goes on after the end of its JSON value")
        if len(found) == MOST_DOCUMENTS:
            raise MalformedError(f"it holds more than {MOST_DOCUMENTS:,} documents")
        value, end = _value(text, at)
        found.append((line, value))
        line += text.count("\n", at, end)
    if not found:
        raise MalformedError("it is empty")
    return found


def document(stored: bytes) -> Any:
    """The one JSON value of a text without a byte order mark, which some parsers refuse and others pass over.

    Raises MalformedError as `documents` does, and when there is more than one.
    """
    if stored.startswith(codecs.BOM_UTF8):
        raise MalformedError("it begins with a byte order mark")
    values = documents(stored)
    if len(values) > 1:
        raise MalformedError(f"it holds {len(values)} JSON values instead of one")
    return values[0][1]


def decoded(text: object, what: str) -> bytes:
    """Bytes of a base64 text, standard or URL-safe, padded or not, and canonical.

    Raises MalformedError that names `what`.
    """
    if not isinstance(text, str):
        raise MalformedError(f"{what} is {kind(text)}, not a text in base64")
    if not (_STANDARD.fullmatch(text) or _URL_SAFE.fullmatch(text)):
        raise MalformedError(f"{what} is not base64: it has other characters")
    standard = text.replace("-", "+").replace("_", "/")
    if not standard.endswith("="):
        standard += "=" * (-len(standard) % 4)
    try:
        stored = base64.b64decode(standard, validate=True)
    except binascii.Error as error:
        raise MalformedError(f"{what} is not base64: it is cut or wrongly padded") from error
    if base64.b64encode(stored).decode() != standard:
        raise MalformedError(f"{what} is not canonical base64: bits after its end are set")
    return stored


def kind(value: object) -> str:
    """What JSON calls a value, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"


def _bounded(stored: bytes) -> str:
    if len(stored) > LARGEST_TEXT:
        raise MalformedError(f"it is larger than {LARGEST_TEXT >> 20} MiB")
    # An upper bound: commas and brackets within texts count too, which no provenance has half a million of.
    if sum(map(stored.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise MalformedError(f"it holds more than {MOST_VALUES:,} values")
    depth = 0
    for mark in _BRACKETS.finditer(stored):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(mark.group(), 0) if len(mark.group()) == 1 else 0
        if depth > DEEPEST:
            raise MalformedError(f"it is nested deeper than {DEEPEST} levels")
    try:
        return stored.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"it is not UTF-8 from byte {error.start} on") from error


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise MalformedError(f"it is not JSON: {error.msg}, line {error.lineno}, column {error.colno}") from error
    except ValueError as error:
        # Python reads no whole number of more than 4,300 digits.
        raise MalformedError("it has a number of too many digits") from error
    except RecursionError as error:
        raise MalformedError("it is nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise MalformedError(f"the key {json.dumps(key)[:60]} is given twice in one object")
        if any(_SURROGATES.search(text) for text in _texts(key, value)):
            raise MalformedError(f"the text of {json.dumps(key)[:60]} has half a surrogate pair")
        found[key] = value
    return found


def _texts(key: str, value: Any) -> Iterator[str]:
    yield key
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        # Lists in lists as well; objects within were looked at when they were read.
        waiting = list(value)
        while waiting:
            item = waiting.pop()
            if isinstance(item, str):
                yield item
            elif isinstance(item, list):
                waiting += item


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise MalformedError(f"the number {digits[:40]} is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedError(f"{name} is no JSON")


def _skip_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=_finite, parse_constant=_refuse_constant)

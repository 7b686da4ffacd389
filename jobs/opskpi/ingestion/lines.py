"""What of a record the server gets as an event, and what it must not get, since that would take its batch along."""

import hashlib
import json
import re

from opskpi.ingestion.records import Record

# That of ops.event_limits(), asked before an event is parsed: parsing takes a stack as deep as the nesting.
DEEPEST_NESTING = 32


class UnfitError(ValueError):
    """A line that must not reach the server, where it would take its batch along."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


def _refuse_constant(literal: str) -> None:
    raise UnfitError("", f"{literal} is not JSON")


def _skip_integer(_literal: str) -> int:
    """Stand in for the number, which is never looked at: converting digits takes quadratic time."""
    return 0


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_skip_integer)

_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|([{\[])|[}\]]', re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:u(?:d[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|(?P<nul>0000)|(?P<half>d[89a-f]..))|.)", re.IGNORECASE
)


def sendable(record: Record) -> tuple[bytes, str]:
    """Return the event as the server gets it, and the first 7 characters of its timestamp (YYYY-MM).

    Raises UnfitError for what the server could not read, and for an event that says no time.
    """
    if record.cut:
        raise UnfitError("", "is longer than 1 MiB")
    raw = record.text.strip(b" \t\r\n")
    if raw.count(b"{") + raw.count(b"[") > DEEPEST_NESTING and _depth(raw) > DEEPEST_NESTING:
        raise UnfitError("", f"is nested deeper than {DEEPEST_NESTING}")
    event = _parsed(raw)
    body = event["payload"] if "payload" in event else event.get("metadata")
    body = body if isinstance(body, dict) else {}
    instant = event.get("event_timestamp")
    if instant is None and (instant := event.get("timestamp")) is None:
        instant = body.get("timestamp")
    if instant is None:
        raise UnfitError("timestamp", "an event in a file must say when it happened")
    if event.get("event_id") is None and body.get("event_id") is None:
        # Last, not first: an "event_id": null of its own would else win, as the last of equal keys does.
        raw = b'%b,"event_id":"%b"}' % (raw[:-1], _lasting_id(record.number, raw))
    return raw, instant[:7] if isinstance(instant, str) else ""


def _parsed(raw: bytes) -> dict[str, object]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise UnfitError("", f"is not UTF-8 at byte {error.start + 1}") from error
    try:
        event, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        if "\0" in text:
            raise UnfitError("", f"has a NUL byte at column {text.index(chr(0)) + 1}") from error
        raise UnfitError("", f"is not JSON at column {error.pos + 1}: {error.msg}") from error
    if end != len(text):
        raise UnfitError("", f"is not JSON at column {end + 1}: there is more after the value")
    if not isinstance(event, dict):
        raise UnfitError("", "is not a JSON object")
    if "\\u" in text:
        for escape in _ESCAPE.finditer(text):
            if escape["nul"]:
                raise UnfitError("", f"has a NUL character, \\u0000, at column {escape.start() + 1}")
            if escape["half"]:
                raise UnfitError("", f"has half a surrogate pair, {escape[0]}, at column {escape.start() + 1}")
    return event


def _depth(raw: bytes) -> int:
    depth = deepest = 0
    for bracket in _BRACKET.finditer(raw):
        if bracket[1]:
            depth += 1
            deepest = max(deepest, depth)
        elif bracket[0] in b"}]":
            depth -= 1
    return deepest


def _lasting_id(number: int, raw: bytes) -> bytes:
    """Make a UUID (version 8) that the same line of the same file gets again."""
    digest = hashlib.sha256(b"%d\n%b" % (number, raw)).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}".encode()

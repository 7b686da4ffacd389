"""The JSON documents of a file or request: one, a list, JSON lines, or one after the other; also as a form."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github.forms import FIELD, payload_of

LARGEST = 64 << 20
DEEPEST_LIST = 8


def text_of(raw: bytes, source: str) -> str:
    """The JSON in the bytes of a file or request, taken out of a form where it is one.

    Raises OpsKpiError (BAD_ARGUMENT) when it is too large, not UTF-8, or no form with one payload.
    """
    if len(raw) > LARGEST:
        raise _unreadable(source, f"is larger than {LARGEST >> 20} MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(source, f"is not UTF-8 at byte {error.start + 1}") from error
    if not text.startswith(f"{FIELD}="):
        return text
    try:
        return payload_of(text)
    except ValueError as fault:
        raise _unreadable(source, f"begins as a form, which {fault}") from fault


def documents(text: str, source: str) -> Iterator[tuple[str, Any, str]]:
    """Each JSON document with its place, and what is wrong with it, if anything; the elements of a list one by one.

    Raises OpsKpiError (BAD_ARGUMENT) when the whole is empty or not JSON.
    """
    for place, document, fault in _found(text, source):
        yield from [(place, document, fault)] if fault else _elements(place, document)


def _found(decoded: str, source: str) -> list[tuple[str, Any, str]]:
    """The whole, or JSON lines, or documents one after the other as `gh api --paginate` prints them."""
    decoded = decoded.removeprefix("\ufeff")
    if not decoded.strip():
        raise _unreadable(source, "is empty")
    try:
        return [(source, _parsed(decoded), "")]
    except ValueError as error:
        fault = error
    lines = list(_lines(decoded, source))
    if all(not wrong for _, _, wrong in lines):
        return lines
    with suppress(ValueError):
        return _concatenated(decoded, source)
    if not any(isinstance(document, dict) for _, document, _ in lines):
        raise _unreadable(source, f"is not JSON: {fault}") from fault
    return lines


def _lines(decoded: str, source: str) -> Iterator[tuple[str, Any, str]]:
    # Not splitlines: a text in JSON may hold what that takes for the end of a line.
    for number, line in enumerate(decoded.split("\n"), 1):
        if line.strip():
            try:
                yield f"{source}: line {number}", _parsed(line), ""
            except ValueError as fault:
                yield f"{source}: line {number}", None, f"is not JSON: {fault}"


def _concatenated(decoded: str, source: str) -> list[tuple[str, Any, str]]:
    """Documents that nothing or blanks separate. Raises ValueError where one is not JSON."""
    found: list[tuple[str, Any, str]] = []
    end = 0
    while start := _BLANKS.match(decoded, end):
        if start.end() == len(decoded):
            break
        try:
            document, end = _DECODER.raw_decode(decoded, start.end())
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        found.append((f"{source}: document {len(found) + 1}", document, ""))
    return found


def _elements(place: str, document: object, depth: int = 0) -> Iterator[tuple[str, Any, str]]:
    """The elements of a list and of the lists in it, which `gh api --paginate --slurp` writes; else the document."""
    if not isinstance(document, list) or depth == DEEPEST_LIST:
        yield place, document, ""
        return
    for number, element in enumerate(document, 1):
        yield from _elements(f"{place}{',' if depth else ':'} element {number}", element, depth + 1)


def _parsed(decoded: str) -> Any:
    try:
        return json.loads(decoded, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is no number")


def _unreadable(source: str, reason: str) -> OpsKpiError:
    return OpsKpiError(
        f"{source} {reason}",
        "Pass a webhook payload, a list of them, JSON lines, or GitHub's list of runs.",
        ExitCode.BAD_ARGUMENT,
    )


_BLANKS = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)

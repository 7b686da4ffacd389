"""Webhook payloads and REST answers, as one object, a list or JSON lines, taken apart into what they describe."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github.events import (
    PUBLIC_HOST,
    Event,
    Json,
    Malformed,
    artifact_event,
    job_event,
    repository_of,
    run_event,
    whole,
)
from opskpi.github.forms import FIELD, payload_of
from opskpi.github.rules import Rules

LARGEST = 64 << 20
# A `status` is what a run or job has; a webhook has an `action` as well.
LISTS = {"workflow_runs": "run", "jobs": "job", "workflow_jobs": "job", "artifacts": "artifact"}
DEEPEST_LIST = 8
OTHER = "is neither a workflow_run nor a workflow_job payload, nor a list of runs"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one part of the input is no event: where it stands, the field at fault (empty: all of it), the reason."""

    place: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Collected:
    """One part of the input: the event that it becomes, or why not; neither while what it describes goes on."""

    place: str
    event: Event | None = None
    refusal: Refusal | None = None


def read(raw: bytes, rules: Rules, *, source: str, host: str = PUBLIC_HOST) -> list[Collected]:
    """What the bytes of a file or request describe: runs, jobs and artifacts, in order.

    Takes a webhook payload (workflow_run, workflow_job; also as a form), the REST answers that list runs, jobs or
    artifacts, or a bare run, alone, in lists, as JSON lines or one after the other. `host` is where they ran, where no
    URL says. Raises OpsKpiError (BAD_ARGUMENT) when the whole is not JSON; what is at fault in a part is a refusal of
    that part.
    """
    return read_text(_decoded(raw, source), rules, source=source, host=host)


def read_text(text: str, rules: Rules, *, source: str, host: str = PUBLIC_HOST) -> list[Collected]:
    """What JSON describes, as `read` says, which is not bytes any more and no form. Raises what `read` raises."""
    return [
        collected
        for place, document, fault in _documents(text, source)
        for collected in (
            [Collected(place, refusal=Refusal(place, "", fault))] if fault else _taken(place, document, rules, host)
        )
    ]


def _taken(place: str, document: object, rules: Rules, host: str) -> Iterator[Collected]:
    for part, kind, described, around in _parts(place, document):
        try:
            if kind == "run":
                yield Collected(part, run_event(described, rules, host=host, around=around))
            elif kind == "job":
                yield Collected(part, job_event(described, host=host, around=around))
            elif kind == "artifact":
                run_id = whole(around, "id") if "id" in around else None
                named = repository_of(around)
                yield Collected(part, artifact_event(described, host=host, repository=named, run_id=run_id))
            else:
                yield Collected(part, refusal=Refusal(part, "", OTHER))
        except Malformed as fault:
            yield Collected(part, refusal=Refusal(part, fault.field, fault.reason))


def _parts(place: str, document: object) -> Iterator[tuple[str, str, object, Json]]:
    """Each run, job and artifact with its place, kind, and what stands around it."""
    if not isinstance(document, Mapping):
        yield place, "", document, {}
        return
    if isinstance(document.get("workflow_job"), Mapping):
        yield f"{place}, workflow_job", "job", _with_status(document, "workflow_job"), document
    elif isinstance(document.get("workflow_run"), Mapping) and "size_in_bytes" not in document:
        yield from _run_parts(f"{place}, workflow_run", _with_status(document, "workflow_run"), document)
    elif any(isinstance(document.get(key), list) for key in LISTS) and "status" not in document:
        for key, kind in LISTS.items():
            listed = document.get(key)
            for number, described in enumerate(listed if isinstance(listed, list) else []):
                part = f"{place}, {key}[{number}]"
                yield from _run_parts(part, described, {}) if kind == "run" else [(part, kind, described, {})]
    elif "size_in_bytes" in document:
        yield place, "artifact", document, {}
    elif "run_started_at" in document or "run_attempt" in document or "workflow_id" in document:
        yield from _run_parts(place, document, {})
    else:
        yield place, "", document, {}


def _run_parts(place: str, run: object, around: Json) -> Iterator[tuple[str, str, object, Json]]:
    yield place, "run", run, around
    beside = run.get("artifacts") if isinstance(run, Mapping) else None
    listed = beside if isinstance(beside, list) else around.get("artifacts")
    for number, artifact in enumerate(listed if isinstance(listed, list) else []):
        yield f"{place}, artifacts[{number}]", "artifact", artifact, run if isinstance(run, Mapping) else {}


def _with_status(payload: Json, key: str) -> Json:
    """What the payload is about; the action tells how it stands where it does not itself."""
    action = payload.get("action")
    return {"status": action} | {
        name: value for name, value in payload[key].items() if value is not None or name != "status"
    }


def _documents(text: str, source: str) -> Iterator[tuple[str, Any, str]]:
    """Each JSON document with its place, and what is wrong with it, if anything; the elements of a list one by one."""
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


def _decoded(raw: bytes, source: str) -> str:
    if len(raw) > LARGEST:
        raise _unreadable(source, f"is larger than {LARGEST >> 20} MiB")
    try:
        decoded = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(source, f"is not UTF-8 at byte {error.start + 1}") from error
    if not decoded.startswith(f"{FIELD}="):
        return decoded
    try:
        return payload_of(decoded)
    except ValueError as fault:
        raise _unreadable(source, f"begins as a form, which {fault}") from fault


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

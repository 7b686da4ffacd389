"""Bring files of events into the database: each line is stored, known already, or refused with a reason."""

import hashlib
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Json

from opskpi.documents import Document, Record, open_document
from opskpi.errors import OpsKpiError

BATCH_RECORDS = 2_000
BATCH_BYTES = 4 << 20
BATCHES_READ_AHEAD = 2
DEEPEST_NESTING = 32
LONGEST_INTEGER = 1_000
REFUSALS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one line was not stored.

    `line` counts from 1: the line of a JSON lines file, the element of an array. `field` is empty when the
    line as a whole is at fault.
    """

    line: int
    field: str
    reason: str


@dataclass(slots=True)
class Summary:
    """What became of a source; the counts include an earlier run that this one resumed.

    `read` = `accepted` + `duplicate` + `refused`; blank lines are not counted. `resumed_at` is the line, or
    array element, after which this run began; 0 for the beginning. `refusals` holds the first 20 of this run;
    `refused_file` holds all, and is None when there are none.
    """

    source: str
    read: int = 0
    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    resumed_at: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    refused_file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Progress:
    lines: int = 0
    bytes: int = 0
    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    refused_bytes: int = 0


def ingest(
    connection: psycopg.Connection, source: str, *, on_progress: Callable[[int, int | None, int], None]
) -> Summary:
    """Store the events of a file (JSON lines or one JSON array, gzipped or not), or of `-`, standard input.

    Each batch is one transaction that also notes how far it is, so a killed run resumes where it stopped and
    nothing is lost or stored twice. Refused lines go to `<source>.refused.jsonl`. The connection must not be
    inside a transaction. `on_progress` is called after each batch with the bytes read of the file as stored,
    the size of the file (None for a stream) and the number of the last line.

    Raises OpsKpiError for a source that cannot be read to its end (BAD_ARGUMENT; what came before stays
    stored) and when a refused line cannot be written down (the batch is rolled back).
    """
    with open_document(source) as document:
        progress = _progress(connection, document.key)
        importing = _Import(connection, document, progress, Summary(source, resumed_at=progress.lines))
        with importing.refused_file, _read_ahead(document, progress) as batches:
            for batch in batches:
                importing.store(batch)
                on_progress(batch.position, document.total, batch.lines)
        if document.key:
            with connection.transaction():
                connection.execute("select ops.finish_import(source_key => %s)", [document.key])
        return importing.summary


def _progress(connection: psycopg.Connection, key: str | None) -> _Progress:
    if not key:
        return _Progress()
    with connection.transaction(), connection.cursor(row_factory=class_row(_Progress)) as cursor:
        noted = cursor.execute(
            """
            select lines, bytes, accepted, duplicate, refused, refused_bytes
            from ops.import_progress(source_key => %s)
            """,
            [key],
        ).fetchone()
    return noted or _Progress()


class _UnfitError(ValueError):
    """A line that must not reach the server, where it would take its batch along."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


def _refuse_constant(literal: str) -> None:
    raise _UnfitError("", f"{literal} is not JSON")


def _skip_integer(literal: str) -> int:
    """Stand in for the number, which is never looked at: converting digits takes quadratic time."""
    if len(literal) > LONGEST_INTEGER:
        raise _UnfitError("", f"has a whole number of more than {LONGEST_INTEGER:,} digits")
    return 0


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_skip_integer)

_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|([{\[])|[}\]]', re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:u(?:d[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|(?P<nul>0000)|(?P<half>d[89a-f]..))|.)", re.IGNORECASE
)
_MONTH = re.compile(r"20\d\d-(?:0[1-9]|1[0-2])", re.ASCII)


def _sendable(record: Record) -> tuple[bytes, str]:
    """Return the event as the server gets it, and the first 7 characters of its timestamp (YYYY-MM).

    Raises _UnfitError for what the server could not read, and for an event that says no time.
    """
    if record.cut:
        raise _UnfitError("", "is longer than 1 MiB")
    raw = record.text.strip(b" \t\r\n")
    if raw.count(b"{") + raw.count(b"[") > DEEPEST_NESTING and _depth(raw) > DEEPEST_NESTING:
        raise _UnfitError("", f"is nested deeper than {DEEPEST_NESTING}")
    event = _parsed(raw)
    body = event["payload"] if "payload" in event else event.get("metadata")
    body = body if isinstance(body, dict) else {}
    instant = event.get("event_timestamp")
    if instant is None and (instant := event.get("timestamp")) is None:
        instant = body.get("timestamp")
    if instant is None:
        raise _UnfitError("timestamp", "an event in a file must say when it happened")
    if event.get("event_id") is None and body.get("event_id") is None:
        # Last, not first: an "event_id": null of its own would else win, as the last of equal keys does.
        raw = b'%b,"event_id":"%b"}' % (raw[:-1], _lasting_id(record.number, raw))
    return raw, instant[:7] if isinstance(instant, str) else ""


def _parsed(raw: bytes) -> dict[str, object]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise _UnfitError("", f"is not UTF-8 at byte {error.start + 1}") from error
    try:
        event, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        if "\0" in text:
            raise _UnfitError("", f"has a NUL byte at column {text.index(chr(0)) + 1}") from error
        raise _UnfitError("", f"is not JSON at column {error.pos + 1}: {error.msg}") from error
    if end != len(text):
        raise _UnfitError("", f"is not JSON at column {end + 1}: there is more after the value")
    if not isinstance(event, dict):
        raise _UnfitError("", "is not a JSON object")
    if "\\u" in text:
        for escape in _ESCAPE.finditer(text):
            if escape["nul"]:
                raise _UnfitError("", f"has a NUL character, \\u0000, at column {escape.start() + 1}")
            if escape["half"]:
                raise _UnfitError("", f"has half a surrogate pair, {escape[0]}, at column {escape.start() + 1}")
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


@dataclass(slots=True)
class _Batch:
    """Consecutive records: `events[i]` is what is sent of `records[i]`; `refused` ones are not sent."""

    events: list[bytes] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    refused: list[tuple[Refusal, Record]] = field(default_factory=list)
    months: set[str] = field(default_factory=set)
    size: int = 0
    lines: int = 0
    end: int = 0
    position: int = 0

    def add(self, record: Record) -> None:
        self.lines, self.end, self.size = record.number, record.end, self.size + len(record.text)
        try:
            event, month = _sendable(record)
        except _UnfitError as unfit:
            self.refused.append((Refusal(record.number, unfit.field, unfit.reason), record))
        else:
            self.events.append(event)
            self.records.append(record)
            self.months.add(month)

    def is_full(self) -> bool:
        return self.size >= BATCH_BYTES or len(self.events) + len(self.refused) >= BATCH_RECORDS


def _batches(document: Document, progress: _Progress) -> Iterator[_Batch]:
    batch = _Batch()
    try:
        for record in document.records(lines=progress.lines, offset=progress.bytes):
            batch.add(record)
            if batch.is_full():
                batch.position = document.position
                yield batch
                batch = _Batch()
    except OpsKpiError:
        if batch.lines:
            batch.position = document.position
            yield batch
        raise
    if batch.lines:
        batch.position = document.position
        yield batch


@contextmanager
def _read_ahead(document: Document, progress: _Progress) -> Iterator[Iterator[_Batch]]:
    """Read and check the batches in a thread while the server stores the ones before."""
    ready: queue.Queue[_Batch | BaseException | None] = queue.Queue(BATCHES_READ_AHEAD)
    left = threading.Event()

    def hand_over(item: _Batch | BaseException | None) -> bool:
        while not left.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for batch in _batches(document, progress):
                if not hand_over(batch):
                    return
            hand_over(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the batches are used
            hand_over(error)

    def batches() -> Iterator[_Batch]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    reader = threading.Thread(target=read, name="opskpi-ingest-reader", daemon=True)
    reader.start()
    try:
        yield batches()
    finally:
        left.set()
        document.stop()
        # A reader blocked on a silent pipe cannot be woken; as a daemon it does not keep the process alive.
        reader.join(timeout=None if document.total is not None else 1)


class _RefusedFile:
    """The refused lines of one source, each a JSON object with the line, field, reason and original text."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._file: FileIO | None = None
        self.size = size

    def __enter__(self) -> Self:
        if self.size:
            self._opened()  # what a killed run wrote beyond its last committed batch goes now
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    @property
    def path(self) -> Path:
        return self._path

    def append(self, refused: list[tuple[Refusal, Record]]) -> None:
        """Write the lines down for good. Raises OpsKpiError when that is not possible."""
        file = self._opened()
        try:
            for refusal, record in refused:
                remaining = memoryview(_refused_line(refusal, record))
                self.size += len(remaining)
                while remaining:
                    remaining = remaining[file.write(remaining) :]
            os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def _opened(self) -> FileIO:
        if not self._file:
            try:
                self._file = FileIO(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
                self.size = min(self.size, self._file.seek(0, os.SEEK_END))
                self._file.truncate(self.size)
                self._file.seek(self.size)
            except OSError as error:
                raise self._unwritable(error) from error
        return self._file

    def _unwritable(self, error: OSError) -> OpsKpiError:
        return OpsKpiError(
            f"cannot write the refused lines to {self._path}: {error.strerror}; their batch is not stored",
            "Make room or the folder writable and run it again: it goes on where it stopped.",
        )


def _refused_line(refusal: Refusal, record: Record) -> bytes:
    row = {"line": refusal.line, "field": refusal.field, "reason": refusal.reason}
    try:
        return json.dumps(row | {"text": record.text.decode()}, ensure_ascii=False).encode() + b"\n"
    except UnicodeDecodeError:
        # Each byte that is no UTF-8 becomes the escape \udc80 to \udcff, so none of them is lost.
        return json.dumps(row | {"text": record.text.decode(errors="surrogateescape")}).encode() + b"\n"


class _Import:
    """One source on its way into the database, a transaction a batch."""

    def __init__(
        self, connection: psycopg.Connection, document: Document, progress: _Progress, summary: Summary
    ) -> None:
        self._connection = connection
        self._key = document.key
        self._months: set[str] = set()
        self.summary = summary
        self.refused_file = _RefusedFile(document.refused_path, progress.refused_bytes)
        self._add(progress.accepted, progress.duplicate, progress.refused)

    def store(self, batch: _Batch) -> None:
        self._create_partitions(batch.months)
        with self._connection.transaction():
            accepted, duplicate, refused = self._ingest_events(batch)
            if refused:
                self.refused_file.append(refused)
            self._note_progress(batch, accepted, duplicate, len(refused))
        self._add(accepted, duplicate, len(refused))
        room = REFUSALS_KEPT - len(self.summary.refusals)
        self.summary.refusals += [refusal for refusal, _ in refused[:room]]

    def _create_partitions(self, months: set[str]) -> None:
        latest = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m")
        for month in sorted(months - self._months):
            if _MONTH.fullmatch(month) and month <= latest:
                with self._connection.transaction():
                    first_day = f"{month}-01"
                    self._connection.execute("select ops.create_partition(month => %s::date)", [first_day])
                self._months.add(month)

    def _ingest_events(self, batch: _Batch) -> tuple[int, int, list[tuple[Refusal, Record]]]:
        if not batch.events:
            return 0, 0, batch.refused
        # As it was written: parsing and writing it anew would be slow and would round numbers.
        events = Json(b"[%b]" % b",".join(batch.events), dumps=bytes)
        with self._connection.cursor(row_factory=scalar_row) as cursor:
            (answer,) = cursor.execute("select public.ingest_events(events => %s::json)", [events]).fetchall()
        refused = [
            (Refusal(record.number, verdict["field"] or "", verdict["reason"]), record)
            for verdict in answer["refused"]
            for record in [batch.records[verdict["index"]]]
        ]
        return answer["accepted"], answer["duplicate"], sorted(batch.refused + refused, key=_by_line)

    def _note_progress(self, batch: _Batch, accepted: int, duplicate: int, refused: int) -> None:
        if not self._key:
            return
        summary = self.summary
        self._connection.execute(
            """
            select ops.record_import_progress(
              source_key => %s, lines => %s, bytes => %s,
              accepted => %s, duplicate => %s, refused => %s, refused_bytes => %s
            )
            """,
            [
                self._key, batch.lines, batch.end,
                summary.accepted + accepted, summary.duplicate + duplicate, summary.refused + refused,
                self.refused_file.size,
            ],
        )  # fmt: skip

    def _add(self, accepted: int, duplicate: int, refused: int) -> None:
        self.summary.accepted += accepted
        self.summary.duplicate += duplicate
        self.summary.refused += refused
        self.summary.read += accepted + duplicate + refused
        if self.summary.refused:
            self.summary.refused_file = self.refused_file.path


def _by_line(refused: tuple[Refusal, Record]) -> int:
    return refused[0].line

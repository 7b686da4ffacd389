"""Bring files of events into the database: each line is stored, known already, or refused with a reason."""

import hashlib
import json
import os
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import psycopg
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Json

from opskpi import anonymisation
from opskpi.documents import Document, Record, open_document
from opskpi.errors import OpsKpiError
from opskpi.lanes import Lane, Lanes

BATCH_RECORDS = 2_000
BATCH_BYTES = 4 << 20
BATCHES_READ_AHEAD = 1
PATIENCE_S = 1.0
FIRST_BATCHES_ALONE = 16
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
    connection: psycopg.Connection,
    source: str,
    *,
    on_progress: Callable[[int, int | None, int], None],
    open_another: Callable[[], psycopg.Connection] | None = None,
) -> Summary:
    """Store the events of a file (JSON lines or one JSON array, gzipped or not), or of `-`, standard input.

    Each batch is one transaction that also notes how far it is, so a killed run resumes where it stopped and
    nothing is lost or stored twice. Refused lines go to `<source>.refused.jsonl`. The connection must not be
    inside a transaction. `on_progress` is called after each batch with the bytes read of the file as stored,
    the size of the file (None for a stream) and the number of the last line.

    `open_another` opens another connection to the same database. With it, two batches are stored at a time while
    they do not get in each other's way; they are still committed in the order of the file, and of an event that
    is in both, the later one is the duplicate. It is called once at most, in a thread, and not for a single batch.
    When it raises psycopg.Error or OpsKpiError, batches are stored one at a time.

    Raises OpsKpiError for a source that cannot be read to its end (BAD_ARGUMENT; what came before stays
    stored) and when a refused line cannot be written down; psycopg.Error for what the server reports. The batch
    at fault and those after it are rolled back, those before it stay stored.
    """
    with open_document(source) as document:
        progress = _progress(connection, document.key)
        importing = _Import(connection, document, progress, Summary(source, resumed_at=progress.lines))
        news = threading.Event()
        with (
            importing.refused_file,
            _ReadAhead(document, progress, news) as batches,
            Lanes(connection, open_another, news) as lanes,
        ):
            for batch in importing.store(batches, lanes):
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


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None = None


class _ReadAhead:
    """The batches of a document, read and checked in a thread while the server stores the ones before.

    `news` is set when there is one more.
    """

    def __init__(self, document: Document, progress: _Progress, news: threading.Event) -> None:
        self._document = document
        self._progress = progress
        self._news = news
        self._ready: queue.Queue[_Batch | _End] = queue.Queue(BATCHES_READ_AHEAD)
        self._next: _Batch | _End | None = None
        self._left = threading.Event()
        self._reader = threading.Thread(target=self._read, name="opskpi-ingest-reader", daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._document.stop()
        # A reader blocked on a silent pipe cannot be woken; as a daemon it does not keep the process alive.
        self._reader.join(timeout=None if self._document.total is not None else 1)

    def at_end(self) -> bool:
        """Whether all batches were taken; raises what ended the reading before the end."""
        following = self._peek()
        if isinstance(following, _End) and following.error:
            raise following.error
        return isinstance(following, _End)

    def peek(self) -> _Batch | None:
        """Return the next batch, None at the end and while it is not read yet."""
        following = self._peek()
        return following if isinstance(following, _Batch) else None

    def skip(self) -> None:
        """Go on to the batch after the one that `peek` returned."""
        self._next = None

    def _peek(self) -> _Batch | _End | None:
        if self._next is None:
            with suppress(queue.Empty):
                self._next = self._ready.get_nowait()
        return self._next

    def _read(self) -> None:
        try:
            for batch in _batches(self._document, self._progress):
                if not self._hand_over(batch):
                    return
            self._hand_over(_End())
        except BaseException as error:  # noqa: BLE001 - raised again where the batches are used
            self._hand_over(_End(error))

    def _hand_over(self, item: _Batch | _End) -> bool:
        while not self._left.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            self._news.set()
            return True
        return False


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


class _Verdict(NamedTuple):
    accepted: int
    duplicate: int
    refused: list[tuple[Refusal, Record]]


@dataclass(slots=True)
class _Storing:
    """A batch on its lane: its transaction is open from the call to the commit, unless it was `undone`."""

    batch: _Batch
    lane: Lane
    verdict: Future[_Verdict]
    has_company: bool
    undone: bool = False

    def is_running(self) -> bool:
        return not self.verdict.done()

    def waits_for_its_turn(self) -> bool:
        return not self.undone and self.verdict.done()

    def holds_locks(self) -> bool:
        return self.waits_for_its_turn() and self.verdict.exception() is None

    def failed_for_its_company(self) -> bool:
        """Whether it may succeed alone: a deadlock, or a time limit that waiting for the other batch exceeded."""
        error = self.verdict.exception()
        return self.has_company and isinstance(error, psycopg.OperationalError) and not self.lane.connection.closed

    def undo(self) -> None:
        self.lane.connection.rollback()
        self.undone = True

    def store_again(self) -> None:
        self.verdict = self.lane.submit(partial(_store, batch=self.batch))
        self.undone = self.has_company = False


class _Import:
    """One source on its way into the database, a transaction a batch."""

    def __init__(
        self, connection: psycopg.Connection, document: Document, progress: _Progress, summary: Summary
    ) -> None:
        self._connection = connection
        self._key = document.key
        self._months: set[str] = set()
        self._under_way: deque[_Storing] = deque()
        self._batches_alone = 0
        self._next_batches_alone = FIRST_BATCHES_ALONE
        self.summary = summary
        self.refused_file = _RefusedFile(document.refused_path, progress.refused_bytes)
        self._add(progress.accepted, progress.duplicate, progress.refused)

    def store(self, batches: _ReadAhead, lanes: Lanes) -> Iterator[_Batch]:
        """Store the batches, as many at a time as there are lanes; yield each when it is committed, in order.

        Postgres sees no deadlock in a batch that waits for rows of a later one that waits here for its turn.
        Hence none waits longer than PATIENCE_S: it is rolled back, and stored again when its turn has come.
        """
        while self._under_way or not batches.at_end():
            if self._under_way and self._under_way[0].waits_for_its_turn():
                if self._commit(self._under_way[0]):
                    lanes.give_back(self._under_way[0].lane)
                    yield self._under_way.popleft().batch
            elif not self._make_way() and not self._begin(batches, lanes):
                in_time = lanes.news.wait(PATIENCE_S)
                lanes.news.clear()
                if not in_time and any(storing.holds_locks() for storing in self._under_way):
                    self._go_alone()

    def _begin(self, batches: _ReadAhead, lanes: Lanes) -> bool:
        batch = batches.peek()
        # A partition takes locks that would wait for a batch that waits here.
        if not batch or (self._under_way and (self._batches_alone or self._months_to_create(batch))):
            return False
        lane = lanes.take()
        if not lane:
            return False
        self._create_partitions(batch)
        batches.skip()
        for other in self._under_way:
            other.has_company = True
        verdict = lane.submit(partial(_store, batch=batch))
        self._under_way.append(_Storing(batch, lane, verdict, has_company=bool(self._under_way)))
        return True

    def _commit(self, storing: _Storing) -> bool:
        """Commit the first batch under way; False if it was rolled back instead, to be stored again."""
        if storing.failed_for_its_company():
            storing.undo()
            self._go_alone()
            return False
        accepted, duplicate, refused = storing.verdict.result()
        if refused:
            self.refused_file.append(refused)
        self._note_progress(storing, accepted, duplicate, len(refused))
        storing.lane.connection.commit()
        self._add(accepted, duplicate, len(refused))
        room = REFUSALS_KEPT - len(self.summary.refusals)
        self.summary.refusals += [refusal for refusal, _ in refused[:room]]
        self._batches_alone = max(0, self._batches_alone - 1)
        return True

    def _go_alone(self) -> None:
        """Store one batch at a time for a while, and for twice as long the next time: to find out takes PATIENCE_S."""
        self._batches_alone = self._next_batches_alone
        self._next_batches_alone *= 2

    def _make_way(self) -> bool:
        """Do the next step towards the first batch being alone, if there is one to do."""
        if not self._under_way:
            return False
        first, *others = self._under_way
        for other in others:
            if self._batches_alone and other.holds_locks():
                other.undo()
                return True
        if first.undone and not any(other.is_running() for other in others):
            first.store_again()
            return True
        return False

    def _months_to_create(self, batch: _Batch) -> list[str]:
        latest = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m")
        return sorted(month for month in batch.months - self._months if _MONTH.fullmatch(month) and month <= latest)

    def _create_partitions(self, batch: _Batch) -> None:
        for month in self._months_to_create(batch):
            with self._connection.transaction():
                first_day = date.fromisoformat(f"{month}-01")
                # A month of which all was removed is not made anew for events that are refused.
                self._connection.execute(
                    "select ops.create_partition(month => %(month)s)"
                    " where not ops.is_removed_month(month => %(month)s)",
                    {"month": first_day},
                )
            self._months.add(month)

    def _note_progress(self, storing: _Storing, accepted: int, duplicate: int, refused: int) -> None:
        if not self._key:
            return
        summary = self.summary
        storing.lane.connection.execute(
            """
            select ops.record_import_progress(
              source_key => %s, lines => %s, bytes => %s,
              accepted => %s, duplicate => %s, refused => %s, refused_bytes => %s
            )
            """,
            [
                self._key, storing.batch.lines, storing.batch.end,
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


def _store(connection: psycopg.Connection, batch: _Batch) -> _Verdict:
    """Store the batch in a transaction that stays open."""
    if connection.autocommit:
        connection.execute("begin")
    if not batch.events:
        return _Verdict(0, 0, batch.refused)
    anonymisation.pass_key(connection)
    # As it was written: parsing and writing it anew would be slow and would round numbers.
    events = Json(b"[%b]" % b",".join(batch.events), dumps=bytes)
    with connection.cursor(row_factory=scalar_row) as cursor:
        (answer,) = cursor.execute("select public.ingest_events(events => %s::json)", [events]).fetchall()
    refused = [
        (Refusal(record.number, verdict["field"] or "", verdict["reason"]), record)
        for verdict in answer["refused"]
        for record in [batch.records[verdict["index"]]]
    ]
    return _Verdict(answer["accepted"], answer["duplicate"], sorted(batch.refused + refused, key=_by_line))


def _by_line(refused: tuple[Refusal, Record]) -> int:
    return refused[0].line

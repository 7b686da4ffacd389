"""The batches of a document, read and checked ahead of those that are stored."""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from opskpi.errors import OpsKpiError
from opskpi.ingestion.documents import Document
from opskpi.ingestion.lines import UnfitError, sendable
from opskpi.ingestion.records import Record
from opskpi.ingestion.refused import Refusal, Refused

BATCH_RECORDS = 2_000
BATCH_BYTES = 4 << 20
BATCHES_READ_AHEAD = 1


@dataclass(slots=True)
class Batch:
    """Consecutive records: `events[i]` is what is sent of `records[i]`; `refused` ones are not sent."""

    events: list[bytes] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    months: set[str] = field(default_factory=set)
    size: int = 0
    lines: int = 0
    end: int = 0
    position: int = 0

    def add(self, record: Record) -> None:
        self.lines, self.end, self.size = record.number, record.end, self.size + len(record.text)
        try:
            event, month = sendable(record)
        except UnfitError as unfit:
            self.refused.append((Refusal(record.number, unfit.field, unfit.reason), record))
        else:
            self.events.append(event)
            self.records.append(record)
            self.months.add(month)

    def is_full(self) -> bool:
        return self.size >= BATCH_BYTES or len(self.events) + len(self.refused) >= BATCH_RECORDS


def _batches(document: Document, lines: int, offset: int) -> Iterator[Batch]:
    batch = Batch()
    try:
        for record in document.records(lines=lines, offset=offset):
            batch.add(record)
            if batch.is_full():
                batch.position = document.position
                yield batch
                batch = Batch()
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


class ReadAhead:
    """The batches of a document, read and checked in a thread while the server stores the ones before.

    It begins after `lines` lines, which is at byte `offset`. `news` is set when there is one more.
    """

    def __init__(self, document: Document, lines: int, offset: int, news: threading.Event) -> None:
        self._document = document
        self._lines = lines
        self._offset = offset
        self._news = news
        self._ready: queue.Queue[Batch | _End] = queue.Queue(BATCHES_READ_AHEAD)
        self._next: Batch | _End | None = None
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

    def peek(self) -> Batch | None:
        """Return the next batch, None at the end and while it is not read yet."""
        following = self._peek()
        return following if isinstance(following, Batch) else None

    def skip(self) -> None:
        """Go on to the batch after the one that `peek` returned."""
        self._next = None

    def _peek(self) -> Batch | _End | None:
        if self._next is None:
            with suppress(queue.Empty):
                self._next = self._ready.get_nowait()
        return self._next

    def _read(self) -> None:
        try:
            for batch in _batches(self._document, self._lines, self._offset):
                if not self._hand_over(batch):
                    return
            self._hand_over(_End())
        except BaseException as error:  # noqa: BLE001 - raised again where the batches are used
            self._hand_over(_End(error))

    def _hand_over(self, item: Batch | _End) -> bool:
        while not self._left.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            self._news.set()
            return True
        return False

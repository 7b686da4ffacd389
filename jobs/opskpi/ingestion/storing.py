"""Batches on their way into the database, a transaction each, committed in the order of the file."""

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Json

from opskpi.access import pseudonyms
from opskpi.ingestion.batches import Batch, ReadAhead
from opskpi.ingestion.documents import Document
from opskpi.ingestion.lanes import Lane, Lanes
from opskpi.ingestion.refused import Refusal, Refused, RefusedFile

PATIENCE_S = 1.0
FIRST_BATCHES_ALONE = 16
REFUSALS_KEPT = 20
_MONTH = re.compile(r"20\d\d-(?:0[1-9]|1[0-2])", re.ASCII)


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
class Progress:
    lines: int = 0
    bytes: int = 0
    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    refused_bytes: int = 0


def progress_of(connection: psycopg.Connection, key: str | None) -> Progress:
    if not key:
        return Progress()
    with connection.transaction(), connection.cursor(row_factory=class_row(Progress)) as cursor:
        noted = cursor.execute(
            """
            select lines, bytes, accepted, duplicate, refused, refused_bytes
            from ops.import_progress(source_key => %s)
            """,
            [key],
        ).fetchone()
    return noted or Progress()


class _Verdict(NamedTuple):
    accepted: int
    duplicate: int
    refused: list[Refused]


@dataclass(slots=True)
class _Storing:
    """A batch on its lane: its transaction is open from the call to the commit, unless it was `undone`."""

    batch: Batch
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


class Import:
    """One source on its way into the database, a transaction a batch."""

    def __init__(
        self, connection: psycopg.Connection, document: Document, progress: Progress, summary: Summary
    ) -> None:
        self._connection = connection
        self._key = document.key
        self._months: set[str] = set()
        self._under_way: deque[_Storing] = deque()
        self._batches_alone = 0
        self._next_batches_alone = FIRST_BATCHES_ALONE
        self.summary = summary
        self.refused_file = RefusedFile(document.refused_path, progress.refused_bytes)
        self._add(progress.accepted, progress.duplicate, progress.refused)

    def store(self, batches: ReadAhead, lanes: Lanes) -> Iterator[Batch]:
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

    def _begin(self, batches: ReadAhead, lanes: Lanes) -> bool:
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

    def _months_to_create(self, batch: Batch) -> list[str]:
        latest = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m")
        return sorted(month for month in batch.months - self._months if _MONTH.fullmatch(month) and month <= latest)

    def _create_partitions(self, batch: Batch) -> None:
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


def _store(connection: psycopg.Connection, batch: Batch) -> _Verdict:
    """Store the batch in a transaction that stays open."""
    if connection.autocommit:
        connection.execute("begin")
    if not batch.events:
        return _Verdict(0, 0, batch.refused)
    pseudonyms.pass_key(connection)
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


def _by_line(refused: Refused) -> int:
    return refused[0].line

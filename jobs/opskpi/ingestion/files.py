"""Bring files of events into the database: each line is stored, known already, or refused with a reason."""

import threading
from collections.abc import Callable

import psycopg

from opskpi.ingestion.batches import ReadAhead
from opskpi.ingestion.documents import open_document
from opskpi.ingestion.lanes import Lanes
from opskpi.ingestion.refused import Refusal
from opskpi.ingestion.storing import Import, Summary, progress_of

__all__ = ["Refusal", "Summary", "ingest"]


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
        progress = progress_of(connection, document.key)
        importing = Import(connection, document, progress, Summary(source, resumed_at=progress.lines))
        news = threading.Event()
        with (
            importing.refused_file,
            ReadAhead(document, progress.lines, progress.bytes, news) as batches,
            Lanes(connection, open_another, news) as lanes,
        ):
            for batch in importing.store(batches, lanes):
                on_progress(batch.position, document.total, batch.lines)
        if document.key:
            with connection.transaction():
                connection.execute("select ops.finish_import(source_key => %s)", [document.key])
        return importing.summary

"""The export itself, as a terminal runs it: from the server to a file in pieces."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.abc import Buffer

from opskpi.exporting import statements
from opskpi.exporting.files import Write, packed_file, standard_output
from opskpi.exporting.formats import Format
from opskpi.exporting.parquet import GROUP_BYTES, Encoder
from opskpi.exporting.subjects import Subject
from opskpi.postgres import connecting

CHUNK_BYTES = 64 << 10
# Of one transaction; it is the user who decides how long an export may take.
SETTINGS = "select set_config('timezone', 'UTC', true), set_config('statement_timeout', '0', true)"


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows to export and their form: `values` are the parameters of the filters, from `subjects.understand`.

    `is_spreadsheet_safe` marks what a spreadsheet would run, see `statements.copy`.
    """

    subject: Subject
    values: Mapping[str, object]
    format: Format
    is_spreadsheet_safe: bool = False

    def statement(self) -> sql.Composed:
        """The COPY that sends it; its parameters are the values."""
        return statements.copy(
            self.subject, self.format.rows, self.values, is_spreadsheet_safe=self.is_spreadsheet_safe
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """What was exported: rows, and bytes as the file has them."""

    subject: str
    format: str
    rows: int
    bytes: int
    file: Path


def to_file(
    connection: psycopg.Connection,
    selection: Selection,
    file: Path,
    *,
    zipped: bool,
    on_progress: Callable[[int], None],
) -> Summary:
    """Export to a file, all or nothing; `on_progress` is called with the rows so far.

    Raises OpsKpiError when the file or, in Parquet, a value cannot be written; psycopg.Error for what the server
    reports, and 42501 for a role that would see a part of the rows only.
    """
    with packed_file(file, zipped=zipped) as write:
        rows = _export(connection, selection, write, on_progress)
    return Summary(selection.subject.name, selection.format.value, rows, file.stat().st_size, file)


def to_standard_output(
    connection: psycopg.Connection, selection: Selection, on_progress: Callable[[int], None]
) -> None:
    """Export to standard output; only the absence of an error says that it is whole."""
    with standard_output() as write:
        _export(connection, selection, write, on_progress)


def _export(
    connection: psycopg.Connection, selection: Selection, write: Write, on_progress: Callable[[int], None]
) -> int:
    encoder = Encoder(selection.subject) if selection.format is Format.PARQUET else None
    with connecting.unfiltered(connection):
        connection.execute(SETTINGS)
        with connection.cursor() as cursor:
            with cursor.copy(selection.statement(), selection.values) as rows:
                for chunk, count in _in_chunks(rows, GROUP_BYTES if encoder else CHUNK_BYTES):
                    write(encoder.encode(chunk) if encoder else chunk)
                    on_progress(count)
            exported = cursor.rowcount
    if encoder:
        write(encoder.finish())
    return exported


def _in_chunks(rows: Iterable[Buffer], size: int) -> Iterator[tuple[bytes, int]]:
    """Whole rows together, of at least so many bytes but for the last; and how many there were so far."""
    chunk: list[Buffer] = []
    held = count = 0
    for row in rows:
        chunk.append(row)
        held += len(row)
        if held >= size:
            count += len(chunk)
            yield b"".join(chunk), count
            chunk.clear()
            held = 0
    if chunk:
        yield b"".join(chunk), count + len(chunk)

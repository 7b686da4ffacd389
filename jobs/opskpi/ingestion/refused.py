"""The lines that were refused: why, and the file that keeps them."""

import json
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from opskpi.errors import OpsKpiError
from opskpi.ingestion.records import Record


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one line was not stored.

    `line` counts from 1: the line of a JSON lines file, the element of an array. `field` is empty when the
    line as a whole is at fault.
    """

    line: int
    field: str
    reason: str


Refused = tuple[Refusal, Record]


class RefusedFile:
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

    def append(self, refused: list[Refused]) -> None:
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

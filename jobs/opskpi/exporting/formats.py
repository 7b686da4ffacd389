"""The formats of an export, by name, file ending and media type."""

import importlib.util
from enum import Enum
from pathlib import Path

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.exporting.statements import Rows

GZIP = ".gz"


class Format(Enum):
    """A format by its name; the first ending and the first media type are the usual ones."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"

    @property
    def endings(self) -> tuple[str, ...]:
        """The file endings."""
        return {Format.JSONL: (".jsonl", ".ndjson"), Format.CSV: (".csv",), Format.PARQUET: (".parquet",)}[self]

    @property
    def media_types(self) -> tuple[str, ...]:
        """The media types, without parameters."""
        return {
            Format.JSONL: ("application/jsonl", "application/x-ndjson"),
            Format.CSV: ("text/csv",),
            Format.PARQUET: ("application/vnd.apache.parquet",),
        }[self]

    @property
    def rows(self) -> Rows:
        """How the server writes its rows."""
        return {Format.JSONL: Rows.LINES, Format.CSV: Rows.CSV, Format.PARQUET: Rows.FEED}[self]


def has_parquet() -> bool:
    """Whether what writes Parquet is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def require(wanted: Format, *, is_spreadsheet_safe: bool = False) -> None:
    """Raise OpsKpiError: CONFIGURATION unless the format can be written, BAD_ARGUMENT for marks in anything but CSV."""
    if is_spreadsheet_safe and wanted is not Format.CSV:
        raise OpsKpiError(
            f"only CSV is marked for spreadsheets, not {wanted.value}",
            "Ask for CSV; the other formats hold no cells that a program runs.",
            ExitCode.BAD_ARGUMENT,
        )
    if wanted is Format.PARQUET and not has_parquet():
        raise OpsKpiError(
            "Parquet needs pyarrow, which is not installed",
            "Run: pip install 'opskpi[parquet]'",
            ExitCode.CONFIGURATION,
        )


def choose(name: str | None, file: Path | None) -> tuple[Format, bool]:
    """The format by name, else by the file's ending, else JSON lines; and whether the file is to be gzipped.

    Raises OpsKpiError: BAD_ARGUMENT when the ending names no format, or Parquet is to be gzipped.
    """
    zipped = file is not None and file.suffix.lower() == GZIP
    if name:
        found = Format(name)
    elif file is None:
        found = Format.JSONL
    else:
        ending = (file.with_suffix("") if zipped else file).suffix.lower()
        found = next((each for each in Format if ending in each.endings), None)
    if found is None:
        raise OpsKpiError(
            f"the ending of {file} names no format",
            "Pass --format, or a file that ends in .jsonl, .ndjson, .csv or .parquet (.gz for the text ones).",
            ExitCode.BAD_ARGUMENT,
        )
    if zipped and found is Format.PARQUET:
        raise OpsKpiError("Parquet is compressed already", "Leave .gz away.", ExitCode.BAD_ARGUMENT)
    return found, zipped

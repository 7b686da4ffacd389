"""Parquet out of the server's CSV, a row group at a time: memory stays the same however many rows there are."""

from typing import TYPE_CHECKING

from psycopg.abc import Buffer

from opskpi.errors import OpsKpiError
from opskpi.exporting.statements import PARQUET_SCALE
from opskpi.exporting.subjects import Kind, Subject

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_BYTES = 2 << 20


class _Sink:
    """What pyarrow writes to: keeps the bytes until they are taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._position = 0
        self.closed = False

    def write(self, data: Buffer) -> int:
        self._parts.append(bytes(data))
        self._position += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken


class Encoder:
    """Turns CSV of `Rows.FEED` into the bytes of one Parquet file; needs the extra `parquet`."""

    def __init__(self, subject: Subject) -> None:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and slow to import
        from pyarrow import parquet  # noqa: PLC0415

        self._schema = pa.schema([(column.name, _type(column.kind)) for column in subject.columns])
        self._sink = _Sink()
        self._writer = parquet.ParquetWriter(self._sink, self._schema, compression="zstd")

    def encode(self, rows: bytes) -> bytes:
        """The file's next bytes; `rows` are whole. Raises OpsKpiError for a value that Parquet cannot hold."""
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import csv  # noqa: PLC0415

        try:
            table = csv.read_csv(
                pa.BufferReader(rows),
                csv.ReadOptions(use_threads=False, block_size=len(rows) + 1, column_names=self._schema.names),
                csv.ParseOptions(newlines_in_values=True),
                csv.ConvertOptions(
                    column_types=self._schema,
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            raise OpsKpiError(
                f"Parquet cannot hold a value: {str(error).splitlines()[0]}", "Export CSV or JSON lines."
            ) from error
        self._writer.write_table(table)
        return self._sink.take()

    def finish(self) -> bytes:
        """The last bytes, without which the file cannot be read."""
        self._writer.close()
        return self._sink.take()


def _type(kind: Kind) -> "pa.DataType":
    import pyarrow as pa  # noqa: PLC0415

    match kind:
        case "instant":
            return pa.timestamp("us", tz="UTC")
        case "whole":
            return pa.int64()
        case "decimal":
            # More than 38 digits are read by few.
            return pa.decimal128(38, PARQUET_SCALE)
        case "boolean":
            return pa.bool_()
        case _:
            return pa.string()

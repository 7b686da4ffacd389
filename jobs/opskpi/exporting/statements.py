"""The one COPY that is an export: the server filters and writes the rows, as CSV or as JSON lines, in one snapshot."""

from collections.abc import Mapping
from enum import Enum

from psycopg import sql

from opskpi.exporting.subjects import Column, Subject

# Beyond these there is no ISO 8601 form of four digits; Postgres's own, infinity included, is read back by Postgres.
INSTANT = """
  case
    when {0} >= timestamptz '0001-01-01 00:00+00' and {0} < timestamptz '10000-01-01 00:00+00'
      then to_char({0} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    else {0}::text
  end
"""
# A spreadsheet runs a cell that begins with one of these, full-width forms included, after what it may pass over:
# blanks, quotes, control characters and what has no width. A spreadsheet whose separator is not the comma also begins a
# cell after a semicolon, a bar, a tab or the end of a line.
# Source: https://owasp.org/www-community/attacks/CSV_Injection
_PASSED_OVER = r'\s[:cntrl:]"\u00a0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u2064\u3000\ufeff'
_STARTS = r"=+@\uff1d\uff0b\uff0d\uff20-"
MARKED = rf"regexp_replace({{}}::text, '(^|[;|\t\r\n])([{_PASSED_OVER}]*)([{_STARTS}])', '\1\2''\3', 'g')"
# The decimals of a Parquet column have one scale: 26 digits before the point hold any sum, see formats.
PARQUET_SCALE = 12


class Rows(Enum):
    """How the server writes rows. FEED is CSV without a header and with decimals of one scale, for Parquet."""

    CSV = "with (format csv, header, encoding 'utf8')"
    # No JSON holds these control characters, so that nothing is quoted a second time.
    LINES = r"with (format csv, quote e'\x01', delimiter e'\x02', encoding 'utf8')"
    FEED = "with (format csv, encoding 'utf8')"


def copy(
    subject: Subject, rows: Rows, values: Mapping[str, object], *, is_spreadsheet_safe: bool = False
) -> sql.Composed:
    """The statement that sends the rows of a subject; `values` are its parameters, merged in by `cursor.copy`.

    `is_spreadsheet_safe` puts an apostrophe before each piece of text that a spreadsheet would run; CSV only. The time
    zone of the session must be UTC.
    """
    conditions = subject.conditions(values) or [sql.SQL("true")]
    order = sql.SQL(", ").join(map(sql.Identifier, subject.order))
    return sql.SQL("copy (select {} from {} where {}{}) to stdout {}").format(
        _line(subject) if rows is Rows.LINES else _fields(subject, rows, is_spreadsheet_safe=is_spreadsheet_safe),
        sql.Identifier(*subject.relation),
        sql.SQL(" and ").join(conditions),
        sql.SQL(" order by {}").format(order) if subject.order else sql.SQL(""),
        sql.SQL(rows.value),
    )


def _fields(subject: Subject, rows: Rows, *, is_spreadsheet_safe: bool) -> sql.Composable:
    return sql.SQL(", ").join(
        sql.SQL("{} as {}").format(
            _field(column, rows, is_spreadsheet_safe=is_spreadsheet_safe), sql.Identifier(column.name)
        )
        for column in subject.columns
    )


def _field(column: Column, rows: Rows, *, is_spreadsheet_safe: bool) -> sql.Composable:
    name = sql.Identifier(column.name)
    if is_spreadsheet_safe and column.kind in {"text", "json"}:
        return sql.SQL(MARKED).format(name)
    if column.kind == "instant":
        return sql.SQL(INSTANT).format(name)
    if column.kind == "boolean":
        return sql.SQL("{}::text").format(name)
    if column.kind == "decimal" and rows is Rows.FEED:
        return sql.SQL("round({}, {})").format(name, PARQUET_SCALE)
    return name


def _line(subject: Subject) -> sql.Composable:
    """One JSON object as text; concat() leaves out what is null, and is fastest (see tests/benchmarks/export.py)."""
    parts: list[sql.Composable] = []
    separator = "{"
    for column in subject.columns:
        if not column.in_lines:
            continue
        before, value, after = _json(column)
        pieces: list[sql.Composable] = [sql.Literal(f'{separator}"{column.name}":{before}'), value]
        if after:
            pieces.append(sql.Literal(after))
        # Each text that is put together by itself costs a tenth of a microsecond a row.
        if column.nullable:
            parts.append(sql.SQL(" || ").join(pieces))
        else:
            parts += pieces
        separator = ","
    return sql.SQL("concat({}, '}}')").format(sql.SQL(", ").join(parts))


def _json(column: Column) -> tuple[str, sql.Composable, str]:
    """The value in JSON, and the quotes around it where they are needed."""
    name = sql.Identifier(column.name)
    match column.kind:
        case "instant":
            return '"', sql.SQL(INSTANT).format(name), '"'
        case "uuid":
            return '"', sql.SQL("{}::text").format(name), '"'
        case "text" | "decimal":
            # A decimal may be NaN, which is a string in JSON.
            return "", sql.SQL("to_json({})::text").format(name), ""
        case _:
            return "", sql.SQL("{}::text").format(name), ""

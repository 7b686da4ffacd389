"""The statements of a script of `sql/`, each with the object that it is about, under the name that pg_dump has for it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The kind of an object and its qualified name without arguments: ("function", "ops.setting"), ("policy", "ops.slos slos_select").
# A comment is an object, too: ("comment", "column ops.settings.name").
Subject = tuple[str, str]

TOKEN = re.compile(
    r"""
      --[^\n]*
    | \be'(?:[^'\\]|\\.|'')*'
    | '(?:[^']|'')*'
    | "[^"]*"
    | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    | (?P<opening>\bbegin\s+atomic\b|\bcase\b|\()
    | (?P<closing>\bend\b|\))
    | (?P<separator>[;,])
    """,
    re.DOTALL | re.VERBOSE | re.IGNORECASE,
)
LEADING = re.compile(r"(?:\s*--[^\n]*\n)*\s*")
SUBJECTS = [
    (re.compile(r"create (function|procedure|view|table|type|schema) ([\w.]+)"), r"\1", r"\2"),
    (re.compile(r"create (?:unique )?index (\w+) on (\w+)\."), "index", r"\2.\1"),
    (re.compile(r"create (policy) (\w+) on ([\w.]+)"), r"\1", r"\3 \2"),
    (re.compile(r"create (?:constraint )?(trigger) (\w+)\b.*?\bon ([\w.]+)", re.DOTALL), r"\1", r"\3 \2"),
    (re.compile(r"alter table ([\w.]+) enable (row) level (security)"), r"\2 \3", r"\1"),
    (re.compile(r"(comment) on (\w+) ([\w.]+)"), r"\1", r"\2 \3"),
    (re.compile(r"(insert) into ([\w.]+)"), r"\1", r"\2"),
]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of a script, and the comment lines right above it."""

    subject: Subject
    comment: str
    sql: str

    @property
    def text(self) -> str:
        """The statement under its comment."""
        return self.comment + self.sql

    @property
    def replacing(self) -> str:
        """The same, where the object may be there already."""
        return self.comment + self.sql.replace("create ", "create or replace ", 1)


def statements_of(folder: Path) -> list[Statement]:
    """Return the statements of all scripts in a folder, in the order in which they are applied."""
    scripts = sorted(folder.rglob("*.sql"))
    return [statement for script in scripts for statement in statements_in(script.read_text("utf-8"))]


def statements_in(script: str) -> Iterator[Statement]:
    """Yield the statements about objects and rows; grants and revokes are not among them."""
    for chunk in split(script, ";"):
        leading, sql = chunk[: (begin := end_of(LEADING, chunk))], chunk[begin:]
        comment = leading.rpartition("\n\n")[2].lstrip()
        for pattern, kind, name in SUBJECTS:
            if found := pattern.match(sql):
                yield Statement((found.expand(kind), found.expand(name)), comment, f"{sql};")
                break


def items_of(table: Statement) -> dict[str, str]:
    """Return the columns and constraints of a `create table` by their names, each as it is written."""
    return written_items(table.sql)


def written_items(sql: str) -> dict[str, str]:
    """Return the same of a table in a dump."""
    items = (chunk[end_of(LEADING, chunk) :].strip() for chunk in split(f"{first_brackets(sql)},", ","))
    return {words[words[0].lower() == "constraint"]: item for item in items if (words := item.split())}


def split(text: str, separator: str) -> Iterator[str]:
    """Yield what stands before each separator that is not in brackets, quotes, a comment or a body."""
    depth = begin = 0
    for token in TOKEN.finditer(text):
        depth += (token["opening"] is not None) - (token["closing"] is not None)
        if token["separator"] == separator and depth == 0:
            yield text[begin : token.start()]
            begin = token.end()


def first_brackets(text: str) -> str:
    """Return what stands in the first brackets; nothing for a partition, which has none."""
    depth = begin = 0
    for token in TOKEN.finditer(text):
        if token["opening"] and depth == 0:
            begin = token.end()
        depth += (token["opening"] is not None) - (token["closing"] is not None)
        if token["closing"] and depth == 0:
            return text[begin : token.start()]
    return ""


def end_of(pattern: re.Pattern[str], text: str) -> int:
    """Return where a match at the beginning ends, 0 without one."""
    found = pattern.match(text)
    return found.end() if found else 0

"""What a person sees: tables, progress bars and one-line notices; or one JSON document for machines."""

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from opskpi.columns import Column
from opskpi.orgs import NIL_ORG

# Functions that draw import rich themselves, because importing rich takes longer than many commands run.


def notice(text: str) -> None:
    """Say one line on stderr, where it does not disturb what is piped."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def is_interactive() -> bool:
    """Whether a person is there to answer a question."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def show(text: str) -> None:
    """Print one line of result."""
    print(text, flush=True)  # noqa: T201


def show_json(value: object) -> None:
    """Print `value` as one JSON document: dataclasses as objects, instants in ISO 8601, durations in seconds."""
    show(json.dumps(value, default=_plain, ensure_ascii=False, indent=2))


@contextmanager
def progress(description: str, total: int | None, *, quiet: bool = False) -> Iterator["Bar"]:
    """A progress bar on stderr; silent when `quiet` or when stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield Bar(lambda **_: None)
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield Bar(partial(bars.update, bars.add_task(description, total=total)))


class Bar:
    """A running progress bar, which `draw` draws."""

    def __init__(self, draw: Callable[..., None]) -> None:
        self._draw = draw

    def update(self, done: int, total: int | None = None) -> None:
        """Say how much is done, and of how much if that is known now."""
        self._draw(completed=done, total=total)


def show_rows(
    title: str,
    rows: Sequence[Any],
    nothing: str,
    *,
    keys: Collection[str] = (),
    without: Collection[str] = (),
    dispensable: Sequence[str] = (),
    written: Mapping[str, tuple[str, Callable[[Any], str]]] | None = None,
) -> None:
    """A table of rows of one dataclass, a column a field but for those `without`; `nothing` when there are none.

    `written` has the fields that are shown under another name and how a value is written; of these only the columns
    that say something are shown. `keys` name a row (the first field without them). Where the width is too small, empty
    columns are left out, then the `dispensable` ones in their order, then others from the last.
    """
    if not rows:
        show(nothing)
        return
    written = written or {}

    def cell(name: str, row: Any) -> str:
        value = getattr(row, name)
        return written[name][1](value) if name in written else _cell(value)

    silent = {name for name in written if not any(cell(name, row) for row in rows)}
    names = [field.name for field in fields(rows[0]) if field.name not in {*without, *silent}]
    if all(getattr(row, "org_id", NIL_ORG) == NIL_ORG for row in rows) and "org_id" in names:
        names.remove("org_id")
    keys = {*(keys or [next(name for name in names if name != "org_id")]), "org_id"}
    columns = [
        Column(
            written[name][0] if name in written else name.replace("_", " "),
            is_key=name in keys,
            dispensable=_rank(name, rows, dispensable),
            wraps=any(isinstance(getattr(row, name), str | list | dict) for row in rows),
        )
        for name in names
    ]
    show_table(title, columns, [[safe(cell(name, row)) for name in names] for row in rows])


def _rank(name: str, rows: Sequence[Any], dispensable: Sequence[str]) -> int:
    """How dispensable a column is: above all an empty one, then those named, the first the most."""
    if not any(_cell(getattr(row, name)) for row in rows):
        return len(dispensable) + 1
    return len(dispensable) - dispensable.index(name) if name in dispensable else 0


def show_marked(line: str) -> None:
    """One line with the markup of rich, however long."""
    from opskpi import tables  # noqa: PLC0415

    tables.stdout().print(line, soft_wrap=True, highlight=False)


def show_table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """A table within the width of the terminal; cells are markup, what strangers wrote made `safe`."""
    from opskpi import tables  # noqa: PLC0415

    tables.show(tables.stdout(), safe(title), columns, rows)


def safe(text: str) -> str:
    """The text without markup of ours and without what would steer a terminal: names and tags come from strangers."""
    from rich.markup import escape  # noqa: PLC0415

    return escape("".join(character if character.isprintable() else "\ufffd" for character in text))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, Decimal):
        return f"{value:.6f}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return str(value)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID | Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")

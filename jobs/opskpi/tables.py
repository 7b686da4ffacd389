"""Standard output as rich draws it, and tables that fit its width.

Columns are left out before a key is cut, and a long key takes a line of its own.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from opskpi.columns import Column

# The width that rich draws around a cell, and once more at the end of a line.
_FRAME, _EDGE = 3, 1
_INDENT = 2


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A column in its place among the cells of a row, with the widths that it wants and can do with."""

    column: Column
    place: int
    natural: int
    least: int


class _Stdout(Console):
    def on_broken_pipe(self) -> NoReturn:
        # rich would end the process with 1; whoever stops reading has seen enough.
        raise BrokenPipeError


def stdout() -> Console:
    """Standard output as rich draws on it."""
    # A pipe has no width of its own; at 80 columns a script would miss what it looks for.
    return _Stdout() if sys.stdout.isatty() or "COLUMNS" in os.environ else _Stdout(width=200)


def show(console: Console, title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells (markup of rich, what strangers wrote escaped) within the width of the console."""
    # A name such as :bug: is text.
    cells = [[Text.from_markup(cell, emoji=False) for cell in row] for row in rows]
    fitted = [_fitted(column, place, [row[place] for row in cells]) for place, column in enumerate(columns)]
    shown = _shown(fitted, console.width - _EDGE, _FRAME)
    if sum(part.least + _FRAME for part in shown) + _EDGE <= console.width:
        _print_table(console, title, shown, cells)
    else:
        shown = _print_blocks(console, title, fitted, cells)
    left_out = [
        part.column.name for part in fitted if part not in shown and any(row[part.place].plain for row in cells)
    ]
    if left_out:
        said = f"left out at a width of {console.width}: {', '.join(left_out)}; --json has everything"
        console.print(Text(said, style="dim"))


def _fitted(column: Column, place: int, cells: Sequence[Text]) -> _Fitted:
    head = max(Text(word).cell_len for word in column.name.split())
    widest = max((cell.cell_len for cell in cells), default=0)
    words = max((Text(word).cell_len for cell in cells for word in cell.plain.split()), default=0)
    return _Fitted(column, place, max(widest, Text(column.name).cell_len), max(head, words if column.wraps else widest))


def _shown(fitted: Sequence[_Fitted], width: int, frame: int) -> list[_Fitted]:
    """The columns that fit beside the keys and those that stay; these stay even where they do not fit."""
    shown = list(fitted)
    for part in sorted(fitted, key=lambda part: (part.column.dispensable, part.place), reverse=True):
        if sum(other.least + frame for other in shown) <= width:
            break
        if not (part.column.is_key or part.column.stays):
            shown.remove(part)
    return shown


def _widths(shown: Sequence[_Fitted], width: int, frame: int) -> list[int]:
    """Of each column as much as it wants, less where that is too much for all: the widest gives way first."""
    widths = [part.natural for part in shown]
    while sum(widths) + frame * len(widths) > width:
        spare = [(size, number) for number, size in enumerate(widths) if size > shown[number].least]
        if not spare:
            break
        widths[max(spare)[1]] -= 1
    return widths


def _print_table(console: Console, title: str, shown: Sequence[_Fitted], cells: Sequence[Sequence[Text]]) -> None:
    table = Table(title=title, title_justify="left")
    for part, width in zip(shown, _widths(shown, console.width - _EDGE, _FRAME), strict=True):
        justify = "right" if part.column.right else "left"
        table.add_column(part.column.name, width=width, overflow="fold", justify=justify)
    for row in cells:
        table.add_row(*(row[part.place] for part in shown))
    console.print(table)


def _print_blocks(
    console: Console, title: str, fitted: Sequence[_Fitted], cells: Sequence[Sequence[Text]]
) -> list[_Fitted]:
    """Print the keys of each row on lines of their own and the other cells below them; return what was shown."""
    keys = [part for part in fitted if part.column.is_key]
    others = [part for part in fitted if part not in keys]
    width = console.width - _INDENT
    shown = _shown(others, width, _INDENT)
    widths = _widths(shown, width, _INDENT)
    console.print(Text.from_markup(f"[italic]{title}[/]"))
    console.print(_grid([Text(part.column.name, style="bold") for part in shown], shown, widths))
    for row in cells:
        console.print(Text("  ").join([row[part.place] for part in keys]), overflow="fold")
        console.print(_grid([row[part.place] for part in shown], shown, widths))
    return [*keys, *shown]


def _grid(cells: Sequence[Text], shown: Sequence[_Fitted], widths: Sequence[int]) -> Table:
    grid = Table(box=None, show_header=False, padding=(0, 0, 0, _INDENT))
    for part, width in zip(shown, widths, strict=True):
        grid.add_column(width=width, overflow="fold", justify="right" if part.column.right else "left")
    grid.add_row(*cells)
    return grid

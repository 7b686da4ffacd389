"""Columns of tables, and how they give way where the width is too small."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `is_key` names the row and is never cut, `stays` is left out only beside a key that is too long.

    The others are left out by how `dispensable` they are, then from the last to the first. A cell of a column that
    `wraps` may take several lines.
    """

    name: str
    is_key: bool = False
    stays: bool = False
    dispensable: int = 0
    wraps: bool = False
    right: bool = False

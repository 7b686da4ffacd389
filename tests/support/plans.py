"""The plans that Postgres ran for a query, those inside its functions too, and the loops that it chose blindly."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

MANY = 1000
FEW = 10


@dataclass(frozen=True, slots=True)
class Loop:
    """A nested loop over more rows than the planner took them for: its outer node, the rows, and the statement."""

    node: str
    rows: int
    expected: int
    statement: str

    def __str__(self) -> str:
        """Return the loop in a line and the head of its statement."""
        return f"a nested loop over {self.rows:,} rows of {self.node}, taken for {self.expected:,}, in: {self.statement[:200]}"


def explain_everything(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """Return the list to which each plan is added as it ends; a superuser may ask for that."""
    plans: list[dict[str, Any]] = []
    connection.execute("load 'auto_explain'")
    for setting in (
        # A function of one row may run 60,000 statements; a loop over a thousand rows takes longer.
        "log_min_duration = '1ms'",
        "log_nested_statements = on",
        "log_analyze = on",
        "log_timing = off",
        "log_format = json",
        "log_level = notice",
    ):
        connection.execute(f"set auto_explain.{setting}")

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        head, _, document = (diagnostic.message_primary or "").partition("plan:\n")
        if head.startswith("duration:"):
            plans.append(json.loads(document) | {"Context": diagnostic.context or ""})

    connection.add_notice_handler(note)
    return plans


def blind_loops(plan: dict[str, Any]) -> list[Loop]:
    """Return the nested loops of a plan whose outer side was taken for one row and had many, or that compared millions of pairs."""
    loops: list[Loop] = []
    for node in _nodes(plan["Plan"]):
        if node["Node Type"] == "Nested Loop":
            outer, inner = (child for child in node["Plans"] if child["Parent Relationship"] in {"Outer", "Inner"})
            rows = outer["Actual Rows"]
            is_blind = outer["Plan Rows"] <= 1 and rows > MANY and not _is_of_the_row(inner)
            if is_blind or node.get("Rows Removed by Join Filter", 0) > MANY * MANY:
                # The text of a function "begin atomic" is empty.
                statement = " ".join(str(plan["Query Text"]).split()) or plan["Context"].partition("\n")[0]
                loops.append(Loop(_named(outer), int(rows), int(outer["Plan Rows"]), statement))
    return loops


def _is_of_the_row(inner: dict[str, Any]) -> bool:
    """Whether the inner side reads nothing stored and gives a few rows, as the labels of the outer row: only a loop can."""
    return inner["Actual Rows"] <= FEW and not any(
        "Relation Name" in node or "CTE Name" in node or node.get("Rows Removed by Filter", 0) > FEW
        for node in _nodes(inner)
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _nodes(child)


def _named(node: dict[str, Any]) -> str:
    names = (node.get(key) for key in ("Relation Name", "Function Name", "CTE Name", "Alias"))
    return " ".join(filter(None, [str(node["Node Type"]), *map(str, filter(None, names))]))

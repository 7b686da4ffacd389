"""Drafts what brings the rows of the seeds from one database into another, and leaves alone what a user has changed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from .sql_statements import Statement

FILLED = re.compile(r"insert into (\w+)\.(\w+) \(([^)]+)\)")
Row = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Seed:
    """The columns of a table that a statement of `sql/seeds/` fills."""

    schema: str
    table: str
    columns: list[str]

    @classmethod
    def filled_by(cls, statement: Statement) -> "Seed":
        """Return what an `insert` with a list of columns fills."""
        found = FILLED.match(statement.sql)
        if found is None:
            raise ValueError(f"an insert without a list of columns: {statement.sql[:60]}")
        return cls(found[1], found[2], [column.strip() for column in found[3].split(",")])

    def rows(self, connection: psycopg.Connection) -> dict[tuple[str | None, ...], Row]:
        """Return the rows, with each value as text, by their primary keys."""
        key = self.key(connection)
        query = sql.SQL("select {} from {} order by {}").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in (*key, *self.columns)),
            sql.Identifier(self.schema, self.table),
            sql.SQL(", ").join(map(sql.Identifier, key)),
        )
        rows = connection.execute(query).fetchall()
        return {row[: len(key)]: dict(zip(self.columns, row[len(key) :], strict=True)) for row in rows}

    def key(self, connection: psycopg.Connection) -> list[str]:
        """Return the columns of the primary key."""
        rows = connection.execute(
            "select attribute.attname from pg_catalog.pg_index as key"
            " join pg_catalog.pg_attribute as attribute"
            "   on attribute.attrelid = key.indrelid and attribute.attnum = any (key.indkey)"
            " where key.indisprimary and key.indrelid = to_regclass(%s)"
            " order by array_position(key.indkey::int2[], attribute.attnum)",
            [f"{self.schema}.{self.table}"],
        ).fetchall()
        return [str(name) for (name,) in rows]


def changed_rows(
    described: psycopg.Connection, migrated: psycopg.Connection, seeds: Sequence[Seed]
) -> tuple[list[str], list[str]]:
    """Return the statements that bring the described rows into the migrated database, and what they leave to a person."""
    statements, notes = [], []
    for seed in seeds:
        try:
            ours, theirs = seed.rows(described), seed.rows(migrated)
        except psycopg.Error as error:
            notes.append(f"rows of {seed.schema}.{seed.table}: {str(error).splitlines()[0]}")
            continue
        if new := [row for key, row in ours.items() if key not in theirs]:
            statements.append(inserted(seed, new))
        names = seed.key(described)
        statements.extend(
            updated(seed, dict(zip(names, key, strict=True)), row, theirs[key])
            for key, row in ours.items()
            if key in theirs and row != theirs[key]
        )
        notes.extend(
            f"row {', '.join(map(str, key))} of {seed.schema}.{seed.table}: it is gone from the seeds, and users may have come to rely on it"
            for key in theirs
            if key not in ours
        )
    return statements, notes


def inserted(seed: Seed, rows: Sequence[Row]) -> str:
    """Insert rows where a user has none of that name; objectives only where a user has neither removed nor renamed one so."""
    if (seed.schema, seed.table) == ("ops", "slos"):
        return "\n\n".join(inserted_slo(seed, row) for row in rows)
    values = ",\n".join(f"  ({', '.join(map(literal, row.values()))})" for row in rows)
    columns = ", ".join(seed.columns)
    return f"insert into {seed.schema}.{seed.table} ({columns})\nvalues\n{values}\non conflict do nothing;"


def inserted_slo(seed: Seed, row: Row) -> str:
    """Insert an objective unless it stands, or was removed or renamed by a user."""
    values = ", ".join(map(literal, row.values()))
    return (
        f"insert into ops.slos ({', '.join(seed.columns)})\nselect {values}\n"
        f"where {literal(row['slo_name'])} not in (\n"
        "  select coalesce(gone.previous_name, gone.slo_name) from ops.slo_changes as gone\n"
        "  where gone.change in ('removed', 'renamed')\n"
        ")\non conflict do nothing;"
    )


def updated(seed: Seed, key: Row, new: Row, old: Row) -> str:
    """Update the columns that differ, where a user has left them as they were."""
    differing = [column for column in new if new[column] != old[column]]
    changes = ",\n".join(f"  {column} = {literal(new[column])}" for column in differing)
    conditions = "\n  and ".join(
        [f"{column} = {literal(value)}" for column, value in key.items()]
        + [f"{column} is not distinct from {literal(old[column])}" for column in differing]
    )
    return f"update {seed.schema}.{seed.table}\nset\n{changes}\nwhere {conditions};"


def literal(value: str | None) -> str:
    """Return a value as SQL."""
    return "null" if value is None else "'" + value.replace("'", "''") + "'"

"""Objectives that are listed, removed, enabled and disabled by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

from opskpi.openslo.applying import Change


@dataclass(frozen=True, slots=True)
class Listed:
    """An objective that stands or has a history.

    `state` is enabled, disabled or removed, `since` and `author` say when and by whom (None: nobody changed that),
    `bundle` is the one whose files made it, `version` the newest (None: it was never enabled), and `counted_since` the
    first instant with all its events (None: none is missing).
    """

    slo_name: str
    service: str
    state: str
    since: datetime | None
    author: str | None
    bundle: str | None
    version: int | None
    counted_since: datetime | None


@dataclass(frozen=True, slots=True)
class Deleted:
    """An objective that was removed with its own `rules`, and how much of it stays (counts)."""

    slo_name: str
    rules: list[str]
    versions: int
    exclusions: int
    open_alerts: int
    bundle: str | None


def listed(connection: psycopg.Connection, *, everything: bool) -> list[Listed]:
    """The enabled objectives by name; with `everything` the disabled and the removed ones after them."""
    with connection.cursor(row_factory=class_row(Listed)) as cursor:
        return cursor.execute(
            "select slo_name, service, state, since, author, bundle, version, counted_since from ops.slo_list()"
            " where state = 'enabled' or %s",
            [everything],
        ).fetchall()


def delete(
    connection: psycopg.Connection, names: Sequence[str], author: str, *, dry_run: bool = False
) -> list[Deleted]:
    """Remove objectives, all or none; `dry_run` finds out what would go.

    Raises psycopg.Error (OP001) for an unknown one.
    """
    with connection.transaction(force_rollback=dry_run), connection.cursor(row_factory=class_row(Deleted)) as cursor:
        return cursor.execute(
            "select slo_name, rules, versions, exclusions, open_alerts, bundle"
            " from ops.delete_slos(slo_names => %s, author => %s)",
            [list(names), author],
        ).fetchall()


def enable(connection: psycopg.Connection, names: Sequence[str], author: str, *, is_enabled: bool) -> list[Change]:
    """Enable or disable objectives, all or none. Raises psycopg.Error (OP001) for an unknown one."""
    with connection.transaction(), connection.cursor(row_factory=class_row(Change)) as cursor:
        return cursor.execute(
            "select kind, name, change, differences"
            " from ops.enable_slos(slo_names => %s, is_enabled => %s, author => %s)",
            [list(names), is_enabled, author],
        ).fetchall()

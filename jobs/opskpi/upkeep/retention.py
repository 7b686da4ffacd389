"""How old the data gets: the rules, what they would remove, and removing it, a transaction a piece."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import LiteralString

import psycopg
from psycopg.rows import class_row, scalar_row

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.postgres import room
from opskpi.postgres.journal import journalled

KINDS = ("events", "hours", "kpis", "alerts")
FOREVER, DEFAULT = "forever", "default"
# Not what Postgres reads as an interval: there 3m is three minutes.
AGE = re.compile(r"([1-9]\d{0,4}) ?(d|days?|w|weeks?|mo|months?|y|years?)", re.ASCII)
UNITS = {"d": "days", "w": "weeks", "m": "months", "y": "years"}


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of `ops.retention_rules`; an empty event type is each without a rule of its own, no age is for ever."""

    kept: str
    event_type: str
    age: str | None


@dataclass(frozen=True, slots=True)
class Month:
    """A row of `ops.stored_months`: `events` is None where only a scan could tell, `bytes` in the default partition."""

    name: str
    month_start: datetime
    month_end: datetime
    event_types: list[str]
    events: int | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Removal:
    """A thing that is removed or would be.

    `action` is drop for a partition and delete for rows, `removed` counts events or rows (None where only a scan could
    tell), `bytes` went back to the disk, `obstacle` says what keeps a partition, or the rest of the rows.
    """

    kept: str
    action: str
    name: str
    event_type: str | None
    since: datetime | None
    until: datetime | None
    removed: int | None
    bytes: int | None
    obstacle: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """What one call of `ops.retain` did."""

    state: str
    kept: str | None
    action: str | None
    name: str | None
    event_type: str | None
    since: datetime | None
    until: datetime | None
    removed: int | None
    bytes: int | None
    message: str | None


@dataclass(slots=True)
class Outcome:
    """What a run freed, and what was in the way of the rest; the next run tries that again."""

    freed: list[Removal] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)

    def has_dropped(self) -> bool:
        """Whether a month is gone from the disk."""
        return any(removal.action == "drop" for removal in self.freed)


def rules(connection: psycopg.Connection) -> list[Rule]:
    """The rules there are; what has none is kept for ever."""
    with connection.cursor(row_factory=class_row(Rule)) as cursor:
        return cursor.execute(
            "select kept, event_type, age::text from ops.retention_rules"
            " order by array_position(array['events', 'hours', 'kpis', 'alerts'], kept), event_type"
        ).fetchall()


def months(connection: psycopg.Connection) -> list[Month]:
    """The months that have events, oldest first."""
    with connection.cursor(row_factory=class_row(Month)) as cursor:
        return cursor.execute(
            "select name, month_start, month_end, event_types, events, bytes from ops.stored_months()"
        ).fetchall()


def set_rule(connection: psycopg.Connection, kept: str, age: str, event_type: str) -> None:
    """Make the rule say AGE: 90d, 8w, 13mo, 2y, forever, or default to take it back.

    Raises OpsKpiError for an age that is none or is out of bounds, and for a kind of event that does not exist.
    """
    if age == DEFAULT:
        connection.execute("select ops.unset_retention(kept => %s, event_type => %s)", [kept, event_type])
        return
    rule = [kept, parsed_age(age), event_type]
    setting: LiteralString = "select ops.set_retention(kept => %s, age => %s::interval, event_type => %s)"
    try:
        connection.execute(setting, rule)
    except psycopg.errors.DiskFull:
        # The way out of a full disk begins with a rule.
        room.give_back(connection, with_events=True)
        connection.execute(setting, rule)


def parsed_age(text: str) -> str | None:
    """The age as an interval of Postgres, None for ever. Raises OpsKpiError when it is none."""
    if text == FOREVER:
        return None
    found = AGE.fullmatch(text)
    if not found:
        raise OpsKpiError(f"{text!r} is no age", "Write 90d, 8w, 13mo, 2y, forever or default.", ExitCode.BAD_ARGUMENT)
    return f"{found[1]} {UNITS[found[2][0]]}"


def plan(connection: psycopg.Connection, as_of: datetime | str = "now") -> list[Removal]:
    """What a run would remove, oldest first; nothing is changed."""
    with connection.cursor(row_factory=class_row(Removal)) as cursor:
        return cursor.execute(
            "select kept, action, name, event_type, since, until, removed, bytes, obstacle"
            " from ops.retention_plan(as_of => %s)",
            [as_of],
        ).fetchall()


def run(
    connection: psycopg.Connection,
    on_progress: Callable[[int], None] = lambda _: None,
    as_of: datetime | str | None = None,
) -> Outcome:
    """Remove what is older than its rule allows, a transaction a piece; `on_progress` gets the rows removed so far.

    Whatever ends it, what is left is whole, and the next run goes on. A failure is written to the journal of the jobs
    and raised as OpsKpiError; what earlier pieces freed stays freed.
    """
    outcome, removed = Outcome(), 0
    skipped: list[str] = []
    with journalled(connection, "retention"):
        with connection.cursor(row_factory=scalar_row) as cursor:
            (started_at,) = cursor.execute("select clock_timestamp()").fetchall()
        while True:
            step = _retain_once(connection, as_of or started_at, started_at, skipped)
            if step.state == "freed":
                _add(outcome.freed, step)
                removed += step.removed or 0
                on_progress(removed)
            elif step.state == "blocked":
                skipped.append(step.name or "")
                outcome.obstacles.append(f"{step.message}" if step.name == "events" else f"{step.name}: {step.message}")
            else:
                if step.message:
                    outcome.obstacles.append(step.message)
                return outcome


def drop_counted(connection: psycopg.Connection) -> Outcome:
    """On a full disk: remove what is too old as soon as there is a month whose partition can be dropped.

    A failure is left to the step that removes what is too old in any case.
    """
    with suppress(OpsKpiError, psycopg.errors.DiskFull), connection.cursor(row_factory=scalar_row) as cursor:
        if cursor.execute("select ops.can_drop_month()").fetchone():
            return run(connection)
    return Outcome()


def in_words(removal: Removal) -> str:
    """One line about what was removed or would be."""
    count = "an unknown number of" if removal.removed is None else f"{removal.removed:,}"
    if removal.action == "drop":
        size = f", {removal.bytes / 1_000_000:,.1f} MB" if removal.bytes is not None else ""
        text = f"{removal.name}: the whole month, {count} events{size}"
    elif removal.kept == "events":
        text = f"{removal.name}: {count} events of type {removal.event_type}"
    elif removal.kept == "alerts":
        text = f"{removal.name}: {count} rows"
    else:
        text = f"periods of one {removal.name}: {count} rows"
    if removal.until and removal.action != "drop":
        text += f", before {removal.until:%Y-%m-%d %H:%M} UTC"
    if removal.obstacle:
        text += f"; {'not now' if removal.action == 'drop' else 'the rest not now'}: {removal.obstacle}"
    return text


def outcome_in_words(outcome: Outcome) -> list[str]:
    """A line a thing that was removed, and one a thing in the way."""
    lines = [f"{removal.action:<6} {in_words(removal)}" for removal in outcome.freed]
    return lines + [f"later: {obstacle}" for obstacle in outcome.obstacles]


def _retain_once(
    connection: psycopg.Connection, as_of: datetime | str, started_at: datetime, skipped: list[str]
) -> Step:
    with connection.cursor(row_factory=class_row(Step)) as cursor:
        step = cursor.execute(
            "select state, kept, action, name, event_type, since, until, removed, bytes, message"
            " from ops.retain(as_of => %s, started_at => %s, skipped => %s::text[])",
            [as_of, started_at, skipped],
        ).fetchone()
    if step is None:
        raise OpsKpiError("the retention gave no report")
    return step


def _add(freed: list[Removal], step: Step) -> None:
    """Add a step to what the run freed; the steps of one thing follow each other and are one entry."""
    last = freed[-1] if freed else None
    since, removed = step.since, step.removed
    if last and (last.kept, last.name, last.event_type) == (step.kept, step.name, step.event_type):
        freed.pop()
        since = min((at for at in (last.since, since) if at), default=None)
        removed = (last.removed or 0) + (removed or 0)
    freed.append(
        Removal(
            step.kept or "",
            step.action or "",
            step.name or "",
            step.event_type,
            since,
            step.until,
            removed,
            step.bytes,
            None,
        )
    )

"""Brings rollups, KPIs and SLIs up to date: calls `ops.refresh` until nothing is left to count."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import class_row, scalar_row

from opskpi.errors import OpsKpiError
from opskpi.postgres import room
from opskpi.postgres.journal import journalled

MAX_WAIT = timedelta(seconds=5)
# Events of a pass. The first one ever is small, and a pass that the disk has no room for is followed by smaller ones.
LARGE_PASS, SMALL_PASS, LEAST_PASS = 200_000, 2_000, 200
# A batch of 200,000 events is halved down to one by the 18th cancelled pass, which is then tried three more times.
MOST_CANCELLED = 25


@dataclass(frozen=True, slots=True)
class Report:
    """What one call of `ops.refresh` did; rows are KPI rows, `behind` is in ids."""

    state: str
    events: int
    cursor_id: int | None
    behind: int | None
    hour_rows: int | None
    day_rows: int | None
    week_rows: int | None
    month_rows: int | None
    message: str | None


@dataclass(frozen=True, slots=True)
class StoredRange:
    """The part of a range that holds something to rebuild."""

    first_at: datetime
    end_at: datetime


@dataclass(slots=True)
class Totals:
    """What a run did in all: events counted, KPI rows written by period, the last state and what there is to say."""

    state: str
    events: int
    rows: dict[str, int]
    message: str | None


def refresh(
    connection: psycopg.Connection,
    on_progress: Callable[[int, int], None] = lambda *_: None,
    on_full: Callable[[], bool] = lambda: False,
) -> Totals:
    """Count every committed event that is not counted yet, a transaction a batch.

    `on_progress` gets the events counted so far and the ids still ahead, after each batch. A failure is written to the
    journal of the jobs and raised as OpsKpiError; what earlier batches counted stays counted. After a statement timeout
    the next pass takes half as many events, down to one, which the database sets aside. After one that found the disk
    full, what it left is given back to the disk and the next passes are as small as can be; `on_full` is called after
    each of these, to remove what is counted by then, and says whether that made room.
    """
    totals = Totals("more", 0, {"hour": 0, "day": 0, "week": 0, "month": 0}, None)
    cancelled, is_full, is_prepared = 0, room.is_short(connection), room.is_prepared(connection)
    most = LEAST_PASS if is_full else LARGE_PASS if is_prepared else SMALL_PASS
    while totals.state == "more":
        try:
            report = _refresh_once(connection, most)
        except OpsKpiError as failure:
            if isinstance(failure.__cause__, psycopg.errors.DiskFull) and most > LEAST_PASS:
                room.give_back(connection, with_events=not is_full)
                most, is_full = LEAST_PASS, True
                continue
            cancelled += 1
            if not isinstance(failure.__cause__, psycopg.errors.QueryCanceled) or cancelled >= MOST_CANCELLED:
                raise
            continue
        cancelled = 0
        totals.state, totals.message = report.state, "; ".join(filter(None, [totals.message, report.message])) or None
        totals.events += report.events or 0
        for period in totals.rows:
            totals.rows[period] += getattr(report, f"{period}_rows") or 0
        on_progress(totals.events, report.behind or 0)
        if is_full and on_full():
            most = SMALL_PASS
        elif not is_full and not is_prepared and totals.state == "more":
            room.prepare(connection)
            is_prepared, most = True, LARGE_PASS
    return totals


def maintain(connection: psycopg.Connection) -> int:
    """Make the partitions that are due and forget old job runs; returns how many partitions were made."""
    with journalled(connection, "maintain"), connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute("select ops.maintain()").fetchone() or 0


def rebuild(
    connection: psycopg.Connection,
    since: datetime,
    until: datetime,
    on_progress: Callable[[datetime], None] = lambda _: None,
) -> int:
    """Recompute what the half-open range [since, until) touches, a transaction a month.

    Returns how many events and audits it read. `on_progress` gets the instant up to which it is done.
    Raises OpsKpiError when the range is empty.
    """
    stored = stored_range(connection, since, until)
    if stored is None:
        return 0
    read, step_start = 0, stored.first_at
    while step_start < stored.end_at:
        month_end = (step_start.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(
            day=1
        )
        step_end = min(stored.end_at, month_end)
        with journalled(connection, "rebuild"), connection.cursor(row_factory=scalar_row) as cursor:
            # Units of work are counted whole, so once is enough.
            read += (
                cursor.execute(
                    "select ops.rebuild(since => %s, until => %s, recount_units => %s)",
                    [step_start, step_end, step_end == stored.end_at],
                ).fetchone()
                or 0
            )
        on_progress(step_end)
        step_start = step_end
    return read


def stored_range(
    connection: psycopg.Connection, since: datetime | str = "-infinity", until: datetime | str = "infinity"
) -> StoredRange | None:
    """The part of [since, until) for which there are events, audits or rollups; None when there is none."""
    with connection.cursor(row_factory=class_row(StoredRange)) as cursor:
        return cursor.execute(
            "select first_at, end_at from ops.stored_range(since => %s, until => %s)", [since, until]
        ).fetchone()


def in_words(totals: Totals, rows: dict[str, int]) -> str:
    """What a run did, in one line; `rows` are the KPI rows to report, by period."""
    if totals.state == "busy":
        return "another refresh is running, nothing to do"
    written = ", ".join(f"{count:,} {period}" for period, count in rows.items())
    return f"{totals.events:,} events counted, KPI rows written: {written}" + (
        f"; {totals.message}" if totals.message else ""
    )


def _refresh_once(connection: psycopg.Connection, max_ids: int) -> Report:
    with journalled(connection, "refresh"), connection.cursor(row_factory=class_row(Report)) as cursor:
        report = cursor.execute(
            "select state, events, cursor_id, behind, hour_rows, day_rows, week_rows, month_rows, message"
            " from ops.refresh(max_wait => %s, max_ids => %s)",
            [MAX_WAIT, max_ids],
        ).fetchone()
    if report is None:
        raise OpsKpiError("the refresh gave no report")
    return report

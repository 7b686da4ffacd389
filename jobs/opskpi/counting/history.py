"""The history of new objectives, counted from the stored events."""

from collections.abc import Callable
from datetime import timedelta

import psycopg
from psycopg.rows import scalar_row

from opskpi.counting.refresh import stored_range


def fill(connection: psycopg.Connection, on_progress: Callable[[int, int], None] = lambda *_: None) -> None:
    """Give new objectives their history from the stored events, a transaction a month; a killed run goes on.

    `on_progress` gets the days done and all days.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        (unfilled,) = cursor.execute("select exists (select from ops.slis where filled_until < 'infinity')").fetchall()
        found = stored_range(connection) if unfilled else None
        if found:
            days = max((found.end_at - found.first_at).days, 1)
            step_end = found.first_at
            while step_end < found.end_at:
                step_end = min(step_end + timedelta(days=30), found.end_at)
                cursor.execute("select ops.fill_slis(until => %s)", [step_end])
                on_progress((step_end - found.first_at).days, days)
        if unfilled:
            cursor.execute("select ops.fill_slis()")

"""From where on a repository is polled: the progress that is kept, and what moves it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from opskpi.github.fields import Malformed, instant

# A run may be run again for 30 days, as another attempt that stands in the list where the first one stood.
RUN_AGAIN_WITHIN = timedelta(days=30)
SWEPT_EVERY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Collection:
    """A row of `ops.collections`: a repository that is polled, and how far it is."""

    org_id: UUID
    source: str
    resume_at: datetime
    swept_at: datetime
    entity_tag: str | None
    collected_at: datetime


def collections(connection: psycopg.Connection) -> list[Collection]:
    """The repositories that are polled, by tenant and name."""
    with connection.cursor(row_factory=class_row(Collection)) as cursor:
        return cursor.execute(
            "select org_id, source, resume_at, swept_at, entity_tag, collected_at from ops.collections order by 1, 2"
        ).fetchall()


class Resume:
    """From when on the next poll must read: the creation of the oldest run that goes on, else of the newest run."""

    def __init__(self, start: datetime, now: datetime) -> None:
        self._newest = start
        self._now = now
        self._oldest_going: datetime | None = None

    def note(self, run: object, *, is_going: bool) -> None:
        """Take a run into account, which goes on or waits for the next poll (`is_going`), or is done with."""
        try:
            created_at = instant(run, "created_at") if isinstance(run, Mapping) else None
        except Malformed:
            return
        if created_at is None:
            return
        # A time to come would have the next polls find nothing.
        created_at = min(created_at, self._now)
        self._newest = max(self._newest, created_at)
        if is_going:
            self._oldest_going = min(self._oldest_going or created_at, created_at)

    @property
    def at(self) -> datetime:
        """The instant."""
        return self._oldest_going or self._newest


def start_of(last: Collection | None, since: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """From when on to read, and when older runs were last read again."""
    a_month_ago = now - RUN_AGAIN_WITHIN
    if since is not None:
        return since, now if since <= a_month_ago else last.swept_at if last else since
    if last is None:
        return a_month_ago, now
    if now - last.swept_at >= SWEPT_EVERY:
        return min(last.resume_at, a_month_ago), now
    return last.resume_at, last.swept_at

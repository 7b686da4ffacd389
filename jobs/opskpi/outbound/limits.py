"""How long an exchange may take, and how long the other side asks to wait."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds: `connect` for an HTTP connection, `total` for a whole HTTP request or one step of SMTP.

    `sending` is for the sending of one message, whatever it consists of.
    """

    connect: float = 5
    total: float = 10
    sending: float = 25


def retry_after(header: str | None, now: datetime) -> timedelta | None:
    """The wait that a Retry-After header asks for, in seconds or as HTTP date, at least 0 and at most a day."""
    value = (header or "").strip()
    if value.isascii() and value.isdigit():
        return timedelta(seconds=int(value)) if len(value) < 6 else LONGEST_WAIT
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    wait = until.replace(tzinfo=until.tzinfo or UTC) - now
    return min(max(wait, timedelta()), LONGEST_WAIT)

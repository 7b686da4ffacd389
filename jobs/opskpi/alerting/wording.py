"""Turns single values of a message into words that people read at once; None is what cannot be said."""

import re
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, InvalidOperation

from opskpi.texts import line, scalar

COMPARISONS = {
    "gt": "above",
    "gte": "at or above",
    "ge": "at or above",
    "lt": "below",
    "lte": "at or below",
    "le": "at or below",
}
UNITS = {"percent": "%", "milliseconds": "ms"}
CLOCK_INTERVAL = re.compile(
    r"(?:(?P<days>\d+) days? ?)?(?:(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)(?:\.\d+)?)?"
)


def decimal(value: object) -> Decimal | None:
    """The finite number below 10^20 that a value says, as text or as JSON number; what is as good as 0 is 0."""
    try:
        number = Decimal(scalar(value).strip())
    except InvalidOperation:
        return None
    if not number.is_finite() or number.adjusted() >= 20:
        return None
    return number if number.adjusted() > -12 else Decimal()


def rounded(number: Decimal, *, digits: int = 3) -> str:
    """The number with at least `digits` significant digits, never fewer than its integer part has: 20.5, 31, 1,234."""
    places = max(0, digits - 1 - number.adjusted()) if number else 0
    return _plain(number.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN))


def factor(value: object) -> str | None:
    """A burn rate: 20.5x."""
    number = decimal(value)
    return None if number is None else f"{rounded(number)}x"


def percent(value: object) -> str | None:
    """A signed ratio as percent, to three digits: -780 %."""
    number = decimal(value)
    return None if number is None else f"{rounded(number * 100)} %"


def exact_percent(value: object) -> str | None:
    """A ratio as percent, cut and not rounded at five decimals, so that a missed target never looks met: 99.89999 %."""
    number = decimal(value)
    return None if number is None else f"{_plain((number * 100).quantize(Decimal('0.00001'), rounding=ROUND_FLOOR))} %"


def quantity(value: object, unit: object) -> str | None:
    """A number with its unit: 23.4 %, 812 ms."""
    number, name = decimal(value), line(unit, 40)
    if number is None:
        return None
    return f"{rounded(number, digits=4)} {UNITS.get(name, name)}" if name else rounded(number, digits=4)


def change(value: object, unit: object) -> str | None:
    """How much a value differs from the one before: +1.5 points, -20 %, unchanged."""
    number, name = decimal(value), {"points": "points", "percent": "%"}.get(scalar(unit))
    if number is None or name is None:
        return None
    return f"{'+' * (number > 0)}{rounded(number)} {name}" if number else "unchanged"


def count(value: object) -> str | None:
    """A whole number: 1,000."""
    number = decimal(value)
    return None if number is None else f"{number:,.0f}"


def duration(value: object) -> str | None:
    """An interval as Postgres writes it, in words: `1 day 02:00:00` is 1 day 2 hours."""
    text = line(value, 60)
    match = CLOCK_INTERVAL.fullmatch(text) if text else None
    if match is None:
        return text
    parts = ((int(amount), name) for name, amount in match.groupdict(default="0").items())
    return " ".join(f"{amount} {name if amount != 1 else name[:-1]}" for amount, name in parts if amount) or "0 seconds"


def instant(value: object) -> str | None:
    """An ISO 8601 instant in UTC: 2026-11-21 10:00 UTC."""
    moment = _moment(value)
    return line(value, 60) if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"


def lapse(since: object, until: object) -> str | None:
    """The time between two ISO 8601 instants, in its two largest units: 1 hour 12 minutes."""
    begin, end = _moment(since), _moment(until)
    if begin is None or end is None or end < begin:
        return None
    minutes = int((end - begin).total_seconds()) // 60
    amounts = ((minutes // 1440, "day"), (minutes // 60 % 24, "hour"), (minutes % 60, "minute"))
    words = [f"{amount} {name}{'s' * (amount != 1)}" for amount, name in amounts if amount]
    return " ".join(words[:2]) or "less than a minute"


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(scalar(value))
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _plain(number: Decimal) -> str:
    text = f"{number:,f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text

"""Numbers and instants as people read them: never without their unit."""

from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

from opskpi.dashboard.view import local

Number = Decimal | int | float
NOTHING = "–"  # noqa: RUF001 - a dash as tables have it
DURATIONS = ((Decimal(86_400_000), "d"), (Decimal(3_600_000), "h"), (Decimal(60_000), "min"), (Decimal(1000), "s"))
SIZES = ((Decimal(10**12), "TB"), (Decimal(10**9), "GB"), (Decimal(10**6), "MB"), (Decimal(10**3), "kB"))
ACRONYMS = {"p95": "P95", "avg": "average", "sha256": "SHA-256", "api": "API", "slo": "SLO", "slsa": "SLSA"}
UNITS_IN_NAMES = ("_ms", "_bytes", "_total")


def in_unit(value: Number | None, unit: str) -> str:
    """A value with its unit: 99.59 %, 1.9 s, 31.8 MB, 3,680."""
    if value is None:
        return NOTHING
    exact = Decimal(value)
    match unit:
        case "percent":
            return f"{_rounded(exact, 2)} %"
        case "points":
            return f"{_signed(exact, 2)} points"
        case "ms":
            return _scaled(exact, DURATIONS, "ms")
        case "bytes":
            return _scaled(exact, SIZES, "B")
        case _:
            return count(exact)


def count(value: Number | None) -> str:
    """A whole number with thousands separated."""
    return NOTHING if value is None else f"{int(value):,}"


def ratio(value: Number | None, digits: int = 2) -> str:
    """A ratio as percent."""
    return NOTHING if value is None else f"{_rounded(Decimal(value) * 100, digits)} %"


def burn_rate(value: Number | None) -> str:
    """A burn rate: how many times the sustainable rate."""
    return NOTHING if value is None else f"{_rounded(Decimal(value), 2)} ×"  # noqa: RUF001


def duration(value: timedelta | None) -> str:
    """A length of time in its largest unit."""
    return NOTHING if value is None else in_unit(Decimal(value / timedelta(milliseconds=1)), "ms")


def change(settled: Number | None, previous: Number | None, unit: str) -> str:
    """How a value differs from the one before: in points where it is percent, else in percent of it."""
    if settled is None or previous is None:
        return ""
    now, before = Decimal(settled), Decimal(previous)
    if unit == "percent":
        return in_unit(now - before, "points")
    return "" if before == 0 else f"{_signed(100 * (now - before) / before, 1)} %"


def name_of(metric: str) -> str:
    """The name of a KPI or objective for people; its unit is said with its value."""
    for ending in UNITS_IN_NAMES:
        metric = metric.removesuffix(ending)
    words = [ACRONYMS.get(word, word) for word in metric.split("_")]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def instant(value: datetime | None, zone: str) -> str:
    """An instant to the second, on the clocks of the zone, which is named."""
    if value is None:
        return NOTHING
    at = local(value, zone)
    return f"{at:%Y-%m-%d %H:%M:%S} {zone}" if at.second else f"{at:%Y-%m-%d %H:%M} {zone}"


def period_name(start: datetime, period: str, zone: str) -> str:
    """What a period is called: 2026-01-31 14:00, 2026-01-31, week of 2026-01-26, 2026-01.

    `zone` is the one that periods follow for days and longer, since a day elsewhere is another day.
    """
    at = local(start, zone)
    match period:
        case "hour":
            return f"{at:%Y-%m-%d %H:%M}"
        case "week":
            return f"week of {at:%Y-%m-%d}"
        case "month":
            return f"{at:%Y-%m}"
        case _:
            return f"{at:%Y-%m-%d}"


def tick_name(start: datetime, period: str, zone: str) -> str:
    """The same, short, for an axis."""
    at = local(start, zone)
    return f"{at:%H:%M}" if period == "hour" else f"{at:%b %Y}" if period == "month" else f"{at:%d %b}"


def _rounded(value: Decimal, digits: int) -> str:
    # Adding zero takes the sign from what was rounded to none.
    rounded = value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN) + 0
    text = f"{rounded:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _signed(value: Decimal, digits: int) -> str:
    text = _rounded(value, digits)
    return text if text.startswith("-") or text == "0" else f"+{text}"


def _scaled(value: Decimal, steps: tuple[tuple[Decimal, str], ...], smallest: str) -> str:
    for size, unit in steps:
        if abs(value) >= size:
            return f"{_rounded(value / size, 2)} {unit}"
    return f"{_rounded(value, 2)} {smallest}"

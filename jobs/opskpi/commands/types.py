"""What arguments of the command line may be: instants, lengths of time, ages."""

import re
from datetime import UTC, datetime, timedelta

import click

INSTANT = click.DateTime(
    ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S%z"]
)
UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class Duration(click.ParamType):
    """A whole number of hours, days or weeks: 12h, 90d, 4w."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The length of time that a text names."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([1-9]\d{0,4})([hdw])", str(value))
        if found is None:
            self.fail(f"{value!r} is no length of time; write 12h, 90d or 4w", param, ctx)
        return int(found[1]) * UNITS[found[2]]


class InstantOrAge(click.ParamType):
    """An instant such as 2026-01-01, or an age such as 90d: the instant that long ago."""

    name = "instant or age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The instant that a text names."""
        if isinstance(value, datetime):
            return value
        if str(value)[-1:] in {"h", "d", "w"}:
            age: timedelta = Duration().convert(value, param, ctx)
            return datetime.now(UTC) - age
        found: datetime = INSTANT.convert(value, param, ctx)
        try:
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        except OverflowError:
            self.fail(f"{value!r} is beyond the calendar", param, ctx)

"""Instants and ranges as people give them: UTC where no zone is named, half-open, never empty."""

from datetime import UTC, datetime, timedelta

from opskpi.errors import ExitCode, OpsKpiError


def with_zone(instant: datetime) -> datetime:
    """The instant in UTC where it names no zone."""
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def days_before(until: datetime, days: int) -> datetime:
    """The instant so many days earlier. Raises OpsKpiError where the calendar ends."""
    try:
        return until - timedelta(days=days)
    except OverflowError:
        raise OpsKpiError(
            f"there is no day {days} days before {until}", "Pass a later --until.", ExitCode.BAD_ARGUMENT
        ) from None


def parse_range(since: datetime, until: datetime) -> tuple[datetime, datetime]:
    """Both ends with a zone. Raises OpsKpiError when nothing lies between them."""
    since, until = with_zone(since), with_zone(until)
    if since >= until:
        raise OpsKpiError(
            f"the range is empty: {since} to {until}", "Pass --since before --until.", ExitCode.BAD_ARGUMENT
        )
    return since, until

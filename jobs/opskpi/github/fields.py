"""Fields of GitHub's JSON, each read as what it should be or refused by name."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

LONGEST_TEXT = 300
LARGEST_NUMBER = 10**18 - 1
UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")

Json = Mapping[str, Any]


class Malformed(ValueError):  # noqa: N818
    """A fault that GitHub would not have sent: the field at fault, empty for the whole, and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}".strip())
        self.field = field
        self.reason = reason


def mapping(value: object) -> Json:
    """The JSON object. Raises Malformed for anything else."""
    if not isinstance(value, Mapping):
        raise Malformed("", "is not a JSON object")
    return value


def text(described: Json, key: str) -> str | None:
    """A text as it can be stored, at most LONGEST_TEXT characters; None when there is none. Raises Malformed."""
    value = described.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Malformed(key, "must be a text")
    return UNSTORABLE.sub("\ufffd", value).strip()[:LONGEST_TEXT] or None


def whole(described: Json, key: str, *, default: int | None = None, least: int = 1) -> int:
    """A whole number from `least` to LARGEST_NUMBER. Raises Malformed when it is neither that nor has a default."""
    value = described.get(key)
    if value is None and default is not None:
        return default
    if value is None:
        raise Malformed(key, "is required")
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST_NUMBER:
        raise Malformed(key, f"must be a whole number from {least} to 10^18")
    return value


def instant(described: Json, key: str) -> datetime | None:
    """An instant in UTC; None when there is none. Raises Malformed for what is none, or names no time zone."""
    value = described.get(key)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Malformed(key, "must be a time such as 2026-01-31T23:59:59Z")


def required_instant(described: Json, key: str) -> datetime:
    """An instant in UTC. Raises Malformed when there is none."""
    moment = instant(described, key)
    if moment is None:
        raise Malformed(key, "is required")
    return moment

"""When to send: what makes it due, and until when an earlier answer said to wait."""

from opskpi.hooks import events, plain_json, settings
from opskpi.hooks.storage import Folder

# What the sender remembers; `state` writes it.
STATE = "telemetry-state.json"
LONGEST_FILE = 1 << 18
DUE_EVENTS = 100
DUE_S, HOUR_S, DAY_S = 300, 3600, 86400


def remembered(folder: Folder) -> "dict[str, object]":
    """The state of the sender as it was written; empty before the first request, and where it cannot be read."""
    try:
        return plain_json.read_object(folder.read(STATE, LONGEST_FILE))
    except OSError:
        return {}


def is_due(state: "dict[str, object]", length: int, oldest: str, now: float) -> bool:
    """Whether to send: 100 events are queued, or the oldest event or the last try is 5 minutes old.

    `length` counts the queued events, `oldest` is the stamp of the oldest one, empty when none is queued.
    """
    is_old = bool(oldest) and oldest < events.now_stamp(now - DUE_S)
    return length >= DUE_EVENTS or is_old or not is_within(state.get("last_try_at"), now, DUE_S)


def must_wait(state: "dict[str, object]", chosen: "dict[str, object]", now: float) -> bool:
    """Whether an earlier answer, or none, said not to try before a later instant than `now`."""
    if lies_ahead(state.get("next_try_at"), now, DUE_S) or lies_ahead(state.get("not_before"), now, DAY_S):
        return True
    pause = state.get("pause")
    return isinstance(pause, dict) and holds(pause, chosen, now)


def holds(pause: "dict[str, object]", chosen: "dict[str, object]", now: float) -> bool:
    """Whether a pause is not over: other settings or another key end it, and an hour does."""
    return lies_ahead(pause.get("until"), now, HOUR_S) and pause.get("fingerprint") == settings.fingerprint(chosen)


def lies_ahead(instant: object, now: float, longest: float) -> bool:
    """Whether an instant (seconds) is yet to come; one beyond the longest such wait is from a clock that was wrong."""
    return isinstance(instant, int | float) and now < instant <= now + longest


def is_within(instant: object, now: float, seconds: float) -> bool:
    """Whether an instant lies in the last so many seconds."""
    return isinstance(instant, int | float) and now - seconds < instant <= now

"""Finding the whole events in a queue that is truncated, corrupt, or from an older program."""

import json

from opskpi.hooks import events

# A file of nothing but opening brackets must not take minutes.
_MOST_FAILURES = 5000


def salvage(stored: bytes) -> tuple[list[dict[str, object]], dict[str, int]]:
    """The events in what is left of a queue, once each and cleaned again, and its counts of dropped ones."""
    text = stored.decode("utf-8", "replace")
    decoder = json.JSONDecoder()
    found: dict[object, dict[str, object]] = {}
    dropped: dict[str, int] = {}
    place, failures = text.find("{"), 0
    while place >= 0 and failures < _MOST_FAILURES:
        end = place + 1
        try:
            value, after = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            failures += 1
        else:
            if (event := events.restored(value)) is not None:
                metrics = event["metrics"]
                found.setdefault(metrics.get("event_id") if isinstance(metrics, dict) else len(found), event)
                end = after
            elif isinstance(value, dict):
                dropped |= _counts(value.get("dropped"))
        place = text.find("{", end)
    return sorted(found.values(), key=lambda event: str(event["timestamp"])), dropped or _counts_at_end(text)


def _counts_at_end(text: str) -> dict[str, int]:
    start = text.rfind('], "dropped": {')
    if start < 0:
        return {}
    try:
        value, _ = json.JSONDecoder().raw_decode(text, text.index("{", start))
    except ValueError:
        return {}
    return _counts(value)


def _counts(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {str(key)[:40]: count for key, count in value.items() if type(count) is int and count > 0}

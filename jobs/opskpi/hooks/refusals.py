"""Events that the other side refused, with its reasons, in `telemetry-refused.json`.

An event that was refused for the time in it, because a clock was wrong, can be sent again once its time is corrected by
what the other side's clock said; every other one is refused for good.
"""

import json
from datetime import datetime

from opskpi.hooks import events, plain_json
from opskpi.hooks.storage import Folder

NAME = "telemetry-refused.json"
MOST_EVENTS = 100
MOST_BYTES = 1 << 18
# A clock that is this wrong is the reason why the time in an event was refused.
WRONG_BY_S = 3600.0

Event = dict[str, object]


def keep(
    folder: Folder, batch: list[Event], reasons: dict[int, tuple[str, str]], now: float, date: float | None
) -> int:
    """Add the events of a batch that were refused (position → field and reason), once each; return how many are lost.

    `now` and `date` are the clocks here and there when the answer came (None: not known). Lost are those that are
    refused for good, and those that leave for want of room. Raises OSError.
    """
    kept, dropped = load(folder)
    known = {_id(event) for event in kept}
    lost = 0
    for place, (field, reason) in sorted(reasons.items()):
        event = batch[place]
        for_good = not _is_for_its_time(event, field, now, date)
        lost += for_good
        if _id(event) not in known:
            off_by = None if date is None else round(now - date)
            refusal = {"at": events.now_stamp(now), "field": field, "reason": reason}
            kept.append(event | {"refused": refusal | {"clock_off_by_s": off_by, "for_good": for_good}})
    gone = _store(folder, kept, dropped)
    return lost + sum(not is_for_good(event) for event in gone)


def load(folder: Folder) -> tuple[list[Event], int]:
    """The refused events, oldest first, and how many older ones are not kept; nothing where the file cannot be read."""
    try:
        stored = json.loads(folder.read(NAME, 4 * MOST_BYTES) or b"{}")
        kept = [event for event in stored.get("events", []) if isinstance(event, dict)]
        dropped = stored.get("dropped", 0)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return [], 0
    return kept, dropped if isinstance(dropped, int) else 0


def is_for_good(event: Event) -> bool:
    """Whether a refused event cannot be sent again."""
    return _refusal(event).get("for_good") is not False or events.restored(event) is None


def sentence(event: Event) -> str:
    """A line about a refused event: which it is, and why it was refused."""
    refusal = _refusal(event)
    where = f"{refusal['field']} " if refusal.get("field") else ""
    return f"{event.get('event')} of {event.get('timestamp')}: {where}{refusal.get('reason')}"


def corrected(event: Event, now: float) -> Event | None:
    """An event as it is sent again: its time is what the clock should have said, at most that of its refusal.

    None for an event that is refused for good.
    """
    clean, refusal = events.restored(event), _refusal(event)
    if clean is None or is_for_good(event):
        return None
    off_by = refusal.get("clock_off_by_s")
    shift = float(off_by) if isinstance(off_by, int | float) else 0.0
    latest = min(_instant(refusal.get("at"), now) - shift, now)
    metrics = clean["metrics"]
    assert isinstance(metrics, dict)  # noqa: S101 - restored makes no other
    # Its count of lost events went on with another event when this one was refused.
    kept = {key: value for key, value in metrics.items() if key != events.DROPPED}
    return clean | {
        "metrics": kept,
        "timestamp": events.now_stamp(min(_instant(event["timestamp"], now) - shift, latest)),
    }


def forget(folder: Folder, ids: set[object]) -> None:
    """Take out the events with these ids. Raises OSError."""
    kept, dropped = load(folder)
    _store(folder, [event for event in kept if _id(event) not in ids], dropped)


def _store(folder: Folder, kept: list[Event], dropped: int) -> list[Event]:
    """Write the events, and return those for which there is no room, the oldest."""
    lines = [plain_json.dumps(event) for event in kept]
    gone = 0
    while len(lines) - gone > MOST_EVENTS or sum(map(len, lines[gone:])) + 2 * len(lines) > MOST_BYTES - 100:
        gone += 1
    content = '{"events": [\n' + ",\n".join(lines[gone:]) + f'\n], "dropped": {dropped + gone}}}\n'
    folder.write(NAME, content.encode("ascii"))
    return kept[:gone]


def _is_for_its_time(event: Event, field: str, now: float, date: float | None) -> bool:
    """Whether a clock here was the reason: it is wrong now, or the event has a time that is yet to come."""
    if field != "timestamp":
        return False
    return date is None or abs(now - date) > WRONG_BY_S or _instant(event.get("timestamp"), now) > date + WRONG_BY_S


def _instant(stamp: object, otherwise: float) -> float:
    try:
        return datetime.fromisoformat(str(stamp)).timestamp()
    except (ValueError, OverflowError):
        return otherwise


def _refusal(event: Event) -> dict[str, object]:
    refusal = event.get("refused")
    return refusal if isinstance(refusal, dict) else {}


def _id(event: Event) -> object:
    metrics = event.get("metrics")
    return metrics.get("event_id") if isinstance(metrics, dict) else None


def ids_of(kept: list[Event]) -> set[object]:
    """The ids of events."""
    return {_id(event) for event in kept}

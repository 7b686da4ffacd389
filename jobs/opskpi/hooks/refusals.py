"""Events that the other side refused, with its reasons, in `telemetry-refused.json`."""

import json

from opskpi.hooks import events, plain_json
from opskpi.hooks.storage import Folder

NAME = "telemetry-refused.json"
MOST_EVENTS = 100
MOST_BYTES = 1 << 18

Event = dict[str, object]


def keep(folder: Folder, batch: list[Event], reasons: dict[int, tuple[str, str]], now: float) -> None:
    """Add the events of a batch that were refused (position → field and reason), once each. Raises OSError."""
    kept, dropped = load(folder)
    known = {_id(event) for event in kept}
    for place, (field, reason) in sorted(reasons.items()):
        if _id(batch[place]) not in known:
            refusal = {"at": events.now_stamp(now), "field": field, "reason": reason}
            kept.append(batch[place] | {"refused": refusal})
    lines = [plain_json.dumps(event) for event in kept]
    while len(lines) > MOST_EVENTS or sum(map(len, lines)) + 2 * len(lines) > MOST_BYTES - 100:
        lines.pop(0)
        dropped += 1
    content = '{"events": [\n' + ",\n".join(lines) + f'\n], "dropped": {dropped}}}\n'
    folder.write(NAME, content.encode("ascii"))


def load(folder: Folder) -> tuple[list[Event], int]:
    """The refused events, oldest first, and how many older ones are not kept; nothing where the file cannot be read."""
    try:
        stored = json.loads(folder.read(NAME, 4 * MOST_BYTES) or b"{}")
        kept = [event for event in stored.get("events", []) if isinstance(event, dict)]
        dropped = stored.get("dropped", 0)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return [], 0
    return kept, dropped if isinstance(dropped, int) else 0


def _id(event: Event) -> object:
    metrics = event.get("metrics")
    return metrics.get("event_id") if isinstance(metrics, dict) else None

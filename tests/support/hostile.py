"""Batches of events that the hub accepts, of a given size in bytes: an ordinary one, and those that cost the most to count."""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from .events import NIL

# The hub takes bodies of 1 MiB.
LARGEST = 900_000
MOST_EVENTS = 5_000
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
Event = dict[str, Any]
Make = Callable[[random.Random, int], Event]


def batch_of(make: Make, seed: int, size: int = LARGEST) -> list[Event]:
    """As many events as fit; another seed makes other words of the same length, in the same hours."""
    chance, events, left = random.Random(seed), [], size  # noqa: S311
    while len(events) < MOST_EVENTS:
        event = make(chance, len(events))
        left -= len(json.dumps(event, separators=(",", ":"))) + 1
        if left < 0:
            break
        events.append(event)
    return events


def random_word(chance: random.Random, length: int) -> str:
    return "".join(chance.choices(LETTERS, k=length))


def random_uuid(chance: random.Random) -> str:
    return str(UUID(int=chance.getrandbits(128)))


def hour_of_its_own(number: int) -> str:
    """Return an hour of its own for each of 5,000 numbers."""
    return (datetime(2000, 1, 1, tzinfo=UTC) + timedelta(hours=46 * number)).isoformat()


def nested_document(depth: int) -> object:
    return {"a": nested_document(depth - 1)} if depth else 1


def execution(number: int, **said: object) -> Event:
    payload = {"agent_id": str(UUID(int=number % 50 + 1)), "org_id": str(NIL), "hook_type": "pre-commit"}
    payload |= {"result": "blocked", "findings_summary": {}, "duration_ms": 12.5, "timestamp": "2026-03-10T10:00:00Z"}
    return {"event_type": "hook_execution", "payload": payload | said}


def run_event(event_type: str = "slsa_provenance", **said: object) -> Event:
    payload = {"outcome": "failure", "duration_ms": 1, "timestamp": "2026-03-10T10:00:00Z"}
    return {"event_type": event_type, "payload": payload | said}


def ordinary(chance: random.Random, number: int) -> Event:
    """What a team sends in an hour."""
    at = f"2026-03-10T10:{number % 60:02}:{number % 59:02}Z"
    duration = chance.uniform(1, 100_000)
    if number % 10 < 6:
        return execution(
            number,
            hook_type=chance.choice(["pre-commit", "pre-push"]),
            result=chance.choice(["allowed", "allowed", "allowed", "blocked", "overridden"]),
            findings_summary={"pattern": chance.choice(LETTERS), "total": 1},
            duration_ms=duration,
            timestamp=at,
        )
    if number % 10 < 8:
        return run_event(outcome="success", workflow="build", duration_ms=duration, tag=f"v{number}", timestamp=at)
    return run_event(
        "api_request", outcome="success", endpoint=chance.choice(LETTERS), duration_ms=duration, timestamp=at
    )


# How many hours with labels of their own a caller of the API may send at once, less those of the ordinary events beside them.
SPREAD = 100


def within_the_spread(make: Make) -> Make:
    """As many events of its own kind as a batch may have, then ordinary ones."""
    return lambda chance, number: make(chance, number) if number < SPREAD else ordinary(chance, number)


# Each costs no more than five ordinary batches of the same bytes.
BOUNDED: dict[str, Make] = {
    "patterns": lambda chance, number: execution(
        number, findings_summary={"patterns": [random_word(chance, 7) for _ in range(5200)]}
    ),
    "short patterns": lambda _, number: execution(number, findings_summary={"patterns": list(range(3000))}),
    "depth": lambda _, number: execution(number, findings_summary=nested_document(25), more=nested_document(25)),
    "width": lambda chance, number: execution(number, **{random_word(chance, 4): 1 for _ in range(2500)}),
    "long keys": lambda chance, number: execution(number, **{random_word(chance, 30_000): 1}),
    "long values": lambda chance, number: execution(number, findings_summary={"pattern": random_word(chance, 60_000)}),
    "huge numbers": lambda _, number: execution(number, duration_ms=number + 0.123456789012345, more=10**300),
    "tags": lambda chance, _: run_event(tag=random_word(chance, 8)),
    "agents": lambda chance, number: execution(number, agent_id=random_uuid(chance)),
    "bins": lambda chance, _: run_event("api_request", duration_ms=10 ** chance.uniform(0, 15)),
}
# Each event is of another hour or has labels of its own, so that counting it writes dozens of rows; no row may cost more
# than others.
ROWS_OF_ITS_OWN: dict[str, Make] = {
    "labels": lambda chance, number: execution(number, hook_type=random_word(chance, 8)),
    "endpoints": lambda chance, _: run_event("api_request", endpoint=random_word(chance, 6)),
    "hours": lambda _, number: run_event(timestamp=hour_of_its_own(number)),
    "hours of hooks": lambda _, number: execution(number, timestamp=hour_of_its_own(number)),
    "labels in hours": lambda chance, number: execution(
        number, hook_type=random_word(chance, 8), timestamp=hour_of_its_own(number)
    ),
    "endpoints in hours": lambda chance, number: run_event(
        "api_request", endpoint=random_word(chance, 6), timestamp=hour_of_its_own(number)
    ),
    "blocked in hours": lambda chance, number: execution(
        number, findings_summary={"pattern": random_word(chance, 8)}, timestamp=hour_of_its_own(number)
    ),
}

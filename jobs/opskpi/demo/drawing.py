"""When and how often things happen in the made-up month."""

import math
import uuid
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate, count
from random import Random
from typing import Any, TypedDict

ORG_ID = "00000000-0000-0000-0000-000000000000"


class Event(TypedDict):
    """An event of the batch format."""

    event_type: str
    payload: dict[str, Any]


class Story:
    """When and how often things happen; one a subject, so that a change to one leaves the others alone."""

    def __init__(self, subject: str, until: datetime, seed: int, days: int) -> None:
        self.until, self._days = until.astimezone(UTC), days
        # The time is part of the seed because an event_id must not stand for two events.
        self.chance = Random(f"{seed} {subject} {self.until.isoformat()}")  # noqa: S311 - no secret
        self._owed: dict[str, float] = defaultdict(float)
        self._numbers = count()
        incident_at = _workday(self.until - timedelta(days=11), hour=9)
        outage_at = _workday(self.until - timedelta(days=4), hour=13)
        self.incident = incident_at, incident_at + timedelta(hours=6)
        self.outage = outage_at, outage_at + timedelta(minutes=90)

    def is_incident(self, at: datetime) -> bool:
        return self.incident[0] <= at < self.incident[1]

    def is_outage(self, at: datetime) -> bool:
        return self.outage[0] <= at < self.outage[1]

    def instants(self, a_day: int, hours: Sequence[int], weekend: float) -> Iterator[datetime]:
        """Yield `a_day` instants a day on average, oldest first, by the weights of the hours."""
        starts = [self.until - timedelta(hours=ago) for ago in range(self._days * 24, 0, -1)]
        weights = [hours[start.hour] * (weekend if start.weekday() > 4 else 1) for start in starts]
        sums = list(accumulate(weights, initial=0.0))
        total = a_day * self._days
        for number in range(total):
            # One in each equal share of the weight, so that the volume of an incident hardly varies.
            point = (number + self.chance.random()) / total * sums[-1]
            hour = bisect(sums, point, hi=len(starts)) - 1
            yield starts[hour] + timedelta(hours=(point - sums[hour]) / weights[hour])

    def happens(self, what: str, share: float) -> bool:
        """Draw so that what happened stays close to its share of the draws."""
        self._owed[what] += share
        happened = self.chance.random() < self._owed[what]
        self._owed[what] -= happened
        return happened

    def around(self, median: float, sigma: float) -> int:
        return round(self.chance.lognormvariate(math.log(median), sigma))

    def minutes(self, least: float, most: float) -> timedelta:
        return timedelta(minutes=self.chance.uniform(least, most))

    def run_id(self, at: datetime) -> int:
        return int(at.timestamp()) * 1000 + next(self._numbers) % 1000

    def event(self, event_type: str, at: datetime, **payload: object) -> tuple[datetime, Event]:
        identity = {"timestamp": at.isoformat(timespec="microseconds"), "event_id": drawn_uuid(self.chance)}
        return at, {"event_type": event_type, "payload": {"org_id": ORG_ID} | payload | identity}


def drawn_uuid(chance: Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _workday(at: datetime, *, hour: int) -> datetime:
    at -= timedelta(days=max(at.weekday() - 4, 0))
    return at.replace(hour=hour, minute=0, second=0, microsecond=0)

"""What the sender remembers from one process to the next, in `telemetry-state.json`; only it writes there."""

import random
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta

from opskpi.hooks import plain_json, schedule
from opskpi.hooks.storage import Folder

REQUESTS_A_MINUTE = 10
MINUTE_S = 60.0
SHORTEST_WAIT_S, LONGEST_WAIT_S = 30, schedule.DUE_S


@dataclass(slots=True)
class State:
    """Instants are seconds since 1970.

    `pause` is {"until", "since", "reason", "fingerprint"}, `last_error` {"at", "reason"}.
    """

    requests: list[float] = field(default_factory=list)
    last_try_at: float = 0
    last_success_at: float | None = None
    last_error: dict[str, object] | None = None
    failures: int = 0
    next_try_at: float = 0
    not_before: float = 0
    pause: dict[str, object] | None = None
    policy_tried_at: float = 0
    sent: int = 0
    refused: int = 0

    def wait_for_slot(self, now: float) -> float:
        """Seconds until one more request is within ten a minute; instants ahead are from a clock that was wrong."""
        self.requests = sorted(at for at in self.requests if now - MINUTE_S < at <= now)
        if len(self.requests) < REQUESTS_A_MINUTE:
            return 0
        return self.requests[-REQUESTS_A_MINUTE] + MINUTE_S - now

    def note_request(self, now: float) -> None:
        """One request is about to be made."""
        self.requests.append(now)
        self.last_try_at = now

    def note_failure(self, now: float, reason: str, after: timedelta | None) -> None:
        """It did not go through and may later: wait longer each time, at least what was asked, never all at once."""
        self.failures = min(self.failures + 1, 20)
        wait = min(SHORTEST_WAIT_S * 2 ** (self.failures - 1), LONGEST_WAIT_S)
        self.next_try_at = now + random.uniform(wait / 2, wait)  # noqa: S311 - spreads load, guards nothing
        if after is not None:
            self.not_before = now + min(after.total_seconds(), schedule.DAY_S)
        self.last_error = {"at": now, "reason": reason}

    def note_pause(self, now: float, reason: str, fingerprint: str) -> None:
        """It will not go through until someone changes something: wait an hour, or for other settings or a new key."""
        self.pause = {"until": now + schedule.HOUR_S, "since": now, "reason": reason, "fingerprint": fingerprint}
        self.last_error = {"at": now, "reason": reason}

    def note_success(self, now: float) -> None:
        """The other side took something."""
        self.last_success_at = now
        self.failures, self.next_try_at, self.not_before, self.pause = 0, 0, 0, None


def load(folder: Folder) -> State:
    """The state as it was saved; a new one where there is none or it cannot be read."""
    kept = schedule.remembered(folder)
    state = State()
    for entry in fields(State):
        value, default = kept.get(entry.name), getattr(state, entry.name)
        numeric = isinstance(default, int | float) or entry.name == "last_success_at"
        expected = int | float if numeric else list if entry.name == "requests" else dict
        if isinstance(value, expected):
            setattr(state, entry.name, value)
    state.requests = [at for at in state.requests if isinstance(at, int | float)]
    return state


def save(folder: Folder, state: State) -> None:
    """Keep the state. Raises OSError."""
    folder.write(schedule.STATE, plain_json.dumps(asdict(state)).encode("ascii") + b"\n")


def clock() -> float:
    """Seconds since 1970."""
    return time.time()

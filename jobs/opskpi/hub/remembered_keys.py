"""The API keys that this process saw in the last minute, so that a request need not look its key up before it asks.

Remembering grants nothing: the transaction of each call requires the key as it is remembered, or fails.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from opskpi.access.keys import ApiKey

# As often as the look-up notes that a key is used.
REMEMBERED_S = 60
MOST = 10_000


@dataclass(frozen=True, slots=True)
class KnownKey:
    """The facts that the database tells about a live key: whom it speaks for, its digest, and what it may do."""

    org_id: UUID
    key_sha256: bytes
    scopes: list[str]


class RememberedKeys:
    """The keys by id, the longest remembered first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, KnownKey]] = {}

    def find(self, key: ApiKey, scopes: Sequence[str]) -> KnownKey | None:
        """The key as it was looked up within a minute; None, which means a look-up, unless it would be let in."""
        since, known = self._known.get(key.key_id, (0, None))
        if known is None or self._clock() - since >= REMEMBERED_S:
            return None
        return known if key.matches(known.key_sha256) and set(scopes) & set(known.scopes) else None

    def keep(self, key_id: str, known: KnownKey, since: float) -> None:
        """Remember a key that was looked up at an instant of the clock, in the place of the longest remembered."""
        self._known.pop(key_id, None)
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[key_id] = (since, known)

    def forget(self, key_id: str) -> None:
        """Have the key looked up with its next request."""
        self._known.pop(key_id, None)

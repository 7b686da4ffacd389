"""A delivery, and what can become of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from opskpi.outbound.reasons import may_pass, phrase

# The JSON that the database wrote; `messages` says what is in it.
Message = Mapping[str, object]

# Statuses about the address and its secret, whatever the message: redirects, revoked tokens, pages that are gone.
_OF_THE_ADDRESS = {*range(300, 400), 401, 402, 403, 404, 405, 407, 410, 421}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of `ops.claim_deliveries`; `attempt` counts from 1, `secret_env` names an environment variable."""

    delivery_id: int
    attempt: int
    org_id: UUID
    channel_name: str
    channel_kind: str
    secret_env: str | None
    settings: Mapping[str, object] | None
    group_key: str
    created_at: datetime
    message: Message

    @property
    def stable_id(self) -> str:
        """What receivers deduplicate by: the same for each attempt, another for a delivery of another database."""
        return f"opskpi-{self.delivery_id}-{self.created_at.astimezone(UTC):%Y%m%dT%H%M%S%f}"

    def setting(self, name: str) -> object:
        """A setting of the channel; None when it is not set."""
        return self.settings.get(name) if isinstance(self.settings, Mapping) else None


@dataclass(frozen=True, slots=True)
class Sent:
    """The channel took the message; `note` says what is odd about it."""

    note: str | None = None


# unclear: the message or the channel may be the cause. channel: the channel takes nothing, whatever the message.
# throttled: the channel takes messages, and no more for now.
Scope = Literal["unclear", "channel", "throttled"]


@dataclass(frozen=True, slots=True)
class Retry:
    """The message may go through later, `after` at the earliest; `scope` says whom the failure concerns."""

    after: timedelta | None
    reason: str
    scope: Scope = "unclear"


@dataclass(frozen=True, slots=True)
class Refused:
    """The message will never go through as it is."""

    reason: str


Outcome = Sent | Retry | Refused


def by_status(status: int, after: timedelta | None) -> Outcome:
    """The meaning of an HTTP status: 2xx is sent; a status that may pass or is about the address is worth a retry.

    429 puts the message off, and so does a 503 that names a time. All else is refused.
    """
    if 200 <= status < 300:
        return Sent()
    answer = f"answered {phrase(status)}"
    if status == 429 or (status == 503 and after is not None):
        return Retry(after, answer, "throttled")
    if may_pass(status):
        return Retry(after, answer)
    if status in _OF_THE_ADDRESS:
        return Retry(after, f"{answer}; redirects are not followed" if status < 400 else answer, "channel")
    return Refused(answer)

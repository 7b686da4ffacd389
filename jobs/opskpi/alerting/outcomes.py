"""A delivery, and what can become of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from opskpi.alerting.messages import Message
from opskpi.outbound.reasons import may_pass, network_reason, phrase


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


@dataclass(frozen=True, slots=True)
class Retry:
    """The message may go through later, `after` at the earliest.

    `channel_wide` says that the channel as a whole takes nothing now, whatever the message.
    """

    after: timedelta | None
    reason: str
    channel_wide: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The message will never go through as it is."""

    reason: str


Outcome = Sent | Retry | Refused


def by_status(status: int, after: timedelta | None) -> Outcome:
    """What an HTTP status means: 2xx is sent; 408, 425, 429 and 5xx are worth a retry; all else is refused."""
    if 200 <= status < 300:
        return Sent()
    answer = f"answered {phrase(status)}"
    if may_pass(status):
        return Retry(after, answer, channel_wide=status in {429, 503})
    return Refused(f"{answer}; redirects are not followed" if 300 <= status < 400 else answer)


def by_network(error: BaseException) -> Retry:
    """What a failed connection means: the channel takes nothing now."""
    return Retry(None, network_reason(error), channel_wide=True)

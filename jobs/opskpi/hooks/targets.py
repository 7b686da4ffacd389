"""The target of events, a hub or a Supabase project, and what a request to it can come to."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from opskpi.hooks import events, key_file, plain_json
from opskpi.outbound.secrets import Misconfigured

KEY_VARIABLE = "OPSKPI_API_KEY"

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answered:
    """An HTTP answer: its status, the wait it asks for (None: none), its ETag and its body.

    `date` is the clock of the other side, in seconds since 1970; None where the answer does not say.
    """

    status: int
    after: timedelta | None
    etag: str | None
    body: bytes
    date: float | None = None


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No answer within the deadline; why, in words that name no address."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotReady:
    """Something on this side is missing: a key, the library, a readable address. Nothing was sent."""

    reason: str


Reply = Answered | Unreachable | NotReady


@dataclass(frozen=True, slots=True)
class Target:
    """What `hook install` was told: `kind` is "hub" or "supabase", `key_file` the file with its key, or None.

    `org` is the org of the events that were recorded before one was named; None where none is.
    """

    kind: str
    url: str
    key_file: str | None
    org: str | None = None

    def key(self) -> str:
        """The API key: from OPSKPI_API_KEY, else the first line of the key file. Raises Misconfigured."""
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key and self.key_file:
            key = key_file.read(self.key_file)
        if not key:
            raise Misconfigured(f"there is no API key: set {KEY_VARIABLE}, or name a file with --key-file")
        if not key.isascii() or not key.isprintable():
            raise Misconfigured("the API key holds characters that no key has")
        return key

    def ingest_url(self) -> str:
        """Where batches are posted."""
        return self.url.rstrip("/") + ("/api/v1/telemetry" if self.kind == "hub" else "/rest/v1/rpc/ingest_events")

    def policy_url(self) -> str:
        """Where the policy is asked for."""
        return self.url.rstrip("/") + ("/api/v1/policy" if self.kind == "hub" else "/rest/v1/rpc/current_policy")


def of(settings: dict[str, object]) -> Target | None:
    """The target that the settings name; None when they name none."""
    kind, url, key_file = settings.get("target"), settings.get("url"), settings.get("key_file")
    if kind not in {"hub", "supabase"} or not isinstance(kind, str) or not isinstance(url, str):
        return None
    return Target(kind, url, key_file if isinstance(key_file, str) else None, org_of(settings))


def org_of(settings: dict[str, object]) -> str | None:
    """The org that the settings name; None when they name none."""
    org = settings.get("org_id")
    return org if isinstance(org, str) and events.is_uuid(org) else None


def body(target: Target, batch: Sequence[Event]) -> bytes:
    """Exactly what a request with these events of the queue carries."""
    sent = [events.payload(event, target.org) for event in batch]
    return plain_json.dumps(sent if target.kind == "hub" else {"events": sent}).encode("ascii")

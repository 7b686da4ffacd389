"""The report of a sender, its lock and its batches: what the commands know of it without importing what sends."""

from dataclasses import dataclass, field

LOCK = "telemetry-sender.lock"
BATCH = 50


@dataclass(slots=True)
class Report:
    """The result of a run. `stopped` says why it ended with events left, `reason` in words.

    `stopped` is one of "" (nothing is left), busy, off, no_target, paused, retry, limit.
    """

    sent: int = 0
    duplicate: int = 0
    refused: int = 0
    resent: int = 0
    left: int = 0
    stopped: str = ""
    reason: str = ""
    wait_s: float = 0
    warnings: list[str] = field(default_factory=list)

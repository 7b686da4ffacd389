"""The org's policy as it was last fetched, in `policy.json`."""

from opskpi.hooks import events, plain_json
from opskpi.hooks.storage import Folder

NAME = "policy.json"
LONGEST_FILE = 1 << 18
BUILT_IN: "dict[str, object]" = {"version": 0, "policy": {"telemetry": {"enabled": True}}}


def read(folder: Folder) -> "tuple[bool, int | None, float]":
    """Whether the policy lets events be recorded, its version (None without one), and when it was fetched (seconds)."""
    cached = _cached(folder)
    version, fetched = cached.get("version"), cached.get("fetched_at")
    rules = cached.get("policy")
    telemetry = rules.get("telemetry") if isinstance(rules, dict) else None
    enabled = not (isinstance(telemetry, dict) and telemetry.get("enabled") is False)
    return (
        enabled,
        events.as_version(version),
        float(fetched) if isinstance(fetched, int | float) else 0.0,
    )


def document(folder: Folder) -> "dict[str, object]":
    """The last good policy with its "version", "etag" and "fetched_at" (seconds), else the built-in one."""
    kept = _cached(folder)
    return kept if isinstance(kept.get("policy"), dict) else dict(BUILT_IN)


def _cached(folder: Folder) -> "dict[str, object]":
    """The content of the file; empty, so that the built-in policy holds, where it cannot be read."""
    try:
        return plain_json.read_object(folder.read(NAME, LONGEST_FILE))
    except OSError:
        return {}

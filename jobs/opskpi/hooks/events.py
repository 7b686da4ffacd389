"""What an event may say: the keys of each kind, how long they may be, and how they become the hub's format."""

import os
import time

from opskpi.hooks.plain_json import dumps

NIL_ORG = "00000000-0000-0000-0000-000000000000"
RESULTS = ("allowed", "blocked", "overridden", "interrupted", "failed")
SEVERITIES = ("unknown", "none", "info", "low", "medium", "high", "critical")
KINDS = ("hook_execution", "hook_baseline", "hook_override")

_GIT_HOOKS = {
    *("pre-commit", "pre-push", "post-commit", "commit-msg", "prepare-commit-msg", "pre-merge-commit", "pre-rebase"),
    *("post-checkout", "post-merge", "post-rewrite", "applypatch-msg", "pre-applypatch", "post-applypatch"),
}
# These need no scrubbing, whose patterns would take longer than all the rest.
_KNOWN_WORDS = {*_GIT_HOOKS, *RESULTS, *SEVERITIES, "--no-verify", "manual", "tool"}
LARGEST_NUMBER = 10**15
# In the metrics of an event: what was lost since the event before that told it, counts by reason.
DROPPED = "dropped"
_MOST_REASONS = 40
_MISSING = object()


class Malformed(ValueError):  # noqa: N818
    """An event lacks a key that its kind requires, or a value has the wrong type; the text names the key."""


def now_stamp(now: "float | None" = None) -> str:
    """An instant (seconds since 1970; default: now) as 2026-01-31T12:00:00.000Z. Stamps sort as the instants do."""
    seconds = time.time() if now is None else now
    milliseconds = int(seconds * 1000)
    year, month, day, hour, minute, second = time.gmtime(milliseconds // 1000)[:6]
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds % 1000:03}Z"


def new_id() -> str:
    """A random UUID (version 4)."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return as_uuid(raw.hex())


def as_uuid(digits: str) -> str:
    """32 hexadecimal digits with the dashes of a UUID."""
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def is_uuid(value: object) -> bool:
    """Whether it is the text of a UUID, with dashes."""
    if not isinstance(value, str) or len(value) != 36:
        return False
    digits = value.replace("-", "")
    return value.lower() == as_uuid(digits.lower()) and not set(digits.lower()) - set("0123456789abcdef")


def as_version(value: object) -> "int | None":
    """The version of a policy that an event may name; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_NUMBER:
        return None
    return value


def build(kind: str, metrics: "dict[str, object]", common: "dict[str, object]", stamp: str) -> "dict[str, object]":
    """An event of the queue: {"event", "timestamp", "metrics"}, cleaned, with the keys of `common` and an event_id.

    Raises Malformed.
    """
    kept: dict[str, object] = {"event_id": common.get("event_id") or new_id()}
    kept |= {key: value for key, value in common.items() if key != "event_id" and value is not None}
    kept |= cleaned(kind, metrics)
    return {"event": kind, "timestamp": stamp, "metrics": kept}


def cleaned(kind: str, metrics: "dict[str, object]") -> "dict[str, object]":
    """The keys that a kind of event has, in their bounds and without what must not leave. Raises Malformed."""
    if kind not in KEYS:
        raise Malformed(f"event must be one of {', '.join(KEYS)}")
    kept: dict[str, object] = {}
    for key, (clean, default) in KEYS[kind].items():
        value = metrics.get(key)
        if value is None:
            if default is _MISSING:
                raise Malformed(f"{key} is missing")
            value = default
        if value is not None:
            kept[key] = clean(key, value)
    return kept


def restored(stored: object) -> "dict[str, object] | None":
    """An event found in a damaged queue or in one of an older program, cleaned again; None when it is none."""
    if not isinstance(stored, dict) or not isinstance(stored.get("metrics"), dict):
        return None
    kind, stamp, metrics = stored.get("event"), stored.get("timestamp"), stored["metrics"]
    if not isinstance(kind, str) or not isinstance(stamp, str) or not stamp[:4].isdigit() or len(stamp) > 40:
        return None
    common = {key: metrics[key] for key in ("event_id", "agent_id", "org_id") if is_uuid(metrics.get(key))}
    if (version := as_version(metrics.get("policy_version"))) is not None:
        common["policy_version"] = version
    if counts := carried(stored):
        common[DROPPED] = counts
    try:
        return build(kind, metrics, common, stamp)
    except Malformed:
        return None


def carried(stored: "dict[str, object]") -> "dict[str, int]":
    """The lost events that an event reports, as counts by reason; nothing where that is malformed."""
    metrics = stored.get("metrics")
    counts = metrics.get(DROPPED) if isinstance(metrics, dict) else None
    if not isinstance(counts, dict):
        return {}
    kept = {
        reason: count
        for reason, count in counts.items()
        if isinstance(reason, str) and reason.isascii() and reason.replace("_", "").isalpha()
        if type(count) is int and 0 < count <= LARGEST_NUMBER
    }
    return dict(list(kept.items())[:_MOST_REASONS])


def payload(event: "dict[str, object]", org: "str | None" = None) -> "dict[str, object]":
    """An event of the queue as the hub and `ingest_events` take it: {"event_type", "payload"}.

    `org` is that of an event which was recorded while none was named.
    """
    metrics = event["metrics"]
    assert isinstance(metrics, dict)  # noqa: S101 - the queue holds no other
    if org is not None and metrics.get("org_id", NIL_ORG) == NIL_ORG:
        metrics = metrics | {"org_id": org}
    return {"event_type": event["event"], "payload": metrics | {"timestamp": event["timestamp"]}}


def line(event: "dict[str, object]") -> bytes:
    """An event as one line of the queue."""
    return dumps(event).encode("ascii")


def _text(limit: int):
    def clean(key: str, value: object) -> str:
        if not isinstance(value, str):
            raise Malformed(f"{key} must be text")
        if value in _KNOWN_WORDS:
            return value
        from opskpi.hooks.scrubbing import scrub  # noqa: PLC0415

        return scrub(value, limit)

    return clean


def _one_of(words: "tuple[str, ...]"):
    def clean(key: str, value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise Malformed(f"{key} must be one of {', '.join(words)}")
        return value

    return clean


def _texts(count: int, limit: int):
    clean_one = _text(limit)

    def clean(key: str, value: object) -> list[str]:
        if not isinstance(value, list | tuple):
            raise Malformed(f"{key} must be a list of texts")
        return [clean_one(key, entry) for entry in value[:count]]

    return clean


def _number(key: str, value: object) -> "int | float":
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_NUMBER:
        raise Malformed(f"{key} must be a number from 0 to 10^15")
    return value


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise Malformed(f"{key} must be true or false")
    return value


def _counts(key: str, value: object) -> "dict[str, int | float]":
    if not isinstance(value, dict):
        raise Malformed(f"{key} must be an object")
    name = _text(40)
    return {name(key, word): _number(key, count) for word, count in list(value.items())[:20]}


def _inside(keys: "dict[str, tuple]"):
    def clean(key: str, value: object) -> "dict[str, object]":
        if not isinstance(value, dict):
            raise Malformed(f"{key} must be an object")
        kept: dict[str, object] = {}
        for name, (clean_one, default) in keys.items():
            inner = value.get(name)
            if inner is None and default is _MISSING:
                raise Malformed(f"{key}.{name} is missing")
            if inner is not None:
                kept[name] = clean_one(f"{key}.{name}", inner)
        return kept

    return clean


_FINDINGS = {
    "total": (_number, None),
    "by_severity": (_counts, None),
    "pattern": (_text(100), None),
    "patterns": (_texts(20, 100), None),
}
_ENTRY = {
    "file": (_text(400), _MISSING),
    "line": (_number, _MISSING),
    "pattern": (_text(100), _MISSING),
    "reason": (_text(500), _MISSING),
    "date": (_text(40), _MISSING),
}
KEYS = {
    "hook_execution": {
        "hook_type": (_text(40), _MISSING),
        "result": (_one_of(RESULTS), _MISSING),
        "findings_summary": (_inside(_FINDINGS), {"total": 0}),
        "duration_ms": (_number, _MISSING),
        "user_actions": (_texts(20, 100), None),
        "override_reason": (_text(500), None),
    },
    "hook_baseline": {
        "hook_type": (_text(40), _MISSING),
        "baseline_entry": (_inside(_ENTRY), _MISSING),
        "source": (_text(100), _MISSING),
        "reviewed": (_flag, _MISSING),
    },
    "hook_override": {
        "hook_type": (_text(40), _MISSING),
        "override_reason": (_text(500), _MISSING),
        "findings_count": (_number, _MISSING),
        "severity": (_text(40), _MISSING),
    },
}

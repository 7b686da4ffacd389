"""The org's policy: asked for by the sender, kept in `policy.json`; the last good one stays when asking fails."""

import asyncio
import json

from opskpi.hooks import answers, plain_json, recording, targets
from opskpi.hooks.storage import Folder

BUILT_IN: dict[str, object] = {"version": 0, "policy": {"telemetry": {"enabled": True}}}


def cached(folder: Folder) -> dict[str, object]:
    """The last good policy with its "version", "etag" and "fetched_at" (seconds), else the built-in one."""
    kept = plain_json.read_object(folder.read(recording.POLICY, recording.LONGEST_FILE))
    return kept if isinstance(kept.get("policy"), dict) else dict(BUILT_IN)


def refresh(folder: Folder, loop: asyncio.AbstractEventLoop, target: targets.Target, now: float) -> str:
    """Ask for the policy and keep it; the result is why that failed, empty when it did not. Raises OSError."""
    kept = cached(folder)
    etag = kept.get("etag")
    reply = targets.fetch_policy(loop, target, etag if isinstance(etag, str) else None)
    if not isinstance(reply, targets.Answered):
        return reply.reason
    if reply.status == 304 and "fetched_at" in kept:
        _keep(folder, kept | {"fetched_at": now})
        return ""
    if not 200 <= reply.status < 300:
        return answers.in_words(reply.status, reply.body)
    fresh = _read(reply.body)
    if fresh is None:
        return "the answer is no policy, or too large for one"
    _keep(folder, fresh | {"etag": reply.etag, "fetched_at": now})
    return ""


def _read(body: bytes) -> dict[str, object] | None:
    try:
        answer = json.loads(body)
        version, policy = answer["version"], answer["policy"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(version, int) or isinstance(version, bool) or not isinstance(policy, dict):
        return None
    fresh = {"version": version, "policy": policy}
    return fresh if len(plain_json.dumps(fresh)) < recording.LONGEST_FILE - 4096 else None


def _keep(folder: Folder, policy: dict[str, object]) -> None:
    folder.write(recording.POLICY, plain_json.dumps(policy).encode("ascii") + b"\n")

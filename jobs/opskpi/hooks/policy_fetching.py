"""Asking for the org's policy; the last good one stays when that fails."""

import asyncio
import json

from opskpi.hooks import answers, plain_json, policy, requests, targets
from opskpi.hooks.storage import Folder


def refresh(folder: Folder, loop: asyncio.AbstractEventLoop, target: targets.Target, now: float) -> str:
    """Ask for the policy and keep it; the result is why that failed, empty when it did not. Raises OSError."""
    kept = policy.document(folder)
    etag = kept.get("etag")
    reply = requests.fetch_policy(loop, target, etag if isinstance(etag, str) else None)
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
        version, rules = answer["version"], answer["policy"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(version, int) or isinstance(version, bool) or not isinstance(rules, dict):
        return None
    fresh = {"version": version, "policy": rules}
    return fresh if len(plain_json.dumps(fresh)) < policy.LONGEST_FILE - 4096 else None


def _keep(folder: Folder, document: dict[str, object]) -> None:
    folder.write(policy.NAME, plain_json.dumps(document).encode("ascii") + b"\n")

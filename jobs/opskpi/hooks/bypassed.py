"""`git commit --no-verify`: the commit is there, its pre-commit hook was not asked."""

import os

from opskpi.hooks import places, recording, shims

_LONGEST_LINE = 1 << 16
_ACTIONS = ("commit", "commit (amend)", "commit (initial)", "commit (merge)", "commit (cherry-pick)")
REASON = "--no-verify"


def record(hooks_folder: str) -> None:
    """Record a hook_override when the newest entry of the reflog is a commit that skipped a pre-commit hook.

    Called by the post-commit hook, which has seen that no pre-commit hook ran in its `git commit`.
    """
    found = places.repository()
    if found is None or _last_action(found.git_dir) not in _ACTIONS or not _is_guarded(hooks_folder):
        return
    metrics = {"hook_type": "pre-commit", "override_reason": REASON, "findings_count": 0, "severity": "unknown"}
    recording.record("hook_override", metrics, folder=found.folder)


def _last_action(git_dir: str) -> str:
    """What the last line of HEAD's reflog says before its colon: rebases, merges and picks name themselves there."""
    try:
        with open(os.path.join(git_dir, "logs", "HEAD"), "rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - _LONGEST_LINE, 0))
            last = log.read().rstrip(b"\n").rpartition(b"\n")[2]
    except OSError:
        return ""
    return last.partition(b"\t")[2].partition(b": ")[0].decode("utf-8", "replace")


def _is_guarded(hooks_folder: str) -> bool:
    """Whether our pre-commit hook is still in place, with a hook behind it that would have run."""
    for name in ("pre-commit", "pre-commit.legacy"):
        path = os.path.join(hooks_folder, name)
        if shims.is_ours(path):
            return name.endswith(".legacy") or os.access(shims.original_of(path), os.X_OK)
    return False

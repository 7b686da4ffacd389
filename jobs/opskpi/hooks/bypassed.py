"""`git commit --no-verify`: the commit is there, its pre-commit hook was not asked."""

import os

from opskpi.hooks import places, recording, shims

_LONGEST_LINE = 1 << 16
_ACTIONS = ("commit", "commit (amend)", "commit (initial)", "commit (merge)", "commit (cherry-pick)")
# Options of git itself that take the next word.
_TAKE_A_WORD = {"-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--super-prefix", "--config-env"}
# These make commits for other reasons; any further word may be an alias of `commit`.
_OTHER_COMMANDS = {"rebase", "cherry-pick", "revert", "am", "merge", "pull", "stash"}
REASON = "--no-verify"


def record(hooks_folder: str, command: str = "") -> None:
    """Record a hook_override when the newest entry of the reflog is a commit that skipped a pre-commit hook.

    Called by the post-commit hook, which has seen that no pre-commit hook ran in its `git commit`. `command` is the
    command line of git where GIT_REFLOG_ACTION writes other words into the reflog.
    """
    found = places.repository()
    if found is None or not _is_guarded(hooks_folder):
        return
    if command:
        is_rebase = os.path.isdir(os.path.join(found.git_dir, "rebase-merge"))
        is_commit = _subcommand(command) not in _OTHER_COMMANDS and not is_rebase
    else:
        is_commit = _last_action(found.git_dir) in _ACTIONS
    if not is_commit:
        return
    metrics = {"hook_type": "pre-commit", "override_reason": REASON, "findings_count": 0, "severity": "unknown"}
    recording.record("hook_override", metrics, folder=found.folder)


def _subcommand(command: str) -> str:
    words = iter(command.split()[1:])
    for word in words:
        if word in _TAKE_A_WORD:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


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
    hook = os.path.join(hooks_folder, "pre-commit")
    if shims.is_ours(hook):
        return os.access(shims.original_of(hook), os.X_OK)
    return shims.is_ours(hook + shims.LEGACY)

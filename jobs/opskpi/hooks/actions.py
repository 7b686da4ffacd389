"""The actions of `entry.py`: run a hook and report, note a commit without its hook, send."""

import os
import sys

from opskpi.hooks import wrapping


def main(arguments: "list[str]") -> None:
    """Do one of these and end: `hook TYPE ORIGINAL VIA ARGUMENTS…` (a child of git; `wrapped …` when it is none),
    `wrap TYPE COMMAND…`, `bypassed HOOKS_FOLDER`, `send FOLDER`.
    """
    action = arguments[0] if arguments else ""
    if action in {"hook", "wrapped"} and len(arguments) >= 4:
        hook_type, original, via, *rest = arguments[1:]
        git_process = os.getppid() if action == "hook" else None
        wrapping.run_and_exit(hook_type, wrapping.hook_command(original, via, rest), git_process)
    if action == "wrap" and len(arguments) >= 3:
        wrapping.run_and_exit(arguments[1], arguments[2:])
    if action == "bypassed":
        from opskpi.hooks import bypassed  # noqa: PLC0415

        bypassed.record(arguments[1])
        os._exit(0)
    if action == "send":
        from opskpi.hooks import sender  # noqa: PLC0415

        sender.main(arguments[1:])
    sys.exit("entry.py is started by the hooks that `opskpi hook install` writes")

"""The actions of `entry.py`: run a hook and report, note a commit without its hook, send."""

import os
import sys

from opskpi.hooks import wrapping


def main(arguments: "list[str]") -> None:
    """Do one of these and end: `run TYPE ORIGINAL ARGUMENTS…` (a child of git; `chained …` when it is none),
    `wrap TYPE COMMAND…`, `bypassed HOOKS_FOLDER [COMMAND_LINE]`, `send FOLDER`.

    The hooks of the previous release call `hook TYPE ORIGINAL VIA ARGUMENTS…` (or `wrapped …`) until `opskpi hook
    install` has replaced them.
    """
    action = arguments[0] if arguments else ""
    if action in {"run", "chained"} and len(arguments) >= 3:
        hook_type, *command = arguments[1:]
        wrapping.run_and_exit(hook_type, command, os.getppid() if action == "run" else None, is_gits=True)
    if action in {"hook", "wrapped"} and len(arguments) >= 4:
        hook_type, original, via, *rest = arguments[1:]
        git_process = os.getppid() if action == "hook" else None
        wrapping.run_and_exit(hook_type, wrapping.previous_command(original, via, rest), git_process)
    if action == "wrap" and len(arguments) >= 3:
        wrapping.run_and_exit(arguments[1], arguments[2:])
    if action == "bypassed" and len(arguments) >= 2:
        from opskpi.hooks import bypassed  # noqa: PLC0415

        bypassed.record(*arguments[1:3])
        os._exit(0)
    if action == "send":
        from opskpi.hooks import sender  # noqa: PLC0415

        sender.main(arguments[1:])
    sys.exit("entry.py is started by the hooks that `opskpi hook install` writes")

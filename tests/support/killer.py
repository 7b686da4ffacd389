"""Run something again and again, killed before its first call of the operating system, then before its second, and so on.

`killer.py record FOLDER` and `killer.py send FOLDER` print how many calls there were, once a run has come to its end.
"""

import fcntl
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from opskpi.hooks import record, sender, starting, state
from opskpi.hooks.storage import Folder

CALLS = (
    (
        os,
        (
            "open",
            "write",
            "fsync",
            "fchmod",
            "rename",
            "unlink",
            "close",
            "link",
            "mkdir",
            "stat",
            "listdir",
            "pwrite",
            "lstat",
        ),
    ),
    (fcntl, ("flock",)),
)


def die_before(number: int) -> None:
    made = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            if made == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counting

    for module, names in CALLS:
        for name in names:
            setattr(module, name, counted(getattr(module, name)))


def until_it_completes(act: Callable[[int], object], before: Callable[[int], object]) -> int:
    number = 0
    while True:
        number += 1
        before(number)
        child = os.fork()
        if child == 0:
            die_before(number)
            act(number)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == 0:
            return number
        assert os.WIFSIGNALED(status), status
        assert number < 2000


def main() -> None:
    act, folder = sys.argv[1:]
    # Once enough events are left by runs that were killed, they would be sent by a process that is not ours to kill.
    starting.start_sender = lambda _: None

    def add(number: int) -> None:
        for hook_type in ("pre-commit", "bad"):
            assert record("hook_execution", hook_type=hook_type, result="blocked", duration_ms=number)

    def add_and_rest(number: int) -> None:
        with Folder(folder) as opened:
            kept = state.load(opened)
            kept.requests = []
            state.save(opened, kept)
        add(number)

    if act == "record":
        print(until_it_completes(add, lambda _: None))
    else:
        # Once as a whole: what is imported at the first request is not imported again in each run.
        add_and_rest(0)
        sender.run(folder, foreground=True)
        print(until_it_completes(lambda _: sender.run(folder, foreground=True), add_and_rest))


main()

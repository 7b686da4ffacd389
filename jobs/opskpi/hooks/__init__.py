"""Git hooks that report: a queue in the repository, filled without being felt, and one detached process that sends it.

Nothing here or below it that records an event imports more than a little of the standard library: the reason why the
functions import late is the milliseconds that a commit would wait.
"""


def record(event: str, **metrics: object) -> bool:
    """Queue one event of the repository that the working directory belongs to; return whether it was kept.

    `event` is hook_execution, hook_baseline or hook_override. Of `metrics`, the keys that this kind has are kept,
    cleaned of secrets, e-mail addresses and absolute paths; agent, org, policy version, time and event_id are added.
    Durations are milliseconds. Nothing is sent here, nothing is ever raised: False means that recording is switched
    off, that a required key is missing or malformed, or that the queue cannot be written.
    """
    from opskpi.hooks import recording  # noqa: PLC0415

    return recording.record(event, metrics)


def wrap(hook_type: str, command: "list[str]") -> int:
    """Run a command as the git hook `hook_type`, record what became of it, and return its exit code.

    The command has this process's stdin, stdout, stderr and environment. For one that a signal ended, the result is
    128 + the signal's number; 127 when there is no such command, 126 when it cannot be executed, as in a shell.
    """
    from opskpi.hooks import wrapping  # noqa: PLC0415

    status = wrapping.run(hook_type, command)
    return status if status >= 0 else 128 - status

"""Asking git where its hooks are; for the commands, not for recording."""

import os
import subprocess

from opskpi.errors import ExitCode, OpsKpiError


def ask(*arguments: str) -> str:
    """What git answers, without the newline at the end. Raises OpsKpiError with git's own words."""
    answer = _run(arguments)
    if answer.returncode:
        reason = os.fsdecode(answer.stderr).strip().splitlines()
        raise OpsKpiError(
            f"git {arguments[0]} failed: {reason[-1] if reason else 'no reason given'}",
            "Run this inside a git repository.",
            ExitCode.CONFIGURATION,
        )
    return os.fsdecode(answer.stdout).removesuffix("\n")


def records(*arguments: str) -> list[str]:
    """The answer of git with --null, one text per record; none where git ends with another exit code than 0."""
    answer = _run(arguments)
    return [] if answer.returncode else os.fsdecode(answer.stdout).split("\0")[:-1]


def holds(*arguments: str) -> bool:
    """Whether git ends with exit code 0."""
    return _run(arguments).returncode == 0


def tracks(folder: str, name: str) -> bool:
    """Whether the repository around a folder has something of this name in its index, in any spelling.

    Nothing that the repository or the environment names is run. Raises OpsKpiError where git refuses to look at it,
    which it does for a repository of somebody else (safe.directory).
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_NO_LAZY_FETCH": "1"}
    arguments = ("-C", folder, "ls-files", "--", f":(icase,literal){name}")
    answer = _run(arguments, environment)
    if answer.returncode:
        raise OpsKpiError(
            f"git ls-files ended with {answer.returncode}", "Make the repository yours.", ExitCode.CONFIGURATION
        )
    return bool(answer.stdout.strip())


# Programs that git would run for a mere question: a monitor of files, hooks; a fetch of objects has no protocol to use.
_HARMLESS = ("-c", "core.fsmonitor=false", "-c", "protocol.allow=never")


def _run(arguments: tuple[str, ...], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    hooks = ("-c", f"core.hooksPath={os.devnull}") if environment is not None else ()
    command = ["git", *_HARMLESS, *hooks, *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=False, env=environment)
    except FileNotFoundError as error:
        raise OpsKpiError("git is not installed, or not on the PATH", "Install git.", ExitCode.CONFIGURATION) from error

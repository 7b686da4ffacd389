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
    """What git answers with --null, one text per record; none where git ends with another exit code than 0."""
    answer = _run(arguments)
    return [] if answer.returncode else os.fsdecode(answer.stdout).split("\0")[:-1]


def holds(*arguments: str) -> bool:
    """Whether git ends with exit code 0."""
    return _run(arguments).returncode == 0


def _run(arguments: tuple[str, ...]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise OpsKpiError("git is not installed, or not on the PATH", "Install git.", ExitCode.CONFIGURATION) from error

"""The date that the tests run at, when it is not today's: `pytest --as-of 2027-01-31T23:50Z`.

libfaketime (that of PyPI; Debian's lets `time.sleep` of Python 3.11 fail) moves the clock of the tests' processes and of the Postgres servers that they start by one offset, so that
Python's now and SQL's agree.
"""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

MOVED = ("LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC", "FAKETIME_FORCE_MONOTONIC_FIX", "NO_FAKE_STAT")


def library() -> Path | None:
    """Return the library that is loaded before all others; None where it is not installed. The package is not imported."""
    package = importlib.util.find_spec("libfaketime")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).with_name("vendor") / "libfaketime" / "src" / "libfaketime.so.1"


def start_again_as_of(instant: str) -> None:
    """Replace this process with the same one at that instant, unless it runs at it already."""
    if "FAKETIME" in os.environ:
        return
    preloaded = library()
    if preloaded is None:
        sys.exit("--as-of needs libfaketime: .venv/bin/pip install libfaketime")
    offset = round(datetime.fromisoformat(instant).timestamp() - time.time())
    moved = {
        "LD_PRELOAD": str(preloaded),
        "FAKETIME": f"{offset:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Else a wait of a thread by that clock, such as Python's for its lock, is taken for over, and the thread spins.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        # Else no compiled module would be as old as the one that it was compiled from.
        "NO_FAKE_STAT": "1",
    }
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | moved)  # noqa: S606


def keep_in_processes() -> None:
    """Give the moved clock also to programs that are started with an environment of their own, as Postgres is."""
    moved = {name: os.environ[name] for name in MOVED if name in os.environ}
    if "FAKETIME" not in moved:
        return
    start = subprocess.Popen.__init__

    def start_moved(
        self: subprocess.Popen[Any], *arguments: Any, env: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        start(self, *arguments, env=None if env is None else moved | dict(env), **options)

    subprocess.Popen.__init__ = start_moved

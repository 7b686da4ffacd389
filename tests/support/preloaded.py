"""`opskpi` with its imports done: each order on standard input is a command line, or code, run in a fork.

Importing takes longer than most commands run. The process that waits for a command is a fork too, so that any number can
run at once.
"""

import gc
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import sys
import time
from contextlib import suppress

from support import clock

ORDER_BYTES = 1 << 20


def import_all() -> None:
    """Import the commands, and all that they import when they are called."""
    import opskpi  # noqa: PLC0415

    for module in pkgutil.walk_packages(opskpi.__path__, "opskpi."):
        # A test that is not run says nothing of an extra that is not installed.
        with suppress(ImportError):
            importlib.import_module(module.name)


def run_order(order: dict) -> None:
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")
    sys.stdin = open(0, encoding=encoding, errors=errors or None, closefd=False)  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(
        open(1, "wb", closefd=False),  # noqa: SIM115
        encoding=encoding,
        errors=errors or None,
    )
    sys.stderr = io.TextIOWrapper(
        open(2, "wb", buffering=0, closefd=False),  # noqa: SIM115
        encoding=encoding,
        errors="backslashreplace",
        write_through=True,
    )
    if order["code"]:
        sys.argv = ["-c", *order["arguments"]]
        exec(order["code"], {"__name__": "__main__"})  # noqa: S102
        sys.exit()
    sys.argv = ["opskpi", *order["arguments"]]
    importlib.import_module("opskpi.__main__").main()


def main() -> None:
    orders = socket.socket(fileno=os.dup(0))
    clock.keep_in_processes()
    import_all()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, ORDER_BYTES, 4)
        if not message:
            return
        if os.fork() == 0:
            orders.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            *streams, answer = descriptors
            child = os.fork()
            if child == 0:
                os.close(answer)
                for number, descriptor in enumerate(streams):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                run_order(json.loads(message))
            os.write(answer, f"{child}\n".encode())
            for descriptor in (0, 1, 2, *streams):
                os.close(descriptor)
            _, status = os.waitpid(child, 0)
            os.write(answer, f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    main()

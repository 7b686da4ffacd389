"""`opskpi` with its imports done: each line of standard input is a command line, run in a fork as a process of its own.

Importing that takes a quarter of a second, and these tests run a hundred command lines.
"""

import json
import os
import sys

from opskpi import __main__ as opskpi_main
from opskpi.commands import hook, main


def run(order: dict) -> None:
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        file = os.open(order[name], flags)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["opskpi", *order["arguments"]]
    opskpi_main.main()


PRELOADED = (main, hook)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(json.loads(line))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)

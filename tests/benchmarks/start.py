"""What commands cost beside the work of the database, in units of starting a bare Python interpreter.

    .venv/bin/python tests/benchmarks/start.py --rounds 25

Processor time of the client alone. Each round runs every command once, the bare interpreter (`python -c pass`) among
them, so that whatever else the machine does reaches all of them alike; medians are compared.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

from run import database  # noqa: E402

from support.postgres import running_server  # noqa: E402

JOBS = Path(__file__).resolve().parents[2] / "jobs"
# The script that pip writes for the entry point, which runs the package of this tree.
PROGRAM = str(Path(sys.executable).with_name("opskpi"))
BARE = (sys.executable, "-c", "pass")
# The commands with what is measured, and the aim. Only ours have one: the driver shows what of it is not ours.
CASES: tuple[tuple[tuple[str, ...], float | None], ...] = (
    ((PROGRAM, "--help"), 12),
    ((PROGRAM, "--version"), 12),
    ((PROGRAM, "kpi"), 18),
    ((PROGRAM, "run"), 20),
    ((sys.executable, "-c", "import click"), None),
    ((sys.executable, "-c", "import psycopg"), None),
)
WARM_UP = 2


def processor_seconds(command: tuple[str, ...], environ: dict[str, str]) -> float:
    """The processor time of a command, and of what it started."""
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="runs of each command (default 25)")
    rounds = parser.parse_args().rounds
    with (
        running_server("18") as server,
        database(server, "start") as connection,
        tempfile.TemporaryDirectory() as home,
    ):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPSKPI_", "PYTHON"))}
        environ = kept | {"PYTHONPATH": str(JOBS), "HOME": home, "OPSKPI_DSN": server.dsn(connection.info.dbname)}
        taken: dict[tuple[str, ...], list[float]] = {command: [] for command in (BARE, *(case for case, _ in CASES))}
        for number in range(rounds + WARM_UP):
            for command, times in taken.items():
                seconds = processor_seconds(command, environ)
                if number >= WARM_UP:
                    times.append(seconds)
    bare_s = statistics.median(taken[BARE])
    print(f"bare interpreter: {bare_s * 1000:.1f} ms")
    for command, aim in CASES:
        seconds = statistics.median(taken[command])
        name = " ".join([Path(command[0]).name, *command[1:]])
        print(f"{name}: {seconds / bare_s:.1f}" + (f" (aim {aim:g})" if aim else "") + f", {seconds * 1000:.1f} ms")


if __name__ == "__main__":
    main()

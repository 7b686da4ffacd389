"""What commands cost the client, in units of starting a bare Python interpreter.

    .venv/bin/python tests/benchmarks/start.py --rounds 25

Each round runs every command once, `python -c pass` among them, so that whatever else the machine does reaches all of them
alike. The ratio is that of the medians of processor time, which is the client's alone; the one of elapsed time has the
server's work in it. `kpi` shows a table, and `run` has nothing to count and nothing to send.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

from run import database  # noqa: E402

from support.events import add_events, refresh  # noqa: E402
from support.postgres import running_server  # noqa: E402

JOBS = Path(__file__).resolve().parents[2] / "jobs"
# The script that pip wrote for the entry point; it runs the package of this tree.
OPSKPI = str(Path(sys.executable).with_name("opskpi"))
BARE = (sys.executable, "-c", "pass")
# Each with its aim. The last ones say how much of it is the library for command lines and the driver.
CASES: dict[tuple[str, ...], float | None] = {
    (OPSKPI, "--help"): 12,
    (OPSKPI, "--version"): 12,
    (OPSKPI, "kpi"): 18,
    (OPSKPI, "run"): 20,
    (sys.executable, "-c", "import click"): None,
    (sys.executable, "-c", "import psycopg"): None,
}
# Writes the compiled modules, and lets the first `run` do what is due once.
WARM_UP = 2


def spent(command: tuple[str, ...], environ: dict[str, str]) -> tuple[float, float]:
    """Seconds of processor time and of elapsed time that a command takes."""
    started = time.perf_counter()
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return used.ru_utime + used.ru_stime, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="runs of each command (default 25)")
    rounds = parser.parse_args().rounds
    taken: dict[tuple[str, ...], list[tuple[float, float]]] = {command: [] for command in (BARE, *CASES)}
    with (
        running_server("18") as server,
        database(server, "start") as connection,
        tempfile.TemporaryDirectory() as home,
    ):
        add_events(connection, 1000, "slsa_provenance", "2026-11-18T12:00Z", outcome="success", duration_ms=1000)
        refresh(connection)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPSKPI_", "PYTHON"))}
        environ = kept | {"PYTHONPATH": str(JOBS), "HOME": home, "OPSKPI_DSN": server.dsn("start")}
        for number in range(rounds + WARM_UP):
            for command, times in taken.items():
                seconds = spent(command, environ)
                if number >= WARM_UP:
                    times.append(seconds)
    bare_s, bare_elapsed_s = (median(times) for times in zip(*taken[BARE], strict=True))
    print(f"bare interpreter: {bare_s * 1000:.1f} ms")
    for command, aim in CASES.items():
        seconds, elapsed_s = (median(times) for times in zip(*taken[command], strict=True))
        name = " ".join([Path(command[0]).name, *command[1:]])
        aimed = f" (aim {aim:g})" if aim else ""
        print(
            f"{name}: {seconds / bare_s:.1f}{aimed}, {seconds * 1000:.0f} ms; elapsed {elapsed_s / bare_elapsed_s:.1f}"
        )


if __name__ == "__main__":
    main()

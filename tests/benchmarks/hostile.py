"""What the worst batches that the hub accepts cost a refresh, in ordinary batches of the same bytes.

.venv/bin/python tests/benchmarks/hostile.py
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

import run  # noqa: E402

from support import hostile  # noqa: E402
from support.events import ingest, refresh  # noqa: E402
from support.postgres import running_server  # noqa: E402

ROUNDS = 3


def main() -> None:
    """Print a line per batch: seconds of the first refresh and of the last one, and the ratio to an ordinary batch."""
    with running_server("18", in_memory=False) as server:
        ordinary = costs(server, "ordinary", hostile.ordinary)[-1]
        print(f"ordinary: {ordinary:.2f} s", flush=True)
        spread = {name: hostile.within_the_spread(make) for name, make in hostile.ROWS_OF_ITS_OWN.items()}
        for name, make in (hostile.BOUNDED | spread).items():
            first, *_, last = costs(server, name.replace(" ", "_"), make)
            print(f"{max(first, last) / ordinary:8.1f}  {name}: {first:.2f} s, then {last:.2f} s", flush=True)


def costs(server: run.Server, name: str, make: hostile.Make) -> list[float]:
    """Seconds of refreshes over batches of 0.9 MB, in a database of their own."""
    with run.database(server, name) as connection:
        found = []
        for seed in range(ROUNDS):
            ingest(connection, *hostile.batch_of(make, seed))
            found.append(run.seconds(lambda: refresh(connection)))
        return found


if __name__ == "__main__":
    main()

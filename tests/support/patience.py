"""How long a test waits for what another process, thread or server does; the bound only ends a hang.

Tests run beside each other, and the sender of the hooks at a lower priority: on a busy machine it gets a fiftieth of a
processor. A shorter bound stands only where the bound itself is what the test asserts.
"""

import time
from collections.abc import Callable

PATIENCE_S = 120


def eventually(holds: Callable[[], object]) -> None:
    """Wait until a condition holds, on the busiest machine too; what takes long is asked for less often."""
    deadline, pause = time.monotonic() + PATIENCE_S, 0.005
    while not holds():
        assert time.monotonic() < deadline, f"it did not come to that within {PATIENCE_S} s"
        time.sleep(pause)
        pause = min(pause * 1.2, 0.1)

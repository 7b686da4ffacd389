"""What tests, benchmarks and the commands for contributors share."""

import sys
from pathlib import Path

# `python -m tests.support.X` runs the sources of this checkout, not an installed copy that may be older.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

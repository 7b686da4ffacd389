"""Whether anything is to be recorded or sent at all."""

import os


def is_off() -> bool:
    """Whether the environment forbids it: DO_NOT_TRACK (anything but 0 and nothing), or OPSKPI_TELEMETRY=0."""
    do_not_track = os.environ.get("DO_NOT_TRACK", "0").strip()
    return do_not_track not in {"", "0"} or os.environ.get("OPSKPI_TELEMETRY", "").strip() == "0"

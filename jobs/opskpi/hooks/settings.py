"""What `hook install` was told, in `settings.json`."""

import os

from opskpi.hooks import plain_json
from opskpi.hooks.storage import Folder

NAME = "settings.json"
LONGEST_FILE = 1 << 18


def read(folder: Folder) -> "dict[str, object]":
    """The settings of a folder; empty where `hook install` wrote none, where others could have written them, and where
    they cannot be read: events are then kept without them.
    """
    try:
        return plain_json.read_object(folder.read(NAME, LONGEST_FILE))
    except OSError:
        return {}


def fingerprint(chosen: "dict[str, object]") -> str:
    """A checksum that changes when the settings or the key do, and tells nothing about either."""
    from binascii import crc32  # noqa: PLC0415

    key_file = chosen.get("key_file")
    marks = [repr(sorted((key, str(value)) for key, value in chosen.items())), os.environ.get("OPSKPI_API_KEY", "")]
    try:
        marks.append(str(os.stat(key_file).st_mtime_ns) if isinstance(key_file, str) else "")
    except OSError:
        marks.append("none")
    return f"{crc32(chr(0).join(marks).encode('utf-8', 'replace')):08x}"

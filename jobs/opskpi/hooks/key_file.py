"""The file with the API key: only its user may write it, and nobody else may read it."""

import os
import stat

from opskpi.hooks import trust
from opskpi.outbound.secrets import Misconfigured


def read(path: str) -> str:
    """The key, which is the first line of the file. Raises Misconfigured."""
    try:
        if reason := fault(path):
            raise Misconfigured(reason)
        with open(path, encoding="utf-8") as file:
            return file.readline(10_000).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"the key file {path} cannot be read: {error}") from None


def fault(path: str) -> str:
    """Why a file must not be used as a key file, in words; empty for one that may. Raises OSError.

    As with ssh, a file of root's that others read is root's decision.
    """
    if reason := trust.fault(path):
        return f"the key file is not used: {reason}"
    status = os.stat(path)
    if status.st_uid == os.geteuid() and _is_readable_by_others(os.path.realpath(path)):
        return f"the key file is not used: others can read {path}; chmod 600 makes it yours alone"
    return ""


def _is_readable_by_others(path: str) -> bool:
    """Whether another user reaches the file: by its bits, and by those of every folder above it."""
    status = os.stat(path)
    everybody = bool(status.st_mode & stat.S_IROTH)
    group = bool(status.st_mode & stat.S_IRGRP) and not trust.is_private_group(status.st_gid)
    while (above := os.path.dirname(path)) != path and (everybody or group):
        path = above
        mode = os.stat(path).st_mode
        everybody = everybody and bool(mode & stat.S_IXOTH)
        # Whose group a folder has is left aside: entering it as somebody else is enough to be careful.
        group = group and bool(mode & (stat.S_IXGRP | stat.S_IXOTH))
    return everybody or group

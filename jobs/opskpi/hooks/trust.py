"""Whose files are read: only those that nobody but the caller and root could have written.

Everything here costs a few calls of the operating system, because a hook that records waits for them.
"""

import os

_KIND, _FOLDER, _LINK = 0o170000, 0o040000, 0o120000
_STICKY, _BY_GROUP, _BY_OTHERS = 0o1000, 0o020, 0o002
_MOST_LINKS = 40


def fault(path: str, own: int = 1) -> str:
    """Why somebody else could have written what is at a path, in words; empty where nobody could.

    The file or folder, every folder above it and every link on the way must belong to the caller or to root, and
    nobody else may write them. A folder above that others may write is accepted with the sticky bit (/tmp), because
    there nobody moves what is another's; among the last `own` parts it is not, because others can still add to it.
    The user's own private group counts as the user. A part that does not exist ends the path.

    Raises OSError where the path cannot be looked at.
    """
    parts = os.path.join(os.getcwd(), path).split("/")[::-1] if path[:1] != "/" else path.split("/")[::-1]
    place, links = "/", 0
    reason = _fault_of(place, os.lstat(place), is_last=False)
    while parts and not reason:
        part = parts.pop()
        if part in {"", "."}:
            continue
        if part == "..":
            place = os.path.dirname(place)
            continue
        entry = os.path.join(place, part)
        try:
            status = os.lstat(entry)
        except FileNotFoundError:
            return ""
        if status.st_mode & _KIND == _LINK:
            links += 1
            if links > _MOST_LINKS:
                return f"the links of {path} form a loop"
            reason = "" if _is_owned(status) else _FOREIGN.format(entry)
            target = os.readlink(entry)
            parts += target.split("/")[::-1]
            place = "/" if target[:1] == "/" else place
            continue
        reason = _fault_of(entry, status, is_last=len(parts) - parts.count("") < own)
        place = entry
    return reason


def fault_of_open(file: int, path: str) -> str:
    """The same about an open file itself, without the folders above it."""
    return _fault_of(path, os.fstat(file), is_last=True)


def brought_along(path: str) -> str:
    """Why a clone could have brought a folder along, in words; empty where none could.

    Git writes nothing below a `.git` that is in a repository, but everything else in a working tree can be committed,
    such as a folder that looks like a bare repository.
    """
    if os.path.basename(path) == ".git":
        return ""
    place = os.path.realpath(path)
    while True:
        above, name = os.path.split(place)
        if name == ".git" or above == place:
            return ""
        if os.path.lexists(os.path.join(above, ".git")):
            return f"{path} lies in the working tree {above}, which may have brought it along"
        place = above


_FOREIGN = "{} belongs to another user"


def _fault_of(path: str, status: os.stat_result, *, is_last: bool) -> str:
    if not _is_owned(status):
        return _FOREIGN.format(path)
    mode = status.st_mode
    if mode & _KIND == _FOLDER and mode & _STICKY and not is_last:
        return ""
    if mode & _BY_OTHERS:
        return f"everybody can write {path}"
    if mode & _BY_GROUP and not (is_private_group(status.st_gid) and not _has_list(path)):
        return f"a group can write {path}"
    return ""


def _is_owned(status: os.stat_result) -> bool:
    return status.st_uid in {0, os.geteuid()}


def is_private_group(group: int) -> bool:
    """Whether it is the private group of the caller or of root: their primary one, of their name, with no other member.

    Systems that give each user such a group let new files be written by it (umask 002).
    """
    import grp  # noqa: PLC0415 - rarely needed, and it may ask a directory service
    import pwd  # noqa: PLC0415

    for user in {os.geteuid(), 0}:
        try:
            entry, account = grp.getgrgid(group), pwd.getpwuid(user)
        except KeyError:
            continue
        if account.pw_gid == group and entry.gr_name == account.pw_name and not {*entry.gr_mem} - {account.pw_name}:
            return True
    return False


def _has_list(path: str) -> bool:
    """Whether an access control list names further users; the bits of the group are then those of the list's mask."""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access"))
    except (AttributeError, OSError):
        return False

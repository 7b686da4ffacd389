"""Where things are: the repository, its `.sentinel` folder, and what a user has once for all repositories.

Read from files and the environment as git does, because starting git takes longer than recording.
"""

import errno
import os
import sys

from opskpi.hooks import trust

FOLDER = ".sentinel"
_LONGEST_POINTER = 4096


class Repository:
    """The absolute paths of a git repository.

    `git_dir` is that of this working tree, `common_dir` the one that all its working trees share; `top` is the
    folder of the working tree (the main one for a linked worktree), None for a bare repository. `entry` is what led
    here: the `.git` of the working tree, or what GIT_DIR names.
    """

    __slots__ = ("common_dir", "entry", "git_dir", "top")

    def __init__(self, git_dir: str, common_dir: str, top: "str | None", entry: str) -> None:
        self.git_dir = git_dir
        self.common_dir = common_dir
        self.top = top
        self.entry = entry

    @property
    def folder(self) -> str:
        """The `.sentinel` folder in the git directory, where neither a checkout, `git clean` nor `git stash` reaches.

        All working trees share it, so that the removal of one loses no events. A repository that is not trusted
        gets the user's own.
        """
        return os.path.join(state_home() if self.distrust() else self.common_dir, FOLDER)

    def distrust(self) -> str:
        """Why the repository may be a stranger's, in words; empty where it is the caller's."""
        try:
            folder = os.path.join(self.common_dir, FOLDER)
            for path in dict.fromkeys((self.entry, self.git_dir, folder)):
                # The way to the folder leads through its git directory.
                if (path == folder or path != self.common_dir) and (
                    reason := trust.fault(path, 2 if path == folder else 1)
                ):
                    return reason
        except OSError as error:
            return f"whose {self.common_dir} is cannot be told: {error.strerror}"
        return trust.brought_along(self.common_dir)


def folder() -> str:
    """The `.sentinel` folder of the repository around the working directory, else that of the user."""
    found = repository()
    return found.folder if found else os.path.join(state_home(), FOLDER)


def earlier_folder(common_dir: str) -> "str | None":
    """The place of a repository's folder in the first releases: in the working tree; None where there is none."""
    top = os.path.dirname(common_dir) if os.path.basename(common_dir) == ".git" else None
    if top is None and (named := _worktree_named_in(common_dir)):
        top = os.path.normpath(os.path.join(common_dir, named))
    return os.path.join(top, FOLDER) if top else None


def repository(start: "str | None" = None) -> "Repository | None":
    """The repository that a folder (default: the working directory) is in, or that GIT_DIR names; None outside."""
    try:
        start = os.path.abspath(start or os.getcwd())
    except OSError:
        return None
    named = os.environ.get("GIT_DIR")
    if named:
        git_dir = _resolved(os.path.abspath(named))
        if not _is_git_dir(git_dir):
            return None
        work_tree = os.environ.get("GIT_WORK_TREE")
        tree = _tree_of(git_dir, os.path.abspath(work_tree) if work_tree else start)
        return _repository(git_dir, tree, os.path.abspath(named))
    place = start
    while True:
        candidate = os.path.join(place, ".git")
        git_dir = _resolved(candidate)
        if _is_git_dir(git_dir):
            return _repository(git_dir, place, candidate)
        if _is_git_dir(place):
            return _repository(place, _tree_of(place, place), place)
        parent = os.path.dirname(place)
        if parent == place:
            return None
        place = parent


def data_home() -> str:
    """The user's folder for what is to be kept, such as the agent's id. Raises OSError for a user without a home."""
    return _user_folder("XDG_DATA_HOME", (".local", "share"))


def state_home() -> str:
    """The user's folder for what happened outside of any repository. Raises OSError for a user without a home."""
    return _user_folder("XDG_STATE_HOME", (".local", "state"))


def _user_folder(variable: str, default: "tuple[str, ...]") -> str:
    named = os.environ.get(variable, "")
    if sys.platform == "darwin":
        base = os.path.join(os.path.expanduser("~"), "Library", "Application Support")
    else:
        base = named if os.path.isabs(named) else os.path.join(os.path.expanduser("~"), *default)
    if not os.path.isabs(base):
        raise FileNotFoundError(errno.ENOENT, "this user has no home", base)
    return os.path.join(base, "opskpi")


def _repository(git_dir: str, top: "str | None", entry: str) -> Repository:
    pointer = _first_line(os.path.join(git_dir, "commondir"))
    if pointer is None:
        return Repository(git_dir, git_dir, top, entry)
    common = os.path.normpath(os.path.join(git_dir, pointer))
    # Else it is a linked worktree of a bare repository, or of one whose git dir lies elsewhere.
    main = os.path.dirname(common) if os.path.basename(common) == ".git" else None
    return Repository(git_dir, common, main, entry)


def _worktree_named_in(git_dir: str) -> str:
    """The working tree that the configuration of a git dir names, as that of a submodule does; empty without one."""
    try:
        with open(os.path.join(git_dir, "config"), "rb") as file:
            lines = file.read(1 << 18).splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(b"=")
        if name.strip().lower() == b"worktree":
            return os.fsdecode(value.strip().strip(b'"'))
    return ""


def _tree_of(git_dir: str, start: str) -> "str | None":
    """The working tree that belongs to a git dir that was named: above `start`, or around the git dir."""
    if os.path.basename(git_dir) == ".git":
        return os.path.dirname(git_dir)
    place = start
    while not _same(_resolved(os.path.join(place, ".git")), git_dir):
        parent = os.path.dirname(place)
        if parent == place:
            return None
        place = parent
    return place


def _resolved(git_dir: str) -> str:
    """The folder that `.git` is, or that it points to where it is a file (worktrees, submodules)."""
    line = _first_line(git_dir)
    if line is None or not line.startswith("gitdir: "):
        return git_dir
    return os.path.normpath(os.path.join(os.path.dirname(git_dir), line[len("gitdir: ") :]))


def _first_line(path: str) -> "str | None":
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.fsdecode(os.read(file, _LONGEST_POINTER)).split("\n", 1)[0].rstrip("\r")
    except OSError:
        return None
    finally:
        os.close(file)


def _is_git_dir(path: str) -> bool:
    return os.path.exists(os.path.join(path, "HEAD")) and (
        os.path.isdir(os.path.join(path, "objects")) or os.path.exists(os.path.join(path, "commondir"))
    )


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False

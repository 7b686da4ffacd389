"""Where things are: the repository, its `.sentinel` folder, and what a user has once for all repositories.

Read from files and the environment as git does, because starting git takes longer than recording.
"""

import errno
import os
import sys

FOLDER = ".sentinel"
_LONGEST_POINTER = 4096


class Repository:
    """The absolute paths of a git repository.

    `git_dir` is that of this working tree, `common_dir` the one that all its working trees share; `top` is the
    folder of the working tree (the main one for a linked worktree), None for a bare repository. `home` is where
    the `.sentinel` folder is.
    """

    __slots__ = ("common_dir", "git_dir", "home", "top")

    def __init__(self, git_dir: str, common_dir: str, top: "str | None", home: "str | None" = None) -> None:
        self.git_dir = git_dir
        self.common_dir = common_dir
        self.top = top
        self.home = home or top or common_dir

    @property
    def folder(self) -> str:
        """The `.sentinel` folder: a linked worktree uses the main one's, so that its removal loses no events."""
        return os.path.join(self.home, FOLDER)


def folder() -> str:
    """The `.sentinel` folder of the repository around the working directory, else that of the user."""
    found = repository()
    return found.folder if found else os.path.join(state_home(), FOLDER)


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
        return _repository(git_dir, _tree_of(git_dir, os.path.abspath(work_tree) if work_tree else start))
    place = start
    while True:
        candidate = os.path.join(place, ".git")
        git_dir = _resolved(candidate)
        if _is_git_dir(git_dir):
            return _repository(git_dir, place)
        if _is_git_dir(place):
            return _repository(place, _tree_of(place, place))
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


def _repository(git_dir: str, top: "str | None") -> Repository:
    pointer = _first_line(os.path.join(git_dir, "commondir"))
    if pointer is None:
        # From a git dir that lies elsewhere no linked worktree finds the main one, unless git keeps it there.
        is_apart = top is not None and git_dir != os.path.join(top, ".git") and not _names_its_tree(git_dir)
        return Repository(git_dir, git_dir, top, _around(git_dir) if is_apart else None)
    common = os.path.normpath(os.path.join(git_dir, pointer))
    if os.path.basename(common) == ".git":
        return Repository(git_dir, common, os.path.dirname(common))
    # A linked worktree of a bare repository, or of one whose git dir lies elsewhere.
    return Repository(git_dir, common, None)


def _around(git_dir: str) -> str:
    return os.path.dirname(git_dir) if os.path.basename(git_dir) == ".git" else git_dir


def _names_its_tree(git_dir: str) -> bool:
    """Whether the git dir is that of a submodule or another whose configuration names the working tree."""
    try:
        with open(os.path.join(git_dir, "config"), "rb") as file:
            lines = file.read(1 << 18).splitlines()
    except OSError:
        return False
    return any(line.strip().lower().replace(b" ", b"").startswith(b"worktree=") for line in lines)


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

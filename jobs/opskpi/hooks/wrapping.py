"""Running the command of a hook untouched, and recording afterwards what became of it.

The command starts before anything else is imported or looked up. It has our stdin, stdout and stderr; its environment
has one more variable, the name of the file in which it may report.
"""

import errno
import os
import sys
import time

from opskpi.hooks import switch
from opskpi.hooks.forwarding import INTERRUPTING, Forwarding, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

REPORT = "OPSKPI_HOOK_REPORT"
MARKER = "opskpi-pre-commit"
# The folder beside that of the hooks which holds the originals under their own names ends so.
FOLDER_ENDING = ".opskpi-original"
NOT_EXECUTABLE, NOT_FOUND = 126, 127
_LONGEST_REPORT = 1 << 18


def previous_command(original: str, via: str, arguments: "list[str]") -> "list[str]":
    """The command of a hook of the previous release: `via` is the shell that reads the file under its old name."""
    if not via:
        return [original, *arguments]
    name = original.removesuffix(".opskpi-original")
    return [*via.split(), "-c", '. "$0.opskpi-original"', name, *arguments]


def run_and_exit(
    hook_type: str, command: "list[str]", git_process: "int | None" = None, *, is_gits: bool = False
) -> "NoReturn":
    """`run`, and end this process as the command ended: with its exit code, or by its signal."""
    try:
        status = run(hook_type, command, git_process, is_gits=is_gits)
    except KeyboardInterrupt:
        status = -signal.SIGINT
    if status < 0:
        _die_by(-status)
    os._exit(status)


def run(hook_type: str, command: "list[str]", git_process: "int | None" = None, *, is_gits: bool = False) -> int:
    """Run the command, record a hook_execution, and return its exit code, or minus the signal that ended it.

    `git_process` is the process of the commit whose pre-commit hook this is, for the note that it was not skipped.
    `is_gits` says that git itself would run the command: where it cannot start, the words are git's.
    """
    off = switch.is_off()
    report = None if off else _report_folder()
    forwarding = Forwarding()
    try:
        forwarding.start()
        started = time.monotonic()
        status, recorder = _run(command, report, forwarding, _no_recorder if off else _recorder, is_gits)
        ended = forwarding.child_ended or time.monotonic()
        if recorder is not None:
            result = _result(status, is_interrupted=forwarding.interrupted)
            _finish(recorder, hook_type, result, (ended - started) * 1000, report=report, git_process=git_process)
    finally:
        forwarding.stop()
    return status


def _result(status: int, *, is_interrupted: bool) -> str:
    """The result of an exit code, or of minus a signal: only a hook that ran to its end has decided something."""
    if status == 0:
        return "allowed"
    number = -status if status < 0 else status - 128
    if is_interrupted or number in INTERRUPTING:
        return "interrupted"
    # As in a shell, which says the same for a hook whose interpreter or last command is not there.
    return "failed" if status < 0 or status in {NOT_EXECUTABLE, NOT_FOUND} else "blocked"


def _run(command: "list[str]", report: "str | None", forwarding: "Forwarding", prepare, is_gits: bool):
    """Return the status and what `prepare` returned; that is called while the command runs."""
    environment = dict(os.environ)
    if report is not None:
        environment[REPORT] = os.path.join(report, "report.json")
    else:
        environment.pop(REPORT, None)
    try:
        child = _spawn(command, environment)
    except OSError as error:
        return _not_started(command, error, is_gits=is_gits), prepare()
    forwarding.to(child)
    prepared = prepare()
    _, status = os.waitpid(child, 0)
    forwarding.to(None)
    return os.waitstatus_to_exitcode(status), prepared


def _spawn(command: "list[str]", environment: "dict[str, str]") -> int:
    # Python ignores these two, and what is ignored stays so in a child.
    defaults = [signal.SIGPIPE, signal.SIGXFSZ]
    try:
        return os.posix_spawnp(command[0], command, environment, setsigdef=defaults)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        # A script without a first line that names its interpreter; git and every shell give it to sh.
        import shutil  # noqa: PLC0415

        script = shutil.which(command[0]) or command[0]
        return os.posix_spawn("/bin/sh", ["sh", script, *command[1:]], environment, setsigdef=defaults)


def _not_started(command: "list[str]", error: OSError, *, is_gits: bool) -> int:
    is_missing = error.errno in {errno.ENOENT, errno.ENOTDIR}
    reason = os.strerror(error.errno or errno.EACCES)
    if not is_gits:
        said = f"opskpi: {command[0]}: {'not found' if is_missing else reason}"
    else:
        hook = command[0].replace(f"{FOLDER_ENDING}/", "/")
        said = f"fatal: cannot run {hook}: {reason}" if is_missing else f"fatal: cannot exec '{hook}': {reason}"
    try:
        os.write(2, f"{said}\n".encode("utf-8", "surrogateescape"))
    except OSError:
        pass
    return NOT_FOUND if is_missing else NOT_EXECUTABLE


def _report_folder() -> "str | None":
    """A new folder that only this user enters, for the report; None where there is no place for one."""
    place = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - the folder in it is private and its name random
    path = os.path.join(os.path.abspath(place), f"opskpi-hook-{os.urandom(8).hex()}")
    try:
        os.mkdir(path, 0o700)
    except OSError:
        return None
    return path


def _recorder():
    """Import what records, while the command runs."""
    try:
        from opskpi.hooks import recording  # noqa: PLC0415
    except Exception:  # noqa: BLE001 - a broken installation must not break the hook
        return None
    return recording


def _no_recorder() -> None:
    return None


def _finish(recording, hook_type, result, duration_ms, *, report, git_process) -> None:
    try:
        if hook_type == "pre-commit" and git_process is not None:
            _leave_marker(git_process)
    except OSError:
        pass  # the event is there all the same
    try:
        metrics, is_malformed = _read_report(report)
        metrics.setdefault("result", result)
        metrics |= {"hook_type": hook_type, "duration_ms": round(max(duration_ms, 0.0), 1)}
        recording.record("hook_execution", metrics, "malformed_report" if is_malformed else "", folder=_folder())
    except Exception:  # noqa: BLE001 - the hook's result stands, whatever becomes of the record
        return


def _folder() -> str:
    from opskpi.hooks import places  # noqa: PLC0415

    return places.folder()


def _read_report(folder: "str | None") -> "tuple[dict[str, object], bool]":
    """What the command reported, and whether it reported something that cannot be used; both files are removed."""
    if folder is None:
        return {}, False
    path = os.path.join(folder, "report.json")
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}, False
    except OSError:
        return {}, True
    else:
        try:
            raw = os.read(file, _LONGEST_REPORT)
        except OSError:
            raw = b""
        os.close(file)
    finally:
        _remove(folder)
    return _understood(raw)


def _understood(raw: bytes) -> "tuple[dict[str, object], bool]":
    from opskpi.hooks import events, plain_json  # noqa: PLC0415

    if not raw.strip():
        return {}, False
    reported = plain_json.read_object(raw)
    keys = ("result", "findings_summary", "user_actions", "override_reason")
    metrics = {key: reported[key] for key in keys if reported.get(key) is not None}
    try:
        events.cleaned("hook_execution", {"hook_type": "pre-commit", "duration_ms": 0, "result": "allowed"} | metrics)
    except events.Malformed:
        return {}, True
    return metrics, not reported and raw.strip() != b"{}"


def _remove(folder: str) -> None:
    """Remove the folder of a report, with whatever the command has put there."""
    try:
        if os.path.islink(folder):
            os.unlink(folder)
            return
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                _remove(entry.path)
            else:
                os.unlink(entry.path)
        os.rmdir(folder)
    except (OSError, RecursionError):
        return


def _leave_marker(git_process: int) -> None:
    """Note which `git commit` ran its pre-commit hook; the post-commit hook of the same process looks for it."""
    from opskpi.hooks import places  # noqa: PLC0415

    found = places.repository()
    if found is None:
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    path = os.path.join(found.git_dir, MARKER)
    try:
        file = os.open(path, flags, 0o600)
    except OSError:
        # Of another user, such as root who committed here once; the folder is ours.
        os.unlink(path)
        file = os.open(path, flags, 0o600)
    os.write(file, f"{git_process}\n".encode("ascii"))
    os.close(file)


def _die_by(number: int) -> "NoReturn":
    """End by the signal that ended the command, so that the caller sees the same; without a second core dump."""
    try:
        import resource  # noqa: PLC0415

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        pass
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    sys.stdout, sys.stderr = None, None
    os.kill(os.getpid(), number)
    os._exit(128 + number)

"""Putting an event into the queue, and starting the process that sends when one is due; without raising or waiting."""

import os
import sys
import time

from opskpi.hooks import events, identity, places, plain_json, queue_file, switch
from opskpi.hooks.storage import Folder

ENTRY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "entry.py")
SETTINGS, POLICY, STATE = "settings.json", "policy.json", "telemetry-state.json"
LONGEST_FILE = 1 << 18
DUE_EVENTS = 100
DUE_S, HOUR_S, DAY_S = 300, 3600, 86400
LONG_LIVED_S = 30

_senders: set[int] = set()
_shutdown: dict[str, int] = {}
_started = time.monotonic()


def record(kind: str, metrics: "dict[str, object]", dropped: str = "", folder: "str | None" = None) -> bool:
    """Queue one event; `dropped` names a reason to count besides. False when nothing was kept; never raises."""
    try:
        if switch.is_off():
            return False
        path = folder or places.folder()
        kept = _record(path, kind, metrics, dropped)
        if folder is None:
            _at_shutdown(path)
    except Exception:  # noqa: BLE001 - whatever goes wrong here must not become the hook's failure
        return False
    return kept


def settings(folder: Folder) -> "dict[str, object]":
    """What `hook install` wrote; empty when nothing."""
    return plain_json.read_object(folder.read(SETTINGS, LONGEST_FILE))


def policy(folder: Folder) -> "tuple[bool, int | None, float]":
    """From the cached policy: whether to record, its version (None without one), and when it was fetched (seconds)."""
    cached = plain_json.read_object(folder.read(POLICY, LONGEST_FILE))
    version, fetched = cached.get("version"), cached.get("fetched_at")
    rules = cached.get("policy")
    telemetry = rules.get("telemetry") if isinstance(rules, dict) else None
    enabled = not (isinstance(telemetry, dict) and telemetry.get("enabled") is False)
    return (
        enabled,
        version if isinstance(version, int) and not isinstance(version, bool) else None,
        float(fetched) if isinstance(fetched, int | float) else 0.0,
    )


def _record(path: str, kind: str, metrics: "dict[str, object]", dropped: str) -> bool:
    now = time.time()
    with Folder(path) as folder:
        chosen = settings(folder)
        enabled, version, fetched_at = policy(folder)
        if not enabled:
            # Somebody has to notice when the policy changes.
            if chosen and not _is_within(fetched_at, now, DUE_S):
                _send_if_due(folder, chosen, 0, "", now)
            return False
        org = chosen.get("org_id")
        common = {
            "agent_id": identity.agent_id(),
            "org_id": org if events.is_uuid(org) else events.NIL_ORG,
            "policy_version": version,
        }
        try:
            event = events.build(kind, metrics, common, events.now_stamp(now))
        except events.Malformed:
            event, dropped = None, "malformed_event"
        try:
            with queue_file.Queue(folder) as queue:
                if event is not None:
                    queue.lines.append(events.line(event))
                if dropped:
                    queue.drop(dropped)
                queue.save(now)
                length, oldest = len(queue.lines), queue_file.stamp(queue.lines[0]).decode() if queue.lines else ""
        except queue_file.Locked:
            if event is not None:
                queue_file.spool(folder, event)
            return event is not None
        _send_if_due(folder, chosen, length, oldest, now)
    return event is not None


def _send_if_due(folder: Folder, chosen: "dict[str, object]", length: int, oldest: str, now: float) -> None:
    """Start the sender at 100 events, or when the oldest event or last try is 5 minutes old, unless it must wait."""
    if not chosen.get("target"):
        return
    state = plain_json.read_object(folder.read(STATE, LONGEST_FILE))
    if must_wait(state, chosen, now):
        return
    is_old = bool(oldest) and oldest < events.now_stamp(now - DUE_S)
    if length >= DUE_EVENTS or is_old or not _is_within(state.get("last_try_at"), now, DUE_S):
        start_sender(folder.path)


def must_wait(state: "dict[str, object]", chosen: "dict[str, object]", now: float) -> bool:
    """Whether an earlier answer, or none, said not to try before a later instant than `now`."""
    if lies_ahead(state.get("next_try_at"), now, DUE_S) or lies_ahead(state.get("not_before"), now, DAY_S):
        return True
    pause = state.get("pause")
    if not isinstance(pause, dict) or not lies_ahead(pause.get("until"), now, HOUR_S):
        return False
    return pause.get("fingerprint") == fingerprint(chosen)


def fingerprint(chosen: "dict[str, object]") -> str:
    """Changes when the settings or the key do; says nothing about either."""
    from binascii import crc32  # noqa: PLC0415

    key_file = chosen.get("key_file")
    marks = [repr(sorted((key, str(value)) for key, value in chosen.items())), os.environ.get("OPSKPI_API_KEY", "")]
    try:
        marks.append(str(os.stat(key_file).st_mtime_ns) if isinstance(key_file, str) else "")
    except OSError:
        marks.append("none")
    return f"{crc32(chr(0).join(marks).encode('utf-8', 'replace')):08x}"


def start_sender(path: str) -> None:
    """Start the detached process that sends; one that finds another at work ends at once."""
    _reap()
    if not sys.executable:
        return
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]
    command = [sys.executable, "-I", ENTRY, "send", path]
    try:
        started = os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)
    except NotImplementedError:
        # Where the system's posix_spawn cannot (setsid), the sender leaves our session by itself, a moment later.
        started = os.posix_spawn(sys.executable, command, environment, file_actions=actions)
    _senders.add(started)


def _reap() -> None:
    """A process that lives long must not collect the ended senders."""
    for sender in list(_senders):
        try:
            ended, _ = os.waitpid(sender, os.WNOHANG)
        except ChildProcessError:
            ended = sender
        if ended:
            _senders.discard(sender)


def _at_shutdown(path: str) -> None:
    """Once a process and folder: what is queued is sent when a process that lived long ends."""
    if _shutdown.get(path) == os.getpid():
        return
    import atexit  # noqa: PLC0415

    _shutdown[path] = os.getpid()
    atexit.register(_send_at_shutdown, path, os.getpid())


def _send_at_shutdown(path: str, recorded_by: int) -> None:
    if os.getpid() != recorded_by or time.monotonic() - _started < LONG_LIVED_S or switch.is_off():
        return
    try:
        with Folder(path, create=False) as folder:
            chosen = settings(folder)
            state = plain_json.read_object(folder.read(STATE, LONGEST_FILE))
            if chosen.get("target") and not must_wait(state, chosen, time.time()):
                start_sender(path)
    except Exception:  # noqa: BLE001 - nothing may be printed while an interpreter ends
        return


def lies_ahead(instant: object, now: float, longest: float) -> bool:
    """Whether an instant (seconds) is yet to come; one beyond the longest such wait is from a clock that was wrong."""
    return isinstance(instant, int | float) and now < instant <= now + longest


def _is_within(instant: object, now: float, seconds: float) -> bool:
    return isinstance(instant, int | float) and now - seconds < instant <= now

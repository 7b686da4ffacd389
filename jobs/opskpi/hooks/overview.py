"""What the commands show of the queue, and how they change the settings."""

import json
import os
import subprocess
import sys

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.hooks import (
    earlier,
    events,
    hook_states,
    identity,
    installing,
    losses,
    places,
    plain_json,
    policy,
    queue_file,
    refusals,
    reports,
    schedule,
    settings,
    shims,
    starting,
    state,
    switch,
    targets,
    trust,
)
from opskpi.hooks.storage import Folder

WARNED = "telemetry-warned.json"
_SENDERS_STARTING = 10
_OWN_FILES = (
    *(settings.NAME, policy.NAME, schedule.STATE, WARNED),
    *(queue_file.NAME, queue_file.LOCK, reports.LOCK, refusals.NAME, losses.NAME),
)


def status() -> dict[str, object]:
    """Everything about the queue here: sizes in events and bytes, instants as stamps, None for what never happened."""
    path = places.folder()
    answer: dict[str, object] = {
        "folder": path,
        "recording": not switch.is_off(),
        "agent_id": identity.agent_id(),
        "queue": {"events": 0, "bytes": 0, "oldest": None, "dropped": {}},
    }
    answer |= {"hooks": _hooks(), "distrust": _distrust(path), "earlier": _earlier(path)}
    try:
        with Folder(path, create=False) as folder:
            return answer | _status_of(folder)
    except FileNotFoundError:
        nothing = {"settings": {}, "policy": policy.BUILT_IN, "refused": 0, "resendable": 0, "damaged_files": 0}
        return answer | nothing | _outlook({}, state.State())
    except OSError as error:
        raise OpsKpiError(
            f"{path} cannot be used: {error.strerror or error}; nothing is recorded",
            "It must be a folder of yours, no link; remove or repair it.",
            ExitCode.CONFIGURATION,
        ) from error
    except queue_file.Locked:
        raise _locked() from None


def upcoming() -> list[dict[str, str]]:
    """The requests that would be made for what is queued now, in their order: method, url and body, exactly."""
    try:
        with Folder(places.folder(), create=False) as folder:
            earlier.Earlier(folder.path).drain(folder)
            chosen = settings.read(folder)
            target = targets.of(chosen) or targets.Target("hub", "", None, targets.org_of(chosen))
            with queue_file.Queue(folder) as queue:
                queue.save()
                queued = [json.loads(entry) for entry in queue.lines]
    except FileNotFoundError:
        return []
    except queue_file.Locked:
        raise _locked() from None
    batches = [queued[start : start + reports.BATCH] for start in range(0, len(queued), reports.BATCH)]
    return [
        {"method": "POST", "url": target.ingest_url(), "body": targets.body(target, batch).decode("ascii")}
        for batch in batches
    ]


def flush(*, resend: bool = False) -> reports.Report:
    """Send now, with `resend` also what was refused for its time.

    Raises OpsKpiError where not everything could be sent, TRY_LATER or CONFIGURATION by the reason.
    """
    path = places.folder()
    if not os.path.isdir(path):
        if not earlier.Earlier(path).count():
            return reports.Report()
        with Folder(path):
            pass
    # A process of its own, because a name look-up that hangs cannot be ended otherwise.
    command = [sys.executable, "-I", starting.ENTRY, "send", path, "--foreground", *["--resend"] * resend]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    try:
        report = reports.Report(**json.loads(answer.stdout))
    except (ValueError, TypeError):
        raise OpsKpiError(f"nothing could be sent from {path}", "`opskpi hook status` says more.") from None
    if report.stopped == "busy":
        raise OpsKpiError(report.reason, "Try again when it is done.", ExitCode.TRY_LATER)
    if report.stopped and (report.left or resend or report.stopped in {"no_target", "paused"}):
        raise _unsent(report)
    return report


def warning(shown_by: str) -> str | None:
    """The warning about a pause, once for each of those who show it ("status", "command")."""
    try:
        with Folder(places.folder(), create=False) as folder:
            pause = state.load(folder).pause
            if pause is None:
                return None
            shown = plain_json.read_object(folder.read(WARNED, 4096))
            if shown.get(shown_by) == pause.get("since"):
                return None
            folder.write(WARNED, plain_json.dumps(shown | {shown_by: pause.get("since")}).encode("ascii"))
            return f"opskpi: nothing is sent for now: {pause.get('reason')}"
    except OSError:
        return None


def refused_for_good() -> list[str]:
    """Sentences about the events that were refused for good, one each."""
    try:
        with Folder(places.folder(), create=False) as folder:
            kept, _ = refusals.load(folder)
    except OSError:
        return []
    return [refusals.sentence(event) for event in kept if refusals.is_for_good(event)]


def clear(*, purge: bool) -> int:
    """Remove the `.sentinel` folder unless events in it are to be sent (`purge`: anyway); return how many those are."""
    repository = installing.here()
    path = repository.folder
    left = _cleared(path, purge=purge)
    old = earlier.Earlier(path)
    if old.path is not None and not old.distrust():
        left += _cleared(old.path, purge=purge)
    if not left:
        installing.forget(repository)
    return left


def _cleared(path: str, *, purge: bool) -> int:
    try:
        with Folder(path, create=False) as folder:
            with queue_file.Queue(folder) as queue:
                left = 0 if purge else len(queue.lines)
            if not left:
                _remove_own_files(folder)
    except FileNotFoundError:
        return 0
    except queue_file.Locked:
        raise _locked() from None
    except OSError as error:
        raise OpsKpiError(f"{path} cannot be removed: {error.strerror}", "", ExitCode.CONFIGURATION) from error
    if not left:
        _remove_folder(path)
    return left


def _remove_own_files(folder: Folder) -> None:
    for name in folder.names():
        if name.removesuffix(".tmp") in _OWN_FILES or name.startswith((queue_file.DAMAGED, queue_file.SPOOL)):
            folder.remove(name)


def _remove_folder(path: str) -> None:
    # A sender that was just starting may make its lock in the meantime; files of others stay, and the folder with them.
    for _ in range(_SENDERS_STARTING):
        try:
            with Folder(path, create=False) as folder:
                _remove_own_files(folder)
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError:
            continue
        return


def _status_of(folder: Folder) -> dict[str, object]:
    with queue_file.Queue(folder) as queue:
        queue.save()
        dropped = dict(queue.dropped)
        stamps = sorted(queue_file.stamp(entry).decode("ascii") for entry in queue.lines)
    size = len(folder.read(queue_file.NAME, 1 << 24) or b"")
    chosen = settings.read(folder)
    remembered = state.load(folder)
    names = folder.names()
    refused, _ = refusals.load(folder)
    return {
        "queue": {"events": len(stamps), "bytes": size, "oldest": stamps[0] if stamps else None, "dropped": dropped},
        "settings": chosen,
        "policy": policy.document(folder),
        "refused": len(refused),
        "resendable": sum(not refusals.is_for_good(event) for event in refused),
        "damaged_files": sum(name.startswith(queue_file.DAMAGED) for name in names),
    } | _outlook(chosen, remembered)


def _outlook(chosen: dict[str, object], remembered: state.State) -> dict[str, object]:
    target = targets.of(chosen)
    error = remembered.last_error
    pause = remembered.pause
    now = state.clock()
    holds = pause is not None and schedule.holds(pause, chosen, now)
    return {
        "target": None
        if target is None
        else {"kind": target.kind, "url": target.ingest_url(), "key": _key_state(target)},
        "last_success": _stamp(remembered.last_success_at),
        "last_error": None if error is None else {"at": _stamp(error.get("at")), "reason": error.get("reason")},
        "paused": None
        if pause is None or not holds
        else {"until": _stamp(pause.get("until")), "reason": pause.get("reason")},
        "next_try": _stamp(next_try)
        if (next_try := max(remembered.next_try_at, remembered.not_before)) > now
        else None,
        "sent": remembered.sent,
    }


def _hooks() -> dict[str, str]:
    try:
        repository = installing.here()
        folder = installing.hooks_folder(repository, force_shared=True)
        return hook_states.states(repository, installing.tree_here(repository), folder)
    except OpsKpiError:
        return {}


def has_hooks() -> bool:
    """Whether a hook of ours is installed in the repository here."""
    try:
        folder = installing.hooks_folder(installing.here(), force_shared=True)
    except OpsKpiError:
        return False
    return any(shims.is_ours(str(folder / name)) for name in installing.NAMES)


def _distrust(path: str) -> str | None:
    """Why this repository, or the settings in its folder, are not used, in words; None where they are."""
    found = places.repository()
    try:
        reason = (found.distrust() if found else "") or trust.fault(os.path.join(path, settings.NAME), 2)
    except OSError:
        return None  # opening the folder says why
    return reason or None


def _earlier(path: str) -> dict[str, object] | None:
    """The remains of the first releases in the working tree: events, and why they are left alone; None without any."""
    old = earlier.Earlier(path)
    if old.path is None or not (old.count() or os.path.lexists(os.path.join(old.path, settings.NAME))):
        return None
    has_settings = os.path.lexists(os.path.join(old.path, settings.NAME))
    return {"folder": old.path, "events": old.count(), "settings": has_settings, "distrust": old.distrust() or None}


def _key_state(target: targets.Target) -> str:
    try:
        target.key()
    except targets.Misconfigured as error:
        return str(error)
    return f"from {targets.KEY_VARIABLE}" if os.environ.get(targets.KEY_VARIABLE) else f"from {target.key_file}"


def _stamp(instant: object) -> str | None:
    return events.now_stamp(float(instant)) if isinstance(instant, int | float) and instant > 0 else None


def _unsent(report: reports.Report) -> OpsKpiError:
    left = f"{report.left} events are still queued"
    if report.stopped == "no_target":
        return OpsKpiError(
            f"{left}: {report.reason}",
            "Name one: opskpi hook install --hub URL --org UUID --key-file PATH",
            ExitCode.CONFIGURATION,
        )
    if report.stopped in {"paused", "off"}:
        return OpsKpiError(f"{left}: {report.reason}", "They are kept; mend it and try again.", ExitCode.CONFIGURATION)
    if report.stopped == "clock":
        return OpsKpiError(report.reason, "Set it, then run `opskpi hook resend` again.", ExitCode.CONFIGURATION)
    when = f" in {report.wait_s:.0f} s" if report.wait_s else ""
    return OpsKpiError(f"{left}: {report.reason}", f"They are kept; try again{when}.", ExitCode.TRY_LATER)


def _locked() -> OpsKpiError:
    return OpsKpiError("another process has had the queue for a while", "Try again.", ExitCode.TRY_LATER)

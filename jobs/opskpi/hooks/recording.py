"""Putting an event into the queue, and starting the process that sends when one is due; without raising or waiting."""

import time

from opskpi.hooks import events, identity, losses, places, policy, queue_file, schedule, settings, starting, switch
from opskpi.hooks.storage import Folder


def record(kind: str, metrics: "dict[str, object]", dropped: str = "", folder: "str | None" = None) -> bool:
    """Queue one event; `dropped` names a reason to count besides. False when nothing was kept; never raises."""
    try:
        if switch.is_off():
            return False
        path = folder or places.folder()
        kept = _record(path, kind, metrics, dropped)
        if folder is None:
            starting.at_shutdown(path)
    except Exception:  # noqa: BLE001 - whatever goes wrong here must not become the hook's failure
        return False
    return kept


def _record(path: str, kind: str, metrics: "dict[str, object]", dropped: str) -> bool:
    now = time.time()
    with Folder(path) as folder:
        chosen = settings.read(folder)
        enabled, version, fetched_at = policy.read(folder)
        if not enabled:
            # Somebody has to notice when the policy changes.
            if chosen and not schedule.is_within(fetched_at, now, schedule.DUE_S):
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
            kept = _queued(folder, event, dropped, now)
        except queue_file.Locked:
            losses.count(folder, "lock")
            raise
        except OSError as error:
            losses.count(folder, losses.reason_of(error))
            raise
        if kept is not None:
            _send_if_due(folder, chosen, *kept, now)
    return event is not None


def _queued(folder: Folder, event: "dict[str, object] | None", dropped: str, now: float) -> "tuple[int, str] | None":
    """Put an event into the queue; its length and oldest stamp, None where another process has it (then it is spooled).

    Raises Locked and OSError where the event could not be kept.
    """
    try:
        with queue_file.Queue(folder) as queue:
            if dropped:
                queue.drop(dropped)
            if event is not None:
                queue.add(event)
            queue.save(now)
            return len(queue.lines), queue_file.stamp(queue.lines[0]).decode() if queue.lines else ""
    except queue_file.Locked:
        if dropped:
            losses.count(folder, dropped)
        if event is not None:
            queue_file.spool(folder, event)
        return None


def _send_if_due(folder: Folder, chosen: "dict[str, object]", length: int, oldest: str, now: float) -> None:
    """Start the sender where a target is named and sending is due and allowed."""
    if not chosen.get("target"):
        return
    state = schedule.remembered(folder)
    if not schedule.must_wait(state, chosen, now) and schedule.is_due(state, length, oldest, now):
        starting.start_sender(folder.path)

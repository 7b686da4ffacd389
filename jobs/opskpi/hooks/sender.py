"""Sending what is queued: one process at a time, at most 50 at once; an event leaves the queue when it has arrived."""

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict

from opskpi.hooks import (
    answers,
    distrust,
    earlier,
    events,
    policy,
    policy_fetching,
    queue_file,
    refusals,
    requests,
    schedule,
    settings,
    state,
    switch,
    targets,
)
from opskpi.hooks.reports import BATCH, LOCK, Report
from opskpi.hooks.storage import Folder

LONGEST_RUN_S = 900.0
# As long as a request may take, and a little.
OTHER_SENDER_S = 8.0
_CLOSED_UP_TO = 256

Event = dict[str, object]


def main(arguments: list[str]) -> None:
    """`send FOLDER` detached and silent, or `send FOLDER --foreground`, which prints the report; does not return.

    With `--resend` besides, what was refused for its time is sent again.
    """
    foreground = "--foreground" in arguments
    try:
        if not foreground:
            _detach()
        wait = OTHER_SENDER_S if foreground else 0
        report = run(arguments[0], foreground=foreground, resend="--resend" in arguments, wait=wait)
        if foreground:
            sys.stdout.write(json.dumps(asdict(report)) + "\n")
            sys.stdout.flush()
    except Exception:  # noqa: BLE001 - nobody is there to read it; the events are still queued
        os._exit(1)
    # Not sys.exit: a thread that still looks up a name would keep the process.
    os._exit(0)


def _detach() -> None:
    """Leave the terminal, the folder, and whatever was open in who started us: nobody waits for our end."""
    try:
        os.setsid()
    except PermissionError:
        pass  # it is the head of a session already
    os.chdir("/")
    os.closerange(3, _CLOSED_UP_TO)
    os.nice(10)


def run(path: str, *, foreground: bool, resend: bool = False, wait: float = 0) -> Report:
    """Send until nothing is left or it has to stop.

    In the foreground earlier failures and pauses do not count, and it does not wait for a slot. `resend` queues again
    what was refused for its time. `wait` is how many seconds another sender may take to end.

    Raises OSError where the folder cannot be written.
    """
    if switch.is_off():
        return Report(stopped="off", reason="DO_NOT_TRACK or OPSKPI_TELEMETRY=0 is set")
    if reason := distrust.reason_for(path):
        return Report(stopped="paused", reason=reason)
    with Folder(path, create=False) as folder:
        lock = folder.lock(LOCK, wait)
        if lock is None:
            return Report(stopped="busy", reason="another process is sending")
        try:
            one_run = _Run(folder, foreground=foreground, resend=resend)
            try:
                return one_run.to_the_end()
            finally:
                one_run.close()
        finally:
            folder.unlock(lock)


class _Run:
    def __init__(self, folder: Folder, *, foreground: bool, resend: bool) -> None:
        self._folder = folder
        self._foreground = foreground
        self._resend = resend
        self._settings = settings.read(folder)
        self._state = state.load(folder)
        self._report = Report()
        self._loop = asyncio.new_event_loop()
        self._until = time.monotonic() + LONGEST_RUN_S
        self._newest_policy: int | None = None

    def to_the_end(self) -> Report:
        target = targets.of(self._settings)
        self._drain_earlier()
        if target is None:
            self._stop("no_target", "no hub or Supabase project is set")
        elif not self._must_wait():
            if self._resend:
                self._queue_refused(target)
            self._send_all(target)
            self._refresh_policy(target)
        self._report.left = len(self._queued(None))
        return self._report

    def close(self) -> None:
        """Let go of the connections; a thread that still looks up a name is not waited for."""
        # Python 3.13 warns of a generator that its loop leaves open.
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _must_wait(self) -> bool:
        now = state.clock()
        if self._foreground:
            wait = self._state.not_before - now
            if 0 < wait <= schedule.DAY_S:
                self._stop("retry", "the other side asked to wait", wait)
            return bool(self._report.stopped)
        return schedule.must_wait(asdict(self._state), self._settings, now)

    def _drain_earlier(self) -> None:
        try:
            earlier.Earlier(self._folder.path).drain(self._folder)
        except (OSError, queue_file.Locked):
            return  # the next run finds them

    def _queue_refused(self, target: targets.Target) -> None:
        """Queue again what was refused for its time, once the clocks here and there agree."""
        if not self._take_slot():
            return
        reply = requests.fetch_policy(self._loop, target, None)
        now = state.clock()
        if not isinstance(reply, targets.Answered):
            self._stop("retry", reply.reason)
            return
        if reply.date is not None and abs(now - reply.date) > refusals.WRONG_BY_S:
            off_by = round(abs(now - reply.date))
            self._stop("clock", f"the clock here is {off_by} s {'ahead' if now > reply.date else 'behind'}")
            return
        kept, _ = refusals.load(self._folder)
        again = [event for event in (refusals.corrected(event, now) for event in kept) if event is not None]
        with queue_file.Queue(self._folder, wait=30) as queue:
            known = set(map(queue_file.event_id, queue.lines))
            queue.lines += [line for line in map(events.line, again) if queue_file.event_id(line) not in known]
            queue.lines.sort(key=queue_file.stamp)
            queue.save()
        if again:
            # After the queue has them: a kill between leaves them in both, and they are stored once.
            refusals.forget(self._folder, refusals.ids_of(again))
        self._report.resent = len(again)

    def _send_all(self, target: targets.Target) -> None:
        while not self._report.stopped and time.monotonic() < self._until:
            batch = self._queued(BATCH)
            if not batch:
                break
            self._deliver(target, batch)

    def _deliver(self, target: targets.Target, batch: list[Event]) -> None:
        """Send a batch; where it is refused as a whole, its halves, until it is known which event is at fault."""
        if not self._take_slot():
            return
        reply = requests.send(self._loop, target, batch)
        outcome = answers.of_batch(reply, len(batch))
        now = state.clock()
        date = reply.date if isinstance(reply, targets.Answered) else None
        if isinstance(outcome, answers.Taken):
            self._newest_policy = outcome.policy_version
            self._settle(batch, outcome, now, date)
        elif isinstance(outcome, answers.Unacceptable):
            if len(batch) > 1:
                middle = len(batch) // 2
                for half in (batch[:middle], batch[middle:]):
                    if not self._report.stopped:
                        self._deliver(target, half)
            else:
                self._settle(batch, answers.Taken(0, 0, {0: ("", outcome.reason)}, None), now, date)
        elif isinstance(outcome, answers.Later):
            self._state.note_failure(now, outcome.reason, outcome.after)
            state.save(self._folder, self._state)
            self._stop("retry", outcome.reason, max(self._state.not_before - now, 0))
        else:
            self._pause(outcome.reason)

    def _settle(self, batch: list[Event], taken: "answers.Taken", now: float, date: float | None) -> None:
        """Keep what was refused, then take the batch out of the queue: a kill between is a repetition, no loss."""
        lost = refusals.keep(self._folder, batch, taken.refused, now, date) if taken.refused else 0
        ids = {_id(event) for event in batch}
        refused = {_id(batch[place]) for place in taken.refused}
        with queue_file.Queue(self._folder, wait=30) as queue:
            queue.drop("refused", lost)
            queue.untell([entry for entry in queue.lines if queue_file.event_id(entry) in refused])
            queue.lines = [entry for entry in queue.lines if queue_file.event_id(entry) not in ids]
            queue.save()
        self._state.note_success(now)
        self._state.sent += taken.accepted + taken.duplicate
        self._state.refused += len(taken.refused)
        state.save(self._folder, self._state)
        self._report.sent += taken.accepted
        self._report.duplicate += taken.duplicate
        self._report.refused += len(taken.refused)

    def _take_slot(self) -> bool:
        """Wait for our turn among ten requests a minute, and note the request before it is made."""
        while (wait := self._state.wait_for_slot(state.clock())) > 0:
            if self._foreground or time.monotonic() + wait > self._until:
                self._stop("limit", f"{state.REQUESTS_A_MINUTE} requests were made within a minute", wait)
                return False
            time.sleep(min(wait, 1.0))
        self._state.note_request(state.clock())
        state.save(self._folder, self._state)
        return True

    def _refresh_policy(self, target: targets.Target) -> None:
        """Ask for the policy when the cached one is 5 minutes old or an answer named a newer one."""
        if self._report.stopped in {"retry", "paused"}:
            return
        _, version, fetched_at = policy.read(self._folder)
        now = state.clock()
        is_newer = self._newest_policy is not None and self._newest_policy > (version or 0)
        tried_at = max(at for at in (fetched_at, self._state.policy_tried_at, 0.0) if at <= now)
        is_due = is_newer or now - tried_at >= schedule.DUE_S
        # Events come first: where the minute is full, the policy waits for the next run.
        if is_due and self._state.wait_for_slot(now) <= 0 and self._take_slot():
            self._state.policy_tried_at = now
            reason = policy_fetching.refresh(self._folder, self._loop, target, now)
            if reason:
                self._state.last_error = {"at": now, "reason": f"policy: {reason}"}
                self._report.warnings.append(f"the policy could not be fetched: {reason}")
            state.save(self._folder, self._state)

    def _queued(self, count: int | None) -> list[Event]:
        with queue_file.Queue(self._folder, wait=30) as queue:
            queue.save()
            try:
                found = [json.loads(entry) for entry in queue.lines]
            except ValueError:
                queue.salvage()
                found = [json.loads(entry) for entry in queue.lines]
        return found[:count]

    def _pause(self, reason: str) -> None:
        self._state.note_pause(state.clock(), reason, settings.fingerprint(self._settings))
        state.save(self._folder, self._state)
        self._stop("paused", reason)

    def _stop(self, why: str, reason: str, wait: float = 0) -> None:
        self._report.stopped, self._report.reason, self._report.wait_s = why, reason, wait


def _id(event: Event) -> bytes:
    return queue_file.event_id(events.line(event))

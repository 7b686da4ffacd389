"""Polls the runs of a repository: since the last time, each page stored as it comes, what was read kept."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github import storing
from opskpi.github.api import GitHub
from opskpi.github.endings import UNKNOWN, Ending, end_of, is_doubtful
from opskpi.github.events import Event, artifact_event, host_of, identify, run_event
from opskpi.github.fields import Json, Malformed, mapping, text, whole
from opskpi.github.listing import LISTED_AT_MOST, Overfull, Page, Repository
from opskpi.github.payloads import Collected, Refusal
from opskpi.github.resuming import Collection, Resume, start_of
from opskpi.github.rules import Rules
from opskpi.github.storing import Summary
from opskpi.orgs import NIL_ORG
from opskpi.postgres.journal import journalled

REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}", re.ASCII)
EARLIER_ATTEMPTS = 50
# A token of a workflow has 1,000 requests an hour, and each new run takes one for its artifacts.
JOBS_ASKED_AT_MOST = 100


def poll(
    connection: psycopg.Connection,
    github: GitHub,
    repository: str,
    rules: Rules,
    *,
    org_id: UUID = NIL_ORG,
    since: datetime | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    now: datetime | None = None,
) -> Summary:
    """Store the runs of `repository` (owner/name) that ended since the last poll, and their artifacts.

    The first poll reads 30 days; `since` reads from an instant on instead of from where the last one was. Once a day
    the last 30 days are read again, since any run of them may have been run again. Each page is stored before the next
    is read; how far the source is, together with the last page: what fails in between is read again and stored once.
    `on_progress` gets the runs done and to do. Raises OpsKpiError, which says how many events were stored before it.
    """
    if not REPOSITORY.fullmatch(repository) or set(repository.split("/")) & {".", ".."}:
        raise OpsKpiError(
            f"{repository!r} is no repository", "Write owner/name, as in octo-org/octo-repo.", ExitCode.BAD_ARGUMENT
        )
    polling = _Poll(connection, github, repository, rules, org_id)
    with journalled(connection, "collect"):
        try:
            polling.run(since, now or datetime.now(UTC), on_progress)
        except OpsKpiError as error:
            polling.store_requests()
            kept = f"; {polling.summary.accepted} events were stored before that" if polling.summary.accepted else ""
            raise OpsKpiError(f"{repository}: {error.message}{kept}", error.hint, error.exit_code) from error
    return polling.summary


class _Poll:
    def __init__(
        self, connection: psycopg.Connection, github: GitHub, repository: str, rules: Rules, org_id: UUID
    ) -> None:  # fmt: skip
        self._connection = connection
        self._github = github
        self._name = repository
        self._repository = Repository(github, repository)
        # Names of repositories do not differ by case alone.
        self._source = f"{github.host}/{repository.lower()}"
        self._rules = rules
        self._org_id = org_id
        self._asked_for_jobs = 0
        self._has_listed_workflows = False
        self.summary = Summary(f"{github.host}/{repository}")

    def run(self, since: datetime | None, now: datetime, on_progress: Callable[[int, int], None]) -> None:
        last = self._last()
        start, swept_at = start_of(last, since, now)
        entity_tag = last.entity_tag if last and start == last.resume_at else None
        # Reading from later on than is due leaves what lies between due.
        moves_on = last is None or start <= last.resume_at
        resume = Resume(start, now)
        done = 0
        for page in self._repository.pages(start, entity_tag):
            if page.overfull:
                self.summary.unlisted.append(_out_of_reach(page.overfull))
            found = self._found(page, resume)
            with self._connection.transaction():
                storing.store(self._connection, found, self.summary, self._org_id)
                if page.is_last and moves_on:
                    # The tag is that of the question which the next poll asks only if it is the same question, and
                    # if this poll took all of its answer.
                    is_whole = resume.at == start and not self.summary.postponed
                    self._record(resume.at, swept_at, page.entity_tag if is_whole else None)
                self.store_requests()
            done += len(page.runs)
            on_progress(done, max(page.total, done))
        if self.summary.postponed:
            self.summary.notes.append(
                f"{self.summary.postponed:,} runs wait for the next poll: their end is read from their jobs, with"
                f" {JOBS_ASKED_AT_MOST} requests per poll"
            )
        if last is None and not done:
            self.summary.notes.append(
                f"no run was listed since {start:%Y-%m-%d}: if there are some, {self._github.token.name} may not read"
                f" Actions. {self._github.token.advice}"
            )

    def store_requests(self) -> None:
        """Store the requests made since the last call as events."""
        requests = self._github.take_requests()
        self.summary.api_requests += len(requests)
        storing.store_requests(self._connection, requests, self._org_id)

    def _found(self, page: Page, resume: Resume) -> list[Collected]:
        """The runs of a page, with the artifacts and earlier attempts of those that are new.

        Where reading these fails, the runs before are stored: a run is known only together with what belongs to it.
        """
        listed = [self._collected(f"run {number + 1}", run, resume) for number, run in enumerate(page.runs)]
        known = storing.known(self._connection, (one.event for one in listed if one.event), self._org_id)
        self._meet_workflows([one for one in listed if one.event and one.event["event_id"] not in known])
        complete: list[Collected] = []
        try:
            for collected, run in zip(listed, page.runs, strict=True):
                attempts = self._missing_attempts(run)
                is_new = collected.event is not None and collected.event["event_id"] not in known
                asks = is_new and is_doubtful(mapping(run))
                if (asks or attempts) and self._asked_for_jobs >= JOBS_ASKED_AT_MOST:
                    self.summary.postponed += 1
                    resume.note(run, is_going=True)
                    continue
                for attempt in attempts:
                    complete += self._earlier_attempt(run, attempt)
                if is_new:
                    found = (
                        self._judged(collected.place, partial(self._event, run, self._ending(run)))
                        if asks
                        else collected
                    )
                    complete += [*self._artifacts(whole(mapping(run), "id")), found]
                else:
                    complete.append(collected)
        except OpsKpiError:
            storing.store(self._connection, complete, self.summary, self._org_id)
            raise
        return complete

    def _collected(self, place: str, run: object, resume: Resume) -> Collected:
        collected = self._judged(f"{self._name}: {place}", partial(self._event, run))
        if not collected.refusal:
            resume.note(run, is_going=collected.event is None)
        return collected

    def _meet_workflows(self, found: list[Collected]) -> None:
        """Note the workflows of new runs, with all of the repository when one of them is met for the first time.

        Two of one name then have labels of their own from the first run on, in whatever order they run.
        """
        met = storing.workflows_of(found)
        is_listed = any(one["workflow_id"] for one in met) and not self._has_listed_workflows
        if is_listed and not storing.knows_workflows(self._connection, met, self._org_id):
            self._has_listed_workflows = True
            for described in self._repository.workflows():
                with suppress(Malformed):
                    one = mapping(described)
                    known = {"workflow": text(one, "name"), "workflow_path": text(one, "path")}
                    met.append({"repository": met[0]["repository"], "workflow_id": whole(one, "id")} | known)
        storing.note_workflows(self._connection, met, self._org_id)

    def _missing_attempts(self, run: object) -> list[int]:
        """The earlier attempts that nobody has seen: the list shows the latest attempt of a run only."""
        try:
            run = mapping(run)
            number, attempts = whole(run, "id"), whole(run, "run_attempt", default=1)
            host = host_of(run, self._github.host)
        except Malformed:
            return []
        earlier = range(max(attempts - EARLIER_ATTEMPTS, 1), attempts)
        ids = {attempt: str(identify("run", host, number, attempt)) for attempt in earlier}
        known = storing.known(self._connection, [{"event_id": event_id} for event_id in ids.values()], self._org_id)
        return [attempt for attempt, event_id in ids.items() if event_id not in known]

    def _earlier_attempt(self, run: object, attempt: int) -> Iterator[Collected]:
        number = whole(mapping(run), "id")
        found = self._repository.attempt(number, attempt)
        if found is not None:
            ending = self._ending(found, is_latest=False)
            yield self._judged(f"{self._name}: run {number}, attempt {attempt}", partial(self._event, found, ending))

    def _ending(self, run: object, *, is_latest: bool = True) -> Ending:
        """The end of an attempt, as its jobs tell it."""
        try:
            number, attempt = whole(mapping(run), "id"), whole(mapping(run), "run_attempt", default=1)
        except Malformed:
            return Ending(is_latest=is_latest)
        before = len(self._github.requests)
        jobs = self._repository.jobs(number, attempt)
        self._asked_for_jobs += len(self._github.requests) - before
        return Ending(end_of(jobs), is_latest=is_latest)

    def _artifacts(self, run_id: int) -> Iterator[Collected]:
        described = {"host": self._github.host, "repository": self._name, "run_id": run_id}
        for number, artifact in enumerate(self._repository.artifacts(run_id)):
            yield self._judged(
                f"{self._name}: run {run_id}, artifact {number + 1}", partial(artifact_event, artifact, **described)
            )

    def _event(self, run: object, ending: Ending = UNKNOWN) -> Event | None:
        around: Json = {"repository": {"full_name": self._name}}
        return run_event(run, self._rules, host=self._github.host, around=around, ending=ending)

    def _judged(self, place: str, make: Callable[[], Event | None]) -> Collected:
        try:
            return Collected(place, make())
        except Malformed as fault:
            return Collected(place, refusal=Refusal(place, fault.field, fault.reason))

    def _last(self) -> Collection | None:
        with self._connection.cursor(row_factory=class_row(Collection)) as cursor:
            return cursor.execute(
                "select org_id, source, resume_at, swept_at, entity_tag, collected_at from ops.collections"
                " where org_id = %s and source = %s",
                [self._org_id, self._source],
            ).fetchone()

    def _record(self, resume_at: datetime, swept_at: datetime, entity_tag: str | None) -> None:
        self._connection.execute(
            "select ops.record_collection("
            "org_id => %s, source => %s, resume_at => %s, swept_at => %s, entity_tag => %s)",
            [self._org_id, self._source, resume_at, swept_at, entity_tag],
        )


def _out_of_reach(overfull: Overfull) -> str:
    second = overfull.second.strftime("%Y-%m-%dT%H:%M:%SZ")
    rest = "the rest" if overfull.total is None else f"{overfull.total - LISTED_AT_MOST:,} of {overfull.total:,}"
    return f"GitHub lists {LISTED_AT_MOST:,} runs of the second {second}: {rest} cannot be polled"

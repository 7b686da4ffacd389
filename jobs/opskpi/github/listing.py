"""What the REST API lists of a repository: its runs page by page, earlier attempts, artifacts."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github.answers import Gone, refuse_shape
from opskpi.github.api import Answer, GitHub
from opskpi.github.fields import Malformed, instant

PER_PAGE = 100
# GitHub lists no more than this of what a filter finds; the rest is found by filtering further.
LISTED_AT_MOST = 1000
# The step of the filter, which has no fractions of a second.
STEP = timedelta(seconds=1)

RUNS = "/repos/{owner}/{repo}/actions/runs"
WORKFLOWS = "/repos/{owner}/{repo}/actions/workflows"
ARTIFACTS = RUNS + "/{run_id}/artifacts"
ATTEMPT = RUNS + "/{run_id}/attempts/{attempt_number}"
JOBS = ATTEMPT + "/jobs"


@dataclass(frozen=True, slots=True)
class Overfull:
    """A second in which more runs were created than GitHub lists; how many in all (None: it does not say)."""

    second: datetime
    total: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """Runs as they are listed, newest first, how many there are in all, and whether these are the last ones.

    `entity_tag` is set when this one page is the answer to the whole question; asked with it, nothing new is no page.
    `overfull` is set when runs before this page's end are listed nowhere.
    """

    runs: list[object]
    total: int
    is_last: bool
    entity_tag: str | None
    overfull: Overfull | None = None


class Repository:
    """A repository, owner/name, of an API. All methods raise what `GitHub.get` raises, but for Gone."""

    def __init__(self, github: GitHub, name: str) -> None:
        self._github = github
        self._path = f"/repos/{name}/actions/runs"
        self._workflows = f"/repos/{name}/actions/workflows?per_page={PER_PAGE}"

    def pages(self, start: datetime, entity_tag: str | None) -> Iterator[Page]:
        """The pages of all runs created since `start`; one without runs when `entity_tag` is still that of the list."""
        until: datetime | None = None
        while True:
            listed, oldest, further = 0, until, None
            for answer in self._answers(self._question(start, until), RUNS, None if until else entity_tag):
                if answer.is_unchanged and entity_tag:
                    yield Page([], 0, True, entity_tag)
                    return
                runs = self._listed(answer, "workflow_runs")
                is_only = listed == 0 and until is None
                if is_only and not runs and _total(answer, 0):
                    raise OpsKpiError(
                        f"{self._github.host} counts {_total(answer, 0):,} runs and lists none of them",
                        f"This is what {self._github.token.name} without permission gets. {self._github.token.advice}",
                        ExitCode.CONFIGURATION,
                    )
                listed += len(runs)
                oldest = min([*filter(None, [oldest]), *_created(runs)], default=None)
                at_end = answer.following is None or not runs
                overfull = None
                if at_end and listed >= LISTED_AT_MOST:
                    further, overfull = self._further(oldest, until)
                is_last = at_end and (further is None or further < start.replace(microsecond=0))
                tag = answer.entity_tag if is_only and is_last else None
                yield Page(runs, _total(answer, listed), is_last, tag, overfull)
                if is_last:
                    return
                if at_end:
                    break
            until = further

    def _further(self, oldest: datetime | None, until: datetime | None) -> tuple[datetime | None, Overfull | None]:
        """Up to when to read on after a full list, and the second of which not all was listed.

        The list up to the oldest run holds the rest of its second. Where that second alone fills the list, the rest of
        it is out of reach, and all before it is not.
        """
        if oldest is None or oldest != until:
            return oldest, None
        document = self._github.get(self._question(oldest, oldest), RUNS).document
        total = document.get("total_count") if isinstance(document, Mapping) else None
        total = total if isinstance(total, int) else None
        is_whole = total is not None and total <= LISTED_AT_MOST
        return oldest - STEP, None if is_whole else Overfull(oldest, total)

    def attempt(self, run_id: int, number: int) -> object | None:
        """One attempt of a run; None when GitHub has forgotten it."""
        try:
            return self._github.get(f"{self._path}/{run_id}/attempts/{number}", ATTEMPT).document
        except Gone:
            return None

    def artifacts(self, run_id: int) -> Iterator[object]:
        """The artifacts of a run."""
        with suppress(Gone):
            for answer in self._answers(f"{self._path}/{run_id}/artifacts?per_page={PER_PAGE}", ARTIFACTS):
                artifacts = self._listed(answer, "artifacts")
                if not artifacts:
                    return
                yield from artifacts

    def workflows(self) -> Iterator[object]:
        """The workflows of the repository, without those that are deleted; none where they cannot be seen."""
        with suppress(Gone):
            for answer in self._answers(self._workflows, WORKFLOWS):
                listed = self._listed(answer, "workflows")
                if not listed:
                    return
                yield from (one for one in listed if not (isinstance(one, Mapping) and one.get("state") == "deleted"))

    def jobs(self, run_id: int, attempt: int) -> list[object]:
        """The jobs of an attempt; none when GitHub has forgotten it or does not list all that it counts."""
        jobs: list[object] = []
        counted = 0
        with suppress(Gone):
            question = f"{self._path}/{run_id}/attempts/{attempt}/jobs?per_page={PER_PAGE}"
            for answer in self._answers(question, JOBS):
                listed = answer.document.get("jobs") if isinstance(answer.document, Mapping) else None
                if not isinstance(listed, list) or not listed:
                    break
                jobs += listed
                counted = _total(answer, len(jobs))
        return jobs if len(jobs) >= counted else []

    def _answers(self, first: str, endpoint: str, entity_tag: str | None = None) -> Iterator[Answer]:
        """The first answer and those that follow it; only the first is asked for by its tag."""
        following: str | None = first
        seen: set[str] = set()
        while following:
            if following in seen:
                raise OpsKpiError(f"{self._github.host} sends in circles", "Check --api-url.")
            seen.add(following)
            answer = self._github.get(following, endpoint, entity_tag=entity_tag if following == first else None)
            yield answer
            following = answer.following

    def _question(self, start: datetime, until: datetime | None) -> str:
        created = f"{_stamp(start)}..{_stamp(until)}" if until else f">={_stamp(start)}"
        return f"{self._path}?{urlencode({'per_page': PER_PAGE, 'created': created})}"

    def _listed(self, answer: Answer, key: str) -> list[object]:
        listed = answer.document.get(key) if isinstance(answer.document, Mapping) else None
        if not isinstance(listed, list):
            refuse_shape(answer.document, key, self._github.token, self._github.host)
        return listed


def _total(answer: Answer, least: int) -> int:
    total = answer.document.get("total_count")
    return max(total, least) if isinstance(total, int) else least


def _created(runs: list[object]) -> Iterator[datetime]:
    for run in runs:
        try:
            created_at = instant(run, "created_at") if isinstance(run, Mapping) else None
        except Malformed:
            continue
        if created_at is not None:
            yield created_at


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

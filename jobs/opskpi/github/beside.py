"""Facts about a run that an input holds beside the run itself: jobs, attempts, earlier updates, its workflow."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from opskpi.github.endings import UNKNOWN, Ending, end_of, is_doubtful
from opskpi.github.events import host_of
from opskpi.github.fields import Json, Malformed, mapping, required_instant, text, whole

Run = tuple[str, int]
Attempt = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an input: where it stands, its kind (run, job, artifact, fault; else empty), and what is around it."""

    place: str
    kind: str
    described: object
    around: Json = field(default_factory=dict)


class Beside:
    """Facts that the parts of one input hold about each other."""

    def __init__(self, parts: Iterable[Part], host: str) -> None:
        self._host = host
        self._jobs: defaultdict[Attempt, dict[int, Json]] = defaultdict(dict)
        self._listed: defaultdict[Run, int] = defaultdict(int)
        self._counted: defaultdict[Run, int] = defaultdict(int)
        self._latest: defaultdict[Run, int] = defaultdict(int)
        self._updates: dict[tuple[Attempt, bool], datetime] = {}
        self._workflows: dict[Run, Json] = {}
        self._names: dict[Run, str] = {}
        self._told: set[tuple[Attempt, bool]] = set()
        for part in parts:
            try:
                if part.kind == "run":
                    self._note_run(mapping(part.described), _is_told(part))
                    self._note_workflow(mapping(part.described))
                elif part.kind == "job" and "action" not in part.around:
                    # The webhooks of a run's jobs may be few of them; a list is all of them.
                    self._note_job(mapping(part.described), part.around)
            except Malformed:
                # The document is refused by its place, elsewhere.
                continue

    def ending_of(self, part: Part) -> Ending:
        """The known facts about the end of a run."""
        try:
            run = mapping(part.described)
            attempt = self._attempt_of(run, "id")
            of_run, key = attempt[:2], (attempt, _waits(run))
            is_told, is_latest = key in self._told, attempt[2] >= self._latest[of_run]
            # Jobs without their count may be a selection, which is worth less than an end that is to be believed.
            is_all = self._listed[of_run] >= self._counted[of_run] > 0
            is_needed = not self._counted[of_run] and not is_told and (is_doubtful(run) or not is_latest)
            ended_at = end_of(self._jobs.get(attempt, {}).values()) if is_all or is_needed else None
            return Ending(ended_at, self._updates.get(key), is_told, is_latest)
        except Malformed:
            return UNKNOWN

    def around(self, part: Part) -> Json:
        """The surroundings of a run or job, with what its input tells of its workflow.

        A job does not name the file of its workflow, and a run may lack the name that another of the workflow has.
        """
        try:
            described = mapping(part.described)
            host, workflow_id = host_of(described, self._host), described.get("workflow_id")
            if part.kind == "job":
                known = self._workflows.get((host, whole(described, "run_id")), {})
            elif workflow_id is not None and text(described, "name") is None:
                name = self._names.get((host, whole(described, "workflow_id")))
                known = {"name": name} if name else {}
            else:
                known = {}
            stated = part.around.get("workflow")
        except Malformed:
            return part.around
        if not known:
            return part.around
        return {**part.around, "workflow": {**known, **stated} if isinstance(stated, Mapping) else known}

    def _note_workflow(self, run: Json) -> None:
        host, name = host_of(run, self._host), text(run, "name")
        known = {"id": run.get("workflow_id"), "path": run.get("path")}
        self._workflows[host, whole(run, "id")] = {key: value for key, value in known.items() if value is not None}
        if name and run.get("workflow_id") is not None:
            self._names.setdefault((host, whole(run, "workflow_id")), name)

    def _note_run(self, run: Json, is_told: bool) -> None:
        attempt = self._attempt_of(run, "id")
        self._latest[attempt[:2]] = max(self._latest[attempt[:2]], attempt[2])
        if text(run, "status") == "completed":
            key, updated_at = (attempt, _waits(run)), required_instant(run, "updated_at")
            self._updates[key] = min(self._updates.get(key, updated_at), updated_at)
            if is_told:
                self._told.add(key)

    def _note_job(self, job: Json, around: Json) -> None:
        attempt = self._attempt_of(job, "run_id")
        number = whole(job, "id")
        if number not in self._jobs[attempt]:
            self._jobs[attempt][number] = job
            self._listed[attempt[:2]] += 1
        total = around.get("total_count")
        if isinstance(total, int):
            self._counted[attempt[:2]] = max(self._counted[attempt[:2]], total)

    def _attempt_of(self, described: Json, key: str) -> Attempt:
        return host_of(described, self._host), whole(described, key), whole(described, "run_attempt", default=1)


def _is_told(part: Part) -> bool:
    """Whether it comes in the webhook that GitHub sends when a run ends."""
    return part.around.get("action") == "completed"


def _waits(run: Json) -> bool:
    """A run that waits for approval keeps its attempt when it goes on, and ends a second time."""
    return text(run, "conclusion") == "action_required"

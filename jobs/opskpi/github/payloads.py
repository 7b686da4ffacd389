"""Webhook payloads and REST answers, as one object, a list or JSON lines, taken apart into what they describe."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opskpi.github.beside import Beside, Part
from opskpi.github.documents import documents, text_of
from opskpi.github.events import PUBLIC_HOST, Event, artifact_event, job_event, repository_of, run_event
from opskpi.github.fields import Json, Malformed, whole
from opskpi.github.rules import Rules

# A `status` is what a run or job has; a webhook has an `action` as well.
LISTS = {"workflow_runs": "run", "jobs": "job", "workflow_jobs": "job", "artifacts": "artifact"}
OTHER = "is neither a workflow_run nor a workflow_job payload, nor a list of runs"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one part of the input is no event: where it stands, the field at fault (empty: all of it), the reason."""

    place: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Collected:
    """One part of the input: the event that it becomes, or why not; neither while what it describes goes on."""

    place: str
    event: Event | None = None
    refusal: Refusal | None = None


def read(raw: bytes, rules: Rules, *, source: str, host: str = PUBLIC_HOST) -> list[Collected]:
    """What the bytes of a file or request describe: runs, jobs and artifacts, in order.

    Takes a webhook payload (workflow_run, workflow_job; also as a form), the REST answers that list runs, jobs or
    artifacts, or a bare run, alone, in lists, as JSON lines or one after the other. `host` is where they ran, where no
    URL says. Raises OpsKpiError (BAD_ARGUMENT) when the whole is not JSON; what is at fault in a part is a refusal of
    that part.
    """
    return read_text(text_of(raw, source), rules, source=source, host=host)


def read_text(text: str, rules: Rules, *, source: str, host: str = PUBLIC_HOST) -> list[Collected]:
    """The objects that a text of JSON, no form any more, describes, as `read` says. Raises what `read` raises."""
    parts = [
        part
        for place, document, fault in documents(text, source)
        for part in ([Part(place, "fault", fault)] if fault else _parts(place, document))
    ]
    beside = Beside(parts, host)
    return [_collected(part, beside, rules, host) for part in parts]


def _collected(part: Part, beside: Beside, rules: Rules, host: str) -> Collected:
    around = beside.around(part)
    try:
        match part.kind:
            case "run":
                ending = beside.ending_of(part)
                return Collected(part.place, run_event(part.described, rules, host=host, around=around, ending=ending))
            case "job":
                return Collected(part.place, job_event(part.described, host=host, around=around))
            case "artifact":
                run_id = whole(part.around, "id") if "id" in part.around else None
                named = repository_of(part.around)
                return Collected(part.place, artifact_event(part.described, host=host, repository=named, run_id=run_id))
            case "fault":
                return Collected(part.place, refusal=Refusal(part.place, "", str(part.described)))
            case _:
                return Collected(part.place, refusal=Refusal(part.place, "", OTHER))
    except Malformed as fault:
        return Collected(part.place, refusal=Refusal(part.place, fault.field, fault.reason))


def _parts(place: str, document: object) -> Iterator[Part]:
    """Each run, job and artifact with its place, kind, and what stands around it."""
    if not isinstance(document, Mapping):
        yield Part(place, "", document)
        return
    if isinstance(document.get("workflow_job"), Mapping):
        yield Part(f"{place}, workflow_job", "job", _with_status(document, "workflow_job"), document)
    elif isinstance(document.get("workflow_run"), Mapping) and "size_in_bytes" not in document:
        yield from _run_parts(f"{place}, workflow_run", _with_status(document, "workflow_run"), document)
    elif any(isinstance(document.get(key), list) for key in LISTS) and "status" not in document:
        counted = {"total_count": document.get("total_count")}
        for key, kind in LISTS.items():
            for number, described in enumerate(_listed(document, key)):
                part = f"{place}, {key}[{number}]"
                if kind == "run":
                    yield from _run_parts(part, described, {})
                else:
                    yield Part(part, kind, described, counted if kind == "job" else {})
    elif "size_in_bytes" in document:
        yield Part(place, "artifact", document)
    elif "run_id" in document and ("completed_at" in document or "steps" in document):
        yield Part(place, "job", document)
    elif "run_started_at" in document or "run_attempt" in document or "workflow_id" in document:
        yield from _run_parts(place, document, {})
    else:
        yield Part(place, "", document)


def _run_parts(place: str, run: object, around: Json) -> Iterator[Part]:
    """A run, and the artifacts and jobs that are listed in it or beside it."""
    yield Part(place, "run", run, around)
    if not isinstance(run, Mapping):
        return
    for number, artifact in enumerate(_listed(run, "artifacts") or _listed(around, "artifacts")):
        yield Part(f"{place}, artifacts[{number}]", "artifact", artifact, run)
    of_run = {"run_id": run.get("id"), "run_attempt": run.get("run_attempt"), "workflow_name": run.get("name")}
    known = {key: value for key, value in around.items() if key in ("repository", "workflow")}
    for number, job in enumerate(_listed(run, "jobs") or _listed(around, "jobs")):
        described = of_run | dict(job) if isinstance(job, Mapping) else job
        yield Part(f"{place}, jobs[{number}]", "job", described, {"repository": run.get("repository")} | known)


def _listed(document: Json, key: str) -> list[object]:
    listed = document.get(key)
    return listed if isinstance(listed, list) else []


def _with_status(payload: Json, key: str) -> Json:
    """What the payload is about; the action tells how it stands where it does not itself."""
    action = payload.get("action")
    return {"status": action} | {
        name: value for name, value in payload[key].items() if value is not None or name != "status"
    }

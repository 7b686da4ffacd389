"""Runs, jobs and artifacts as GitHub describes them, each as the event that it becomes.

Fields of GitHub (https://docs.github.com/en/rest/actions/workflow-runs): `created_at` is when a run was first asked
for and stays when it is run again; `run_started_at` is when the attempt began; `updated_at` is when anything about it
changed last, see `endings`. The end that is seen first is kept (`ops.collect_events`).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

from opskpi.github.endings import CLOCKS_DIFFER, UNKNOWN, Ending, times
from opskpi.github.fields import Json, Malformed, instant, mapping, required_instant, text, whole
from opskpi.github.rules import Rules

NAMESPACE = UUID("7d0c3a52-5a0e-5c5e-9d6c-5f2f6d0f6f61")
PUBLIC_HOST = "github.com"
OUTCOMES = {
    "success": "success",
    "failure": "failure",
    "timed_out": "failure",
    "startup_failure": "failure",
    "cancelled": "cancelled",
    "skipped": "skipped",
    "neutral": "skipped",
    "action_required": "skipped",
    "stale": "skipped",
}
MAY_BE_OF_A_TAG = {"push", "workflow_dispatch", "create"}

Event = dict[str, Any]


def run_event(
    run: object, rules: Rules, *, host: str = PUBLIC_HOST, around: Json | None = None, ending: Ending = UNKNOWN
) -> Event | None:
    """The event of one attempt of a run; None while it goes on.

    `around` is what stands beside the run in a webhook payload (`workflow`, `repository`); `host` is where it ran, if
    no URL of it says; `ending` is what is known of its end elsewhere. The event_id is made of host,
    run and attempt: runs are numbered across a host, so a repository that was renamed changes nothing. A run that waits
    for approval (action_required) keeps its attempt when it goes on, so that is an event of its own. Raises Malformed.
    """
    run = mapping(run)
    around = around or {}
    number, attempt = whole(run, "id"), whole(run, "run_attempt", default=1)
    if _status(run) != "completed":
        return None
    conclusion = _conclusion(run)
    names = _workflow_names(run, around)
    event_type = rules.event_type(names)
    duration, ended_at = times(run, ending)
    payload = {
        "outcome": OUTCOMES.get(conclusion, "skipped"),
        "conclusion": conclusion,
        "workflow": names[0],
        **_workflow_identity(run, around),
        "run_attempt": attempt,
        "repository": repository_of(run) or repository_of(around),
        "event": text(run, "event"),
        "url": text(run, "html_url"),
        "head_sha": text(run, "head_sha"),
    }
    if duration is not None:
        payload["duration_ms"] = milliseconds(duration)
    waits = ["action_required"] if conclusion == "action_required" else []
    event_id = identify("run", host_of(run, host), number, attempt, *waits)
    return _event(event_type, event_id, ended_at, payload, run_id=number, tag=_tag(run, around, rules))


def job_event(job: object, *, host: str = PUBLIC_HOST, around: Json | None = None) -> Event | None:
    """The event of one job; None while it goes on. It is a workflow_job, labelled by conclusion, so that neither the
    KPIs of runs nor the error rate count a run a second time. Raises Malformed.
    """
    job, around = mapping(job), around or {}
    number, run_id = whole(job, "id"), whole(job, "run_id")
    if _status(job) != "completed":
        return None
    started_at, ended_at = instant(job, "started_at"), required_instant(job, "completed_at")
    payload = {
        "conclusion": _conclusion(job),
        "workflow": text(job, "workflow_name") or text(mapping(around.get("workflow") or {}), "name") or "unnamed",
        **_workflow_identity({}, around),
        "job": text(job, "name") or "unnamed",
        "run_attempt": whole(job, "run_attempt", default=1),
        "repository": repository_of(around),
        "url": text(job, "html_url"),
        "head_sha": text(job, "head_sha"),
    }
    if started_at is not None:
        payload["duration_ms"] = milliseconds(ended_at - started_at)
    return _event("workflow_job", identify("job", host_of(job, host), number), ended_at, payload, run_id=run_id)


def artifact_event(
    artifact: object, *, host: str = PUBLIC_HOST, repository: str | None = None, run_id: int | None = None
) -> Event:
    """The event of an artifact: its size in bytes and its kind, provenance, sbom or other. Raises Malformed."""
    artifact = mapping(artifact)
    number, size = whole(artifact, "id"), whole(artifact, "size_in_bytes", least=0)
    made_at = required_instant(artifact, "created_at")
    made_by = mapping(artifact.get("workflow_run") or {})
    name = text(artifact, "name") or "unnamed"
    payload = {"size_bytes": size, "kind": _kind(name), "name": name, "repository": repository}
    if run_id is None and "id" in made_by:
        run_id = whole(made_by, "id")
    return _event("artifact", identify("artifact", host_of(artifact, host), number), made_at, payload, run_id=run_id)


def identify(kind: str, host: str, *parts: object) -> UUID:
    """The same UUID for the same thing of the same host, whoever sees it however often."""
    return uuid5(NAMESPACE, "/".join([kind, host, *map(str, parts)]))


def host_of(described: Json, host: str) -> str:
    """The host that the URLs of a run, job or artifact name, else `host`; the API's host is that of the site."""
    for key in ("html_url", "url"):
        address = text(described, key)
        if address:
            return site_of(address) or host
    return host


def site_of(address: str) -> str:
    """The host of the site that a URL of it or of its API belongs to; empty when it has none."""
    try:
        return (urlsplit(address).hostname or "").removeprefix("api.")
    except ValueError:
        return ""


def repository_of(around: Json) -> str | None:
    """The full name of the repository that a run or payload names; None when it names none. Raises Malformed."""
    found = around.get("repository")
    return text(found, "full_name") if isinstance(found, Mapping) else None


def _event(
    event_type: str, event_id: UUID, moment: datetime, payload: Event, *, run_id: int | None, tag: str | None = None
) -> Event:
    known = {key: value for key, value in payload.items() if value is not None}
    event: Event = {
        "event_type": event_type,
        "event_id": str(event_id),
        "event_timestamp": moment.isoformat(),
        "payload": known,
    }
    return event | {key: value for key, value in (("run_id", run_id), ("tag", tag)) if value is not None}


def _status(described: Json) -> str:
    status = text(described, "status")
    if status is None:
        raise Malformed("status", "is required")
    return status


def _conclusion(described: Json) -> str:
    conclusion = text(described, "conclusion")
    if conclusion is not None and conclusion not in OUTCOMES:
        raise Malformed("conclusion", f"is none of {', '.join(OUTCOMES)}")
    return conclusion or "unknown"


def _workflow_names(run: Json, around: Json) -> list[str]:
    """What the workflow goes by: its name first, then its file's name with and without the suffix."""
    workflow = around.get("workflow")
    workflow = workflow if isinstance(workflow, Mapping) else {}
    path = PurePosixPath(_path_of(run) or _path_of(workflow))
    names = [text(workflow, "name"), text(run, "name"), path.stem, path.name]
    found = [name for name in names if name]
    if not found and run.get("workflow_id") is not None:
        found = [f"workflow {whole(run, 'workflow_id')}"]
    if not found:
        raise Malformed("name", "is required: nothing names the workflow")
    return found


def _workflow_identity(run: Json, around: Json) -> Event:
    """The number and the file of the workflow, by which `ops.label_workflows` tells two of one name apart."""
    workflow = around.get("workflow")
    workflow = workflow if isinstance(workflow, Mapping) else {}
    numbers = [
        whole(found, key) for found, key in ((run, "workflow_id"), (workflow, "id")) if found.get(key) is not None
    ]
    return {
        "workflow_id": numbers[0] if numbers else None,
        "workflow_path": _path_of(run) or _path_of(workflow) or None,
    }


def _path_of(described: Json) -> str:
    """The file of a workflow, without the branch that may follow it."""
    return (text(described, "path") or "").partition("@")[0]


def milliseconds(duration: timedelta) -> int | None:
    """A duration in ms. Clocks of runners differ by a little, so one a bit below 0 is 0; further below it is none."""
    return max(duration // timedelta(milliseconds=1), 0) if duration >= -CLOCKS_DIFFER else None


def _tag(run: Json, around: Json, rules: Rules) -> str | None:
    """The tag that a run is of. A release names one; of a push only the name tells a tag from a branch."""
    name = text(run, "head_branch")
    if name is None:
        return None
    trigger = text(run, "event")
    if name.startswith("refs/tags/"):
        return name.removeprefix("refs/tags/") or None
    repositories = [found for found in (run.get("repository"), around.get("repository")) if isinstance(found, Mapping)]
    is_default = name in {text(repository, "default_branch") for repository in repositories}
    is_tag = trigger == "release" or (trigger in MAY_BE_OF_A_TAG and not is_default and rules.is_tag(name))
    return name if is_tag else None


def _kind(name: str) -> str:
    lowered = name.lower()
    if any(word in lowered for word in ("provenance", "intoto", "in-toto", "slsa", "attestation")):
        return "provenance"
    return "sbom" if any(word in lowered for word in ("sbom", "spdx", "cyclonedx")) else "other"

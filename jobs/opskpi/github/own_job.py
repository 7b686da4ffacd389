"""The job that this process is part of, as GitHub Actions describes it to its steps, as an event."""

from collections.abc import Mapping
from datetime import UTC, datetime

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github.events import PUBLIC_HOST, Event, identify, milliseconds, site_of
from opskpi.github.fields import LARGEST_NUMBER, text

JOB_STATUSES = ("success", "failure", "cancelled", "skipped")


def event_of_own_job(
    environ: Mapping[str, str],
    outcome: str,
    *,
    event_type: str = "workflow_job",
    started_at: datetime | None = None,
    ended_at: datetime | None = None,
) -> Event:
    """The event of this job, which ends now or at `ended_at` with `outcome`, one of JOB_STATUSES.

    As workflow_job it is labelled by conclusion, as any other event type by outcome. The same job that began at the
    same time is the same event. Raises OpsKpiError (BAD_ARGUMENT) outside GitHub Actions. Source:
    https://docs.github.com/en/actions/reference/workflows-and-actions/variables
    """
    run_id = environ.get("GITHUB_RUN_ID", "")
    if not (run_id.isascii() and run_id.isdigit() and 0 < int(run_id[:19]) <= LARGEST_NUMBER and len(run_id) < 20):
        raise OpsKpiError(
            "GITHUB_RUN_ID is not set to a number", "This command runs in a job of GitHub Actions.",
            ExitCode.BAD_ARGUMENT,
        )  # fmt: skip
    ended_at = ended_at or datetime.now(UTC)
    attempt, job = text(environ, "GITHUB_RUN_ATTEMPT") or "1", text(environ, "GITHUB_JOB") or "unnamed"
    site, repository = text(environ, "GITHUB_SERVER_URL") or "", text(environ, "GITHUB_REPOSITORY")
    is_job = event_type == "workflow_job"
    payload: Event = {
        "conclusion" if is_job else "outcome": outcome,
        "workflow": text(environ, "GITHUB_WORKFLOW") or "unnamed",
        "workflow_path": _path_of(text(environ, "GITHUB_WORKFLOW_REF") or "", repository or ""),
        "job": job,
        "run_attempt": int(attempt) if attempt.isascii() and attempt.isdigit() and len(attempt) < 10 else 1,
        "repository": repository,
        "event": text(environ, "GITHUB_EVENT_NAME"),
        "url": f"{site}/{repository}/actions/runs/{run_id}" if site and repository else None,
        "head_sha": text(environ, "GITHUB_SHA"),
    }
    if started_at is not None:
        payload["started_at"] = started_at.astimezone(UTC).isoformat()
        payload["duration_ms"] = milliseconds(ended_at - started_at)
    # Jobs of a matrix share their name; each runs on a runner of its own.
    parts = [run_id, attempt, job, text(environ, "RUNNER_NAME"), payload.get("started_at", "")]
    event: Event = {
        "event_type": event_type,
        "event_id": str(identify(f"own {event_type}", site_of(site) or PUBLIC_HOST, *parts)),
        "event_timestamp": ended_at.astimezone(UTC).isoformat(),
        "run_id": int(run_id),
        "payload": {key: value for key, value in payload.items() if value is not None},
    }
    tag = text(environ, "GITHUB_REF_NAME") if environ.get("GITHUB_REF_TYPE") == "tag" else None
    return event | ({"tag": tag} if tag else {})


def _path_of(reference: str, repository: str) -> str | None:
    """The file that octo-org/octo-repo/.github/workflows/ci.yml@refs/heads/main names; None without one."""
    path, _, _ = reference.removeprefix(f"{repository}/").partition("@")
    return path or None

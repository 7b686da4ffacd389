"""The provenance runs that wait for an audit, and where their files are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from opskpi.errors import OpsKpiError
from opskpi.provenance import auditing, recording
from opskpi.provenance.auditing import Report, Verdict
from opskpi.provenance.checks import DIGESTS, Artifact, Expectation, Status
from opskpi.provenance.recording import Identity, Recorded, derived_run_id
from opskpi.provenance.signatures import Signatures
from opskpi.provenance.versions import is_version_of, version

SUFFIXES = (
    ".intoto.jsonl",
    ".intoto.json",
    ".sigstore.json",
    ".sigstore",
    ".slsa",
    "provenance.json",
    "attestation.json",
    ".jsonl",
)
MOST_FILES = 1_000
_PATH = re.compile(r"[^\0]{1,1000}")


@dataclass(frozen=True, slots=True)
class Run:
    """A row of `ops.unaudited_provenance_runs`: the newest attempt of a run that made provenance, or should have."""

    org_id: UUID
    run_id: int
    tag: str | None
    outcome: str | None
    event_timestamp: datetime
    metadata: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Observation:
    """What became of one run: a report, or the reason why there is none; `recorded` is None when nothing was kept."""

    run: Run
    audit_run_id: int
    report: Report | None
    reason: str
    recorded: Recorded | None = None

    @property
    def verdict(self) -> Verdict:
        """The report's verdict; unknown without a report."""
        return self.report.verdict if self.report else Verdict.UNKNOWN

    @property
    def is_due(self) -> bool:
        """The run made provenance that nobody has verified: it failed its audit, or its files were not found."""
        return self.verdict is not Verdict.PASS and self.run.outcome not in _WITHOUT_PROVENANCE


class NotFoundError(Exception):
    """A run's provenance cannot be audited; the message says why."""


# What a run says of itself, when it left no provenance, and as the status it has in slsa_audit_metrics.
_WITHOUT_PROVENANCE = frozenset({"failure", "cancelled", "skipped"})
_STATUSES = {"success": "success", "failure": "failure", "cancelled": "skipped", "skipped": "skipped"}


def waiting(connection: psycopg.Connection, limit: int, org_id: UUID | None) -> list[Run]:
    """The runs that have no audit yet, newest first, at most `limit`, of one org or of all."""
    with connection.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(
            "select org_id, run_id, tag, outcome, event_timestamp, metadata"
            " from ops.unaudited_provenance_runs(max_runs => %s, only_org_id => %s)",
            [limit, org_id],
        ).fetchall()


def observe(run: Run, folder: Path, expectation: Expectation, signatures: Signatures) -> Observation:
    """Audit the files of one run. The run's tag and number are expected of the provenance as well.

    A run of another tag than the expectation names, and provenance that names no run at all, are of unknown verdict.
    """
    audit_run_id = derived_run_id("run", run.org_id, run.run_id)
    if run.outcome in _WITHOUT_PROVENANCE:
        return Observation(run, audit_run_id, None, f"the provenance run ended in {run.outcome}")
    if other := _other_tag(run, expectation):
        return Observation(run, audit_run_id, None, other)
    expected = replace(expectation, run_id=run.run_id, tag=run.tag or expectation.tag)
    try:
        files, artifacts = files_of(run, folder)
        report = auditing.audit(files, artifacts, expected, signatures)
    except (NotFoundError, OpsKpiError, OSError) as error:
        return Observation(run, audit_run_id, None, _why_not(error))
    reason = _nothing_known(report)
    if report.verdict is Verdict.UNSUPPORTED:
        return Observation(run, audit_run_id, None, reason)
    # Found by a name that anybody may give a file, it may be that of any other run.
    if any(check.name == "provenance run" and check.status is Status.UNSUPPORTED for check in report.checks):
        report = replace(report, is_attributed=False)
        if report.verdict is Verdict.UNKNOWN:
            reason = reason or "the provenance names no run"
    return Observation(run, audit_run_id, report, reason)


def keep(
    connection: psycopg.Connection, observation: Observation, expectation: Expectation, duration_s: float
) -> Recorded:
    """Record an observation; where there was nothing to audit the row says so and claims nothing."""
    run, report = observation.run, observation.report
    identity = Identity(run.org_id, observation.audit_run_id, run.run_id)
    if report is not None:
        expected = replace(expectation, tag=run.tag or expectation.tag)
        audit: dict[str, Any] = recording.row(report, expected, identity)
        audit["provenance_run_id"] = run.run_id
        audit["metadata"] |= {"attempt_at": _attempt_at(run)}
        return recording.record(connection, audit, recording.event_of(report, duration_s))
    audit = {
        "audit_run_id": identity.audit_run_id,
        "org_id": str(run.org_id),
        "provenance_run_id": run.run_id,
        "tag": recording.kept(run.tag),
        "provenance_status": _STATUSES.get(run.outcome or "", "unknown"),
        "validation_status": "skipped" if run.outcome in _WITHOUT_PROVENANCE else "unknown",
        "metadata": {
            "verdict": Verdict.UNKNOWN,
            "reason": recording.kept(observation.reason),
            "run_asked": True,
            "attempt_at": _attempt_at(run),
        },
    }
    return recording.record(connection, audit, {"outcome": "skipped", "workflow": recording.WORKFLOW})


def files_of(run: Run, folder: Path) -> tuple[list[Path], list[Artifact]]:
    """The provenance files of a run and the artifacts they are to be about.

    In this order: what the event's `metadata.provenance_path` names, relative to the folder; the folder FOLDER/RUN_ID
    or FOLDER/TAG, whose other files are the artifacts; a file FOLDER/RUN_ID or FOLDER/TAG with one of SUFFIXES. In
    file names a tag is percent-encoded. An artifact may also be the event's `metadata.sha256` or
    `metadata.sha512`. Raises NotFoundError.
    """
    metadata = run.metadata if isinstance(run.metadata, dict) else {}
    artifacts = _digests(metadata)
    if "provenance_path" in metadata:
        return [_within(folder, metadata["provenance_path"])], artifacts
    for name in _names(run):
        place = folder / name
        if place.is_dir() and _is_within(folder, place):
            files = [file for file in _listed(place) if _is_within(folder, file)]
            provenance = [file for file in files if file.name.endswith(SUFFIXES)]
            if provenance:
                others = [file for file in files if file not in provenance]
                return provenance, artifacts + [auditing.artifact(file) for file in others]
        for suffix in SUFFIXES:
            file = folder / f"{name}{suffix}"
            if suffix.startswith(".") and file.is_file() and _is_within(folder, file):
                return [file], artifacts
    raise NotFoundError(f"no provenance of {' or '.join(_names(run))} in {folder}")


def _why_not(error: NotFoundError | OpsKpiError | OSError) -> str:
    if isinstance(error, OSError):
        # A name too long for the file system, a folder that may not be read.
        return f"its files cannot be read: {error.strerror or error}"
    return str(error)


def _nothing_known(report: Report) -> str:
    """Why a report says neither pass nor fail; empty when it says one."""
    if report.verdict is Verdict.UNKNOWN:
        return "no artifact, and no digest in the event's metadata, to compare with the subjects"
    if report.verdict is Verdict.UNSUPPORTED:
        unsupported = (check.found for check in report.checks if check.status is Status.UNSUPPORTED)
        return f"its format is not understood: {next(unsupported, 'it holds no envelope')}"
    return ""


def _other_tag(run: Run, expectation: Expectation) -> str:
    """Why a run is not of the tag that is asked for; empty when it is, or says no tag."""
    wanted = expectation.tag or expectation.versioned_tag
    if not run.tag or not wanted:
        return ""
    versioned, found = version(expectation.versioned_tag or ""), version(run.tag)
    is_one = bool(versioned and found and is_version_of(versioned, found))
    is_asked = run.tag == expectation.tag if expectation.tag else is_one
    return "" if is_asked else f"the run is of tag {run.tag}, not {wanted}"


def _attempt_at(run: Run) -> str:
    """The attempt's time in the one form that ops.unaudited_provenance_runs compares."""
    return run.event_timestamp.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _names(run: Run) -> Iterator[str]:
    yield str(run.run_id)
    # Encoded, a tag is one name in the folder, whatever slashes it has.
    if run.tag and (name := quote(run.tag, safe="+")).strip(".") and len(name) <= 200:
        yield name


def _digests(metadata: dict[str, Any]) -> list[Artifact]:
    told = {algorithm: metadata[algorithm] for algorithm in DIGESTS if metadata.get(algorithm) is not None}
    for algorithm, digest in told.items():
        if not isinstance(digest, str) or not DIGESTS[algorithm].fullmatch(digest.lower()):
            raise NotFoundError(f"the event's metadata.{algorithm} is no {algorithm.upper().replace('SHA', 'SHA-')}")
    name = " and ".join(f"metadata.{algorithm}" for algorithm in told)
    return [Artifact(name, {algorithm: digest.lower() for algorithm, digest in told.items()})] if told else []


def _within(folder: Path, told: object) -> Path:
    # Whoever may send events names this path: it must not reach beyond the folder.
    if not isinstance(told, str) or not _PATH.fullmatch(told) or not _is_within(folder, folder / told):
        raise NotFoundError("the event's metadata.provenance_path is no path within the folder")
    if not (folder / told).is_file():
        raise NotFoundError(f"there is no file {told} in {folder}")
    return folder / told


def _is_within(folder: Path, file: Path) -> bool:
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        # A loop of links.
        return False


def _listed(place: Path) -> list[Path]:
    files = sorted(file for file in place.iterdir() if file.is_file())
    if len(files) > MOST_FILES:
        raise NotFoundError(f"{place} holds more than {MOST_FILES:,} files")
    return files

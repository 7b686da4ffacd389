"""From a report to a row of slsa_audit_metrics and an event, in one call."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from opskpi.access import pseudonyms
from opskpi.errors import OpsKpiError
from opskpi.provenance.auditing import Report, Verdict
from opskpi.provenance.checks import TAG_PREFIX, Check, Expectation, Status

WORKFLOW = "opskpi audit"
OUTCOMES = {
    Verdict.PASS: "success",
    Verdict.FAIL: "failure",
    Verdict.UNREADABLE: "failure",
    Verdict.UNSUPPORTED: "skipped",
    Verdict.UNKNOWN: "skipped",
}
MOST_CHECKS_KEPT = 50
LONGEST_TEXT = 1000
_RUN = re.compile(r"[0-9]{1,18}")
_FIRST_DERIVED, _DERIVED = 10**17, 9 * 10**17


@dataclass(frozen=True, slots=True)
class Recorded:
    """What `ops.observe_audit` answers; `events_stored` is 0 when the same outcome was recorded before."""

    audit_id: int
    audit_timestamp: datetime
    events_stored: int
    provenance_synced: bool
    validation_synced: bool
    validation_run_id: int | None


@dataclass(frozen=True, slots=True)
class Identity:
    """Which audit this is: the tenant, the audit's number, and the runs it is about where they are known."""

    org_id: UUID
    audit_run_id: int
    provenance_run_id: int | None = None
    validation_run_id: int | None = None


def derived_run_id(*parts: object) -> int:
    """A number for an audit that no CI run names, always the same for the same parts.

    It has 18 digits, from 10^17 on, far from what CI systems number their runs with, and is the SHA-256 of the parts
    reduced to that range.
    """
    digest = hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).digest()
    return _FIRST_DERIVED + int.from_bytes(digest[:16]) % _DERIVED


def content_run_id(org_id: UUID, report: Report) -> int:
    """The number of an audit by what was audited: the org, the files' content and the artifacts' digests."""
    digests = sorted(one.sha256 or next(iter(one.digests.values())) for one in report.artifacts)
    return derived_run_id("content", org_id, report.content_sha256, *digests)


def row(report: Report, expectation: Expectation, identity: Identity) -> dict[str, Any]:
    """The audit as an object of slsa_audit_metrics columns, as `record_audit` takes it.

    `metadata.run_asked` says whether the run was asked for, or is only what the provenance says of itself.
    """
    sound = [provenance for provenance in report.provenances if provenance.statement]
    claims = [provenance.claims for provenance in sound]
    runs = [int(run) for claim in claims for run in claim.run_ids if _RUN.fullmatch(run)]
    tags = [ref.removeprefix(TAG_PREFIX) for claim in claims for ref in claim.refs if ref.startswith(TAG_PREFIX)]
    return {
        "audit_run_id": identity.audit_run_id,
        "org_id": str(identity.org_id),
        "provenance_run_id": identity.provenance_run_id or (runs[0] if runs else None),
        "validation_run_id": identity.validation_run_id,
        "provenance_status": _provenance_status(report),
        "validation_status": _validation_status(report),
        "sha256_verified": _all_passed(report.digests),
        "predicate_type_verified": report.is_sound
        and _all_passed([check for check in report.checks if check.name == "predicate type"]),
        "tag": kept(expectation.tag or (tags[0] if tags else None)),
        "sha256": report.artifacts[0].sha256 if report.artifacts else None,
        "predicate_type": kept(next((one.statement.predicate_type for one in sound if one.statement), None)),
        "builder_id": kept(next((claim.builder_id for claim in claims if claim.builder_id), None)),
        "content_sha256": next((commit for claim in claims for commit in claim.commits), None),
        "provenance_run_url": kept(next((url for claim in claims for url in claim.run_urls), None)),
        "metadata": _metadata(report) | {"run_asked": identity.provenance_run_id is not None},
    }


def record(connection: psycopg.Connection, audit: dict[str, Any], event: dict[str, Any]) -> Recorded:
    """Store an audit and its audit_observer event in one transaction; a re-audit updates the row.

    `event` is the event's metadata; its `outcome` is required. Raises OpsKpiError and psycopg.Error.
    """
    with connection.transaction(), connection.cursor(row_factory=class_row(Recorded)) as cursor:
        pseudonyms.pass_key(connection)
        recorded = cursor.execute(
            "select audit_id, audit_timestamp, events_stored, provenance_synced, validation_synced, validation_run_id"
            " from ops.observe_audit(audit => %s, event => %s)",
            [Jsonb(audit), Jsonb(event)],
        ).fetchone()
    if recorded is None:
        raise OpsKpiError("the audit was not recorded")
    return recorded


def event_of(report: Report, duration_s: float) -> dict[str, Any]:
    """The metadata of the audit's event; `duration_s` is how long reading and checking took."""
    return {"outcome": OUTCOMES[report.verdict], "workflow": WORKFLOW, "duration_ms": round(duration_s * 1000, 3)}


def kept(text: str | None) -> str | None:
    """A text of a stranger as it is stored: printable, and no longer than LONGEST_TEXT characters."""
    if text is None:
        return None
    return "".join(character if character.isprintable() else "\ufffd" for character in text[:LONGEST_TEXT])


def _provenance_status(report: Report) -> str:
    if report.verdict is Verdict.UNSUPPORTED:
        return "unknown"
    return "success" if report.is_sound else "failure"


def _validation_status(report: Report) -> str:
    if not report.is_sound:
        return "skipped"
    return {Verdict.PASS: "success", Verdict.FAIL: "failure"}.get(report.verdict, "unknown")


def _all_passed(checks: "list[Check] | tuple[Check, ...]") -> bool:
    return bool(checks) and all(check.status is Status.PASS for check in checks)


def _metadata(report: Report) -> dict[str, Any]:
    telling = [check for check in report.checks if check.status in {Status.FAIL, Status.UNSUPPORTED}]
    return {
        "verdict": report.verdict,
        "checks": [{key: kept(value) for key, value in asdict(check).items()} for check in telling[:MOST_CHECKS_KEPT]],
        "provenance": [kept(provenance.place) for provenance in report.provenances[:MOST_CHECKS_KEPT]],
        "artifacts": [kept(artifact.name) for artifact in report.artifacts[:MOST_CHECKS_KEPT]],
    }

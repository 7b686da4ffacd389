"""`opskpi audit`: check provenance files against what they should say, and keep the result."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import psycopg

from opskpi import console
from opskpi.commands.options import Options, add_options
from opskpi.errors import ExitCode, OpsKpiError, explain
from opskpi.orgs import NIL_ORG
from opskpi.provenance import auditing, latest, recording, reporting
from opskpi.provenance.auditing import Report, Verdict
from opskpi.provenance.checks import COMMIT, DIGESTS, Artifact, Expectation, Status
from opskpi.provenance.recording import Identity, Recorded
from opskpi.provenance.signatures import Signatures
from opskpi.provenance.statements import SLSA_V02, SLSA_V1, repository
from opskpi.provenance.strict_json import MalformedError, decoded
from opskpi.provenance.versions import version

_RUN = click.IntRange(1, 10**18 - 1)


@click.command(name="audit")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--artifact", "paths", multiple=True, metavar="PATH", help="An artifact that must be a subject.")
@click.option("--sha256", multiple=True, metavar="HEX", help="The SHA-256 of one, instead of the file.")
@click.option(
    "--sha512", multiple=True, metavar="DIGEST", help="The SHA-512 of one: HEX, or sha512-BASE64 as npm says it."
)
@click.option("--source", metavar="URI", help="The repository, such as github.com/owner/name.")
@click.option("--tag", help="The tag that was built.")
@click.option("--versioned-tag", metavar="TAG", help="A version that the tag must be one of: v14 takes v14.2.")
@click.option("--builder", "builders", multiple=True, metavar="ID[@REF]", help="An allowed builder id.")
@click.option("--commit", metavar="SHA", help="The commit of the tag.")
@click.option("--predicate-type", "predicate_types", multiple=True, metavar="TYPE", help="Instead of SLSA v0.2 and v1.")
@click.option("--require-signature", is_flag=True, help="Fail when the signature cannot be verified.")
@click.option("--signer", metavar="ID[@REF]", help="Whom the certificate must name, such as a workflow.")
@click.option("--issuer", metavar="URL", help="Who must have vouched for the signer; GitHub Actions by default.")
@click.option("--trust-root", type=click.Path(path_type=Path), help="A trusted_root.json; else the one sigstore ships.")
@click.option("--run-id", type=_RUN, help="The CI run that made the provenance.")
@click.option("--validation-run-id", type=_RUN, help="The CI run that validated it.")
@click.option("--audit-run-id", type=_RUN, help="The CI run of this audit; else derived from what is audited.")
@click.option("--org", type=click.UUID, help="The tenant.")
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request or a job summary.")
@click.option("--no-record", is_flag=True, help="Check only; with FILE no database is needed.")
@click.option("--latest", "is_latest", is_flag=True, help="Audit the newest provenance runs that have no audit yet.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many, with --latest.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=".", help="Their files, with --latest.")
@add_options
def audit(options: Options, **asked: Any) -> None:
    """Check the SLSA provenance in each FILE (- for standard input) against artifacts and expectations.

    FILE is a DSSE envelope, a Sigstore bundle, a list or JSON lines of these, or the answer of GitHub or of the npm
    registry. One line per check: pass, fail, unsupported or not asked. The result becomes a row of slsa_audit_metrics
    and an event. Exit 0: pass, 3: fail, 64: unreadable, or a format or digest that is not understood (not recorded).

    \b
    Example:
      opskpi audit app.intoto.jsonl --artifact app.tar.gz --source github.com/owner/name --tag v1.4.0
      opskpi audit --latest --dir /srv/provenance --source github.com/owner/name
    """
    if asked["markdown"] and options.as_json:
        raise _wrong("--markdown and --json exclude each other", "Leave one out.")
    expectation = _expectation(asked)
    if asked["is_latest"]:
        if (
            asked["files"]
            or asked["paths"]
            or asked["sha256"]
            or asked["sha512"]
            or asked["run_id"]
            or asked["audit_run_id"]
        ):
            raise _wrong("--latest finds files, artifacts and runs itself", "Leave FILE, --artifact and run ids out.")
        _audit_latest(options, asked, expectation)
    else:
        _audit_files(options, asked, expectation)


class _Output:
    """What is printed. A failure to print waits for the verdict, which matters more."""

    def __init__(self) -> None:
        self._failure: OSError | UnicodeEncodeError | None = None

    def show(self, text: str) -> None:
        """Print one line of result."""
        self._attempt(lambda: console.show(text))

    def show_json(self, value: object) -> None:
        """Print one JSON document."""
        self._attempt(lambda: console.show_json(value))

    def require_shown(self) -> None:
        """Raise what kept the first line that could not be printed."""
        if self._failure is not None:
            raise self._failure

    def _attempt(self, show: Callable[[], None]) -> None:
        try:
            show()
        except (OSError, UnicodeEncodeError) as error:
            self._failure = self._failure or error
            if isinstance(error, OSError):
                # What is still buffered would fail again when the interpreter ends, and change the exit code.
                with suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _audit_files(options: Options, asked: dict[str, Any], expectation: Expectation) -> None:
    output = _Output()
    started = time.perf_counter()
    artifacts = _artifacts(asked)
    report = auditing.audit(asked["files"], artifacts, expectation, Signatures(asked["trust_root"]))
    duration_s = time.perf_counter() - started
    org_id: UUID = asked["org"] or NIL_ORG
    number: int = asked["audit_run_id"] or recording.content_run_id(org_id, report)
    recorded: Recorded | None = None
    # A format that is not understood says nothing about the provenance, so no row records a failure.
    is_kept = not asked["no_record"] and report.verdict not in {Verdict.UNSUPPORTED, Verdict.UNKNOWN}
    if not options.as_json:
        output.show(reporting.markdown(report) if asked["markdown"] else "\n".join(reporting.lines(report)))
    try:
        if is_kept:
            identity = Identity(org_id, number, asked["run_id"], asked["validation_run_id"])
            with options.connect() as connection:
                recorded = recording.record(
                    connection,
                    recording.row(report, expectation, identity),
                    recording.event_of(report, duration_s),
                )
    except (OpsKpiError, psycopg.Error) as error:
        # That it failed matters more than that nobody keeps it.
        if report.verdict is Verdict.PASS:
            raise
        _notice(f"opskpi: the audit is not recorded: {_explained(error).message}")
    finally:
        # What was found is said even when it cannot be kept.
        if options.as_json:
            output.show_json(reporting.as_object(report) | {"audit_run_id": number, "recorded": recorded})
    if recorded is not None and not options.as_json and not asked["markdown"]:
        output.show(_recorded(number, recorded))
    _require_pass(report)
    output.require_shown()


def _audit_latest(options: Options, asked: dict[str, Any], expectation: Expectation) -> None:
    folder: Path = asked["folder"]
    if not folder.is_dir():
        raise _wrong(f"{folder} is no folder", "Name the folder of the provenance files with --dir.")
    output = _Output()
    signatures = Signatures(asked["trust_root"])
    observations: list[latest.Observation] = []
    failures: list[OpsKpiError] = []
    with options.connect() as connection:
        for run in latest.waiting(connection, asked["limit"], asked["org"]):
            started = time.perf_counter()
            # Each org has a folder of its own, unless one is named, lest two share a run's number or tag.
            place = folder if asked["org"] or run.org_id == NIL_ORG else folder / str(run.org_id)
            observation = latest.observe(run, place, expectation, signatures)
            observations.append(observation)
            if not options.as_json:
                output.show(_observed(observation, markdown=asked["markdown"]))
            if asked["no_record"]:
                continue
            try:
                latest.keep(connection, observation, expectation, time.perf_counter() - started)
            except (OpsKpiError, psycopg.Error) as error:
                # It holds up no other run, and no verdict.
                failures.append(_explained(error))
                _notice(f"opskpi: the audit of run {run.run_id} is not recorded: {failures[-1].message}")
    if options.as_json:
        output.show_json([_as_object(observation) for observation in observations])
    elif not observations:
        output.show("no provenance run waits for an audit")
    due = [str(observation.run.run_id) for observation in observations if observation.is_due]
    if due:
        raise OpsKpiError(
            f"{len(due)} of {len(observations)} runs did not pass: {', '.join(due[:20])}", "", ExitCode.BREACH
        )
    if failures:
        count = f"{len(failures)} of {len(observations)} audits are not recorded"
        raise OpsKpiError(f"{count}: {failures[0].message}", failures[0].hint, failures[0].exit_code)
    output.require_shown()


def _expectation(asked: dict[str, Any]) -> Expectation:
    if asked["tag"] is not None and asked["versioned_tag"] is not None:
        raise _wrong("--tag and --versioned-tag exclude each other", "Leave one out.")
    for name in ("source", "tag", "versioned_tag", "signer", "issuer"):
        if asked[name] is not None and not asked[name].strip():
            raise _wrong(f"--{name.replace('_', '-')} is empty", "Leave it out if it is not to be checked.")
    # What says nothing would be taken for a check that nobody asked for.
    for name, ids in (("builder", asked["builders"]), ("signer", [asked["signer"]] if asked["signer"] else [])):
        for said in ids:
            before, at, ref = said.partition("@")
            if not before.strip() or (at and not ref.strip()):
                raise _wrong(f"--{name} {said!r} lacks its id or the ref after @", "Write ID or ID@REF.")
    if asked["source"] is not None and not repository(asked["source"].strip()).strip("/. "):
        raise _wrong(f"--source {asked['source']!r} names no repository", "Write it as github.com/owner/name.")
    if not all(said.strip() for said in asked["predicate_types"]):
        raise _wrong("--predicate-type is empty", "Leave it out for SLSA v0.2 and v1.")
    if asked["versioned_tag"] is not None and version(asked["versioned_tag"]) is None:
        raise _wrong(f"{asked['versioned_tag']} is no version", "Write v14, v14.2 or v14.2.1.")
    commit: str | None = asked["commit"] and asked["commit"].lower()
    if commit is not None and not COMMIT.fullmatch(commit):
        raise _wrong(f"{asked['commit']} is no commit", "Write its 40 or 64 hexadecimal digits: git rev-parse TAG^{}.")
    return Expectation(
        builders=asked["builders"],
        source=asked["source"],
        tag=asked["tag"],
        versioned_tag=asked["versioned_tag"],
        commit=commit,
        predicate_types=asked["predicate_types"] or (SLSA_V02, SLSA_V1),
        run_id=asked["run_id"],
        signer=asked["signer"],
        issuer=asked["issuer"],
        needs_signature=asked["require_signature"],
    )


def _artifacts(asked: dict[str, Any]) -> list[Artifact]:
    if not asked["files"]:
        raise _wrong("no provenance is given", "Name its FILE, or pass --latest.")
    found = [auditing.artifact(path) for path in asked["paths"]]
    for digest in asked["sha256"]:
        if not DIGESTS["sha256"].fullmatch(digest.lower()):
            raise _wrong(f"{digest} is no SHA-256", "Write its 64 hexadecimal digits.")
        found.append(Artifact("--sha256", {"sha256": digest.lower()}))
    found += [Artifact("--sha512", {"sha512": _sha512(digest)}) for digest in asked["sha512"]]
    if not found:
        raise _wrong(
            "no artifact is given", "Pass --artifact PATH, --sha256 or --sha512: a provenance is about something."
        )
    return found


def _sha512(text: str) -> str:
    """The digest in hexadecimal, of that or of npm's dist.integrity (https://www.w3.org/TR/SRI)."""
    digest = text.lower()
    if text.startswith("sha512-"):
        with suppress(MalformedError):
            digest = decoded(text.removeprefix("sha512-"), "--sha512").hex()
    if not DIGESTS["sha512"].fullmatch(digest):
        raise _wrong(f"{text} is no SHA-512", "Write its 128 hexadecimal digits, or sha512-BASE64 as npm shows it.")
    return digest


def _require_pass(report: Report) -> None:
    failed = list(dict.fromkeys(check.name for check in report.checks if check.status is Status.FAIL))
    if report.verdict is Verdict.UNREADABLE:
        raise _wrong("a file holds no readable provenance", "See the check above; the artifact is not verified.")
    if report.verdict is Verdict.UNSUPPORTED:
        raise _wrong("a format is not understood", "See the check above; the artifact is not verified.")
    if report.verdict is Verdict.UNKNOWN:
        algorithms = "an algorithm that the subjects have, too: --artifact, --sha256 or --sha512"
        raise _wrong("the artifact cannot be compared with the subjects", f"Name it by {algorithms}.")
    if report.verdict is not Verdict.PASS:
        raise OpsKpiError(f"the audit failed: {', '.join(failed)}", "", ExitCode.BREACH)


def _recorded(number: int, recorded: Recorded) -> str:
    again = "" if recorded.events_stored else ", as before"
    synced = f"provenance run {'found' if recorded.provenance_synced else 'not found'}, validation run "
    return f"recorded as audit run {number}{again}; {synced}{'found' if recorded.validation_synced else 'not found'}"


def _observed(observation: latest.Observation, *, markdown: bool) -> str:
    run, report = observation.run, observation.report
    name = f"run {run.run_id}" + (f" ({recording.kept(run.tag)})" if run.tag else "")
    said = f"{observation.verdict}: {recording.kept(observation.reason)}" if observation.reason else observation.verdict
    if markdown:
        lines = reporting.markdown(report) if report else f"### Provenance audit: {reporting.escaped(said)}"
        return f"{reporting.escaped(name)}\n\n{lines}\n"
    return "\n".join([f"{name}: {said}", *(f"  {line}" for line in (reporting.lines(report) if report else []))])


def _as_object(observation: latest.Observation) -> dict[str, Any]:
    run = observation.run
    return {
        "org_id": run.org_id,
        "provenance_run_id": run.run_id,
        "audit_run_id": observation.audit_run_id,
        "tag": run.tag,
        "verdict": str(observation.verdict),
        "reason": observation.reason,
        "report": reporting.as_object(observation.report) if observation.report else None,
    }


def _explained(error: OpsKpiError | psycopg.Error) -> OpsKpiError:
    return explain(error) if isinstance(error, psycopg.Error) else error


def _notice(text: str) -> None:
    # A full disk under stderr changes no verdict either.
    with suppress(OSError):
        console.notice(text)


def _wrong(message: str, hint: str) -> OpsKpiError:
    return OpsKpiError(message, hint, ExitCode.BAD_ARGUMENT)

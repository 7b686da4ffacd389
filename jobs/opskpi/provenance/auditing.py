"""One verdict of provenance files, artifacts and expectations."""

import hashlib
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from io import BufferedReader
from pathlib import Path

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.provenance.checks import Artifact, Check, Expectation, Status, of_digests, of_statement
from opskpi.provenance.envelopes import envelope, shown
from opskpi.provenance.signatures import Signatures
from opskpi.provenance.statements import Claims, Statement, statement
from opskpi.provenance.strict_json import LARGEST_TEXT, MalformedError, documents


class Verdict(StrEnum):
    """What an audit ends in; unknown when there was nothing to compare, such as no artifact."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    UNREADABLE = "unreadable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Provenance:
    """One envelope, or a file in which none could be read: where it is, what it says if it is sound, its checks."""

    place: str
    statement: Statement | None
    checks: tuple[Check, ...]

    @property
    def claims(self) -> Claims:
        """What it says; nothing where it is not sound."""
        return self.statement.claims if self.statement else Claims()


@dataclass(frozen=True, slots=True)
class Report:
    """All that an audit found.

    `content_sha256` identifies the files by their content, in whatever order they came. `is_attributed` is False when
    a run was looked for and some provenance does not say of which run it is.
    """

    provenances: tuple[Provenance, ...]
    artifacts: tuple[Artifact, ...]
    digests: tuple[Check, ...]
    is_readable: bool
    content_sha256: str
    is_attributed: bool = True

    @property
    def checks(self) -> list[Check]:
        """Every check, those of the envelopes first."""
        return [check for provenance in self.provenances for check in provenance.checks] + list(self.digests)

    @property
    def is_sound(self) -> bool:
        """Every envelope and statement is well formed."""
        return all(provenance.statement for provenance in self.provenances)

    @property
    def verdict(self) -> Verdict:
        """A pass needs an artifact that is a subject, the run where one was looked for, and no check that failed."""
        if not self.is_readable:
            return Verdict.UNREADABLE
        if any(check.status is Status.FAIL for check in self.checks):
            return Verdict.FAIL
        return Verdict.PASS if self.artifacts and self.is_attributed else Verdict.UNKNOWN


def audit(
    files: Sequence[str | Path], artifacts: Sequence[Artifact], expectation: Expectation, signatures: Signatures
) -> Report:
    """Check every envelope of the files, `-` being standard input, and that each artifact is a subject of one.

    All envelopes must pass: a file with a sound provenance and another one fails. What is wrong within a file is a
    check that failed; raises OpsKpiError (BAD_ARGUMENT) for a file that cannot be opened or is no regular one.
    """
    provenances: list[Provenance] = []
    contents: list[str] = []
    is_readable = True
    for file in files:
        stored = _stored(file)
        contents.append(hashlib.sha256(stored).hexdigest())
        name = "standard input" if str(file) == "-" else str(file)
        try:
            values = documents(stored)
        except MalformedError as error:
            is_readable = False
            check = Check("file", Status.FAIL, "JSON within the limits", shown(str(error), 500))
            provenances.append(Provenance(name, None, (check,)))
            continue
        for line, value in values:
            place = name if len(values) == 1 else f"{name}:{line}"
            provenances.append(_provenance(place, value, expectation, signatures))
    statements = [provenance.statement for provenance in provenances if provenance.statement]
    content = hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()
    return Report(tuple(provenances), tuple(artifacts), tuple(of_digests(artifacts, statements)), is_readable, content)


def artifact(path: str | Path) -> Artifact:
    """A file with its digest. Raises OpsKpiError (BAD_ARGUMENT) when it cannot be read."""
    try:
        with _opened(path) as file:
            return Artifact(Path(path).name, hashlib.file_digest(file, "sha256").hexdigest())
    except (OSError, ValueError) as error:
        raise _unopened(path, error) from error


def _provenance(place: str, value: object, expectation: Expectation, signatures: Signatures) -> Provenance:
    checks: list[Check] = []
    try:
        sealed = envelope(value)
    except MalformedError as error:
        return Provenance(place, None, (Check("envelope", Status.FAIL, "well formed", shown(str(error), 500)),))
    checks.append(Check("envelope", Status.PASS, "well formed"))
    try:
        stated = statement(sealed.payload)
    except MalformedError as error:
        return Provenance(
            place, None, (*checks, Check("statement", Status.FAIL, "well formed", shown(str(error), 500)))
        )
    checks.append(Check("statement", Status.PASS, "well formed"))
    checks += of_statement(stated, expectation)
    checks += signatures.checks(sealed, stated.claims, expectation)
    return Provenance(place, stated, tuple(checks))


def _stored(file: str | Path) -> bytes:
    # One byte more than may be, so that the reader sees that it is too much: memory stays bounded.
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(LARGEST_TEXT + 1)
        with _opened(file) as opened:
            return opened.read(LARGEST_TEXT + 1)
    except (OSError, ValueError) as error:
        raise _unopened(file, error) from error


def _opened(path: str | Path) -> BufferedReader:
    """A regular file, opened; a pipe or a device could keep the reader for ever. Raises OSError and ValueError."""
    # Without O_NONBLOCK a pipe would be waited for before it can be looked at.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is no regular file")
    return file


def _unopened(path: str | Path, error: OSError | ValueError) -> OpsKpiError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return OpsKpiError(f"cannot read {path}: {reason}", "Name a regular file that can be read.", ExitCode.BAD_ARGUMENT)

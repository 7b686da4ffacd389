"""One verdict of provenance files, artifacts and expectations."""

import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from io import BufferedReader
from pathlib import Path

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.provenance.checks import DIGESTS, Artifact, Check, Expectation, Status, of_digests, of_statement
from opskpi.provenance.envelopes import Envelope, Found, envelope, shown, within
from opskpi.provenance.signatures import Signatures
from opskpi.provenance.statements import Claims, Statement, statement
from opskpi.provenance.strict_json import LARGEST_TEXT, MalformedError, UnsupportedError, documents

_PIECE = 1 << 20


class Verdict(StrEnum):
    """What an audit ends in.

    `unknown` when there was nothing to compare, such as no artifact; `unsupported` when a format is not understood,
    which says nothing against the provenance.
    """

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    UNREADABLE = "unreadable"
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Provenance:
    """One envelope, or a file in which none could be read: where it is, what it says if it is sound, its checks.

    `is_asked` is False for what a registry listed beside the provenance, such as a publication: it proves nothing here.
    """

    place: str
    statement: Statement | None
    checks: tuple[Check, ...]
    is_asked: bool = True

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
        return bool(self.provenances) and all(provenance.statement for provenance in self.provenances)

    @property
    def verdict(self) -> Verdict:
        """A pass needs artifacts that are subjects, the run where one was looked for, and no check that failed."""
        if not self.is_readable:
            return Verdict.UNREADABLE
        if any(check.status is Status.FAIL for check in self.checks):
            return Verdict.FAIL
        if not self.is_sound:
            return Verdict.UNSUPPORTED
        has_compared = bool(self.artifacts) and all(check.status is Status.PASS for check in self.digests)
        return Verdict.PASS if has_compared and self.is_attributed else Verdict.UNKNOWN


def audit(
    files: Sequence[str | Path], artifacts: Sequence[Artifact], expectation: Expectation, signatures: Signatures
) -> Report:
    """Check every envelope of the files, `-` being standard input, and that each artifact is a subject of one.

    All envelopes must pass: a file with a sound provenance and another one fails. What is wrong within a file is a
    check that failed; raises OpsKpiError (BAD_ARGUMENT) for a file that cannot be opened or is no regular one.
    """
    provenances: list[Provenance] = []
    found: list[Found] = []
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
            found += [replace(one, path=place + one.path) for one in within(value)]
    provenances += _judged(found, expectation, signatures)
    statements = [one.statement for one in provenances if one.statement and one.is_asked]
    content = hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()
    return Report(tuple(provenances), tuple(artifacts), tuple(of_digests(artifacts, statements)), is_readable, content)


def artifact(path: str | Path) -> Artifact:
    """A file with its digests. Raises OpsKpiError (BAD_ARGUMENT) when it cannot be read."""
    hashes = {algorithm: hashlib.new(algorithm) for algorithm in DIGESTS}
    try:
        with _opened(path) as file:
            while piece := file.read(_PIECE):
                for each in hashes.values():
                    each.update(piece)
            return Artifact(Path(path).name, {algorithm: each.hexdigest() for algorithm, each in hashes.items()})
    except (OSError, ValueError) as error:
        raise _unopened(path, error) from error


def _judged(found: Sequence[Found], expectation: Expectation, signatures: Signatures) -> Iterator[Provenance]:
    """The checks of each envelope; of what a registry lists, those of the kinds that are asked for, if any is."""
    read = [(one, _read(one)) for one in found]
    is_there = any(
        one.is_listed and provenance.statement and provenance.statement.predicate_type in expectation.predicate_types
        for one, (provenance, _) in read
    )
    for one, (provenance, sealed) in read:
        stated = provenance.statement
        if stated is None or sealed is None:
            yield provenance
        elif one.is_listed and is_there and stated.predicate_type not in expectation.predicate_types:
            other = Check("predicate type", Status.NOT_ASKED, "", shown(stated.predicate_type))
            yield replace(provenance, checks=(*provenance.checks, other), is_asked=False)
        else:
            checks = of_statement(stated, expectation) + signatures.checks(sealed, stated.claims, expectation)
            yield replace(provenance, checks=(*provenance.checks, *checks))


def _read(found: Found) -> tuple[Provenance, Envelope | None]:
    """The envelope and its statement, with a check of each: up to the one that is not well formed or understood."""
    checks: list[Check] = []
    name, sealed = "envelope", None
    try:
        sealed = envelope(found.value)
        checks.append(Check(name, Status.PASS, "well formed"))
        name = "statement"
        stated = statement(sealed.payload)
    except MalformedError as error:
        status = Status.UNSUPPORTED if isinstance(error, UnsupportedError) else Status.FAIL
        return Provenance(found.path, None, (*checks, Check(name, status, "well formed", shown(str(error), 500)))), None
    return Provenance(found.path, stated, (*checks, Check(name, Status.PASS, "well formed"))), sealed


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

"""What a statement says against what was expected: one line a check."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from opskpi.provenance.envelopes import shown
from opskpi.provenance.statements import SLSA_V02, SLSA_V1, Claims, Statement, Subject, repository
from opskpi.provenance.versions import is_version_of, version

TAG_PREFIX = "refs/tags/"
# A subject may go without a name; in-toto v0.1 writes that as an underscore.
NAMELESS = frozenset({"", "_"})
# The digests that an artifact is compared by; MD5 and SHA-1 can be forged.
DIGESTS = {"sha256": re.compile(r"[0-9a-f]{64}"), "sha512": re.compile(r"[0-9a-f]{128}")}
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Status(StrEnum):
    """How a check ended. What is unsupported could not be verified: it is no pass, but is not known to be wrong."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    UNSUPPORTED = "unsupported"
    NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, how it ended, what was expected and what was found."""

    name: str
    status: Status
    expected: str = ""
    found: str = ""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What the provenance must be about: how the user calls it, and its digests in hexadecimal by algorithm."""

    name: str
    digests: Mapping[str, str]

    @property
    def sha256(self) -> str | None:
        """The SHA-256, None where only another digest is known."""
        return self.digests.get("sha256")


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the user asks for; what is None or empty is not asked.

    `builders` are ids with or without `@ref`, `source` is a repository, `tag` an exact tag, `versioned_tag` a version
    that the tag must be one of, `commit` the commit of that tag, `run_id` the CI run that made the provenance.
    """

    builders: tuple[str, ...] = ()
    source: str | None = None
    tag: str | None = None
    versioned_tag: str | None = None
    commit: str | None = None
    predicate_types: tuple[str, ...] = (SLSA_V02, SLSA_V1)
    run_id: int | None = None
    signer: str | None = None
    issuer: str | None = None
    needs_signature: bool = False


def of_statement(statement: Statement, expectation: Expectation) -> list[Check]:
    """The checks of a statement's predicate, in the order in which they are shown; the digests are not among them."""
    claims = statement.claims
    return [
        _predicate_type(statement, expectation),
        _builder(claims, expectation),
        _source(claims, expectation),
        _tag(claims, expectation),
        _release(claims, expectation),
        _commit(claims, expectation),
        _run(claims, expectation),
    ]


def of_digests(artifacts: Sequence[Artifact], statements: Sequence[Statement]) -> list[Check]:
    """Whether each artifact is a subject, and its name has no other digest: one check per artifact."""
    subjects = [subject for statement in statements for subject in statement.subjects]
    return [_digest(artifact, subjects) for artifact in artifacts] or [Check("artifact digest", Status.NOT_ASKED)]


def _digest(artifact: Artifact, subjects: Sequence[Subject]) -> Check:
    wanted = f"{next(iter(artifact.digests.values()))} ({shown(artifact.name)})"
    comparable = [subject for subject in subjects if artifact.digests.keys() & subject.digests.keys()]
    matching = [subject for subject in comparable if _is_of(subject, artifact)]
    if not comparable:
        algorithms = _listed([algorithm for subject in subjects for algorithm in subject.digests])
        return Check("artifact digest", Status.UNSUPPORTED, wanted, f"digests by {algorithms or 'no algorithm'}")
    if not matching:
        return Check("artifact digest", Status.FAIL, wanted, _listed([_said(one, artifact) for one in comparable]))
    names = {artifact.name, *(subject.name for subject in matching)} - NAMELESS
    others = [
        f"{shown(subject.name)} is {_said(subject, artifact)}"
        for subject in comparable
        if subject.name in names and subject not in matching
    ]
    if others:
        # Which of the builds made the artifact cannot be told, so neither of them vouches for it.
        return Check("artifact digest", Status.FAIL, f"{wanted} alone under its name", _listed(others))
    return Check("artifact digest", Status.PASS, "", f"{shown(artifact.name)} is {_said(matching[0], artifact)}")


def _is_of(subject: Subject, artifact: Artifact) -> bool:
    """Whether every digest that both have is the same."""
    return all(subject.digests.get(algorithm, digest) == digest for algorithm, digest in artifact.digests.items())


def _said(subject: Subject, artifact: Artifact) -> str:
    """The digest of a subject by which it is compared, one that differs first."""
    common = [algorithm for algorithm in artifact.digests if algorithm in subject.digests]
    differing = [algorithm for algorithm in common if subject.digests[algorithm] != artifact.digests[algorithm]]
    return subject.digests[(differing or common)[0]]


def is_same_builder(expected: str, found: str) -> bool:
    """Whether a builder id is the expected one: by its name alone where no `@ref` is asked for.

    A ref may be short: `@v2.0.0` asks for `@refs/tags/v2.0.0`, as it does in slsa-verifier.
    """
    name, _, ref = expected.partition("@")
    found_name, _, found_ref = found.partition("@")
    return name == found_name and (not ref or found_ref in {ref, f"{TAG_PREFIX}{ref}"})


def _predicate_type(statement: Statement, expectation: Expectation) -> Check:
    allowed = expectation.predicate_types
    return _judged("predicate type", " or ".join(allowed), [statement.predicate_type], lambda said: said in allowed)


def _builder(claims: Claims, expectation: Expectation) -> Check:
    wanted = expectation.builders
    found = [claims.builder_id] if claims.builder_id else []
    return _judged(
        "builder", " or ".join(wanted), found, lambda said: any(is_same_builder(one, said) for one in wanted)
    )


def _source(claims: Claims, expectation: Expectation) -> Check:
    wanted = repository(expectation.source or "")
    return _judged("source", wanted, claims.sources, lambda said: said == wanted)


def _tag(claims: Claims, expectation: Expectation) -> Check:
    return _tagged("tag", claims.refs or claims.invocation_refs, expectation)


def _release(claims: Claims, expectation: Expectation) -> Check:
    """The release or ref that the build was started for, where the provenance keeps it, is that of the tag."""
    if (expectation.tag or expectation.versioned_tag) and not claims.invocation_refs:
        return Check("invocation release", Status.UNSUPPORTED, "", "the provenance does not say what started the build")
    return _tagged("invocation release", claims.invocation_refs, expectation)


def _tagged(name: str, refs: Sequence[str], expectation: Expectation) -> Check:
    if (tag := expectation.tag) is not None:
        return _judged(name, tag, [_tag_of(ref) for ref in refs], lambda said: said == tag)
    versioned = version(expectation.versioned_tag or "")

    def is_one_of(said: str) -> bool:
        found = version(said)
        return versioned is not None and found is not None and is_version_of(versioned, found)

    tags = [_tag_of(ref) for ref in refs]
    check = _judged(name, expectation.versioned_tag and f"a version {expectation.versioned_tag}", tags, is_one_of)
    # Two tags of one version would each match; a build has one.
    if check.status is Status.PASS and len(set(tags)) > 1:
        return Check(name, Status.FAIL, "one tag", _listed(tags))
    return check


def _tag_of(ref: str) -> str:
    """The tag of a ref; a branch keeps its whole ref, which no tag is."""
    return ref.removeprefix(TAG_PREFIX) if ref.startswith(TAG_PREFIX) else f"no tag but {ref}"


def _commit(claims: Claims, expectation: Expectation) -> Check:
    wanted = expectation.commit
    return _judged("content digest", wanted, claims.commits, lambda said: said == wanted)


def _run(claims: Claims, expectation: Expectation) -> Check:
    wanted = None if expectation.run_id is None else str(expectation.run_id)
    if wanted and not claims.run_ids:
        return Check("provenance run", Status.UNSUPPORTED, wanted, "the provenance names no run")
    return _judged("provenance run", wanted, claims.run_ids, lambda said: said == wanted)


def _judged(name: str, expected: str | None, found: Sequence[str], is_right: Callable[[str], bool]) -> Check:
    """A pass if something is said and all of it is right."""
    said = _listed(found)
    if not expected:
        return Check(name, Status.NOT_ASKED, "", said)
    if found and all(map(is_right, found)):
        return Check(name, Status.PASS, shown(expected), said)
    return Check(name, Status.FAIL, shown(expected), said or "nothing")


def _listed(found: Sequence[str]) -> str:
    """What was found, each once, a few at most."""
    distinct = list(dict.fromkeys(found))
    more = f" and {len(distinct) - 5} more" if len(distinct) > 5 else ""
    return ", ".join(map(shown, distinct[:5])) + more

"""Statements of in-toto, and what their SLSA predicates say of builder, source, commit and run.

Sources: https://github.com/in-toto/attestation (statement v0.1, v1), https://slsa.dev/provenance/v0.2 and /v1. A claim
may stand in several places, such as the ref in the source's URI and in the workflow's; all are kept, so that one that
differs is found. What has another type than it must have is refused, since another reader might make something of it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from opskpi.provenance.envelopes import shown
from opskpi.provenance.strict_json import MalformedError, UnsupportedError, document, kind

SLSA_V02 = "https://slsa.dev/provenance/v0.2"
SLSA_V1 = "https://slsa.dev/provenance/v1"
STATEMENT_TYPES = ("https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1")

_DIGEST_LENGTHS = {"sha256": 64, "sha512": 128, "sha1": 40, "gitCommit": (40, 64)}
_HEX = re.compile(r"[0-9a-f]+")
_RUN_URL = re.compile(r"https://[A-Za-z0-9.:-]+/[^/\s]+/[^/\s]+/actions/runs/([0-9]{1,18})(?:/attempts/[0-9]+)?")
_RUN_ATTEMPT = re.compile(r"([0-9]{1,18})-[0-9]+")
_HTTPS = re.compile(r"\A(git\+)?https://")
# Of whatever transport, and however it is written: git+https://, GIT+SSH://, git://, git@host:.
_GIT = re.compile(r"git[+:@]|ssh:", re.IGNORECASE)
_REVISION = re.compile(r"@[^/@:]*\Z")


@dataclass(frozen=True, slots=True)
class Subject:
    """What the provenance is about: a name, and its digests (lower case, hexadecimal) by algorithm."""

    name: str
    digests: dict[str, str]


@dataclass(slots=True)
class Claims:
    """What a predicate says, in the order of the places it says it in.

    `sources` are repositories without scheme, ref and `.git`; `refs` are those of the source, `invocation_refs` those
    of what started the build (the ref of the run and of its event, the tag of a release), all with `refs/…` before
    them; `commits` are of the source; `run_ids` and `run_urls` name the CI run.
    """

    builder_id: str | None = None
    sources: list[str] = field(default_factory=list)
    refs: list[str] = field(default_factory=list)
    invocation_refs: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)
    run_urls: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Statement:
    """A well-formed statement; the claims are empty for a predicate that is no SLSA provenance."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    claims: Claims


def statement(payload: bytes) -> Statement:
    """The statement that an envelope carries.

    Raises UnsupportedError for a version that is not understood, MalformedError for what is wrong with one that is.
    """
    top = _Place("", document(payload)).object()
    if (found := top.value.get("_type")) not in STATEMENT_TYPES:
        raise UnsupportedError(f"_type is {shown(found)}, not one of {', '.join(STATEMENT_TYPES)}")
    subjects = tuple(_subject(place) for place in top.need("subject").items())
    if not subjects:
        raise MalformedError("subject is empty")
    if len({(one.name, *sorted(one.digests.items())) for one in subjects}) < len(subjects):
        raise MalformedError("a subject is listed twice")
    predicate_type = top.need("predicateType").text()
    predicate = top.need("predicate").object()
    claims = Claims()
    if predicate_type == SLSA_V02:
        _read_v02(predicate, claims)
    elif predicate_type == SLSA_V1:
        _read_v1(predicate, claims)
    return Statement(subjects, predicate_type, claims)


def repository(uri: str) -> str:
    """A repository as it is compared: without `https://` or `git+https://`, ref, `.git` and the slash at the end.

    Any other scheme stays: file://github.com/owner/name is not that repository.
    """
    bare = _REVISION.sub("", uri.partition("@refs/")[0])
    return _HTTPS.sub("", bare).removesuffix("/").removesuffix(".git")


@dataclass(frozen=True, slots=True)
class _Place:
    """A value with its path."""

    path: str
    value: Any

    def object(self) -> "_Place":
        return self._of(dict, "an object")

    def items(self) -> "list[_Place]":
        self._of(list, "a list")
        return [_Place(f"{self.path}[{number}]", item) for number, item in enumerate(self.value)]

    def text(self) -> str:
        if not self._of(str, "a text").value.strip():
            raise MalformedError(f"{self.path} is empty")
        return self.value

    def get(self, key: str) -> "_Place | None":
        """The value of a key; None where it is missing or null."""
        value = self.value.get(key)
        return None if value is None else _Place(f"{self.path}.{key}" if self.path else key, value)

    def need(self, key: str) -> "_Place":
        if found := self.get(key):
            return found
        raise MalformedError(f"{self.path}.{key} is missing" if self.path else f"{key} is missing")

    def inner(self, *keys: str) -> "_Place":
        """The object at the end of a path of keys; an empty one where the path ends before."""
        place = self
        for key in keys:
            place = (place.get(key) or _Place(f"{place.path}.{key}", {})).object()
        return place

    def said(self, key: str) -> list[str]:
        """The text of a key, as a list that is empty where nothing is said."""
        found = self.get(key)
        return [found.text()] if found and found.value != "" else []

    def _of(self, wanted: type, name: str) -> "_Place":
        if not isinstance(self.value, wanted):
            raise MalformedError(f"{self.path or 'the statement'} is {kind(self.value)}, not {name}")
        return self


def _subject(place: _Place) -> Subject:
    name = place.object().get("name")
    digests = _digests(place.need("digest"))
    if not digests:
        raise MalformedError(f"{place.path}.digest is empty")
    return Subject(name._of(str, "a text").value if name else "", digests)


def _digests(place: _Place) -> dict[str, str]:
    found = {key: _Place(f"{place.path}.{key}", value).text() for key, value in place.object().value.items()}
    for algorithm, digest in found.items():
        lengths = _DIGEST_LENGTHS.get(algorithm)
        wanted = (lengths,) if isinstance(lengths, int) else lengths
        if wanted and not (_HEX.fullmatch(digest) and len(digest) in wanted):
            said = " or ".join(map(str, wanted))
            raise MalformedError(f"{place.path}.{algorithm} is {shown(digest)}, not {said} digits in lower case")
    return found


def _read_v02(predicate: _Place, claims: Claims) -> None:
    claims.builder_id = predicate.need("builder").object().need("id").text()
    predicate.need("buildType").text()
    invocation = predicate.inner("invocation")
    source = invocation.inner("configSource")
    _read_source(source, claims)
    materials = [item.object() for item in (predicate.get("materials") or _Place("", [])).items()]
    # By the contract of the builders the first material is the source, even where configSource names another.
    if materials:
        _read_source(materials.pop(0), claims)
    _read_same_sources(materials, claims)
    _read_environment(invocation.inner("environment"), str.lower, claims)
    for told in predicate.inner("metadata").said("buildInvocationID"):
        _read_run(told, claims)


def _read_v1(predicate: _Place, claims: Claims) -> None:
    definition = predicate.need("buildDefinition").object()
    definition.need("buildType").text()
    external = definition.need("externalParameters").object()
    details = predicate.need("runDetails").object()
    claims.builder_id = details.need("builder").object().need("id").text()
    # A parameter of either name may also be something of the build's own, such as a text.
    if isinstance(external.value.get("workflow"), dict):
        workflow = external.inner("workflow")
        claims.sources += map(repository, workflow.said("repository"))
        claims.refs += workflow.said("ref")
    if isinstance(external.value.get("source"), dict):
        _read_source(external.inner("source"), claims)
    dependencies = [item.object() for item in (definition.get("resolvedDependencies") or _Place("", [])).items()]
    # By the contract of the GitHub builders the first dependency is the source.
    if dependencies and (not claims.sources or _is_repository(dependencies[0])):
        _read_source(dependencies.pop(0), claims)
    _read_same_sources(dependencies, claims)
    _read_environment(definition.inner("internalParameters"), str.upper, claims)
    for told in details.inner("metadata").said("invocationId"):
        _read_run(told, claims)


def _read_source(place: _Place, claims: Claims) -> None:
    for uri in place.said("uri"):
        claims.sources.append(repository(uri))
        claims.refs += [f"refs/{ref}" for ref in [uri.partition("@refs/")[2]] if ref]
    digests = _digests(place.inner("digest"))
    claims.commits += [digests[name] for name in ("gitCommit", "sha1") if name in digests]


def _is_repository(place: _Place) -> bool:
    """Whether a dependency is one of git, by its URI or by the digest of a commit."""
    named = any(_GIT.match(uri.lstrip()) or "@refs/" in uri for uri in place.said("uri"))
    return named or bool({"gitCommit", "sha1"} & place.inner("digest").value.keys())


def _read_same_sources(places: Iterable[_Place], claims: Claims) -> None:
    """Add what else is said of the sources that are known: a second ref or commit of one contradicts the first."""
    for place in places:
        if any(repository(uri) in claims.sources for uri in place.said("uri")):
            _read_source(place, claims)


def _read_environment(place: _Place, case: Any, claims: Claims) -> None:
    """Add what GitHub's builders keep of the run and of the event that started it."""
    claims.invocation_refs += place.said(case("github_ref"))
    for told in place.said(case("github_run_id")):
        _read_run(told, claims)
    event = place.inner(case("github_event_payload"))
    claims.invocation_refs += [ref for ref in event.said("ref") if ref.startswith("refs/")]
    if isinstance(event.value.get("release"), dict):
        claims.invocation_refs += [f"refs/tags/{tag}" for tag in event.inner("release").said("tag_name")]


def _read_run(told: str, claims: Claims) -> None:
    """Add the run's number as far as the text has one, else the text, which is no number that anybody expects."""
    if match := _RUN_URL.fullmatch(told):
        claims.run_urls.append(told)
    else:
        match = _RUN_ATTEMPT.fullmatch(told)
    claims.run_ids.append(match[1] if match else told)

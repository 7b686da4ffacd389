"""What provenance says against what is expected: digests, types, builders, sources, tags, versions, commits, runs."""

import copy
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.provenance import auditing, reporting
from opskpi.provenance.auditing import Report, Verdict
from opskpi.provenance.checks import Artifact, Expectation, Status, is_same_builder
from opskpi.provenance.signatures import Signatures
from opskpi.provenance.statements import repository
from opskpi.provenance.versions import is_version_of, version
from support.provenances import (
    ARTIFACT,
    BUILDER,
    COMMIT,
    OTHER_SHA256,
    RUN_ID,
    SHA256,
    SOURCE,
    Place,
    b64,
    envelope,
    places,
    statement_v02,
    statement_v1,
    subjects_of,
    within,
)

STATEMENTS: list[Callable[..., dict[str, Any]]] = [statement_v1, statement_v02]
ALL = Expectation(
    builders=(f"{BUILDER.split('@')[0]}@v2.0.0",),
    source=f"https://{SOURCE}",
    tag="v1.4.0",
    commit=COMMIT,
    run_id=RUN_ID,
)
SIGNATURES = Signatures()


def audit_documents(
    folder: Path, *documents: object, expectation: Expectation = ALL, artifacts: tuple[str, ...] = (SHA256,)
) -> Report:
    """Audit documents, one a line of one file."""
    file = folder / "provenance.jsonl"
    file.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in documents))
    return auditing.audit([file], [Artifact("it", {"sha256": digest}) for digest in artifacts], expectation, SIGNATURES)


def failed(report: Report) -> list[str]:
    """Return the checks that keep the report from a pass, after looking that each says what was expected and found."""
    needed = {"envelope", "statement", "artifact digest"}
    found = [
        check
        for check in report.checks
        if check.status is Status.FAIL or (check.status is Status.UNSUPPORTED and check.name in needed)
    ]
    assert all(check.expected and check.found for check in found)
    assert (report.verdict is Verdict.PASS) == (not found)
    assert (report.verdict is Verdict.FAIL) == any(check.status is Status.FAIL for check in found)
    return [check.name for check in found]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_provenance_that_says_what_is_expected_passes_each_check(tmp_path, statement):
    report = audit_documents(tmp_path, envelope(statement()))
    assert failed(report) == []
    assert [(check.name, str(check.status)) for check in report.checks] == [
        ("envelope", "pass"),
        ("statement", "pass"),
        ("predicate type", "pass"),
        ("builder", "pass"),
        ("source", "pass"),
        ("tag", "pass"),
        ("invocation release", "pass"),
        ("content digest", "pass"),
        ("provenance run", "pass"),
        ("signature", "unsupported"),
        ("signer", "not asked"),
        ("artifact digest", "pass"),
    ]
    assert reporting.lines(report)[-1] == "verdict: pass, not verified: signature"


def test_what_is_not_asked_is_said_not_to_be(tmp_path):
    report = audit_documents(tmp_path, envelope(statement_v1()), expectation=Expectation())
    assert {check.name for check in report.checks if check.status is Status.NOT_ASKED} == {
        *("builder", "source", "tag", "invocation release", "content digest", "provenance run", "signer")
    }


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"builders": ("https://github.com/shop/builders/.github/workflows/other.yml",)}, "builder"),
        ({"builders": (f"{BUILDER.split('@')[0]}@v2",)}, "builder"),
        ({"source": "github.com/shop/app-evil"}, "source"),
        ({"source": "github.com/shop/ap"}, "source"),
        ({"commit": COMMIT.replace("6", "7")}, "content digest"),
        ({"run_id": RUN_ID + 1}, "provenance run"),
        ({"predicate_types": ("https://slsa.dev/provenance/v2",)}, "predicate type"),
    ],
    ids=str,
)
def test_what_differs_from_what_is_expected_fails_its_check_and_no_other(tmp_path, statement, asked, name):
    assert failed(audit_documents(tmp_path, envelope(statement()), expectation=Expectation(**asked))) == [name]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_an_artifact_that_is_no_subject_fails(tmp_path, statement):
    assert failed(audit_documents(tmp_path, envelope(statement()), artifacts=(OTHER_SHA256,))) == ["artifact digest"]
    report = audit_documents(tmp_path, envelope(statement()), artifacts=(SHA256, OTHER_SHA256))
    assert [str(check.status) for check in report.digests] == ["pass", "fail"]


def test_each_of_several_artifacts_may_be_a_subject_in_whatever_order_and_envelope(tmp_path):
    both = (SHA256, OTHER_SHA256)
    assert failed(audit_documents(tmp_path, envelope(statement_v1("v1.4.0", *both)), artifacts=both)) == []
    assert failed(audit_documents(tmp_path, envelope(statement_v1("v1.4.0", *reversed(both))), artifacts=both)) == []
    separate = [envelope(statement_v1(subject=[subject])) for subject in subjects_of(*both)]
    assert failed(audit_documents(tmp_path, *separate, artifacts=both)) == []


def named(name: str | None, digest: str) -> dict[str, Any]:
    return ({} if name is None else {"name": name}) | {"digest": {"sha256": digest}}


@pytest.mark.parametrize("artifact", [SHA256, OTHER_SHA256])
@pytest.mark.parametrize("in_one", [True, False])
def test_subjects_of_one_name_and_two_digests_pass_for_neither(tmp_path, artifact, in_one):
    two = [named("app", SHA256), named("app", OTHER_SHA256)]
    documents = [two] if in_one else [[subject] for subject in two]
    report = audit_documents(
        tmp_path, *(envelope(statement_v1(subject=subjects)) for subjects in documents), artifacts=(artifact,)
    )
    assert failed(report) == ["artifact digest"]
    assert artifact in report.digests[0].expected
    assert artifact not in report.digests[0].found


def test_the_name_of_the_file_counts_too(tmp_path):
    documents = [
        envelope(statement_v1(subject=[subject])) for subject in (named("x", SHA256), named("it", OTHER_SHA256))
    ]
    file = tmp_path / "two.jsonl"
    file.write_text("\n".join(map(json.dumps, documents)))
    assert failed(auditing.audit([file], [Artifact("it", {"sha256": SHA256})], ALL, SIGNATURES)) == ["artifact digest"]
    assert failed(auditing.audit([file], [Artifact("y", {"sha256": SHA256})], ALL, SIGNATURES)) == []


@pytest.mark.parametrize("name", ["", "_", None])
def test_subjects_without_a_name_are_told_apart_by_their_digests_alone(tmp_path, name):
    both = [named(name, SHA256), named(name, OTHER_SHA256)]
    assert failed(audit_documents(tmp_path, envelope(statement_v1(subject=both)))) == []


def test_a_byte_order_mark_is_refused_before_a_payload_and_passed_over_before_a_file(tmp_path):
    sealed = envelope(b"\xef\xbb\xbf" + json.dumps(statement_v1()).encode())
    report = audit_documents(tmp_path, sealed)
    assert failed(report)[0] == "statement"
    assert "byte order mark" in report.checks[1].found
    assert failed(audit_documents(tmp_path, "\ufeff" + json.dumps(envelope(statement_v1())))) == []


def test_one_envelope_that_fails_fails_the_file(tmp_path):
    report = audit_documents(tmp_path, envelope(statement_v1()), envelope(statement_v1("v9.9.9")))
    assert failed(report) == ["tag", "invocation release"]
    assert [provenance.place.rsplit(":", 1)[1] for provenance in report.provenances] == ["1", "2"]


def test_provenance_without_a_tag_fails_when_a_tag_is_asked_for(tmp_path):
    for asked in (Expectation(tag="v1.4.0"), Expectation(versioned_tag="v1"), Expectation(tag="main")):
        assert failed(audit_documents(tmp_path, envelope(statement_v1(None)), expectation=asked)) == [
            "tag",
            "invocation release",
        ]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_release_other_than_the_tag_fails(tmp_path, statement):
    other = json.loads(json.dumps(statement()).replace('"tag_name": "v1.4.0"', '"tag_name": "v1.4.1"'))
    for asked in (Expectation(tag="v1.4.0"), Expectation(versioned_tag="v1.4")):
        assert failed(audit_documents(tmp_path, envelope(other), expectation=asked)) == ["invocation release"]


def test_a_source_that_two_places_say_differently_fails(tmp_path):
    other = statement_v1()
    definition = other["predicate"]["buildDefinition"]
    definition["resolvedDependencies"][0]["uri"] = "git+https://github.com/mallory/app@refs/tags/v1.4.0"
    assert failed(audit_documents(tmp_path, envelope(other), expectation=Expectation(source=SOURCE))) == ["source"]


@pytest.mark.parametrize(
    "first",
    [
        {"uri": "git+https://github.com/mallory/app"},
        {"uri": "GIT+HTTPS://github.com/mallory/app"},
        {"uri": "git://github.com/mallory/app"},
        {"uri": "git@github.com:mallory/app"},
        {"uri": "https://github.com/mallory/app@refs/tags/v1.4.0"},
        {"uri": "https://github.com/mallory/app", "digest": {"gitCommit": COMMIT}},
    ],
    ids=lambda first: first["uri"],
)
def test_a_first_dependency_that_is_another_repository_fails_the_source(tmp_path, first):
    asked = Expectation(source=SOURCE)
    other = statement_v1()
    other["predicate"]["buildDefinition"]["resolvedDependencies"].insert(0, first)
    assert failed(audit_documents(tmp_path, envelope(other), expectation=asked)) == ["source"]


def test_a_first_dependency_that_is_no_repository_leaves_the_source_to_the_others(tmp_path):
    other = statement_v1()
    image = {"uri": "pkg:docker/debian@13", "digest": {"sha256": SHA256}}
    other["predicate"]["buildDefinition"]["resolvedDependencies"].insert(0, image)
    assert (
        failed(audit_documents(tmp_path, envelope(other), expectation=Expectation(source=SOURCE, commit=COMMIT))) == []
    )


def test_a_first_material_that_is_another_repository_fails_the_source_and_its_commit(tmp_path):
    other = statement_v02()
    first = {"uri": "git+https://github.com/mallory/app@refs/tags/v1.4.0", "digest": {"sha1": "0" * 40}}
    other["predicate"]["materials"][0] = first
    asked = Expectation(source=SOURCE, commit=COMMIT)
    assert failed(audit_documents(tmp_path, envelope(other), expectation=asked)) == ["source", "content digest"]


def test_a_second_commit_of_the_source_fails(tmp_path):
    other = statement_v1()
    dependencies = other["predicate"]["buildDefinition"]["resolvedDependencies"]
    dependencies.append(dependencies[0] | {"digest": {"gitCommit": "0" * 40}})
    assert failed(audit_documents(tmp_path, envelope(other), expectation=Expectation(commit=COMMIT))) == [
        "content digest"
    ]


@pytest.mark.parametrize(
    ("expected", "tag", "matches"),
    [
        ("v14", "v14.2", True),
        ("v14.1", "v14.2", False),
        ("v14.2", "v14.2", True),
        ("v14.2.0", "v14.2", True),
        ("v14.0", "v14", True),
        ("v14.2", "v14", False),
        ("v13", "v13.0.30", True),
        ("v13.0", "v13.0.30", True),
        ("v13.0.30", "v13.0.30", True),
        ("v13.0.30", "v13.0.30+build.7", True),
        ("v13.0.29", "v13.0.30", False),
        ("v13.0.3", "v13.0.30", False),
        ("v13.1", "v13.0.30", False),
        ("v2", "v13.0.30", False),
        ("v1", "v13.0.30", False),
        ("v1.2.3", "v1.2.3-rc.1", False),
        ("v1.2.3-rc.1", "v1.2.3-rc.1", True),
        ("v1.2.3-rc.2", "v1.2.3-rc.1", False),
        ("v1.2", "v1.2.3-rc.1", True),
        ("1.2", "1.2.3", True),
        ("1.2", "v1.2.3", False),
    ],
)
def test_a_versioned_tag_stands_for_its_versions(expected, tag, matches):
    asked, found = version(expected), version(tag)
    assert asked
    assert found
    assert is_version_of(asked, found) is matches


@pytest.mark.parametrize(
    "tag", ["", "v", "main", "v1.", "v1.2.3.4", "v01", "v1.2-rc", "v1.2.3-01", "V1", "v1\n", " v1", "v\u0661", "latest"]
)
def test_what_is_no_version_matches_none(tmp_path, tag):
    assert version(tag) is None
    ref = f"refs/tags/{tag}"
    other = json.loads(json.dumps(statement_v1()).replace("refs/tags/v1.4.0", json.dumps(ref)[1:-1]))
    assert "tag" in failed(audit_documents(tmp_path, envelope(other), expectation=Expectation(versioned_tag="v1")))


def test_a_builder_is_the_same_by_name_or_by_name_and_ref():
    assert is_same_builder("https://b/x.yml", "https://b/x.yml@refs/tags/v1")
    assert is_same_builder("https://b/x.yml@v1", "https://b/x.yml@refs/tags/v1")
    assert is_same_builder("https://b/x.yml@refs/tags/v1", "https://b/x.yml@refs/tags/v1")
    assert not is_same_builder("https://b/x.yml@v1", "https://b/x.yml@refs/heads/v1")
    assert not is_same_builder("https://b/x.yml@v1", "https://b/x.yml")
    assert not is_same_builder("https://b/x.ym", "https://b/x.yml@v1")


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("git+https://github.com/shop/app@refs/tags/v1", SOURCE),
        ("https://github.com/shop/app.git", SOURCE),
        ("github.com/shop/app/", SOURCE),
        (f"https://github.com/shop/app@{COMMIT}", SOURCE),
        ("https://evil.example/://github.com/shop/app", "evil.example/://github.com/shop/app"),
        ("http://github.com/shop/app", "http://github.com/shop/app"),
        ("https://github.com@evil.example/shop/app", "github.com@evil.example/shop/app"),
        ("file://github.com/shop/app", "file://github.com/shop/app"),
    ],
)
def test_a_repository_is_compared_without_scheme_and_ref_and_with_all_else(uri, found):
    assert repository(uri) == found


# What a statement may lack or say otherwise when nobody asks for it: every other change must fail.
UNASKED = ("subject/0/name", "buildType", "/path", "entryPoint", "resolvedDependencies/1")


@pytest.mark.parametrize("statement", STATEMENTS)
def test_any_text_of_a_statement_that_is_flipped_or_cut_fails(tmp_path, statement):
    whole = statement()
    for place in places(whole):
        said = within(whole, place)
        if not isinstance(said, str) or any(word in path(place) for word in UNASKED):
            continue
        for text in (said[:-1], f"{said[:-2]}~{said[-1:]}", f"{said}x", ""):
            report = audit_documents(tmp_path, envelope(with_value_at(whole, place, text)))
            # What says nothing in one of several places leaves the others to say it.
            assert failed(report) or text == "", (place, text)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_value_of_another_type_fails(tmp_path, statement):
    whole = statement()
    for place in places(whole):
        for value in (7, True, [[]]):
            report = audit_documents(tmp_path, envelope(with_value_at(whole, place, value)))
            ignored = path(place).endswith(("/name", "/path", "entryPoint")) or {"release", "workflow"} & set(place)
            assert failed(report) or ignored, (place, value)


def path(place: Place) -> str:
    return "/".join(map(str, place))


def with_value_at(document: object, place: Place, value: object) -> Any:
    """Return a document with another value at a place."""
    other = copy.deepcopy(document)
    within(other, place[:-1])[place[-1]] = value
    return other


WHOLE = envelope(statement_v1())
BROKEN: dict[str, object] = {
    "a text": '"envelope"',
    "nothing in it": {},
    "no payload": {key: value for key, value in WHOLE.items() if key != "payload"},
    "a payload of another type": WHOLE | {"payloadType": "application/json"},
    "a payload that is no base64": (WHOLE | {"payload": f"{WHOLE['payload'][:-4]}!{WHOLE['payload'][-3:]}"}),
    "a payload that is cut": WHOLE | {"payload": WHOLE["payload"][:-3]},
    "a payload that is cut by WHOLE bytes": (WHOLE | {"payload": WHOLE["payload"][: len(WHOLE["payload"]) // 8 * 4]}),
    "a payload twice": WHOLE | {"payload": b64(b"{}\n{}")},
    "an empty payload": WHOLE | {"payload": ""},
    "no signature": WHOLE | {"signatures": []},
    "an empty signature": WHOLE | {"signatures": [{"sig": ""}]},
    "a signature twice": WHOLE | {"signatures": WHOLE["signatures"] * 2},
    "a signature that is a text": WHOLE | {"signatures": ["x"]},
    "a key id that is a number": WHOLE | {"signatures": [WHOLE["signatures"][0] | {"keyid": 7}]},
    "no subject": envelope(statement_v1(subject=[])),
    "a subject twice": envelope(statement_v1(subject=statement_v1()["subject"] * 2)),
    "a subject without a digest": envelope(statement_v1(subject=[{"name": "app"}])),
    "a digest in upper case": envelope(statement_v1("v1.4.0", SHA256.upper())),
    "a digest with blanks": envelope(statement_v1("v1.4.0", f" {SHA256}"[:64])),
    "a predicate that is null": envelope(statement_v1(predicate=None)),
    "another statement type": envelope(statement_v1(_type="https://in-toto.io/Statement/v2")),
    "a bundle of version 9": {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.9+json",
        "dsseEnvelope": WHOLE,
    },
    "a bundle without material": {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "dsseEnvelope": WHOLE,
    },
    "a bare statement": statement_v1(),
    "a bundle of a bare signature": {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "messageSignature": {"signature": b64(b"x")},
    },
    "an empty list": [],
    "an answer without attestations": {"attestations": []},
    "an attestation without its bundle": {"attestations": [{"bundle": None, "bundle_url": "https://example.com/x"}]},
    "one of two that is of another format": [WHOLE, statement_v1()],
}


NOT_UNDERSTOOD = (
    *("a text", "nothing in it", "a payload of another type", "another statement type", "a bundle of version 9"),
    *("a bare statement", "a bundle of a bare signature", "an empty list", "an answer without attestations"),
    *("an attestation without its bundle", "one of two that is of another format"),
)


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_not_well_formed_fails_with_a_reason(tmp_path, broken):
    names = failed(audit_documents(tmp_path, broken))
    assert set(names) <= {"envelope", "statement", "artifact digest"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_format_that_is_not_understood_is_told_from_one_that_is_broken(tmp_path, name):
    verdict = audit_documents(tmp_path, BROKEN[name]).verdict
    assert verdict is (Verdict.UNSUPPORTED if name in NOT_UNDERSTOOD else Verdict.FAIL)


PUBLISHED = statement_v1(predicateType="https://github.com/npm/attestation/tree/main/specs/publish/v0.1", predicate={})


def test_what_registries_and_tools_answer_is_read_envelope_by_envelope(tmp_path):
    listed = [{"bundle": WHOLE, "repository_id": 7}]
    for document in ([WHOLE], {"attestations": listed}, [{"attestations": listed}, [WHOLE]]):
        report = audit_documents(tmp_path, document)
        assert failed(report) == []
    assert [one.place.rsplit("/", 1)[1] for one in report.provenances] == [
        "provenance.jsonl[0].attestations[0]",
        "provenance.jsonl[1][0]",
    ]


def test_one_bad_envelope_of_a_list_fails_it(tmp_path):
    bad = envelope(statement_v1("v9.9.9"))
    for document in ([WHOLE, bad], {"attestations": [{"bundle": WHOLE}, {"bundle": bad}]}):
        assert failed(audit_documents(tmp_path, document)) == ["tag", "invocation release"]


def test_what_a_registry_lists_beside_the_provenance_is_no_fault_and_no_proof(tmp_path):
    answer = {"attestations": [{"bundle": envelope(PUBLISHED)}, {"bundle": WHOLE}]}
    report = audit_documents(tmp_path, answer)
    assert failed(report) == []
    assert [str(check.status) for check in report.provenances[0].checks] == ["pass", "pass", "not asked"]
    elsewhere = {
        "attestations": [{"bundle": envelope(PUBLISHED)}, {"bundle": envelope(statement_v1("v1.4.0", OTHER_SHA256))}]
    }
    assert failed(audit_documents(tmp_path, elsewhere)) == ["artifact digest"]
    # In a file of envelopes each is there to be checked, and an answer without provenance is none.
    assert "predicate type" in failed(audit_documents(tmp_path, [envelope(PUBLISHED), WHOLE]))
    assert "predicate type" in failed(audit_documents(tmp_path, {"attestations": [{"bundle": envelope(PUBLISHED)}]}))


def test_base64_without_padding_and_a_key_id_that_is_null_are_what_they_are(tmp_path):
    signatures = [{"sig": WHOLE["signatures"][0]["sig"].rstrip("="), "keyid": None}]
    document = WHOLE | {"payload": WHOLE["payload"].rstrip("="), "signatures": signatures}
    assert failed(audit_documents(tmp_path, document)) == []


SHA512, OTHER_SHA512 = (hashlib.sha512(content).hexdigest() for content in (ARTIFACT, b"another"))


@pytest.mark.parametrize(
    ("digests", "verdict"),
    [
        ({"sha512": SHA512}, Verdict.PASS),
        ({"sha512": SHA512, "sha256": SHA256}, Verdict.PASS),
        ({"sha512": SHA512, "sha1": "0" * 40}, Verdict.PASS),
        ({"sha512": OTHER_SHA512}, Verdict.FAIL),
        ({"sha512": OTHER_SHA512, "sha256": SHA256}, Verdict.FAIL),
        ({"sha512": SHA512, "sha256": OTHER_SHA256}, Verdict.FAIL),
        ({"sha1": "0" * 40}, Verdict.UNKNOWN),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else str(value),
)
def test_every_digest_of_a_subject_that_can_be_compared_must_be_that_of_the_file(tmp_path, digests, verdict):
    (tmp_path / "app").write_bytes(ARTIFACT)
    file = tmp_path / "provenance.json"
    file.write_text(json.dumps(envelope(statement_v1(subject=[{"name": "pkg:npm/app@1.4.0", "digest": digests}]))))
    report = auditing.audit([file], [auditing.artifact(tmp_path / "app")], ALL, SIGNATURES)
    assert report.verdict is verdict


def test_a_key_that_is_given_twice_makes_the_file_unreadable(tmp_path):
    text = json.dumps(envelope(statement_v1()))
    report = audit_documents(tmp_path, text[:-1] + ', "payload": "e30="}')
    assert report.verdict is Verdict.UNREADABLE
    twice = json.dumps(statement_v1())[:-1] + ', "subject": []}'
    assert failed(audit_documents(tmp_path, envelope(twice.encode())))[0] == "statement"


def test_one_unreadable_file_beside_a_sound_one_is_no_pass(tmp_path):
    sound, broken = tmp_path / "sound.json", tmp_path / "broken.json"
    sound.write_text(json.dumps(envelope(statement_v1())))
    broken.write_text("{")
    report = auditing.audit([sound, broken], [Artifact("it", {"sha256": SHA256})], ALL, SIGNATURES)
    assert report.verdict is Verdict.UNREADABLE


def test_a_pipe_or_a_device_is_no_file_to_audit(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(OpsKpiError) as caught:
            auditing.audit([path], [Artifact("it", {"sha256": SHA256})], ALL, SIGNATURES)
        assert caught.value.exit_code is ExitCode.BAD_ARGUMENT
        with pytest.raises(OpsKpiError):
            auditing.artifact(path)


def test_predicates_that_are_no_provenance_pass_only_when_they_are_allowed_and_nothing_is_asked_of_them(tmp_path):
    other = envelope(statement_v1(predicateType="https://spdx.dev/Document", predicate={}))
    allowed = Expectation(predicate_types=("https://spdx.dev/Document",))
    assert failed(audit_documents(tmp_path, other, expectation=Expectation())) == ["predicate type"]
    assert failed(audit_documents(tmp_path, other, expectation=allowed)) == []
    asked = Expectation(predicate_types=allowed.predicate_types, builders=(BUILDER,), source=SOURCE)
    assert failed(audit_documents(tmp_path, other, expectation=asked)) == ["builder", "source"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_stands_anywhere_in_an_envelope_is_judged_without_an_error(tmp_path, data):
    statement = data.draw(st.sampled_from(STATEMENTS))()
    for _ in range(data.draw(st.integers(1, 3))):
        statement = with_value_at(statement, data.draw(st.sampled_from(places(statement))), data.draw(JSON))
    document = envelope(statement)
    if data.draw(st.booleans()):
        document = with_value_at(document, data.draw(st.sampled_from(places(document))), data.draw(JSON))
    report = audit_documents(tmp_path, document)
    failed(report)
    assert all(line.isprintable() for line in reporting.lines(report))
    assert reporting.markdown(report)
    json.dumps(reporting.as_object(report))

"""Real provenance, as the table of the shared data's README says; skipped where that folder is not."""

from pathlib import Path
from typing import Any

import pytest

from opskpi.provenance import auditing
from opskpi.provenance.auditing import Report, Verdict
from opskpi.provenance.checks import Artifact, Expectation, Status
from opskpi.provenance.signatures import Signatures

BUILDER = "https://github.com/slsa-framework/example-trw/.github/workflows/builder_high-perms_slsa3.yml"
GO_BUILDER = "https://github.com/slsa-framework/slsa-github-generator/.github/workflows/builder_go_slsa3.yml"
SOURCE = "github.com/slsa-framework/example-package"
DELEGATED = ("push-v14", "push-v14.2", "push-v13.0.30", "workflow_dispatch")
GO_SHA256 = "b083627d57f03f71fc129c09f16f6423cf01597b2c69801e7f922d78d0eed852"
COMMIT = "693130cb6cb840a7bc9cb18c6510d536a95dc7e6"


@pytest.fixture
def slsa(shared_data: Path) -> Path:
    folder = shared_data / "data" / "slsa"
    if not folder.is_dir():
        pytest.skip(f"the shared data has no {folder}")
    return folder


def delegated(slsa: Path, name: str, **asked: Any) -> Report:
    provenance, artifact = (slsa / f"delegator-{name}.{suffix}" for suffix in ("build.slsa", "bin"))
    return auditing.audit([provenance], [auditing.artifact(artifact)], Expectation(**asked), Signatures())


def failed_checks(report: Report) -> set[str]:
    assert (report.verdict is Verdict.PASS) == all(check.status is not Status.FAIL for check in report.checks)
    return {check.name for check in report.checks if check.status is Status.FAIL}


@pytest.mark.parametrize("name", DELEGATED)
def test_digest_predicate_type_builder_and_source_verify_and_the_signature_is_unsupported(slsa, name):
    for builder in (BUILDER, f"{BUILDER}@v2.0.0", f"{BUILDER}@refs/tags/v2.0.0"):
        report = delegated(slsa, name, builders=(builder,), source=SOURCE)
        assert failed_checks(report) == set()
        status = {check.name: check.status for check in report.checks}
        assert status["signature"] is Status.UNSUPPORTED
        assert {status[one] for one in ("artifact digest", "predicate type", "builder", "source")} == {Status.PASS}
    assert failed_checks(delegated(slsa, name, needs_signature=True)) == {"signature"}


@pytest.mark.parametrize("name", DELEGATED)
def test_another_builder_source_predicate_type_or_artifact_fails(slsa, name):
    assert failed_checks(delegated(slsa, name, builders=(f"{BUILDER}@v2.0.1", GO_BUILDER))) == {"builder"}
    assert failed_checks(delegated(slsa, name, source=f"{SOURCE}2")) == {"source"}
    assert failed_checks(delegated(slsa, name, predicate_types=("https://slsa.dev/provenance/v0.2",))) == {
        "predicate type"
    }
    other = [auditing.artifact(slsa / "reusable-workflow-artifact")]
    report = auditing.audit([slsa / f"delegator-{name}.build.slsa"], other, Expectation(), Signatures())
    assert failed_checks(report) == {"artifact digest"}


@pytest.mark.parametrize(
    ("name", "asked", "passes"),
    [
        ("push-v14", {"tag": "v14"}, True),
        ("push-v14", {"tag": "v14.2"}, False),
        ("push-v14.2", {"tag": "v14.2"}, True),
        ("push-v14.2", {"tag": "v14"}, False),
        ("push-v14.2", {"versioned_tag": "v14"}, True),
        ("push-v14.2", {"versioned_tag": "v14.1"}, False),
        ("push-v13.0.30", {"tag": "v13.0.30"}, True),
        ("push-v13.0.30", {"versioned_tag": "v13"}, True),
        ("push-v13.0.30", {"versioned_tag": "v13.0"}, True),
        ("push-v13.0.30", {"versioned_tag": "v13.0.29"}, False),
        ("push-v13.0.30", {"versioned_tag": "v13.1"}, False),
        ("push-v13.0.30", {"versioned_tag": "v2"}, False),
        ("workflow_dispatch", {"tag": "v14"}, False),
        ("workflow_dispatch", {"versioned_tag": "v14"}, False),
        ("workflow_dispatch", {"tag": "main"}, False),
    ],
)
def test_tags_and_versioned_tags(slsa, name, asked, passes):
    assert failed_checks(delegated(slsa, name, **asked)) == (set() if passes else {"tag", "invocation release"})


def test_the_commit_of_the_tag_is_the_content_digest(slsa):
    assert failed_checks(delegated(slsa, "push-v14", commit=COMMIT)) == set()
    assert failed_checks(delegated(slsa, "push-v14", commit="0" * 40)) == {"content digest"}


def test_provenance_of_version_0_2_verifies_against_its_digest_and_no_other(slsa):
    file = slsa / "go-push-v14.intoto.jsonl"
    asked = Expectation(builders=(f"{GO_BUILDER}@v1.0.0",), source=SOURCE, tag="v14")
    assert failed_checks(auditing.audit([file], [Artifact("it", {"sha256": GO_SHA256})], asked, Signatures())) == set()
    assert failed_checks(auditing.audit([file], [Artifact("it", {"sha256": "0" * 64})], asked, Signatures())) == {
        "artifact digest"
    }


def test_an_attestation_of_github_verifies_with_its_signature_offline(slsa):
    file = slsa / "reusable-workflow-attestation.sigstore.json"
    artifact = auditing.artifact(slsa / "reusable-workflow-artifact")
    asked = Expectation(
        source="github.com/malancas/attest-demo",
        needs_signature=True,
        signer="https://github.com/github/artifact-attestations-workflows/.github/workflows/attest.yml",
    )
    report = auditing.audit([file], [artifact], asked, Signatures())
    assert failed_checks(report) == set()
    assert {check.status for check in report.checks if check.name in {"signature", "signer"}} == {Status.PASS}
    assert failed_checks(auditing.audit([file], [artifact], Expectation(signer="https://other"), Signatures())) == {
        "signer"
    }


def test_a_payload_swapped_between_two_of_them_fails(slsa, tmp_path):
    texts = [(slsa / f"delegator-{name}.build.slsa").read_text() for name in ("push-v14", "push-v14.2")]
    first, second = (text.split('"payload":"')[1].split('"')[0] for text in texts)
    swapped = tmp_path / "swapped.slsa"
    swapped.write_text(texts[0].replace(first, second))
    artifact = auditing.artifact(slsa / "delegator-push-v14.bin")
    assert failed_checks(auditing.audit([swapped], [artifact], Expectation(), Signatures())) == {"signature"}

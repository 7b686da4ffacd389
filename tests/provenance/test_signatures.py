"""Signatures and log entries, verified offline against a Sigstore of the tests' own; and all that must not verify."""

import builtins
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.provenance import auditing
from opskpi.provenance.auditing import Report, Verdict
from opskpi.provenance.checks import Artifact, Check, Expectation, Status
from opskpi.provenance.envelopes import Envelope
from opskpi.provenance.signatures import NOT_INSTALLED, Signatures
from opskpi.provenance.statements import Claims
from support.provenances import SHA256, SIGNER, SOURCE, V01, V02, V03, Sigstore, b64, places, statement_v1, within

REQUIRED = Expectation(needs_signature=True)

# What is changed in a bundle may leave it in no format that is known.
REFUSED = {Verdict.FAIL, Verdict.UNSUPPORTED}


@pytest.fixture(scope="module")
def sigstore() -> Sigstore:
    return Sigstore()


@pytest.fixture(scope="module")
def bundle(sigstore: Sigstore) -> dict[str, Any]:
    """Return a bundle that holds; signatures are drawn, so that another has other bytes."""
    return sigstore.bundle(statement_v1())


@pytest.fixture(scope="module")
def signatures(sigstore: Sigstore, tmp_path_factory: pytest.TempPathFactory) -> Signatures:
    return Signatures(sigstore.write_trust_root(tmp_path_factory.mktemp("trust")))


@pytest.fixture
def audited(signatures: Signatures, tmp_path: Path) -> Callable[..., Report]:
    def judge(document: object, expectation: Expectation = REQUIRED, by: Signatures = signatures) -> Report:
        file = tmp_path / "bundle.json"
        file.write_text(json.dumps(document))
        report = auditing.audit([file], [Artifact("it", {"sha256": SHA256})], expectation, by)
        failed = [check for check in report.checks if check.status is Status.FAIL]
        assert all(check.found for check in failed)
        assert (report.verdict is Verdict.PASS) == (report.is_sound and not failed)
        return report

    return judge


def check_named(report: Report, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


@pytest.mark.parametrize("media_type", [V01, V02, V03])
def test_a_bundle_that_holds_is_verified_and_says_who_signed(sigstore, audited, media_type):
    report = audited(sigstore.bundle(statement_v1(), media_type))
    assert report.verdict is Verdict.PASS
    assert check_named(report, "signature") == Check("signature", Status.PASS, "verified", f"signed by {SIGNER}")
    assert check_named(report, "signer").status is Status.PASS


def test_a_bundle_of_a_sigstore_that_is_not_trusted_is_invalid(sigstore, audited):
    report = audited(sigstore.bundle(statement_v1()), Expectation(), by=Signatures())
    assert check_named(report, "signature").status is Status.FAIL
    assert check_named(report, "signature").found.startswith("invalid: ")


UNSUPPORTED = {
    "a bare envelope": lambda bundle, _: bundle["dsseEnvelope"],
    "a log entry of another kind": lambda _, sigstore: sigstore.bundle(statement_v1(), kind="intoto"),
    "no log entry": lambda bundle, _: without(bundle, "tlogEntries"),
    "no proof of inclusion": lambda bundle, _: without(bundle, "tlogEntries", 0, "inclusionProof"),
    "no checkpoint": lambda bundle, _: without(bundle, "tlogEntries", 0, "inclusionProof", "checkpoint"),
}


@pytest.mark.parametrize("made", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_cannot_be_verified_is_unsupported_and_passes_only_where_no_signature_is_required(
    sigstore, bundle, audited, made
):
    document = made(copy.deepcopy(bundle), sigstore)
    allowed = audited(document, Expectation(), by=Signatures())
    assert (allowed.verdict, check_named(allowed, "signature").status) == (Verdict.PASS, Status.UNSUPPORTED)
    required = audited(document)
    assert (required.verdict, check_named(required, "signature").status) == (Verdict.FAIL, Status.FAIL)
    assert check_named(required, "signature").found.startswith("unsupported: ")
    assert audited(document, Expectation(signer=SIGNER)).verdict is Verdict.FAIL


@pytest.mark.parametrize("made", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_an_issuer_or_a_trust_root_that_is_named_fails_where_no_signature_can_be_verified(
    sigstore, bundle, audited, made
):
    document = made(copy.deepcopy(bundle), sigstore)
    by_issuer = audited(document, Expectation(issuer="https://gitlab.com"), by=Signatures())
    assert check_named(by_issuer, "signer").status is Status.FAIL
    assert check_named(by_issuer, "signer").expected == "issuer https://gitlab.com"
    by_root = audited(document, Expectation())
    assert check_named(by_root, "signer").status is Status.FAIL
    assert check_named(by_root, "signer").expected.startswith("trust root ")


@pytest.mark.parametrize("stored", [{}, [], {"x": "y"}, ["eA=="], [[]], 7, None, "\u00e9"])
@pytest.mark.parametrize("media_type", [V02, V03])
def test_a_certificate_that_is_no_bytes_fails_even_where_the_log_entry_is_unsupported(
    sigstore, audited, media_type, stored
):
    document = sigstore.bundle(statement_v1(), media_type)
    material = document["verificationMaterial"]
    material["tlogEntries"] = []
    holder = material["certificate"] if media_type == V03 else material["x509CertificateChain"]["certificates"][0]
    holder["rawBytes"] = stored
    report = audited(document, Expectation(), by=Signatures())
    assert check_named(report, "envelope").status is Status.FAIL
    assert "rawBytes" in check_named(report, "envelope").found
    unchecked = Envelope(b"{}", (b"x",), document)
    first = Signatures().checks(unchecked, Claims(), Expectation())[0]
    assert first.status is (Status.UNSUPPORTED if stored is None else Status.FAIL)


@pytest.mark.parametrize("value", [{}, [], {"x": "y"}, ["eA=="]])
def test_a_list_or_an_object_where_bytes_must_be_is_refused(sigstore, audited, value):
    places_of_bytes = (
        ("tlogEntries", 0, "logId", "keyId"),
        ("tlogEntries", 0, "inclusionPromise", "signedEntryTimestamp"),
        ("tlogEntries", 0, "inclusionProof", "rootHash"),
        ("tlogEntries", 0, "inclusionProof", "hashes", 0),
        ("tlogEntries", 0, "canonicalizedBody"),
    )
    for place in places_of_bytes:
        document = sigstore.bundle(statement_v1())
        within(document["verificationMaterial"], place[:-1])[place[-1]] = value
        assert check_named(audited(document), "envelope").status is Status.FAIL, place


def test_without_sigstore_every_signature_is_unsupported(sigstore, audited, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sigstore"]:
        monkeypatch.delitem(sys.modules, name)
    imported = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "sigstore":
            raise ImportError(name)
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    signatures = Signatures()
    bundle = sigstore.bundle(statement_v1())
    assert check_named(audited(bundle, Expectation(), by=signatures), "signature").found == NOT_INSTALLED
    assert audited(bundle, by=signatures).verdict is Verdict.FAIL


def test_a_payload_of_another_envelope_is_invalid_even_where_the_log_entry_is_unsupported(sigstore, audited):
    for kind in ("dsse", "intoto"):
        first, second = (sigstore.bundle(statement_v1(tag), kind=kind) for tag in ("v1.4.0", "v1.4.1"))
        first["dsseEnvelope"]["payload"] = second["dsseEnvelope"]["payload"]
        assert check_named(audited(first, Expectation()), "signature").found.startswith("invalid: ")
        first["dsseEnvelope"] = second["dsseEnvelope"]
        report = audited(first)
        assert check_named(report, "signature").status is Status.FAIL


def test_reordered_subjects_are_another_payload(sigstore, audited):
    bundle = sigstore.bundle(statement_v1("v1.4.0", SHA256, "0" * 64))
    assert audited(bundle).verdict is Verdict.PASS
    bundle["dsseEnvelope"]["payload"] = b64(json.dumps(statement_v1("v1.4.0", "0" * 64, SHA256)).encode())
    assert audited(bundle, Expectation()).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("claims", "expectation", "found"),
    [
        ({"issuer": "https://accounts.example.com"}, REQUIRED, "issuer https://accounts.example.com"),
        ({"source": "https://github.com/mallory/app"}, REQUIRED, f"source {SOURCE}"),
        ({"ref": "refs/heads/main"}, REQUIRED, "ref refs/tags/v1.4.0"),
        ({"commit": "0" * 40}, REQUIRED, "commit 693130cb6cb840a7bc9cb18c6510d536a95dc7e6"),
        ({"run": "https://github.com/shop/app/actions/runs/1/attempts/1"}, REQUIRED, f"run https://{SOURCE}/actions"),
        ({"identity": "mallory@example.com", "source": ""}, REQUIRED, "mallory@example.com, of no CI run"),
        ({"issuer": ""}, REQUIRED, "issuer missing"),
        ({}, Expectation(signer="https://github.com/shop/app/.github/workflows/other.yml"), SIGNER),
        ({}, Expectation(signer=f"{SIGNER.split('@')[0]}@v1.4.1"), SIGNER),
        ({}, Expectation(issuer="https://gitlab.com"), "issuer https://token.actions.githubusercontent.com"),
    ],
)
def test_a_sound_signature_of_somebody_else_fails_the_signer(sigstore, audited, claims, expectation, found):
    report = audited(sigstore.bundle(statement_v1(), **claims), expectation)
    assert check_named(report, "signature").status is Status.PASS
    assert check_named(report, "signer").status is Status.FAIL
    assert check_named(report, "signer").found.startswith(found)


@pytest.mark.parametrize(
    ("claims", "expectation"),
    [
        ({}, Expectation(needs_signature=True, signer=SIGNER.split("@")[0])),
        ({}, Expectation(needs_signature=True, signer=f"{SIGNER.split('@')[0]}@v1.4.0")),
        (
            {
                "identity": "release@example.com",
                "issuer": "https://gitlab.com",
                "source": "",
                "ref": "",
                "commit": "",
                "run": "",
            },
            Expectation(needs_signature=True, signer="release@example.com", issuer="https://gitlab.com"),
        ),
    ],
)
def test_a_signer_may_be_named(sigstore, audited, claims, expectation):
    assert audited(sigstore.bundle(statement_v1(), **claims), expectation).verdict is Verdict.PASS


def test_the_trust_root_that_sigstore_ships_is_used_without_a_network(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert Signatures().is_able


def test_a_file_that_is_no_trust_root_is_a_configuration_error(tmp_path):
    file = tmp_path / "root.json"
    for content in (b"", b"{}", b"[", b"\xff", b'{"mediaType": "x"}'):
        file.write_bytes(content)
        with pytest.raises(OpsKpiError) as caught:
            Signatures(file)
        assert caught.value.exit_code is ExitCode.CONFIGURATION
        assert caught.value.hint


def without(bundle: dict[str, Any], *place: str | int) -> dict[str, Any]:
    del within(bundle["verificationMaterial"], place[:-1])[place[-1]]
    return bundle


@pytest.mark.parametrize("media_type", [V02, V03])
def test_a_field_that_is_missing_empty_repeated_or_of_another_type_never_passes(sigstore, audited, media_type):
    whole = sigstore.bundle(statement_v1(), media_type)
    for place in places(whole):
        for change in ("missing", "repeated", None, "", 0, [], {}):
            changed = copy.deepcopy(whole)
            parent, key = within(changed, place[:-1]), place[-1]
            if change == "missing":
                del parent[key]
            elif change == "repeated":
                parent[key] = [parent[key], parent[key]]
            else:
                parent[key] = change
            assert audited(changed).verdict in REFUSED, (place, change)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None)
@given(data=st.data())
def test_a_text_that_is_flipped_cut_or_extended_never_passes(bundle, audited, data):
    whole = copy.deepcopy(bundle)
    texts = [place for place in places(whole) if isinstance(within(whole, place), str)]
    place = data.draw(st.sampled_from(texts))
    text = within(whole, place)
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from("AZaz09+/=-_ \n\u2014\u0000") | st.characters(exclude_categories=["Cs"]))
    changed = data.draw(
        st.sampled_from(
            [f"{text[:at]}{new}{text[at + 1 :]}", text[:at], f"{text}{new}", f"{text[:at]}{new}{text[at:]}", text * 2]
        )
    )
    # Base64 without its padding is the same bytes.
    if changed not in {text, text.rstrip("=")}:
        within(whole, place[:-1])[place[-1]] = changed
        assert audited(whole).verdict in REFUSED, (place, changed)

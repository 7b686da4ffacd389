"""Whether an envelope's signature and its entry in the transparency log hold, and who signed: offline, by sigstore.

sigstore-python (extra `audit`) verifies the certificate against the trust root, its SCT, the log entry's inclusion
proof, checkpoint and promise, and the signature. What it does not verify is said to be unsupported, never verified.
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.provenance.checks import Check, Expectation, Status, is_same_builder
from opskpi.provenance.envelopes import PAYLOAD_TYPE, Envelope, canonical, shown
from opskpi.provenance.statements import Claims, repository
from opskpi.provenance.strict_json import MalformedError, decoded

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.verify import Verifier

GITHUB_ISSUER = "https://token.actions.githubusercontent.com"
NOT_INSTALLED = "sigstore is not installed (pip install 'opskpi[audit]')"
# Log entries whose body sigstore-python compares with the envelope.
_VERIFIABLE_ENTRIES = (("dsse", "0.0.1"), ("hashedrekord", "0.0.2"))
_PRODUCTION = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
# https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
_EXTENSIONS = "1.3.6.1.4.1.57264.1"
_ISSUER, _SOURCE, _COMMIT, _REF, _RUN = 8, 12, 13, 14, 21


@dataclass(frozen=True, slots=True)
class Signer:
    """What the certificate says of who signed; None where it says nothing."""

    identity: str
    issuer: str | None
    source: str | None
    ref: str | None
    commit: str | None
    run_url: str | None


class Signatures:
    """Verifies the envelopes of one audit against one trust root.

    `trust_root` is a file in Sigstore's trusted_root.json format; None takes the public-good instance's as it was
    shipped with sigstore. Raises OpsKpiError (CONFIGURATION) when that file cannot be used.
    """

    def __init__(self, trust_root: Path | None = None) -> None:
        self._trust_root = trust_root
        self._verifier: Verifier | None = None
        self._why_not: str | None = None
        if trust_root is not None:
            self._load()

    @property
    def is_able(self) -> bool:
        """Sigstore and a trust root are there."""
        return not self._load()

    def checks(self, envelope: Envelope, claims: Claims, expectation: Expectation) -> list[Check]:
        """The checks of the signature and of the signer."""
        # Importing sigstore takes longer than all the rest: not for an envelope that it does not verify anyway.
        if reason := _unsupported(envelope) or self._load():
            # Even so a signature that is not by the key of the certificate beside it is known to be wrong.
            if fault := _fault_of_signature(envelope):
                return [Check("signature", Status.FAIL, "verified", f"invalid: {fault}"), self._unsigned(expectation)]
            if expectation.needs_signature:
                unsupported = Check("signature", Status.FAIL, "verified", f"unsupported: {reason}")
                return [unsupported, self._unsigned(expectation)]
            return [Check("signature", Status.UNSUPPORTED, "verified", reason), self._unsigned(expectation)]
        try:
            signer = self._verified(envelope)
        except Exception as error:  # noqa: BLE001 - whatever a foreign parser makes of hostile bytes, it verified nothing
            found = f"invalid: {_reason(error)}"
            return [Check("signature", Status.FAIL, "verified", found), self._unsigned(expectation)]
        verified = Check("signature", Status.PASS, "verified", f"signed by {shown(signer.identity)}")
        return [verified, _signer(signer, claims, expectation)]

    def _unsigned(self, expectation: Expectation) -> Check:
        """The signer where no signature was verified: a failure as soon as anything was asked of it."""
        wanted = [shown(expectation.signer)] if expectation.signer else []
        wanted += [f"issuer {shown(expectation.issuer)}"] if expectation.issuer else []
        wanted += [f"trust root {shown(str(self._trust_root))}"] if self._trust_root else []
        if wanted:
            return Check("signer", Status.FAIL, ", ".join(wanted), "no verified signature")
        return Check("signer", Status.NOT_ASKED)

    def _load(self) -> str:
        """Make the verifier once, and return why there is none; empty when there is one."""
        if self._why_not is None:
            self._why_not = self._loaded()
        return self._why_not

    def _loaded(self) -> str:
        try:
            from sigstore import models, verify  # noqa: PLC0415 - an extra
        except ImportError:
            return NOT_INSTALLED
        shipped = Path(str(resources.files("sigstore"))) / "_store" / _PRODUCTION / "trusted_root.json"
        # A foreign parser names no class for a file it cannot use.
        try:
            self._verifier = verify.Verifier(
                trusted_root=models.TrustedRoot.from_file(str(self._trust_root or shipped))
            )
        except Exception as error:
            if self._trust_root is None:
                return "this sigstore ships no trust root (pass --trust-root)"
            raise OpsKpiError(
                f"{self._trust_root} is no trust root: {_reason(error)}",
                "Pass a trusted_root.json of Sigstore, or leave --trust-root out.",
                ExitCode.CONFIGURATION,
            ) from error
        return ""

    def _verified(self, envelope: Envelope) -> Signer:
        from sigstore.models import Bundle  # noqa: PLC0415

        if self._verifier is None:
            raise ValueError(self._why_not or "sigstore is not loaded")
        # What was read strictly is verified, not what another parser makes of the same text.
        bundle = Bundle.from_json(json.dumps(canonical(envelope.bundle)))
        payload_type, payload = self._verifier.verify_dsse(bundle, _Anybody())
        if (payload_type, payload) != (PAYLOAD_TYPE, envelope.payload):
            raise ValueError("another payload was signed")
        return _read_signer(bundle.signing_certificate)


class _Anybody:
    """Admits any certificate that holds: whose it is, is a check of its own."""

    def verify(self, cert: "Certificate") -> None:
        """Admit it."""


def _unsupported(envelope: Envelope) -> str:
    """Why sigstore-python cannot verify an envelope, whether it is sound or not; empty when it can."""
    if envelope.bundle is None:
        return "a bare envelope has neither certificate nor log entry"
    material = envelope.bundle["verificationMaterial"]
    entries = material.get("tlogEntries")
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        return "the bundle does not have exactly one entry of the transparency log"
    version = entries[0].get("kindVersion")
    entry = (version.get("kind"), version.get("version")) if isinstance(version, dict) else (None, None)
    if entry not in _VERIFIABLE_ENTRIES:
        return f"sigstore-python does not verify log entries of kind {shown(entry[0])} {shown(entry[1])}"
    proof = entries[0].get("inclusionProof")
    if not isinstance(proof, dict) or not proof.get("checkpoint"):
        return "the log entry has no inclusion proof with a checkpoint"
    return "" if len(envelope.signatures) == 1 else "it has several signatures, of which sigstore-python verifies one"


def _fault_of_signature(envelope: Envelope) -> str:
    """Why no signature of an envelope can be by the key of its certificate; empty when one is, or nothing is known."""
    if envelope.bundle is None:
        return ""
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - comes with the extra
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
        from cryptography.x509 import load_der_x509_certificate  # noqa: PLC0415
    except ImportError:
        return ""
    try:
        stored = _leaf(envelope.bundle["verificationMaterial"])
        key = None if stored is None else load_der_x509_certificate(stored).public_key()
    except Exception as error:  # noqa: BLE001 - as above
        return str(error) if isinstance(error, MalformedError) else f"the certificate cannot be read: {_reason(error)}"
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return ""
    kind, payload = PAYLOAD_TYPE.encode(), envelope.payload
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    for signature in envelope.signatures:
        try:
            key.verify(signature, signed, ec.ECDSA(SHA256()))
        except InvalidSignature:
            continue
        return ""
    return "the signature is not that of the payload by the certificate's key"


def _leaf(material: dict[str, Any]) -> bytes | None:
    """The signer's certificate in DER, wherever the bundle's version has it."""
    chain = material.get("x509CertificateChain")
    certificates = chain.get("certificates") if isinstance(chain, dict) else None
    first = certificates[0] if isinstance(certificates, list) and certificates else material.get("certificate")
    stored = first.get("rawBytes") if isinstance(first, dict) else None
    return None if stored is None else decoded(stored, "the certificate")


def _read_signer(certificate: "Certificate") -> Signer:
    from cryptography.x509 import SubjectAlternativeName, UnrecognizedExtension  # noqa: PLC0415

    names = list(certificate.extensions.get_extension_for_class(SubjectAlternativeName).value)
    said = {
        extension.oid.dotted_string: extension.value.value
        for extension in certificate.extensions
        if isinstance(extension.value, UnrecognizedExtension)
    }
    issuer, source, ref, commit, run = (
        _utf8(said[oid]) if (oid := f"{_EXTENSIONS}.{number}") in said else None
        for number in (_ISSUER, _SOURCE, _REF, _COMMIT, _RUN)
    )
    return Signer(str(names[0].value) if names else "nobody", issuer, source, ref, commit, run)


def _utf8(encoded: bytes) -> str:
    """The text of a DER UTF8String of up to 64 KiB. Raises ValueError for anything else."""
    start, length = 2, encoded[1] if len(encoded) > 1 else 0
    if length in (0x81, 0x82):
        start = length - 0x7E
        length = int.from_bytes(encoded[2:start])
    if encoded[:1] != b"\x0c" or len(encoded) != start + length:
        raise ValueError("an extension of the certificate is no text")
    return encoded[start:].decode()


def _signer(signer: Signer, claims: Claims, expectation: Expectation) -> Check:
    """Whether the certificate is of whom it should be, and of the very build that the provenance describes."""
    issuer = expectation.issuer or GITHUB_ISSUER
    wanted = expectation.signer
    comparisons: list[tuple[str, str | None, list[str]]] = [
        ("source", signer.source and repository(signer.source), claims.sources or ["nothing"]),
        ("ref", signer.ref, claims.refs),
        ("commit", signer.commit, claims.commits),
        ("run", signer.run_url, claims.run_urls),
    ]
    if signer.issuer != issuer:
        return Check("signer", Status.FAIL, f"issuer {shown(issuer)}", f"issuer {shown(signer.issuer)}")
    if wanted and not is_same_builder(wanted, signer.identity):
        return Check("signer", Status.FAIL, shown(wanted), shown(signer.identity))
    if not wanted and signer.source is None:
        expected = "the certificate of a CI run, or --signer"
        return Check("signer", Status.FAIL, expected, f"{shown(signer.identity)}, of no CI run")
    for name, certified, stated in comparisons:
        if certified is not None and any(one != certified for one in stated):
            other = next(one for one in stated if one != certified)
            return Check("signer", Status.FAIL, f"{name} {shown(certified)} as certified", f"{name} {shown(other)}")
    return Check("signer", Status.PASS, shown(wanted or "the build that is described"), shown(signer.identity))


def _reason(error: Exception) -> str:
    """The first line of a foreign message."""
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0])

"""Provenance for the tests, and a Sigstore of their own: certificates, logs and a trust root that hold, but for us only."""

import base64
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ARTIFACT = b"a release\n"
SHA256 = hashlib.sha256(ARTIFACT).hexdigest()
OTHER_SHA256 = hashlib.sha256(b"another").hexdigest()
COMMIT = "693130cb6cb840a7bc9cb18c6510d536a95dc7e6"
SOURCE = "github.com/shop/app"
BUILDER = "https://github.com/shop/builders/.github/workflows/build.yml@refs/tags/v2.0.0"
RUN_ID = 8791219514
RUN_URL = f"https://{SOURCE}/actions/runs/{RUN_ID}/attempts/1"
ISSUER = "https://token.actions.githubusercontent.com"
SIGNER = f"https://{SOURCE}/.github/workflows/release.yml@refs/tags/v1.4.0"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
V01, V02 = (f"application/vnd.dev.sigstore.bundle+json;version=0.{minor}" for minor in (1, 2))
V03 = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNED_AT = datetime(2026, 3, 10, 12, tzinfo=UTC)


def b64(stored: bytes) -> str:
    return base64.b64encode(stored).decode()


def statement_v1(tag: str | None = "v1.4.0", *subjects: str, **changes: Any) -> dict[str, Any]:
    """Return a SLSA v1 provenance as GitHub's generators write it; changes replace whole keys of the statement."""
    ref = f"refs/tags/{tag}" if tag else "refs/heads/main"
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects_of(*subjects),
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "https://actions.github.io/buildtypes/workflow/v1",
                "externalParameters": {
                    "workflow": {"ref": ref, "repository": f"https://{SOURCE}", "path": ".github/workflows/release.yml"}
                },
                "internalParameters": {
                    "GITHUB_REF": ref,
                    "GITHUB_RUN_ID": str(RUN_ID),
                    "GITHUB_EVENT_PAYLOAD": {"ref": ref, "release": {"tag_name": tag}} if tag else {"ref": ref},
                },
                "resolvedDependencies": [
                    {"uri": f"git+https://{SOURCE}@{ref}", "digest": {"gitCommit": COMMIT}},
                    {"uri": "https://github.com/actions/virtual-environments/releases/tag/ubuntu20"},
                ],
            },
            "runDetails": {"builder": {"id": BUILDER}, "metadata": {"invocationId": RUN_URL}},
        },
    } | changes


def statement_v02(tag: str | None = "v1.4.0", *subjects: str, **changes: Any) -> dict[str, Any]:
    """Return a SLSA v0.2 provenance."""
    ref = f"refs/tags/{tag}" if tag else "refs/heads/main"
    source = {"uri": f"git+https://{SOURCE}@{ref}", "digest": {"sha1": COMMIT}}
    return {
        "_type": "https://in-toto.io/Statement/v0.1",
        "subject": subjects_of(*subjects),
        "predicateType": "https://slsa.dev/provenance/v0.2",
        "predicate": {
            "builder": {"id": BUILDER},
            "buildType": "https://github.com/shop/builders/go@v1",
            "invocation": {
                "configSource": source | {"entryPoint": ".github/workflows/release.yml"},
                "environment": {
                    "github_ref": ref,
                    "github_run_id": str(RUN_ID),
                    "github_event_payload": {"ref": ref, "release": {"tag_name": tag}} if tag else {"ref": ref},
                },
            },
            "metadata": {"buildInvocationID": f"{RUN_ID}-1"},
            "materials": [source],
        },
    } | changes


def subjects_of(*digests: str) -> list[dict[str, Any]]:
    return [
        {"name": f"app-{number}", "digest": {"sha256": digest}} for number, digest in enumerate(digests or (SHA256,))
    ]


def envelope(statement: object, **changes: Any) -> dict[str, Any]:
    """Return a DSSE envelope without a certificate, as the older generators left it."""
    payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": b64(payload),
        "signatures": [{"keyid": "", "sig": b64(b"no signature that anybody could verify")}],
    } | changes


Place = tuple[str | int, ...]


def places(value: Any, before: Place = ()) -> list[Place]:
    """Return the place of every value within a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in pairs for place in ((*before, key), *places(inner, (*before, key)))]


def within(document: Any, place: Place) -> Any:
    """Return the value at a place."""
    for key in place:
        document = document[key]
    return document


class Sigstore:
    """A certificate authority, a certificate log and a transparency log, with keys that are the same in every run."""

    def __init__(self) -> None:
        self._authority_key, self._ct_key, self._log_key, self._signing_key = (
            ec.derive_private_key(number, ec.SECP256R1()) for number in (11, 12, 13, 14)
        )
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the tests")])
        self._authority = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._authority_key.public_key())
            .serial_number(1)
            .not_valid_before(SIGNED_AT - timedelta(days=1))
            .not_valid_after(SIGNED_AT + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._authority_key.public_key()), critical=False)
            .sign(self._authority_key, hashes.SHA256())
        )

    def write_trust_root(self, folder: Path) -> Path:
        """Write the trust root of this Sigstore and return its file."""
        valid = {"start": "2026-01-01T00:00:00Z"}
        log, certificate_log = (
            {
                "baseUrl": "https://nowhere.invalid",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": b64(_public(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": valid,
                },
                "logId": {"keyId": b64(_key_id(key))},
            }
            for key in (self._log_key, self._ct_key)
        )
        authority = {
            "subject": {"organization": "tests", "commonName": "tests"},
            "uri": "https://nowhere.invalid",
            "certChain": {"certificates": [{"rawBytes": b64(_der(self._authority))}]},
            "validFor": valid,
        }
        file = folder / "trusted_root.json"
        file.write_text(
            json.dumps(
                {
                    "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                    "tlogs": [log],
                    "certificateAuthorities": [authority],
                    "ctlogs": [certificate_log],
                    "timestampAuthorities": [],
                }
            )
        )
        return file

    def bundle(self, statement: object, media_type: str = V03, *, kind: str = "dsse", **claims: str) -> dict[str, Any]:
        """Return a bundle that verifies, unless `kind` is one of those log entries that sigstore-python does not read.

        Claims are what the certificate says otherwise: identity, issuer, source, ref, commit, run.
        """
        payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
        sealed = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
        signature = b64(self._signing_key.sign(sealed, ec.ECDSA(hashes.SHA256())))
        certificate = self._certificate(claims)
        entry = self._entry(payload, signature, certificate, kind)
        stored = {"rawBytes": b64(_der(certificate))}
        of_version = (
            {"certificate": stored} if media_type == V03 else {"x509CertificateChain": {"certificates": [stored]}}
        )
        return {
            "mediaType": media_type,
            "verificationMaterial": {"tlogEntries": [entry], **of_version},
            "dsseEnvelope": {"payloadType": PAYLOAD_TYPE, "payload": b64(payload), "signatures": [{"sig": signature}]},
        }

    def _certificate(self, claims: dict[str, str]) -> x509.Certificate:
        said = {"issuer": ISSUER, "source": f"https://{SOURCE}", "commit": COMMIT, "run": RUN_URL} | claims
        said.setdefault("ref", "refs/tags/v1.4.0")
        identity = said.pop("identity", SIGNER)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._authority.subject)
            .public_key(self._signing_key.public_key())
            .serial_number(2)
            .not_valid_before(SIGNED_AT)
            .not_valid_after(SIGNED_AT + timedelta(minutes=10))
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._authority_key.public_key()), critical=False
            )
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.RFC822Name(identity) if "://" not in identity else x509.UniformResourceIdentifier(identity)]
                ),
                critical=True,
            )
        )
        for name, number in (("issuer", 8), ("source", 12), ("commit", 13), ("ref", 14), ("run", 21)):
            if said[name]:
                oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}")
                builder = builder.add_extension(
                    x509.UnrecognizedExtension(oid, _tagged(0x0C, said[name].encode())), critical=False
                )
        unlogged = builder.sign(self._authority_key, hashes.SHA256()).tbs_certificate_bytes
        logged = x509.UnrecognizedExtension(
            x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"), _tagged(0x04, self._timestamps(unlogged))
        )
        return builder.add_extension(logged, critical=False).sign(self._authority_key, hashes.SHA256())

    def _timestamps(self, certificate: bytes) -> bytes:
        """Return the list of one certificate timestamp (RFC 6962, section 3.2)."""
        milliseconds = int(SIGNED_AT.timestamp() * 1000)
        issuer = hashlib.sha256(_public(self._authority_key)).digest()
        signed = (
            struct.pack("!BBQH", 0, 0, milliseconds, 1) + issuer + len(certificate).to_bytes(3, "big") + certificate
        )
        signature = self._ct_key.sign(signed + b"\0\0", ec.ECDSA(hashes.SHA256()))
        stamp = b"\0" + _key_id(self._ct_key) + struct.pack("!QHBBH", milliseconds, 0, 4, 3, len(signature)) + signature
        return struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp

    def _entry(self, payload: bytes, signature: str, certificate: x509.Certificate, kind: str) -> dict[str, Any]:
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        body = json.dumps(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": OTHER_SHA256},
                    "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
                    "signatures": [{"signature": signature, "verifier": b64(pem)}],
                },
            }
        ).encode()
        key_id, time = _key_id(self._log_key), int(SIGNED_AT.timestamp())
        promised = {"body": b64(body), "integratedTime": time, "logID": key_id.hex(), "logIndex": 7}
        canonical = json.dumps(promised, sort_keys=True, separators=(",", ":")).encode()
        neighbour = hashlib.sha256(b"the other leaf").digest()
        root = hashlib.sha256(b"\1" + hashlib.sha256(b"\0" + body).digest() + neighbour).digest()
        note = f"log.tests - 1\n2\n{b64(root)}\n"
        note_signature = b64(key_id[:4] + self._log_sign(note.encode()))
        return {
            "logIndex": "7",
            "logId": {"keyId": b64(key_id)},
            "kindVersion": {"kind": kind, "version": "0.0.1"},
            "integratedTime": str(time),
            "inclusionPromise": {"signedEntryTimestamp": b64(self._log_sign(canonical))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": b64(root),
                "treeSize": "2",
                "hashes": [b64(neighbour)],
                "checkpoint": {"envelope": f"{note}\n\u2014 log.tests {note_signature}\n"},
            },
            "canonicalizedBody": b64(body),
        }

    def _log_sign(self, signed: bytes) -> bytes:
        return self._log_key.sign(signed, ec.ECDSA(hashes.SHA256()))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    others = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        **others,
    )


def _tagged(tag: int, content: bytes) -> bytes:
    """Return a DER value of up to 64 KiB."""
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    return (bytes([tag, 0x81, length]) if length < 0x100 else struct.pack("!BBH", tag, 0x82, length)) + content


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _key_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_public(key)).digest()

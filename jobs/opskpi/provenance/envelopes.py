"""Envelopes: DSSE as it is, or within a Sigstore bundle, one by one or in what registries answer.

Sources: https://github.com/secure-systems-lab/dsse (v1.0.2), https://docs.sigstore.dev/about/bundle (v0.1 to v0.3),
https://docs.github.com/en/rest/repos/attestations, https://docs.npmjs.com/generating-provenance-statements.
"""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from opskpi.provenance.strict_json import MalformedError, UnsupportedError, decoded, kind

PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUNDLE_TYPES = (
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle.v0.3+json",
)
MOST_SIGNATURES = 100
# Whatever a bundle keeps under one of these names is bytes in base64.
_BYTES = frozenset(
    {
        "rawBytes",
        "keyId",
        "signedEntryTimestamp",
        "rootHash",
        "hashes",
        "canonicalizedBody",
        "signedTimestamp",
        "digest",
        "signature",
    }
)
_NUMBERS = frozenset({"logIndex", "integratedTime", "treeSize"})
_DIGITS = re.compile(r"0|[1-9][0-9]{0,18}")
_NOTE_SIGNATURE = re.compile("\u2014 (\\S+) (\\S+)")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A well-formed envelope: what it carries, who is said to have signed it, and the bundle it came in, if any."""

    payload: bytes
    signatures: tuple[bytes, ...]
    bundle: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Found:
    """A JSON value that should be an envelope: its path within the document, and whether a registry listed it."""

    path: str
    value: object
    is_listed: bool = False


def within(value: object, path: str = "", *, is_listed: bool = False) -> Iterator[Found]:
    """The envelopes of a document: itself, those of a list, and the bundles of {"attestations": [{"bundle": …}]}.

    The latter is what GitHub and the npm registry answer: everything that is attested of a subject, of any kind.
    """
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from within(item, f"{path}[{number}]", is_listed=is_listed)
    elif isinstance(value, dict) and isinstance(value.get("attestations"), list):
        for number, item in enumerate(value["attestations"]):
            bundle = item.get("bundle") if isinstance(item, dict) else item
            yield Found(f"{path}.attestations[{number}]", bundle, is_listed=True)
    else:
        yield Found(path, value, is_listed)


def envelope(value: object) -> Envelope:
    """The envelope that a JSON value is.

    Raises UnsupportedError for a format that is not understood, MalformedError for what is wrong with one that is.
    """
    if not isinstance(value, dict):
        raise UnsupportedError(f"an envelope is an object, not {kind(value)}")
    if "mediaType" not in value and "dsseEnvelope" not in value:
        return _dsse(value, None)
    media_type = value.get("mediaType")
    if media_type not in BUNDLE_TYPES:
        raise UnsupportedError(f"mediaType is {shown(media_type)}, which is no Sigstore bundle of version 0.1 to 0.3")
    if "messageSignature" in value:
        raise UnsupportedError("the bundle holds a bare signature, not a provenance")
    if not isinstance(value.get("verificationMaterial"), dict):
        raise MalformedError("verificationMaterial is missing or no object")
    _check_material("verificationMaterial", value["verificationMaterial"])
    inner = value.get("dsseEnvelope")
    if not isinstance(inner, dict):
        raise MalformedError("dsseEnvelope is missing or no object")
    return _dsse(inner, value)


def canonical(value: Any) -> Any:
    """A bundle as every reader takes it: padded base64 of the standard alphabet, and nothing that is null."""
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _padded(inner) if key in _BYTES | {"payload", "sig"} else canonical(inner)
        for key, inner in value.items()
        if inner is not None
    }


def _padded(value: Any) -> Any:
    if isinstance(value, list):
        return [_padded(item) for item in value]
    return base64.b64encode(decoded(value, "a value")).decode() if isinstance(value, str) else canonical(value)


def shown(value: object, longest: int = 200) -> str:
    """A value as a message may show it: short, on one line, without what would steer a terminal."""
    if value is None:
        return "missing"
    if not isinstance(value, str):
        return kind(value)
    text = "".join(character if character.isprintable() else "\ufffd" for character in value)
    return (text if len(text) <= longest else f"{text[: longest - 3]}...") or "empty"


def _dsse(value: dict[str, Any], bundle: dict[str, Any] | None) -> Envelope:
    if (found := value.get("payloadType")) != PAYLOAD_TYPE:
        raise UnsupportedError(f"payloadType is {shown(found)}, not {PAYLOAD_TYPE}")
    payload = decoded(value.get("payload"), "payload")
    signatures = value.get("signatures")
    if not isinstance(signatures, list) or not signatures:
        raise MalformedError("signatures is no list with a signature in it")
    if len(signatures) > MOST_SIGNATURES:
        raise MalformedError(f"it has more than {MOST_SIGNATURES} signatures")
    signed = tuple(_signature(number, one) for number, one in enumerate(signatures))
    if len(set(signed)) < len(signed):
        raise MalformedError("a signature is listed twice")
    return Envelope(payload, signed, bundle)


def _signature(number: int, value: object) -> bytes:
    where = f"signatures[{number}]"
    if not isinstance(value, dict):
        raise MalformedError(f"{where} is {kind(value)}, not an object")
    # A hint that nothing authenticates: it may be anything but must be a text.
    if not isinstance(value.get("keyid"), str | None):
        raise MalformedError(f"{where}.keyid is {kind(value['keyid'])}, not a text")
    if not (signature := decoded(value.get("sig"), f"{where}.sig")):
        raise MalformedError(f"{where}.sig is empty")
    return signature


def _check_material(path: str, value: dict[str, Any]) -> None:
    """Refuse what sigstore-python reads more leniently than it is written; the depth is bounded by the reader."""
    for key, inner in value.items():
        here = f"{path}.{key}"
        if key in _BYTES and isinstance(inner, dict | list) and not (key == "hashes" and isinstance(inner, list)):
            raise MalformedError(f"{here} is {kind(inner)}, not a text in base64")
        items = inner if isinstance(inner, list) else [inner]
        if any(item in items[:number] for number, item in enumerate(items[:MOST_SIGNATURES])):
            raise MalformedError(f"{here} lists something twice")
        for item in items:
            if key in _BYTES:
                decoded(item, here)
            elif isinstance(item, dict):
                _check_material(here, item)
            elif key in _NUMBERS and not _DIGITS.fullmatch(str(item)):
                raise MalformedError(f"{here} is {shown(item)}, not a whole number")
        if key == "checkpoint" and isinstance(inner, dict):
            _check_note(f"{here}.envelope", inner.get("envelope"))


def _check_note(path: str, text: object) -> None:
    """A checkpoint is a note (https://c2sp.org/signed-note): text, a blank line, signatures, one by its origin."""
    body, blank, block = text.partition("\n\n") if isinstance(text, str) else ("", "", "")
    signed = [_NOTE_SIGNATURE.fullmatch(line) for line in block.removesuffix("\n").split("\n")]
    if not blank or not block.endswith("\n") or not all(signed):
        raise MalformedError(f"{path} is no signed note")
    if body.split(" ")[0].split("\n")[0] not in {found[1] for found in signed if found}:
        raise MalformedError(f"{path} is not signed by its origin")
    for found in signed:
        decoded(found[2] if found else "", f"the signature in {path}")

"""Secrets of the environment, and texts without them."""

import base64
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from opskpi import texts
from opskpi.errors import ExitCode, OpsKpiError

REASON_LIMIT = 300
# As many as the digest of an HMAC-SHA-256 has; a key of fewer can be guessed from one signature, without the hub.
SHORTEST_BYTES = 32
# 64 random hexadecimal digits practically always have more different ones.
FEWEST_DIFFERENT = 8
HOW_TO_MAKE = "openssl rand -hex 32"


class Misconfigured(Exception):  # noqa: N818
    """The environment or the settings lack what a request needs; the text carries no secret."""


def secret(environ: Mapping[str, str], name: object) -> str:
    """The value of an environment variable. Raises Misconfigured when it is not set or empty."""
    variable = texts.line(name, 100)
    if variable is None:
        raise Misconfigured("the channel names no environment variable that holds its secret")
    value = environ.get(variable, "").strip()
    if not value:
        raise Misconfigured(f"environment variable {variable} is not set")
    return value


def require_strong(environ: Mapping[str, str], name: str) -> None:
    """Raise OpsKpiError, exit code 78, unless a variable holds a secret that signs what strangers could forge."""
    value = environ.get(name, "")
    fault = "is not set" if not value else weakness(value.encode(errors="surrogateescape"), SHORTEST_BYTES)
    if fault:
        raise OpsKpiError(
            f"environment variable {name} {fault}",
            f"Put a random secret there, such as `{HOW_TO_MAKE}` makes, and the same wherever it is shared.",
            ExitCode.CONFIGURATION,
        )


def weakness(key: bytes, shortest: int) -> str | None:
    """What makes a key easy to guess, as the end of a sentence; None when it has the form of a random one."""
    if len(key) < shortest:
        return f"holds a secret of {len(key)} bytes, where at least {shortest} are needed"
    if len(set(key)) < FEWEST_DIFFERENT:
        return f"holds a secret of {len(set(key))} different characters only"
    return None


def scrub(text: str, secrets: Iterable[str]) -> str:
    """One line of the text in which no secret is left, whichever way a protocol encodes it."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode(errors="replace")).decode("ascii")):
            text = text.replace(form, "***")
    return texts.line(text, REASON_LIMIT) or "no reason given"

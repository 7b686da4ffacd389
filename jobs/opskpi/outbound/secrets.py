"""Secrets of the environment, and texts without them."""

import base64
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from opskpi import texts

REASON_LIMIT = 300


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


def scrub(text: str, secrets: Iterable[str]) -> str:
    """One line of the text in which no secret is left, whichever way a protocol encodes it."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode(errors="replace")).decode("ascii")):
            text = text.replace(form, "***")
    return texts.line(text, REASON_LIMIT) or "no reason given"

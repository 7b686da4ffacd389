"""Whom a connection trusts."""

import ssl
from collections.abc import Mapping
from functools import cache

import certifi

from opskpi.outbound.secrets import Misconfigured


def trusted(environ: Mapping[str, str]) -> ssl.SSLContext:
    """TLS that trusts SSL_CERT_FILE and SSL_CERT_DIR, else the roots of the system and of certifi."""
    try:
        return _context(environ.get("SSL_CERT_FILE") or None, environ.get("SSL_CERT_DIR") or None)
    except OSError:
        raise Misconfigured("the file that SSL_CERT_FILE names cannot be read as certificates") from None


@cache  # reading the roots takes as long as a request
def _context(file: str | None, folder: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=file, capath=folder)
    if file is None and folder is None:
        context.load_verify_locations(certifi.where())
    return context

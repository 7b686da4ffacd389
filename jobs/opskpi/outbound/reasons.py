"""What the end of an exchange means, in words that name no address and quote no secret."""

import os
import socket
import ssl
from http import HTTPStatus

_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}


def phrase(status: int) -> str:
    """A status with its name where it has one: 404 Not Found."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def may_pass(status: int) -> bool:
    """Whether the same request may succeed later: 408, 425, 429 and 5xx."""
    return status in _PASSING or status >= 500


def network_reason(error: BaseException) -> str:
    """What a failed connection means, in words of the operating system or of TLS."""
    reason = f"no connection: {type(error).__name__}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            reason = "no answer in time"
        elif isinstance(cause, ssl.SSLCertVerificationError):
            # What follows the comma is the host.
            reason = f"its certificate is not trusted: {cause.verify_message.partition(',')[0]}"
        elif isinstance(cause, OSError) and cause.strerror:
            # The loop of asyncio writes the address into the text of its own errors; those of DNS and TLS name none.
            known = None if isinstance(cause, ssl.SSLError | socket.gaierror) else cause.errno
            reason = f"no connection: {os.strerror(known) if known else cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    return reason

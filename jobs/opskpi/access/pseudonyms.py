"""The key of the pseudonyms: found in the environment, and given to a transaction that needs it."""

import os
from collections.abc import Mapping

import psycopg

from opskpi.errors import ExitCode, OpsKpiError

KEY_VARIABLE = "OPSKPI_ANONYMISATION_KEY"
SHORTEST_KEY = 16
# Only for the transaction: a transaction pooler hands the session to others.
SET_KEY = "select set_config('opskpi.anonymisation_key', %s, true)"


def key(environ: Mapping[str, str] | None = None) -> str | None:
    """The key of the pseudonyms, from OPSKPI_ANONYMISATION_KEY; None when it is not set.

    Raises OpsKpiError, exit code 78, when it is too short to keep anyone from guessing it, or no text.
    """
    found = (os.environ if environ is None else environ).get(KEY_VARIABLE)
    # Bytes that are no text stand as half surrogates in it; the database could not take them.
    if found and any("\ud800" <= character <= "\udfff" for character in found):
        raise OpsKpiError(
            f"{KEY_VARIABLE} is no text in UTF-8",
            "Use a text, as `openssl rand -hex 32` makes.",
            ExitCode.CONFIGURATION,
        )
    if found and len(found) < SHORTEST_KEY:
        raise OpsKpiError(
            f"{KEY_VARIABLE} has fewer than {SHORTEST_KEY} characters",
            "Set it to a long random text, such as `openssl rand -hex 32` makes, and keep it.",
            ExitCode.CONFIGURATION,
        )
    return found or None


def pass_key(connection: psycopg.Connection) -> None:
    """Give the open transaction the key, if there is one. Raises OpsKpiError when it is too short."""
    if secret := key():
        connection.execute(SET_KEY, [secret])

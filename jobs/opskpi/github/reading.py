"""Where payloads come from: files, standard input, the event that started this workflow."""

import sys
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import psycopg

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.github import payloads, storing
from opskpi.github.documents import LARGEST
from opskpi.github.events import PUBLIC_HOST, site_of
from opskpi.github.rules import read_rules
from opskpi.github.signatures import require_signature
from opskpi.github.storing import Summary
from opskpi.orgs import NIL_ORG
from opskpi.postgres.journal import journalled

EVENT_PATH = "GITHUB_EVENT_PATH"


def sources(files: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, ...]:
    """The files to read: those given, else the payload of the event that started this workflow.

    Raises OpsKpiError (BAD_ARGUMENT) when there is neither.
    """
    if files:
        return files
    if environ.get(EVENT_PATH):
        return (environ[EVENT_PATH],)
    raise OpsKpiError(
        "there is nothing to read",
        f"Pass a FILE, - for standard input, or --repo owner/name; in GitHub Actions {EVENT_PATH} names a file.",
        ExitCode.BAD_ARGUMENT,
    )


def read_bytes(source: str) -> bytes:
    """The bytes of a file, or of standard input for `-`. Raises OpsKpiError (BAD_ARGUMENT) when it cannot be read."""
    try:
        if source == "-":
            # Without a standard input there is none to read.
            return sys.stdin.buffer.read(LARGEST + 1) if sys.stdin else b""
        with Path(source).open("rb") as file:
            return file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no path"
        raise OpsKpiError(f"{source} cannot be read: {reason}", exit_code=ExitCode.BAD_ARGUMENT) from error


def collect(
    connection: psycopg.Connection, source: str, raw: bytes, environ: Mapping[str, str], *, org_id: UUID = NIL_ORG
) -> Summary:
    """Store what the bytes describe; where they name no host, it is that of GITHUB_SERVER_URL, else github.com.

    Raises OpsKpiError (BAD_ARGUMENT) when they are no JSON.
    """
    name = "standard input" if source == "-" else source
    host = site_of(environ.get("GITHUB_SERVER_URL", "")) or PUBLIC_HOST
    summary = Summary(name)
    with journalled(connection, "collect"):
        found = payloads.read(raw, read_rules(connection), source=name, host=host)
        storing.note_workflows(connection, storing.workflows_of(found), org_id)
        storing.store(connection, found, summary, org_id)
    return summary


def require_signed(raw: bytes, signature: str | None, secret_env: str | None, environ: Mapping[str, str]) -> None:
    """Refuse a payload that ought to be signed and is not: ought to, when a signature or a secret is named."""
    if signature is not None or secret_env is not None:
        if secret_env is None:
            raise OpsKpiError(
                "a signature is given, and no secret to check it with", "Name its environment variable: --secret-env.",
                ExitCode.BAD_ARGUMENT,
            )  # fmt: skip
        require_signature(raw, signature, secret_env, environ)

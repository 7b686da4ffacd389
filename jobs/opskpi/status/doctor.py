"""Is all well? The checks are SQL, but for those of migrations, permissions and channels that this program sends to."""

from collections.abc import Collection

import psycopg

from opskpi.errors import OpsKpiError
from opskpi.postgres import history, permissions
from opskpi.status import reading
from opskpi.status.reading import Check


def examine(connection: psycopg.Connection, channel_kinds: Collection[str]) -> list[Check]:
    """The migration check and, where the schema is there, those of `ops.doctor`, the permissions and the channels.

    `channel_kinds` are the kinds of channels that this program can send to.
    """
    try:
        history.require_current(connection)
    except OpsKpiError as error:
        return [Check("migrations", passed=False, detail=f"{error.message}. {error.hint}")]
    return [
        Check("migrations", passed=True, detail="the schema is current"),
        *reading.checks(connection),
        _permissions(connection),
        _channels(connection, channel_kinds),
    ]


def _permissions(connection: psycopg.Connection) -> Check:
    """The grants of `sql/` are known to this program alone, so the check is not one of `ops.doctor`."""
    found = permissions.faults(connection)
    detail = (
        f"{permissions.in_words(found)}: run opskpi migrate --repair-grants"
        if found
        else "all policies and grants of the schema are there"
    )
    return Check("permissions", passed=not found, detail=detail)


def _channels(connection: psycopg.Connection, kinds: Collection[str]) -> Check:
    """The database takes any word as a kind, so that a new kind needs no migration."""
    unknown = reading.channels_of_other_kinds(connection, kinds)
    if not unknown:
        return Check("channels", passed=True, detail="every channel is of a kind that can be sent to")
    return Check(
        "channels",
        passed=False,
        detail=f"no message can be sent to {', '.join(unknown)}: the kind must be one of {', '.join(kinds)}",
    )

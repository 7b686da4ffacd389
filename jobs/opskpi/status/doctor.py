"""Is all well? The checks are SQL; only a database without our schema is judged here."""

import psycopg

from opskpi.errors import OpsKpiError
from opskpi.postgres import migrations
from opskpi.status import reading
from opskpi.status.reading import Check


def examine(connection: psycopg.Connection) -> list[Check]:
    """The migration check and, where the schema is there, those of `ops.doctor`."""
    try:
        migrations.require_current(connection)
    except OpsKpiError as error:
        return [Check("migrations", passed=False, detail=f"{error.message}. {error.hint}")]
    return [Check("migrations", passed=True, detail="the schema is current"), *reading.checks(connection)]

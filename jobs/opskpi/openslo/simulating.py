"""The alerts that definitions would have fired over past days, found by their rules, without a trace."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.groups import Group, name_of
from opskpi.openslo.definitions import Definitions, as_json

# What `simulate` leaves out.
UNTRIED = frozenset(["kpi_threshold", "silent_agents", "silent_jobs"])


@dataclass(frozen=True, slots=True)
class Fired:
    """An alert as it would have been; `resolved_at` is None when it still fired at the end, else when it was over."""

    org_id: UUID
    rule_name: str
    severity: str
    subject: str
    slo_group: Group
    fired_at: datetime
    resolved_at: datetime | None


def simulate(
    connection: psycopg.Connection,
    definitions: Definitions,
    since: datetime,
    until: datetime,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Fired]:
    """The alerts that the definitions would have fired in [since, until), had they always stood.

    The simulation only reads, on a replica as well. The rules are evaluated every five minutes, each time by what had
    happened by then. Of a unit of work that succeeded later nothing is known but that, so that it was never bad.
    `on_progress` gets the number of objectives done. Raises OpsKpiError when there is no objective among the
    definitions, and psycopg.Error where `slo apply` refuses them.
    """
    if not definitions.slos:
        raise OpsKpiError("the files define no SLO to simulate", "Pass a file with one.", ExitCode.BAD_ARGUMENT)
    tried = Jsonb(as_json(definitions))
    # The events of each type are scanned once, however many objectives count them.
    event_types = sorted({slo.event_type for slo in definitions.slos})
    fired: list[Fired] = []
    done = 0
    with connection.transaction(), connection.cursor(row_factory=class_row(Fired)) as cursor:
        cursor.execute("set transaction read only")
        for event_type in event_types:
            fired += cursor.execute(
                "select org_id, rule_name, severity, subject, slo_group, fired_at, resolved_at"
                " from ops.simulate_definitions(definitions => %s, since => %s, until => %s, event_type => %s)",
                [tried, since, until, event_type],
            ).fetchall()
            done += sum(slo.event_type == event_type for slo in definitions.slos)
            on_progress(done)
    return sorted(
        fired,
        key=lambda alert: (alert.fired_at, alert.rule_name, alert.subject, name_of(alert.slo_group), alert.org_id),
    )

"""What definitions would have fired over past days, found out by the code that evaluates rules, without a trace."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.groups import Group, name_of
from opskpi.openslo import applying
from opskpi.openslo.definitions import Definitions

STEP = timedelta(minutes=5)
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


@dataclass(frozen=True, slots=True)
class _Finding:
    as_of: datetime
    org_id: UUID
    rule_name: str
    severity: str
    subject: str
    alert_after: timedelta
    holds: bool | None
    slo_group: Group

    @property
    def subject_key(self) -> tuple[UUID, str, str, str]:
        """Equal for findings of one alert."""
        return (self.org_id, self.rule_name, self.subject, name_of(self.slo_group))


def simulate(
    connection: psycopg.Connection,
    definitions: Definitions,
    since: datetime,
    until: datetime,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Fired]:
    """What the definitions would have fired in [since, until), had they always stood; nothing is changed.

    The rules are evaluated every five minutes by the code that evaluates them for good. `on_progress` gets the days
    done. Raises OpsKpiError when there is no objective among the definitions.
    """
    # Enabled, since that is what is tried, and by their own names: they are taken for those that always were.
    tried = tuple(replace(slo, is_enabled=True, previous_name=None) for slo in definitions.slos)
    names = [slo.slo_name for slo in tried]
    if not names:
        raise OpsKpiError("the files define no SLO to simulate", "Pass a file with one.", ExitCode.BAD_ARGUMENT)
    fired: list[Fired] = []
    open_since: dict[tuple[UUID, str, str, str], _Finding] = {}
    with connection.transaction(force_rollback=True), connection.cursor(row_factory=class_row(_Finding)) as cursor:
        applying.make(connection, replace(definitions, slos=tried), applying.Bundle(adopt=True))
        connection.execute("select ops.backdate_slos(slo_names => %s)", [names])
        connection.execute("select ops.fill_slis()")
        start, done = since, 0
        while start < until:
            end = min(start + timedelta(days=1), until)
            findings = cursor.execute(
                "select as_of, org_id, rule_name, severity, subject, alert_after, holds, slo_group"
                " from ops.simulate_conditions(since => %s, until => %s, step => %s, slo_names => %s)",
                [start, end, STEP, names],
            ).fetchall()
            # A group that nobody finds at the beginning of the day was over by then.
            found = {finding.subject_key for finding in findings if finding.as_of == start}
            for key in open_since.keys() - found:
                fired += _fired(open_since.pop(key), start)
            for finding in findings:
                if finding.holds:
                    open_since.setdefault(finding.subject_key, finding)
                elif finding.holds is False and (began := open_since.pop(finding.subject_key, None)):
                    fired += _fired(began, finding.as_of)
            start, done = end, done + 1
            on_progress(done)
    for began in open_since.values():
        fired += [replace(alert, resolved_at=None) for alert in _fired(began, until)]
    return sorted(
        fired,
        key=lambda alert: (alert.fired_at, alert.rule_name, alert.subject, name_of(alert.slo_group), alert.org_id),
    )


def _fired(began: _Finding, ended_at: datetime) -> list[Fired]:
    """The alert, unless its condition ended while it was pending."""
    fired_at = began.as_of + -(-began.alert_after // STEP) * STEP
    if fired_at >= ended_at:
        return []
    return [Fired(began.org_id, began.rule_name, began.severity, began.subject, began.slo_group, fired_at, ended_at)]

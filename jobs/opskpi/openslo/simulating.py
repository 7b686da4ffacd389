"""The alerts that definitions would have fired over past days, found by their rules, without a trace."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb

from opskpi.errors import ExitCode, OpsKpiError
from opskpi.groups import Group, name_of
from opskpi.openslo import applying
from opskpi.openslo.definitions import Definitions

STEP = timedelta(minutes=5)
# Each part reads the window before it again, and between parts the bar moves on.
PART = timedelta(days=10)
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
    starts: bool | None
    lost_since: datetime | None
    lost: int | None

    @property
    def subject_key(self) -> tuple[UUID, str, str, str]:
        """Equal for findings of one alert."""
        return (self.org_id, self.rule_name, self.subject, name_of(self.slo_group))


@dataclass(slots=True)
class _Trial:
    """An alert from state to state, as `ops.move_alerts` takes it: inactive, pending, firing, and then resolved."""

    latest: _Finding
    pending_since: datetime | None = None
    fired_at: datetime | None = None
    # The last finding of an alert that fired and was resolved.
    mended: _Finding | None = None

    def wait_until(self, instant: datetime) -> None:
        """Let it fire where its wait ends before the next finding, provided that the latest would begin an alert."""
        if self.pending_since is None or self.fired_at or not self.latest.starts:
            return
        due = max(self.latest.as_of, self.pending_since - (-self.latest.alert_after // STEP) * STEP)
        if due < instant:
            self.fired_at = due

    def move(self, finding: _Finding, is_repeated: Callable[[_Finding, _Finding], bool]) -> Fired | None:
        """Take in the next finding; returns the alert that it resolves. `is_repeated` gets the last one, and this."""
        self.wait_until(finding.as_of)
        self.latest = finding
        if finding.holds is False:
            ended = self.ended(finding.as_of)
            self.mended = finding if ended else self.mended
            self.pending_since = self.fired_at = None
            return ended
        if finding.starts and not self.pending_since and not (self.mended and is_repeated(self.mended, finding)):
            self.pending_since = finding.as_of
        return None

    def ended(self, resolved_at: datetime | None) -> Fired | None:
        """The alert, if it fired."""
        if self.fired_at is None:
            return None
        found = self.latest
        return Fired(
            found.org_id, found.rule_name, found.severity, found.subject, found.slo_group, self.fired_at, resolved_at
        )


def simulate(
    connection: psycopg.Connection,
    definitions: Definitions,
    since: datetime,
    until: datetime,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Fired]:
    """What the definitions would have fired in [since, until), had they always stood; nothing is changed.

    The rules are evaluated every five minutes, each time by what had happened by then. Of a unit of work that succeeded
    later nothing is known but that, so that it was never bad. `on_progress` gets the days done. Raises OpsKpiError when
    there is no objective among the definitions.
    """
    # Enabled, since that is what is tried, and by their own names: they are taken for those that always were.
    tried = tuple(replace(slo, is_enabled=True, previous_name=None) for slo in definitions.slos)
    names = [slo.slo_name for slo in tried]
    if not names:
        raise OpsKpiError("the files define no SLO to simulate", "Pass a file with one.", ExitCode.BAD_ARGUMENT)
    fired: list[Fired | None] = []
    trials: dict[tuple[UUID, str, str, str], _Trial] = {}
    with connection.transaction(force_rollback=True), connection.cursor(row_factory=class_row(_Finding)) as cursor:
        applying.make(connection, replace(definitions, slos=tried), applying.Bundle(adopt=True))
        connection.execute("select ops.backdate_slos(slo_names => %s)", [names])
        connection.execute("select ops.try_slis()")
        start = since
        while start < until:
            end = min(start + PART, until)
            findings = cursor.execute(
                "select as_of, org_id, rule_name, severity, subject, alert_after, holds, starts, lost_since, lost,"
                " slo_group from ops.simulate_conditions(since => %s, until => %s, slo_names => %s)",
                [start, end, names],
            ).fetchall()
            for finding in findings:
                trial = trials.setdefault(finding.subject_key, _Trial(finding))
                fired.append(trial.move(finding, lambda mended, again: _is_repeated(connection, mended, again)))
            start = end
            on_progress(ceil((end - since) / timedelta(days=1)))
    for trial in trials.values():
        trial.wait_until(until)
        fired.append(trial.ended(None))
    alerts = [alert for alert in fired if alert]
    return sorted(
        alerts,
        key=lambda alert: (alert.fired_at, alert.rule_name, alert.subject, name_of(alert.slo_group), alert.org_id),
    )


def _is_repeated(connection: psycopg.Connection, mended: _Finding, again: _Finding) -> bool:
    """Whether nothing has failed since the alert was resolved, as `ops.repeated_conditions` asks."""
    if mended.lost is None or again.lost_since is None or mended.as_of <= again.lost_since:
        return False
    with connection.cursor(row_factory=scalar_row) as cursor:
        lost = cursor.execute(
            "select ops.lost_between(org_id => %s, slo_name => %s, slo_group => %s, since => %s, as_of => %s)",
            [again.org_id, again.subject, Jsonb(again.slo_group), mended.lost_since, again.as_of],
        ).fetchone()
    return lost is not None and lost <= mended.lost

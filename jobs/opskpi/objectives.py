"""Objectives as code in the database: apply and export definitions, explain, exclude, try them on the past."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import class_row, dict_row, scalar_row
from psycopg.types.json import Jsonb

from opskpi import openslo
from opskpi.counting.refresh import stored_range
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.postgres import connecting

STEP = timedelta(minutes=5)
# What `simulate` leaves out.
UNTRIED = frozenset(["kpi_threshold", "silent_agents", "silent_jobs"])
# Intervals as text, since a month has no length in Python.
STORED: dict[str, LiteralString] = {
    "services": "select service_name, display_name, description, labels, annotations from ops.services",
    "slos": """
      select
        slo_name, service, objective, event_type, target, coalesce(indicator_name, slo_name) as indicator_name,
        description, threshold_ms, case when calendar_period is null then 'rolling' else 'calendar' end as window_kind,
        rolling_window::text, calendar_period,
        case when calendar_period is not null then coalesce(time_zone, ops.time_zone()) end as time_zone,
        budgeting_method, time_slice::text, slice_target, expected_interval::text, display_name, labels, annotations
      from ops.slos
    """,
    "rules": """
      select
        rule_name, kind, severity, slo_name, metric_name, event_type, budget_share, factor, long_window::text,
        short_window::text, comparison, threshold, lasting::text, alert_after::text, silent_for::text, channels,
        notify_resolved, description, display_name, labels, annotations
      from ops.alert_rules
    """,
    "channels": """
      select
        channel_name, kind, secret_env, settings, severities, repeat_interval::text, description, display_name, labels,
        annotations
      from ops.alert_channels
    """,
}


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one definition: created, changed (each field as [before, after]), unchanged or removed."""

    kind: str
    name: str
    change: str
    differences: dict[str, tuple[Any, Any]] | None


@dataclass(frozen=True, slots=True)
class Cost:
    """An event that burned the budget; `cost` is the share of the budget of the explained range that it took."""

    org_id: UUID
    event_timestamp: datetime
    event_id: UUID
    event_type: str
    run_id: int | None
    tag: str | None
    reason: str
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A time, half-open, that the account of an objective of one org leaves out, with why and who said so."""

    slo_name: str
    since: datetime
    until: datetime
    reason: str
    author: str
    org_id: UUID


@dataclass(frozen=True, slots=True)
class Fired:
    """An alert as it would have been; `resolved_at` is None when it still fired at the end."""

    org_id: UUID
    rule_name: str
    severity: str
    subject: str
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


def apply(connection: psycopg.Connection, definitions: openslo.Definitions, *, dry_run: bool = False) -> list[Change]:
    """Make the stored definitions what these say, in one transaction; `dry_run` finds out what would change.

    Raises psycopg.Error: OP001 for a rule that can never fire, 23503 for a KPI that does not exist.
    """
    with connection.transaction(force_rollback=dry_run):
        return _apply(connection, definitions)


def channel_names(connection: psycopg.Connection) -> list[str]:
    """The channels that files may name without defining them."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute("select channel_name from ops.alert_channels").fetchall()


def stored(connection: psycopg.Connection) -> openslo.Definitions:
    """All definitions as they stand."""
    rows: dict[str, list[dict[str, Any]]] = {}
    with connecting.unfiltered(connection), connection.cursor(row_factory=dict_row) as cursor:
        for kind, query in STORED.items():
            rows[kind] = cursor.execute(query).fetchall()
            for row in rows[kind]:
                _check_sayable(kind, row)
    return openslo.from_json(rows)


def _check_sayable(kind: str, row: dict[str, Any]) -> None:
    """Name the row that no file can say."""
    try:
        openslo.from_json({kind: [row]})
    except OpsKpiError as error:
        name = next(iter(row.values()))
        raise OpsKpiError(f"{name} (in ops.{kind}): {error.message}", error.hint, error.exit_code) from error


def fill(connection: psycopg.Connection, on_progress: Callable[[int, int], None] = lambda *_: None) -> None:
    """Give new objectives their history from the stored events, a transaction a month; a killed run goes on.

    `on_progress` gets the days done and all days.
    """
    with connection.cursor(row_factory=scalar_row) as cursor:
        (unfilled,) = cursor.execute("select exists (select from ops.slis where filled_until < 'infinity')").fetchall()
        found = stored_range(connection) if unfilled else None
        if found:
            days = max((found.end_at - found.first_at).days, 1)
            step_end = found.first_at
            while step_end < found.end_at:
                step_end = min(step_end + timedelta(days=30), found.end_at)
                cursor.execute("select ops.fill_slis(until => %s)", [step_end])
                on_progress((step_end - found.first_at).days, days)
        if unfilled:
            cursor.execute("select ops.fill_slis()")


def explain(
    connection: psycopg.Connection, name: str, since: datetime, until: datetime, org: UUID | None
) -> list[Cost]:
    """The counted events that burned the budget of an objective in [since, until), widened to five minutes.

    Raises psycopg.Error (OP001) when there is no such objective.
    """
    with connection.cursor(row_factory=class_row(Cost)) as cursor:
        return cursor.execute(
            "select org_id, event_timestamp, event_id, event_type, run_id, tag, reason, cost"
            " from ops.explain_slo(slo_name => %s, since => %s, until => %s, only_org_id => %s)",
            [name, since, until, org],
        ).fetchall()


def exclude(connection: psycopg.Connection, exclusion: Exclusion) -> int:
    """Add an exclusion; returns its number. Raises psycopg.Error (OP001) when there is no such objective."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        (number,) = cursor.execute(
            "select ops.exclude_from_slo(slo_name => %(slo_name)s, since => %(since)s, until => %(until)s,"
            " reason => %(reason)s, author => %(author)s, org_id => %(org_id)s)",
            asdict(exclusion),
        ).fetchall()
    return number


def simulate(
    connection: psycopg.Connection,
    definitions: openslo.Definitions,
    since: datetime,
    until: datetime,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Fired]:
    """What the definitions would have fired in [since, until), had they always stood; nothing is changed.

    The rules are evaluated every five minutes by the code that evaluates them for good. `on_progress` gets the days
    done. Raises OpsKpiError when there is no objective among the definitions.
    """
    names = [slo.slo_name for slo in definitions.slos]
    if not names:
        raise OpsKpiError("the files define no SLO to simulate", "Pass a file with one.", ExitCode.BAD_ARGUMENT)
    fired: list[Fired] = []
    open_since: dict[tuple[UUID, str, str], _Finding] = {}
    with connection.transaction(force_rollback=True), connection.cursor(row_factory=class_row(_Finding)) as cursor:
        _apply(connection, definitions)
        connection.execute("select ops.backdate_slos(slo_names => %s)", [names])
        connection.execute("select ops.fill_slis()")
        start, done = since, 0
        while start < until:
            end = min(start + timedelta(days=1), until)
            for finding in cursor.execute(
                "select as_of, org_id, rule_name, severity, subject, alert_after, holds from ops.simulate_conditions("
                "since => %s, until => %s, step => %s, slo_names => %s)",
                [start, end, STEP, names],
            ):
                subject = (finding.org_id, finding.rule_name, finding.subject)
                if finding.holds:
                    open_since.setdefault(subject, finding)
                elif finding.holds is False and (began := open_since.pop(subject, None)):
                    fired += _fired(began, finding.as_of)
            start, done = end, done + 1
            on_progress(done)
    for began in open_since.values():
        fired += [replace(alert, resolved_at=None) for alert in _fired(began, until)]
    return sorted(fired, key=lambda alert: (alert.fired_at, alert.rule_name, alert.subject, alert.org_id))


def _fired(began: _Finding, ended_at: datetime) -> list[Fired]:
    """The alert, unless its condition ended while it was pending."""
    fired_at = began.as_of + -(-began.alert_after // STEP) * STEP
    if fired_at >= ended_at:
        return []
    return [Fired(began.org_id, began.rule_name, began.severity, began.subject, fired_at, ended_at)]


def _apply(connection: psycopg.Connection, definitions: openslo.Definitions) -> list[Change]:
    with connection.cursor(row_factory=class_row(Change)) as cursor:
        return cursor.execute(
            "select kind, name, change, differences from ops.apply_definitions(definitions => %s)",
            [Jsonb(openslo.as_json(definitions))],
        ).fetchall()

"""What people ask from a terminal: the newest KPIs, the SLOs, the checks of doctor; one view or function each."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
from psycopg.rows import class_row, scalar_row

from opskpi.groups import Group


@dataclass(frozen=True, slots=True)
class Kpi:
    """A row of `v_ops_kpi_latest`; `metric_value` is in `unit`."""

    org_id: UUID
    metric_name: str
    metric_value: Decimal
    unit: str
    aggregation_period: str
    period_start: datetime
    period_end: datetime
    complete: bool
    labels: dict[str, str]
    numerator: Decimal | None
    denominator: Decimal | None
    sample_count: int


@dataclass(frozen=True, slots=True)
class Slo:
    """A row of `v_ops_slo_status`; all but the counts are ratios, burn rates to the sustainable rate.

    `counted_since` is the first instant with all its events, None if none is missing. `slo_group` has the values of its
    labels by key, {} where the objective is not grouped. `freshness` is fresh or stale, `stale_since` when the jobs
    last counted, None while that is fresh or if they never did. `allowed` is how many of the whole window may be bad,
    by what `budget_basis` says (counted, expected, slices); `versions` judge it.
    """

    org_id: UUID
    slo_name: str
    service: str
    objective: str
    status: str
    target: Decimal
    sli: Decimal | None
    good: int
    total: int
    budget_left: Decimal | None
    burn_rate_1h: Decimal | None
    burn_rate_6h: Decimal | None
    burn_rate_1d: Decimal | None
    burn_rate_3d: Decimal | None
    time_to_exhaustion: timedelta | None
    events_needed: int
    window_start: datetime
    counted_since: datetime | None
    slo_group: Group
    freshness: str = "fresh"
    stale_since: datetime | None = None
    allowed: Decimal | None = None
    versions: list[int] = field(default_factory=list)
    budget_basis: str = "counted"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `ops.doctor`."""

    check_name: str
    passed: bool
    detail: str


def kpis(connection: psycopg.Connection, period: str, metric: str | None, *, breakdowns: bool) -> list[Kpi]:
    """The newest value of each KPI for one period (hour, day, week, month), by team and so on too if asked for."""
    with connection.cursor(row_factory=class_row(Kpi)) as cursor:
        return cursor.execute(
            "select org_id, metric_name, metric_value, unit, aggregation_period, period_start, period_end, complete,"
            " labels, numerator, denominator, sample_count from public.v_ops_kpi_latest"
            " where aggregation_period = %(period)s and (metric_name = %(metric)s or %(metric)s::text is null)"
            " and (labels = '{}' or %(breakdowns)s)",
            {"period": period, "metric": metric, "breakdowns": breakdowns},
        ).fetchall()


def slos(connection: psycopg.Connection) -> list[Slo]:
    """Every objective of every org, and each of its groups, as of now; the worst first."""
    with connection.cursor(row_factory=class_row(Slo)) as cursor:
        return cursor.execute(
            "select org_id, slo_name, service, objective, status, target, sli, good, total, budget_left, burn_rate_1h,"
            " burn_rate_6h, burn_rate_1d, burn_rate_3d, time_to_exhaustion, events_needed, window_start,"
            " counted_since, slo_group, freshness, stale_since, allowed, versions, budget_basis"
            " from public.v_ops_slo_status"
        ).fetchall()


def checks(connection: psycopg.Connection) -> list[Check]:
    """What `ops.doctor` finds, in its order."""
    with connection.cursor(row_factory=class_row(Check)) as cursor:
        return cursor.execute("select check_name, passed, detail from ops.doctor()").fetchall()


def channels_of_other_kinds(connection: psycopg.Connection, kinds: Collection[str]) -> list[str]:
    """The names of the alert channels that are of none of these kinds."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(
            "select channel_name from ops.alert_channels where kind <> all(%s) order by channel_name", [list(kinds)]
        ).fetchall()

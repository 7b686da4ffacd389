"""The status as a person reads it: tables of KPIs and objectives, and the checks of doctor line by line."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

from opskpi import console
from opskpi.columns import Column
from opskpi.groups import shown
from opskpi.orgs import NIL_ORG
from opskpi.status.reading import Check, Kpi, Slo

STATUS_STYLES = {
    "ok": "green",
    "at_risk": "yellow",
    "breached": "bold red",
    "insufficient": "cyan",
    "no_data": "dim",
    "fresh": "green",
    "stale": "magenta",
}


def show_kpis(kpis: Sequence[Kpi]) -> None:
    """A table of KPI values with unit, window and sample count."""
    org, orgs = _orgs(kpis)
    columns = [
        *org,
        Column("KPI", is_key=True),
        Column("value", stays=True, right=True),
        Column("unit", stays=True),
        Column("window (UTC)"),
        Column("samples", right=True, dispensable=1),
    ]
    rows = [
        [
            *whose,
            console.safe(" ".join([kpi.metric_name, *(f"{key}={value}" for key, value in kpi.labels.items())])),
            f"{kpi.metric_value:,.2f}",
            kpi.unit,
            f"{kpi.aggregation_period} from {kpi.period_start:%Y-%m-%d %H:%M}" + ("" if kpi.complete else ", running"),
            f"{kpi.sample_count:,}",
        ]
        for whose, kpi in zip(orgs, kpis, strict=True)
    ]
    console.show_table("KPIs", columns, rows)


def show_slos(slos: Sequence[Slo]) -> None:
    """A table of objectives with status, budget and burn rates, in the order given."""
    org, orgs = _orgs(slos)
    is_grouped = any(slo.slo_group for slo in slos)
    # All are as fresh as the jobs; of fresh counts there is nothing to say.
    is_stale = any(slo.freshness != "fresh" for slo in slos)
    columns = [
        *org,
        Column("SLO", is_key=True),
        *([Column("group", is_key=True)] if is_grouped else []),
        Column("status", stays=True),
        *([Column("freshness", stays=True)] if is_stale else []),
        Column("target", right=True, dispensable=1),
        Column("SLI", stays=True, right=True),
        Column("good", right=True, dispensable=3),
        Column("total", right=True, dispensable=3),
        Column("budget left", stays=True, right=True),
        Column("burn 1h", right=True),
        Column("burn 1d", right=True, dispensable=2),
        Column("exhausted in", right=True, dispensable=2),
        Column("events needed", right=True, dispensable=2),
    ]
    rows = [
        [
            *whose,
            console.safe(slo.slo_name),
            *([console.safe(shown(slo.slo_group))] if is_grouped else []),
            _styled(slo.status, slo.status),
            *([_styled(slo.freshness, _freshness(slo))] if is_stale else []),
            _percent(slo.target),
            _percent(slo.sli),
            f"{slo.good:,}",
            f"{slo.total:,}",
            _percent(slo.budget_left, digits=1),
            _number(slo.burn_rate_1h),
            _number(slo.burn_rate_1d),
            _exhausted_in(slo),
            f"{slo.events_needed:,}" if slo.events_needed else "",
        ]
        for whose, slo in zip(orgs, slos, strict=True)
    ]
    console.show_table("SLOs", columns, rows)
    partly = {(slo.slo_name, since) for slo in slos if (since := slo.counted_since) and since > slo.window_start}
    for name, since in sorted(partly):
        console.show(f"{name}: only events since {since:%Y-%m-%d} are counted; retention had removed the older ones")
    for name, versions in sorted({(slo.slo_name, tuple(slo.versions)) for slo in slos if len(slo.versions) > 1}):
        numbers = ", ".join(map(str, versions))
        console.show(
            f"{name}: its definition changed within the window; versions {numbers} judge it, each its own time"
        )


def _orgs(rows: Sequence[Kpi] | Sequence[Slo]) -> tuple[list[Column], list[list[str]]]:
    """A column with the org of each row; none where all are of the nil org."""
    if {row.org_id for row in rows} == {NIL_ORG}:
        return [], [[] for _ in rows]
    return [Column("org", is_key=True)], [[str(row.org_id)] for row in rows]


def show_checks(checks: Sequence[Check]) -> None:
    """One line a check."""
    for check in checks:
        mark = "[green]ok  [/]" if check.passed else "[bold red]FAIL[/]"
        console.show_marked(f"{mark} {console.safe(check.check_name)}: {console.safe(check.detail)}")


def _styled(style: str, text: str) -> str:
    return f"[{STATUS_STYLES.get(style, '')}]{text}[/]"


def _freshness(slo: Slo) -> str:
    return slo.freshness + (f" since {slo.stale_since:%Y-%m-%d %H:%M}" if slo.stale_since else "")


def _percent(ratio: Decimal | None, digits: int = 3) -> str:
    return "" if ratio is None else f"{ratio * 100:.{digits}f} %"


def _exhausted_in(slo: Slo) -> str:
    if slo.budget_left is None:
        return ""
    return "never" if slo.time_to_exhaustion is None else f"{slo.time_to_exhaustion / timedelta(days=1):.1f} d"


def _number(value: Decimal | None) -> str:
    return "" if value is None else f"{value:.2f}"

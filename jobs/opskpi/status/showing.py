"""The status as a person reads it: tables of KPIs and objectives, and the checks of doctor line by line."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

from rich.table import Table

from opskpi import console
from opskpi.orgs import NIL_ORG
from opskpi.status.reading import Check, Kpi, Slo

STATUS_STYLES = {
    "ok": "green",
    "at_risk": "yellow",
    "breached": "bold red",
    "insufficient": "cyan",
    "no_data": "dim",
    "stale": "magenta",
}


def show_kpis(kpis: Sequence[Kpi]) -> None:
    """A table of KPI values with unit, window and sample count."""
    many_orgs = {kpi.org_id for kpi in kpis} != {NIL_ORG}
    table = Table(title="KPIs", title_justify="left")
    if many_orgs:
        table.add_column("org")
    for name in ("KPI", "value", "unit", "window (UTC)", "samples"):
        table.add_column(name, justify="right" if name in {"value", "samples"} else "left")
    for kpi in kpis:
        labels = " ".join(f"{key}={value}" for key, value in kpi.labels.items())
        table.add_row(
            *([str(kpi.org_id)] if many_orgs else []),
            console.safe(f"{kpi.metric_name} {labels}".strip()),
            f"{kpi.metric_value:,.2f}",
            kpi.unit,
            f"{kpi.aggregation_period} from {kpi.period_start:%Y-%m-%d %H:%M}" + ("" if kpi.complete else ", running"),
            f"{kpi.sample_count:,}",
        )
    console.show_table(table)


def show_slos(slos: Sequence[Slo]) -> None:
    """A table of objectives with status, budget and burn rates."""
    many_orgs = {slo.org_id for slo in slos} != {NIL_ORG}
    table = Table(title="SLOs", title_justify="left")
    if many_orgs:
        table.add_column("org")
    for name in (
        "SLO",
        "status",
        "target",
        "SLI",
        "good",
        "total",
        "budget left",
        "burn 1h",
        "burn 1d",
        "exhausted in",
        "events needed",
    ):
        table.add_column(name, justify="left" if name in {"SLO", "status"} else "right")
    for slo in slos:
        table.add_row(
            *([str(slo.org_id)] if many_orgs else []),
            console.safe(slo.slo_name),
            f"[{STATUS_STYLES.get(slo.status, '')}]{slo.status}[/]",
            _percent(slo.target),
            _percent(slo.sli),
            f"{slo.good:,}",
            f"{slo.total:,}",
            _percent(slo.budget_left, digits=1),
            _number(slo.burn_rate_1h),
            _number(slo.burn_rate_1d),
            _exhausted_in(slo),
            f"{slo.events_needed:,}" if slo.events_needed else "",
        )
    console.show_table(table)
    partly = {(slo.slo_name, since) for slo in slos if (since := slo.counted_since) and since > slo.window_start}
    for name, since in sorted(partly):
        console.show(f"{name}: only events since {since:%Y-%m-%d} are counted; retention had removed the older ones")


def show_checks(checks: Sequence[Check]) -> None:
    """One line a check."""
    for check in checks:
        mark = "[green]ok  [/]" if check.passed else "[bold red]FAIL[/]"
        console.show_marked(f"{mark} {console.safe(check.check_name)}: {console.safe(check.detail)}")


def _percent(ratio: Decimal | None, digits: int = 3) -> str:
    return "" if ratio is None else f"{ratio * 100:.{digits}f} %"


def _exhausted_in(slo: Slo) -> str:
    if slo.budget_left is None:
        return ""
    return "never" if slo.time_to_exhaustion is None else f"{slo.time_to_exhaustion / timedelta(days=1):.1f} d"


def _number(value: Decimal | None) -> str:
    return "" if value is None else f"{value:.2f}"

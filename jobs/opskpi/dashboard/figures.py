"""Answers as figures: KPIs with their change, and what charts and tables are drawn from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

from opskpi import groups
from opskpi.dashboard import charts, formats
from opskpi.dashboard.pieces import Rows
from opskpi.dashboard.view import View

Kpi = dict[str, Any]
Figure = dict[str, Any]
Points = Mapping[datetime, Mapping[str, Any]]
PARTS = ("whole", "settled", "previous")
# A table of the groups of an objective must not make a page of megabytes.
GROUPS_SHOWN = 10
GROUPS_SHOWN_OF_CHOSEN = 100
# An objective and the name of a group of it, "" where it has none.
Promise = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Window:
    """The whole periods that a page covers, each by its start, on the clocks of the reader.

    `zone` is the one in which days begin, `clock` the one in which hours are written; `settled` periods are over.
    """

    text: str
    period: str
    zone: str
    clock: str
    starts: Sequence[datetime]
    settled: int

    def name(self, start: datetime) -> str:
        """What a period is called."""
        return formats.period_name(start, self.period, self.clock if self.period == "hour" else self.zone)

    @property
    def before(self) -> str:
        """What the periods of the window that are over are compared with."""
        return f"the {self.period} before" if self.settled == 1 else f"the {self.settled} {self.period}s before"

    @property
    def axis(self) -> charts.Axis:
        """The periods as an axis."""
        zone = self.clock if self.period == "hour" else self.zone
        return charts.Axis(
            [formats.tick_name(start, self.period, zone) for start in self.starts],
            [self.name(start) for start in self.starts],
        )


def window_of(spans: Mapping[str, Any], view: View) -> Window:
    """The window of a view from the answer of `ops.period_window`."""
    start = formats.instant(instant(spans["window_start"]), view.zone)
    end = formats.instant(instant(spans["window_end"]), view.zone) if view.range == "custom" else "now"
    starts = [instant(text) for text in spans["starts"]]
    settled = sum(start < instant(spans["settled_end"]) for start in starts)
    return Window(f"{start} to {end}", view.effective_period(), spans["zone"], view.zone, starts, settled)


def kpis(rows: Rows, window: Window) -> dict[str, Kpi]:
    """Each KPI by name: its value over the window, the change to the one before, and its values by period."""
    found: dict[str, Kpi] = {}
    for name, parts in _by_subject(rows, "metric_name").items():
        whole = parts["whole"]
        if whole is not None:
            unit = whole["unit"]
            found[name] = {
                "metric": name,
                "name": formats.name_of(name),
                "unit": unit,
                "description": whole["description"],
                "value": formats.in_unit(whole["value"], unit),
                "samples": formats.count(whole["sample_count"]),
                "change": _change(parts, "value", unit, window),
                "points": parts["points"],
                "spark": charts.sparkline(_values(parts["points"], "value", window)),
            }
    return found


def kpi_chart(names: Sequence[str], known: Mapping[str, Kpi], title: str, *, window: Window) -> Figure | None:
    """A chart of KPIs of one unit, and the table of the same numbers; None where there is nothing to draw."""
    shown = [known[name] for name in names if name in known]
    if not shown:
        return None
    unit = shown[0]["unit"]
    series = [charts.Series(kpi["name"], _values(kpi["points"], "value", window)) for kpi in shown]
    draw = charts.bars if unit == "count" else charts.lines
    return {
        "svg": draw(f"{title}, by {window.period}", window.axis, series, _written(unit)),
        "legend": [one.name for one in series],
        "head": [window.period, *(f"{one.name} (samples)" for one in series)],
        "table": [
            [window.name(start), *(_cell(kpi["points"].get(start), unit) for kpi in shown)]
            for start in reversed(window.starts)
            if any(start in kpi["points"] for kpi in shown)
        ],
    }


def activity(rows: Rows, window: Window) -> Figure | None:
    """Events by type as bars, and their totals as a table."""
    kinds: dict[str, dict[datetime, Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["event_type"], {})[instant(row["period_start"])] = row
    if not kinds:
        return None
    series = [charts.Series(kind, _values(points, "events", window)) for kind, points in sorted(kinds.items())]
    return {
        "svg": charts.bars(f"Events by type, by {window.period}", window.axis, series, formats.count),
        "legend": [one.name for one in series],
        "head": ["event type", "events", "failures"],
        "table": [
            [kind, *(formats.count(sum(row[name] for row in points.values())) for name in ("events", "failures"))]
            for kind, points in sorted(kinds.items())
        ],
    }


def teams(rows: Rows, window: Window) -> tuple[list[dict[str, Any]], Figure | None]:
    """Each team over the window, with the change of its compliance, and the trend as lines."""
    found = {name: parts for name, parts in sorted(_by_subject(rows, "team").items()) if parts["whole"] is not None}
    shown = [
        {"team": name, **parts["whole"], "change": _change(parts, "compliance_rate", "percent", window)}
        for name, parts in found.items()
    ]
    if not shown:
        return [], None
    series = [charts.Series(name, _values(parts["points"], "compliance_rate", window)) for name, parts in found.items()]
    title = f"Compliance rate by team, by {window.period}"
    return shown, {"svg": charts.lines(title, window.axis, series, _written("percent")), "legend": list(found)}


def promise_of(row: Mapping[str, Any]) -> Promise:
    """The objective and group that a row is of."""
    return row["slo_name"], groups.name_of(row["slo_group"])


def by_promise(rows: Rows, order: Iterable[Promise] = ()) -> dict[Promise, Rows]:
    """Rows by the objective and group that they are of; those in `order` come in its order, the others after them."""
    promises = {promise_of(row) for row in rows}
    found: dict[Promise, Rows] = {promise: [] for promise in order if promise in promises}
    for row in rows:
        found.setdefault(promise_of(row), []).append(row)
    return found


def worst_groups(
    status: Rows, chosen: Promise = ("", ""), most: int = GROUPS_SHOWN
) -> tuple[list[Promise], dict[str, dict[str, int]]]:
    """The promises to show, the worst first, and for each objective how many other groups of it have which status.

    `status` is in that order. Of the chosen objective more are shown, the chosen group among them.
    """
    shown: list[Promise] = []
    others: dict[str, dict[str, int]] = {}
    counts: dict[str, int] = {}
    for row in status:
        name, group = promise_of(row)
        counts[name] = counts.get(name, 0) + 1
        if counts[name] <= (GROUPS_SHOWN_OF_CHOSEN if name == chosen[0] else most) or (name, group) == chosen:
            shown.append((name, group))
        else:
            of_status = others.setdefault(name, {})
            of_status[row["status"]] = of_status.get(row["status"], 0) + 1
    return shown, others


def burndown(rows: Rows, window: Window) -> Markup | None:
    """What was left of an error budget after each day."""
    if not rows:
        return None
    starts = [instant(row["day_start"]) for row in rows]
    axis = charts.Axis(
        [formats.tick_name(start, "day", window.zone) for start in starts],
        [formats.period_name(start, "day", window.zone) for start in starts],
    )
    left = charts.Series("budget left", [_float(row["budget_left"]) for row in rows])
    return charts.lines("Error budget left, by day", axis, [left], formats.ratio, from_zero=True)


def instant(text: str) -> datetime:
    """An instant as the database writes it."""
    return datetime.fromisoformat(text)


def at(text: str | None, zone: str) -> str:
    """An instant for people; what no calendar holds is none."""
    try:
        return formats.instant(instant(text) if text else None, zone)
    except (ValueError, OverflowError):
        return formats.NOTHING


def _by_subject(rows: Rows, name: str) -> dict[str, dict[str, Any]]:
    """What rows say of each subject: by period, and over the window and its parts, None where nothing is said."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        parts = found.setdefault(row[name], {"points": {}, **dict.fromkeys(PARTS)})
        if row["part"] == "period":
            parts["points"][instant(row["period_start"])] = row
        else:
            parts[row["part"]] = row
    return found


def _change(parts: Mapping[str, Any], name: str, unit: str, window: Window) -> str:
    settled, previous = parts["settled"], parts["previous"]
    change = formats.change(settled and settled[name], previous and previous[name], unit)
    return f"{change} against {window.before}" if change else ""


def _values(points: Points, name: str, window: Window) -> list[float | None]:
    return [_float(points[start][name]) if start in points else None for start in window.starts]


def _cell(row: Mapping[str, Any] | None, unit: str) -> str:
    if row is None:
        return formats.NOTHING
    return f"{formats.in_unit(row['value'], unit)} ({formats.count(row['sample_count'])})"


def _written(unit: str) -> Callable[[float], str]:
    return lambda value: formats.in_unit(value, unit)


def _float(value: Any) -> float | None:
    return None if value is None else float(value)

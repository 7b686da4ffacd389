"""What dashboards are made of, and their JSON in Grafana's classic model, which Grafana 11 and later read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, LiteralString

Json = dict[str, Any]

PLUGIN = "grafana-postgresql-datasource"
# An import puts the uid of the chosen data source in its place; in provisioned files the variable of that name does.
INPUT = "DS_OPSKPI"
SOURCE: Json = {"type": PLUGIN, "uid": f"${{{INPUT}}}"}
SCHEMA_VERSION = 42
TAG = "opskpi"
COLUMNS = 24
STATUS_COLORS = {
    "ok": "green",
    "at_risk": "orange",
    "breached": "red",
    "insufficient": "blue",
    "no_data": "#808080",
    "fresh": "green",
    "stale": "purple",
}
# Shares of an error budget: from a quarter down an objective is at risk, below nothing it is breached.
BUDGET_STEPS = ((None, "red"), (0, "orange"), (0.25, "green"))
# What a custom "all" stands for, so that it also means all where there is nothing to choose from.
ALL = "'*'"
FIRING: LiteralString = (
    "select firing_since as time, coalesce(resolved_at, now()) as timeend,"
    " concat_ws(' ', rule_name || ':', subject, ops.group_name(slo_group)) as text,"
    " severity as tags from v_ops_alerts where org_id = nullif('$org', '')::uuid and firing_since is not null"
    " and $__timeFilter(firing_since) order by 1"
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: a query, its unit, window and samples in words, and how it looks.

    `width` counts of the 24 columns, `height` of 30 pixels. `units`, `steps` and `statuses` are of single columns.
    """

    title: str
    kind: Literal["stat", "timeseries", "table", "bargauge"]
    sql: LiteralString
    says: str
    unit: str
    window: str
    samples: str
    format: Literal["table", "time_series"] = "table"
    field_unit: str = "short"
    units: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[tuple[float | None, str]] = ((None, "text"),)
    statuses: Sequence[str] = ()
    colors: Mapping[str, str] = field(default_factory=dict)
    width: int = 12
    height: int = 8
    bars: bool = False

    def to_json(self, number: int, place: Json) -> Json:
        """The panel as Grafana has it, at a place of the grid."""
        return {
            "id": number,
            "title": self.title,
            "type": self.kind,
            "description": f"{self.says} Unit: {self.unit}. Window: {self.window}. Samples: {self.samples}.",
            "datasource": SOURCE,
            "gridPos": place,
            "fieldConfig": {"defaults": self._defaults(), "overrides": self._overrides()},
            "options": self._options(),
            "targets": [
                {
                    "refId": "A",
                    "datasource": SOURCE,
                    "editorMode": "code",
                    "format": self.format,
                    "rawQuery": True,
                    "rawSql": self.sql,
                }
            ],
        }

    def _defaults(self) -> Json:
        defaults: Json = {
            "unit": self.field_unit,
            "thresholds": {
                "mode": "absolute",
                "steps": [{"value": value, "color": color} for value, color in self.steps],
            },
            "color": {"mode": "thresholds" if self.kind != "timeseries" else "palette-classic"},
            "mappings": [],
        }
        if self.kind == "timeseries":
            defaults["custom"] = {
                "drawStyle": "bars" if self.bars else "line",
                "fillOpacity": 60 if self.bars else 8,
                "lineWidth": 1,
                "showPoints": "auto",
                # A day without a value is a gap, not a straight line.
                "spanNulls": False,
                "stacking": {"mode": "normal" if self.bars else "none", "group": "A"},
            }
        return defaults

    def _overrides(self) -> list[Json]:
        properties: dict[str, list[Json]] = {}
        for name, unit in self.units.items():
            properties.setdefault(name, []).append({"id": "unit", "value": unit})
        for name, color in self.colors.items():
            fixed = {"mode": "fixed", "fixedColor": color}
            properties.setdefault(name, []).append({"id": "color", "value": fixed})
        for name in self.statuses:
            options = {
                status: {"text": status, "color": color, "index": index}
                for index, (status, color) in enumerate(STATUS_COLORS.items())
            }
            properties.setdefault(name, []).extend(
                [
                    {"id": "mappings", "value": [{"type": "value", "options": options}]},
                    {"id": "custom.cellOptions", "value": {"type": "color-background"}},
                ]
            )
        return [{"matcher": {"id": "byName", "options": name}, "properties": said} for name, said in properties.items()]

    def _options(self) -> Json:
        # One value a row where rows are what is shown, one a column else.
        reduce = {"calcs": ["lastNotNull"], "fields": "", "values": self.kind == "bargauge"}
        return {
            "stat": {"reduceOptions": reduce, "colorMode": "value", "graphMode": "none"},
            "bargauge": {"reduceOptions": reduce, "orientation": "horizontal", "displayMode": "basic"},
            "timeseries": {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            },
            "table": {"showHeader": True, "cellHeight": "sm"},
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Query:
    """A variable whose choices a query answers; with `many`, several at once or all."""

    name: str
    label: str
    sql: LiteralString
    many: bool = True
    hidden: bool = False

    def to_json(self) -> Json:
        """The variable as Grafana has it."""
        every = {"selected": True, "text": ["All"], "value": ["$__all"]}
        return {
            "type": "query",
            "name": self.name,
            "label": self.label,
            "hide": 2 if self.hidden else 0,
            "datasource": SOURCE,
            "query": self.sql,
            "definition": self.sql,
            "refresh": 1,
            "regex": "",
            "sort": 0,
            "multi": self.many,
            "includeAll": self.many,
            "allValue": ALL if self.many else None,
            "current": every if self.many else {},
            "options": [],
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable with choices of its own, the first being chosen."""

    name: str
    label: str
    choices: Sequence[str]

    def to_json(self) -> Json:
        """The variable as Grafana has it."""
        options = [{"selected": not index, "text": text, "value": text} for index, text in enumerate(self.choices)]
        return {
            "type": "custom",
            "name": self.name,
            "label": self.label,
            "hide": 0,
            "query": ",".join(self.choices),
            "multi": False,
            "includeAll": False,
            "current": options[0],
            "options": options,
        }


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard: its panels in order, from left to right and then down."""

    uid: str
    title: str
    description: str
    variables: Sequence[Query | Choice]
    panels: Sequence[Panel]

    def to_json(self, source_uid: str, version: str) -> Json:
        """The dashboard as Grafana imports it and as it provisions it."""
        kinds = sorted({panel.kind for panel in self.panels})
        return {
            "__inputs": [
                {
                    "name": INPUT,
                    "label": "opskpi",
                    "description": "The Postgres database of opskpi.",
                    "type": "datasource",
                    "pluginId": PLUGIN,
                    "pluginName": "PostgreSQL",
                }
            ],
            "__elements": {},
            "__requires": [
                {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "11.0.0"},
                {"type": "datasource", "id": PLUGIN, "name": "PostgreSQL", "version": "1.0.0"},
                *({"type": "panel", "id": kind, "name": kind, "version": ""} for kind in kinds),
            ],
            "id": None,
            "uid": self.uid,
            "title": self.title,
            "description": f"{self.description} Written by opskpi {version}.",
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "timezone": "browser",
            "time": {"from": "now-30d", "to": "now"},
            "timepicker": {},
            "refresh": "5m",
            "links": [
                {
                    "type": "dashboards",
                    "title": TAG,
                    "tags": [TAG],
                    "asDropdown": True,
                    "keepTime": True,
                    "includeVars": True,
                    "targetBlank": False,
                }
            ],
            "annotations": {"list": [_annotation()]},
            "templating": {
                "list": [_source(source_uid), *(variable.to_json() for variable in self.variables)],
            },
            "panels": self._placed(),
        }

    def _placed(self) -> list[Json]:
        placed: list[Json] = []
        x = y = tallest = 0
        for number, panel in enumerate(self.panels, start=1):
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            placed.append(panel.to_json(number, {"x": x, "y": y, "w": panel.width, "h": panel.height}))
            x, tallest = x + panel.width, max(tallest, panel.height)
        return placed


def _source(uid: str) -> Json:
    return {
        "type": "datasource",
        "name": INPUT,
        "label": "Data source",
        "hide": 2,
        "query": PLUGIN,
        "current": {"selected": True, "text": uid, "value": uid},
        "refresh": 1,
        "regex": "",
        "multi": False,
        "includeAll": False,
        "options": [],
    }


def _annotation() -> Json:
    return {
        "name": "Alerts",
        "enable": True,
        "iconColor": "red",
        "datasource": SOURCE,
        "target": {"refId": "Alerts", "editorMode": "code", "format": "table", "rawQuery": True, "rawSql": FIRING},
    }

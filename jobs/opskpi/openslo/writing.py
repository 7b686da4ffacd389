"""From definitions to OpenSLO files."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import yaml

from opskpi.alerting.channels import registry
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.openslo.alerts import OF_SLOS
from opskpi.openslo.definitions import FIVE_MINUTES, SEVERITIES, Channel, Definitions, Rule, Slo, number_text
from opskpi.openslo.entities import API_VERSION, PREFIX
from opskpi.openslo.filters import written_filter
from opskpi.openslo.indicators import BAD, GOOD
from opskpi.openslo.places import duration_text
from opskpi.openslo.reading import read_text
from opskpi.openslo.slos import PERIODS

_DURATIONS = {period: duration for duration, period in PERIODS.items()}
_NOMINAL_DAYS = {"day": 1, "week": 7, "month": 30, "quarter": 90, "year": 365}


def write(definitions: Definitions) -> str:
    """The definitions as OpenSLO v1 YAML, always in the same order; reading it gives equal definitions.

    SLIs, policies and conditions are written where they are used. Raises OpsKpiError where OpenSLO cannot say what a
    row says (a window of seconds, a name in capitals), which is found by reading what was written.
    """
    promised = {slo.slo_name: slo for slo in definitions.slos}
    for rule in definitions.rules:
        prefix = f"{rule.slo_name}/"
        if rule.slo_name is not None and (rule.slo_name not in promised or not rule.rule_name.startswith(prefix)):
            raise _unwritable(f"the rule {rule.rule_name} of the SLO {rule.slo_name} must be called {prefix}…")
    try:
        text = yaml.dump_all(
            _objects(definitions), Dumper=_Dumper, explicit_start=True, sort_keys=False, allow_unicode=True, width=120
        )
    except ValueError as error:
        raise _unwritable(str(error)) from error
    channels = {name for rule in definitions.rules for name in rule.channels}
    try:
        again = read_text("written", text, known_channels=channels) if definitions != Definitions() else definitions
    except OpsKpiError as error:
        raise _unwritable(error.message) from error
    if again != definitions:
        raise _unwritable(", ".join(_differences(definitions, again)))
    return text


def _objects(definitions: Definitions) -> list[dict[str, Any]]:
    services = [
        _object("Service", service.service_name, service, {}, {"description": service.description})
        for service in definitions.services
    ]
    rules = definitions.rules
    return [
        *services,
        *(_channel(channel) for channel in definitions.channels),
        *(_slo(slo, [rule for rule in rules if rule.slo_name == slo.slo_name]) for slo in definitions.slos),
        *(_policy(rule, None) for rule in rules if rule.slo_name is None),
    ]


def _object(kind: str, name: str, row: Any, own: Mapping[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """An object with what is set; `own` are our annotations, without the prefix."""
    annotations = {key: text for key, text in getattr(row, "annotations", {}).items() if not _is_carried(key)}
    annotations |= {f"{PREFIX}{key}": text for key, text in own.items() if text is not None}
    metadata = {
        "name": name,
        "displayName": row.display_name,
        "labels": dict(sorted(getattr(row, "labels", {}).items())),
        "annotations": dict(sorted(annotations.items())),
    }
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": _set(metadata), "spec": _set(spec)}


def _channel(channel: Channel) -> dict[str, Any]:
    # A setting of a kind that this program does not know, or that is not one of the kind, cannot stand in a file.
    known = registry.kind_of(channel.kind).SETTINGS if channel.kind in registry.KINDS else ()
    settings = {setting.name: channel.settings.get(setting.key) for setting in known}
    own = {
        "secret-env": channel.secret_env,
        **{name: ", ".join(value) if isinstance(value, list) else value for name, value in settings.items()},
        "severities": ", ".join(channel.severities) if channel.severities != SEVERITIES else None,
        "repeat-interval": duration_text(channel.repeat_interval),
    }
    spec = {"description": channel.description, "target": channel.kind}
    return _object("AlertNotificationTarget", channel.channel_name, channel, own, spec)


def _slo(slo: Slo, rules: list[Rule]) -> dict[str, Any]:
    calendar = {
        # Any beginning of a period will do; 5 January 2026 is a Monday.
        "startTime": "2026-01-05 00:00:00" if slo.calendar_period == "week" else "2026-01-01 00:00:00",
        "timeZone": slo.time_zone,
    }
    objective = {
        "displayName": slo.annotations.get(f"{PREFIX}objective-display-name"),
        "target": slo.target,
        "timeSliceTarget": slo.slice_target,
        "timeSliceWindow": slo.time_slice and duration_text(slo.time_slice),
    }
    window = {"duration": _window_text(slo), "isRolling": slo.window_kind == "rolling"}
    spec = {
        "description": slo.description,
        "service": slo.service,
        "indicator": _indicator(slo),
        "timeWindow": [window | ({"calendar": calendar} if slo.window_kind == "calendar" else {})],
        "budgetingMethod": slo.budgeting_method.capitalize(),
        "objectives": [_set(objective)],
        "alertPolicies": [_policy(rule, slo) for rule in rules],
    }
    own = {
        "expected-every": slo.expected_interval and duration_text(slo.expected_interval),
        "min-failures": None if slo.min_failures is None else str(slo.min_failures),
        "previous-name": slo.previous_name,
        "enabled": None if slo.is_enabled is None else str(slo.is_enabled).lower(),
    }
    return _object("SLO", slo.slo_name, slo, own, spec)


def _indicator(slo: Slo) -> dict[str, Any]:
    is_bad = slo.bad_labels is not None
    count = (BAD if is_bad else GOOD)[slo.objective]
    limit = (
        (not is_bad)
        if slo.objective == "availability"
        else slo.at_most
        if slo.objective == "measured"
        else slo.threshold_ms
    )
    total = {"eventType": slo.event_type, "count": count.total, "labels": written_filter(slo.total_labels)}
    total["groupBy"] = list(slo.group_by)
    # A part of total is said whole, so that it can be read alone.
    labels = written_filter(slo.total_labels | (slo.bad_labels or slo.good_labels))
    part = {"eventType": slo.event_type, "count": count.part, "labels": labels}
    part |= {count.key: limit} if count.key else {}
    ratio = {"counter": True, "bad" if is_bad else "good": _metric(_set(part)), "total": _metric(_set(total))}
    metadata = {"name": slo.indicator_name, "displayName": slo.annotations.get(f"{PREFIX}indicator-display-name")}
    spec = {"description": slo.annotations.get(f"{PREFIX}indicator-description"), "ratioMetric": ratio}
    return {"metadata": _set(metadata), "spec": _set(spec)}


def _metric(query: dict[str, Any]) -> dict[str, Any]:
    return {"metricSource": {"type": "opskpi", "spec": query}}


def _policy(rule: Rule, slo: Slo | None) -> dict[str, Any]:
    name = rule.rule_name.removeprefix(f"{slo.slo_name}/") if slo else rule.rule_name
    spec = {
        "description": rule.description,
        "alertWhenNoData": False,
        "alertWhenResolved": rule.notify_resolved,
        "alertWhenBreaching": True,
        "conditions": [_condition(rule, name, slo)],
    }
    own = {"applies-to": "every-slo" if slo is None and rule.kind in OF_SLOS and rule.event_type is None else None}
    policy = _object("AlertPolicy", name, rule, own, spec)
    policy["spec"]["notificationTargets"] = [{"targetRef": channel} for channel in rule.channels]
    if slo:
        del policy["apiVersion"]
    return policy


def _condition(rule: Rule, name: str, slo: Slo | None) -> dict[str, Any]:
    own = {
        "kind": rule.kind if rule.kind != "burn_rate" else None,
        "short-window": rule.short_window and duration_text(rule.short_window),
        "budget-share": number_text(rule.budget_share) if rule.budget_share is not None else None,
        "metric": rule.metric_name,
        "event-type": rule.event_type,
    }
    carried = {key: rule.annotations.get(f"{PREFIX}condition-{key}") for key in ("name", "display-name", "description")}
    metadata = {
        "name": carried["name"] or name,
        "displayName": carried["display-name"],
        "annotations": {f"{PREFIX}{key}": text for key, text in sorted(own.items()) if text is not None},
    }
    spec = {
        "description": carried["description"],
        "severity": rule.severity,
        "condition": {"kind": "burnrate", **_firing(rule, slo), "alertAfter": duration_text(rule.alert_after)},
    }
    return {"kind": "AlertCondition", "metadata": _set(metadata), "spec": _set(spec)}


def _firing(rule: Rule, slo: Slo | None) -> dict[str, Any]:
    """The op, threshold and lookbackWindow that say when a rule of its kind fires."""
    if rule.kind == "burn_rate":
        window = rule.long_window or timedelta()
        return {"op": "gt", "threshold": _factor(rule, slo), "lookbackWindow": duration_text(window)}
    if rule.kind == "budget_exhausted":
        return {"op": "gt", "threshold": Decimal(1), "lookbackWindow": _window_text(slo) if slo else "30d"}
    if rule.kind == "kpi_threshold":
        lasting = duration_text(rule.lasting or timedelta())
        return {"op": rule.comparison, "threshold": rule.threshold, "lookbackWindow": lasting}
    silent_for = {"lookbackWindow": duration_text(rule.silent_for)} if rule.silent_for else {}
    return {"op": "lte", "threshold": Decimal(0), **silent_for}


def _factor(rule: Rule, slo: Slo | None) -> Decimal | None:
    """The factor, or what the budget share amounts to; without a rolling window for one as long as it usually is."""
    if rule.budget_share is None or not rule.long_window:
        return rule.factor
    window = timedelta(days=_NOMINAL_DAYS.get(slo.calendar_period or "month", 30) if slo else 30)
    if slo and slo.rolling_window:
        window = slo.rolling_window
    return round(rule.budget_share * (window // FIVE_MINUTES) / (rule.long_window // FIVE_MINUTES), 6)


def _window_text(slo: Slo) -> str:
    if slo.calendar_period:
        return _DURATIONS[slo.calendar_period]
    return duration_text(slo.rolling_window or timedelta())


def _is_carried(key: str) -> bool:
    """It is written as part of an SLI, an objective or a condition."""
    return key.startswith((f"{PREFIX}indicator-", f"{PREFIX}objective-", f"{PREFIX}condition-"))


def _set(block: dict[str, Any]) -> dict[str, Any]:
    """The block without what is not set."""
    return {key: value for key, value in block.items() if value is not None and value not in ("", {}, [])}


def _differences(wanted: Definitions, read: Definitions) -> list[str]:
    """The names of the rows that came back different."""
    names: list[str] = []
    for kind, name in (("services", "service"), ("slos", "slo"), ("rules", "rule"), ("channels", "channel")):
        rows, back = getattr(wanted, kind), getattr(read, kind)
        names += [f"{name} {getattr(row, f'{name}_name')}" for row in rows if row not in back]
    return names


def _unwritable(what: str) -> OpsKpiError:
    return OpsKpiError(f"OpenSLO cannot say this: {what}", "Change the row to what a file can say.", ExitCode.FAILED)


class _Dumper(yaml.SafeDumper):
    """Writes each value out, lists indented and numbers as they are."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - always
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - always indented
        super().increase_indent(flow, False)


def _represent_number(dumper: _Dumper, number: Decimal) -> yaml.ScalarNode:
    text = number_text(number)
    return dumper.represent_scalar(f"tag:yaml.org,2002:{'float' if '.' in text else 'int'}", text)


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(Decimal, _represent_number)
_Dumper.add_representer(str, _represent_text)

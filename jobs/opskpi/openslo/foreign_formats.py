"""Files of other SLO tools, told by their keys, and how the first objective of such a file is said as OpenSLO v1.

The forms are those of Sloth's `prometheus/v1` and its PrometheusServiceLevel, Pyrra's `pyrra.dev/v1alpha1`,
slo-generator's `sre.google.com/v2` and the form before it, and Nobl9's `n9/v1alpha`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal

import yaml

from opskpi.openslo.definitions import number_text
from opskpi.openslo.places import Place

_BUCKET = re.compile(r"""\ble\s*=\s*["']([0-9]{1,6}(?:\.[0-9]{1,6})?)["']""")
_WINDOW = re.compile(r"[1-9][0-9]{0,2}d|[1-9][0-9]?w")
_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?")
_DEFAULT_TARGET = Decimal("0.999")


@dataclass(frozen=True, slots=True)
class _Objective:
    """The first objective of a file; what the file does not say is None."""

    name: str | None
    service: str | None
    target: Decimal | None
    window: str | None
    count: int = 1


@dataclass(frozen=True, slots=True)
class _Format:
    """A tool's form of files: what a message calls it, whether a file has it, and its first objective."""

    what: str
    fits: Callable[[yaml.Node], bool]
    objective: Callable[[yaml.Node], _Objective]


def recognised(place: Place) -> str | None:
    """The sentence about an object of another tool, with the same objective as OpenSLO in two lines; else None."""
    for form in _FORMATS:
        if form.fits(place.node):
            objective = form.objective(place.node)
            more = f" (and {objective.count - 1} more alike)" if objective.count > 1 else ""
            return (
                f"this is {form.what}, which queries another system, while an SLI here counts stored events; write"
                f" {_name(objective.name)}{more} as the following, with your event type in place of workflow_run:\n"
                + _as_openslo(objective, _bucket_ms(place.node))
            )
    return None


def _as_openslo(objective: _Objective, faster_than_ms: Decimal | None) -> str:
    """The objective as a YAML object of two lines; a bucket of a histogram makes it one of latency."""
    name, service = _name(objective.name), _name(objective.service)
    target = round(objective.target or _DEFAULT_TARGET, 6)
    target = target if 0 < target < 1 else _DEFAULT_TARGET
    window = objective.window if objective.window and _WINDOW.fullmatch(objective.window) else "30d"
    counts = ["count: attempts", "count: succeeded"]
    if faster_than_ms is not None:
        counts = ["count: succeeded", f"count: succeeded, fasterThanMs: {number_text(faster_than_ms)}"]
    total, good = (
        f"{{metricSource: {{type: opskpi, spec: {{eventType: workflow_run, {count}}}}}}}" for count in counts
    )
    ratio = f"{{counter: true, good: {good}, total: {total}}}"
    promise = f"budgetingMethod: Occurrences, objectives: [{{target: {number_text(target)}}}]"
    return (
        f"  {{apiVersion: openslo/v1, kind: SLO, metadata: {{name: {name}}}, spec: {{service: {service},"
        f" timeWindow: [{{duration: {window}, isRolling: true}}], {promise},\n"
        f"  indicator: {{metadata: {{name: {name}}}, spec: {{ratioMetric: {ratio}}}}}}}}}"
    )


def _name(text: str | None) -> str:
    """A name that our files take, as near to the text as possible."""
    name = re.sub(r"[^a-z0-9_]+", "-", (text or "").lower())[:60].strip("-_")
    # A name of digits, or one such as on, is a text only in quotes.
    return (
        name
        if name and yaml.SafeLoader("").resolve(yaml.ScalarNode, name, (True, False)).endswith("str")
        else (f"slo-{name}" if name else "my-slo")
    )


def _bucket_ms(node: yaml.Node) -> Decimal | None:
    """The first upper bound of a bucket that a query compares with, in seconds there."""
    for text in _texts(node):
        if (match := _BUCKET.search(text)) and Decimal(match[1]) > 0:
            return Decimal(match[1]) * 1000
    return None


def _texts(node: yaml.Node) -> Iterator[str]:
    if isinstance(node, yaml.ScalarNode):
        yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            yield from _texts(part)
    elif isinstance(node, yaml.MappingNode):
        for _, part in node.value:
            yield from _texts(part)


def _at(node: yaml.Node | None, *path: str | int) -> yaml.Node | None:
    """The value under the keys and positions; None where there is nothing such."""
    for step in path:
        if isinstance(step, int):
            items = node.value if isinstance(node, yaml.SequenceNode) else []
            node = items[step] if step < len(items) else None
        else:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            node = next((value for key, value in pairs if key.value == step), None)
    return node


def _text(node: yaml.Node | None, *path: str | int) -> str | None:
    found = _at(node, *path)
    return found.value if isinstance(found, yaml.ScalarNode) else None


def _number(text: str | None, whole: int = 1) -> Decimal | None:
    return Decimal(text) / whole if text and _NUMBER.fullmatch(text) else None


def _length(node: yaml.Node | None) -> int:
    return len(node.value) if isinstance(node, yaml.SequenceNode) else 1


def _sloth(node: yaml.Node | None) -> _Objective:
    first, count = _at(node, "slos", 0), _length(_at(node, "slos"))
    target = _number(_text(first, "objective"), 100)
    return _Objective(_text(first, "name"), _text(node, "service"), target, None, count)


def _pyrra(node: yaml.Node) -> _Objective:
    name, target = _text(node, "metadata", "name"), _number(_text(node, "spec", "target"), 100)
    return _Objective(name, name, target, _text(node, "spec", "window"))


def _slo_generator(node: yaml.Node) -> _Objective:
    name, service = _text(node, "metadata", "name"), _text(node, "metadata", "labels", "service_name")
    return _Objective(name, service, _number(_text(node, "spec", "goal")), None)


def _old_slo_generator(node: yaml.Node) -> _Objective:
    target = _number(_text(node, "slo_target") or _text(node, "goal"))
    return _Objective(_text(node, "slo_name"), _text(node, "service_name"), target, None)


def _nobl9(node: yaml.Node) -> _Objective:
    target = _number(_text(node, "spec", "objectives", 0, "target"))
    return _Objective(_text(node, "metadata", "name"), _text(node, "spec", "service"), target, None)


def _of_version(beginning: str) -> Callable[[yaml.Node], bool]:
    return lambda node: (_text(node, "apiVersion") or "").startswith(beginning)


_FORMATS = (
    _Format(
        "a file of Sloth (version prometheus/v1)",
        lambda node: (_text(node, "version") or "").startswith("prometheus/") and _at(node, "slos") is not None,
        _sloth,
    ),
    _Format(
        "a PrometheusServiceLevel of Sloth", _of_version("sloth.slok.dev/"), lambda node: _sloth(_at(node, "spec"))
    ),
    _Format("a ServiceLevelObjective of Pyrra", _of_version("pyrra.dev/"), _pyrra),
    _Format("a ServiceLevelObjective of slo-generator", _of_version("sre.google.com/"), _slo_generator),
    _Format(
        "a file of slo-generator (before version 2)",
        lambda node: _at(node, "apiVersion") is None and bool(_text(node, "slo_name") and _text(node, "service_name")),
        _old_slo_generator,
    ),
    _Format("an object of Nobl9", _of_version("n9/"), _nobl9),
)

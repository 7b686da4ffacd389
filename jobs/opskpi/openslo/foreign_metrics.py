"""Parts of OpenSLO that are not counted here: one sentence about the object instead of a fault for each of its keys."""

import yaml

from opskpi.openslo.places import Place

_COUNTED = "an SLI here counts events that are stored in the database"
_PAIR = (
    "write a ratioMetric with total {metricSource: {type: opskpi, spec: {eventType: TYPE, count: %s}}} and the same"
    " with %s as good"
)
_RATIO = _PAIR % ("attempts", "count: succeeded")
_LATENCY = _PAIR % ("succeeded", "fasterThanMs: 300000")


def is_composite(spec: Place) -> bool:
    """Whether the SLO weighs objectives that have SLIs of their own; then the whole object is refused."""
    objectives = _part(spec, "objectives")
    for objective in objectives.items() if objectives and objectives.is_list else []:
        for key in ("indicator", "indicatorRef", "compositeWeight"):
            if place := _part(objective, key):
                place.refuse_object("composite SLOs are not done; write an SLO for each SLI")
                return True
    return False


def is_foreign(spec: Place) -> bool:
    """Whether the SLI measures something that is not stored here; then the whole object is refused."""
    if threshold := _part(spec, "thresholdMetric"):
        threshold.refuse_object(f"it compares a number of another system, but {_COUNTED}; {_LATENCY}")
        return True
    ratio = _part(spec, "ratioMetric")
    if ratio is None:
        return False
    if raw := _part(ratio, "raw"):
        raw.refuse_object(f"it is a ratio that another system calculates, but {_COUNTED}; {_RATIO}")
        return True
    for key in ("good", "bad", "total"):
        metric = _part(ratio, key)
        source = metric and _part(metric, "metricSource")
        kind, reference = (source and _part(source, key) for key in ("type", "metricSourceRef"))
        if kind and kind.written and kind.written != "opskpi":
            kind.refuse_object(f"{kind.shown} is another system, but {_COUNTED}; {_RATIO}")
            return True
        if reference and not (kind and kind.written):
            reference.refuse_object(f"it names a DataSource, another system, but {_COUNTED}; {_RATIO}")
            return True
    return False


def _part(place: Place, key: str) -> Place | None:
    """The value under a key, without a fault about anything else."""
    pairs = place.node.value if isinstance(place.node, yaml.MappingNode) else []
    for name, value in pairs:
        if name.value == key:
            return place.at(key, value, name)
    return None

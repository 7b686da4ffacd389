"""SLIs as OpenSLO writes them: ratios of counted events."""

from dataclasses import dataclass
from decimal import Decimal

from opskpi.openslo.entities import Entity
from opskpi.openslo.places import Block, Place

COUNTS = {
    "error_rate": ("attempts", "succeeded"),
    "latency": ("succeeded", "succeeded"),
    "availability": ("units", "units"),
}

_EXTRA = {"error_rate": set(), "latency": {"fasterThanMs"}, "availability": {"succeeded"}}
_PAIRS = (
    "write total {count: attempts} with good {count: succeeded}, or total {count: succeeded} with good {count:"
    " succeeded, fasterThanMs: 300000}, or total {count: units} with good {count: units, succeeded: true}"
)


@dataclass(frozen=True, slots=True)
class Indicator:
    """What an SLI counts; `annotations` are its title and description as its SLO keeps them."""

    name: str
    objective: str
    event_type: str
    threshold_ms: Decimal | None
    annotations: dict[str, str]


def indicator(entity: Entity) -> Indicator | None:
    """What the SLI says, or None after adding what is wrong with it."""
    if entity.spec is None:
        return None
    before = entity.place.faults.count
    spec = entity.spec.block(
        {"description", "ratioMetric"},
        {"thresholdMetric": "it is not done: SLIs count events; write a ratioMetric with good and total"},
    )
    ratio = spec.need("ratioMetric")
    block = ratio and ratio.block(
        {"counter", "good", "total"},
        {
            "bad": "it is not done; write good and total",
            "raw": "it is not done: SLIs count events; write good and total",
            "rawType": "it is not done: SLIs count events; write good and total",
        },
    )
    counted = _counted(block) if block else None
    annotations = entity.carried("indicator", spec.description())
    if counted is None or entity.place.faults.count > before:
        return None
    return Indicator(entity.name, *counted, annotations)


def _counted(ratio: Block) -> tuple[str, str, Decimal | None] | None:
    """The objective, the event type and the threshold that good and total amount to."""
    before = ratio.place.faults.count
    counter = ratio.need("counter")
    if counter and counter.boolean() is False:
        counter.refuse("a gauge is not done; good and total count events, so write true")
    good, total = (_query(ratio.need(key)) for key in ("good", "total"))
    if good is None or total is None or ratio.place.faults.count > before:
        return None
    good_type, total_type = (query.places.get("eventType") for query in (good, total))
    good_count, total_count = (query.places.get("count") for query in (good, total))
    if not (good_type and total_type and good_count and total_count):
        return None
    if total_type.written != good_type.written:
        return good_type.refuse(f"{good_type.shown} differs from that of total, {total_type.shown}")
    for objective, counts in COUNTS.items():
        keys = {"eventType", "count"}
        if counts == (total_count.written, good_count.written) and (
            total.places.keys() == keys and good.places.keys() == keys | _EXTRA[objective]
        ):
            return objective, good_type.written, _threshold(good)
    return good.place.refuse(f"this good and total make no SLI; {_PAIRS}")


def _query(metric: Place | None) -> Block | None:
    """The spec of the metricSource of good or total."""
    source = metric and metric.block({"metricSource"}).need("metricSource")
    if not source:
        return None
    block = source.block({"type", "spec"}, {"metricSourceRef": "there are no DataSources; write type: opskpi"})
    if kind := block.need("type"):
        kind.choice(("opskpi",))
    spec = block.need("spec")
    if spec is None:
        return None
    query = spec.block({"eventType", "count", "fasterThanMs", "succeeded"})
    if event_type := query.need("eventType"):
        event_type.text(100)
    if count := query.need("count"):
        count.choice(("attempts", "succeeded", "units"))
    if (succeeded := query.get("succeeded")) and succeeded.boolean() is False:
        succeeded.refuse("good units are those that succeeded; write true")
    return query


def _threshold(good: Block) -> Decimal | None:
    place = good.get("fasterThanMs")
    threshold = place.number() if place else None
    if place and threshold is not None and threshold <= 0:
        return place.refuse(f"{place.shown} is not above 0")
    return threshold

"""SLIs as OpenSLO writes them: ratios of counted events."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal

from opskpi.openslo.definitions import Filter
from opskpi.openslo.entities import Entity
from opskpi.openslo.filters import HOW_TO_GROUP, grouped, narrowed, read_filter
from opskpi.openslo.places import Block, Place


@dataclass(frozen=True, slots=True)
class Count:
    """How total and good or bad are counted: the words after `count`, and the key that tells good or bad apart."""

    total: str
    part: str
    key: str | None = None


GOOD = {
    "error_rate": Count("attempts", "succeeded"),
    "latency": Count("succeeded", "succeeded", "fasterThanMs"),
    "availability": Count("units", "units", "succeeded"),
    "events": Count("events", "events"),
    "measured": Count("measured", "measured", "atMost"),
}
BAD = {
    "error_rate": Count("attempts", "failed"),
    "latency": Count("succeeded", "succeeded", "atLeastMs"),
    "availability": Count("units", "units", "succeeded"),
    "events": Count("events", "events"),
    "measured": Count("measured", "measured", "moreThan"),
}

_PAIRS = (
    "write total {count: attempts} with good {count: succeeded}, total {count: succeeded} with good {count: succeeded,"
    " fasterThanMs: 300000}, total {count: units} with good {count: units, succeeded: true}, total {count: measured}"
    " with good {count: measured, atMost: 1000}, or total {count: events} with good {count: events, labels: {…}};"
    " labels may narrow each"
)


@dataclass(frozen=True, slots=True)
class Indicator:
    """What an SLI counts; `annotations` are its title and description as its SLO keeps them."""

    name: str
    objective: str
    event_type: str
    threshold_ms: Decimal | None
    at_most: Decimal | None
    total_labels: Filter
    good_labels: Filter
    bad_labels: Filter | None
    group_by: tuple[str, ...]
    annotations: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Ratio:
    """The queries of total and of good or bad, each of which was sound."""

    total: Block
    part: Block
    is_bad: bool


def indicator(entity: Entity) -> Indicator | None:
    """What the SLI says, or None after adding what is wrong with it."""
    if entity.spec is None:
        return None
    before = entity.place.faults.count
    spec = entity.spec.block(
        {"description", "ratioMetric"},
        {
            "thresholdMetric": "it is not done: SLIs count events; write a ratioMetric with good and total",
            "groupBy": HOW_TO_GROUP,
        },
    )
    block = (ratio := spec.need("ratioMetric")) and ratio.block(
        {"counter", "good", "bad", "total"},
        dict.fromkeys(("raw", "rawType"), "it is not done: SLIs count events; write good and total")
        | {"groupBy": HOW_TO_GROUP},
    )
    annotations = entity.carried("indicator", spec.description())
    queries = _queries(block) if block else None
    if queries is None or entity.place.faults.count > before:
        return None
    return _counted(entity.name, queries, annotations)


def _queries(ratio: Block) -> _Ratio | None:
    before = ratio.place.faults.count
    counter = ratio.need("counter")
    if counter and counter.boolean() is False:
        counter.refuse("a gauge is not done; good and total count events, so write true")
    good, bad = ratio.get("good"), ratio.get("bad")
    if good and bad:
        return bad.refuse("good is given too; keep one of them")
    part = _query(bad or ratio.need("good"), {"atLeastMs", "moreThan"} if bad else {"fasterThanMs", "atMost"})
    total = _query(ratio.need("total"), set())
    if part is None or total is None or ratio.place.faults.count > before:
        return None
    return _Ratio(total, part, bad is not None)


def _query(metric: Place | None, limits: set[str]) -> Block | None:
    """The spec of the metricSource of good, bad or total."""
    source = metric and metric.block({"metricSource"}, {"groupBy": HOW_TO_GROUP}).need("metricSource")
    if not source:
        return None
    block = source.block(
        {"type", "spec"},
        {"metricSourceRef": "there are no DataSources; write type: opskpi", "groupBy": HOW_TO_GROUP},
    )
    if kind := block.need("type"):
        kind.choice(("opskpi",))
    spec = block.need("spec")
    if spec is None:
        return None
    query = spec.block({"eventType", "count", "labels", "groupBy"} | (limits | {"succeeded"} if limits else set()))
    if event_type := query.need("eventType"):
        event_type.text(100)
    if count := query.need("count"):
        counts = BAD if "atLeastMs" in limits else GOOD
        count.choice(sorted({each.part if limits else each.total for each in counts.values()}))
    return query


def _refuse_groups_by_what_is_good(
    total: Block, group_by: Sequence[str], telling: AbstractSet[str], objective: str
) -> None:
    if objective in {"availability", "error_rate", "latency"}:
        telling = telling | {"outcome"}
    for key in sorted(telling & {*group_by}):
        total.places["groupBy"].refuse(
            f"all of a group by {key} would be good, or all of it bad: group by a label that does not say what is good"
        )


def _counted(name: str, ratio: _Ratio, annotations: dict[str, str]) -> Indicator | None:
    part, total = ratio.part, ratio.total
    part_type, total_type = part.places["eventType"], total.places["eventType"]
    if total_type.written != part_type.written:
        return part_type.refuse(f"{part_type.shown} differs from that of total, {total_type.shown}")
    objective = _objective(ratio)
    if objective is None:
        what = "bad" if ratio.is_bad else "good"
        return part.place.refuse(f"this {what} and total make no SLI; {_PAIRS}")
    before = part.place.faults.count
    total_labels, labels = read_filter(total.get("labels")), read_filter(part.get("labels"))
    own = narrowed(labels, total_labels, part.get("labels"))
    group_by = grouped(total.get("groupBy"), part.get("groupBy"))
    limit = _limit(ratio, objective)
    _refuse_groups_by_what_is_good(total, group_by, {*own} if own else set(), objective)
    if part.place.faults.count > before or own is None:
        return None
    if objective == "availability" and own:
        return part.places["labels"].refuse(
            "a unit of work is judged among the attempts of total; write the labels of total, or none"
        )
    if objective == "events" and not own:
        return part.place.refuse(
            f"it counts all events of total; write labels that the {'bad' if ratio.is_bad else 'good'} ones have"
        )
    return Indicator(
        name=name,
        objective=objective,
        event_type=part_type.written,
        threshold_ms=limit if objective == "latency" else None,
        at_most=limit if objective == "measured" else None,
        total_labels=total_labels,
        good_labels={} if ratio.is_bad else own,
        # A bad part that is told by its count alone is the rest beside the good one.
        bad_labels=own if ratio.is_bad and own else None,
        group_by=group_by,
        annotations=annotations,
    )


def _objective(ratio: _Ratio) -> str | None:
    """The objective whose counts and keys these are."""
    part, total = ratio.part, ratio.total
    keys = part.places.keys() - {"eventType", "count", "labels", "groupBy"}
    for objective, count in (BAD if ratio.is_bad else GOOD).items():
        counts = (total.places["count"].written, part.places["count"].written)
        if counts == (count.total, count.part) and keys == ({count.key} if count.key else set()):
            return objective
    return None


def _limit(ratio: _Ratio, objective: str) -> Decimal | None:
    """The limit of a latency or value; of units what stands instead is only checked."""
    key = (BAD if ratio.is_bad else GOOD)[objective].key
    place = ratio.part.get(key) if key else None
    if place is None:
        return None
    if key == "succeeded":
        if place.boolean() is ratio.is_bad:
            place.refuse(
                "bad units are those that did not succeed; write false"
                if ratio.is_bad
                else "good units are those that succeeded; write true"
            )
        return None
    limit = place.number()
    if limit is not None and (limit < 0 or (objective == "latency" and limit == 0)):
        return place.refuse(f"{place.shown} is {'below' if objective == 'measured' else 'not above'} 0")
    return limit

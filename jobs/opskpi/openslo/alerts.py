"""Alert policies with their conditions as rules."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from opskpi.openslo.definitions import FIVE_MINUTES, SEVERITIES, Rule, Slo, number_text
from opskpi.openslo.entities import PREFIX, Entities, Entity, inline
from opskpi.openslo.places import YEAR, Block, Place

OF_SLOS = ("burn_rate", "budget_exhausted", "silent_input")

_COMPARISONS = ("gt", "gte", "lt", "lte")
_ANNOTATIONS = {
    "burn_rate": {"kind", "short-window", "budget-share"},
    "budget_exhausted": {"kind"},
    "kpi_threshold": {"kind", "metric"},
    "silent_agents": {"kind"},
    "silent_input": {"kind", "event-type"},
    "silent_jobs": {"kind"},
}
# Days of the shortest and the longest of each calendar period.
_PERIODS = {"day": (1, 1), "week": (7, 7), "month": (28, 31), "quarter": (90, 92), "year": (365, 366)}
_PER_FIVE = "counts are kept per 5 minutes"


@dataclass(frozen=True, slots=True)
class Condition:
    """When a policy fires; `columns` are those of its rules, `threshold` is what the file says and where."""

    name: str
    kind: str
    columns: dict[str, Any]
    threshold: Decimal
    place: Place
    annotations: dict[str, str]

    @property
    def is_about_slos(self) -> bool:
        """Its rules are of an SLO or of every SLO; silent_input is so unless it names a type of events."""
        return self.kind in OF_SLOS and not self.columns.get("event_type")

    @property
    def what(self) -> str:
        """What a message calls it."""
        return f"a condition of kind {self.kind}{' with an event-type' if self.columns.get('event_type') else ''}"


@dataclass(frozen=True, slots=True)
class Policy:
    """What an AlertPolicy says; each SLO that lists it makes a rule of it."""

    entity: Entity
    condition: Condition
    every_slo: bool
    columns: dict[str, Any]

    def rule(self, slo_name: str | None = None) -> Rule:
        """The rule that it is for an SLO, or for none in particular."""
        name = self.entity.name
        named = {f"{PREFIX}condition-name": self.condition.name} if self.condition.name != name else {}
        return Rule(
            rule_name=f"{slo_name}/{name}" if slo_name else name,
            kind=self.condition.kind,
            slo_name=slo_name,
            display_name=self.entity.display_name,
            labels=self.entity.labels,
            annotations=self.entity.annotations | self.condition.annotations | named,
            **self.condition.columns,
            **self.columns,
        )


def condition(entity: Entity) -> Condition | None:
    """What the condition says, or None after adding what is wrong with it."""
    if entity.spec is None:
        return None
    before = entity.place.faults.count
    spec = entity.spec.block({"description", "severity", "condition"})
    severity, written = spec.need("severity"), spec.need("condition")
    annotations = entity.carried("condition", spec.description())
    named = entity.own.get("kind")
    kind = named.choice(tuple(_ANNOTATIONS)) if named else "burn_rate"
    word = severity.choice(SEVERITIES) if severity else None
    if kind is None or written is None:
        return None
    entity.allow_only(_ANNOTATIONS[kind], f"a condition of kind {kind}")
    block = written.block({"kind", "op", "threshold", "lookbackWindow", "alertAfter"})
    if only := block.get("kind"):
        only.choice(("burnrate",))
    place = block.need("threshold")
    threshold = place.number() if place else None
    columns = _columns(kind, entity, block, threshold)
    if place is None or threshold is None or entity.place.faults.count > before:
        return None
    return Condition(entity.name, kind, {"severity": word, **columns}, threshold, place, annotations)


def _columns(kind: str, entity: Entity, block: Block, threshold: Decimal | None) -> dict[str, Any]:
    """The columns that the kind has; None where the file says something wrong."""
    op, after = block.need("op"), block.get("alertAfter")
    month = timedelta(days=30)
    columns: dict[str, Any] = {"alert_after": after.span(zero=True, most=month) if after else timedelta()}
    event_type = entity.own.get("event-type")
    may_be_default = kind == "silent_jobs" or (kind == "silent_input" and event_type is None)
    lookback = block.get("lookbackWindow") if may_be_default else block.need("lookbackWindow")
    if kind in {"burn_rate", "budget_exhausted"}:
        _only(op, "gt", "it fires when the threshold is exceeded")
        if kind == "burn_rate":
            return columns | _burn_rate(entity, block, threshold)
        if lookback:
            lookback.duration()
        _only_threshold(block, threshold, 1, "the whole budget is consumed")
        return columns
    if kind == "kpi_threshold":
        metric = entity.own.get("metric")
        if metric is None:
            entity.place.refuse(f"a condition of kind {kind} needs the annotation {PREFIX}metric, the name of a KPI")
        hour, why = timedelta(hours=1), "KPIs are kept per hour"
        return columns | {
            "metric_name": metric and metric.text(100),
            "comparison": op and op.choice(_COMPARISONS),
            "threshold": threshold,
            "lasting": lookback and lookback.span(multiple_of=hour, most=month, why=why),
        }
    _only(op, "lte", "silence is a count of at most 0")
    _only_threshold(block, threshold, 0, "silence is a count of 0")
    silent_for = lookback and lookback.span(most=YEAR)
    return columns | {"silent_for": silent_for, "event_type": event_type and event_type.text(100)}


def _burn_rate(entity: Entity, block: Block, threshold: Decimal | None) -> dict[str, Any]:
    lookback, share, short = block.get("lookbackWindow"), entity.own.get("budget-share"), entity.own.get("short-window")
    long_window = lookback and lookback.span(most=YEAR, multiple_of=FIVE_MINUTES, why=_PER_FIVE)
    short_window = short and short.text() and short.span(multiple_of=FIVE_MINUTES, why=_PER_FIVE)
    if short and short_window and long_window and short_window >= long_window:
        short.refuse(f"{short.shown} is not shorter than lookbackWindow")
    place = block.get("threshold")
    if place and threshold is not None and threshold <= 0:
        place.refuse(f"{place.shown} is not above 0")
    budget_share = share.number(annotated=True) if share else None
    if share and budget_share is not None and not 0 < budget_share <= 1:
        share.refuse(f"{share.shown} is not above 0 and at most 1")
    return {
        "long_window": long_window,
        "short_window": short_window,
        "budget_share": budget_share,
        "factor": None if share else threshold,
    }


def _only(op: Place | None, word: str, why: str) -> None:
    if op and op.written != word:
        op.refuse(f"{op.shown} is not done here; write {word}: {why}")


def _only_threshold(block: Block, threshold: Decimal | None, number: int, why: str) -> None:
    if (place := block.get("threshold")) and threshold is not None and threshold != number:
        place.refuse(f"{place.shown} is not done here; write {number}: {why}")


def policy(entity: Entity, entities: Entities, conditions: dict[str, Condition | None]) -> Policy | None:
    """What the policy says, or None after adding what is wrong with it; its inline targets join `entities`."""
    if entity.spec is None:
        return None
    before = entity.place.faults.count
    switches = ("alertWhenNoData", "alertWhenResolved", "alertWhenBreaching")
    spec = entity.spec.block({"description", "conditions", "notificationTargets", *switches})
    if applies := entity.own.get("applies-to"):
        applies.choice(("every-slo",))
    no_data, resolved, breaching = (place.boolean() if (place := spec.get(key)) else None for key in switches)
    if no_data:
        spec.places["alertWhenNoData"].refuse(
            f"silence has rules of its own; write false and add a policy whose condition has {PREFIX}kind: silent_input"
        )
    if breaching is False:
        spec.places["alertWhenBreaching"].refuse("a policy that does not alert is not done; write true or remove it")
    description = spec.description()
    channels = _channels(spec.get("notificationTargets"), entities)
    found = _condition(spec.need("conditions"), entities, conditions)
    if applies and found and not found.is_about_slos:
        applies.refuse(f"{found.what} is about no SLO; remove the annotation")
    if found is None or entity.place.faults.count > before:
        return None
    columns = {"channels": channels, "notify_resolved": resolved is not False, "description": description}
    return Policy(entity, found, applies is not None, columns)


def _condition(place: Place | None, entities: Entities, conditions: dict[str, Condition | None]) -> Condition | None:
    if place is None:
        return None
    items = place.items()
    if len(items) > 1:
        return items[1].refuse("there may be only one condition; write a policy for each")
    if not items:
        return place.refuse("it must have one condition") if place.is_empty or not place.written else None
    if items[0].has("conditionRef"):
        reference = items[0].block({"conditionRef"}).need("conditionRef")
        found = entities.find("AlertCondition", reference) if reference else None
        return conditions.get(found.name) if found else None
    entity = inline("AlertCondition", items[0])
    return condition(entity) if entity else None


def _channels(place: Place | None, entities: Entities) -> tuple[str, ...]:
    names: list[str] = []
    for item in place.items() if place else []:
        if item.has("targetRef"):
            reference = item.block({"targetRef"}).need("targetRef")
            name = reference.name() if reference else None
            if reference and name:
                entities.expect_target(reference)
        else:
            entity = inline("AlertNotificationTarget", item)
            name = entity.name if entity else None
            if entity:
                entities.add(entity)
        if name and name in names:
            item.refuse(f"the target {name} is listed twice")
        names += [name] if name else []
    return tuple(names)


def check_reach(slo: Slo, condition: Condition) -> None:
    """Refuse a burn rate that can mean nothing for the SLO, and one that its budget share does not amount to.

    The burn rate is at most 1 / (1 - target), and one below 1 leaves a part of the budget. A budget share amounts to
    share x SLO window / alert window (SRE Workbook, chapter 5), which must be what the file says, rounded to six digits
    after the point. Of calendar periods, which differ in length, any may be the one that it means something for.
    """
    long_window, share, place = (
        condition.columns.get("long_window"),
        condition.columns.get("budget_share"),
        condition.place,
    )
    if long_window is None:
        return
    days = (timedelta(days=count) for count in _PERIODS[slo.calendar_period or "month"])
    shortest, longest = (slo.rolling_window, slo.rolling_window) if slo.rolling_window else days
    least = most = Fraction(condition.threshold)
    if share is not None:
        least, most = (
            Fraction(share) * Fraction(window // FIVE_MINUTES, long_window // FIVE_MINUTES)
            for window in (shortest, longest)
        )
        right = round(Decimal(least.numerator) / Decimal(least.denominator), 6)
        if slo.rolling_window and right != condition.threshold:
            place.refuse(
                f"{place.shown} is not what the budget share amounts to for {slo.slo_name}; write"
                f" {number_text(right)}, which is {number_text(share)} x its window / lookbackWindow"
            )
            return
    highest = 1 / (1 - Fraction(slo.target))
    if long_window > longest:
        place.refuse(f"it can mean nothing: lookbackWindow is longer than the window of {slo.slo_name}")
    elif most < 1:
        place.refuse(
            f"it can mean nothing: {float(most):g} is below 1, and such a burn rate leaves a part of the budget of"
            f" {slo.slo_name}"
        )
    elif least >= highest:
        place.refuse(
            f"it can never fire: the burn rate of {slo.slo_name} is at most 1 / (1 - {number_text(slo.target)}) ="
            f" {float(highest):g}, which is not greater than {float(least):g}"
        )

"""SLOs as OpenSLO writes them."""

import re
import zoneinfo
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import yaml

from opskpi.openslo.definitions import FIVE_MINUTES, Slo
from opskpi.openslo.entities import PREFIX, Entities, Entity, inline
from opskpi.openslo.filters import HOW_TO_GROUP
from opskpi.openslo.indicators import Indicator, indicator
from opskpi.openslo.places import Block, Place, is_name

PERIODS = {"1d": "day", "1w": "week", "1M": "month", "1Q": "quarter", "1Y": "year"}
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]*")
_ONLY_RATIO = "it belongs to a thresholdMetric; write a ratioMetric with fasterThanMs instead"


def spec_of(entity: Entity) -> Block | None:
    """The keys of an SLO."""
    keys = {"description", "service", "indicator", "indicatorRef", "timeWindow", "budgetingMethod", "objectives"}
    return entity.spec.block(keys | {"alertPolicies"}, {"groupBy": HOW_TO_GROUP}) if entity.spec else None


def slos(entity: Entity, spec: Block, entities: Entities, indicators: dict[str, Indicator | None]) -> list[Slo]:
    """An SLO for each objective, or none after adding what is wrong; `indicators` are the SLIs with names of their own.

    The only objective is called as the SLO is. Of several each is called `<SLO>.<objective>`, after its displayName, or
    its number from 1 without one, so that a changed target is a new version of the same objective.
    """
    before = entity.place.faults.count
    service = spec.need("service")
    expected = entity.own.get("expected-every")
    sli = _indicator(spec, entities, indicators)
    window = _window(spec.need("timeWindow"))
    values: dict[str, Any] = {
        "service": service and service.name(),
        "description": spec.description(),
        "expected_interval": expected and expected.text() and expected.span(),
        "min_failures": _min_failures(entity),
        "is_enabled": _enabled(entity),
        **window,
    }
    previous_name = _previous_name(entity)
    objectives = _objectives(entity, spec.need("objectives"), spec.need("budgetingMethod"))
    if sli is None or entity.place.faults.count > before:
        return []
    return [
        Slo(
            slo_name=name,
            objective=sli.objective,
            event_type=sli.event_type,
            threshold_ms=sli.threshold_ms,
            at_most=sli.at_most,
            total_labels=sli.total_labels,
            good_labels=sli.good_labels,
            bad_labels=sli.bad_labels,
            group_by=sli.group_by,
            indicator_name=sli.name,
            display_name=entity.display_name,
            labels=entity.labels,
            annotations=entity.annotations | sli.annotations | own.pop("carried"),
            # Each of several objectives was called after the SLO as well.
            previous_name=previous_name and previous_name + name.removeprefix(entity.name),
            of_several=entity.name if len(objectives) > 1 else None,
            **values,
            **own,
        )
        for name, own in objectives.items()
    ]


def _min_failures(entity: Entity) -> int | None:
    place = entity.own.get("min-failures")
    text = place.text() if place else None
    if place is None or text is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        return place.refuse(f"{place.shown} is not a whole number from 1 to 999999")
    return int(text)


def _enabled(entity: Entity) -> bool | None:
    place = entity.own.get("enabled")
    word = place.choice(("true", "false")) if place and place.text() else None
    return None if word is None else word == "true"


def _previous_name(entity: Entity) -> str | None:
    place = entity.own.get("previous-name")
    name = place.text() if place else None
    if place and name == entity.name:
        return place.refuse(f"{place.shown} is its name now; write what it was called before, or remove it")
    return name


def _indicator(spec: Block, entities: Entities, indicators: dict[str, Indicator | None]) -> Indicator | None:
    written, reference = spec.get("indicator"), spec.get("indicatorRef")
    if written and reference:
        return reference.refuse("indicator is given too; keep one of them")
    if reference:
        found = entities.find("SLI", reference)
        return indicators.get(found.name) if found else None
    if written is None:
        return _missing(spec, "indicator", "is missing; write the SLI here, or its name as indicatorRef")
    entity = inline("SLI", written)
    return indicator(entity) if entity else None


def _window(place: Place | None) -> dict[str, Any]:
    items = _items(place, "time window")
    if not items:
        return {}
    if len(items) > 1:
        items[1].refuse("there may be only one time window")
        return {}
    item = items[0]
    block = item.block({"duration", "isRolling", "calendar"})
    duration, rolling, calendar = block.need("duration"), block.get("isRolling"), block.get("calendar")
    is_rolling = rolling.boolean() if rolling else False
    if duration is None or is_rolling is None:
        return {}
    if is_rolling:
        if calendar:
            calendar.refuse("a rolling window has no calendar; remove it or write isRolling: false")
        span = duration.span(least=timedelta(hours=1), multiple_of=FIVE_MINUTES, why="counts are kept per 5 minutes")
        return {"window_kind": "rolling", "rolling_window": span}
    if calendar is None:
        item.refuse("write isRolling: true, or a calendar with startTime and timeZone")
        return {}
    if duration.duration() and duration.written not in PERIODS:
        duration.refuse(f"{duration.shown} is no calendar window that is done; write 1d, 1w, 1M, 1Q or 1Y")
    period = PERIODS.get(duration.written)
    return {"window_kind": "calendar", "calendar_period": period, "time_zone": _calendar(calendar, period)}


def _calendar(calendar: Place, period: str | None) -> str | None:
    block = calendar.block({"startTime", "timeZone"})
    start, zone = block.need("startTime"), block.need("timeZone")
    if start and period:
        _check_start(start, period)
    name = zone.text() if zone else None
    if zone is None or name is None:
        return None
    try:
        if _ZONE.fullmatch(name):
            return zoneinfo.ZoneInfo(name).key
    except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError):
        pass
    return zone.refuse(f"{zone.shown} is no time zone; write a name such as Europe/Zurich or UTC")


def _check_start(place: Place, period: str) -> None:
    """A calendar window is a natural period, so that its start time can only be the beginning of one."""
    try:
        start = datetime.strptime(place.written.replace("T", " "), "%Y-%m-%d %H:%M:%S")
    except ValueError:
        place.refuse(f"{place.shown} is no start time; write 2026-01-01 00:00:00")
        return
    beginnings = {
        "day": True,
        "week": start.weekday() == 0,
        "month": start.day == 1,
        "quarter": start.day == 1 and start.month % 3 == 1,
        "year": start.day == 1 and start.month == 1,
    }
    if start.time() != datetime.min.time() or not beginnings[period]:
        on = {
            "week": ", a Monday",
            "month": ", the first of a month",
            "quarter": ", the first of a quarter",
            "year": ", the first of January",
        }
        place.refuse(f"{place.shown} is not the beginning of a {period}; write one at 00:00:00{on.get(period, '')}")


def _objectives(entity: Entity, objectives: Place | None, method: Place | None) -> dict[str, dict[str, Any]]:
    """The columns of each objective, by the name of its SLO."""
    methods = {"Occurrences": "occurrences", "Timeslices": "timeslices"}
    if method and method.written == "RatioTimeslices":
        method = method.refuse("RatioTimeslices is not done; write Occurrences or Timeslices")
    budgeting = methods.get(method.choice(tuple(methods)) or "") if method else None
    items = _items(objectives, "objective")
    found: dict[str, dict[str, Any]] = {}
    for number, item in enumerate(items, 1):
        block, columns = _objective(item, budgeting)
        name = f"{entity.name}.{_objective_name(block, number)}" if len(items) > 1 else entity.name
        if name in found:
            replace(item, path=f"{item.path}.displayName").refuse(
                f"another objective is called {name}; rename this one"
            )
        found[name] = columns
    return found


def _objective(item: Place, budgeting: str | None) -> tuple[Block, dict[str, Any]]:
    refused = {"op": _ONLY_RATIO, "value": _ONLY_RATIO, "groupBy": HOW_TO_GROUP}
    block = item.block({"displayName", "target", "targetPercent", "timeSliceTarget", "timeSliceWindow"}, refused)
    title = block.line_of_text("displayName")
    return block, {
        "target": _target(block),
        "budgeting_method": budgeting,
        **_slices(block, budgeting),
        "carried": {f"{PREFIX}objective-display-name": title} if title else {},
    }


def _objective_name(block: Block, number: int) -> str:
    """The displayName as a name, else the number."""
    title = block.get("displayName")
    name = re.sub("[^a-z0-9_]+", "-", title.written.lower()).strip("-_") if title else ""
    return name if is_name(name) else str(number)


def _target(block: Block) -> Decimal | None:
    ratio, percent = block.get("target"), block.get("targetPercent")
    if ratio and percent:
        return percent.refuse("target is given too; keep one of them")
    place = ratio or percent
    if place is None:
        return _missing(block, "target", "is missing; write target: 0.999 or targetPercent: 99.9")
    number = place.number()
    if number is None:
        return None
    target, whole = (number, "1") if ratio else (number / 100, "100")
    if not 0 < target < 1:
        return place.refuse(f"{place.shown} is not between 0 and {whole}, which leaves no budget or no promise")
    if target != round(target, 6):
        return place.refuse(f"{place.shown} is too precise; at most {6 if ratio else 4} digits after the point")
    return target


def _slices(block: Block, budgeting: str | None) -> dict[str, Any]:
    if budgeting != "timeslices":
        for key in ("timeSliceTarget", "timeSliceWindow"):
            if budgeting and (place := block.get(key)):
                place.refuse("only budgetingMethod Timeslices has it")
        return {}
    share, window = block.need("timeSliceTarget"), block.need("timeSliceWindow")
    target = share.number() if share else None
    if share and target is not None and not (0 < target <= 1 and target == round(target, 6)):
        share.refuse(f"{share.shown} is not above 0 and at most 1 with at most 6 digits after the point")
    if window and re.fullmatch("[1-9][0-9]{0,4}", window.written):
        # OpenSLO counts a bare number in minutes.
        node = yaml.ScalarNode("tag:yaml.org,2002:str", f"{window.written}m", window.node.start_mark)
        window = replace(window, node=node)
    most, why = timedelta(days=1), "counts are kept per 5 minutes"
    span = window.span(most=most, multiple_of=FIVE_MINUTES, why=why) if window else None
    return {"time_slice": span, "slice_target": target}


def _items(place: Place | None, what: str) -> list[Place]:
    """The values of a list that has one at least."""
    items = place.items() if place else []
    if place and not items and (place.is_empty or not place.written):
        place.refuse(f"it must have one {what}")
    return items


def _missing(block: Block, key: str, sentence: str) -> None:
    place = block.place
    if place.is_block or place.is_empty:
        replace(place, path=f"{place.path}.{key}").refuse(sentence)

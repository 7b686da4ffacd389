"""What the summary of a week says, in words without markup; what its facts leave out is left out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opskpi import texts
from opskpi.alerting import wording
from opskpi.dashboard import formats

Facts = Mapping[str, object]
STATUSES = ("breached", "at_risk", "stale", "insufficient", "no_data", "ok")
SEVERITIES = ("page", "ticket", "notice")
HOOKS = {"executions": "Executions", "block_rate": "Blocked", "override_rate": "Overridden"}
HOOK_METRICS = ("hook_executions_total", "hook_block_rate", "hook_override_rate")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a summary: what it is about, a line for each thing there is to say, and how many have none."""

    heading: str
    lines: tuple[str, ...]
    left_out: int = 0


def title(message: Facts) -> str:
    """One line: `Week 2026-W47: 1 of 9 objectives breached, 2 at risk; 3 alerts fired`."""
    week = texts.line(message.get("week"), 20) or "unknown"
    counts = _counts(_facts(message.get("objectives")).get("by_status"), STATUSES)
    total = sum(counts.values())
    notable = [(counts[status], _words(status)) for status in ("breached", "at_risk") if status in counts]
    if notable:
        (number, word), *others = notable
        standing = [
            f"{number} of {_number(total, 'objective')} {word}",
            *(f"{number} {word}" for number, word in others),
        ]
    else:
        standing = [f"none of {_number(total, 'objective')} breached or at risk"] if total else []
    return f"Week {week}: {'; '.join(filter(None, [', '.join(standing), f'{_fired(message)} fired']))}"


def parts(message: Facts, alerts: list[str]) -> list[Part]:
    """The parts of a summary in order; `alerts` are the lines of those that fired, as many as the message holds."""
    objectives, fired, hooks = (_facts(message.get(name)) for name in ("objectives", "alerts", "hooks"))
    known = [(label, fact) for name, label in HOOKS.items() if (fact := _facts(hooks.get(name)))]
    all_fired = int(wording.decimal(fired.get("fired")) or 0)
    found = (
        Part(
            f"Objectives: {_told(objectives.get('by_status'), STATUSES) or 'none'}{_stale(objectives)}",
            tuple(_objectives(objectives)),
        ),
        Part("Git hooks", tuple(_kpi(label, fact) for label, fact in known)),
        Part("KPIs", tuple(_kpis(message))),
        Part(
            ": ".join(
                filter(None, [f"{_fired(message)} fired", _told(fired.get("by_severity"), SEVERITIES)])
            ).capitalize(),
            tuple(alerts),
            max(all_fired - len(alerts), 0),
        ),
    )
    told = [part for part in found if part.lines or part.heading not in ("Git hooks", "KPIs")]
    return [Part(span, ()), *told] if (span := _span(message)) else told


def _stale(objectives: Facts) -> str:
    """How many have counts that are old; nothing where none has."""
    number = wording.decimal(objectives.get("stale")) or 0
    return f"; the counts of {int(number):,} are stale" if number else ""


def _span(message: Facts) -> str | None:
    """From when to when: `2026-11-16 00:00 UTC to 2026-11-23 00:00 UTC, compared with the week before`."""
    since, until = wording.instant(message.get("since")), wording.instant(message.get("until"))
    zone = texts.line(message.get("zone"), 60)
    elsewhere = f", a week of {zone}" if zone and zone != "UTC" else ""
    return f"{since} to {until}{elsewhere}, compared with the week before" if since and until else None


def alerts(message: Facts) -> object:
    """The alerts that fired, as they stand in the message."""
    return _facts(message.get("alerts")).get("list")


def _fired(message: Facts) -> str:
    number = wording.decimal(_facts(message.get("alerts")).get("fired")) or 0
    return _number(int(number), "alert") if number else "no alert"


def _objectives(objectives: Facts) -> Iterator[str]:
    for fact in _list(objectives.get("list")):
        name, status = texts.line(fact.get("objective"), 150), texts.line(fact.get("status"), 40)
        group = texts.line(fact.get("group"), 250)
        left, sli = wording.percent(fact.get("budget_left")), wording.exact_percent(fact.get("sli"))
        target = wording.exact_percent(fact.get("target"))
        good, total = wording.count(fact.get("good")), wording.count(fact.get("total"))
        said = [
            f"error budget left {left}" if left else None,
            f"SLI {sli}" + (f" against a target of {target}" if target else "") if sli else None,
            f"{good} good of {total}" if sli and good and total else None,
        ]
        if name:
            yield ": ".join(
                filter(
                    None,
                    [
                        _words(status or "unknown").upper(),
                        f"{name} {group}" if group else name,
                        ", ".join(filter(None, said)),
                    ],
                )
            )


def _kpis(message: Facts) -> Iterator[str]:
    for fact in _list(message.get("kpis")):
        name = texts.line(fact.get("metric"), 150)
        if name and name not in HOOK_METRICS:
            yield _kpi(formats.name_of(name), fact)


def _kpi(name: str, fact: Facts) -> str:
    """`Blocked: 25 % of 20 samples, +15 points from 10 % of 10 samples`."""
    unit = texts.line(fact.get("unit"), 20) or ""
    value, before = (_valued(fact.get(key), unit) for key in ("value", "previous"))
    # A count is its own number of samples.
    now_of, before_of = ("" if unit == "count" else _samples(fact.get(key)) for key in ("samples", "previous_samples"))
    now = f"{value}{now_of}" if value else "no sample"
    earlier = f"{before}{before_of}" if before else None
    change = wording.change(fact.get("change"), fact.get("change_unit"))
    if earlier is None:
        return f"{name}: {now}, none in the week before"
    return f"{name}: {now}, {change} from {earlier}" if change else f"{name}: {now}, {earlier} in the week before"


def _valued(value: object, unit: str) -> str | None:
    number = wording.decimal(value)
    if number is None:
        return None
    return f"{formats.in_unit(number, unit)}{' (count)' if unit == 'count' else ''}"


def _samples(value: object) -> str:
    number = wording.decimal(value)
    return "" if number is None else f" of {_number(int(number), 'sample')}"


def _counts(facts: object, known: tuple[str, ...]) -> dict[str, int]:
    """The counts that are known and not 0, in order."""
    numbers = ((name, wording.decimal(_facts(facts).get(name))) for name in known)
    return {name: int(number) for name, number in numbers if number is not None and number >= 1}


def _told(facts: object, known: tuple[str, ...]) -> str:
    return ", ".join(f"{number:,} {_words(name)}" for name, number in _counts(facts, known).items())


def _number(number: int, of_what: str) -> str:
    return f"{number:,} {of_what}{'s' * (number != 1)}"


def _facts(value: object) -> Facts:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Facts]:
    return [fact for fact in value if isinstance(fact, Mapping)] if isinstance(value, list) else []


def _words(status: str) -> str:
    return status.replace("_", " ")

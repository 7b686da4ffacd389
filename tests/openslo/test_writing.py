"""OpenSLO files as they are written: the same every time, and read again as what they were written from."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opskpi import openslo
from opskpi.errors import OpsKpiError
from opskpi.openslo import Channel, Definitions, Rule, Service, Slo
from support.openslo_texts import POLICY, SLO, TARGET, joined


def test_what_is_written_has_no_anchors_and_is_the_same_every_time(reading):
    found = reading(joined(SLO, SLO.replace("release_speed", "other_speed"), POLICY, TARGET))
    text = openslo.write(found)
    assert "&" not in text
    assert "*" not in text
    assert openslo.write(reading(text)) == text
    shuffled = Definitions(found.services, found.slos[::-1], found.rules[::-1], found.channels)
    assert openslo.write(shuffled) == text


def test_nothing_is_written_as_nothing():
    assert openslo.write(Definitions()) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rolling_window": timedelta(seconds=90)}, "0:01:30 is no whole number of minutes"),
        ({"rolling_window": timedelta(minutes=61)}, "61m is no multiple of 5m"),
        ({"slo_name": "Speed"}, "Speed is no name"),
        ({"annotations": {"opskpi.dev/secret": "a"}}, "SLO has no such annotation"),
        ({"annotations": {"opskpi.dev/indicator-mood": "a"}}, "slo speed"),
    ],
)
def test_a_row_that_no_file_can_say_is_not_written_as_something_else(change, reason):
    row = {"slo_name": "speed", "service": "a", "objective": "error_rate", "event_type": "a", "target": Decimal("0.9")}
    slo = Slo(**row | {"indicator_name": "a", "rolling_window": timedelta(days=1)} | change)
    with pytest.raises(OpsKpiError, match=reason):
        openslo.write(Definitions(slos=(slo,)))


def test_a_rule_of_an_slo_bears_its_name():
    rule = Rule("fast", "burn_rate", "page", slo_name="speed", factor=Decimal(2), long_window=timedelta(hours=1))
    with pytest.raises(OpsKpiError, match="must be called speed/"):
        openslo.write(Definitions(rules=(rule,)))


names = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,20}[a-z0-9])?", fullmatch=True)
lines = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30).filter(str.strip)
tricky = st.sampled_from(
    [
        "yes",
        "on",
        "1:30",
        "0777",
        "1e3",
        "null",
        "~",
        "- a",
        "a: b",
        "# a",
        "{",
        "'",
        '"',
        "2026-01-01",
        "=",
        "<<",
        " a ",
    ]
)


line = lines | tricky
several = st.lists(line, max_size=3).map("\n".join).filter(lambda text: not text or text.strip())
texts = st.dictionaries(names | st.sampled_from(["yes", "1", "example.com/on"]), line, max_size=2)
title = st.none() | line
spans = st.integers(1, 2000).map(lambda count: timedelta(minutes=5 * count))
ratios = st.integers(1, 999_999).map(lambda millionths: Decimal(millionths) / 1_000_000)

labels: st.SearchStrategy[dict[str, str | list[str]]] = st.dictionaries(
    names, line | st.lists(line, min_size=1, max_size=3), max_size=2
)
dotted = st.builds("{}.{}".format, names, names)


def optional(**values: st.SearchStrategy) -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries(
        {}, optional={f"opskpi.dev/{key.replace('_', '-')}": value for key, value in values.items()}
    )


filters = st.dictionaries(
    names | st.sampled_from(["yes", "workflow"]),
    st.lists(line | st.just(""), min_size=1, max_size=3).map(lambda values: tuple(sorted(set(values)))),
    max_size=2,
)


@st.composite
def labels_of(draw: st.DrawFn, objective: str) -> dict[str, Any]:
    """The labels of an objective, in the form in which they are read: what total settles stands there alone."""
    total, part = draw(filters), draw(filters)
    part = {key: values for key, values in part.items() if key not in total}
    part |= {key: values[:1] for key, values in total.items() if len(values) > 1 and draw(st.booleans())}
    if objective == "availability" or (not part and objective != "events"):
        return {"total_labels": total}
    if not part:
        part = {"result": ("a",)}
        total.pop("result", None)
    return {"total_labels": total, draw(st.sampled_from(["good_labels", "bad_labels"])): part}


@st.composite
def promises(draw: st.DrawFn, name: str) -> Slo:
    objective = draw(st.sampled_from(["error_rate", "latency", "availability", "events", "measured"]))
    calendar = draw(st.booleans())
    sliced = draw(st.booleans())
    counted = draw(labels_of(objective))
    # Nothing is grouped by what says what is good.
    telling = {"outcome", *counted.get("good_labels", {}), *counted.get("bad_labels", {})}
    group_keys = (names | st.sampled_from(["yes", "hook_type"])).filter(lambda key: key not in telling)
    carried = optional(
        indicator_display_name=line, indicator_description=several.filter(bool), objective_display_name=line
    )
    return Slo(
        slo_name=name,
        service=draw(names),
        objective=objective,
        event_type=draw(line),
        target=draw(ratios),
        indicator_name=draw(names),
        description=draw(several),
        threshold_ms=draw(st.decimals("0.001", 10**9, places=3)) if objective == "latency" else None,
        at_most=draw(st.decimals(0, 10**9, places=3)) if objective == "measured" else None,
        **counted,
        group_by=tuple(sorted(draw(st.lists(group_keys, unique=True, max_size=2)))),
        window_kind="calendar" if calendar else "rolling",
        rolling_window=None if calendar else draw(spans) + timedelta(hours=1),
        calendar_period=draw(st.sampled_from(["day", "week", "month", "quarter", "year"])) if calendar else None,
        time_zone=draw(st.sampled_from(["UTC", "Europe/Zurich", "America/New_York"])) if calendar else None,
        budgeting_method="timeslices" if sliced else "occurrences",
        time_slice=timedelta(minutes=5 * draw(st.integers(1, 288))) if sliced else None,
        slice_target=draw(ratios) if sliced else None,
        expected_interval=draw(st.none() | spans),
        display_name=draw(title),
        labels=draw(labels),
        annotations=draw(texts) | draw(carried),
    )


@st.composite
def burning(draw: st.DrawFn, slo: Slo | None) -> dict[str, Any]:
    """The columns of a burn-rate condition that means something for its SLO: at least 1, and within its reach."""
    days = {"day": 1, "week": 7, "month": 28, "quarter": 90, "year": 365}
    window = (slo and slo.rolling_window) or timedelta(days=days[(slo and slo.calendar_period) or "day"])
    long_window = min(draw(spans), window)
    short = draw(st.none() | st.integers(1, 100).map(lambda count: timedelta(minutes=5 * count)))
    columns = {
        "kind": "burn_rate",
        "long_window": long_window,
        "short_window": short if short and short < long_window else None,
    }
    highest = 1 / (1 - slo.target if slo else Decimal("0.001"))
    factor = max(Decimal(1), round(highest * draw(st.decimals("0.01", "0.99", places=2)), 4))
    steps = window // timedelta(minutes=5), long_window // timedelta(minutes=5)
    share = round(factor * steps[1] / steps[0], 6)
    if share <= 1 <= share * steps[0] / steps[1] < highest and draw(st.booleans()):
        return columns | {"budget_share": share}
    return columns | {"factor": factor}


@st.composite
def rules(draw: st.DrawFn, slo: Slo | None, name: str) -> Rule:
    silence = st.sampled_from(["silent_agents", "silent_input", "silent_jobs"])
    kind = draw(
        st.sampled_from(["burn_rate", "budget_exhausted", "silent_input"])
        if slo
        else silence | st.sampled_from(["burn_rate", "kpi_threshold"])
    )
    columns: dict = {"kind": kind}
    if kind == "burn_rate":
        columns = draw(burning(slo))
    elif kind == "kpi_threshold":
        columns |= {"metric_name": draw(line), "comparison": draw(st.sampled_from(["gt", "gte", "lt", "lte"]))}
        columns |= {
            "threshold": draw(st.decimals(-1000, 1000, places=3)),
            "lasting": timedelta(hours=draw(st.integers(1, 99))),
        }
    elif kind != "budget_exhausted":
        event_type = draw(title) if kind == "silent_input" and not slo else None
        needs_length = event_type or kind == "silent_agents"
        columns |= {"silent_for": draw(spans if needs_length else st.none() | spans), "event_type": event_type}
    columns["alert_after"] = draw(st.just(timedelta()) | spans)
    carried = optional(condition_name=names.filter(lambda condition: condition != name), condition_display_name=line)
    return Rule(
        rule_name=f"{slo.slo_name}/{name}" if slo else name,
        slo_name=slo.slo_name if slo else None,
        severity=draw(st.sampled_from(["page", "ticket", "notice"])),
        channels=tuple(draw(st.lists(names, unique=True, max_size=2))),
        notify_resolved=draw(st.booleans()),
        description=draw(several),
        display_name=draw(title),
        labels=draw(labels),
        annotations=draw(texts) | draw(carried),
        **columns,
    )


@st.composite
def channels(draw: st.DrawFn, name: str) -> Channel:
    kind = draw(st.sampled_from(["slack", "email", "webhook", "apprise"]))
    settings_of = {
        "email": {"to": ["a@example.org", "b@example.org"], "from": "c@d"},
        "webhook": {"signing_env": "KEY"},
    }
    return Channel(
        channel_name=name,
        kind=kind,
        secret_env=draw(st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True)),
        settings=settings_of.get(kind, {}),
        severities=draw(st.sampled_from([("page",), ("page", "notice"), ("page", "ticket", "notice")])),
        repeat_interval=draw(spans),
        description=draw(several),
        display_name=draw(title),
        labels=draw(labels),
        annotations=draw(texts),
    )


@st.composite
def drawn_definitions(draw: st.DrawFn) -> Definitions:
    some = st.lists(names, unique=True, max_size=2)
    slos = [draw(promises(name)) for name in draw(st.lists(names | dotted, unique=True, max_size=2))]
    of_slos = [draw(rules(slo, name)) for slo in slos for name in draw(some)]
    return Definitions(
        services=tuple(Service(name, draw(title), draw(several), draw(labels), draw(texts)) for name in draw(some)),
        slos=tuple(slos),
        rules=tuple(of_slos + [draw(rules(None, name)) for name in draw(some)]),
        channels=tuple(draw(channels(name)) for name in draw(some)),
    )


@settings(deadline=None, max_examples=15)
@given(wanted=drawn_definitions())
def test_reading_what_was_written_gives_the_same(tmp_path_factory, wanted):
    file = tmp_path_factory.mktemp("openslo") / "slo.yaml"
    file.write_text(openslo.write(wanted), encoding="utf-8", newline="")
    used = {name for rule in wanted.rules for name in rule.channels}
    assert wanted == Definitions() or openslo.read([file], known_channels=used) == wanted
    assert openslo.from_json(json.loads(json.dumps(openslo.as_json(wanted)))) == wanted

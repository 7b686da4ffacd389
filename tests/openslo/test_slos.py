"""SLOs of OpenSLO: their indicators, windows, objectives and slices, and those that we do not count."""

from decimal import Decimal

import pytest

from opskpi import openslo
from opskpi.errors import OpsKpiError
from opskpi.openslo.reading import read_text
from support.openslo_texts import (
    CALENDAR,
    EVENTS,
    GROUPED,
    POLICY,
    SLICES,
    SLO,
    TARGET,
    UNITS,
    check_refusal,
    joined,
    replaced_once,
)

# One row: a template, what is replaced in it, by what, and how each message begins after the name of the file.
# fmt: off
INDICATORS = [
    ("SLO", "ratioMetric:", "thresholdMetric: {}\n      ratioMetric:", "12: spec.indicator.spec.thresholdMetric: it compares a number of another system, but an SLI here counts events that are stored in the database; write a ratioMetric with total {metricSource: {type: opskpi, spec: {eventType: TYPE, count: succeeded}}} and the same with fasterThanMs: 300000 as good"),
    ("SLO", "counter: true", "counter: false", "13: spec.indicator.spec.ratioMetric.counter: a gauge is not done; good and total count events, so write true"),
    ("SLO", "counter: true", "counter: yes", "13: spec.indicator.spec.ratioMetric.counter: yes is neither true nor false; write one of the two"),
    ("SLO", "counter: true", "counter: true\n        bad: {}", "14: spec.indicator.spec.ratioMetric.bad: good is given too; keep one of them"),
    ("SLO", "counter: true", "counter: true\n        raw: {}\n        rawType: success", "14: spec.indicator.spec.ratioMetric.raw: it is a ratio that another system calculates, but an SLI here counts events that are stored in the database; write a ratioMetric with total {metricSource: {type: opskpi, spec: {eventType: TYPE, count: attempts}}} and the same with count: succeeded as good"),
    ("SLO", "type: opskpi", "type: Prometheus", "16: spec.indicator.spec.ratioMetric.good.metricSource.type: Prometheus is another system, but an SLI here counts events that are stored in the database; write a ratioMetric with total {metricSource: {type: opskpi, spec: {eventType: TYPE, count: attempts}}} and the same with count: succeeded as good"),
    ("SLO", "type: opskpi", "metricSourceRef: prometheus", "16: spec.indicator.spec.ratioMetric.good.metricSource.metricSourceRef: it names a DataSource, another system"),
    ("SLO", "type: opskpi", "type: opskpi\n            metricSourceRef: prometheus", "17: spec.indicator.spec.ratioMetric.good.metricSource.metricSourceRef: there are no DataSources; write type: opskpi"),
    ("SLO", "            spec: {eventType: release, count: succeeded, fasterThanMs: 300000}\n", "", "16: spec.indicator.spec.ratioMetric.good.metricSource.spec: is missing"),
    ("SLO", "fasterThanMs: 300000", "query: up", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.query: there is no such key; known are atMost, count, eventType, fasterThanMs, groupBy, labels, succeeded"),
    ("SLO", "fasterThanMs: 300000", "fasterThanMs: 0", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.fasterThanMs: 0 is not above 0"),
    ("SLO", "fasterThanMs: 300000", "fasterThanMs: .nan", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.fasterThanMs: .nan is no number; write digits such as 0.999 or 14.4"),
    ("SLO", "fasterThanMs: 300000", "fasterThanMs: 5:00", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.fasterThanMs: 5:00 is no number; write digits such as 0.999 or 14.4"),
    ("SLO", "count: succeeded, fasterThanMs: 300000", "count: succeeded", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec: this good and total make no SLI"),
    ("SLO", "count: succeeded, fasterThanMs: 300000", "count: good", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.count: good is not one of events, measured, succeeded, units"),
    ("UNITS", "bad: ", "good: ", "14: spec.indicator.spec.ratioMetric.good.metricSource.spec.succeeded: good units are those that succeeded; write true"),
    ("SLO", "fasterThanMs: 300000", "fasterThanMs: 300000, labels: {workflow: []}", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.labels.workflow: the list is empty; write a value, or leave the key out"),
    ("SLO", "fasterThanMs: 300000", "fasterThanMs: 300000, labels: {reviewed: true}", '17: spec.indicator.spec.ratioMetric.good.metricSource.spec.labels.reviewed: true is no text for every reader of YAML; quote it: "true"'),
    ("SLO", "fasterThanMs: 300000", "fasterThanMs: 300000, labels: [release]", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.labels: a list is no block of keys"),
    ("SLO", "succeeded, fasterThanMs: 300000", "events", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec: this good and total make no SLI"),
    ("EVENTS", "good: {metricSource: {type: opskpi, spec: {eventType: hook_execution, count: events, labels: {result: [allowed, overridden]}}}}", "good: {metricSource: {type: opskpi, spec: {eventType: hook_execution, count: events}}}", "14: spec.indicator.spec.ratioMetric.good.metricSource.spec: it counts all events of total; write labels that the good ones have"),
    ("EVENTS", "result: [allowed, overridden]", "hook_type: commit-msg", "14: spec.indicator.spec.ratioMetric.good.metricSource.spec.labels: hook_type is none of what total has there, so no event is counted; write values of total"),
    ("EVENTS", "count: events, labels: {result: [allowed, overridden]}", "count: measured, atMost: -1", "14: spec.indicator.spec.ratioMetric.good.metricSource.spec: this good and total make no SLI"),
    ("UNITS", "labels: {workflow: release}", "labels: {workflow: [release], team: x}", "14: spec.indicator.spec.ratioMetric.bad.metricSource.spec.labels: a unit of work is judged among the attempts of total; write the labels of total, or none"),
    ("UNITS", "succeeded: false", "succeeded: true", "14: spec.indicator.spec.ratioMetric.bad.metricSource.spec.succeeded: bad units are those that did not succeed; write false"),
    ("UNITS", "count: units, succeeded: false", "count: measured, moreThan: 5", "14: spec.indicator.spec.ratioMetric.bad.metricSource.spec: this bad and total make no SLI"),
    ("SLO", "{eventType: release, count: succeeded}", "{eventType: build, count: succeeded}", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.eventType: release differs from that of total, build"),
    ("SLO", "      name: fast-releases", "      name: fast-releases\n      labels: {team: a}", "11: spec.indicator.metadata.labels: an SLI keeps none; write it to its SLO"),
    ("SLO", "{eventType: release, count: succeeded}", "{eventType: release, count: succeeded, groupBy: [workflow, team, outcome]}", "21: spec.indicator.spec.ratioMetric.total.metricSource.spec.groupBy[2]: 3 keys are too many; write one or two"),
    ("SLO", "{eventType: release, count: succeeded}", "{eventType: release, count: succeeded, groupBy: [workflow, workflow]}", "21: spec.indicator.spec.ratioMetric.total.metricSource.spec.groupBy[1]: workflow is given twice; write each key once"),
    ("SLO", "{eventType: release, count: succeeded}", "{eventType: release, count: succeeded, groupBy: []}", "21: spec.indicator.spec.ratioMetric.total.metricSource.spec.groupBy: the list is empty; leave the key out or write an item"),
    ("SLO", "{eventType: release, count: succeeded}", "{eventType: release, count: succeeded, groupBy: [[workflow]]}", "21: spec.indicator.spec.ratioMetric.total.metricSource.spec.groupBy[0]: a list is no text"),
    ("SLO", "{eventType: release, count: succeeded}", "{eventType: release, count: succeeded, groupBy: [{key: workflow}]}", "21: spec.indicator.spec.ratioMetric.total.metricSource.spec.groupBy[0]: a block of keys is no text"),
    ("SLO", "{eventType: release, count: succeeded}", "{eventType: release, count: succeeded, groupBy: {key: workflow}}", "21: spec.indicator.spec.ratioMetric.total.metricSource.spec.groupBy: a block of keys is no list of label keys; write groupBy: [workflow]"),
    ("SLO", "{eventType: release, count: succeeded}", "{eventType: release, count: succeeded, groupBy: [on]}", '21: spec.indicator.spec.ratioMetric.total.metricSource.spec.groupBy[0]: on is no text for every reader of YAML; quote it: "on"'),
    ("SLO", "{eventType: release, count: succeeded}", "{eventType: release, count: succeeded, groupBy: }", "21: spec.indicator.spec.ratioMetric.total.metricSource.spec.groupBy: nothing is written here; leave the key out or give it a text"),
    ("SLO", "fasterThanMs: 300000", "fasterThanMs: 300000, groupBy: [workflow]", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.groupBy: total is not grouped, and this is a part of total; write groupBy at total, and the same or none here"),
    ("GROUPED", "labels: {result: [allowed, overridden]}", "labels: {result: allowed}, groupBy: [hook_type, team]", "14: spec.indicator.spec.ratioMetric.good.metricSource.spec.groupBy: total is grouped by team, and this is a part of total; write groupBy at total, and the same or none here"),
    ("SLO", "counter: true", "counter: true\n        groupBy: [workflow]", "14: spec.indicator.spec.ratioMetric.groupBy: write groupBy in the metricSource spec of total, beside its eventType, as in groupBy: [workflow]"),
    ("SLO", "      ratioMetric:", "      groupBy: [workflow]\n      ratioMetric:", "12: spec.indicator.spec.groupBy: write groupBy in the metricSource spec of total, beside its eventType, as in groupBy: [workflow]"),
    ("SLO", "  service: release", "  service: release\n  groupBy: [workflow]", "8: spec.groupBy: write groupBy in the metricSource spec of total, beside its eventType, as in groupBy: [workflow]"),
    ("SLO", "target: 0.9", "target: 0.9\n      groupBy: [workflow]", "28: spec.objectives[0].groupBy: write groupBy in the metricSource spec of total, beside its eventType, as in groupBy: [workflow]"),
    ("SLO", "type: opskpi", "type: opskpi\n            groupBy: [workflow]", "17: spec.indicator.spec.ratioMetric.good.metricSource.groupBy: write groupBy in the metricSource spec of total, beside its eventType, as in groupBy: [workflow]"),
    ("SLO", "  indicator:", "  indicatorRef: fast\n  indicator:", "8: spec.indicatorRef: indicator is given too; keep one of them"),
]

WINDOWS = [
    ("SLO", "  timeWindow:", "  timeWindows:", "6: spec.timeWindow: is missing", "23: spec.timeWindows: there is no such key"),
    ("SLO", "duration: 30d", "duration: 30x", "23: spec.timeWindow[0].duration: 30x is no duration; write 30d, 4w, 1M, 1Q or 5m"),
    ("SLO", "duration: 30d", "duration: 1:30", "23: spec.timeWindow[0].duration: 1:30 is no duration; write 30d, 4w, 1M, 1Q or 5m"),
    ("SLO", "duration: 30d", "duration: -1d", "23: spec.timeWindow[0].duration: -1d is no duration; write 30d, 4w, 1M, 1Q or 5m"),
    ("SLO", "duration: 30d", "duration: 0d", "23: spec.timeWindow[0].duration: 0d is no duration; write 30d, 4w, 1M, 1Q or 5m"),
    ("SLO", "duration: 30d", "duration: 1M", "23: spec.timeWindow[0].duration: 1M has no fixed length; say it in days, such as 30d"),
    ("SLO", "duration: 30d", "duration: 59m", "23: spec.timeWindow[0].duration: 59m is too short; at least 1h"),
    ("SLO", "duration: 30d", "duration: 61m", "23: spec.timeWindow[0].duration: 61m is no multiple of 5m: counts are kept per 5 minutes"),
    ("SLO", "duration: 30d", "duration: 3601d", "23: spec.timeWindow[0].duration: 3601d is too long; at most 3600d"),
    ("SLO", "isRolling: true", "isRolling: on", "24: spec.timeWindow[0].isRolling: on is neither true nor false; write one of the two"),
    ("SLO", "isRolling: true", 'isRolling: "true"', "24: spec.timeWindow[0].isRolling: true is a text here; write it without quotes"),
    ("SLO", "isRolling: true", "isRolling: false", "23: spec.timeWindow[0]: write isRolling: true, or a calendar with startTime and timeZone"),
    ("SLO", "isRolling: true", "isRolling: true\n      calendar: {}", "25: spec.timeWindow[0].calendar: a rolling window has no calendar; remove it or write isRolling: false"),
    ("SLO", "isRolling: true", "isRolling: true\n    - duration: 7d\n      isRolling: true", "25: spec.timeWindow[1]: there may be only one time window"),
    ("SLO", "    - duration: 30d\n      isRolling: true\n", "", "22: spec.timeWindow: it must have one time window"),
    ("SLO", "timeWindow:\n    - duration: 30d\n      isRolling: true\n", "timeWindow: 30d\n", "22: spec.timeWindow: 30d is no list; start each item with -"),
    ("CALENDAR", "duration: 1M", "duration: 2M", "23: spec.timeWindow[0].duration: 2M is no calendar window that is done; write 1d, 1w, 1M, 1Q or 1Y"),
    ("CALENDAR", "duration: 1M\n      calendar: {startTime: 2026-01-01", "duration: 1Y\n      calendar: {startTime: 2026-04-01", "24: spec.timeWindow[0].calendar.startTime: 2026-04-01 00:00:00 is not the beginning of a year; write one at 00:00:00, the first of January"),
    ("CALENDAR", "01-01 00:00:00", "01-02 00:00:00", "24: spec.timeWindow[0].calendar.startTime: 2026-01-02 00:00:00 is not the beginning of a month; write one at 00:00:00, the first of a month"),
    ("CALENDAR", "01-01 00:00:00", "01-01 12:30:00", "24: spec.timeWindow[0].calendar.startTime: 2026-01-01 12:30:00 is not the beginning of a month; write one at 00:00:00, the first of a month"),
    ("CALENDAR", "01-01 00:00:00", "01-01", "24: spec.timeWindow[0].calendar.startTime: 2026-01-01 is no start time; write 2026-01-01 00:00:00"),
    ("CALENDAR", "duration: 1M", "duration: 1w", "24: spec.timeWindow[0].calendar.startTime: 2026-01-01 00:00:00 is not the beginning of a week; write one at 00:00:00, a Monday"),
    ("CALENDAR", "duration: 1M\n      calendar: {startTime: 2026-01-01", "duration: 1Q\n      calendar: {startTime: 2026-02-01", "24: spec.timeWindow[0].calendar.startTime: 2026-02-01 00:00:00 is not the beginning of a quarter; write one at 00:00:00, the first of a quarter"),
    ("CALENDAR", "Europe/Zurich", "Europe/Zurigo", "24: spec.timeWindow[0].calendar.timeZone: Europe/Zurigo is no time zone; write a name such as Europe/Zurich or UTC"),
    ("CALENDAR", "Europe/Zurich", "../../etc/passwd", "24: spec.timeWindow[0].calendar.timeZone: ../../etc/passwd is no time zone; write a name such as Europe/Zurich or UTC"),
    ("CALENDAR", ", timeZone: Europe/Zurich", "", "24: spec.timeWindow[0].calendar.timeZone: is missing"),
]

OBJECTIVES = [
    ("SLO", "  budgetingMethod: Occurrences\n", "", "6: spec.budgetingMethod: is missing"),
    ("SLO", "Occurrences", "occurrences", "25: spec.budgetingMethod: occurrences is not one of Occurrences, Timeslices"),
    ("SLO", "Occurrences", "RatioTimeslices", "25: spec.budgetingMethod: RatioTimeslices is not done; write Occurrences or Timeslices"),
    ("SLO", "- target: 0.9", "- {target: 0.9, displayName: A B}\n    - {target: 0.99, displayName: a-b}", "28: spec.objectives[1].displayName: another objective is called release_speed.a-b; rename this one"),
    ("SLO", "- target: 0.9", "- {target: 0.9, displayName: '2'}\n    - target: 0.99", "28: spec.objectives[1].displayName: another objective is called release_speed.2; rename this one"),
    ("SLO", "- target: 0.9", "- target: 0.9\n    - target: 9", "28: spec.objectives[1].target: 9 is not between 0 and 1, which leaves no budget or no promise"),
    ("SLICES", "timeSliceWindow: 5m", "timeSliceWindow: 1m", "28: spec.objectives[0].timeSliceWindow: 1m is no multiple of 5m: counts are kept per 5 minutes"),
    ("SLO", "objectives:\n    - target: 0.9\n", "objectives: []\n", "26: spec.objectives: it must have one objective"),
    ("SLO", "- target: 0.9", "- displayName: Nine of ten", "27: spec.objectives[0].target: is missing; write target: 0.999 or targetPercent: 99.9"),
    ("SLO", "- target: 0.9", "- target: 0.9\n      targetPercent: 90", "28: spec.objectives[0].targetPercent: target is given too; keep one of them"),
    ("SLO", "- target: 0.9", "- target: 1", "27: spec.objectives[0].target: 1 is not between 0 and 1, which leaves no budget or no promise"),
    ("SLO", "- target: 0.9", "- target: 0", "27: spec.objectives[0].target: 0 is not between 0 and 1, which leaves no budget or no promise"),
    ("SLO", "- target: 0.9", "- targetPercent: 100", "27: spec.objectives[0].targetPercent: 100 is not between 0 and 100, which leaves no budget or no promise"),
    ("SLO", "- target: 0.9", "- target: 0.9999999", "27: spec.objectives[0].target: 0.9999999 is too precise; at most 6 digits after the point"),
    ("SLO", "- target: 0.9", "- targetPercent: 99.99999", "27: spec.objectives[0].targetPercent: 99.99999 is too precise; at most 4 digits after the point"),
    ("SLO", "- target: 0.9", '- target: "0.9"', "27: spec.objectives[0].target: 0.9 is a text here; write the number without quotes"),
    ("SLO", "- target: 0.9", "- target: true", "27: spec.objectives[0].target: true is no number; write digits such as 0.999 or 14.4"),
    ("SLO", "- target: 0.9", "- target: .inf", "27: spec.objectives[0].target: .inf is no number; write digits such as 0.999 or 14.4"),
    ("SLO", "- target: 0.9", "- target: 9e-1", "27: spec.objectives[0].target: 9e-1 is no number; write digits such as 0.999 or 14.4"),
    ("SLO", "- target: 0.9", "- target: 0_9", "27: spec.objectives[0].target: 0_9 is no number; write digits such as 0.999 or 14.4"),
    ("SLO", "- target: 0.9", "- target: 0.9\n      op: lte\n      value: 3", "28: spec.objectives[0].op: it belongs to a thresholdMetric; write a ratioMetric with fasterThanMs instead", "29: spec.objectives[0].value: it belongs to a thresholdMetric; write a ratioMetric with fasterThanMs instead"),
    ("SLO", "- target: 0.9", "- target: 0.9\n      compositeWeight: 1", "28: spec.objectives[0].compositeWeight: composite SLOs are not done; write an SLO for each SLI"),
    ("SLO", "- target: 0.9", "- target: 0.9\n      timeSliceWindow: 5m", "28: spec.objectives[0].timeSliceWindow: only budgetingMethod Timeslices has it"),
    ("SLICES", "timeSliceWindow: 5m", "timeSliceWindow: 7m", "28: spec.objectives[0].timeSliceWindow: 7m is no multiple of 5m: counts are kept per 5 minutes"),
    ("SLICES", "timeSliceWindow: 5m", "timeSliceWindow: 1", "28: spec.objectives[0].timeSliceWindow: 1m is no multiple of 5m: counts are kept per 5 minutes"),
    ("SLICES", "timeSliceWindow: 5m", "timeSliceWindow: 2d", "28: spec.objectives[0].timeSliceWindow: 2d is too long; at most 1d"),
    ("SLICES", "timeSliceTarget: 0.95", "timeSliceTarget: 1.1", "27: spec.objectives[0].timeSliceTarget: 1.1 is not above 0 and at most 1 with at most 6 digits after the point"),
    ("SLICES", "- timeSliceTarget: 0.95\n      ", "- ", "27: spec.objectives[0].timeSliceTarget: is missing"),
]
# fmt: on


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in INDICATORS])
def test_an_indicator_that_is_no_count_of_events_is_refused(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in WINDOWS])
def test_a_window_that_we_do_not_count_is_refused(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in OBJECTIVES])
def test_an_objective_that_promises_nothing_or_too_much_is_refused(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("target: 0.999", "0.999"),
        ("target: 0.9990", "0.999"),
        ("targetPercent: 99.9", "0.999"),
        ("target: 0.000001", "0.000001"),
        ("targetPercent: 99.9999", "0.999999"),
        ("targetPercent: 95", "0.95"),
    ],
)
def test_a_target_is_exactly_what_its_digits_say(reading, written, target):
    found = reading(replaced_once(SLO, "target: 0.9", written)[: -len("  alertPolicies:\n    - fast-burn\n")])
    assert found.slos[0].target == Decimal(target)
    assert openslo.as_json(found)["slos"][0]["target"] == target
    assert f"target: {target}\n" in openslo.write(found)


# fmt: off
PAIRS = [
    ("attempts", "good: {count: succeeded}", ("error_rate", None, None, {}, None)),
    ("attempts", "bad: {count: failed}", ("error_rate", None, None, {}, None)),
    ("attempts", "bad: {count: failed, labels: {workflow: [b, a, b]}}", ("error_rate", None, None, {}, {"workflow": ("a", "b")})),
    ("succeeded", "good: {count: succeeded, fasterThanMs: 5}", ("latency", 5, None, {}, None)),
    ("succeeded", "bad: {count: succeeded, atLeastMs: 5}", ("latency", 5, None, {}, None)),
    ("units", "good: {count: units, succeeded: true}", ("availability", None, None, {}, None)),
    ("units", "bad: {count: units, succeeded: false}", ("availability", None, None, {}, None)),
    ("events", "good: {count: events, labels: {result: allowed}}", ("events", None, None, {"result": ("allowed",)}, None)),
    ("events", "bad: {count: events, labels: {result: [blocked]}}", ("events", None, None, {}, {"result": ("blocked",)})),
    ("measured", "good: {count: measured, atMost: 0.5}", ("measured", None, Decimal("0.5"), {}, None)),
    ("measured", "bad: {count: measured, moreThan: 0}", ("measured", None, 0, {}, None)),
]
# fmt: on


@pytest.mark.parametrize(("total", "part", "counted"), PAIRS)
def test_total_with_good_or_bad_is_an_objective(reading, total, part, counted):
    key, query = part.split(": ", 1)
    metric = "{metricSource: {type: opskpi, spec: {eventType: x, %s}}}"
    lines = [str(line) for line in EVENTS.splitlines()]
    lines[13:15] = [
        f"        {key}: {metric % query.strip().removeprefix('{')[:-1]}",
        f"        total: {metric % f'count: {total}'}",
    ]
    (slo,) = reading("\n".join(lines)).slos
    assert (slo.objective, slo.threshold_ms, slo.at_most, slo.good_labels, slo.bad_labels) == counted
    assert read_text("again", openslo.write(openslo.Definitions(slos=(slo,)))).slos == (slo,)


@pytest.mark.parametrize(
    ("written", "keys"),
    [
        ("[workflow]", ("workflow",)),
        ("workflow", ("workflow",)),
        ("[workflow, team]", ("team", "workflow")),
        ("\n                - workflow", ("workflow",)),
    ],
)
def test_total_says_by_which_labels_an_objective_is_grouped_and_its_export_says_so_too(reading, written, keys):
    total = "spec:\n              eventType: release\n              count: succeeded\n              groupBy: " + written
    (slo,) = reading(
        replaced_once(joined(SLO, POLICY, TARGET), "spec: {eventType: release, count: succeeded}", total)
    ).slos
    assert slo.group_by == keys
    assert read_text("again", openslo.write(openslo.Definitions(slos=(slo,)))).slos == (slo,)


def test_good_may_repeat_the_groups_of_total(reading):
    text = GROUPED.replace("labels: {result: [allowed, overridden]}", "labels: {result: allowed}, groupBy: team")
    assert reading(text).slos[0].group_by == ("team",)


def test_labels_of_good_that_total_has_too_are_those_of_total(reading):
    (slo,) = reading(UNITS).slos
    assert (slo.total_labels, slo.good_labels, slo.bad_labels) == ({"workflow": ("release",)}, {}, None)


@pytest.mark.parametrize(
    ("duration", "start", "period"),
    [
        ("1d", "2026-03-03", "day"),
        ("1w", "2026-01-05", "week"),
        ("1M", "2020-02-01", "month"),
        ("1Q", "2026-10-01", "quarter"),
        ("1Y", "2024-01-01", "year"),
    ],
)
def test_a_calendar_window_is_a_natural_period_in_a_time_zone(reading, duration, start, period):
    found = reading(
        replaced_once(joined(CALENDAR, POLICY), "1M", duration).replace("2026-01-01", start), known_channels=["on-call"]
    )
    (slo,) = found.slos
    assert (slo.window_kind, slo.rolling_window) == ("calendar", None)
    assert (slo.calendar_period, slo.time_zone) == (period, "Europe/Zurich")


@pytest.mark.parametrize(
    ("window", "text"), [("5m", "5 minutes"), ("15", "15 minutes"), ("90m", "90 minutes"), ("1d", "1 day")]
)
def test_time_slices_are_multiples_of_five_minutes(reading, window, text):
    found = reading(joined(replaced_once(SLICES, "timeSliceWindow: 5m", f"timeSliceWindow: {window}"), POLICY, TARGET))
    row = openslo.as_json(found)["slos"][0]
    assert (row["budgeting_method"], row["time_slice"], row["slice_target"]) == ("timeslices", text, "0.95")


SEVERAL = replaced_once(
    SLO,
    "  objectives:\n    - target: 0.9\n",
    "  objectives:\n"
    "    - {displayName: Most of the time, target: 0.9}\n"
    "    - target: 0.95\n"
    "    - {displayName: '!', target: 0.99}\n",
)


def test_each_of_several_objectives_is_called_after_its_slo_and_its_title_or_number(reading):
    found = reading(joined(SEVERAL, POLICY, TARGET))
    assert [(slo.slo_name, slo.target) for slo in found.slos] == [
        ("release_speed.2", Decimal("0.95")),
        ("release_speed.3", Decimal("0.99")),
        ("release_speed.most-of-the-time", Decimal("0.9")),
    ]
    assert {(slo.service, slo.indicator_name, slo.window_kind) for slo in found.slos} == {
        ("release", "fast-releases", "rolling")
    }


def test_each_of_several_objectives_has_the_rules_of_the_policies_that_the_slo_lists(reading):
    found = reading(joined(SEVERAL, POLICY, TARGET))
    assert [(rule.rule_name, rule.slo_name) for rule in found.rules] == [
        (f"release_speed.{name}/fast-burn", f"release_speed.{name}") for name in ("2", "3", "most-of-the-time")
    ]


def test_an_alert_that_one_of_several_objectives_can_never_fire_names_that_one(faults):
    text = joined(SEVERAL, replaced_once(POLICY, "threshold: 6", "threshold: 15"))
    assert [message.partition("the burn rate of ")[2].partition(" is")[0] for message in faults(text)] == [
        "release_speed.most-of-the-time"
    ]


def test_what_was_one_of_several_objectives_is_written_and_read_under_its_name(reading):
    found = reading(joined(SEVERAL, POLICY, TARGET))
    assert reading(openslo.write(found)) == found


def test_two_slos_may_not_make_objectives_of_one_name(faults):
    other = replaced_once(SLO, "name: release_speed", 'name: "release_speed.2"')
    assert faults(joined(SEVERAL, other, POLICY)) == [
        "slo.yaml:36: metadata.name: release_speed.2 is an objective of slo.yaml:4 too; rename one of them"
    ]


@pytest.mark.parametrize(
    ("good", "total"),
    [
        ("count: succeeded", "count: attempts, groupBy: [outcome]"),
        ("count: events, labels: {workflow: release}", "count: events, groupBy: [workflow]"),
    ],
)
def test_groups_by_what_says_what_is_good_are_refused_without_a_database(good: str, total: str) -> None:
    text = f"""apiVersion: openslo/v1
kind: SLO
metadata: {{name: runs}}
spec:
  service: ci
  indicator:
    metadata: {{name: runs}}
    spec:
      ratioMetric:
        counter: true
        good: {{metricSource: {{type: opskpi, spec: {{eventType: workflow_run, {good}}}}}}}
        total: {{metricSource: {{type: opskpi, spec: {{eventType: workflow_run, {total}}}}}}}
  timeWindow: [{{duration: 30d, isRolling: true}}]
  budgetingMethod: Occurrences
  objectives: [{{target: 0.95}}]
"""
    with pytest.raises(OpsKpiError, match=r"slo\.yaml:12: .*all of a group by .* would be good, or all of it bad"):
        read_text("slo.yaml", text)

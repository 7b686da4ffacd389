"""OpenSLO files in and out, and what is said about those that are refused."""

import io
import json
import sys
import textwrap
from collections.abc import Callable, Collection
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opskpi import openslo
from opskpi.errors import ExitCode, OpsKpiError
from opskpi.openslo import Channel, Definitions, Rule, Service, Slo

SLO = """\
apiVersion: openslo/v1
kind: SLO
metadata:
  name: release_speed
spec:
  description: Nine of ten releases take less than five minutes.
  service: release
  indicator:
    metadata:
      name: fast-releases
    spec:
      ratioMetric:
        counter: true
        good:
          metricSource:
            type: opskpi
            spec: {eventType: release, count: succeeded, fasterThanMs: 300000}
        total:
          metricSource:
            type: opskpi
            spec: {eventType: release, count: succeeded}
  timeWindow:
    - duration: 30d
      isRolling: true
  budgetingMethod: Occurrences
  objectives:
    - target: 0.9
  alertPolicies:
    - fast-burn
"""
POLICY = """\
apiVersion: openslo/v1
kind: AlertPolicy
metadata:
  name: fast-burn
spec:
  conditions:
    - kind: AlertCondition
      metadata:
        name: fast-burn
        annotations:
          opskpi.dev/short-window: 5m
      spec:
        severity: page
        condition:
          kind: burnrate
          op: gt
          threshold: 6
          lookbackWindow: 6h
          alertAfter: 0m
  notificationTargets:
    - targetRef: on-call
"""
TARGET = """\
apiVersion: openslo/v1
kind: AlertNotificationTarget
metadata:
  name: on-call
  annotations:
    opskpi.dev/secret-env: SLACK_WEBHOOK_URL
spec:
  target: slack
"""
OVERRIDES = """\
apiVersion: openslo/v1
kind: AlertPolicy
metadata:
  name: overrides
spec:
  conditions:
    - metadata:
        name: overrides
        annotations:
          opskpi.dev/kind: kpi_threshold
          opskpi.dev/metric: hook_override_rate
      spec:
        severity: notice
        condition:
          op: gte
          threshold: 20.5
          lookbackWindow: 2h
"""
SILENCE = """\
apiVersion: openslo/v1
kind: AlertPolicy
metadata:
  name: silence
spec:
  conditions:
    - metadata:
        name: silence
        annotations:
          opskpi.dev/kind: silent_input
          opskpi.dev/event-type: release
      spec:
        severity: notice
        condition:
          op: lte
          threshold: 0
          lookbackWindow: 2d
"""
MAIL = """\
apiVersion: openslo/v1
kind: AlertNotificationTarget
metadata:
  name: team-mail
  annotations:
    opskpi.dev/secret-env: SMTP_URL
    opskpi.dev/to: team@example.org, boss@example.org
spec:
  target: email
"""
SLI = """\
apiVersion: openslo/v1
kind: SLI
metadata:
  name: fast-releases
spec:
  ratioMetric:
    counter: true
    good: {metricSource: {type: opskpi, spec: {eventType: release, count: units, succeeded: true}}}
    total: {metricSource: {type: opskpi, spec: {eventType: release, count: units}}}
"""
CALENDAR = SLO.replace(
    "duration: 30d\n      isRolling: true",
    "duration: 1M\n      calendar: {startTime: 2026-01-01 00:00:00, timeZone: Europe/Zurich}",
)
SLICES = SLO.replace("Occurrences", "Timeslices").replace(
    "- target", "- timeSliceTarget: 0.95\n      timeSliceWindow: 5m\n      target"
)
TEMPLATES = {
    "SLO": SLO,
    "CALENDAR": CALENDAR,
    "SLICES": SLICES,
    "POLICY": POLICY,
    "TARGET": TARGET,
    "OVERRIDES": OVERRIDES,
    "SILENCE": SILENCE,
    "MAIL": MAIL,
}
EXAMPLE = """\
apiVersion: openslo/v1
kind: Service
metadata: {name: release, displayName: Releases}
spec: {description: Builds and publishes what users install.}
---
apiVersion: openslo/v1
kind: SLI
metadata: {name: release-availability, displayName: Releases that succeeded}
spec:
  description: Of the tags that were attempted, those that succeeded in the end.
  ratioMetric:
    counter: true
    good:
      metricSource: {type: opskpi, spec: {eventType: slsa_provenance, count: units, succeeded: true}}
    total:
      metricSource: {type: opskpi, spec: {eventType: slsa_provenance, count: units}}
---
apiVersion: openslo/v1
kind: SLO
metadata:
  name: release_availability
  displayName: Releases succeed
  labels: {team: platform}
  annotations: {opskpi.dev/expected-every: 1d, example.com/dashboard: "https://grafana.example.com/d/1"}
spec:
  description: 99.9 % of releases succeed in the end.
  service: release
  indicatorRef: release-availability
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{displayName: Three nines, target: 0.999}]
  alertPolicies: [fast-burn, alertPolicyRef: spent]
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: provenance_latency}
spec:
  service: provenance_generation
  indicator:
    metadata: {name: provenance-under-5-minutes}
    spec:
      ratioMetric:
        counter: true
        good: {metricSource: {type: opskpi, spec: {eventType: slsa_provenance, count: succeeded, fasterThanMs: 300000}}}
        total: {metricSource: {type: opskpi, spec: {eventType: slsa_provenance, count: succeeded}}}
  timeWindow:
    - duration: 1M
      isRolling: false
      calendar: {startTime: 2026-01-01 00:00:00, timeZone: Europe/Zurich}
  budgetingMethod: Timeslices
  objectives: [{targetPercent: 95, timeSliceTarget: 0.9, timeSliceWindow: 1h}]
---
apiVersion: openslo/v1
kind: AlertCondition
metadata:
  name: two-percent-in-an-hour
  annotations: {opskpi.dev/short-window: 5m, opskpi.dev/budget-share: "0.02"}
spec:
  severity: page
  condition: {kind: burnrate, op: gt, threshold: 14.4, lookbackWindow: 1h, alertAfter: 0m}
---
apiVersion: openslo/v1
kind: AlertPolicy
metadata: {name: fast-burn}
spec:
  description: The budget of a month would last two days.
  alertWhenBreaching: true
  alertWhenResolved: true
  conditions: [conditionRef: two-percent-in-an-hour]
  notificationTargets: [targetRef: on-call, targetRef: team-mail]
---
apiVersion: openslo/v1
kind: AlertPolicy
metadata: {name: spent}
spec:
  conditions:
    - kind: AlertCondition
      metadata: {name: budget-spent, annotations: {opskpi.dev/kind: budget_exhausted}}
      spec:
        severity: ticket
        condition: {kind: burnrate, op: gt, threshold: 1, lookbackWindow: 30d}
  notificationTargets: []
---
apiVersion: openslo/v1
kind: AlertPolicy
metadata: {name: slow-burn, annotations: {opskpi.dev/applies-to: every-slo}}
spec:
  conditions:
    - kind: AlertCondition
      metadata: {name: slow-burn, annotations: {opskpi.dev/short-window: 6h}}
      spec: {severity: ticket, condition: {kind: burnrate, op: gt, threshold: 1, lookbackWindow: 3d, alertAfter: 5m}}
---
apiVersion: openslo/v1
kind: AlertPolicy
metadata: {name: overrides}
spec:
  conditions:
    - kind: AlertCondition
      metadata: {name: overrides, annotations: {opskpi.dev/kind: kpi_threshold, opskpi.dev/metric: hook_override_rate}}
      spec: {severity: notice, condition: {op: gt, threshold: 20, lookbackWindow: 2h}}
---
apiVersion: openslo/v1
kind: AlertPolicy
metadata: {name: no-provenance}
spec:
  alertWhenResolved: false
  conditions:
    - kind: AlertCondition
      metadata: {name: quiet, annotations: {opskpi.dev/kind: silent_input, opskpi.dev/event-type: slsa_provenance}}
      spec: {severity: notice, condition: {op: lte, threshold: 0, lookbackWindow: 2d}}
---
apiVersion: openslo/v1
kind: AlertNotificationTarget
metadata: {name: on-call, annotations: {opskpi.dev/secret-env: SLACK_WEBHOOK_URL, opskpi.dev/severities: "page, ticket"}}
spec: {target: slack}
---
apiVersion: openslo/v1
kind: AlertNotificationTarget
metadata:
  name: team-mail
  annotations:
    opskpi.dev/secret-env: SMTP_URL
    opskpi.dev/to: team@example.org, boss@example.org
    opskpi.dev/from: slo@example.org
    opskpi.dev/repeat-interval: 12h
spec: {description: The mailing list., target: email}
"""


def joined(*texts: str) -> str:
    return "---\n".join(texts)


def replaced_once(text: str, old: str, new: str) -> str:
    assert text.count(old) >= 1, old
    return text.replace(old, new, 1)


@pytest.fixture
def reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Definitions]:
    """Reads texts as slo.yaml, b.yaml, c.yaml, d.yaml in this order."""
    monkeypatch.chdir(tmp_path)

    def read(*texts: str | bytes, known_channels: Collection[str] = ()) -> Definitions:
        paths = [Path(name) for name in ("slo.yaml", "b.yaml", "c.yaml", "d.yaml")[: len(texts)]]
        for path, text in zip(paths, texts, strict=True):
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return openslo.read(paths, known_channels=known_channels)

    return read


@pytest.fixture
def faults(reading: Callable[..., Definitions]) -> Callable[..., list[str]]:
    """The messages about texts that are refused."""

    def refuse(*texts: str | bytes, known_channels: Collection[str] = ("on-call",)) -> list[str]:
        with pytest.raises(OpsKpiError) as refused:
            reading(*texts, known_channels=known_channels)
        assert refused.value.exit_code is ExitCode.BAD_ARGUMENT
        assert refused.value.hint
        return refused.value.message.splitlines()

    return refuse


def complete(name: str, text: str) -> str:
    """The text with what it needs to be whole after it, so that its own lines keep their numbers."""
    if name in {"SLO", "CALENDAR", "SLICES"}:
        return joined(text, POLICY)
    return joined(text, SLO) if name == "POLICY" else text


# One row: a template, what is replaced in it, by what, and how each message begins after the name of the file.
# fmt: off
TEXTS = [
    ("SLO", "openslo/v1", "openslo/v1alpha", "1: apiVersion: openslo/v1alpha is not read; only openslo/v1 is"),
    ("SLO", "kind: SLO", "kind: Slo", "2: kind: Slo is not one of Service, SLO, SLI, AlertPolicy, AlertCondition, AlertNotificationTarget"),
    ("SLO", "kind: SLO", "kind: DataSource", "2: kind: there are no DataSources: SLIs count stored events; use metricSource.type opskpi"),
    ("SLO", "apiVersion: openslo/v1\n", "", "1: apiVersion: is missing"),
    ("SLO", "metadata:\n  name: release_speed\n", "", "1: metadata: is missing"),
    ("SLO", "name: release_speed", "displayName: Speed", "4: metadata.name: is missing"),
    ("SLO", "release_speed", "Release-Speed", "4: metadata.name: Release-Speed is no name; use at most 63 lower case letters, digits, - and _, the first and the last a letter or digit"),
    ("SLO", "release_speed", "-speed", "4: metadata.name: -speed is no name; use at most 63 lower case letters, digits, - and _, the first and the last a letter or digit"),
    ("SLO", "release_speed", "s" * 64, "4: metadata.name: sssssssssssssssssssssssssssssssssssss... is no name; use at most 63 lower case letters, digits, - and _, the first and the last a letter or digit"),
    ("SLO", "release_speed", "on", '4: metadata.name: on is no text for every reader of YAML; quote it: "on"'),
    ("SLO", "release_speed", "1:30", '4: metadata.name: 1:30 is no text for every reader of YAML; quote it: "1:30"'),
    ("SLO", "service: release", "service: yes", '7: spec.service: yes is no text for every reader of YAML; quote it: "yes"'),
    ("SLO", "service: release", "service:", "7: spec.service: nothing is written here; leave the key out or give it a text"),
    ("SLO", "service: release", "service: [release]", "7: spec.service: a list is no text"),
    ("SLO", "service: release", "service: Zürich", "7: spec.service: Zürich is no name"),
    ("SLO", "service: release", 'service: "a\\e[31m"', "7: spec.service: it has control characters"),
    ("SLO", "kind: SLO", 'kind: "a\\e[31m"', "2: kind: a\\x1b[31m is not one of"),
    ("SLO", "  service: release\n", "", "6: spec.service: is missing"),
    ("SLO", "  service: release", "  service: release\n  service: other", "8: spec.service: this key was already given in line 7"),
    ("SLO", "  service: release", "  services: release\n  service: release", "7: spec.services: there is no such key"),
    ("SLO", "name: release_speed", "name: release_speed\n  annotations: {opskpi.dev/expected: 1h}", "5: metadata.annotations.opskpi.dev/expected: SLO has no such annotation; known are expected-every"),
    ("SLO", "name: release_speed", "name: release_speed\n  annotations: {opskpi.dev/expected-every: 1M}", "5: metadata.annotations.opskpi.dev/expected-every: 1M has no fixed length; say it in days, such as 30d"),
    ("SLO", "name: release_speed", "name: release_speed\n  annotations: {example.com/rank: 2}", '5: metadata.annotations.example.com/rank: 2 is no text for every reader of YAML; quote it: "2"'),
    ("SLO", "name: release_speed", "name: release_speed\n  labels: {team: [a, b]}", "5: metadata.labels.team: a list is no text"),
    ("SLO", "name: release_speed", "name: release_speed\n  labels: {on: a}", '5: metadata.labels.on: this key is no text for every reader of YAML; quote it: "on"'),
    ("SLO", "name: release_speed", "name: release_speed\n  labels: {a b: a}", "5: metadata.labels.a b: this is no key: write letters, digits, . _ and -, at most 63, after an optional prefix and /"),
    ("SLO", "description: Nine of ten releases take less than five minutes.", 'description: "a\\u0007"', "6: spec.description: it has control characters"),
]
INDICATORS = [
    ("SLO", "ratioMetric:", "thresholdMetric: {}\n      ratioMetric:", "12: spec.indicator.spec.thresholdMetric: it is not done: SLIs count events; write a ratioMetric with good and total"),
    ("SLO", "counter: true", "counter: false", "13: spec.indicator.spec.ratioMetric.counter: a gauge is not done; good and total count events, so write true"),
    ("SLO", "counter: true", "counter: yes", "13: spec.indicator.spec.ratioMetric.counter: yes is neither true nor false; write one of the two"),
    ("SLO", "counter: true", "counter: true\n        bad: {}", "14: spec.indicator.spec.ratioMetric.bad: it is not done; write good and total"),
    ("SLO", "counter: true", "counter: true\n        raw: {}\n        rawType: success", "14: spec.indicator.spec.ratioMetric.raw: it is not done: SLIs count events; write good and total", "15: spec.indicator.spec.ratioMetric.rawType: it is not done: SLIs count events; write good and total"),
    ("SLO", "type: opskpi", "type: Prometheus", "16: spec.indicator.spec.ratioMetric.good.metricSource.type: Prometheus is not done here; write opskpi"),
    ("SLO", "type: opskpi", "type: opskpi\n            metricSourceRef: prometheus", "17: spec.indicator.spec.ratioMetric.good.metricSource.metricSourceRef: there are no DataSources; write type: opskpi"),
    ("SLO", "            spec: {eventType: release, count: succeeded, fasterThanMs: 300000}\n", "", "16: spec.indicator.spec.ratioMetric.good.metricSource.spec: is missing"),
    ("SLO", "fasterThanMs: 300000", "query: up", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.query: there is no such key; known are count, eventType, fasterThanMs, succeeded"),
    ("SLO", "fasterThanMs: 300000", "fasterThanMs: 0", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.fasterThanMs: 0 is not above 0"),
    ("SLO", "fasterThanMs: 300000", "fasterThanMs: .nan", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.fasterThanMs: .nan is no number; write digits such as 0.999 or 14.4"),
    ("SLO", "fasterThanMs: 300000", "fasterThanMs: 5:00", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.fasterThanMs: 5:00 is no number; write digits such as 0.999 or 14.4"),
    ("SLO", "count: succeeded, fasterThanMs: 300000", "count: succeeded", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec: this good and total make no SLI"),
    ("SLO", "count: succeeded, fasterThanMs: 300000", "count: good", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.count: good is not one of attempts, succeeded, units"),
    ("SLO", "count: succeeded, fasterThanMs: 300000", "count: units, succeeded: false", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.succeeded: good units are those that succeeded; write true"),
    ("SLO", "{eventType: release, count: succeeded}", "{eventType: build, count: succeeded}", "17: spec.indicator.spec.ratioMetric.good.metricSource.spec.eventType: release differs from that of total, build"),
    ("SLO", "      name: fast-releases", "      name: fast-releases\n      labels: {team: a}", "11: spec.indicator.metadata.labels: an SLI keeps none; write it to its SLO"),
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
    ("CALENDAR", "duration: 1M", "duration: 2M", "23: spec.timeWindow[0].duration: 2M is no calendar window that is done; write 1d, 1w, 1M or 1Q"),
    ("CALENDAR", "duration: 1M", "duration: 1Y", "23: spec.timeWindow[0].duration: 1Y is no calendar window that is done; write 1d, 1w, 1M or 1Q"),
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
    ("SLO", "- target: 0.9", "- target: 0.9\n    - target: 0.99", "28: spec.objectives[1]: there may be only one objective; write an SLO for each"),
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
ALERTS = [
    ("SLO", "- fast-burn", "- slow-burn", "29: spec.alertPolicies[0]: there is no AlertPolicy called slow-burn in these files", "34: metadata.name: no SLO lists this policy; let one, or annotate opskpi.dev/applies-to: every-slo"),
    ("SLO", "- fast-burn", "- fast-burn\n    - alertPolicyRef: fast-burn", "30: spec.alertPolicies[1]: the policy fast-burn is listed twice"),
    ("SLO", "- fast-burn", "- {}", "29: spec.alertPolicies[0].metadata: is missing", "29: spec.alertPolicies[0].spec: is missing", "34: metadata.name: no SLO lists this policy; let one, or annotate opskpi.dev/applies-to: every-slo"),
    ("SLO", "- fast-burn", "- [fast-burn]", "29: spec.alertPolicies[0]: a list is no text", "34: metadata.name: no SLO lists this policy; let one, or annotate opskpi.dev/applies-to: every-slo"),
    ("POLICY", "spec:\n", "spec:\n  alertWhenNoData: true\n", "6: spec.alertWhenNoData: silence has rules of its own; write false and add a policy whose condition has opskpi.dev/kind: silent_input"),
    ("POLICY", "spec:\n", "spec:\n  alertWhenBreaching: false\n", "6: spec.alertWhenBreaching: a policy that does not alert is not done; write true or remove it"),
    ("POLICY", "spec:\n", "spec:\n  alertWhenResolved: 1\n", "6: spec.alertWhenResolved: 1 is neither true nor false; write one of the two"),
    ("POLICY", "  notificationTargets:", "    - conditionRef: other\n  notificationTargets:", "20: spec.conditions[1]: there may be only one condition; write a policy for each"),
    ("POLICY", "name: fast-burn", "name: fast-burn\n  annotations: {opskpi.dev/applies-to: every-slo}", "52: spec.alertPolicies[0]: fast-burn applies to every SLO already (opskpi.dev/applies-to); remove it from this list"),
    ("POLICY", "name: fast-burn", "name: fast-burn\n  annotations: {opskpi.dev/applies-to: some}", "5: metadata.annotations.opskpi.dev/applies-to: some is not done here; write every-slo"),
    ("POLICY", "name: fast-burn", "name: fast-burn\n  annotations: {opskpi.dev/kind: burn_rate}", "5: metadata.annotations.opskpi.dev/kind: AlertPolicy has no such annotation; known are applies-to"),
    ("POLICY", "targetRef: on-call", "targetRef: off-call", "21: spec.notificationTargets[0].targetRef: there is no AlertNotificationTarget called off-call in these files"),
    ("POLICY", "- targetRef: on-call", "- targetRef: on-call\n    - targetRef: on-call", "22: spec.notificationTargets[1]: the target on-call is listed twice"),
    ("POLICY", "severity: page", "severity: critical", "13: spec.conditions[0].spec.severity: critical is not one of page, ticket, notice"),
    ("POLICY", "        severity: page\n", "", "13: spec.conditions[0].spec.severity: is missing"),
    ("POLICY", "kind: burnrate", "kind: latency", "15: spec.conditions[0].spec.condition.kind: latency is not done here; write burnrate"),
    ("POLICY", "op: gt", "op: gte", "16: spec.conditions[0].spec.condition.op: gte is not done here; write gt: it fires when the threshold is exceeded"),
    ("POLICY", "threshold: 6", "threshold: 0", "17: spec.conditions[0].spec.condition.threshold: 0 is not above 0"),
    ("POLICY", "threshold: 6", "threshold: 10", "17: spec.conditions[0].spec.condition.threshold: it can never fire: the burn rate of release_speed is at most 1 / (1 - 0.9) = 10, which is not greater than 10"),
    ("POLICY", "threshold: 6", "threshold: 14.4", "17: spec.conditions[0].spec.condition.threshold: it can never fire: the burn rate of release_speed is at most 1 / (1 - 0.9) = 10, which is not greater than 14.4"),
    ("POLICY", "lookbackWindow: 6h", "lookbackWindow: -6h", "18: spec.conditions[0].spec.condition.lookbackWindow: -6h is no duration; write 30d, 4w, 1M, 1Q or 5m"),
    ("POLICY", "lookbackWindow: 6h", "lookbackWindow: 7m", "18: spec.conditions[0].spec.condition.lookbackWindow: 7m is no multiple of 5m: counts are kept per 5 minutes"),
    ("POLICY", "lookbackWindow: 6h", "lookbackWindow: 5m", "11: spec.conditions[0].metadata.annotations.opskpi.dev/short-window: 5m is not shorter than lookbackWindow"),
    ("POLICY", "alertAfter: 0m", "alertAfter: soon", "19: spec.conditions[0].spec.condition.alertAfter: soon is no duration; write 30d, 4w, 1M, 1Q or 5m"),
    ("POLICY", "short-window: 5m", "short-window: 7m", "11: spec.conditions[0].metadata.annotations.opskpi.dev/short-window: 7m is no multiple of 5m: counts are kept per 5 minutes"),
    ("POLICY", "short-window: 5m", "budget-share: 0.05", '11: spec.conditions[0].metadata.annotations.opskpi.dev/budget-share: 0.05 is no text for every reader of YAML; quote it: "0.05"'),
    ("POLICY", "short-window: 5m", 'budget-share: "1.05"', "11: spec.conditions[0].metadata.annotations.opskpi.dev/budget-share: 1.05 is not above 0 and at most 1"),
    ("POLICY", "short-window: 5m", 'budget-share: "0.02"', "17: spec.conditions[0].spec.condition.threshold: 6 is not what the budget share amounts to for release_speed; write 2.4, which is 0.02 x its window / lookbackWindow"),
    ("POLICY", "short-window: 5m", 'budget-share: "0.5"', "17: spec.conditions[0].spec.condition.threshold: 6 is not what the budget share amounts to for release_speed; write 60, which is 0.5 x its window / lookbackWindow"),
    ("POLICY", "short-window: 5m", "metric: failures", "11: spec.conditions[0].metadata.annotations.opskpi.dev/metric: a condition of kind burn_rate has no use for it; remove it"),
    ("POLICY", "short-window: 5m", "kind: burnrate", "11: spec.conditions[0].metadata.annotations.opskpi.dev/kind: burnrate is not one of burn_rate, budget_exhausted, kpi_threshold, silent_agents, silent_input, silent_jobs"),
    ("POLICY", "short-window: 5m", "kind: budget_exhausted", "17: spec.conditions[0].spec.condition.threshold: 6 is not done here; write 1: the whole budget is consumed"),
    ("POLICY", "short-window: 5m", "kind: silent_jobs", "16: spec.conditions[0].spec.condition.op: gt is not done here; write lte: silence is a count of at most 0", "17: spec.conditions[0].spec.condition.threshold: 6 is not done here; write 0: silence is a count of 0"),
    ("OVERRIDES", "          opskpi.dev/metric: hook_override_rate\n", "", "8: spec.conditions[0].metadata.name: a condition of kind kpi_threshold needs the annotation opskpi.dev/metric, the name of a KPI"),
    ("OVERRIDES", "op: gte", "op: eq", "15: spec.conditions[0].spec.condition.op: eq is not one of gt, gte, lt, lte"),
    ("OVERRIDES", "2h", "90m", "17: spec.conditions[0].spec.condition.lookbackWindow: 90m is no multiple of 1h: KPIs are kept per hour"),
    ("OVERRIDES", "2h", "31d", "17: spec.conditions[0].spec.condition.lookbackWindow: 31d is too long; at most 30d"),
    ("OVERRIDES", "2h", "2h\n          alertAfter: 31d", "18: spec.conditions[0].spec.condition.alertAfter: 31d is too long; at most 30d"),
    ("OVERRIDES", "name: overrides", "name: overrides\n  annotations: {opskpi.dev/applies-to: every-slo}", "5: metadata.annotations.opskpi.dev/applies-to: a condition of kind kpi_threshold is about no SLO; remove the annotation"),
    ("SILENCE", "op: lte", "op: lt", "15: spec.conditions[0].spec.condition.op: lt is not done here; write lte: silence is a count of at most 0"),
    ("SILENCE", "threshold: 0", "threshold: 1", "16: spec.conditions[0].spec.condition.threshold: 1 is not done here; write 0: silence is a count of 0"),
    ("SILENCE", "          lookbackWindow: 2d\n", "", "15: spec.conditions[0].spec.condition.lookbackWindow: is missing"),
    ("SILENCE", "2d", "361d", "17: spec.conditions[0].spec.condition.lookbackWindow: 361d is too long; at most 360d"),
    ("SILENCE", "name: silence", "name: silence\n  annotations: {opskpi.dev/applies-to: every-slo}", "5: metadata.annotations.opskpi.dev/applies-to: a condition of kind silent_input with an event-type is about no SLO; remove the annotation"),
    ("SILENCE", "          opskpi.dev/event-type: release\n", "", "4: metadata.name: no SLO lists this policy; let one, or annotate opskpi.dev/applies-to: every-slo"),
    ("SILENCE", "silent_input", "silent_jobs", "11: spec.conditions[0].metadata.annotations.opskpi.dev/event-type: a condition of kind silent_jobs has no use for it; remove it"),
]
TARGETS = [
    ("TARGET", "    opskpi.dev/secret-env: SLACK_WEBHOOK_URL\n", "    example.com/a: b\n", "4: metadata.name: it needs the annotation opskpi.dev/secret-env, the environment variable of its secret"),
    ("TARGET", "SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/T0/B0/s3cr3t", "6: metadata.annotations.opskpi.dev/secret-env: this must be the name of an environment variable, such as SLACK_WEBHOOK_URL, never the secret itself"),
    ("TARGET", "SLACK_WEBHOOK_URL", "xoxb-s3cr3t", "6: metadata.annotations.opskpi.dev/secret-env: this must be the name of an environment variable, such as SLACK_WEBHOOK_URL, never the secret itself"),
    ("TARGET", "SLACK_WEBHOOK_URL", "AKIAIOSFODNN7S3CR3T0", "6: metadata.annotations.opskpi.dev/secret-env: this must be the name of an environment variable, such as SLACK_WEBHOOK_URL, never the secret itself"),
    ("TARGET", "target: slack", "target: https://hooks.slack.com/services/T0/B0/s3cr3t", "8: spec.target: this is not one of slack, email, webhook, apprise"),
    ("TARGET", "target: slack", "target: pagerduty", "8: spec.target: this is not one of slack, email, webhook, apprise"),
    ("TARGET", "spec:\n", "    opskpi.dev/to: a@example.org\nspec:\n", "7: metadata.annotations.opskpi.dev/to: a target of kind slack has no use for it; remove it"),
    ("TARGET", "spec:\n", "    opskpi.dev/url: https://hooks.slack.com/services/s3cr3t\nspec:\n", "7: metadata.annotations.opskpi.dev/url: AlertNotificationTarget has no such annotation; known are secret-env, severities, repeat-interval, to, from, signing-env"),
    ("TARGET", "spec:\n", "    opskpi.dev/severities: page, sev1\nspec:\n", "7: metadata.annotations.opskpi.dev/severities: page, sev1 is not made of page, ticket, notice, each at most once, separated by commas"),
    ("TARGET", "spec:\n", "    opskpi.dev/repeat-interval: often\nspec:\n", "7: metadata.annotations.opskpi.dev/repeat-interval: often is no duration; write 30d, 4w, 1M, 1Q or 5m"),
    ("TARGET", "spec:\n  target: slack", "    opskpi.dev/signing-env: s3cr3t-key\nspec:\n  target: webhook", "7: metadata.annotations.opskpi.dev/signing-env: this must be the name of an environment variable, such as SLACK_WEBHOOK_URL, never the secret itself"),
    ("MAIL", "    opskpi.dev/to: team@example.org, boss@example.org\n", "", "4: metadata.name: mail needs the annotation opskpi.dev/to, addresses separated by commas"),
    ("MAIL", "team@example.org, boss", "team at example.org, boss", "7: metadata.annotations.opskpi.dev/to: this has no mail address where one belongs; write such as team@example.org, separated by commas"),
    ("MAIL", "spec:\n", "    opskpi.dev/from: nobody\nspec:\n", "8: metadata.annotations.opskpi.dev/from: this has no mail address where one belongs; write such as team@example.org, separated by commas"),
]
# fmt: on


def check_refusal(faults: Callable[..., list[str]], template: str, old: str, new: str, expected: list[str]) -> None:
    messages = faults(complete(template, replaced_once(TEMPLATES[template], old, new)))
    assert len(messages) == len(expected), messages
    for message, beginning in zip(messages, expected, strict=True):
        assert message.startswith(f"slo.yaml:{beginning}"), message
        assert "s3cr3t" not in message.lower()


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in TEXTS])
def test_a_file_with_a_wrong_head_name_or_text_is_refused_where_it_is_wrong(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in INDICATORS])
def test_an_indicator_that_is_no_count_of_events_is_refused(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in WINDOWS])
def test_a_window_that_we_do_not_count_is_refused(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in OBJECTIVES])
def test_an_objective_that_promises_nothing_or_too_much_is_refused(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in ALERTS])
def test_an_alert_that_could_not_fire_as_written_is_refused(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in TARGETS])
def test_a_target_without_a_safe_address_is_refused(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


def test_all_faults_of_all_files_come_together_in_the_order_of_the_files(faults):
    broken = replaced_once(replaced_once(SLO, "30d", "30x"), "0.9", "9")
    assert faults(joined(broken, POLICY), replaced_once(OVERRIDES, "2h", "2x"), b"\n\xff", "") == [
        "slo.yaml:23: spec.timeWindow[0].duration: 30x is no duration; write 30d, 4w, 1M, 1Q or 5m",
        "slo.yaml:27: spec.objectives[0].target: 9 is not between 0 and 1, which leaves no budget or no promise",
        "b.yaml:17: spec.conditions[0].spec.condition.lookbackWindow: 2x is no duration; write 30d, 4w, 1M, 1Q or 5m",
        "c.yaml:2: this is not UTF-8; save the file as UTF-8",
        "d.yaml:1: the file holds no OpenSLO object",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "slo.yaml:1: the file holds no OpenSLO object"),
        ("# nothing\n---\n---\n", "slo.yaml:1: the file holds no OpenSLO object"),
        ("- a\n", "slo.yaml:1: a list is no block of keys"),
        ("a: [1\nb: 2\n", "slo.yaml:2: this cannot be read as YAML: expected ',' or ']', but got ':'"),
        ("a: b\nc: \x00\n", "slo.yaml:2: this has control characters"),
        (
            "a: &a b\nc: *a\n",
            "slo.yaml:1: this cannot be read as YAML: anchors and aliases are not read; write the value out",
        ),
        (
            "a:\n  - *a\n",
            "slo.yaml:2: this cannot be read as YAML: anchors and aliases are not read; write the value out",
        ),
        (
            "a: !!python/object:os.x {}\n",
            "slo.yaml:1: this cannot be read as YAML: tags are not read; write the value without !",
        ),
        ("[" * 500_000, "slo.yaml:1: this cannot be read as YAML: this is nested deeper than 20 levels"),
        ("a" * (1 << 20) + "a", "slo.yaml: the file is larger than 1 MiB; split it into several files"),
        (SLO.encode("utf-16"), "slo.yaml:1: this is not UTF-8; save the file as UTF-8"),
    ],
    ids=range(11),
)
def test_a_file_that_is_no_plain_yaml_is_refused(faults, text, fault):
    assert fault in faults(text)


def test_a_merge_key_is_not_half_understood(faults):
    assert faults(replaced_once(SLO, "  service:", "  <<: {}\n  service:"))[0].startswith("slo.yaml:7: spec.<<: ")


def test_a_file_that_is_not_there_is_a_fault_beside_the_others(tmp_path):
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(OpsKpiError) as refused:
        openslo.read([tmp_path / "missing.yaml", tmp_path, tmp_path / "empty.yaml"])
    assert refused.value.message.splitlines() == [
        f"{tmp_path}/missing.yaml: cannot be read: No such file or directory",
        f"{tmp_path}: cannot be read: Is a directory",
        f"{tmp_path}/empty.yaml:1: the file holds no OpenSLO object",
    ]


def test_a_dash_is_standard_input(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TARGET.encode())))
    assert [channel.channel_name for channel in openslo.read(["-"]).channels] == ["on-call"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"kind: SLO")))
    with pytest.raises(OpsKpiError, match=r"standard input:1: apiVersion: is missing"):
        openslo.read(["-"])


def test_objects_may_refer_to_each_other_across_files_in_any_order(reading):
    by_name = SLO[: SLO.index("  indicator:")] + "  indicatorRef: fast-releases\n" + SLO[SLO.index("  timeWindow:") :]
    found = reading(joined(by_name, SLI), TARGET, POLICY)
    assert [rule.rule_name for rule in found.rules] == ["release_speed/fast-burn"]
    assert (found.slos[0].objective, found.slos[0].indicator_name) == ("availability", "fast-releases")


def test_a_reference_to_nothing_is_refused_unless_a_file_could_not_be_read(faults):
    by_name = SLO[: SLO.index("  indicator:")] + "  indicatorRef: fast\n" + SLO[SLO.index("  timeWindow:") :]
    inline = POLICY[POLICY.index("    - kind") : POLICY.index("  notification")]
    by_condition = POLICY.replace(inline, "    - conditionRef: fast\n")
    assert faults(by_name, by_condition, known_channels=[]) == [
        "slo.yaml:8: spec.indicatorRef: there is no SLI called fast in these files",
        "b.yaml:7: spec.conditions[0].conditionRef: there is no AlertCondition called fast in these files",
        "b.yaml:9: spec.notificationTargets[0].targetRef: there is no AlertNotificationTarget called on-call in these files",
    ]
    assert faults(by_name, by_condition, "a: [", known_channels=[]) == [
        "c.yaml:1: this cannot be read as YAML: expected the node content, but found '<stream end>'",
    ]


def test_a_name_is_given_once_per_kind(faults):
    text = joined(SLO, POLICY, TARGET, SLI.replace("fast-releases", "other"))
    assert faults(text, joined(SLO, POLICY), TARGET) == [
        "slo.yaml:65: metadata.name: no SLO refers to this SLI, so nothing would be kept of it; remove it",
        "b.yaml:4: metadata.name: the SLO release_speed already stands at slo.yaml:4",
        "b.yaml:34: metadata.name: the AlertPolicy fast-burn already stands at slo.yaml:34",
        "c.yaml:4: metadata.name: the AlertNotificationTarget on-call already stands at slo.yaml:56",
    ]


def test_what_nothing_refers_to_is_not_dropped_silently(faults):
    alone = """\
apiVersion: openslo/v1
kind: AlertCondition
metadata: {name: lonely}
spec: {severity: page, condition: {op: gt, threshold: 2, lookbackWindow: 1h}}
"""
    assert faults(SLI, alone, POLICY) == [
        "slo.yaml:4: metadata.name: no SLO refers to this SLI, so nothing would be kept of it; remove it",
        "b.yaml:3: metadata.name: no AlertPolicy refers to this AlertCondition, so nothing would be kept of it; remove it",
        "c.yaml:4: metadata.name: no SLO lists this policy; let one, or annotate opskpi.dev/applies-to: every-slo",
    ]


def test_a_service_keeps_its_labels(reading):
    service = "apiVersion: openslo/v1\nkind: Service\nmetadata: {name: a, labels: {b: c}, annotations: {d: e}}\n"
    (found,) = reading(service).services
    assert found == Service("a", labels={"b": "c"}, annotations={"d": "e"})
    assert reading(openslo.write(Definitions((found,)))).services == (found,)


def test_a_service_needs_no_more_than_a_name(reading):
    service = "apiVersion: openslo/v1\nkind: Service\nmetadata: {name: a}\n"
    assert reading(service).services == reading(f"{service}spec:\n").services == (Service("a"),)


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


@pytest.mark.parametrize(
    ("duration", "start", "period"),
    [
        ("1d", "2026-03-03", "day"),
        ("1w", "2026-01-05", "week"),
        ("1M", "2020-02-01", "month"),
        ("1Q", "2026-10-01", "quarter"),
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


@pytest.mark.parametrize(
    ("window", "lookback", "share", "factor"),
    [
        ("30d", "1h", "0.02", "14.4"),
        ("30d", "6h", "0.05", "6"),
        ("30d", "1d", "0.1", "3"),
        ("30d", "3d", "0.1", "1"),
        ("28d", "1h", "0.02", "13.44"),
        ("28d", "6h", "0.05", "5.6"),
        ("30d", "1h", "0.05", "36"),
        ("30d", "7h", "0.02", "2.057143"),
    ],
)
def test_a_budget_share_amounts_to_the_factor_of_the_workbook(reading, faults, window, lookback, share, factor):
    promise = SLO.replace("30d", window).replace("target: 0.9", "target: 0.999")
    policy = POLICY.replace("lookbackWindow: 6h", f"lookbackWindow: {lookback}").replace(
        "short-window: 5m", f'budget-share: "{share}"'
    )
    right = policy.replace("threshold: 6", f"threshold: {factor}")
    (rule,) = reading(joined(promise, right), known_channels=["on-call"]).rules
    assert (rule.budget_share, rule.factor, rule.short_window) == (Decimal(share), None, None)
    (fault,) = faults(joined(promise, policy.replace("threshold: 6", "threshold: 6.1")))
    assert f"for release_speed; write {factor}, which is {share} x" in fault


def test_a_share_of_a_calendar_window_that_can_never_burn_so_fast_is_refused(faults):
    policy = POLICY.replace("short-window: 5m", 'budget-share: "0.5"')
    (fault,) = faults(joined(CALENDAR, policy))
    assert "it can never fire: the burn rate of release_speed is at most 1 / (1 - 0.9) = 10" in fault


@pytest.mark.parametrize("kind", ["silent_agents", "silent_jobs", "kpi_threshold"])
def test_a_policy_about_no_slo_is_in_no_list_of_an_slo(faults, kind):
    about = OVERRIDES if kind == "kpi_threshold" else SILENCE.replace("silent_input", kind)
    about = about.replace("          opskpi.dev/event-type: release\n", "")
    name = "overrides" if kind == "kpi_threshold" else "silence"
    assert faults(joined(SLO.replace("- fast-burn", f"- {name}"), about)) == [
        f"slo.yaml:29: spec.alertPolicies[0]: a condition of kind {kind} is about no SLO; remove the policy {name} from this list"
    ]


def test_silence_of_an_slo_is_known_from_its_status_and_needs_no_length(reading):
    policy = SILENCE.replace("          opskpi.dev/event-type: release\n", "").replace(
        "          lookbackWindow: 2d\n", ""
    )
    listed = reading(joined(SLO.replace("- fast-burn", "- silence"), policy))
    assert listed.rules == (Rule("release_speed/silence", "silent_input", "notice", slo_name="release_speed"),)
    assert reading(openslo.write(listed)) == listed
    everywhere = reading(
        policy.replace("name: silence\nspec", "name: silence\n  annotations: {opskpi.dev/applies-to: every-slo}\nspec")
    )
    assert everywhere.rules == (Rule("silence", "silent_input", "notice"),)
    assert reading(openslo.write(everywhere)) == everywhere


def test_one_address_of_a_row_is_a_list_of_one():
    row = {"channel_name": "a", "kind": "email", "secret_env": "SMTP_URL", "settings": {"to": "a@example.org"}}
    assert openslo.from_json({"channels": [row]}).channels[0].settings == {"to": ["a@example.org"]}


def test_a_complete_example_is_understood(reading):
    found = reading(EXAMPLE)
    quiet = {"opskpi.dev/condition-name": "quiet"}
    assert found == Definitions(
        services=(Service("release", "Releases", "Builds and publishes what users install."),),
        slos=(
            Slo(
                slo_name="release_availability",
                service="release",
                objective="availability",
                event_type="slsa_provenance",
                target=Decimal("0.999"),
                indicator_name="release-availability",
                description="99.9 % of releases succeed in the end.",
                rolling_window=timedelta(days=30),
                expected_interval=timedelta(days=1),
                display_name="Releases succeed",
                labels={"team": "platform"},
                annotations={
                    "example.com/dashboard": "https://grafana.example.com/d/1",
                    "opskpi.dev/indicator-display-name": "Releases that succeeded",
                    "opskpi.dev/indicator-description": "Of the tags that were attempted, those that succeeded in the end.",
                    "opskpi.dev/objective-display-name": "Three nines",
                },
            ),
            Slo(
                slo_name="provenance_latency",
                service="provenance_generation",
                objective="latency",
                event_type="slsa_provenance",
                target=Decimal("0.95"),
                indicator_name="provenance-under-5-minutes",
                threshold_ms=Decimal(300000),
                window_kind="calendar",
                calendar_period="month",
                time_zone="Europe/Zurich",
                budgeting_method="timeslices",
                time_slice=timedelta(hours=1),
                slice_target=Decimal("0.9"),
            ),
        ),
        rules=(
            Rule(
                rule_name="release_availability/fast-burn",
                kind="burn_rate",
                severity="page",
                slo_name="release_availability",
                budget_share=Decimal("0.02"),
                long_window=timedelta(hours=1),
                short_window=timedelta(minutes=5),
                channels=("on-call", "team-mail"),
                description="The budget of a month would last two days.",
                annotations={"opskpi.dev/condition-name": "two-percent-in-an-hour"},
            ),
            Rule(
                rule_name="release_availability/spent",
                kind="budget_exhausted",
                severity="ticket",
                slo_name="release_availability",
                annotations={"opskpi.dev/condition-name": "budget-spent"},
            ),
            Rule(
                rule_name="slow-burn",
                kind="burn_rate",
                severity="ticket",
                factor=Decimal(1),
                long_window=timedelta(days=3),
                short_window=timedelta(hours=6),
                alert_after=timedelta(minutes=5),
            ),
            Rule(
                rule_name="overrides",
                kind="kpi_threshold",
                severity="notice",
                metric_name="hook_override_rate",
                comparison="gt",
                threshold=Decimal(20),
                lasting=timedelta(hours=2),
            ),
            Rule(
                rule_name="no-provenance",
                kind="silent_input",
                severity="notice",
                event_type="slsa_provenance",
                silent_for=timedelta(days=2),
                notify_resolved=False,
                annotations=quiet,
            ),
        ),
        channels=(
            Channel("on-call", "slack", "SLACK_WEBHOOK_URL", severities=("page", "ticket")),
            Channel(
                "team-mail",
                "email",
                "SMTP_URL",
                settings={"to": ["team@example.org", "boss@example.org"], "from": "slo@example.org"},
                repeat_interval=timedelta(hours=12),
                description="The mailing list.",
            ),
        ),
    )


def test_a_policy_and_a_target_written_inside_an_slo_count_as_if_they_stood_alone(reading):
    target = textwrap.indent(TARGET.removeprefix("apiVersion: openslo/v1\n"), "      ")
    policy = POLICY.removeprefix("apiVersion: openslo/v1\n").replace("      targetRef: on-call\n", "")
    policy = policy.replace("    - targetRef: on-call\n", f"    -\n{target}")
    within = SLO.replace("    - fast-burn\n", f"    -\n{textwrap.indent(policy, '      ')}")
    assert reading(within) == reading(joined(SLO, POLICY, TARGET))


def test_one_policy_is_a_rule_of_each_slo_that_lists_it(reading):
    found = reading(joined(SLO, SLO.replace("release_speed", "other_speed"), POLICY, TARGET))
    assert [rule.rule_name for rule in found.rules] == ["other_speed/fast-burn", "release_speed/fast-burn"]
    assert reading(openslo.write(found)) == found


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


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("0", timedelta()),
        ("00:00:00", timedelta()),
        ("30 days", timedelta(days=30)),
        ("1 day 02:00:00", timedelta(days=1, hours=2)),
        ("01:30:00", timedelta(minutes=90)),
        ("90 minutes", timedelta(minutes=90)),
        ("4 hours", timedelta(hours=4)),
        ("-1 days +02:00:00.5", timedelta(days=-1, hours=2, milliseconds=500)),
        ("720:00:00", timedelta(days=30)),
    ],
)
def test_intervals_come_back_from_postgres_in_its_own_words(text, length):
    rule = {"rule_name": "a", "kind": "silent_jobs", "severity": "page", "silent_for": text}
    assert openslo.from_json({"rules": [rule]}).rules[0].silent_for == length


@pytest.mark.parametrize("text", ["1 mon", "1 year 2 mons", "soon", "1 day and more"])
def test_an_interval_without_a_fixed_length_is_refused(text):
    rule = {"rule_name": "a", "kind": "silent_jobs", "severity": "page", "silent_for": text}
    with pytest.raises(OpsKpiError, match=f"the interval '{text}'"):
        openslo.from_json({"rules": [rule]})


def test_a_float_is_not_taken_for_what_was_stored():
    with pytest.raises(TypeError, match="target is a float"):
        openslo.from_json({"slos": [{"slo_name": "a", "target": 0.999}]})


def test_rows_carry_exactly_the_columns_of_the_tables(reading):
    rows = openslo.as_json(reading(EXAMPLE))
    assert {kind: set(row[0]) for kind, row in rows.items()} == {
        "services": {"service_name", "display_name", "description", "labels", "annotations"},
        "slos": {
            "slo_name",
            "service",
            "objective",
            "description",
            "event_type",
            "target",
            "threshold_ms",
            "window_kind",
            "rolling_window",
            "calendar_period",
            "time_zone",
            "budgeting_method",
            "time_slice",
            "slice_target",
            "expected_interval",
            "indicator_name",
            "display_name",
            "labels",
            "annotations",
        },
        "rules": {
            "rule_name",
            "kind",
            "slo_name",
            "metric_name",
            "event_type",
            "severity",
            "budget_share",
            "factor",
            "long_window",
            "short_window",
            "comparison",
            "threshold",
            "lasting",
            "alert_after",
            "silent_for",
            "channels",
            "notify_resolved",
            "description",
            "display_name",
            "labels",
            "annotations",
        },
        "channels": {
            "channel_name",
            "kind",
            "secret_env",
            "settings",
            "severities",
            "repeat_interval",
            "description",
            "display_name",
            "labels",
            "annotations",
        },
    }


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


def optional(**values: st.SearchStrategy) -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries(
        {}, optional={f"opskpi.dev/{key.replace('_', '-')}": value for key, value in values.items()}
    )


@st.composite
def promises(draw: st.DrawFn, name: str) -> Slo:
    objective = draw(st.sampled_from(["error_rate", "latency", "availability"]))
    calendar = draw(st.booleans())
    sliced = draw(st.booleans())
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
        window_kind="calendar" if calendar else "rolling",
        rolling_window=None if calendar else draw(spans) + timedelta(hours=1),
        calendar_period=draw(st.sampled_from(["day", "week", "month", "quarter"])) if calendar else None,
        time_zone=draw(st.sampled_from(["UTC", "Europe/Zurich", "America/New_York"])) if calendar else None,
        budgeting_method="timeslices" if sliced else "occurrences",
        time_slice=timedelta(minutes=5 * draw(st.integers(1, 288))) if sliced else None,
        slice_target=draw(ratios) if sliced else None,
        expected_interval=draw(st.none() | spans),
        display_name=draw(title),
        labels=draw(texts),
        annotations=draw(texts) | draw(carried),
    )


@st.composite
def burning(draw: st.DrawFn, slo: Slo | None) -> dict[str, Any]:
    """The columns of a burn-rate condition that its SLO can reach."""
    long_window = draw(spans)
    short = draw(st.none() | st.integers(1, 100).map(lambda count: timedelta(minutes=5 * count)))
    columns = {
        "kind": "burn_rate",
        "long_window": long_window,
        "short_window": short if short and short < long_window else None,
    }
    reach = draw(st.decimals("0.01", "0.99", places=2)) / (1 - slo.target if slo else Decimal("0.001"))
    window = (slo and slo.rolling_window) or timedelta(days=1)
    share = round(
        min(Decimal(1), reach * (long_window // timedelta(minutes=5)) / (window // timedelta(minutes=5))) / 200, 6
    )
    if share and draw(st.booleans()):
        return columns | {"budget_share": share}
    return columns | {"factor": max(round(reach, 4), Decimal("0.0001"))}


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
        labels=draw(texts),
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
        labels=draw(texts),
        annotations=draw(texts),
    )


@st.composite
def drawn_definitions(draw: st.DrawFn) -> Definitions:
    some = st.lists(names, unique=True, max_size=2)
    slos = [draw(promises(name)) for name in draw(some)]
    of_slos = [draw(rules(slo, name)) for slo in slos for name in draw(some)]
    return Definitions(
        services=tuple(Service(name, draw(title), draw(several), draw(texts), draw(texts)) for name in draw(some)),
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

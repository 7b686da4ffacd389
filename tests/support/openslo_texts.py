"""OpenSLO texts for the tests: one of each kind of object, and a file with everything."""

from collections.abc import Callable

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


EVENTS = """\
apiVersion: openslo/v1
kind: SLO
metadata:
  name: hooks_allow
spec:
  description: Nine of ten hooks let the developer go on.
  service: hooks
  indicator:
    metadata:
      name: hooks-that-allow
    spec:
      ratioMetric:
        counter: true
        good: {metricSource: {type: opskpi, spec: {eventType: hook_execution, count: events, labels: {result: [allowed, overridden]}}}}
        total: {metricSource: {type: opskpi, spec: {eventType: hook_execution, count: events, labels: {hook_type: [pre-commit, pre-push]}}}}
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.9}]
"""

GROUPED = EVENTS.replace("labels: {hook_type: [pre-commit, pre-push]}", "groupBy: [team]")


UNITS = """\
apiVersion: openslo/v1
kind: SLO
metadata:
  name: releases_succeed
spec:
  description: Nine of ten releases succeed in the end.
  service: release
  indicator:
    metadata:
      name: lost-releases
    spec:
      ratioMetric:
        counter: true
        bad: {metricSource: {type: opskpi, spec: {eventType: workflow_run, count: units, succeeded: false, labels: {workflow: release}}}}
        total: {metricSource: {type: opskpi, spec: {eventType: workflow_run, count: units, labels: {workflow: [release]}}}}
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.9}]
"""


TEMPLATES = {
    "SLO": SLO,
    "CALENDAR": CALENDAR,
    "SLICES": SLICES,
    "EVENTS": EVENTS,
    "GROUPED": GROUPED,
    "UNITS": UNITS,
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


def complete(name: str, text: str) -> str:
    """The text with what it needs to be whole after it, so that its own lines keep their numbers."""
    if name in {"SLO", "CALENDAR", "SLICES"}:
        return joined(text, POLICY)
    return joined(text, SLO) if name == "POLICY" else text


def check_refusal(faults: Callable[..., list[str]], template: str, old: str, new: str, expected: list[str]) -> None:
    messages = faults(complete(template, replaced_once(TEMPLATES[template], old, new)))
    assert len(messages) == len(expected), messages
    for message, beginning in zip(messages, expected, strict=True):
        assert message.startswith(f"slo.yaml:{beginning}"), message
        assert "s3cr3t" not in message.lower()

"""Policies and targets of OpenSLO: the rules and channels that they are, and those that could not do what they say."""

import textwrap
from decimal import Decimal

import pytest

from opskpi import openslo
from opskpi.openslo import Rule
from support.openslo_texts import CALENDAR, OVERRIDES, POLICY, SILENCE, SLO, TARGET, check_refusal, joined

# One row: a template, what is replaced in it, by what, and how each message begins after the name of the file.
# fmt: off
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
    ("POLICY", "threshold: 6", "threshold: 0.9", "17: spec.conditions[0].spec.condition.threshold: it can mean nothing: 0.9 is below 1, and such a burn rate leaves a part of the budget of release_speed"),
    ("POLICY", "lookbackWindow: 6h", "lookbackWindow: 31d", "17: spec.conditions[0].spec.condition.threshold: it can mean nothing: lookbackWindow is longer than the window of release_speed"),
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


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in ALERTS])
def test_an_alert_that_could_not_fire_as_written_is_refused(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


@pytest.mark.parametrize(("template", "old", "new", "expected"), [(*row[:3], row[3:]) for row in TARGETS])
def test_a_target_without_a_safe_address_is_refused(faults, template, old, new, expected):
    check_refusal(faults, template, old, new, expected)


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


# Six hours are a 124th of 31 days, and a 112th of 28.
@pytest.mark.parametrize(("share", "is_refused"), [("0.008", True), ("0.0081", False)])
def test_a_share_of_a_calendar_window_must_mean_something_in_its_longest_period(reading, faults, share, is_refused):
    text = joined(CALENDAR, POLICY.replace("short-window: 5m", f'budget-share: "{share}"'))
    if is_refused:
        (fault,) = faults(text)
        assert "it can mean nothing: 0.992 is below 1" in fault
    else:
        assert len(reading(text, known_channels=["on-call"]).rules) == 1


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

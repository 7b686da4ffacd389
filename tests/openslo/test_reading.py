"""OpenSLO files as a whole: objects that refer to each other, and a complete example."""

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from opskpi import openslo
from opskpi.openslo import Channel, Definitions, Rule, Service, Slo
from support.fixtures import Cli
from support.openslo_texts import EXAMPLE, POLICY, SLI, SLO, TARGET, joined


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
        "slo.yaml:8: spec.indicatorRef: there is no SLI called fast in these files; pass the file too",
        "b.yaml:7: spec.conditions[0].conditionRef: there is no AlertCondition called fast in these files; pass the file too",
        "b.yaml:9: spec.notificationTargets[0].targetRef: there is no AlertNotificationTarget called on-call in these files; pass the file too",
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


NOWHERE = {"OPSKPI_DSN": "postgresql://nowhere:1/none"}


def test_files_are_validated_without_a_database(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "slo.yaml").write_text(EXAMPLE)
    for arguments in (("slo", "validate", "slo.yaml"), ("slo", "validate", "-")):
        answer = cli(*arguments, stdin=EXAMPLE, env=NOWHERE)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert answer.stdout.startswith("valid: ")
    # A channel that stands in a database may be named by itself.
    (tmp_path / "slo.yaml").write_text(joined(SLO, POLICY))
    answer = cli("slo", "validate", "slo.yaml", "--json", env=NOWHERE)
    assert answer.returncode == 0, answer.stderr
    assert len(json.loads(answer.stdout)["slos"]) == 1


def test_every_fault_of_a_file_is_named_with_its_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "slo.yaml").write_text(SLO.replace("30d", "30x"))
    answer = cli("slo", "validate", "slo.yaml", env=NOWHERE)
    assert answer.returncode == 64
    assert "30x is no duration" in answer.stderr
    assert "slo.yaml:" in answer.stderr

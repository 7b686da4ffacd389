"""Files of other SLO tools: named as what they are, with the same objective as OpenSLO v1 in two lines."""

from datetime import timedelta
from decimal import Decimal

import pytest

from opskpi.openslo.reading import read_text

SLOTH = """\
version: "prometheus/v1"
service: "checkout"
labels: {owner: payments}
slos:
  - name: "Requests availability"
    objective: 99.9
    sli:
      events:
        error_query: sum(rate(http_requests_total{job="checkout",code=~"5.."}[{{.window}}]))
        total_query: sum(rate(http_requests_total{job="checkout"}[{{.window}}]))
    alerting: {name: CheckoutErrors, page_alert: {labels: {severity: page}}}
"""
SLOTH_OF_KUBERNETES = """\
apiVersion: sloth.slok.dev/v1
kind: PrometheusServiceLevel
metadata: {name: checkout, namespace: monitoring}
spec:
  service: checkout
  slos:
    - {name: "on", objective: 99.95, sli: {raw: {errorRatioQuery: up}}}
    - {name: second, objective: 99}
    - {name: third, objective: 98}
"""
PYRRA = """\
apiVersion: pyrra.dev/v1alpha1
kind: ServiceLevelObjective
metadata: {name: checkout-latency, namespace: monitoring}
spec:
  target: "99.5"
  window: 2w
  indicator:
    latency:
      success: {metric: 'http_request_duration_seconds_bucket{job="checkout",le="0.25"}'}
      total: {metric: 'http_request_duration_seconds_count{job="checkout"}'}
"""
SLO_GENERATOR = """\
apiVersion: sre.google.com/v2
kind: ServiceLevelObjective
metadata:
  name: checkout-app-availability
  labels: {service_name: checkout, feature_name: app, slo_name: availability}
spec:
  backend: cloud_monitoring
  method: good_bad_ratio
  service_level_indicator: {filter_good: metric.type="a", filter_bad: metric.type="b"}
  goal: 0.95
"""
OLD_SLO_GENERATOR = (
    '{"service_name": "checkout", "feature_name": "app", "slo_name": "acks", "slo_target": 0.9,'
    ' "backend": {"class": "Stackdriver", "method": "good_bad_ratio"}}'
)
NOBL9 = """\
- apiVersion: n9/v1alpha
  kind: SLO
  metadata: {name: checkout-slo, project: shop}
  spec: {service: checkout, objectives: [{target: 0.97}], timeWindows: [{unit: Day, count: 30}]}
"""
MONTH = timedelta(days=30)


@pytest.mark.parametrize(
    ("text", "what", "objective"),
    [
        (SLOTH, "a file of Sloth", ("requests-availability", "checkout", "0.999", MONTH, "error_rate", None)),
        (SLOTH_OF_KUBERNETES, "a PrometheusServiceLevel of Sloth", ("slo-on", "checkout", "0.9995", MONTH, "error_rate", None)),
        (PYRRA, "a ServiceLevelObjective of Pyrra", ("checkout-latency", "checkout-latency", "0.995", timedelta(days=14), "latency", Decimal(250))),
        (SLO_GENERATOR, "a ServiceLevelObjective of slo-generator", ("checkout-app-availability", "checkout", "0.95", MONTH, "error_rate", None)),
        (OLD_SLO_GENERATOR, "a file of slo-generator", ("acks", "checkout", "0.9", MONTH, "error_rate", None)),
        (NOBL9, "an object of Nobl9", ("checkout-slo", "checkout", "0.97", MONTH, "error_rate", None)),
    ],
    ids=["sloth", "sloth-k8s", "pyrra", "slo-generator", "old-slo-generator", "nobl9"],
)  # fmt: skip
def test_a_file_of_another_tool_is_named_and_its_objective_said_in_two_lines_that_can_be_read(
    faults, text, what, objective
):
    sentence, *lines = faults(text)
    assert f"this is {what}" in sentence
    assert len(lines) == 2
    (slo,) = read_text("lines", "\n".join(lines)).slos
    found = (slo.slo_name, slo.service, str(slo.target), slo.rolling_window, slo.objective, slo.threshold_ms)
    assert found == objective


def test_the_objectives_that_are_not_shown_are_counted(faults):
    assert "write slo-on (and 2 more alike) as the following" in faults(SLOTH_OF_KUBERNETES)[0]


@pytest.mark.parametrize(
    "text",
    [
        "version: prometheus/v1\nslos:\n",
        "version: prometheus/v1\nslos: []\nservice: [a]\n",
        "version: prometheus/v1\nslos: [{name: {a: b}, objective: much}]\n",
        "version: prometheus/v1\nslos: [{name: ÄÖ, objective: 1e9999999}]\n",
        "version: prometheus/v1\nslos: [{name: '12', objective: 100}]\n",
        "apiVersion: pyrra.dev/v1alpha1\nspec: {target: nan, window: 999w}\n",
        "apiVersion: sre.google.com/v2\n[a]: b\n",
        "apiVersion: sloth.slok.dev/v1\n",
    ],
)
def test_what_such_a_file_does_not_say_is_replaced_by_something_that_can_be_read(faults, text):
    sentence, *lines = faults(text)
    assert "queries another system" in sentence
    assert len(read_text("lines", "\n".join(lines)).slos) == 1

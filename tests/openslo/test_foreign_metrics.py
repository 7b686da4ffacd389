"""Objects of OpenSLO that measure what is not stored here: one sentence for the object, whatever else it holds."""

import pytest

from support.openslo_texts import POLICY, SLO, joined, replaced_once

PROMETHEUS = """\
apiVersion: openslo/v1
kind: SLI
metadata: {name: errors, labels: {team: [a]}, annotations: {example.com/a: b}}
spec:
  ratioMetric:
    counter: false
    %s: {metricSource: {metricSourceRef: prometheus, type: Prometheus, spec: {query: up, step: 5}}}
    total: {metricSource: {metricSourceRef: prometheus, type: Prometheus, spec: {query: up}}}
"""


@pytest.mark.parametrize("key", ["good", "bad"])
def test_an_sli_of_another_system_has_one_fault_and_none_for_its_keys(faults, key):
    (fault,) = faults(PROMETHEUS % key)
    assert fault.startswith(f"slo.yaml:7: spec.ratioMetric.{key}.metricSource.type: Prometheus is another system")
    assert "metricSource: {type: opskpi, spec: {eventType: TYPE" in fault


def test_an_slo_with_such_an_sli_has_one_fault_and_other_objects_have_theirs(faults):
    text = replaced_once(SLO, "type: opskpi", "type: Datadog").replace("30d", "30x").replace("target: 0.9", "op: gte")
    found = faults(joined(text, replaced_once(POLICY, "6h", "6x")))
    assert [fault.partition(" ")[0] for fault in found] == ["slo.yaml:16:", "slo.yaml:48:"]


def test_a_composite_slo_has_one_fault(faults):
    text = replaced_once(SLO, "- target: 0.9", "- {target: 0.9, compositeWeight: 1, indicatorRef: a}")
    (fault,) = faults(replaced_once(text, "service: release", "service: Release"))
    assert fault == (
        "slo.yaml:27: spec.objectives[0].indicatorRef: composite SLOs are not done; write an SLO for each SLI"
    )

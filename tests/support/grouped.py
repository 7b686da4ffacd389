"""An objective for each workflow, and runs of workflows."""

import json
from collections.abc import Mapping

from psycopg import Connection

RELEASES = """\
apiVersion: openslo/v1
kind: SLO
metadata: {name: runs}
spec:
  service: ci
  indicator:
    metadata: {name: runs-that-succeed}
    spec:
      ratioMetric:
        counter: true
        good: {metricSource: {type: opskpi, spec: {eventType: workflow_run, count: succeeded}}}
        total: {metricSource: {type: opskpi, spec: {eventType: workflow_run, count: attempts, groupBy: [workflow]}}}
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.9}]
  alertPolicies:
    - kind: AlertPolicy
      metadata: {name: spent}
      spec:
        conditions:
          - metadata: {name: spent, annotations: {opskpi.dev/kind: budget_exhausted}}
            spec: {severity: page, condition: {op: gt, threshold: 1, lookbackWindow: 30d}}
"""


def add_runs(
    connection: Connection, workflow: str | None, at: str, *, good: int = 0, bad: int = 0, **more: object
) -> None:
    """Insert runs of a workflow; None is a run that names none."""
    named: Mapping[str, object] = more | ({} if workflow is None else {"workflow": workflow})
    for outcome, count in (("success", good), ("failure", bad)):
        connection.execute(
            "insert into telemetry_events (event_type, event_timestamp, metadata)"
            " select 'workflow_run', %s, %s from generate_series(1, %s)",
            [at, json.dumps({"outcome": outcome, **named}), count],
        )

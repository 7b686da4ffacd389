"""Definitions as code: what apply_definitions makes of rows, and what it refuses."""

from typing import Any

import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

from support.events import Connection, rows, scalar

pytestmark = pytest.mark.database

SLO: dict[str, Any] = {
    "slo_name": "deploys",
    "service": "shop",
    "objective": "error_rate",
    "description": "",
    "event_type": "workflow_run",
    "target": "0.99",
    "rolling_window": "30 days",
    "budgeting_method": "occurrences",
    "indicator_name": "deploys",
    "labels": {},
    "annotations": {},
}
RULE: dict[str, Any] = {
    "rule_name": "deploys/burn",
    "kind": "burn_rate",
    "slo_name": "deploys",
    "severity": "page",
    "factor": "14.4",
    "long_window": "1 hour",
    "alert_after": "0",
    "channels": [],
    "notify_resolved": True,
    "description": "",
    "labels": {},
    "annotations": {},
}


def apply(connection: Connection, **definitions: object) -> list[tuple[Any, ...]]:
    query = "select kind, name, change, differences from ops.apply_definitions(%s)"
    return rows(connection, query, Jsonb(definitions))


def test_applying_the_same_twice_changes_nothing(database):
    assert apply(database, slos=[SLO], rules=[RULE]) == [
        ("slo", "deploys", "created", None),
        ("rule", "deploys/burn", "created", None),
    ]
    assert apply(database, slos=[SLO], rules=[RULE]) == [
        ("slo", "deploys", "unchanged", None),
        ("rule", "deploys/burn", "unchanged", None),
    ]
    assert scalar(database, "select count(*) from ops.slo_versions where slo_name = 'deploys'") == 1


def test_a_change_says_what_was_and_what_is(database):
    apply(database, slos=[SLO], rules=[RULE])
    changed = apply(database, slos=[SLO | {"target": "0.9"}], rules=[RULE | {"factor": "6"}])
    assert changed == [
        ("slo", "deploys", "changed", {"target": [0.99, 0.9]}),
        ("rule", "deploys/burn", "changed", {"factor": [14.4, 6]}),
    ]
    assert rows(
        database, "select version, target::text from ops.slo_versions where slo_name = 'deploys' order by 1"
    ) == [
        (1, "0.990000"),
        (2, "0.900000"),
    ]


def test_a_rule_that_an_objective_no_longer_lists_is_removed_and_the_others_stay(database):
    apply(database, slos=[SLO], rules=[RULE])
    before = scalar(database, "select count(*) from ops.alert_rules where slo_name is null")
    assert apply(database, slos=[SLO], rules=[]) == [
        ("slo", "deploys", "unchanged", None),
        ("rule", "deploys/burn", "removed", None),
    ]
    assert scalar(database, "select count(*) from ops.alert_rules") == before


def test_an_objective_in_the_calendar_of_the_settings_is_what_its_export_says(database):
    calendar = SLO | {"rolling_window": None, "calendar_period": "month"}
    apply(database, slos=[calendar])
    assert apply(database, slos=[calendar | {"time_zone": "UTC"}]) == [("slo", "deploys", "unchanged", None)]


@pytest.mark.parametrize(
    "definitions",
    [
        {"slos": [SLO | {"event_type": "no_such_type"}]},
        {
            "rules": [
                RULE
                | {"slo_name": None, "kind": "kpi_threshold", "factor": None, "long_window": None, "lasting": "1 hour"}
                | {"metric_name": "no_such_kpi", "comparison": "gt", "threshold": "1"}
            ]
        },
        {"slos": [SLO | {"target": "0.9"}], "rules": [RULE]},
    ],
    ids=["an unknown event type", "an unknown KPI", "a rule that can never fire"],
)
def test_what_cannot_be_is_refused_with_a_hint_and_nothing_is_applied(database, definitions):
    with pytest.raises(errors.DatabaseError) as refusal:
        apply(database, **definitions)
    assert refusal.value.sqlstate == "OP001"
    assert refusal.value.diag.message_hint
    assert scalar(database, "select count(*) from ops.slos where slo_name = 'deploys'") == 0


def test_a_rule_and_the_target_that_it_needs_change_together(database):
    apply(database, slos=[SLO], rules=[RULE])
    assert [
        change for _, _, change, _ in apply(database, slos=[SLO | {"target": "0.9"}], rules=[RULE | {"factor": "6"}])
    ] == [
        "changed",
        "changed",
    ]

"""A KPI that would never have a row is refused with a sentence that says what is possible."""

from typing import Any

import pytest
from psycopg.types.json import Jsonb

from support.events import Connection, add_event, add_row, refresh, refused, rows

pytestmark = pytest.mark.database

SUCCESSES = {
    "metric_name": "deploys_succeed",
    "description": "Deploys that succeed.",
    "unit": "percent",
    "measure": "ratio",
    "event_type": "workflow_run",
    "numerator": {"outcome": ["success"]},
    "denominator": {},
}


def define(connection: Connection, **changes: Any) -> None:
    columns = SUCCESSES | changes
    add_row(
        connection,
        "kpi_definitions",
        **{key: Jsonb(value) if isinstance(value, dict) else value for key, value in columns.items()},
    )


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"event_type": "workflow_runs"}, "workflow_run"),
        ({"numerator": {"outcom": ["success"]}}, "outcome, workflow"),
        ({"denominator": {"team": ["red"]}}, "outcome, workflow"),
        ({"numerator": {"outcome": "success"}}, "list"),
        ({"numerator": {"outcome": [1]}}, "list"),
        ({"numerator": {"outcome": []}}, "list"),
        ({"numerator": {"outcome": ["sucess"]}}, "success"),
        ({"breakdowns": ["workflw"]}, "workflow"),
        ({"event_type": None, "numerator": {"outcom": ["success"]}}, "outcome"),
        ({"event_type": "slsa_audit_metrics", "numerator": {"outcome": ["success"]}}, "validation_status"),
        ({"event_type": "audit_complete", "measure": "average", "unit": "ms", "numerator": {}}, "value_key"),
    ],
)
def test_a_kpi_that_can_never_have_a_row_is_refused(database: Connection, changes: dict[str, Any], hint: str) -> None:
    with refused() as caught:
        define(database, **changes)
    assert hint in (caught.value.diag.message_hint or "")
    assert "deploys_succeed" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"event_type": None},
        {"event_type": "slsa_audit_metrics", "numerator": {"validation_status": ["success"]}},
        {"event_type": "hook_execution", "numerator": {"team": ["red"]}, "breakdowns": ["team", "hook_type"]},
        {"event_type": "hook_baseline", "numerator": {"reviewed": ["true"]}},
    ],
)
def test_a_kpi_of_labels_that_events_have_is_taken(database: Connection, changes: dict[str, Any]) -> None:
    define(database, **changes)
    assert rows(database, "select count(*) from ops.kpi_definitions where metric_name = 'deploys_succeed'") == [(1,)]


def test_a_kpi_may_count_events_that_have_arrived_without_a_description(database: Connection) -> None:
    count = {"event_type": "deploys", "measure": "count", "unit": "count", "numerator": {}}
    with refused():
        define(database, **count)
    add_event(database, "deploys")
    refresh(database)
    define(database, **count)


def test_a_kpi_that_stands_may_change_in_what_no_event_decides(database: Connection) -> None:
    database.execute("alter table ops.kpi_definitions disable trigger user")
    define(database, event_type="gone")
    database.execute("alter table ops.kpi_definitions enable trigger user")
    database.execute("update ops.kpi_definitions set description = 'Old.' where event_type = 'gone'")

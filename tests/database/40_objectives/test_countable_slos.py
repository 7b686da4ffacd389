"""An objective that can never have data, or says too little, is refused with what is possible instead."""

from typing import Any

import psycopg
import pytest

from support.events import Connection, add_slo, refused

pytestmark = pytest.mark.database


@pytest.mark.parametrize(
    ("promise", "hint"),
    [
        ({"total": {"workflw": "x"}}, "workflow"),
        ({"total": {"outcome": "sucess"}}, "success"),
        ({"total": {"outcome": "cancelled"}}, "success"),
        ({"total": {"workflow": "a"}, "good": {"workflow": "b"}}, "total"),
        ({"total": {"workflow": "x" * 101}}, "100"),
        ({"event_type": "hook_execution"}, "result"),
        ({"event_type": "hook_execution", "objective": "availability"}, "result"),
        ({"event_type": "hook_execution", "objective": "events", "good": {"result": "denied"}}, "overridden"),
        ({"event_type": "hook_baseline", "objective": "events", "good": {"reviewed": "yes"}}, "true"),
        ({"event_type": "audit_complete", "objective": "latency", "threshold_ms": 5}, "Count"),
        ({"event_type": "audit_complete", "objective": "measured", "at_most": 5}, "size_bytes"),
        ({"event_type": "nobody", "total": {"x": "y"}}, "team"),
        ({"event_type": "nobody", "objective": "measured", "at_most": 5}, "size_bytes"),
    ],
)
def test_an_objective_that_can_never_have_data_is_refused_with_what_is_possible(
    database: Connection, promise: dict[str, Any], hint: str
) -> None:
    with refused() as caught:
        promise = {"event_type": "workflow_run"} | promise
        add_slo(database, "mine", **promise)
    assert hint in (caught.value.diag.message_hint or "")


@pytest.mark.parametrize(
    "promise",
    [
        {"total": {"workflow": []}},
        {"total": {"workflow": [1]}},
        {"total": {"workflow": 1}},
        {"good": {"workflow": "a"}, "bad": {"workflow": "b"}},
        {"objective": "availability", "good": {"workflow": "a"}},
        {"objective": "events"},
        {"objective": "events", "bad": {}},
        {"objective": "measured"},
        {"at_most": 5},
        {"objective": "measured", "at_most": -1},
    ],
)
def test_an_objective_that_says_too_little_or_too_much_is_refused(
    database: Connection, promise: dict[str, Any]
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        promise = {"event_type": "workflow_run"} | promise
        add_slo(database, "mine", **promise)

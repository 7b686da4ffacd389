"""When a group of alerts is sent again: as Alertmanager decides it."""

import json
from datetime import timedelta
from typing import Any

import pytest

from support.events import Connection, scalar

pytestmark = pytest.mark.database

# The cases of slo_conformance.json, from the tests of Alertmanager; the repeat interval is ten minutes.
CASES = json.loads(
    """[
  {"last_firing": null, "now_firing": [2, 3, 4], "now_resolved": [], "notify": true},
  {"last_firing": [1, 2, 3], "last_resolved": [], "age_minutes": 9, "now_firing": [2, 3, 4], "now_resolved": [], "notify": true},
  {"last_firing": [1, 2, 3], "last_resolved": [], "age_minutes": 9, "now_firing": [1, 2, 3], "now_resolved": [], "notify": false},
  {"last_firing": [1, 2, 3], "last_resolved": [], "age_minutes": 11, "now_firing": [1, 2, 3], "now_resolved": [], "notify": true}
]"""
)
# What the same rules come to elsewhere: nothing yet, all is over, over before, something is over, exactly the interval.
FURTHER = [
    ([None, None, None], [], [], False),
    ([None, None, None], [], [1], False),
    ([[1, 2], [], 1], [], [1, 2], True),
    ([[1, 2], [], 1], [], [], True),
    ([[], [1], 99], [], [1], False),
    ([[], [], 99], [], [], False),
    ([[1, 2], [], 1], [1], [2], True),
    ([[1], [2], 1], [1], [2], False),
    ([[1], [2], 11], [1], [2], True),
    ([[1], None, 1], [1], [2], True),
    ([[1, 2], [], 9], [1], [], False),
    ([[1], [], 10], [1], [], False),
    ([[], [1], 1], [3], [], True),
]


def needs_notification(connection: Connection, last: list[Any], now_firing: list[int], now_resolved: list[int]) -> bool:
    """Return whether to notify, from what was last said to fire and to be over, and how many minutes ago."""
    last_firing, last_resolved, minutes = last
    age = None if minutes is None else timedelta(minutes=minutes)
    query = "select ops.needs_notification(%s, %s, %s, '10 minutes', %s, %s)"
    return scalar(connection, query, last_firing, last_resolved, age, now_firing, now_resolved)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_group_is_notified_again_as_alertmanager_decides(database, case):
    last = [case["last_firing"], case.get("last_resolved"), case.get("age_minutes")]
    assert needs_notification(database, last, case["now_firing"], case["now_resolved"]) is case["notify"]


@pytest.mark.parametrize(("last", "firing", "resolved", "expected"), FURTHER, ids=str)
def test_a_group_is_notified_when_something_is_new_or_over_or_due(database, last, firing, resolved, expected):
    assert needs_notification(database, last, firing, resolved) is expected


def test_these_cases_are_those_of_the_shared_file(shared_data):
    shared = json.loads((shared_data / "slo_conformance.json").read_text("utf-8"))["notify_again"]
    assert [{key: case[key] for key in case if key != "source"} for case in shared] == CASES

"""Budgets, burn rates and alert factors: figures from published sources must come out of the SQL functions."""

import json
from datetime import timedelta
from decimal import Decimal

import pytest

from support.events import Connection, scalar

pytestmark = pytest.mark.database

# The cases of slo_conformance.json: SRE Workbook chapter 5, Sloth, Datadog, Kibana, slo-generator, OpenSLO.
CASES = json.loads(
    """{
  "alert_factor": [
    {"slo_window_days": 30, "budget_share": 0.02, "alert_window_hours": 1, "factor": 14.4},
    {"slo_window_days": 30, "budget_share": 0.05, "alert_window_hours": 6, "factor": 6},
    {"slo_window_days": 30, "budget_share": 0.1, "alert_window_hours": 24, "factor": 3},
    {"slo_window_days": 30, "budget_share": 0.1, "alert_window_hours": 72, "factor": 1},
    {"slo_window_days": 28, "budget_share": 0.02, "alert_window_hours": 1, "factor": 13.44},
    {"slo_window_days": 28, "budget_share": 0.05, "alert_window_hours": 6, "factor": 5.6},
    {"slo_window_days": 30, "budget_share": 0.05, "alert_window_hours": 1, "factor": 36}
  ],
  "highest_possible_burn": [
    {"target": 0.999, "burn": 1000},
    {"target": 0.96, "burn": 25},
    {"target": 0.95, "burn": 20}
  ],
  "budget": [
    {"target": 0.999, "good": 999, "total": 1000, "sli": 0.999, "consumed": 1, "remaining": 0, "burn": 1},
    {"target": 0.99, "good": 90, "total": 100, "sli": 0.9, "consumed": 10, "remaining": -9, "burn": 10},
    {"target": 0.8, "good": 90, "total": 100, "sli": 0.9, "consumed": 0.5, "remaining": 0.5, "burn": 0.5},
    {"target": 0.999, "good": 4500, "total": 5000, "sli": 0.9, "burn": 100},
    {"target": 0.9, "good": 3556, "total": 7112, "sli": 0.5, "burn": 5, "consumed": 5, "remaining": -4},
    {"target": 0.999, "good": 0, "total": 0, "sli": null, "state": "no_data"}
  ],
  "budget_in_time": [
    {"target": 0.9995, "window_days": 7, "slice_seconds": 60, "slices": 10080, "budget_slices": 5.04},
    {"target": 0.999, "window_days": 30, "burn": 2, "exhausted_after_seconds": 1296000},
    {"target": 0.999, "window_days": 30, "burn": 1000, "exhausted_after_seconds": 2592}
  ],
  "detection": [
    {"target": 0.999, "alert_window_seconds": 129600, "factor": 1, "error_ratio": 1, "detected_after_seconds": 129.6},
    {"target": 0.999, "alert_window_seconds": 3600, "factor": 36, "error_ratio": 1, "detected_after_seconds": 129.6}
  ],
  "runs_for_one_allowed_failure_in_the_window": [
    {"target": 0.999, "runs": 1000},
    {"target": 0.995, "runs": 200},
    {"target": 0.99, "runs": 100},
    {"target": 0.98, "runs": 50},
    {"target": 0.95, "runs": 20}
  ],
  "numeric_not_float": [
    {"statement": "0.0144 > 14.4 * ((100 - 99.9) / 100)", "float8": true, "numeric": false, "expected": false}
  ]
}""",
    parse_float=Decimal,
)


def cases(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", CASES[kind], ids=str)


@cases("alert_factor")
def test_the_alert_factor_is_the_budget_share_times_the_windows(database: Connection, case):
    windows = timedelta(days=case["slo_window_days"]), timedelta(hours=case["alert_window_hours"])
    assert scalar(database, "select ops.alert_factor(%s, %s, %s)", case["budget_share"], *windows) == case["factor"]


@cases("highest_possible_burn")
def test_no_burn_rate_is_higher_than_when_everything_fails(database: Connection, case):
    assert scalar(database, "select ops.highest_burn_rate(%s)", case["target"]) == case["burn"]
    assert scalar(database, "select ops.burn_rate(0, 7, %s)", case["target"]) == case["burn"]


@cases("budget")
def test_the_budget_burns_as_the_sources_say(database: Connection, case):
    counts = case["good"], case["total"], case["target"]
    burn = case.get("burn")
    assert scalar(database, "select ops.burn_rate(%s, %s, %s)", *counts) == burn
    left = None if burn is None else case.get("remaining", 1 - burn)
    assert scalar(database, "select ops.budget_left(%s, %s, %s)", *counts) == left


@pytest.mark.parametrize("case", CASES["budget_in_time"][:1], ids=str)
def test_the_budget_in_time_slices(database: Connection, case):
    window, length = timedelta(days=case["window_days"]), timedelta(seconds=case["slice_seconds"])
    found = scalar(database, "select ops.budget_slices(%s, %s, %s)", case["target"], window, length)
    assert (found, window / length) == (case["budget_slices"], case["slices"])


@pytest.mark.parametrize("case", CASES["budget_in_time"][1:], ids=str)
def test_a_burn_rate_exhausts_the_budget_in_time(database: Connection, case):
    found = scalar(database, "select ops.time_to_exhaustion(%s, %s)", timedelta(days=case["window_days"]), case["burn"])
    assert found == timedelta(seconds=case["exhausted_after_seconds"])


def test_half_of_the_budget_lasts_half_as_long(database: Connection):
    month = timedelta(days=30)
    assert scalar(database, "select ops.time_to_exhaustion(%s, 1, 0.5)", month) == timedelta(days=15)
    assert scalar(database, "select ops.time_to_exhaustion(%s, 1, -2)", month) == timedelta(0)
    assert scalar(database, "select ops.time_to_exhaustion(%s, 0, 0.5)", month) is None


@cases("detection")
def test_an_outage_is_detected_in_time(database: Connection, case):
    window = timedelta(seconds=case["alert_window_seconds"])
    found = scalar(
        database,
        "select ops.detection_time(%s, %s, %s, %s)",
        *(case["target"], case["factor"], window, case["error_ratio"]),
    )
    assert found == timedelta(seconds=float(case["detected_after_seconds"]))


def test_without_errors_nothing_is_detected(database: Connection):
    assert scalar(database, "select ops.detection_time(0.999, 1, '3 days', 0)") is None


@cases("runs_for_one_allowed_failure_in_the_window")
def test_it_takes_so_many_runs_until_one_failure_is_allowed(database: Connection, case):
    assert scalar(database, "select ops.events_to_judge(%s)", case["target"]) == case["runs"]


@cases("numeric_not_float")
def test_a_burn_rate_equal_to_the_factor_is_not_above_it(database: Connection, case):
    query = "select ops.burn_rate(9856, 10000, 0.999) > ops.alert_factor(0.02, '30 days', '1 hour')"
    assert scalar(database, query) is case["expected"]
    query = "select 0.0144::float8 > 14.4::float8 * ((100::float8 - 99.9::float8) / 100::float8)"
    assert scalar(database, query) is case["float8"]


def test_these_cases_are_those_of_the_shared_file(shared_data):
    shared = json.loads((shared_data / "slo_conformance.json").read_text("utf-8"), parse_float=Decimal)
    for kind, ours in CASES.items():
        assert [{key: case[key] for key in case if key not in {"source", "note"}} for case in shared[kind]] == ours

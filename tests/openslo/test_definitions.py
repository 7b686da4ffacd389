"""Definitions as rows: the columns of the tables, and values in the words of Postgres."""

from datetime import timedelta

import pytest

from opskpi import openslo
from opskpi.errors import OpsKpiError
from support.openslo_texts import EXAMPLE


def test_one_address_of_a_row_is_a_list_of_one():
    row = {"channel_name": "a", "kind": "email", "secret_env": "SMTP_URL", "settings": {"to": "a@example.org"}}
    assert openslo.from_json({"channels": [row]}).channels[0].settings == {"to": ["a@example.org"]}


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("0", timedelta()),
        ("00:00:00", timedelta()),
        ("30 days", timedelta(days=30)),
        ("1 day 02:00:00", timedelta(days=1, hours=2)),
        ("01:30:00", timedelta(minutes=90)),
        ("90 minutes", timedelta(minutes=90)),
        ("4 hours", timedelta(hours=4)),
        ("-1 days +02:00:00.5", timedelta(days=-1, hours=2, milliseconds=500)),
        ("720:00:00", timedelta(days=30)),
    ],
)
def test_intervals_come_back_from_postgres_in_its_own_words(text, length):
    rule = {"rule_name": "a", "kind": "silent_jobs", "severity": "page", "silent_for": text}
    assert openslo.from_json({"rules": [rule]}).rules[0].silent_for == length


@pytest.mark.parametrize("text", ["1 mon", "1 year 2 mons", "soon", "1 day and more"])
def test_an_interval_without_a_fixed_length_is_refused(text):
    rule = {"rule_name": "a", "kind": "silent_jobs", "severity": "page", "silent_for": text}
    with pytest.raises(OpsKpiError, match=f"the interval '{text}'"):
        openslo.from_json({"rules": [rule]})


def test_a_float_is_not_taken_for_what_was_stored():
    with pytest.raises(TypeError, match="target is a float"):
        openslo.from_json({"slos": [{"slo_name": "a", "target": 0.999}]})


def test_rows_carry_exactly_the_columns_of_the_tables(reading):
    rows = openslo.as_json(reading(EXAMPLE))
    assert {kind: set(row[0]) for kind, row in rows.items()} == {
        "services": {"service_name", "display_name", "description", "labels", "annotations"},
        "slos": {
            "slo_name",
            "service",
            "objective",
            "description",
            "event_type",
            "target",
            "threshold_ms",
            "at_most",
            "total_labels",
            "good_labels",
            "bad_labels",
            "group_by",
            "window_kind",
            "rolling_window",
            "calendar_period",
            "time_zone",
            "budgeting_method",
            "time_slice",
            "slice_target",
            "expected_interval",
            "is_enabled",
            "previous_name",
            "of_several",
            "min_failures",
            "indicator_name",
            "display_name",
            "labels",
            "annotations",
        },
        "rules": {
            "rule_name",
            "kind",
            "slo_name",
            "metric_name",
            "event_type",
            "severity",
            "budget_share",
            "factor",
            "long_window",
            "short_window",
            "comparison",
            "threshold",
            "lasting",
            "alert_after",
            "silent_for",
            "channels",
            "notify_resolved",
            "description",
            "display_name",
            "labels",
            "annotations",
        },
        "channels": {
            "channel_name",
            "kind",
            "secret_env",
            "settings",
            "severities",
            "repeat_interval",
            "description",
            "display_name",
            "labels",
            "annotations",
        },
    }

"""Fixtures of the tests of alerts: an objective that burns by the clock."""

from datetime import UTC, datetime, timedelta

import pytest

from support.events import Connection, add_channel, add_events, add_rule, add_slo, alerts, run_jobs


@pytest.fixture
def paged(database: Connection) -> Connection:
    """An objective that burns now and has fired; the statements of the test are transactions of their own."""
    database.execute("delete from ops.alert_rules")
    add_slo(database)
    add_rule(database, "burn", "burn_rate", factor=2, long_window="1 hour", short_window="5 minutes")
    add_channel(database)
    add_events(database, 20, "deploy", datetime.now(UTC) - timedelta(seconds=1), outcome="failure")
    run_jobs(database, datetime.now(UTC))
    assert alerts(database) == [("burn", "deploys", "firing")]
    return database

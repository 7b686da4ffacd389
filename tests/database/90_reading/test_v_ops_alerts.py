"""Who may read of alerts: each org of its own, and nobody of how a channel is reached."""

from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import NIL, Connection, add_channel, add_row, instant, rows
from support.fixtures import ActingAs

pytestmark = pytest.mark.database

NOON = instant("2026-03-10T12:00:00Z")
ONE, TWO = UUID(int=1), UUID(int=2)


@pytest.fixture
def three_told_orgs(database: Connection) -> Connection:
    """Let an alert fire and a message wait in each of three orgs, and silence two of them."""
    add_channel(database)
    for org in (ONE, TWO, NIL):
        alert = {"rule_name": "burn", "kind": "burn_rate", "severity": "page", "subject": "deploys", "state": "firing"}
        alert |= {"pending_since": NOON, "evaluated_at": NOON, "channels": [], "notify_resolved": True}
        add_row(database, "alerts", org_id=org, description="", detail="{}", **alert)
        message = {"channel_name": "ops", "group_key": "shop", "status": "firing", "alert_ids": [], "state": "queued"}
        message |= {"message": Jsonb({}), "created_at": NOON, "next_attempt_at": NOON}
        add_row(database, "alert_deliveries", org_id=org, **message)
    for org in (ONE, TWO):
        silence = {
            "matcher": "*",
            "starts_at": NOON,
            "until": NOON + timedelta(hours=1),
            "reason": "r",
            "author": "ada",
        }
        add_row(database, "alert_silences", only_org_id=org, **silence)
    return database


@pytest.mark.parametrize(("org", "seen"), [(ONE, [(ONE,)]), (UUID(int=9), []), (None, [(NIL,)])], ids=str)
def test_a_user_sees_the_alerts_and_deliveries_of_the_own_org(three_told_orgs, acting_as: ActingAs, org, seen):
    with acting_as(three_told_orgs, "authenticated", org=org):
        assert rows(three_told_orgs, "select org_id from public.v_ops_alerts") == seen
        assert rows(three_told_orgs, "select org_id from public.v_ops_alert_deliveries") == seen
        assert rows(three_told_orgs, "select org_id from ops.alerts") == seen
        assert rows(three_told_orgs, "select org_id from ops.alert_deliveries") == seen
        assert rows(three_told_orgs, "select only_org_id from ops.alert_silences") == [
            row for row in seen if row != (NIL,)
        ]


@pytest.mark.parametrize("query", ["select settings from ops.alert_channels", "select from ops.alert_groups"])
def test_a_user_does_not_see_how_channels_are_reached(three_told_orgs, acting_as: ActingAs, query):
    with acting_as(three_told_orgs, "authenticated", org=ONE), pytest.raises(psycopg.errors.InsufficientPrivilege):
        three_told_orgs.execute(query)


@pytest.mark.parametrize(
    "statement",
    [
        "update ops.alerts set state = 'resolved', resolved_at = now()",
        "delete from ops.alert_deliveries",
        "insert into ops.alert_silences (matcher, until, reason, author) values ('*', 'tomorrow', 'r', 'eve')",
        "select ops.silence_alerts('*', 'tomorrow', 'r', 'eve')",
        "select ops.evaluate_alerts()",
        "select ops.claim_deliveries()",
        "select ops.retry_deliveries()",
    ],
)
@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_nobody_moves_alerts_or_messages_through_the_api(three_told_orgs, acting_as: ActingAs, role, statement):
    with acting_as(three_told_orgs, role, org=ONE), pytest.raises(psycopg.errors.InsufficientPrivilege):
        three_told_orgs.execute(statement)


def test_the_service_role_sees_all_and_a_stranger_nothing(three_told_orgs, acting_as: ActingAs):
    with acting_as(three_told_orgs, "service_role"):
        assert len(rows(three_told_orgs, "select from public.v_ops_alerts")) == 3
        assert len(rows(three_told_orgs, "select from public.v_ops_alert_deliveries")) == 3
    with acting_as(three_told_orgs, "anon"), pytest.raises(psycopg.errors.InsufficientPrivilege):
        three_told_orgs.execute("select from public.v_ops_alerts")

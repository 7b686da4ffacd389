"""Views ask first whether anything is fresh, and count it as they always did where something is."""

from decimal import Decimal
from uuid import UUID

import psycopg
import pytest

from support.events import Connection, add_audit, add_event, refresh, rows, scalar
from support.fixtures import ActingAs
from support.tenants import ORG_A, ORG_B

pytestmark = pytest.mark.database

HAS_FRESH = "select ops.has_fresh_counts()"
DAILY = "select provenance_success_rate, audit_success_rate from public.v_ops_kpi_daily"


def test_events_are_fresh_until_a_refresh_has_counted_them(database: Connection) -> None:
    assert scalar(database, HAS_FRESH) is False
    add_event(database, outcome="success")
    assert scalar(database, HAS_FRESH) is True
    refresh(database)
    assert scalar(database, HAS_FRESH) is False
    assert rows(database, DAILY) == [(Decimal(100), None)]


def test_a_changed_audit_is_fresh_though_no_event_is(database: Connection) -> None:
    add_event(database, outcome="success")
    add_audit(database, 1)
    refresh(database)
    assert scalar(database, HAS_FRESH) is False
    database.execute("update public.slsa_audit_metrics set validation_status = 'failure'")
    assert scalar(database, HAS_FRESH) is True
    assert rows(database, DAILY) == [(Decimal(100), Decimal(0))]


@pytest.mark.own_database
def test_an_event_that_appears_behind_the_cursor_is_fresh(database: Connection) -> None:
    with psycopg.connect(database.info.dsn) as writer:
        add_event(writer, outcome="failure")
        add_event(database, outcome="success")
        refresh(database)
        assert scalar(database, HAS_FRESH) is False
    assert scalar(database, HAS_FRESH) is True
    assert rows(database, DAILY) == [(Decimal(50), None)]


def test_what_is_fresh_of_one_org_is_not_of_another(database: Connection, acting_as: ActingAs) -> None:
    add_event(database, org_id=UUID(ORG_A), outcome="success")
    for org, fresh in ((ORG_A, True), (ORG_B, False)):
        with acting_as(database, "authenticated", org=org):
            assert scalar(database, HAS_FRESH) is fresh


def test_nobody_without_a_role_of_the_api_asks_what_is_fresh(database: Connection, acting_as: ActingAs) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), acting_as(database, "anon"):
        database.execute(HAS_FRESH)

"""The limit of requests per key, beside that per agent."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Json

from support.events import instant, rows, scalar
from support.fixtures import ActingAs

NOON = instant("2026-01-05T12:00Z")
ORG = uuid4()


@contextmanager
def told_to_wait(wait_s: int) -> Iterator[None]:
    with pytest.raises(psycopg.Error) as caught:
        yield
    assert caught.value.sqlstate == "PGRST"
    answer = json.loads(str(caught.value.diag.message_detail))
    assert answer == {"status": 429, "headers": {"Retry-After": str(wait_s)}}


def limit_keys(database: psycopg.Connection, per_minute: int) -> None:
    database.execute("update ops.settings set value = %s where name = 'requests_per_minute_per_key'", [str(per_minute)])


def send_as(database: psycopg.Connection, acting_as: ActingAs, sub: str, **claims: object) -> None:
    """Send an event of an agent that nobody has heard of."""
    event = {"event_type": "audit_complete", "agent_id": str(uuid4())}
    with acting_as(database, "authenticated", commit=True, sub=sub, **claims):
        database.execute("select public.ingest_events(%s)", [Json([event])])


def count(database: psycopg.Connection, acting_as: ActingAs, after_s: float, org: UUID = ORG, sub: str = "one") -> None:
    with acting_as(database, "authenticated", org, commit=True, sub=sub):
        database.execute("select ops.count_key_request(%s, %s)", [org, NOON + timedelta(seconds=after_s)])


def test_new_agent_ids_open_no_new_limits_for_a_key(database: psycopg.Connection, acting_as: ActingAs) -> None:
    limit_keys(database, 3)
    for _ in range(3):
        send_as(database, acting_as, "one")
    with pytest.raises(psycopg.Error) as refusal:
        send_as(database, acting_as, "one")
    assert json.loads(str(refusal.value.diag.message_primary))["code"] == "OP429"
    assert "one key" in str(refusal.value.diag.message_primary)
    assert scalar(database, "select count(*) from telemetry_events") == 3
    send_as(database, acting_as, "another key")


def test_a_user_has_one_limit_whatever_the_session(database: psycopg.Connection, acting_as: ActingAs) -> None:
    limit_keys(database, 2)
    for session in ("first", "second"):
        send_as(database, acting_as, "user", session_id=session)
    with pytest.raises(psycopg.Error):
        send_as(database, acting_as, "user", session_id="third")


def test_all_anonymous_sign_ins_have_one_limit_together(database: psycopg.Connection, acting_as: ActingAs) -> None:
    limit_keys(database, 2)
    database.execute("update ops.settings set value = 'allow' where name = 'anonymous_sign_ins'")
    for sub in ("first", "second"):
        send_as(database, acting_as, sub, is_anonymous=True)
    with pytest.raises(psycopg.Error):
        send_as(database, acting_as, "third", is_anonymous=True)
    send_as(database, acting_as, "a user")


def test_a_key_is_told_when_the_first_of_its_requests_is_a_minute_ago(
    database: psycopg.Connection, acting_as: ActingAs
) -> None:
    limit_keys(database, 3)
    for after_s in (0, 10, 20):
        count(database, acting_as, after_s)
    with told_to_wait(30):
        count(database, acting_as, 30)
    with told_to_wait(1):
        count(database, acting_as, 59.5)
    count(database, acting_as, 60)
    with told_to_wait(10):
        count(database, acting_as, 60)
    count(database, acting_as, 30, org=uuid4())
    count(database, acting_as, 30, sub="two")


def test_no_minute_has_more_requests_of_a_key_than_allowed(database: psycopg.Connection, acting_as: ActingAs) -> None:
    limit_keys(database, 5)
    passed: list[float] = []
    for number in range(100):
        try:
            count(database, acting_as, number * 3.7)
        except psycopg.Error as error:
            assert error.sqlstate == "PGRST"
        else:
            passed.append(number * 3.7)
    assert len(passed) >= 25
    assert all(sum(start <= at < start + 60 for at in passed) <= 5 for start in passed)


def test_requests_of_one_key_do_not_wait_for_each_other(
    database: psycopg.Connection, connect: object, acting_as: ActingAs
) -> None:
    other = connect()  # type: ignore[operator]
    other.execute("set lock_timeout = '200ms'")
    with acting_as(database, "authenticated", ORG, sub="one"):
        database.execute("select ops.count_key_request(%s)", [ORG])
        count(other, acting_as, 0)


def test_requests_that_no_limit_counts_any_more_are_forgotten(
    database: psycopg.Connection, acting_as: ActingAs
) -> None:
    for after_s in (0, 100):
        count(database, acting_as, after_s)
    database.execute("select ops.maintain(%s)", [NOON + timedelta(seconds=130)])
    assert rows(database, "select requested_at from ops.key_requests") == [(NOON + timedelta(seconds=100),)]


def test_a_key_counts_no_request_against_another_org(database: psycopg.Connection, acting_as: ActingAs) -> None:
    with (
        acting_as(database, "authenticated", ORG, sub="one"),
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        database.execute("select ops.count_key_request(%s)", [uuid4()])


@pytest.mark.parametrize("value", ["0", "-1", "many", "1000000", ""])
def test_a_limit_of_keys_that_is_no_number_is_refused(database: psycopg.Connection, value: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("update ops.settings set value = %s where name = 'requests_per_minute_per_key'", [value])

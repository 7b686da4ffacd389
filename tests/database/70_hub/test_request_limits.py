"""The limit of requests per key, beside that per agent."""

import json
from collections.abc import Callable, Iterator
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


def spread_batch(count: int, spread: int, **said: object) -> list[dict[str, object]]:
    """Return so many events, of so many hours in turn."""
    return [
        {
            "event_type": "audit_complete",
            "payload": {"timestamp": (NOON - timedelta(hours=n % spread)).isoformat()} | said,
        }
        for n in range(count)
    ]


@pytest.mark.parametrize(("spread", "weight"), [(1, 1), (49, 1), (50, 2), (150, 4)])
def test_a_batch_counts_against_its_key_by_the_hours_and_labels_that_it_is_counted_in(
    database: psycopg.Connection, acting_as: ActingAs, spread: int, weight: int
) -> None:
    with acting_as(database, "authenticated", ORG, commit=True, sub="one"):
        told = scalar(database, "select public.ingest_events(%s)", Json(spread_batch(160, spread)))
    assert told["accepted"] == 160
    assert scalar(database, "select count(*) from ops.key_requests") == weight


def test_a_batch_of_more_hours_than_a_key_may_send_in_a_minute_waits_for_a_quiet_one(
    database: psycopg.Connection, acting_as: ActingAs
) -> None:
    limit_keys(database, 2)
    with acting_as(database, "authenticated", ORG, commit=True, sub="one"):
        scalar(database, "select public.ingest_events(%s)", Json(spread_batch(160, 150)))
    with acting_as(database, "authenticated", ORG, sub="one"), pytest.raises(psycopg.Error) as caught:
        scalar(database, "select public.ingest_events(%s)", Json(spread_batch(160, 150)))
    assert caught.value.sqlstate == "PGRST"


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: text,
        lambda text: text.replace("audit_complete", "\\u0061udit_complete"),
        lambda text: text.replace("timestamp", "\\u0074imestamp"),
        lambda text: text.replace('"2026', '"\\u0032026'),
        lambda text: text.replace('"2025', '"2025').replace("+00:00", "Z"),
        lambda text: text[:-1] + ', {"event_type": "x\\u0000"}]',
    ],
    ids=["as it is", "a kind with escapes", "a key with escapes", "times with escapes", "Z", "one that is unreadable"],
)
def test_a_batch_of_too_many_hours_is_refused_however_it_is_written(
    database: psycopg.Connection, acting_as: ActingAs, disguise: Callable[[str], str]
) -> None:
    text = disguise(json.dumps(spread_batch(151, 151)))
    with acting_as(database, "authenticated", ORG, sub="one"), pytest.raises(psycopg.Error) as caught:
        database.execute("select public.ingest_events(%s::json)", [text])
    assert (caught.value.sqlstate, "at most 150" in str(caught.value.diag.message_hint)) == ("PT413", True)
    # The owner, whom nobody limits, loads what it likes.
    assert scalar(database, "select public.ingest_events(%s::json)", text)["accepted"] == 151


@pytest.mark.parametrize(
    "said",
    [
        lambda n: {"timestamp": f"2026-01-05T12:00:00{'+' if n % 2 else '-'}{n % 15:02}:{n % 60:02}"},
        lambda n: {"timestamp": "2026-01-05T12:00:00Z", "outcome": ["success", "failure"][n % 2], "endpoint": str(n)},
    ],
    ids=["by the zone of its time", "by its labels"],
)
def test_each_hour_and_each_label_is_told_apart(
    database: psycopg.Connection, said: Callable[[int], dict[str, object]]
) -> None:
    events = [
        {"event_type": "api_request", "payload": {"outcome": "success", "duration_ms": 1} | said(n)} for n in range(60)
    ]
    assert scalar(database, "select ops.batch_spread(%s)", Json(events)) == 60
    assert scalar(database, "select ops.batch_spread(%s)", Json([*events, *events])) == 60

"""The outbox: claimed in order, leased, tried again, given up and taken up again."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import NIL, Connection, add_channel, add_row, instant, rows, scalar
from support.fixtures import Connect

pytestmark = pytest.mark.database

NOON = instant("2026-03-10T12:00:00Z")
ONE, TWO = UUID(int=1), UUID(int=2)
Queue = Callable[..., int]


@pytest.fixture
def queued(database: Connection) -> Queue:
    """Add the channels ops and mail; write a message: `queue(group="shop", channel="ops", org=NIL, state="queued")`."""
    add_channel(database, "ops")
    add_channel(database, "mail")

    def write(group: str = "shop", channel: str = "ops", org: UUID = NIL, **columns: object) -> int:
        known = {"org_id": org, "channel_name": channel, "group_key": group, "status": "firing", "alert_ids": []}
        known |= {"message": Jsonb({}), "state": "queued", "created_at": NOON, "next_attempt_at": NOON}
        add_row(database, "alert_deliveries", **known | columns)
        return scalar(database, "select max(delivery_id) from ops.alert_deliveries")

    return write


def claim_for_a_minute(connection: Connection, as_of: datetime = NOON, most: int = 20) -> list[tuple[int, int]]:
    """Claim for a minute and return number and attempt of each message."""
    query = "select delivery_id, attempt from ops.claim_deliveries(%s, '1 minute', %s)"
    return rows(connection, query, most, as_of)


def settle(
    connection: Connection,
    delivery: int,
    attempt: int,
    outcome: str | None = "delivered",
    as_of: datetime = NOON,
    retry_after: str | None = None,
) -> str:
    query = "select ops.settle_delivery(%s, %s, %s, 'refused', %s, %s)"
    return scalar(connection, query, delivery, attempt, outcome, retry_after, as_of)


def outbox_states(connection: Connection) -> list[str]:
    return [state for (state,) in rows(connection, "select state from ops.alert_deliveries order by delivery_id")]


# Claims


def test_the_oldest_of_each_channel_and_group_is_claimed(database, queued):
    first = [queued(), queued(channel="mail"), queued("search"), queued(org=ONE)]
    later = [queued(), queued(channel="mail"), queued("search"), queued(org=ONE)]
    assert claim_for_a_minute(database) == [(delivery, 1) for delivery in first]
    assert claim_for_a_minute(database) == []
    for delivery in first:
        assert settle(database, delivery, 1) == "delivered"
    assert claim_for_a_minute(database) == [(delivery, 1) for delivery in later]


def test_a_claim_says_what_is_to_be_sent_and_how(database, queued):
    delivery = queued(message=Jsonb({"title": "t"}))
    assert rows(database, "select * from ops.claim_deliveries(1, '1 minute', %s)", NOON) == [
        (delivery, 1, NIL, "ops", "webhook", "OPS_URL", {}, "shop", NOON, {"title": "t"})
    ]


def test_what_is_not_due_is_not_claimed_and_holds_up_its_group_only(database, queued):
    queued(next_attempt_at=NOON + timedelta(seconds=1))
    queued()
    other = queued("search")
    assert claim_for_a_minute(database) == [(other, 1)]
    assert [number for number, _ in claim_for_a_minute(database, NOON + timedelta(seconds=1))] == [other - 2]


def test_no_more_are_claimed_than_asked_for(database, queued):
    numbers = [queued(f"group {number}") for number in range(3)]
    assert claim_for_a_minute(database, most=2) == [(numbers[0], 1), (numbers[1], 1)]
    assert claim_for_a_minute(database, most=2) == [(numbers[2], 1)]


@pytest.mark.parametrize("state", ["delivered", "dead", "silenced", "superseded"])
def test_what_is_done_holds_up_nothing(database, queued, state):
    queued(state=state)
    delivery = queued()
    assert claim_for_a_minute(database) == [(delivery, 1)]


def test_a_lease_that_ran_out_is_taken_over_and_the_first_worker_has_lost(database, queued):
    delivery = queued()
    claim_for_a_minute(database)
    assert claim_for_a_minute(database, NOON + timedelta(seconds=59)) == []
    late = NOON + timedelta(seconds=60)
    assert claim_for_a_minute(database, late) == [(delivery, 2)]
    assert settle(database, delivery, 1, "retry", late) == "lost"
    assert settle(database, delivery, 2, "delivered", late) == "delivered"
    assert settle(database, delivery, 2, "dead", late) == "lost"
    assert outbox_states(database) == ["delivered"]


def test_what_was_never_claimed_cannot_be_settled(database, queued):
    delivery = queued()
    assert (settle(database, delivery, 0), settle(database, delivery + 1, 1)) == ("lost", "lost")
    assert outbox_states(database) == ["queued"]


def test_a_worker_that_always_dies_does_not_hold_up_its_group_for_ever(database, queued):
    database.execute("update ops.alert_channels set max_attempts = 2")
    poison, next_one = queued(), queued()
    taken = [claim_for_a_minute(database, NOON + timedelta(minutes=minute)) for minute in range(4)]
    assert [number for claimed in taken for number, _ in claimed if number == poison] == [poison] * 2
    assert (next_one, 1) in taken[2] + taken[3]
    assert outbox_states(database) == ["dead", "sending"]


# Attempts


@pytest.mark.parametrize(
    ("attempt", "longest"), [(1, 10), (2, 20), (3, 40), (9, 2560), (10, 3600), (11, 3600), (40, 3600)]
)
def test_a_retry_waits_twice_as_long_each_time_and_half_of_it_by_chance(database, queued, attempt, longest):
    database.execute("update ops.alert_channels set max_attempts = 100")
    waits = []
    for _ in range(30):
        delivery = queued(state="sending", leased_until=NOON, attempts=attempt)
        assert settle(database, delivery, attempt, "retry") == "queued"
        query = "select next_attempt_at from ops.alert_deliveries where delivery_id = %s"
        waits.append((scalar(database, query, delivery) - NOON).total_seconds())
    assert longest / 2 <= min(waits) < max(waits) <= longest


@pytest.mark.parametrize(("asked", "waits"), [("2 hours", (7200, 7200)), ("1 second", (5, 10)), ("-1 day", (5, 10))])
def test_a_receiver_may_ask_for_more_time_and_not_for_less(database, queued, asked, waits):
    delivery = queued()
    claim_for_a_minute(database)
    settle(database, delivery, 1, "retry", retry_after=asked)
    waited = scalar(database, "select next_attempt_at from ops.alert_deliveries") - NOON
    assert waits[0] <= waited.total_seconds() <= waits[1]


def test_an_hour_of_refused_connections_loses_nothing_and_keeps_the_order(database, queued):
    fires, is_over = queued(), queued(status="resolved")
    for minute in range(61):
        for delivery, attempt in claim_for_a_minute(database, NOON + timedelta(minutes=minute)):
            assert delivery == fires
            assert settle(database, delivery, attempt, "retry", NOON + timedelta(minutes=minute)) == "queued"
    later = NOON + timedelta(hours=2)
    sent = []
    while claimed := claim_for_a_minute(database, later):
        for delivery, attempt in claimed:
            settle(database, delivery, attempt, as_of=later)
            sent.append(delivery)
    assert sent == [fires, is_over]


def test_what_was_tried_as_often_as_the_channel_allows_is_dead(database, queued):
    database.execute("update ops.alert_channels set max_attempts = 3")
    delivery = queued()
    instants = [NOON + timedelta(hours=hour) for hour in range(3)]
    ends = []
    for attempt, at in enumerate(instants, 1):
        assert claim_for_a_minute(database, at) == [(delivery, attempt)]
        ends.append(settle(database, delivery, attempt, "retry", at))
    assert ends == ["queued", "queued", "dead"]
    query = "select state, attempts, settled_at, last_error, leased_until from ops.alert_deliveries"
    assert rows(database, query) == [("dead", 3, instants[-1], "refused", None)]
    assert claim_for_a_minute(database, NOON + timedelta(days=1)) == []


@pytest.mark.parametrize("outcome", ["sent", "", None])
def test_an_outcome_that_is_none_is_refused(database, queued, outcome):
    delivery = queued()
    claim_for_a_minute(database)
    with pytest.raises(psycopg.Error) as refused:
        settle(database, delivery, 1, outcome)
    assert (refused.value.sqlstate, bool(refused.value.diag.message_hint)) == ("OP001", True)
    assert outbox_states(database) == ["sending"]


# Dead letters


def test_a_dead_message_is_tried_again_unless_a_later_one_was_sent(database, queued):
    queued(state="dead", attempts=15)
    queued(state="delivered")
    queued("search", state="dead", attempts=15)
    queued("search", state="silenced")
    queued("mail", state="dead")
    queued("mail", state="dead")
    assert scalar(database, "select ops.retry_deliveries(as_of => %s)", NOON) == 2
    assert outbox_states(database) == ["superseded", "delivered", "queued", "silenced", "superseded", "queued"]
    query = "select distinct attempts, next_attempt_at from ops.alert_deliveries where state = 'queued'"
    assert rows(database, query) == [(0, NOON)]
    assert scalar(database, "select ops.retry_deliveries(as_of => %s)", NOON) == 0


def test_the_dead_messages_of_one_channel_are_tried_again(database, queued):
    queued(state="dead")
    queued(channel="mail", state="dead")
    assert scalar(database, "select ops.retry_deliveries('mail', %s)", NOON) == 1
    assert outbox_states(database) == ["dead", "queued"]


def test_a_dead_message_of_one_org_holds_up_no_other(database, queued):
    queued(org=ONE, state="dead")
    queued(org=ONE, next_attempt_at=NOON + timedelta(hours=1))
    other = queued(org=TWO)
    assert claim_for_a_minute(database) == [(other, 1)]
    assert scalar(database, "select ops.retry_deliveries(as_of => %s)", NOON) == 0
    assert outbox_states(database) == ["superseded", "queued", "sending"]


def test_a_test_message_is_queued_for_a_channel_that_exists(database, queued):
    number = scalar(database, "select ops.queue_test('ops', '{\"kind\": \"test\"}', %s)", NOON)
    assert claim_for_a_minute(database) == [(number, 1)]
    with pytest.raises(psycopg.Error) as refused:
        database.execute("select ops.queue_test('unheard of', '{}')")
    assert (refused.value.sqlstate, bool(refused.value.diag.message_hint)) == ("OP001", True)


# Two workers


@pytest.mark.parametrize("first_commits", [True, False])
def test_resolved_never_overtakes_firing_with_two_workers(database, connect: Connect, queued, first_commits):
    fires, is_over = queued(), queued(status="resolved")
    one, two = connect(autocommit=False), connect(autocommit=False)
    assert claim_for_a_minute(one) == [(fires, 1)]
    assert claim_for_a_minute(two) == []
    if not first_commits:
        one.rollback()
        assert claim_for_a_minute(two) == [(fires, 1)]
        return
    one.commit()
    assert claim_for_a_minute(two) == []
    assert settle(one, fires, 1) == "delivered"
    assert claim_for_a_minute(two) == []
    one.commit()
    assert claim_for_a_minute(two) == [(is_over, 1)]


def test_two_workers_send_a_thousand_messages_once_each_and_in_order(database, connect: Connect, queued):
    database.execute(
        "insert into ops.alert_deliveries (org_id, channel_name, group_key, status, alert_ids, message, state, created_at,"
        " next_attempt_at) select %s, 'ops', 'group ' || number %% 100, 'firing', '{}', '{}', 'queued', %s, %s"
        " from generate_series(1, 1000) as number",
        [NIL, NOON, NOON],
    )
    workers = [connect(autocommit=False), connect(autocommit=False)]
    taken: list[tuple[int, int]] = []
    while batches := [batch for batch in [claim_for_a_minute(worker, most=30) for worker in workers] if batch]:
        for worker in workers:
            worker.commit()
        for batch in batches:
            taken.extend(batch)
            query = (
                "select ops.settle_delivery(number, 1, 'delivered', as_of => %s) from unnest(%s::bigint[]) as number"
            )
            assert set(rows(workers[0], query, NOON, [number for number, _ in batch])) == {("delivered",)}
        workers[0].commit()
    assert sorted(taken) == [(number, 1) for number in range(1, 1001)]
    for group in range(100):
        numbers = [number for number, _ in taken if number % 100 == group]
        assert numbers == sorted(numbers)


def test_a_channel_that_is_switched_off_sends_nothing_until_it_is_on_again(database, queued):
    queued()
    database.execute("update ops.alert_channels set is_enabled = false")
    assert claim_for_a_minute(database) == []
    with pytest.raises(psycopg.DatabaseError, match="switched off"):
        database.execute("select ops.queue_test('ops', '{}', %s)", [NOON])
    database.execute("update ops.alert_channels set is_enabled = true")
    assert len(claim_for_a_minute(database)) == 1


def test_a_test_that_fails_is_over_and_does_not_hold_up_the_next(database, queued):
    for _ in range(2):
        database.execute("select ops.queue_test('ops', '{}', %s)", [NOON])
        [(delivery, attempt)] = claim_for_a_minute(database)
        assert settle(database, delivery, attempt, "retry") == "dead"

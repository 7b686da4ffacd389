"""What git hooks and the hub need from the database: keys, policies, the limit of requests, and what the hooks did."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Json, Jsonb

from support.events import Connection, add_event, ingest, instant, rebuild, refresh, refused, rows, scalar
from support.oracle import assert_exact

pytestmark = pytest.mark.database

ORG_A = UUID("aaaaaaaa-0000-4000-8000-00000000000a")
ORG_B = UUID("bbbbbbbb-0000-4000-8000-00000000000b")
ANNA = UUID("aaaaaaaa-0000-4000-8000-0000000000a1")
BOB = UUID("aaaaaaaa-0000-4000-8000-0000000000b2")
NOON = "2026-03-10T12:00:00Z"
KEY_ID = "0123456789ab"
DEFAULT_POLICY = {"telemetry": {"enabled": True}}


def create_key(
    database: Connection, key_id: str = KEY_ID, scopes: str = "{ingest}", expires_at: str | None = None
) -> None:
    database.execute(
        "select ops.create_api_key(%s, 'laptop', %s, sha256('secret'), %s, %s)", [ORG_A, key_id, scopes, expires_at]
    )


def find_key(database: Connection, key_id: str = KEY_ID) -> list[tuple[Any, ...]]:
    return rows(database, "select org_id, key_sha256 = sha256('secret'), scopes from ops.find_api_key(%s)", key_id)


def hook_run(at: str = NOON, agent: UUID = ANNA, org: UUID = ORG_A, **said: object) -> dict[str, Any]:
    said = {"hook_type": "pre-commit", "result": "allowed", "findings_summary": {}, "duration_ms": 10} | said
    return {
        "event_type": "hook_execution",
        "payload": {"agent_id": str(agent), "org_id": str(org), "timestamp": at, "event_id": str(uuid4())} | said,
    }


def hook_metrics(
    database: Connection, since: str = "2026-03-01", until: str = "2026-03-31", org: UUID = ORG_A, **filters: str
) -> dict[str, Any]:
    return scalar(
        database,
        "select public.hook_metrics(%s, %s::date, %s::date, %s, %s)",
        *(org, since, until, filters.get("team"), filters.get("hook_type")),
    )


def test_a_key_is_found_until_it_is_revoked(database):
    create_key(database)
    assert find_key(database) == [(ORG_A, True, ["ingest"])]
    assert find_key(database, "ffffffffffff") == []
    assert scalar(database, "select ops.revoke_api_key(%s)", KEY_ID) is True
    assert find_key(database) == []
    assert scalar(database, "select ops.revoke_api_key(%s)", KEY_ID) is False
    assert scalar(database, "select ops.revoke_api_key('ffffffffffff')") is False


def test_a_key_ends_when_it_expires(database):
    create_key(database, expires_at="2100-01-01Z")
    assert len(find_key(database)) == 1
    database.execute(
        "update ops.api_keys set created_at = now() - interval '2 hours', expires_at = now() - interval '1 second'"
    )
    assert find_key(database) == []


def test_when_a_key_was_last_used_is_noted_to_the_minute_and_nobody_waits_for_it(database, connect):
    create_key(database)
    assert scalar(database, "select last_used_at from ops.api_keys") is None
    with database.transaction():
        find_key(database)
        other = connect()
        other.execute("set lock_timeout = '1s'")
        assert len(find_key(other)) == 1
    noted = scalar(database, "select last_used_at from ops.api_keys")
    assert noted is not None
    find_key(database)
    assert scalar(database, "select last_used_at from ops.api_keys") == noted


@pytest.mark.parametrize(
    ("key_id", "scopes", "expires_at"),
    [
        ("short", "{read}", None),
        (KEY_ID, "{}", None),
        (KEY_ID, "{write}", None),
        (KEY_ID, "{NULL}", None),
        (KEY_ID, "{read}", "2020-01-01Z"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_stored(database, key_id, scopes, expires_at):
    with pytest.raises(psycopg.errors.CheckViolation):
        create_key(database, key_id, scopes, expires_at)


def test_without_a_policy_the_default_holds(database):
    assert scalar(database, "select public.current_policy()") == {
        "version": 0,
        "policy": DEFAULT_POLICY,
        "updated_at": None,
    }


def test_a_policy_is_a_new_version_and_the_same_once_more_is_none(database):
    first = scalar(database, "select public.set_policy(%s, org_id => %s)", Jsonb({"mode": "warn"}), ORG_A)
    assert (first["version"], first["policy"]) == (1, {"mode": "warn"})
    assert scalar(database, "select public.set_policy(%s, org_id => %s)", Jsonb({"mode": "warn"}), ORG_A) == first
    second = scalar(database, "select public.set_policy(%s, 1, %s)", Jsonb({"mode": "block"}), ORG_A)
    assert (second["version"], second["policy"]) == (2, {"mode": "block"})
    assert scalar(database, "select public.current_policy(%s)", ORG_A) == second
    assert scalar(database, "select public.current_policy(%s)", ORG_B)["version"] == 0
    assert rows(database, "select version, policy from ops.policies where org_id = %s order by 1", ORG_A) == [
        (1, {"mode": "warn"}),
        (2, {"mode": "block"}),
    ]


def test_a_policy_over_another_version_than_the_one_that_was_read_is_refused(database):
    database.execute("select public.set_policy('{}')")
    with refused("PT412"):
        database.execute("""select public.set_policy('{"a": 1}', 0)""")
    assert scalar(database, "select public.current_policy()")["policy"] == {}


def test_two_policies_at_once_are_two_versions(database, connect):
    other = connect()
    with database.transaction():
        database.execute("""select public.set_policy('{"a": 1}')""")
        other.execute("set lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("""select public.set_policy('{"a": 2}')""")
    other.execute("""select public.set_policy('{"a": 2}')""")
    assert rows(database, "select version, policy from ops.policies order by 1") == [(1, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize("policy", ["[]", "null", '"on"', json.dumps({"text": "x" * 70_000})])
def test_a_policy_that_is_no_object_or_too_large_is_refused(database, policy):
    with refused("OP001"):
        database.execute("select public.set_policy(%s::jsonb)", [policy])


def test_only_an_admin_sets_the_policy_and_only_of_the_own_org(database, acting_as):
    app = {"app_metadata": {"org_id": str(ORG_A), "scopes": ["ingest", "read"]}}
    for claims in (
        {"org": ORG_A},
        app,
        {"app_metadata": {"org_id": str(ORG_A), "scopes": "admin"}},
        {"app_metadata": {"org_id": "x", "scopes": ["admin"]}},
    ):
        with acting_as(database, "authenticated", **claims), refused("PT403"):
            database.execute("select public.set_policy('{}')")
    admin = {"app_metadata": {"org_id": str(ORG_A), "scopes": ["admin"]}, "sub": "key-1"}
    with acting_as(database, "authenticated", **admin), refused("PT403"):
        database.execute("select public.set_policy('{}', org_id => %s)", [ORG_B])
    with acting_as(database, "authenticated", commit=True, **admin):
        assert scalar(database, "select public.set_policy('{}')")["version"] == 1
    assert rows(database, "select org_id, created_by from ops.policies") == [(ORG_A, "key-1")]
    with acting_as(database, "authenticated", org=ORG_A), pytest.raises(psycopg.errors.InsufficientPrivilege):
        database.execute("insert into ops.policies (org_id, version, policy) values (%s, 9, '{}')", [ORG_A])
    with acting_as(database, "authenticated", org=ORG_B):
        assert scalar(database, "select public.current_policy()")["version"] == 0
    with acting_as(database, "authenticated", org=ORG_B), refused("PT403"):
        database.execute("select public.current_policy(%s)", [ORG_A])


def count_request(database: Connection, at: str | timedelta, *agents: UUID, org: UUID = ORG_A) -> None:
    as_of = instant(NOON) + at if isinstance(at, timedelta) else instant(at)
    database.execute("select ops.count_request(%s, %s, %s)", [org, list(agents), as_of])


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def test_a_hundred_requests_a_minute_pass_and_the_next_is_told_when_to_come_back(database):
    for number in range(100):
        count_request(database, seconds(number / 2), ANNA)
    with refused("PGRST") as caught:
        count_request(database, seconds(52.5), ANNA)
    said, answer = json.loads(str(caught.value.diag.message_primary)), json.loads(str(caught.value.diag.message_detail))
    assert answer == {"status": 429, "headers": {"Retry-After": "8"}}
    assert said.keys() == {"code", "message", "details", "hint"}
    # The first one leaves its minute; the refused one has not been counted.
    count_request(database, seconds(60.25), ANNA)
    with refused("PGRST"):
        count_request(database, seconds(60.1), ANNA)
    count_request(database, seconds(52.5), BOB)
    count_request(database, seconds(52.5), ANNA, org=ORG_B)
    assert (
        scalar(
            database,
            "select cardinality(requested_at) from ops.request_counts where org_id = %s and agent_id = %s",
            ORG_A,
            ANNA,
        )
        == 100
    )


def test_no_minute_whatever_its_start_has_more_requests_than_allowed(database):
    database.execute("update ops.settings set value = '5' where name = 'requests_per_minute'")
    passed: list[int] = []
    for number in range(200):
        # In tenths of a second, and not quite in order: clocks and locks.
        at = number * 11 + number * 73 % 400
        try:
            count_request(database, timedelta(milliseconds=100 * at), ANNA)
        except psycopg.Error as error:
            assert error.sqlstate == "PGRST"
        else:
            passed.append(max([at, *passed]))
    assert len(passed) >= 15
    assert all(sum(start <= at < start + 600 for at in passed) <= 5 for start in passed)


def test_a_request_of_several_agents_counts_against_each_or_against_none(database):
    database.execute("update ops.settings set value = '1' where name = 'requests_per_minute'")
    count_request(database, NOON, ANNA)
    with refused("PGRST"):
        count_request(database, NOON, ANNA, BOB)
    count_request(database, NOON, BOB)
    assert scalar(database, "select count(*) from ops.request_counts") == 2


def test_two_connections_share_the_limit(database, connect):
    database.execute("update ops.settings set value = '3' where name = 'requests_per_minute'")
    other = connect()
    with database.transaction():
        count_request(database, NOON, ANNA)
        count_request(database, NOON, ANNA)
        other.execute("set lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            count_request(other, NOON, ANNA)
        count_request(other, NOON, BOB)
    count_request(other, NOON, ANNA)
    with refused("PGRST"):
        count_request(other, NOON, ANNA)


def test_a_rolled_back_request_does_not_count(database):
    database.execute("update ops.settings set value = '1' where name = 'requests_per_minute'")
    with database.transaction(force_rollback=True):
        count_request(database, NOON, ANNA)
    count_request(database, NOON, ANNA)
    assert scalar(database, "select cardinality(requested_at) from ops.request_counts") == 1


def test_the_hundred_and_first_batch_through_an_api_is_refused_and_stores_nothing(database, acting_as):
    token = {"org": ORG_A, "commit": True}
    with acting_as(database, "authenticated", **token):
        for _ in range(100):
            assert ingest(database, hook_run())["accepted"] == 1
    with refused("PGRST"), acting_as(database, "authenticated", **token):
        ingest(database, hook_run(), hook_run(agent=BOB))
    with acting_as(database, "authenticated", **token):
        assert ingest(database, hook_run(agent=BOB))["accepted"] == 1
    assert scalar(database, "select count(*) from public.telemetry_events") == 101


def test_batches_that_name_no_agent_are_counted_by_token_readable_or_not(database, acting_as):
    database.execute("update ops.settings set value = '3' where name = 'requests_per_minute'")
    for events in (
        '[{"event_type": "audit_complete"}]',
        '[{"event_type": "audit_complete", "metadata": {"a": "\\u0000"}}]',
        "[]",
    ):
        with acting_as(database, "authenticated", org=ORG_A, sub="one", commit=True):
            database.execute("select public.ingest_events(%s::json)", [events])
    with refused("PGRST"), acting_as(database, "authenticated", org=ORG_A, sub="one"):
        ingest(database, {"event_type": "audit_complete"})
    with acting_as(database, "authenticated", org=ORG_A, sub="two"):
        assert ingest(database, {"event_type": "audit_complete"})["accepted"] == 1


def test_jobs_and_the_service_role_are_held_to_no_limit(database, acting_as):
    database.execute("update ops.settings set value = '1' where name = 'requests_per_minute'")
    for _ in range(3):
        assert ingest(database, hook_run()) == {"accepted": 1, "duplicate": 0, "refused": []}
        with acting_as(database, "service_role"):
            assert ingest(database, hook_run())["accepted"] == 1


@pytest.mark.parametrize("value", ["0", "-1", "many", "1000000", ""])
def test_a_limit_that_is_no_number_is_refused(database, value):
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("update ops.settings set value = %s where name = 'requests_per_minute'", [value])


def test_the_answer_announces_the_policy_of_the_callers_org(database, acting_as):
    with acting_as(database, "authenticated", org=ORG_A, commit=True):
        assert ingest(database, hook_run()) == {"accepted": 1, "duplicate": 0, "refused": [], "policy_version": 0}
    database.execute("select public.set_policy('{}', org_id => %s)", [ORG_A])
    with acting_as(database, "authenticated", org=ORG_A):
        assert ingest(database, hook_run(), {"event_type": "unheard of"})["policy_version"] == 1
    with acting_as(database, "authenticated", org=ORG_B):
        assert ingest(database, hook_run(org=ORG_B))["policy_version"] == 0


def test_maintenance_forgets_the_requests_of_quiet_agents(database):
    count_request(database, NOON, ANNA)
    count_request(database, seconds(3000), BOB)
    database.execute("select ops.maintain(%s)", [instant(NOON) + seconds(3700)])
    assert rows(database, "select agent_id from ops.request_counts") == [(BOB,)]


def test_what_a_hook_sent_is_in_the_metrics_at_once_and_the_same_after_the_refresh(database):
    patterns: dict[str, Any] = {"findings_summary": {"pattern": "secret", "patterns": ["todo", "secret"]}}
    ingest(
        database,
        hook_run(duration_ms=10, result="blocked", **patterns),
        hook_run(duration_ms=20, result="blocked", findings_summary={"pattern": "todo"}),
        hook_run(duration_ms=60, result="overridden"),
        hook_run("2026-03-11T00:00:00Z", duration_ms=10),
        hook_run("2026-04-01T00:00:00Z", duration_ms=1000),
        hook_run(org=ORG_B),
    )
    expected = {
        "total_executions": 4,
        "blocked_count": 2,
        "allowed_count": 1,
        "overridden_count": 1,
        "override_rate": 25,
        "avg_duration_ms": 25,
        "most_blocked_patterns": [{"pattern": "todo", "count": 2}, {"pattern": "secret", "count": 1}],
    }
    assert hook_metrics(database) == expected
    refresh(database)
    assert hook_metrics(database) == expected
    ingest(database, hook_run(duration_ms=5))
    assert hook_metrics(database) == expected | {
        "total_executions": 5,
        "allowed_count": 2,
        "override_rate": 20,
        "avg_duration_ms": 21,
    }
    assert hook_metrics(database, "2026-03-10", "2026-03-10")["total_executions"] == 4
    assert hook_metrics(database, "2026-03-11", "2026-03-11")["total_executions"] == 1


def test_without_executions_rates_are_null_and_not_zero(database):
    assert hook_metrics(database) == {
        "total_executions": 0,
        "blocked_count": 0,
        "allowed_count": 0,
        "overridden_count": 0,
        "override_rate": None,
        "avg_duration_ms": None,
        "most_blocked_patterns": [],
    }


def test_ten_patterns_are_listed_the_most_blocked_first(database):
    for number in range(12):
        ingest(
            database,
            *[hook_run(result="blocked", findings_summary={"pattern": f"p{number:02}"}) for _ in range(number + 1)],
        )
    listed = hook_metrics(database)["most_blocked_patterns"]
    assert listed == [{"pattern": f"p{number:02}", "count": number + 1} for number in range(11, 1, -1)]


def test_the_last_day_is_today_unless_another_is_named(database):
    today = scalar(database, "select (now() at time zone 'UTC')::date")
    for day in (today - timedelta(days=1), today):
        add_event(database, "hook_execution", f"{day}T00:00:00Z", org_id=ORG_A, result="allowed")
    query = "select public.hook_metrics(%s, %s) ->> 'total_executions'"
    assert scalar(database, query, ORG_A, today - timedelta(days=1)) == "2"
    assert scalar(database, query, ORG_A, today) == "1"
    assert scalar(database, query, ORG_A, today + timedelta(days=1)) == "0"


@pytest.mark.parametrize(
    ("since", "until"),
    [("2026-03-02", "2026-03-01"), ("1969-12-31", "2026-03-01"), ("2026-03-01", "2200-01-02"), (None, "2026-03-01")],
)
def test_a_range_of_days_that_makes_no_sense_is_refused(database, since, until):
    with refused("OP001"):
        hook_metrics(database, since, until)


def test_the_days_of_the_metrics_begin_where_the_settings_say(database):
    database.execute("update ops.settings set value = 'Asia/Tokyo' where name = 'time_zone'")
    ingest(database, hook_run("2026-03-10T14:59:59Z"), hook_run("2026-03-10T15:00:00Z"))
    for _ in range(2):
        assert hook_metrics(database, "2026-03-10", "2026-03-10")["total_executions"] == 1
        assert hook_metrics(database, "2026-03-11", "2026-03-11")["total_executions"] == 1
        refresh(database)


def test_the_metrics_of_another_org_are_refused(database, acting_as):
    ingest(database, hook_run(), hook_run(org=ORG_B))
    with acting_as(database, "authenticated", org=ORG_A):
        assert hook_metrics(database)["total_executions"] == 1
    with acting_as(database, "authenticated", org=ORG_A), refused("PT403"):
        hook_metrics(database, org=ORG_B)
    with acting_as(database, "service_role"):
        assert hook_metrics(database, org=ORG_B)["total_executions"] == 1


def test_metrics_and_patterns_are_told_apart_by_team_and_hook_type(database):
    database.execute("select ops.assign_team(%s, %s, 'red')", [ORG_A, ANNA])
    blocked: dict[str, Any] = {"result": "blocked", "findings_summary": {"pattern": "secret"}}
    for _ in range(2):
        ingest(
            database,
            hook_run(**blocked),
            hook_run(agent=BOB, **blocked),
            hook_run(hook_type="pre-push", **blocked),
            hook_run(),
        )
        refresh(database)
        ingest(database, hook_run(**blocked))
    refresh(database)
    assert_exact(database)
    assert hook_metrics(database)["most_blocked_patterns"] == [{"pattern": "secret", "count": 8}]
    red = hook_metrics(database, team="red")
    assert (red["total_executions"], red["blocked_count"]) == (8, 6)
    assert red["most_blocked_patterns"] == [{"pattern": "secret", "count": 6}]
    both = hook_metrics(database, team="red", hook_type="pre-push")
    assert (both["total_executions"], both["most_blocked_patterns"]) == (2, [{"pattern": "secret", "count": 2}])
    assert hook_metrics(database, team="blue")["total_executions"] == 0


def test_a_team_counts_from_the_next_refresh_on_and_rebuild_applies_it_to_the_past(database):
    blocked: dict[str, Any] = {"result": "blocked", "findings_summary": {"pattern": "secret"}}
    ingest(database, hook_run(**blocked))
    refresh(database)
    database.execute("select ops.assign_team(%s, %s, 'red')", [ORG_A, ANNA])
    assert hook_metrics(database, team="red")["total_executions"] == 0
    ingest(database, hook_run(**blocked))
    refresh(database)
    assert hook_metrics(database, team="red")["total_executions"] == 1
    assert hook_metrics(database, team="red")["most_blocked_patterns"] == [{"pattern": "secret", "count": 1}]
    rebuild(database, "2026-03-10T00:00Z", "2026-03-11T00:00Z")
    assert hook_metrics(database, team="red")["total_executions"] == 2
    assert hook_metrics(database, team="red")["most_blocked_patterns"] == [{"pattern": "secret", "count": 2}]
    assert_exact(database)


def test_the_compliance_of_a_team_is_told_week_by_week_with_its_change(database):
    database.execute("select ops.assign_team(%s, %s, 'red')", [ORG_A, ANNA])
    for day, overridden in (("2026-03-02", 2), ("2026-03-09", 1), ("2026-03-23", 3)):
        ingest(
            database,
            *[
                hook_run(f"{day}T10:00:00Z", result="overridden" if number < overridden else "allowed")
                for number in range(4)
            ],
        )
    query = (
        "select team, to_char(period_start at time zone 'UTC', 'MM-DD'), executions, override_rate, compliance_rate, compliance_change"
        " from public.v_ops_hook_teams where aggregation_period = 'week' order by 2"
    )
    expected = [
        ("red", "03-02", 4, 50, 50, None),
        ("red", "03-09", 4, 25, 75, 25),
        ("red", "03-23", 4, 75, 25, -50),
    ]
    assert rows(database, query) == expected
    refresh(database)
    assert rows(database, query) == expected


def test_the_policies_are_compared_by_what_the_hooks_did_under_each(database):
    database.execute("select public.set_policy('{}', org_id => %s)", [ORG_A])
    baseline = {
        "event_type": "hook_baseline",
        "payload": {
            "agent_id": str(ANNA),
            "org_id": str(ORG_A),
            "timestamp": NOON,
            "event_id": str(uuid4()),
            "hook_type": "pre-commit",
            "baseline_entry": dict.fromkeys(("file", "line", "pattern", "reason", "date"), "x"),
            "source": "cli",
            "reviewed": False,
            "policy_version": 1,
        },
    }
    answer = ingest(
        database,
        hook_run(),
        hook_run(policy_version=0, result="blocked"),
        hook_run(policy_version=1, result="blocked"),
        hook_run("2026-03-12T10:00:00Z", policy_version=1, result="overridden"),
        hook_run(policy_version=1),
        hook_run(policy_version=1),
        baseline,
    )
    assert answer == {"accepted": 7, "duplicate": 0, "refused": []}
    query = (
        "select policy_version, set_at is not null, to_char(first_day_start, 'MM-DD'), to_char(last_day_start, 'MM-DD'), executions,"
        " blocked_count, overridden_count, baseline_count, block_rate, override_rate, baseline_rate from public.v_ops_hook_policies"
    )
    expected = [
        (1, True, "03-10", "03-12", 4, 1, 1, 1, 25, 25, 25),
        (0, False, "03-10", "03-10", 1, 1, 0, 0, 100, 0, 0),
        (None, False, "03-10", "03-10", 1, 0, 0, 0, 0, 0, 0),
    ]
    assert rows(database, query) == expected
    refresh(database)
    assert rows(database, query) == expected
    ingest(database, hook_run(policy_version=1))
    assert rows(database, query)[0][4] == 5
    refresh(database)
    assert_exact(database)


def test_hooks_that_were_interrupted_or_failed_are_executions_but_no_decisions(database):
    results = ("allowed", "overridden", "blocked", "blocked", "interrupted", "failed")
    answer = ingest(database, *(hook_run(result=result) for result in results))
    assert answer == {"accepted": 6, "duplicate": 0, "refused": []}
    refresh(database)
    found = hook_metrics(database, "2026-03-01", "2026-03-31")
    assert (found["total_executions"], found["override_rate"]) == (6, 25)
    rates = "select executions, block_rate, override_rate from public."
    assert rows(database, f"{rates}v_ops_hook_policies") == [(6, 50, 25)]
    assert rows(database, f"{rates}v_ops_hook_effectiveness where aggregation_period = 'day'") == [(6, 50, 25)]
    only = ingest(database, hook_run("2026-04-10T10:00:00Z", result="interrupted"))
    assert only["accepted"] == 1
    refresh(database)
    april = f"{rates}v_ops_hook_effectiveness where aggregation_period = 'day' and period_start >= '2026-04-01'"
    assert rows(database, april) == [(1, None, None)]


def test_a_policy_version_that_is_no_number_is_refused_and_one_of_a_plain_insert_harms_nothing(database):
    answer = ingest(database, hook_run(policy_version="one"))
    assert [(found["field"], answer["accepted"]) for found in answer["refused"]] == [("policy_version", 0)]
    add_event(database, "hook_execution", org_id=ORG_A, result="allowed", policy_version="9" * 40)
    assert rows(database, "select policy_version, executions from public.v_ops_hook_policies") == [(None, 1)]


def test_the_metrics_of_all_time_are_those_of_plain_python(database):
    for number in range(60):
        ingest(
            database,
            hook_run(
                f"2026-{1 + number % 5:02}-{1 + number % 28:02}T{number % 24:02}:00:00Z",
                agent=(ANNA, BOB)[number % 2],
                result=("allowed", "blocked", "overridden")[number % 3],
                duration_ms=number * 1.5,
                findings_summary={"pattern": f"p{number % 4}"},
            ),
        )
        if number % 11 == 0:
            refresh(database)
    found = hook_metrics(database, "2026-01-01", "2026-12-31")
    blocked = [number for number in range(60) if number % 3 == 1]
    counted = sorted((-sum(n % 4 == place for n in blocked), f"p{place}") for place in range(4))
    assert found == {
        "total_executions": 60,
        "blocked_count": 20,
        "allowed_count": 20,
        "overridden_count": 20,
        "override_rate": float(round(Decimal(100) / 3, 6)),
        "avg_duration_ms": sum(number * 1.5 for number in range(60)) / 60,
        "most_blocked_patterns": [{"pattern": name, "count": -count} for count, name in counted],
    }


def test_what_the_function_is_called_with_may_be_json_of_any_kind(database, acting_as):
    for documents in ([None], [1], ["text"], [[]], [{}], [{"payload": {"agent_id": 5}}]):
        with acting_as(database, "authenticated", org=ORG_A):
            answer = scalar(database, "select public.ingest_events(%s)", Json(documents))
            assert (answer["accepted"], len(answer["refused"])) == (0, 1)


def test_a_clock_that_once_ran_ahead_blocks_nobody_afterwards(database):
    count_request(database, seconds(86_400), ANNA)
    for number in range(100):
        count_request(database, seconds(number / 10), ANNA)
    with refused("PGRST"):
        count_request(database, seconds(11), ANNA)


def test_a_token_ingests_and_reads_only_what_its_scopes_say(database, acting_as):
    for scopes, call in (
        (["read"], "select public.ingest_events('[]')"),
        (["ingest"], "select public.hook_metrics(null, '2026-01-01')"),
    ):
        with (
            acting_as(database, "authenticated", app_metadata={"org_id": str(ORG_A), "scopes": scopes}),
            refused("PT403"),
        ):
            database.execute(call)


def test_a_batch_through_an_api_has_a_bound_and_a_job_has_none(database, acting_as):
    events = [{"event_type": "audit_complete"}] * 5001
    with acting_as(database, "authenticated", org=ORG_A), refused("PT413"):
        ingest(database, *events)
    assert ingest(database, *events)["accepted"] == 5001


def test_a_batch_of_thousands_that_cannot_be_read_is_refused_one_by_one(database):
    answer = scalar(database, "select public.ingest_events(%s::json)", "[" + ",".join(['"\\u0000"'] * 3000) + "]")
    assert (answer["accepted"], [fault["index"] for fault in answer["refused"]]) == (0, list(range(3000)))

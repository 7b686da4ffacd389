"""Erasing an agent: nothing of it is left, and nothing else changes."""

import subprocess

import pytest
from psycopg.types.json import Jsonb

from support.events import (
    AS_OF,
    Connection,
    add_channel,
    add_event,
    add_rule,
    ingest,
    rebuild,
    refresh,
    refused,
    rows,
    run_jobs,
    scalar,
)
from support.postgres import Database, Server
from support.privacy import (
    ANNA,
    BEN,
    ORG_A,
    ORG_B,
    Batch,
    anonymise,
    blocked_push_of,
    erase,
    fill_two_orgs,
    kept_and_shown,
    metadata_of,
    only,
    pseudonym,
    shown_by_views,
    sorted_states,
    token,
)

pytestmark = pytest.mark.database


def dump(server: Server, database: Database) -> str:
    """All rows as pg_dump writes them, without the token that each dump has of its own."""
    text = subprocess.run(
        [server.bin_dir / "pg_dump", "--data-only", database.dsn], capture_output=True, encoding="utf-8", check=True
    ).stdout
    return "\n".join(line for line in text.lower().splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def leave_traces(connection: Connection) -> None:
    """Have the agent wherever it can be."""
    fill_two_orgs(connection)
    add_channel(connection)
    add_rule(connection, "silent", "silent_agents", silent_for="1 hour")
    add_rule(connection, "slow", "silent_agents", silent_for="90 minutes", alert_after="1 day")
    connection.execute("select ops.count_request(%s, %s)", [ORG_A, [ANNA]])
    run_jobs(connection, "2026-03-10T15:00:00Z")
    connection.execute(
        "select ops.silence_alerts(%s, '2100-01-01Z', %s, 'them', %s)", [str(ANNA), f"away: {ANNA}", ORG_A]
    )
    connection.execute("select ops.record_job_failure('refresh', %s)", [f"it was {ANNA}"])
    add_event(connection, "deploy", by=str(ANNA).upper(), note=f"with {ANNA}", org_id=ORG_A, more={f"of {ANNA}": 1})
    add_event(
        connection, "hook_override", override_reason="secret reason of an uncounted event", org_id=ORG_A, agent_id=ANNA
    )
    add_event(connection, "odd", metadata=Jsonb({"agent_id": f"agent {ANNA}", "reason": "secret reason"}), org_id=ORG_A)


@pytest.mark.parametrize("anonymised_before", [False, True])
def test_after_an_erasure_a_dump_has_neither_the_agent_nor_its_reasons(
    database, server, migrated_database, anonymised_before
):
    leave_traces(database)
    if anonymised_before:
        anonymise(database)
    database.execute("delete from public.telemetry_events where org_id = %s", [ORG_B])
    database.execute("delete from ops.agents where org_id = %s", [ORG_B])
    database.execute("delete from ops.alerts where org_id = %s", [ORG_B])
    database.execute("delete from ops.alert_deliveries where org_id = %s", [ORG_B])
    traced = dump(server, migrated_database)
    assert str(ANNA) in traced
    assert "secret reason" in traced
    expected = erase(database, ANNA, dry_run=True)
    assert dump(server, migrated_database) == traced
    assert erase(database, ANNA) == expected
    assert expected.counts is not None
    assert {
        "ops.agents",
        "ops.alerts",
        "ops.alert_deliveries",
        "ops.alert_silences",
        "ops.job_runs",
        "ops.request_counts",
    } <= set(expected.counts)
    text = dump(server, migrated_database)
    assert str(ANNA) not in text
    assert str(pseudonym(ANNA, ORG_A)) not in text
    erased = scalar(database, "select ops.erased_agent_id(%s, 'red')", ORG_A)
    mine = "select string_agg(metadata::text, ' ') from public.telemetry_events where coalesce(metadata ->> 'agent_id', agent_id::text) = %s"
    assert not any(word in scalar(database, mine, str(erased)).lower() for word in ("secret reason", "anna"))
    assert text.count("secret reason") == (0 if anonymised_before else 1), "Ben's own stays"
    assert erase(database, ANNA) == Batch("done", None, 0, 0, {}, {})


def test_an_erasure_leaves_kpis_slos_and_views_the_same_and_other_agents_and_orgs_alone(at_one_instant):
    fill_two_orgs(at_one_instant)
    before = kept_and_shown(at_one_instant)
    others = "select * from public.telemetry_events where org_id = %s or agent_id is distinct from %s order by id"
    kept = rows(at_one_instant, others, ORG_B, ANNA)
    assert erase(at_one_instant, ANNA).changed == 3
    assert kept_and_shown(at_one_instant) == before
    rebuild(at_one_instant, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert kept_and_shown(at_one_instant) == before
    erased = scalar(at_one_instant, "select ops.erased_agent_id(%s, 'red')", ORG_A)
    assert rows(at_one_instant, others, ORG_B, erased) == kept
    assert rows(at_one_instant, "select team, last_event_at from ops.agents where agent_id = %s", erased) == [
        ("red", None)
    ]


def test_what_is_not_counted_yet_is_erased_and_counts_for_the_team_all_the_same(at_one_instant):
    at_one_instant.execute("select ops.assign_team(%s, %s, 'red')", [ORG_A, ANNA])
    ingest(at_one_instant, blocked_push_of(ANNA))
    refresh(at_one_instant)
    ingest(at_one_instant, blocked_push_of(ANNA))
    fresh = shown_by_views(at_one_instant)
    assert erase(at_one_instant, ANNA).changed == 2
    assert shown_by_views(at_one_instant) == fresh
    assert refresh(at_one_instant).events == 1
    erased = scalar(at_one_instant, "select ops.erased_agent_id(%s, 'red')", ORG_A)
    assert rows(at_one_instant, "select agent_id, last_event_at from ops.agents") == [(erased, None)]
    assert rows(
        at_one_instant, "select distinct labels ->> 'team' from ops.series where event_type = 'hook_execution'"
    ) == [("red",)]


def test_all_erased_agents_of_a_team_become_one(database):
    for agent in (ANNA, BEN):
        database.execute("select ops.assign_team(%s, %s, 'red')", [ORG_A, agent])
        ingest(database, blocked_push_of(agent))
    refresh(database)
    erase(database, ANNA)
    erase(database, BEN)
    erased = scalar(database, "select ops.erased_agent_id(%s, 'red')", ORG_A)
    assert rows(database, "select distinct agent_id, metadata ->> 'agent_id' from public.telemetry_events") == [
        (erased, str(erased))
    ]
    with refused():
        erase(database, erased)


def test_an_open_alert_about_an_erased_agent_ends_and_that_is_said(database):
    leave_traces(database)
    add_event(database, org_id=ORG_A, at="2026-03-10T15:01:00Z", outcome="success")
    erase(database, ANNA)
    erase(database, BEN)
    states_of = "select rule_name, state, subject = %s from ops.alerts where org_id = %s order by alert_id"
    erased = scalar(database, "select ops.erased_agent_id(%s, 'red')", ORG_A)
    nobody = scalar(database, "select ops.erased_agent_id(%s, null)", ORG_A)
    assert sorted(rows(database, states_of, str(erased), ORG_A)) == [
        ("silent", "ended", False),
        ("silent", "ended", True),
    ]
    run_jobs(database, AS_OF)
    said = scalar(
        database, "select message from ops.alert_deliveries where org_id = %s order by delivery_id desc limit 1", ORG_A
    )
    assert {fact["subject"] for fact in said["ended"]} == {str(erased), str(nobody)}


def test_an_erasure_needs_the_key_where_there_are_pseudonyms(database):
    fill_two_orgs(database)
    assert erase(database, BEN, None).changed == 4
    anonymise(database)
    with refused("OP003"):
        erase(database, ANNA, None)
    assert erase(database, ANNA, None, without_key=True).counts == {"ops.agents": 1}
    assert erase(database, ANNA).changed == 3
    assert erase(database, ANNA).changed == 0


def test_a_pseudonym_can_be_erased_by_itself_without_the_key(database):
    fill_two_orgs(database)
    anonymise(database)
    assert erase(database, pseudonym(ANNA, ORG_A), None).changed == 3


def test_an_erasure_removes_what_a_rule_would_hash_and_what_one_has_hashed(database):
    only(database, "$.note", "hmac")
    event = add_event(database, "deploy", note="Anna", org_id=ORG_A, agent_id=ANNA)
    refresh(database)
    anonymise(database)
    assert metadata_of(database, event) == {"note": token("Anna", ORG_A)}
    erase(database, ANNA)
    assert metadata_of(database, event) == {}


@pytest.mark.parametrize("arguments", [{"org_id": None}, {"max_events": 0}])
def test_an_erasure_without_bounds_is_refused(database, arguments):
    with refused():
        erase(database, ANNA, **arguments)


def test_batches_of_an_erasure_leave_none_out_and_an_interrupted_one_is_finished_by_the_next(database):
    leave_traces(database)
    refresh(database)
    before = sorted_states(database)
    assert erase(database, ANNA, max_events=3).state == "more"
    assert scalar(database, "select count(*) from ops.agents where org_id = %s and agent_id = %s", ORG_A, ANNA) == 1
    rebuild(database, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert sorted_states(database) == before
    report, calls = erase(database, ANNA, max_events=3), 1
    while report.state == "more":
        report, calls = erase(database, ANNA, max_events=3, after_id=report.last_id), calls + 1
    assert calls > 5
    rebuild(database, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert sorted_states(database) == before
    assert erase(database, ANNA) == Batch("done", None, 0, 0, {}, {})

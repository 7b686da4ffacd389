"""Anonymising what is stored: all figures stay, batch by batch, whoever is at work meanwhile."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.events import (
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
from support.privacy import (
    ANNA,
    BEN,
    LATER,
    ORG_A,
    ORG_B,
    Batch,
    anonymise,
    erase,
    fill_two_orgs,
    kept_and_shown,
    keyed,
    metadata_of,
    override_of,
    pseudonym,
    sorted_states,
)

pytestmark = pytest.mark.database


def test_kpis_slos_and_views_are_the_same_to_the_digit_before_after_and_rebuilt(at_one_instant):
    fill_two_orgs(at_one_instant)
    before = kept_and_shown(at_one_instant)
    report = anonymise(at_one_instant)
    assert report.changed == 18
    assert kept_and_shown(at_one_instant) == before
    rebuild(at_one_instant, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert kept_and_shown(at_one_instant) == before


def test_anonymised_twice_nothing_changes(database):
    fill_two_orgs(database)
    first = anonymise(database)
    stored = rows(database, "select * from public.telemetry_events order by id")
    second = anonymise(database, "another key, as long as it must be")
    assert (first.state, second.state, first.looked_at, second.looked_at) == ("done", "done", 20, 20)
    assert (second.changed, second.counts) == (0, {})
    assert rows(database, "select * from public.telemetry_events order by id") == stored


def test_a_dry_run_reports_what_the_run_then_reports_and_changes_nothing(database):
    fill_two_orgs(database)
    stored = rows(database, "select * from public.telemetry_events order by id")
    agents = rows(database, "select * from ops.agents order by 1, 2")
    expected = anonymise(database, dry_run=True)
    assert rows(database, "select * from public.telemetry_events order by id") == stored
    assert rows(database, "select * from ops.agents order by 1, 2") == agents
    assert anonymise(database) == expected
    assert expected.counts == {
        "agent-ids": 14, "e-mail-addresses": 4, "files": 6, "override-reasons": 4, "paths": 2, "reasons": 6
    }  # fmt: skip


def test_only_the_org_the_kind_and_the_time_named_change(database):
    fill_two_orgs(database)
    late = add_event(database, "hook_override", LATER, override_reason="later", org_id=ORG_A)
    refresh(database)
    assert anonymise(database, only_org_id=ORG_A, only_event_type="hook_override").changed == 2
    reasons = "select count(*) from public.telemetry_events where org_id = %s and metadata ->> 'override_reason' = %s"
    assert scalar(database, reasons, ORG_A, "[removed]") == 2
    assert scalar(database, reasons, ORG_B, "[removed]") == 0
    assert scalar(database, "select count(*) from public.telemetry_events where metadata::text like '%%Anna''s%%'") == 4
    assert metadata_of(database, late) == {"override_reason": "later"}


def test_what_is_not_counted_yet_waits(database):
    event = add_event(database, "hook_override", override_reason="new")
    assert anonymise(database).looked_at == 0
    refresh(database)
    assert anonymise(database).changed == 1
    assert metadata_of(database, event) == {"override_reason": "[removed]"}


def test_batches_go_by_id_and_leave_none_out(database):
    fill_two_orgs(database)
    add_event(database, "hook_override", override_reason="late", at="2024-01-01T00:00:00Z")
    refresh(database)
    last_id, looked_at, calls = 0, 0, 0
    while True:
        report = anonymise(database, after_id=last_id, max_events=4)
        looked_at, calls = looked_at + (report.looked_at or 0), calls + 1
        if report.state == "done":
            break
        last_id = report.last_id
    assert (looked_at, calls) == (21, 6)
    assert anonymise(database).changed == 0


def test_an_event_keeps_its_id_its_key_and_its_time_and_is_not_counted_again(database):
    fill_two_orgs(database)
    query = "select id, event_id, event_timestamp, created_at, run_id, tag, outcome, duration_ms from public.telemetry_events order by id"
    kept = rows(database, query)
    anonymise(database)
    assert rows(database, query) == kept
    assert refresh(database).events == 0


@pytest.mark.parametrize("arguments", [{"before": None}, {"max_events": 0}, {"max_events": None}])
def test_a_run_without_bounds_is_refused(database, arguments):
    with refused():
        anonymise(database, **arguments)


# Agents


def test_a_pseudonym_has_the_team_of_its_agent_and_follows_it(database):
    fill_two_orgs(database)
    anonymise(database)
    team = "select team from ops.agents where org_id = %s and agent_id = %s"
    mine = pseudonym(ANNA, ORG_A)
    assert rows(
        database,
        "select team, last_event_at, is_pseudonym from ops.agents where org_id = %s and agent_id = %s",
        ORG_A,
        mine,
    ) == [("red", None, True)]
    with keyed(database):
        database.execute("select ops.assign_team(%s, %s, 'blue')", [ORG_A, ANNA])
    assert scalar(database, team, ORG_A, mine) == "blue"
    database.execute("select ops.assign_team(%s, %s, 'green')", [ORG_A, ANNA])
    assert scalar(database, team, ORG_A, mine) == "blue"
    ingest(database, override_of(ANNA))
    refresh(database)
    anonymise(database)
    assert scalar(database, team, ORG_A, mine) == "green"
    assert scalar(database, team, ORG_B, pseudonym(ANNA, ORG_B)) == "red"


def test_a_team_that_changes_later_gives_the_kpis_it_would_have_given(database, create_database, template):
    fill_two_orgs(database)
    twin = create_database(template)
    with psycopg.connect(twin.dsn, autocommit=True) as untouched:
        fill_two_orgs(untouched)
        anonymise(database)
        for connection in (database, untouched):
            with keyed(connection):
                connection.execute("select ops.assign_team(%s, %s, 'blue')", [ORG_A, ANNA])
            rebuild(connection, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
        assert sorted_states(database) == sorted_states(untouched)


def test_silent_agents_are_not_asked_for_under_their_pseudonyms(database):
    fill_two_orgs(database)
    anonymise(database)
    add_rule(database, "silent", "silent_agents", silent_for="1 hour")
    run_jobs(database, "2026-03-10T15:00:00Z")
    found = rows(database, "select org_id, subject from ops.alerts order by 1, 2")
    assert found == [(org, str(agent)) for org in (ORG_A, ORG_B) for agent in (ANNA, BEN)]


def test_an_agent_that_is_a_label_keeps_its_name_in_both_places(database):
    database.execute("update ops.event_types set label_keys = '{agent_id}' where event_type = 'artifact'")
    event = add_event(
        database, "artifact", size_bytes=1, agent_id=ANNA, metadata=Jsonb({"agent_id": str(ANNA), "size_bytes": 1})
    )
    refresh(database)
    before = sorted_states(database)
    anonymise(database)
    rebuild(database, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert sorted_states(database) == before
    assert metadata_of(database, event)["agent_id"] == str(ANNA)


# Interruptions and company


def test_a_run_that_is_busy_says_so_and_does_nothing(database, connect):
    fill_two_orgs(database)
    other = connect(autocommit=False)
    other.execute("select pg_advisory_xact_lock(hashtextextended('ops.refresh', 0))")
    assert anonymise(database) == Batch("busy", None, None, None, None)
    assert erase(database, ANNA) == Batch("busy", None, None, None, None)
    assert anonymise(database, dry_run=True).changed == 18
    other.rollback()
    other.execute("select pg_advisory_xact_lock(hashtextextended('ops.evaluate_alerts', 0))")
    assert erase(database, ANNA).state == "busy"


def test_a_refresh_meanwhile_counts_nothing_twice(database, connect):
    fill_two_orgs(database)
    before = sorted_states(database)
    other = connect()
    with other.transaction():
        anonymise(other)
        assert refresh(database).state == "busy"
        add_event(database, "hook_override", override_reason="meanwhile", org_id=ORG_A)
    assert refresh(database).events == 1
    database.execute("delete from public.telemetry_events where metadata ->> 'override_reason' = 'meanwhile'")
    rebuild(database, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert sorted_states(database) == before


def test_the_log_tells_what_was_done_and_not_to_whom(database):
    fill_two_orgs(database)
    run = scalar(database, "select ops.begin_anonymisation('rules', %s, %s)", LATER, ORG_A)
    report = anonymise(database, only_org_id=ORG_A, max_events=4, anonymisation_id=run)
    unfinished = "select kind, only_org_id, finished_at is null, looked_at, changed, counts from ops.anonymisations"
    assert rows(database, unfinished) == [("rules", ORG_A, True, report.looked_at, report.changed, report.counts)]
    while report.state == "more":
        report = anonymise(database, only_org_id=ORG_A, max_events=4, after_id=report.last_id, anonymisation_id=run)
    counts = {"agent-ids": 7, "e-mail-addresses": 2, "files": 3, "override-reasons": 2, "paths": 1, "reasons": 3}
    assert rows(database, unfinished) == [("rules", ORG_A, False, 10, 9, counts)]

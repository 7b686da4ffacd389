"""Rules: those that are there from the start, those that are refused, and that none touches what counts."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from support.events import (
    NIL,
    add_event,
    rebuild,
    refresh,
    refused,
    rows,
    scalar,
)
from support.privacy import (
    ANNA,
    KEY,
    LATER,
    ORG_A,
    after,
    anonymise,
    documents,
    fill_two_orgs,
    kept_and_shown,
    only,
    pseudonym,
    some_rules,
    sorted_states,
)

pytestmark = pytest.mark.database


def test_reasons_files_addresses_and_agents_are_taken_out_from_the_start(database):
    fill_two_orgs(database)
    anonymise(database)
    entry = {"file": "*.py", "line": 7, "pattern": "aws-key", "reason": "[removed]", "date": "2026-03-01"}
    mine = str(pseudonym(ANNA, ORG_A))
    found = rows(
        database,
        "select event_type, agent_id::text, metadata - array['org_id', 'hook_type'] from public.telemetry_events"
        " where org_id = %s and agent_id = %s order by id",
        ORG_A,
        pseudonym(ANNA, ORG_A),
    )
    findings = {"total": 1, "pattern": "aws-key"}
    said = {"result": "blocked", "duration_ms": 12.5, "findings_summary": findings, "user_actions": ["asked [e-mail]"]}
    assert found == [
        ("hook_execution", mine, said | {"agent_id": mine}),
        ("hook_baseline", mine, {"agent_id": mine, "source": "manual", "reviewed": True, "baseline_entry": entry}),
        (
            "hook_override",
            mine,
            {"agent_id": mine, "override_reason": "[removed]", "findings_count": 2, "severity": "high"},
        ),
    ]
    run = rows(
        database, "select metadata from public.telemetry_events where event_type = 'slsa_provenance' order by id"
    )
    assert run[0][0] == {"outcome": "failure", "duration_ms": 7, "workflow": "path"}
    assert run[1][0] == {"outcome": "success", "duration_ms": 9, "workflow": "path", "path": "*.py"}


def test_without_a_key_a_rule_that_hashes_is_refused_and_nothing_changes(database):
    fill_two_orgs(database)
    stored = rows(database, "select * from public.telemetry_events order by id")
    for dry_run in (False, True):
        with refused("OP003"):
            anonymise(database, None, dry_run=dry_run)
    only(database, "$.**.reason", "hmac")
    with refused("OP003"):
        anonymise(database, None)
    assert rows(database, "select * from public.telemetry_events order by id") == stored
    only(database, "$.**.reason", "remove")
    assert anonymise(database, None).changed == 6


def test_a_rule_that_hashes_and_hits_nothing_needs_no_key(database):
    only(database, "$.nowhere", "hmac")
    assert after(database, {"a": "b"}) == {"a": "b"}
    assert anonymise(database, None).state == "done"


def test_a_rule_that_is_off_does_nothing(database):
    only(database, "$.**.reason", "remove")
    database.execute("update ops.anonymisation_rules set is_enabled = false")
    assert after(database, {"reason": "x"}) == {"reason": "x"}


@pytest.mark.parametrize("action", ["remove", "hmac", "generalise"])
def test_a_rule_for_everything_leaves_what_counts(at_one_instant, action):
    fill_two_orgs(at_one_instant)
    before = kept_and_shown(at_one_instant)
    only(at_one_instant, "$.**", action)
    anonymise(at_one_instant)
    rebuild(at_one_instant, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
    assert kept_and_shown(at_one_instant) == before
    assert (
        scalar(at_one_instant, "select count(*) from public.telemetry_events where metadata::text ~ 'Anna|secret|anna'")
        == 0
    )


@pytest.mark.parametrize(
    ("event_type", "path"),
    [
        ("", "$.outcome"),
        ("", "$.outcome.x"),
        ("", "$.duration_ms"),
        ("", "$.org_id"),
        ("", "$.policy_version"),
        ("", "$.workflow"),
        ("workflow_run", "$.workflow"),
        ("artifact", "$.size_bytes"),
        ("hook_execution", "$.findings_summary"),
        ("hook_execution", "$.findings_summary.pattern"),
        ("hook_execution", "$.findings_summary.patterns"),
        ("hook_execution", "$.findings_summary.patterns[*]"),
        ("hook_execution", "$.hook_type"),
        ("hook_override", "$.findings_count"),
    ],
)
def test_a_rule_that_names_what_counts_is_refused(database, event_type, path):
    for action in ("remove", "hmac", "generalise"):
        with refused():
            database.execute(
                "select ops.set_anonymisation_rule('it', %s, %s, event_type => %s)", [path, action, event_type]
            )
    assert scalar(database, "select count(*) from ops.anonymisation_rules where rule_name = 'it'") == 0


@pytest.mark.parametrize(
    ("event_type", "path"),
    [("artifact", "$.workflow"), ("hook_execution", "$.findings_summary.total"), ("", "$.**.workflow")],
)
def test_a_rule_beside_what_counts_is_taken(database, event_type, path):
    database.execute("select ops.set_anonymisation_rule('it', %s, 'remove', event_type => %s)", [path, event_type])
    database.execute(
        "select ops.set_anonymisation_rule('it', %s, 'hmac', event_type => %s, on_ingest => true)", [path, event_type]
    )
    assert rows(database, "select path, action, on_ingest from ops.anonymisation_rules where rule_name = 'it'") == [
        (path, "hmac", True)
    ]
    assert scalar(database, "select ops.remove_anonymisation_rule('it')") is True
    assert scalar(database, "select ops.remove_anonymisation_rule('it')") is False


@pytest.mark.parametrize(
    ("path", "action", "matching"),
    [
        ("$.agent_id", "remove", None),
        ("$.agent_id", "generalise", None),
        ("$.agent_id", "hmac", "a"),
        ('$."agent_id"', "hmac", None),
        ("$.agent_id.**", "hmac", None),
    ],
)
def test_agents_are_hashed_whole_or_not_at_all(database, path, action, matching):
    with refused():
        database.execute("select ops.set_anonymisation_rule('it', %s, %s, matching => %s)", [path, action, matching])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(documents, min_size=1, max_size=3), rules=some_rules, erasing=st.booleans())
def test_twice_is_once_and_what_counts_stays_whatever_the_rules_and_the_documents(database, said, rules, erasing):
    with database.transaction(force_rollback=True):
        database.execute("select set_config('opskpi.anonymisation_key', %s, true)", [KEY])
        database.execute("delete from ops.anonymisation_rules where rule_name <> 'agent-ids'")
        for number, (path, action, matching) in enumerate(rules):
            database.execute(
                "insert into ops.anonymisation_rules (rule_name, path, action, matching) values (%s, %s, %s, %s)",
                [f"rule-{number}", path, action, matching],
            )
        for document in said:
            add_event(database, "hook_execution", metadata=Jsonb(document), agent_id=ANNA)
        # Each example is rolled back, which a refresh takes for a pass that was cut off: the next ones take fewer events.
        while refresh(database).state == "more":
            pass
        before = sorted_states(database)
        # What is counted under the name of the agent gets another name.
        assume(not erasing or str(ANNA) not in str(before))
        query = "select id, metadata, agent_id from public.telemetry_events order by id"

        def step() -> int:
            call = "select changed from ops.anonymise_events(%s)"
            if erasing:
                call = "select changed from ops.erase_agent(%s, %s)"
                return scalar(database, call, NIL, ANNA)
            return scalar(database, call, LATER)

        step()
        once = rows(database, query)
        assert step() == 0
        assert rows(database, query) == once
        rebuild(database, "2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z")
        assert sorted_states(database) == before

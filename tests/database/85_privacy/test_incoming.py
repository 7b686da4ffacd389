"""Anonymising on the way in: before an event is stored, with the same figures and the same refusals."""

from collections.abc import Mapping

import psycopg
import pytest

from support.events import (
    ingest,
    refresh,
    refused,
    rows,
    scalar,
)
from support.fixtures import ActingAs
from support.privacy import (
    ALL,
    ANNA,
    BEN,
    KEY,
    ORG_A,
    ORG_B,
    anonymise,
    baseline,
    blocked_push_of,
    fill_two_orgs,
    keyed,
    override_of,
    pseudonym,
    sorted_states,
    switch_on,
)

pytestmark = pytest.mark.database


@pytest.mark.parametrize("with_a_bad_one", [False, True])
def test_rules_apply_before_an_event_is_stored_and_a_repeated_one_is_a_duplicate(database, with_a_bad_one):
    switch_on(database, *ALL)
    database.execute("select ops.assign_team(%s, %s, 'red')", [ORG_A, ANNA])
    sent = [blocked_push_of(ANNA, user_actions=["a@b.example"]), baseline(ANNA), override_of(ANNA)]
    sent += [{"event_type": "nonsense"}] if with_a_bad_one else []
    with keyed(database):
        answer = ingest(database, *sent)
    assert (answer["accepted"], len(answer["refused"])) == (3, int(with_a_bad_one))
    text = scalar(database, "select string_agg(metadata::text || agent_id, ' ') from public.telemetry_events")
    assert not any(word in text for word in ("a@b.example", str(ANNA), "src/anna", "Anna's key", "secret reason"))
    assert rows(database, "select distinct agent_id from public.telemetry_events") == [(pseudonym(ANNA, ORG_A),)]
    with keyed(database):
        again = ingest(database, *sent)
    assert (again["accepted"], again["duplicate"]) == (0, 3)
    refresh(database)
    labels = "select distinct labels ->> 'team' from ops.series where event_type = 'hook_execution'"
    assert rows(database, labels) == [("red",)]
    assert anonymise(database).changed == 0


def test_rules_on_the_way_in_count_the_same_as_none(database, create_database, template):
    twin = create_database(template)
    sent = [blocked_push_of(agent, org) for agent in (ANNA, BEN) for org in (ORG_A, ORG_B)] + [
        baseline(ANNA),
        override_of(BEN),
    ]
    with psycopg.connect(twin.dsn, autocommit=True) as plain:
        switch_on(database, *ALL)
        for connection in (database, plain):
            connection.execute("select ops.assign_team(%s, %s, 'red')", [ORG_A, ANNA])
            with keyed(connection):
                ingest(connection, *sent)
            with keyed(connection):
                connection.execute("select ops.assign_team(%s, %s, 'blue')", [ORG_A, BEN])
            refresh(connection)
        assert sorted_states(database) == sorted_states(plain)


def test_an_export_of_anonymised_events_comes_in_again(database):
    fill_two_orgs(database)
    anonymise(database)
    exported = rows(
        database,
        "select jsonb_build_object('event_type', event_type, 'event_id', event_id, 'event_timestamp', event_timestamp,"
        " 'org_id', org_id, 'agent_id', agent_id, 'metadata', metadata) from public.telemetry_events"
        " where event_type <> 'never described' order by id",
    )
    switch_on(database, *ALL)
    documents: list[Mapping[str, object]] = [row[0] for row in exported]
    with keyed(database, "another key, as long as it must be"):
        assert ingest(database, *documents) == {"accepted": 0, "duplicate": 18, "refused": []}
    stored = "select event_id, agent_id, metadata from public.telemetry_events where event_type <> 'never described' order by 1"
    before = rows(database, stored)
    database.execute("delete from public.telemetry_events")
    with keyed(database, "another key, as long as it must be"):
        assert ingest(database, *documents) == {"accepted": 18, "duplicate": 0, "refused": []}
    assert rows(database, stored) == before


def test_without_the_key_an_event_that_would_be_hashed_is_refused_as_a_whole(database, acting_as):
    switch_on(database, "agent-ids")
    with refused("OP003"):
        ingest(database, blocked_push_of(ANNA))
    with refused("PT503"), acting_as(database, "authenticated", org=ORG_A) as caller:
        ingest(caller, blocked_push_of(ANNA))
    with refused("PT503"), acting_as(database, "service_role") as caller:
        ingest(caller, blocked_push_of(ANNA), {"event_type": "nonsense"})
    plain = {"event_type": "workflow_run", "payload": {"outcome": "success", "workflow": "ci"}}
    assert ingest(database, plain)["accepted"] == 1
    assert scalar(database, "select count(*) from public.telemetry_events") == 1


def test_a_caller_bound_to_an_org_leaves_no_trace_of_the_agent_anywhere(database, acting_as: ActingAs):
    switch_on(database, *ALL)
    with acting_as(database, "authenticated", org=ORG_A, commit=True, sub="key") as caller:
        caller.execute("select set_config('opskpi.anonymisation_key', %s, true)", [KEY])
        assert ingest(caller, blocked_push_of(ANNA), override_of(ANNA))["accepted"] == 2
    mine = pseudonym(ANNA, ORG_A)
    assert rows(database, "select agent_id from ops.request_counts") == [(mine,)]
    assert rows(database, "select org_id, agent_id, is_pseudonym from ops.agents") == [(ORG_A, mine, True)]


def test_a_caller_adds_pseudonyms_of_the_own_org_and_no_other_agents(database, acting_as):
    for org, agent in ((ORG_B, pseudonym(ANNA)), (ORG_A, ANNA)):
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege),
            acting_as(database, "authenticated", org=ORG_A) as caller,
        ):
            caller.execute("insert into ops.agents (org_id, agent_id) values (%s, %s)", [org, agent])
    with acting_as(database, "authenticated", org=ORG_A) as caller:
        caller.execute("insert into ops.agents (org_id, agent_id) values (%s, %s)", [ORG_A, pseudonym(ANNA)])

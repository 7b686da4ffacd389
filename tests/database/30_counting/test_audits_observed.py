"""Audits that become a row and an event, what KPIs, SLOs and alerts make of them, and the runs that wait for one."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from opskpi.provenance import auditing, latest, recording
from opskpi.provenance.checks import Artifact, Expectation
from opskpi.provenance.recording import Identity, Recorded
from opskpi.provenance.signatures import Signatures
from support.events import (
    NIL,
    add_event,
    add_rule,
    alerts,
    evaluate,
    instant,
    kpis,
    refresh,
    refused,
    rows,
    run_jobs,
    scalar,
)
from support.fixtures import ActingAs, Connect
from support.oracle import assert_exact
from support.provenances import BUILDER, COMMIT, OTHER_SHA256, RUN_ID, RUN_URL, SHA256, envelope, statement_v1

pytestmark = pytest.mark.database

ORG = UUID("00000000-0000-0000-0000-000000000007")
AT = "2026-03-10T12:00:00+00:00"
SIGNATURES = Signatures()
ROW = (
    "select provenance_status, validation_status, sha256_verified, predicate_type_verified, tag"
    " from public.slsa_audit_metrics order by audit_run_id"
)


def observe(
    connection: psycopg.Connection,
    folder: Path,
    number: int,
    *,
    at: str = AT,
    sha256: str = SHA256,
    org_id: UUID = NIL,
    document: object = None,
    validation_run_id: int | None = None,
    provenance_run_id: int | None = None,
    **asked: Any,
) -> Recorded:
    """Audit provenance and record it as if it were that instant."""
    file = folder / f"{number}.json"
    file.write_text(json.dumps(envelope(statement_v1()) if document is None else document))
    expectation = Expectation(**asked)
    report = auditing.audit([file], [Artifact("app", {"sha256": sha256})], expectation, SIGNATURES)
    identity = Identity(org_id, number, provenance_run_id, validation_run_id)
    audit = recording.row(report, expectation, identity) | {"audit_timestamp": at}
    return recording.record(connection, audit, recording.event_of(report, 1.5))


def audit_events(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return rows(
        connection,
        "select run_id, tag, outcome, duration_ms::integer from public.telemetry_events"
        " where event_type = 'audit_observer' order by id",
    )


def test_an_audit_becomes_a_whole_row_and_an_event(database, tmp_path):
    recorded = observe(database, tmp_path, 1, tag="v1.4.0")
    assert recorded.events_stored == 1
    assert recorded.audit_timestamp == instant(AT)
    assert rows(
        database,
        "select audit_run_id, provenance_run_id, audit_timestamp, provenance_status, validation_status, sha256_verified,"
        " predicate_type_verified, supabase_provenance_synced, supabase_validation_synced, tag, sha256, predicate_type,"
        " builder_id, content_sha256, provenance_run_url, metadata ->> 'outcome', org_id from public.slsa_audit_metrics",
    ) == [
        (
            *(1, RUN_ID, instant(AT), "success", "success", True, True, False, False, "v1.4.0", SHA256),
            *("https://slsa.dev/provenance/v1", BUILDER, COMMIT, RUN_URL, "success", NIL),
        )
    ]
    assert audit_events(database) == [(1, "v1.4.0", "success", 1500)]


def test_an_audit_that_fails_is_in_the_failures_with_what_was_wrong(database, tmp_path):
    observe(database, tmp_path, 1, sha256=OTHER_SHA256)
    observe(database, tmp_path, 2, document=envelope(statement_v1()) | {"payload": "?"})
    observe(database, tmp_path, 3, predicate_types=("https://slsa.dev/provenance/v2",))
    observe(database, tmp_path, 4)
    assert rows(
        database,
        "select audit_run_id, provenance_status, validation_status, sha256_verified, predicate_type_verified,"
        " jsonb_path_query_array(metadata, '$.checks[*] ? (@.status == \"fail\").name')"
        " from public.v_ops_slsa_audit_failures order by audit_run_id",
    ) == [
        (1, "success", "failure", False, True, ["artifact digest"]),
        (2, "failure", "skipped", False, False, ["envelope"]),
        (3, "success", "failure", True, False, ["predicate type"]),
    ]
    assert [row[2] for row in audit_events(database)] == ["failure", "failure", "failure", "success"]


def test_a_repeated_audit_changes_neither_its_time_nor_the_events(database, tmp_path):
    first = observe(database, tmp_path, 1)
    add_event(database, "slsa_provenance", run_id=RUN_ID, outcome="success")
    again = observe(database, tmp_path, 1, at="2026-03-11T12:00Z")
    assert (again.audit_id, again.audit_timestamp) == (first.audit_id, first.audit_timestamp)
    assert (first.events_stored, again.events_stored) == (1, 0)
    assert (first.provenance_synced, again.provenance_synced) == (False, True)
    assert len(audit_events(database)) == 1


def test_a_re_audit_with_another_outcome_updates_the_row_and_tells_of_both(database, tmp_path):
    observe(database, tmp_path, 1, tag="v9")
    refresh(database)
    observe(database, tmp_path, 1, at="2026-03-11T12:00Z", tag="v1.4.0")
    refresh(database)
    assert rows(database, ROW) == [("success", "success", True, True, "v1.4.0")]
    assert [row[2] for row in audit_events(database)] == ["failure", "success"]
    assert kpis(database, "audit_success_rate") == [("2026-03-11 00:00", {}, 100)]
    observe(database, tmp_path, 1, at="2026-03-12T12:00Z", tag="v9")
    assert [row[2] for row in audit_events(database)] == ["failure", "success", "failure"]
    refresh(database)
    assert_exact(database)


def test_the_runs_are_synced_when_they_are_in_the_events_of_the_org(database, tmp_path):
    add_event(database, "slsa_provenance", run_id=RUN_ID, outcome="success")
    add_event(database, "provenance_validate", run_id=77, tag="v1.4.0", outcome="success")
    add_event(database, "workflow_run", run_id=88, outcome="success", workflow="ci")
    found = observe(database, tmp_path, 1)
    assert (found.provenance_synced, found.validation_synced, found.validation_run_id) == (True, True, 77)
    named = observe(database, tmp_path, 2, validation_run_id=88)
    assert (named.provenance_synced, named.validation_synced, named.validation_run_id) == (True, False, 88)
    of_another = observe(database, tmp_path, 3, org_id=ORG)
    assert (of_another.provenance_synced, of_another.validation_synced) == (False, False)
    assert rows(
        database,
        "select supabase_provenance_synced, supabase_validation_synced, validation_run_id from slsa_audit_metrics order by 1, 2",
    ) == [(False, False, None), (True, False, 88), (True, True, 77)]


def test_the_kpis_of_audits_are_what_a_hand_computes(database, tmp_path):
    add_event(database, "slsa_provenance", run_id=RUN_ID, outcome="success")
    add_event(database, "provenance_validate", run_id=77, tag="v1.4.0", outcome="success")
    add_event(database, "provenance_validate", run_id=78, tag="v1.4.1", outcome="success")
    observe(database, tmp_path, 1)
    observe(database, tmp_path, 2)
    observe(database, tmp_path, 3, sha256=OTHER_SHA256)
    observe(database, tmp_path, 4, validation_run_id=999, predicate_types=("https://slsa.dev/provenance/v2",))
    observe(database, tmp_path, 5, document={})
    refresh(database)
    found = {
        metric: [(start, float(value)) for start, _, value in kpis(database, metric)]
        for metric in (
            *("provenance_validation_rate", "audit_success_rate", "sha256_verification_rate"),
            *("predicate_type_verification_rate", "supabase_sync_rate"),
        )
    }
    # Of five audits one has no sound provenance, one another artifact, one another type and an unknown validation run.
    assert found == {
        "provenance_validation_rate": [("2026-03-10 00:00", 50)],  # 2 of 4
        "audit_success_rate": [("2026-03-10 00:00", 40)],  # 2 of 5
        "sha256_verification_rate": [("2026-03-10 00:00", 60)],  # 3 of 5
        "predicate_type_verification_rate": [("2026-03-10 00:00", 60)],  # 3 of 5
        "supabase_sync_rate": [("2026-03-10 00:00", 60)],  # 3 of 5: the one without provenance names no run
    }
    assert_exact(database)


def test_a_failed_audit_counts_against_the_objective_of_the_observer(database, tmp_path):
    for number in range(1, 5):
        observe(database, tmp_path, number, sha256=OTHER_SHA256 if number == 1 else SHA256)
    refresh(database, as_of="2026-03-10T13:00Z")
    assert evaluate(database, "audit_observer_error_rate", "good", "total", as_of="2026-03-10T13:00Z") == (3, 4)


def test_failed_audits_raise_the_alert_of_a_rule_on_their_rate(database, tmp_path):
    add_rule(
        database,
        "audits_fail",
        "kpi_threshold",
        metric_name="audit_success_rate",
        comparison="lt",
        threshold=90,
        lasting="1 hour",
    )
    observe(database, tmp_path, 1)
    run_jobs(database, "2026-03-10T13:00:30Z")
    assert [alert for alert in alerts(database) if alert[0] == "audits_fail"] == []
    observe(database, tmp_path, 2, at="2026-03-10T13:10Z", sha256=OTHER_SHA256)
    run_jobs(database, "2026-03-10T14:00:30Z")
    assert ("audits_fail", "audit_success_rate", "firing") in alerts(database)


def test_an_audit_whose_event_is_refused_leaves_no_row(database):
    with refused():
        recording.record(database, {"audit_run_id": 1}, {"outcome": "perhaps", "workflow": "x"})
    with refused():
        recording.record(database, {"audit_run_id": 1, "tag": "v" * 1001}, {"outcome": "success"})
    with refused():
        recording.record(database, {}, {"outcome": "success"})
    assert rows(database, "select from slsa_audit_metrics") == []
    assert audit_events(database) == []


def test_an_audit_run_of_another_org_is_not_taken_over(database, tmp_path):
    observe(database, tmp_path, 1)
    with refused():
        observe(database, tmp_path, 1, org_id=ORG)
    assert len(audit_events(database)) == 1


def test_two_observers_of_one_audit_store_one_event(connect: Connect, tmp_path):
    first, second = connect(), connect()
    second.execute("set lock_timeout = '10ms'")
    with first.transaction():
        observe(first, tmp_path, 1)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            observe(second, tmp_path, 1, at="2026-03-10T12:00:01Z")
    assert observe(second, tmp_path, 1, at="2026-03-10T12:00:01Z").events_stored == 0
    assert len(audit_events(second)) == 1


def test_the_service_role_observes_and_a_user_does_not(database: psycopg.Connection, acting_as: ActingAs, tmp_path):
    with acting_as(database, "service_role"):
        assert observe(database, tmp_path, 1, org_id=ORG).events_stored == 1
    with acting_as(database, "authenticated", org=ORG), pytest.raises(psycopg.errors.InsufficientPrivilege):
        observe(database, tmp_path, 1, org_id=ORG)


def test_strange_texts_of_a_provenance_are_stored_without_harm(database, tmp_path):
    builder = "https://b/\u0000x\u202e\ud83d\ude00" + "y" * 2000
    document = json.loads(json.dumps(statement_v1()).replace(json.dumps(BUILDER), json.dumps(builder)))
    observe(database, tmp_path, 1, document=envelope(document))
    stored = scalar(database, "select builder_id from slsa_audit_metrics")
    assert stored.startswith("https://b/\ufffdx\ufffd")
    assert len(stored) == 1000


def waiting(connection: psycopg.Connection, limit: int = 20, org_id: UUID | None = None) -> list[int]:
    return [run.run_id for run in latest.waiting(connection, limit, org_id)]


def test_the_runs_without_an_audit_wait_newest_first(database):
    for hour, run in ((10, 1), (12, 2), (11, 3)):
        add_event(database, "slsa_provenance", f"2026-03-10T{hour}:00Z", run_id=run, outcome="success")
    add_event(database, "slsa_provenance", "2026-03-10T13:00Z", outcome="success")
    add_event(database, "workflow_run", "2026-03-10T14:00Z", run_id=4, outcome="success", workflow="ci")
    add_event(database, "slsa_provenance", "2026-03-10T15:00Z", run_id=2, org_id=ORG, outcome="success")
    assert waiting(database) == [2, 2, 3, 1]
    assert waiting(database, 1, NIL) == [2]
    database.execute(
        "insert into slsa_audit_metrics (audit_run_id, provenance_run_id, provenance_status, validation_status)"
        " values (1, 2, 'success', 'failure'), (2, 3, 'success', 'unknown')"
    )
    # What was looked for in vain is tried again, after what is new.
    assert waiting(database) == [2, 1, 3]


def test_a_run_that_was_attempted_again_since_its_audit_waits_again(database):
    add_event(database, "slsa_provenance", "2026-03-10T10:00Z", run_id=1, outcome="failure")
    insert = (
        "insert into slsa_audit_metrics (audit_run_id, provenance_run_id, provenance_status, validation_status, updated_at)"
        " values (1, 1, 'failure', 'skipped', '2026-03-10T10:30Z')"
    )
    database.execute(insert)
    assert waiting(database) == []
    add_event(database, "slsa_provenance", "2026-03-10T11:00Z", run_id=1, outcome="success")
    assert [(run.run_id, run.outcome) for run in latest.waiting(database, 5, None)] == [(1, "success")]


def test_a_run_that_a_file_merely_names_still_waits(database, tmp_path):
    add_event(database, "slsa_provenance", run_id=RUN_ID, outcome="success")
    observe(database, tmp_path, 1, at="2026-03-11T12:00Z")
    assert rows(database, "select provenance_run_id, metadata -> 'run_asked' from slsa_audit_metrics") == [
        (RUN_ID, False)
    ]
    assert waiting(database) == [RUN_ID]
    observe(database, tmp_path, 2, at="2026-03-11T12:00Z", provenance_run_id=RUN_ID)
    assert waiting(database) == []


def test_an_attempt_that_was_collected_late_waits_though_an_earlier_one_was_audited_since(database, tmp_path):
    newest = Latest(database, tmp_path)
    add_event(database, "slsa_provenance", "2026-03-10T10:00Z", run_id=1, outcome="failure")
    newest.audit()
    assert scalar(database, "select metadata ->> 'attempt_at' from slsa_audit_metrics") == "2026-03-10T10:00:00.000000Z"
    assert waiting(database) == []
    add_event(database, "slsa_provenance", "2026-03-10T10:00:00.000001Z", run_id=1, outcome="cancelled")
    assert [outcome for _, _, outcome in newest.audit()] == ["the provenance run ended in cancelled"]
    assert waiting(database) == []


@pytest.mark.parametrize(
    "said",
    [
        *({"attempt_at": at} for at in ("never", "", "2026-02-30", 7, None, [], {}, "infinity")),
        *({"run_asked": asked} for asked in (None, "true")),
        *([], "attempt_at", 7, None),
    ],
    ids=repr,
)
def test_whatever_the_metadata_of_an_audit_holds_its_last_change_counts(database, said):
    add_event(database, "slsa_provenance", run_id=1, outcome="success")
    database.execute(
        "insert into slsa_audit_metrics (audit_run_id, provenance_run_id, provenance_status, validation_status, metadata)"
        " values (1, 1, 'success', 'success', %s)",
        [Jsonb(said)],
    )
    assert waiting(database) == []
    add_event(database, "slsa_provenance", "2199-12-31T00:00Z", run_id=1, outcome="success")
    assert waiting(database) == [1]


def test_a_user_sees_the_waiting_runs_of_the_own_org(database: psycopg.Connection, acting_as: ActingAs):
    add_event(database, "slsa_provenance", run_id=1, outcome="success")
    add_event(database, "slsa_provenance", run_id=2, org_id=ORG, outcome="success")
    with acting_as(database, "authenticated", org=ORG):
        assert waiting(database) == [2]


class Latest:
    """A folder of provenance, and audits of the runs that wait."""

    def __init__(self, connection: psycopg.Connection, folder: Path) -> None:
        self.connection = connection
        self.folder = folder

    def write(self, name: str, content: bytes | None = None) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(json.dumps(envelope(statement_v1())).encode() if content is None else content)

    def audit(self) -> list[tuple[int, str, str]]:
        found = []
        for run in latest.waiting(self.connection, 20, None):
            observation = latest.observe(run, self.folder, Expectation(), SIGNATURES)
            latest.keep(self.connection, observation, Expectation(), 0.5)
            found.append((run.run_id, str(observation.verdict), observation.reason))
        return found


@pytest.fixture
def newest(database: psycopg.Connection, tmp_path: Path) -> Latest:
    return Latest(database, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        f"{RUN_ID}.intoto.jsonl",
        f"{RUN_ID}.sigstore.json",
        "v1.4.0.intoto.jsonl",
        f"{RUN_ID}/app.intoto.jsonl",
        "v1.4.0/attestation.json",
    ],
)
def test_the_files_of_a_run_are_found_by_its_number_or_tag(newest, database, name):
    add_event(database, run_id=RUN_ID, tag="v1.4.0", outcome="success", sha256=SHA256)
    newest.write(name)
    assert newest.audit() == [(RUN_ID, "pass", "")]
    assert rows(database, ROW) == [("success", "success", True, True, "v1.4.0")]
    assert [row[1:3] for row in audit_events(database)] == [("v1.4.0", "success")]
    assert newest.audit() == []


def test_the_other_files_of_a_folder_are_the_artifacts(newest, database):
    add_event(database, run_id=RUN_ID, tag="v1.4.0", outcome="success")
    newest.write(f"{RUN_ID}/app.intoto.jsonl")
    newest.write(f"{RUN_ID}/app.tar.gz", b"a release, tampered with\n")
    assert newest.audit() == [(RUN_ID, "fail", "")]
    assert rows(database, ROW) == [("success", "failure", False, True, "v1.4.0")]


def test_the_event_may_name_the_file(newest, database):
    add_event(database, run_id=RUN_ID, outcome="success", sha256=SHA256, provenance_path="of/march/app.json")
    newest.write("of/march/app.json")
    assert newest.audit() == [(RUN_ID, "pass", "")]


def test_the_tag_and_the_number_of_the_run_are_expected_of_its_provenance(newest, database):
    add_event(database, run_id=RUN_ID, tag="v1.4.1", outcome="success", sha256=SHA256)
    add_event(database, run_id=5, tag="v1.4.0", outcome="success", sha256=SHA256)
    newest.write(f"{RUN_ID}.slsa")
    newest.write("5.slsa")
    assert {verdict for _, verdict, _ in newest.audit()} == {"fail"}
    failures = "select provenance_run_id, metadata #>> '{checks,0,name}' from v_ops_slsa_audit_failures order by 1"
    assert rows(database, failures) == [(5, "provenance run"), (RUN_ID, "tag")]


def test_provenance_that_names_no_run_is_not_known_to_be_of_the_run(newest, database):
    document = statement_v1()
    del document["predicate"]["buildDefinition"]["internalParameters"]["GITHUB_RUN_ID"]
    del document["predicate"]["runDetails"]["metadata"]
    add_event(database, run_id=RUN_ID, tag="v1.4.0", outcome="success", sha256=SHA256)
    newest.write(f"{RUN_ID}.slsa", json.dumps(envelope(document)).encode())
    assert newest.audit() == [(RUN_ID, "unknown", "the provenance names no run")]
    assert rows(database, ROW) == [("success", "unknown", True, True, "v1.4.0")]
    assert [row[2] for row in audit_events(database)] == ["skipped"]
    assert waiting(database) == [RUN_ID]


def test_a_run_whose_file_is_missing_is_recorded_as_not_verified_until_it_is_there(newest, database):
    add_event(database, run_id=RUN_ID, tag="v1.4.0", outcome="success", sha256=SHA256)
    ((_, verdict, reason),) = newest.audit()
    assert verdict == "unknown"
    assert reason.startswith(f"no provenance of {RUN_ID} or v1.4.0 in ")
    assert rows(database, ROW) == [("success", "unknown", False, False, "v1.4.0")]
    newest.audit()
    newest.write("v1.4.0.intoto.jsonl")
    assert newest.audit() == [(RUN_ID, "pass", "")]
    assert rows(database, ROW) == [("success", "success", True, True, "v1.4.0")]
    assert [row[2] for row in audit_events(database)] == ["skipped", "success"]


def test_provenance_without_an_artifact_to_compare_with_is_not_verified(newest, database):
    add_event(database, run_id=RUN_ID, tag="v1.4.0", outcome="success")
    newest.write(f"{RUN_ID}.slsa")
    assert newest.audit() == [
        (RUN_ID, "unknown", "no artifact, and no digest in the event's metadata, to compare with the subjects")
    ]
    assert rows(database, ROW) == [("success", "unknown", False, True, "v1.4.0")]


@pytest.mark.parametrize(
    ("outcome", "statuses"),
    [("failure", ("failure", "skipped")), ("cancelled", ("skipped", "skipped")), ("skipped", ("skipped", "skipped"))],
)
def test_a_run_that_made_no_provenance_is_recorded_as_what_it_was(newest, database, outcome, statuses):
    add_event(database, run_id=RUN_ID, outcome=outcome)
    assert newest.audit() == [(RUN_ID, "unknown", f"the provenance run ended in {outcome}")]
    assert [row[:2] for row in rows(database, ROW)] == [statuses]
    assert newest.audit() == []


@pytest.mark.parametrize(
    "said",
    [
        {"provenance_path": "../outside.slsa"},
        {"provenance_path": "/etc/passwd"},
        {"provenance_path": "link.slsa"},
        {"provenance_path": "within/../../outside.slsa"},
        {"provenance_path": "loop"},
        {"provenance_path": "no-such-file"},
        {"provenance_path": "\u0001" + "b" * 300},
        {"provenance_path": 7},
        {"provenance_path": ["x"]},
        {"sha256": "x"},
        {"sha256": 7},
    ],
    ids=lambda said: repr(said)[:60],
)
def test_an_event_leads_to_no_file_outside_the_folder(database, tmp_path, said):
    within = tmp_path / "within"
    within.mkdir()
    newest = Latest(database, within)
    newest.write("../outside.slsa")
    (within / "link.slsa").symlink_to("../outside.slsa")
    (within / "loop").symlink_to("loop")
    add_event(
        database, run_id=RUN_ID, outcome="success", metadata=Jsonb({"outcome": "success", "sha256": SHA256} | said)
    )
    ((_, verdict, reason),) = newest.audit()
    assert verdict == "unknown"
    assert reason


@pytest.mark.parametrize("tag", ["..", ".", "../outside", "/etc", "a/b", "%2e%2e", "\u00e9" * 200, " ", "", "v1\nv2"])
def test_a_tag_is_one_name_in_the_folder(database, tmp_path, tag):
    within = tmp_path / "within"
    within.mkdir()
    newest = Latest(database, within)
    newest.write("../outside.slsa")
    newest.write("../.slsa")
    newest.write("a/b.slsa")
    add_event(database, run_id=RUN_ID, tag=tag, outcome="success", sha256=SHA256)
    ((_, verdict, _),) = newest.audit()
    assert verdict == "unknown"
